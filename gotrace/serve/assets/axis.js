// The time axis of one target: a column for each step, by state, and the stretch that is chosen.
class Axis {
  constructor(canvas, changed, chosen) {
    this.canvas = canvas;
    this.changed = changed;
    this.chosen = chosen;
    this.steps = [];
    this.length = 60;
    this.kept = null;
    this.stretch = null;
    this.drag = null;
    canvas.addEventListener("pointerdown", (event) => this.begin(event));
    canvas.addEventListener("pointermove", (event) => this.move(event));
    canvas.addEventListener("pointerup", (event) => this.end(event));
    canvas.addEventListener("pointercancel", () => { this.drag = null; });
    canvas.addEventListener("keydown", (event) => this.key(event));
    new ResizeObserver(() => this.draw()).observe(canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
  }

  // Until when it shows: the last step, so that what is chosen does not run away while the mouse is down.
  show(steps, kept) {
    this.steps = steps;
    this.kept = kept;
    if (this.drag === null) this.until = steps.length ? steps[steps.length - 1].end : null;
    this.draw();
  }

  get from() { return this.until - this.length; }
  at(x) { return this.from + (x / this.canvas.clientWidth) * this.length; }
  x(time) { return ((time - this.from) / this.length) * this.canvas.clientWidth; }

  choose(from, to, done) {
    if (this.until === null || this.until === undefined) return;
    const least = 1;
    let [begin, end] = from <= to ? [from, to] : [to, from];
    if (end - begin < least) [begin, end] = [begin - 2, begin + 3]; // a click: five seconds
    const first = this.kept ? Math.max(this.kept.from, this.from) : this.from;
    end = Math.min(Math.max(end, first + least), this.until);
    begin = Math.max(Math.min(begin, end - least), first);
    this.stretch = { from: begin, to: end };
    this.canvas.setAttribute("aria-valuetext", `${clock(begin)} to ${clock(end)}`);
    this.draw();
    this.changed();
    if (done) this.chosen();
  }

  forget() {
    this.stretch = null;
    this.canvas.setAttribute("aria-valuetext", "all that is kept");
    this.draw();
    this.changed();
  }

  begin(event) {
    if (event.button !== 0 || !this.steps.length) return;
    this.canvas.setPointerCapture(event.pointerId);
    this.drag = this.at(event.offsetX);
  }
  move(event) { if (this.drag !== null) this.choose(this.drag, this.at(event.offsetX) + 0.001, false); }
  end(event) {
    if (this.drag === null) return;
    const from = this.drag;
    this.drag = null;
    this.choose(from, this.at(event.offsetX), true);
  }
  key(event) {
    const way = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (event.key === "Escape") this.forget();
    else if (event.key === "Enter") this.chosen();
    else if (way && this.steps.length) {
      const by = way * Math.max(1, this.length / 60);
      const { from, to } = this.stretch || { from: this.until - 5 * Math.abs(by), to: this.until };
      if (event.shiftKey) this.choose(from, Math.max(to + by, from + 1), false);
      else this.choose(from + by, to + by, false);
    } else return;
    event.preventDefault();
  }

  draw() {
    const ratio = window.devicePixelRatio || 1, width = this.canvas.clientWidth, height = this.canvas.clientHeight;
    this.canvas.width = Math.round(width * ratio);
    this.canvas.height = Math.round(height * ratio);
    const pen = this.canvas.getContext("2d");
    pen.scale(ratio, ratio);
    if (!this.steps.length || !width) return;
    const shown = this.steps.filter((step) => step.end > this.from);
    const sum = (step) => STATES.reduce((total, state) => total + (step.states[state] || 0), 0) / step.length;
    const top = Math.max(1, ...shown.map(sum)), floor = height - 16;
    for (const step of shown) {
      let y = floor;
      const left = this.x(step.end - step.length), wide = Math.max(1, this.x(step.end) - left - (width > shown.length * 4 ? 1 : 0));
      for (const state of STATES) {
        const tall = ((step.states[state] || 0) / step.length / top) * (floor - 14);
        if (!tall) continue;
        pen.fillStyle = colour(state);
        pen.fillRect(left, y - tall, wide, tall);
        y -= tall;
      }
      if (step.losses) {
        pen.fillStyle = colour("alarm");
        pen.fillRect(left, floor + 1, wide, 2);
      }
    }
    pen.font = "11px system-ui, sans-serif";
    pen.fillStyle = colour("quiet");
    pen.fillText(`${duration(top)} of waits a second, those that are idle by design left out`, 6, 11);
    const every = this.length / 6;
    for (let time = Math.ceil(this.from / every) * every; time < this.until; time += every) {
      pen.fillText(clock(time), Math.min(this.x(time), width - 48), height - 3);
    }
    if (this.kept) { // of what lies before it there are no stacks any more
      pen.globalAlpha = 0.55;
      pen.fillStyle = colour("panel");
      pen.fillRect(0, 0, Math.max(0, this.x(this.kept.from)), floor);
      pen.globalAlpha = 1;
    }
    if (this.stretch) {
      const left = this.x(this.stretch.from), right = this.x(this.stretch.to);
      pen.fillStyle = colour("chosen");
      pen.fillRect(left, 0, right - left, height);
      pen.strokeStyle = colour("accent");
      pen.strokeRect(left + 0.5, 0.5, Math.max(1, right - left - 1), height - 1);
    }
  }
}
