// The page: the pad on one side, what is made of it on the other.

import { Editor, element, picture } from "./editor.js";
import { Pad } from "./pad.js";

const by = (id) => document.getElementById(id);
const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
const says = by("says");
const editor = new Editor(by("found"), by("list"));
const pad = new Pad(by("pad"), () => changed());
const examples = [];
const SMALL = 300; // pixels of the longer side of what is compared: the model looks at 50
let seed = 0;
let asked = null; // the parse that is being waited for

function say(text, wrong = false) {
  says.textContent = text;
  says.classList.toggle("wrong", wrong);
}

async function post(task, values, signal) {
  const answer = await fetch(`api/${task}`, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(values),
    signal,
  }).catch((error) => {
    if (error.name === "AbortError") throw error;
    throw new Error("dood-pyro does not answer: is it still running?");
  });
  if (answer.ok) return answer;
  throw new Error((await answer.json().catch(() => ({}))).error ?? `it failed (${answer.status})`);
}

const ask = async (task, values, signal) => (await post(task, values, signal)).json();

// Do what takes a while, with the button at rest, which keeps the focus; say what went wrong.
async function during(button, action) {
  if (button.ariaDisabled === "true") return;
  button.ariaDisabled = "true";
  say("…");
  try {
    await action();
    if (says.textContent === "…") say("");
  } catch (error) {
    say(error.message, true);
  } finally {
    button.ariaDisabled = "false";
  }
}

function drawn() {
  if (pad.empty) throw new Error("draw something first");
  return pad.url();
}

// Strokes, as soon as the pen is lifted.
async function changed() {
  asked?.abort();
  if (pad.empty) {
    editor.show(null);
    return say("");
  }
  const mine = (asked = new AbortController());
  const began = performance.now();
  try {
    const given = { picture: pad.url(), method: by("method").value, run: by("run").value };
    const { drawing } = await ask("parse", given, mine.signal);
    editor.show(drawing);
    const count = drawing.strokes.length;
    const time = Math.round(performance.now() - began);
    say(`${count} stroke${count === 1 ? "" : "s"}, ${Math.round(100 * drawing.explained)} % of the ink, ${time} ms`);
    if (!still) editor.replay(0.6);
  } catch (error) {
    if (error.name === "AbortError") return;
    editor.show(null);
    say(error.message, true);
  }
}

// The pad's buttons, and pictures from elsewhere.

async function open(blob) {
  try {
    await pad.open(blob);
  } catch {
    say("this file is no picture that the browser can read", true);
  }
}

by("undo").onclick = () => pad.undo();
by("clear").onclick = () => pad.clear();
by("open").onclick = () => by("file").click();
by("file").onchange = () => {
  if (by("file").files[0]) open(by("file").files[0]);
  by("file").value = ""; // or the same file could not be opened again
};
by("pen").oninput = () => (pad.penWidth = Number(by("pen").value));
by("method").onchange = () => changed();
by("run").onchange = () => {
  // By the ink a run has no part in the strokes, and what was edited stays.
  if (by("method").value === "guide") changed();
};
document.addEventListener("paste", (event) => {
  const file = [...event.clipboardData.files].find((each) => each.type.startsWith("image/"));
  if (file) open(file);
});
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  by("pad").classList.add("over");
});
document.addEventListener("dragleave", () => by("pad").classList.remove("over"));
document.addEventListener("drop", (event) => {
  event.preventDefault();
  by("pad").classList.remove("over");
  if (event.dataTransfer.files[0]) open(event.dataTransfer.files[0]);
});

// Strokes: replay, colours, files.

by("replay").onclick = () => editor.drawing && editor.replay(2.5);
by("coloured").onchange = () => {
  editor.coloured = by("coloured").checked;
  editor.render();
};
by("save").onclick = () =>
  during(by("save"), async () => {
    if (!editor.drawing) throw new Error("draw something first");
    const format = by("format").value;
    const file = await post("file", { drawing: editor.json(), format });
    const link = document.createElement("a");
    link.href = URL.createObjectURL(await file.blob());
    link.download = `drawing.${format}`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  });

// Tabs, by pointer and by keys.

