// Strokes of a drawing, to look at and to change: hover, hide, reorder, drag control points, replay.

export const COLOURS = ["#1b6ca8", "#d1495b", "#3b8b5a", "#e09f3e", "#7b4fa0", "#4f4f4f"];
const SVG = "http://www.w3.org/2000/svg";

export function element(name, attributes = {}, ...children) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

export function pathOf(control) {
  const parts = [`M${control[0][0].join(" ")}`];
  for (const curve of control) parts.push(`C${curve.slice(1).flat().join(" ")}`);
  return parts.join("");
}

// A still picture of a drawing; its first `given` strokes are black and the others of a colour.
export function picture(drawing, colour) {
  const paths = drawing.strokes.map((stroke, index) =>
    element("path", {
      d: pathOf(stroke.control),
      fill: "none",
      stroke: index < drawing.given ? "#111" : (colour ?? COLOURS[index % COLOURS.length]),
      "stroke-width": Math.max(stroke.width, drawing.width / 150),
      "stroke-opacity": Math.max(stroke.darkness, 0.35),
      "stroke-linecap": "round",
      "stroke-linejoin": "round",
    }),
  );
  return element("svg", { viewBox: `0 0 ${drawing.width} ${drawing.height}` }, ...paths);
}

export class Editor {
  constructor(svg, list) {
    this.svg = svg;
    this.list = list;
    this.coloured = true;
    this.show(null);
  }

  // Show a drawing, as `Drawing.json` has it.
  show(drawing) {
    cancelAnimationFrame(this.playing);
    this.drawing = drawing;
    this.strokes = (drawing?.strokes ?? []).map((stroke, index) => ({
      ...stroke,
      colourOfOrder: COLOURS[index % COLOURS.length],
      hidden: false,
    }));
    this.selected = null;
    this.edited = false;
    if (drawing) this.svg.setAttribute("viewBox", `0 0 ${drawing.width} ${drawing.height}`);
    this.render();
  }

  // The drawing as it is now, without what is hidden.
  json() {
    const strokes = this.strokes
      .filter((stroke) => !stroke.hidden)
      .map(({ control, width, darkness, confidence, colour }) => ({ control, width, darkness, confidence, colour }));
    const given = this.strokes.filter((stroke, index) => index < this.drawing.given && !stroke.hidden).length;
    const found = { ...this.drawing, given, strokes };
    // Of what was found, not of what was made of it.
    if (this.edited || strokes.length < this.strokes.length) Object.assign(found, { explained: 1, log_density: null });
    return found;
  }

  render() {
    this.paths = this.strokes.map((stroke) => {
      const path = element("path");
      path.addEventListener("pointerenter", () => this.light(stroke, true));
      path.addEventListener("pointerleave", () => this.light(stroke, false));
      path.addEventListener("click", () => this.select(stroke));
      return path;
    });
    this.handles = element("g");
    this.svg.replaceChildren(...this.paths, this.handles);
    this.list.replaceChildren(...this.strokes.map((stroke, index) => this.item(stroke, index)));
    this.redraw();
  }

  redraw() {
    this.strokes.forEach((stroke, index) => {
      const path = this.paths[index];
      path.setAttribute("d", pathOf(stroke.control));
      path.setAttribute("stroke", this.coloured ? stroke.colourOfOrder : stroke.colour);
      path.setAttribute("stroke-width", stroke.width);
      // Black ink is as dark as it was; a colour is as light as it is (`PenStroke.opacity`).
      const black = this.coloured || stroke.colour === "#000000";
      path.setAttribute("stroke-opacity", black ? stroke.darkness : 1);
      path.setAttribute("visibility", stroke.hidden ? "hidden" : "visible");
    });
    this.drawHandles();
  }

  item(stroke, index) {
    const button = (text, label, action, disabled = false) => {
      const made = document.createElement("button");
      made.textContent = text;
      made.ariaLabel = label;
      made.title = label;
      made.disabled = disabled;
      made.addEventListener("click", action);
      return made;
    };
    const swatch = document.createElement("span");
    swatch.className = "swatch";
    swatch.style.background = this.coloured ? stroke.colourOfOrder : stroke.colour;
    const name = button(`stroke ${index + 1}`, `Show the control points of stroke ${index + 1}`, () => this.select(stroke));
    name.className = "name";
    const last = this.strokes.length - 1;
    const item = document.createElement("li");
    item.append(
      swatch,
      name,
      button("↑", `Draw stroke ${index + 1} earlier`, () => this.swap(index, index - 1), index === 0),
      button("↓", `Draw stroke ${index + 1} later`, () => this.swap(index, index + 1), index === last),
      button(stroke.hidden ? "Show" : "Hide", `${stroke.hidden ? "Show" : "Hide"} stroke ${index + 1}`, () => {
        stroke.hidden = !stroke.hidden;
        this.render();
        this.list.children[index].lastChild.focus();
      }),
    );
    item.classList.toggle("hidden", stroke.hidden);
    item.addEventListener("pointerenter", () => this.light(stroke, true));
    item.addEventListener("pointerleave", () => this.light(stroke, false));
    item.addEventListener("focusin", () => this.light(stroke, true));
    item.addEventListener("focusout", () => this.light(stroke, false));
    return item;
  }

