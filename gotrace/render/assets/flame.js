// The flame graph on its canvas: the position of each box, and drawing the visible ones.
const flame = (() => {
  const ROW = 20, MIN_WIDTH = 0.6;
  const FONT = '12px system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", Ubuntu, sans-serif';
  const $ = id => document.getElementById(id);
  const self = { ROW, FONT, trees: [], marks: [], rows: [], width: 0, height: 0, hot: new Set() };

  const kindOf = (tree, node) => profile.kindOf(tree.fn[node]);

  /** A box's text. The first box of a layer names it: no legend is needed to see where a stack leaves Go. */
  function labelOf(tree, node) {
    const name = profile.nameOf(tree.fn[node]), kind = kindOf(tree, node), parent = tree.parent[node];
    // With the root at the leaf's end a layer begins at its callees: nothing to say.
    const first = !tree.upward && parent >= 0 && kindOf(tree, parent) !== kind;
    const layer = !first ? '' : { syscall: '⇥ ', kernel: 'kernel: ', waker: 'woken by ' }[kind] || '';
    return mark(tree, node) + layer + name;
  }
  function mark(tree, node) {
    if (!profile.diff || node === 0 || profile.per) return '';
    return !tree.before[node] ? 'NEW ' : !tree.total[node] ? 'GONE ' : '';
  }

  // ---- layout

  function place(tree, top, rows, width, rowOf, placed) {
    const visit = (node, x, w) => {
      rows.push({ tree, node, x, w, y: rowOf(tree, node) });
      placed.deepest = Math.max(placed.deepest, tree.depth[node]);
      let at = x;
      const scale = tree.weight[node] ? w / tree.weight[node] : 0;
      for (const child of tree.children(node, view.byName)) {
        const wide = scale * tree.weight[child];
        if (wide >= MIN_WIDTH) visit(child, at, wide);
        else if (!view.byName) break;  // sorted by time: the others are even narrower
        at += wide;
      }
    };
    for (let up = tree.parent[top]; up >= 0; up = tree.parent[up]) rows.push({ tree, node: up, x: 0, w: width, y: rowOf(tree, up) });
    visit(top, 0, width);
  }

  /** Boxes of the whole graph for a width, with y from the graph's top in rows of `ROW`. */
  function layout(width) {
    const rows = [], zoom = view.zoom;
    const topOf = tree => zoom && zoom.tree === tree ? zoom.node : 0;
    if (self.trees.length === 2) {
      // A sandwich: callers above, callees below, the function between.
      const [callers, callees] = self.trees, depths = [{ deepest: 0 }, { deepest: 0 }], upper = [];
      place(callers, topOf(callers), upper, width, (tree, node) => -tree.depth[node], depths[0]);
      const middle = depths[0].deepest;
      for (const row of upper) if (row.node) rows.push({ ...row, y: row.y + middle });
      place(callees, topOf(callees), rows, width, (tree, node) => middle + tree.depth[node], depths[1]);
      return { rows, width, height: (middle + depths[1].deepest + 1) * ROW + 2, middle: middle * ROW };
    }
    const [tree] = self.trees, placed = { deepest: 0 };
    place(tree, topOf(tree), rows, width, (_, node) => tree.depth[node], placed);
    return { rows, width, height: (placed.deepest + 1) * ROW + 2, middle: 0 };
  }

  /** The top of a row's box in a graph of this height: the root is at the bottom, except in an icicle or a sandwich. */
  const topOf = (row, extent) => view.icicle || self.trees.length === 2 ? row.y * ROW : extent - (row.y + 1) * ROW;

  function resize() {
    if (view.show === 'table' || !self.trees.length) return;
    const scroller = $('scroller');
    // The spacer makes the scroll bar: the canvas itself is only as large as the visible part.
    // Both are removed first, or a scroll bar that is about to vanish takes width from the layout.
    $('spacer').style.height = $('canvas').style.height = '0';
    Object.assign(self, layout(scroller.clientWidth));
    const seen = scroller.clientHeight;
    $('canvas').style.height = seen + 'px';
    $('spacer').style.height = Math.max(0, self.height - seen) + 'px';
    if (scroller.clientWidth !== self.width) Object.assign(self, layout(scroller.clientWidth));
    scroller.scrollTop = self.trees.length === 2 ? self.middle - seen / 2 : view.icicle ? 0 : self.height;
    draw();
  }

  // ---- drawing

  const isFaded = row => {
    const { tree, node } = row;
    const above = view.zoom && view.zoom.tree === tree && tree.depth[node] < tree.depth[view.zoom.node];
    const marks = self.marks[self.trees.indexOf(tree)];
    return Boolean(above || (marks && !(marks[node] & 1)));
  };
  const isFocus = row => Boolean(view.focus && view.focus.tree === row.tree && view.focus.node === row.node);
  const isHot = row => self.hot.size > 0 && self.trees.length === 1 && self.hot.has(row.node);

  function draw() {
    const canvas = $('canvas'), scroller = $('scroller'), ratio = devicePixelRatio || 1;
    const width = scroller.clientWidth, height = scroller.clientHeight;
    canvas.style.height = height + 'px';
    if (canvas.width !== Math.round(width * ratio)) canvas.width = Math.round(width * ratio);
    if (canvas.height !== Math.round(height * ratio)) canvas.height = Math.round(height * ratio);
    const paint = canvas.getContext('2d'), dark = view.isDark();
    paint.setTransform(ratio, 0, 0, ratio, 0, 0);
    paint.clearRect(0, 0, width, height);
    paint.font = FONT;
    paint.textBaseline = 'middle';
    const letter = paint.measureText('e').width, extent = Math.max(self.height, height), top = scroller.scrollTop;
    for (const row of self.rows) {
      const { tree, node, x, w } = row, y = row.seen = topOf(row, extent) - top;
      if (y > height || y < -ROW) continue;
      const faded = isFaded(row), { fill, ink, edge } = colours.of(tree, node, faded), kind = kindOf(tree, node);
      const wide = Math.max(w - (w > 3 ? 1 : 0), 0.5);
      paint.fillStyle = fill;
      paint.fillRect(x, y, wide, ROW - 1);
      if (edge && !faded && w > 6) {
        paint.fillStyle = edge;
        paint.fillRect(x, y, Math.min(4, w / 3), ROW - 1);
      }
      if (kind === 'syscall' && !faded && !tree.upward) {
        // The boundary: a line on the caller's side.
        paint.fillStyle = dark ? '#ffffff' : '#1b1200';
        paint.fillRect(x, view.icicle || self.trees.length === 2 ? y : y + ROW - 3, wide, 2);
      }
      if (isHot(row) && w > 8) {
        paint.fillStyle = '#d11507';
        paint.beginPath();
        paint.moveTo(x + wide, y);
        paint.lineTo(x + wide - 9, y);
        paint.lineTo(x + wide, y + 9);
        paint.fill();
      }
      if (node === 0 && self.trees.length === 2) {
        paint.strokeStyle = dark ? '#ffffff' : '#0b1a2a';
        paint.lineWidth = 1.5;
        paint.strokeRect(x + 1, y + 1, Math.max(w - 3, 1), ROW - 3);
      }
      if (isFocus(row)) {
        paint.strokeStyle = dark ? '#ffffff' : '#0b1a2a';
        paint.lineWidth = 2;
        paint.strokeRect(x + 1, y + 1, Math.max(w - 3, 1), ROW - 3);
      }
      if ((w - 10) / letter < 3) continue;
      paint.fillStyle = ink;
      paint.fillText(fit(paint, tree, node, w - 12), x + (edge ? 8 : 5), y + ROW / 2);
    }
  }

  const fitted = new Map();
  /** As much of the label as there is room for. */
  function fit(paint, tree, node, width) {
    const label = labelOf(tree, node), key = Math.round(width) + ' ' + label, known = fitted.get(key);
    if (known !== undefined) return known;
    const wide = text => paint.measureText(text).width;
    let text = label, has = wide(text);
    if (has > width) {
      // Too long: first the import path's folders go, then the end.
      const slash = label.split(/[[(]/, 1)[0].lastIndexOf('/');
      if (slash > 0 && /^(go|runtime|cgo)$/.test(kindOf(tree, node))) {
        text = mark(tree, node) + label.slice(slash + 1);
        has = wide(text);
      }
    }
    if (has > width) {
      // Measuring is the main cost of drawing: begin with a guess.
      let cut = Math.max(1, Math.floor(text.length * width / has) - 1);
      while (cut > 1 && wide(text.slice(0, cut) + '…') > width) cut--;
      // A few letters of a name say nothing; that a stack is new does.
      const marked = mark(tree, node).trim();
      text = cut >= marked.length + 5 ? text.slice(0, cut) + '…' : marked && wide(marked) <= width ? marked : '';
    }
    if (fitted.size > 20000) fitted.clear();
    fitted.set(key, text);
    return text;
  }

  /** The row under a point of the window, or the row of a node. */
  function rowAt(clientX, clientY) {
    const box = $('canvas').getBoundingClientRect(), x = clientX - box.left, y = clientY - box.top;
    return self.rows.find(row => x >= row.x && x < row.x + row.w && y >= row.seen && y < row.seen + ROW);
  }
  const rowOf = (tree, node) => self.rows.find(row => row.tree === tree && row.node === node);

  return Object.assign(self, { layout, topOf, resize, draw, fit, labelOf, isFaded, rowAt, rowOf, kindOf });
})();
