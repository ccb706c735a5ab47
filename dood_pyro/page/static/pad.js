// The pad: strokes of mouse, finger, pen or keys, over a picture if one was opened.

const SIDE = 300; // of the empty pad, in its own units, which are the picture's pixels
const LONGEST = 1000; // pixels of the longer side of an opened picture

export class Pad {
  // changed() is called as soon as a stroke ends, or anything else is different.
  constructor(canvas, changed) {
    this.canvas = canvas;
    this.changed = changed;
    this.penWidth = 8;
    this.cursor = { x: SIDE / 2, y: SIDE / 2, down: false, shown: false };
    this.clear(false);
    canvas.addEventListener("pointerdown", (event) => this.down(event));
    canvas.addEventListener("pointermove", (event) => this.move(event));
    for (const kind of ["pointerup", "pointercancel"])
      canvas.addEventListener(kind, (event) => this.up(event));
    canvas.addEventListener("keydown", (event) => this.key(event));
    canvas.addEventListener("blur", () => this.liftKeys());
  }

  get empty() {
    return !this.strokes.length && !this.picture;
  }

  clear(tell = true) {
    this.strokes = [];
    this.picture = null;
    this.light = false;
    this.lift();
    this.frame(SIDE, SIDE);
    if (tell) this.changed();
  }

  undo() {
    if (this.strokes.length) this.strokes.pop();
    else if (this.picture) return this.clear();
    this.paint();
    this.changed();
  }

  // Whatever is being drawn ends here.
  lift() {
    this.current = this.pointer = null;
    this.cursor.down = false;
  }

  frame(width, height) {
    this.cursor.x = width / 2;
    this.cursor.y = height / 2;
    this.width = this.canvas.width = width;
    this.height = this.canvas.height = height;
    this.canvas.style.aspectRatio = `${width} / ${height}`;
    this.paint();
  }

  async open(blob) {
    const picture = await createImageBitmap(blob);
    const scale = Math.min(1, LONGEST / Math.max(picture.width, picture.height));
    this.strokes = [];
    this.picture = picture;
    this.lift();
    const side = (length) => Math.max(1, Math.round(scale * length));
    this.light = hasLightInk(picture);
    this.frame(side(picture.width), side(picture.height));
    this.changed();
  }

  // The drawing as PNG, with so many pixels at most on its longer side. What an opened picture has of
  // transparency stays: its ink may be white.
  url(longest = Infinity) {
    const scale = Math.min(1, longest / Math.max(this.width, this.height));
    const copy = document.createElement("canvas");
    copy.width = Math.max(1, Math.round(scale * this.width));
    copy.height = Math.max(1, Math.round(scale * this.height));
    const context = copy.getContext("2d");
    context.scale(copy.width / this.width, copy.height / this.height);
    this.paint(context);
    return copy.toDataURL("image/png");
  }

  paint(context = null) {
    const own = !context;
    context ??= this.canvas.getContext("2d");
    if (own || !this.picture) {
      context.fillStyle = this.light ? "#777" : "white"; // light ink is seen on grey
      context.fillRect(0, 0, this.width, this.height);
    }
    if (this.picture) context.drawImage(this.picture, 0, 0, this.width, this.height);
    context.strokeStyle = this.light ? "white" : "#111";
    context.lineCap = context.lineJoin = "round";
    for (const { points, width } of this.strokes) {
      context.lineWidth = width;
      context.beginPath();
      context.moveTo(...points[0]);
      if (points.length === 1) context.lineTo(points[0][0] + 0.01, points[0][1]);
      for (let i = 1; i < points.length - 1; i++) {
        const [x, y] = points[i];
        context.quadraticCurveTo(x, y, (x + points[i + 1][0]) / 2, (y + points[i + 1][1]) / 2);
      }
      if (points.length > 1) context.lineTo(...points.at(-1));
      context.stroke();
    }
    if (own && this.cursor.shown) {
      context.lineWidth = 1.5;
      context.strokeStyle = this.cursor.down ? "#d1495b" : "#1b6ca8";
      context.beginPath();
      context.arc(this.cursor.x, this.cursor.y, 6, 0, 7);
      context.stroke();
    }
  }

  place(event) {
    const box = this.canvas.getBoundingClientRect();
    return [
      ((event.clientX - box.left) / box.width) * this.width,
      ((event.clientY - box.top) / box.height) * this.height,
    ];
  }

  begin(point) {
    const scale = Math.max(this.width, this.height) / SIDE;
    this.current = { points: [point], width: this.penWidth * scale };
    this.strokes.push(this.current);
  }

  down(event) {
    if (this.current || (event.pointerType === "mouse" && event.button !== 0)) return;
    this.canvas.setPointerCapture(event.pointerId);
    this.pointer = event.pointerId;
    this.cursor.shown = false;
    this.begin(this.place(event));
    this.paint();
  }

  move(event) {
    if (!this.current || event.pointerId !== this.pointer) return;
    const events = event.getCoalescedEvents?.() ?? [];
    for (const each of events.length ? events : [event]) this.current.points.push(this.place(each));
    this.paint();
  }

  up(event) {
    if (!this.current || event.pointerId !== this.pointer) return;
    this.lift();
    this.changed();
  }

  key(event) {
    const step = (event.shiftKey ? 2 : 10) * (Math.max(this.width, this.height) / SIDE);
    const moves = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] };
    const cursor = this.cursor;
    if (this.current && !cursor.down) return; // the pointer draws
    if (event.key === " ") {
      if (event.repeat) return event.preventDefault(); // held: once is enough
      if (cursor.down) this.liftKeys();
      else {
        cursor.down = cursor.shown = true;
        this.begin([cursor.x, cursor.y]);
      }
    } else if (event.key in moves) {
      const [x, y] = moves[event.key];
      cursor.x = Math.min(this.width, Math.max(0, cursor.x + x));
      cursor.y = Math.min(this.height, Math.max(0, cursor.y + y));
      cursor.shown = true;
      if (cursor.down) this.current.points.push([cursor.x, cursor.y]);
    } else return;
    event.preventDefault();
    this.paint();
  }

  liftKeys() {
    if (!this.cursor.down) return;
    this.lift();
    this.paint();
    this.changed();
  }
}

// Whether a picture on transparent ground has light ink, which could not be seen on white.
function hasLightInk(picture) {
  const copy = document.createElement("canvas");
  copy.width = copy.height = 64;
  const context = copy.getContext("2d");
  context.drawImage(picture, 0, 0, 64, 64);
  const { data } = context.getImageData(0, 0, 64, 64);
  let clear = 0;
  let ink = 0;
  let light = 0;
  for (let i = 0; i < data.length; i += 4) {
    const opacity = data[i + 3] / 255;
    clear += opacity < 0.5;
    ink += opacity;
    light += (opacity * (data[i] + data[i + 1] + data[i + 2])) / 765;
  }
  return clear > 64 && ink > 0 && light / ink > 0.75;
}