  light(stroke, on) {
    const index = this.strokes.indexOf(stroke);
    this.paths[index]?.classList.toggle("lit", on);
    this.list.children[index]?.classList.toggle("lit", on);
  }

  swap(one, other) {
    const strokes = this.strokes;
    [strokes[one], strokes[other]] = [strokes[other], strokes[one]];
    this.render();
    this.list.children[other].querySelector(".name").focus();
  }

  select(stroke) {
    this.selected = this.selected === stroke ? null : stroke;
    this.drawHandles();
  }

  // Control points of the selected stroke; where two curves meet, they share one.
  drawHandles() {
    this.handles.replaceChildren();
    const stroke = this.selected;
    if (!stroke || stroke.hidden) return;
    const size = Math.max(this.drawing.width, this.drawing.height) / 70;
    stroke.control.forEach((curve, row) => {
      for (const [end, handle] of [[0, 1], [3, 2]]) {
        const [[x1, y1], [x2, y2]] = [curve[end], curve[handle]];
        this.handles.append(element("line", { x1, y1, x2, y2, "stroke-width": size / 6 }));
      }
      for (const column of row ? [1, 2, 3] : [0, 1, 2, 3]) this.handles.append(this.handle(stroke, row, column, size));
    });
  }

  handle(stroke, row, column, size) {
    const [cx, cy] = stroke.control[row][column];
    const end = column === 0 || column === 3;
    const circle = element("circle", { cx, cy, r: end ? size : size * 0.7, "stroke-width": size / 4, tabindex: 0, role: "button" });
    circle.setAttribute("aria-label", "Control point; move it by the arrow keys");
    const put = (x, y) => {
      this.edited = true;
      stroke.control[row][column] = [x, y];
      if (column === 3 && stroke.control[row + 1]) stroke.control[row + 1][0] = [x, y];
    };
    circle.addEventListener("pointerdown", (event) => {
      event.preventDefault();
      const inverse = this.svg.getScreenCTM().inverse();
      const move = (moved) => {
        if (moved.pointerId !== event.pointerId) return;
        const { x, y } = new DOMPoint(moved.clientX, moved.clientY).matrixTransform(inverse);
        put(x, y);
        this.redraw();
      };
      const end = (ended) => {
        if (ended.pointerId !== event.pointerId) return;
        window.removeEventListener("pointermove", move);
        window.removeEventListener("pointerup", end);
        window.removeEventListener("pointercancel", end);
      };
      window.addEventListener("pointermove", move);
      window.addEventListener("pointerup", end);
      window.addEventListener("pointercancel", end);
    });
    circle.addEventListener("keydown", (event) => {
      const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
      if (!(event.key in moves)) return;
      event.preventDefault();
      const place = [...this.handles.children].indexOf(circle);
      const [x, y] = stroke.control[row][column];
      put(x + moves[event.key][0] * size * 0.5, y + moves[event.key][1] * size * 0.5);
      this.redraw();
      this.handles.children[place].focus();
    });
    return circle;
  }

  // Draw the strokes again, one after the other, at an even pace, in so many seconds.
  replay(seconds) {
    cancelAnimationFrame(this.playing);
    const lengths = this.paths.map((path, index) => (this.strokes[index].hidden ? 0 : path.getTotalLength()));
    const total = lengths.reduce((sum, length) => sum + length, 0);
    const began = performance.now();
    const frame = (now) => {
      let left = Math.min(1, (now - began) / (1000 * seconds)) * total;
      const done = left >= total;
      this.paths.forEach((path, index) => {
        const shown = Math.min(left, lengths[index]);
        left -= shown;
        if (done) path.removeAttribute("stroke-dasharray");
        else path.setAttribute("stroke-dasharray", `${shown} ${2 * lengths[index] + 1}`);
        if (!this.strokes[index].hidden)
          path.setAttribute("visibility", done || shown > 0 ? "visible" : "hidden");
      });
      if (!done) this.playing = requestAnimationFrame(frame);
    };
    this.playing = requestAnimationFrame(frame);
  }
}