const tabs = [...document.querySelectorAll("[role=tab]")];
function choose(tab) {
  for (const each of tabs) {
    const chosen = each === tab;
    each.ariaSelected = chosen;
    each.tabIndex = chosen ? 0 : -1;
    by(each.getAttribute("aria-controls")).hidden = !chosen;
  }
}
tabs.forEach((tab, index) => {
  tab.onclick = () => choose(tab);
  tab.onkeydown = (event) => {
    const move = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!move) return;
    const next = tabs[(index + move + tabs.length) % tabs.length];
    choose(next);
    next.focus();
  };
});

// Tasks that answer with drawings: one is taken over into the strokes by a click.

function sheet(task, values, colour) {
  const button = by(`do-${task}`);
  button.onclick = () =>
    during(button, async () => {
      const { drawings } = await ask(task, { run: by("run").value, seed: seed++, ...values() });
      const cells = drawings.map((drawing, index) => {
        const use = document.createElement("button");
        use.className = "use";
        use.title = use.ariaLabel = `Take drawing ${index + 1} over into the strokes`;
        use.append(picture(drawing, colour));
        use.onclick = () => {
          asked?.abort(); // an answer that is still to come is of another drawing
          editor.show(drawing);
          choose(by("tab-strokes"));
          by("tab-strokes").focus();
          if (!still) editor.replay(1.5);
        };
        return use;
      });
      by(task).querySelector(".sheet").replaceChildren(...cells);
    });
}
sheet("complete", () => ({ picture: drawn(), count: 6 }), "#d1495b");
sheet("exemplars", () => ({ picture: drawn(), count: 6 }));
sheet("samples", () => ({ count: 12, temperature: Number(by("temperature").value) }));

// Which of these.

function showExamples(order, behind) {
  const ranked = order ?? examples.map((_, index) => index);
  const items = ranked.map((index, place) => {
    const image = new Image();
    image.src = examples[index];
    image.alt = `example ${index + 1}`;
    const item = document.createElement("li");
    const text = order ? (place ? `${behind[place]} nats behind` : "the likeliest") : `example ${index + 1}`;
    item.append(image, text);
    item.classList.toggle("best", Boolean(order) && place === 0);
    return item;
  });
  by("ranking").replaceChildren(...items);
}
by("add").onclick = () =>
  during(by("add"), async () => {
    if (examples.length === 20) throw new Error("twenty examples are the most");
    drawn();
    examples.push(pad.url(SMALL));
    showExamples();
    pad.clear();
  });
by("forget").onclick = () => {
  examples.length = 0;
  showExamples();
};
by("do-rank").onclick = () =>
  during(by("do-rank"), async () => {
    drawn();
    const compared = [...examples];
    const { order, behind } = await ask("rank", {
      run: by("run").value,
      examples: compared,
      picture: pad.url(SMALL),
    });
    if (compared.length === examples.length && compared.every((each, index) => each === examples[index]))
      showExamples(order, behind);
  });

// Step by step.

function square(image, ...marks) {
  const made = element("svg", { viewBox: "-1 -1 2 2" });
  made.append(element("image", { href: image, x: -1, y: -1, width: 2, height: 2 }), ...marks);
  return made;
}
by("do-steps").onclick = () =>
  during(by("do-steps"), async () => {
    const { steps } = await ask("steps", { run: by("run").value, picture: drawn() });
    const figures = steps.map((step, index) => {
      const figure = document.createElement("figure");
      const mark = { stroke: "#1b6ca8", "stroke-width": 0.05 };
      const frame = step.frame && element("polygon", { points: step.frame.flat().join(" "), ...mark });
      figure.append(`step ${index + 1}`, square(step.residual, ...(frame ? [frame] : [])));
      if (step.glimpse) {
        const stroke = element("path", { d: `M${step.stroke.map((point) => point.join(" ")).join("L")}`, ...mark });
        figure.append(square(step.glimpse, stroke), square(step.canvas));
      }
      const meter = document.createElement("meter");
      meter.value = step.on;
      meter.ariaLabel = "Probability of a stroke";
      figure.append(meter, `${Math.round(100 * step.on)} % a stroke`);
      return figure;
    });
    by("steps").querySelector(".table").replaceChildren(...figures);
  });

// The menu of runs.

ask("runs", {})
  .then(({ runs }) => {
    const options = runs.map(({ name, model }) => new Option(name === model ? name : `${name} (${model})`, name));
    by("run").replaceChildren(...options);
  })
  .catch((error) => say(error.message, true));
