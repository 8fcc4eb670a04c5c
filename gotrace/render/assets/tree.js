// Stacks merged into trees: from the root, from the leaf, or around one function. Numbers in typed arrays, a node is its index.
class Tree {
  /** `fn` is the function of the root, -1 for "all". `upward`: children are callers, not callees. */
  constructor(fn, upward, room = 1024) {
    this.upward = upward;
    this.size = 0;
    this.room(room);
    this.tabulate(Math.max(12, 33 - Math.clz32(room)));
    this.end = new Int32Array(profile.size).fill(-1);
    this.others = new Map();
    this.add(-1, fn, -1);
  }

  room(capacity) {
    for (const key of ['fn', 'frame', 'parent', 'depth']) {
      const grown = new Int32Array(capacity);
      if (this[key]) grown.set(this[key]);
      this[key] = grown;
    }
  }

  add(parent, fn, frame) {
    if (this.size === this.fn.length) this.room(this.size * 2);
    const node = this.size++;
    this.fn[node] = fn;
    this.frame[node] = frame;
    this.parent[node] = parent;
    this.depth[node] = parent < 0 ? 0 : this.depth[parent] + 1;
    return node;
  }

  /** Creates the table of (parent, function) again, with 2 ** bits places. */
  tabulate(bits) {
    this.shift = 32 - bits;
    this.table = new Int32Array(2 ** bits);
    for (let node = 1; node < this.size; node++) this.table[this.slot(this.parent[node], this.fn[node])] = node;
  }

  /** The place of a child in the table, free if there is no such child. */
  slot(parent, fn) {
    const { table, parent: parents, fn: fns } = this, mask = table.length - 1;
    let at = Math.imul(Math.imul(parent, 0x85EBCA6B) + fn | 0, 0x9E3779B1) >>> this.shift;
    for (let node = table[at]; node; node = table[at = (at + 1) & mask]) {
      if (parents[node] === parent && fns[node] === fn) break;
    }
    return at;
  }

  /** The child of `parent` for the frame's function, created if there is none. */
  child(parent, frame) {
    const fn = profile.frames.function[frame];
    const at = this.slot(parent, fn);
    if (this.table[at]) {
      const node = this.table[at];
      if (this.frame[node] !== frame) {
        const others = this.others.get(node);
        if (!others) this.others.set(node, new Set([frame]));
        else others.add(frame);
      }
      return node;
    }
    const node = this.add(parent, fn, frame);
    this.table[at] = node;
    if (this.size * 2 > this.table.length) this.tabulate(34 - this.shift);
    return node;
  }

  /** Sums up the figures, once all stacks are in. `weightOf` gives the width of a stack. */
  finish(shown, weightOf) {
    const { stacks, diff } = profile, size = this.size;
    this.shown = shown;
    const sum = valueOf => {
      const sums = new Float64Array(size), { end, parent } = this;
      for (const stack of shown) if (end[stack] >= 0) sums[end[stack]] += valueOf(stack);
      for (let node = size - 1; node > 0; node--) sums[parent[node]] += sums[node];
      return sums;
    };
    for (const key of diff ? ['total', 'count', 'before', 'before_count'] : ['total', 'count']) {
      const column = stacks[key];
      this[key] = sum(stack => column[stack]);
    }
    this.weight = diff ? sum(weightOf) : this.total;
    const from = this.from = new Int32Array(size + 1), list = this.list = new Int32Array(size - 1);
    for (let node = 1; node < size; node++) from[this.parent[node] + 1]++;
    for (let node = 0; node < size; node++) from[node + 1] += from[node];
    const next = from.slice(0, size);
    for (let node = 1; node < size; node++) list[next[this.parent[node]]++] = node;
    this.sorted = new Uint8Array(size);
    return this;
  }

  /** Children, the widest first or by name. */
  children(node, byName) {
    const found = this.list.subarray(this.from[node], this.from[node + 1]), wanted = byName ? 2 : 1;
    if (this.sorted[node] !== wanted && found.length > 1) {
      const { weight, fn } = this;
      found.sort(byName
        ? (a, b) => { const x = profile.nameOf(fn[a]), y = profile.nameOf(fn[b]); return x < y ? -1 : x > y ? 1 : fn[a] - fn[b]; }
        : (a, b) => weight[b] - weight[a] || fn[a] - fn[b]);
    }
    this.sorted[node] = wanted;
    return found;
  }

  path(node) {
    const path = [];
    for (; node > 0; node = this.parent[node]) path.unshift(this.fn[node]);
    return path;
  }

  /** The node at the end of a path of functions, or the deepest one that exists. */
  find(path) {
    let node = 0;
    for (const fn of path) {
      const next = this.table[this.slot(node, fn)];
      if (!next) break;
      node = next;
    }
    return node;
  }

  /** Marks nodes whose function is hit (1) and those below a hit or hit themselves (2); and the width of these. */
  match(isHit) {
    const marks = new Uint8Array(this.size);
    let weight = 0;
    for (let node = 0; node < this.size; node++) {
      const above = node && marks[this.parent[node]] & 2, hit = this.fn[node] >= 0 && isHit[this.fn[node]];
      if (hit && !above) weight += this.weight[node];  // a hit within a hit is the same time
      marks[node] = (hit ? 1 : 0) | (hit || above ? 2 : 0);
    }
    return { marks, weight };
  }

  /** Stacks that run through a node, the largest first. */
  stacksBelow(node) {
    if (!node) return this.shown.filter(stack => this.end[stack] >= 0);
    const below = new Uint8Array(this.size);
    below[node] = 1;
    for (let each = node + 1; each < this.size; each++) below[each] = below[this.parent[each]];
    return this.shown.filter(stack => this.end[stack] >= 0 && below[this.end[stack]]);
  }

  /** The frames of a node: the same function at different lines. */
  framesOf(node) {
    return this.frame[node] < 0 ? [] : [this.frame[node], ...(this.others.get(node) || [])];
  }
}

const trees = (() => {
  /** Indices of the stacks that pass the filters, and the time of those hidden only because they are the runtime's own. */
  function shownStacks(filter) {
    const { stacks, texts, size } = profile, shown = [];
    let hidden = 0;
    for (let stack = 0; stack < size; stack++) {
      if (filter.state && texts[stacks.state[stack]] !== filter.state) continue;
      if (filter.reason && texts[stacks.why[stack]] !== filter.reason) continue;
      if (filter.label && !stacks.labels?.[stack].some(label => texts[label] === filter.label)) continue;
      if (filter.start && profile.nameOf(stacks.start[stack]) !== filter.start) continue;
      // Of one part of the time only what has some of it; rows that stand for no stack have some in requests alone.
      if (!stacks.total[stack] && !(profile.diff && stacks.before[stack]) && (profile.part !== 'all' || stack >= profile.real)) continue;
      if (stacks.background[stack] && !filter.background) hidden += stacks.total[stack];
      else shown.push(stack);
    }
    return { shown, hidden };
  }

  /** Width of a stack: its time; in a comparison the larger of both times, so that vanished stacks are visible. */
  function weightBy(width) {
    const { total, before } = profile.stacks;
    if (!profile.diff || width === 'after') return stack => total[stack];
    if (width === 'before') return stack => before[stack];
    return stack => Math.max(total[stack], before[stack]);
  }

  function fromRoot(shown, options) {
    const { nodes, functions } = profile, tree = new Tree(-1, false, nodes.parent.length + 1024);
    // The node of this tree for each of the shared tree, with the goroutine's root and without: prefixes are walked once.
    // And of those with the callers of the span function, and without.
    const made = [0, 1, 2, 3].map(() => new Int32Array(nodes.parent.length).fill(-1)), open = [];
    for (const stack of shown) {
      const { base, roots, tail } = profile.split(stack, options), cut = profile.isCut(base);
      const known = made[Number(roots) + 2 * Number(cut)];
      let at = base;
      for (; at >= 0 && known[at] < 0; at = nodes.parent[at]) open.push(at);
      let node = at < 0 ? 0 : known[at];
      while (open.length) {
        at = open.pop();
        const left = (!roots && functions.mark[profile.functionOf(at)] === 2 && profile.isRoot(at)) || (cut && !profile.cut[at]);
        node = known[at] = left ? node : tree.child(node, nodes.frame[at]);
      }
      for (const frame of tail) node = tree.child(node, frame);
      tree.end[stack] = node;
    }
    return tree.finish(shown, weightBy(options.width));
  }

  /** The reason first, then the waiting goroutine's frames, from the leaf down; its waker comes last. */
  function fromLeaf(shown, options) {
    const { nodes, functions } = profile, tree = new Tree(-1, true, nodes.parent.length + 1024);
    for (const stack of shown) {
      const { base, roots, tail, woken } = profile.split(stack, options), own = tail.length - woken, cut = profile.isCut(base);
      let node = 0;
      for (let at = own - 1; at >= 0; at--) node = tree.child(node, tail[at]);
      for (let at = base; at >= 0; at = nodes.parent[at]) {
        const left = (!roots && functions.mark[profile.functionOf(at)] === 2 && profile.isRoot(at)) || (cut && !profile.cut[at]);
        if (!left) node = tree.child(node, nodes.frame[at]);
      }
      for (let at = own; at < tail.length; at++) node = tree.child(node, tail[at]);
      tree.end[stack] = node;
    }
    return tree.finish(shown, weightBy(options.width));
  }

  /** Callers and callees of a function, from its outermost call in each stack: two trees of the same width. */
  function around(fn, shown, options) {
    const { frames } = profile, callers = new Tree(fn, true), callees = new Tree(fn, false), through = [];
    for (const stack of shown) {
      const path = profile.pathOf(stack, options), at = path.findIndex(frame => frames.function[frame] === fn);
      if (at < 0) continue;
      through.push(stack);
      for (const tree of [callers, callees]) if (tree.frame[0] < 0) tree.frame[0] = path[at];
      let node = 0;
      for (let up = at - 1; up >= 0; up--) node = callers.child(node, path[up]);
      callers.end[stack] = node;
      node = 0;
      for (let down = at + 1; down < path.length; down++) node = callees.child(node, path[down]);
      callees.end[stack] = node;
    }
    return [callers, callees].map(tree => tree.finish(through, weightBy(options.width)));
  }

  /** Figures of all stacks through a node, merged from their histograms; computed when a card needs them. */
  function figures(tree, node) {
    const { stacks } = profile, below = tree.stacksBelow(node), counts = profile.histogram(below);
    const sums = { max: 0, goroutines: 0, progress: 0, stopped: 0, runs: 0, run_max: 0 };
    for (const stack of below) {
      for (const key of ['goroutines', 'progress', 'stopped', 'runs']) sums[key] += stacks[key][stack];
      for (const key of ['max', 'run_max']) sums[key] = Math.max(sums[key], stacks[key][stack]);
    }
    // The largest thousand tell what was waited for, and the wakers.
    const objects = new Map(), wakers = new Map();
    for (const stack of below.slice(0, 1000)) {
      const { object, waker } = profile.behind(stack), time = stacks.total[stack];
      if (object) objects.set(object, (objects.get(object) || 0) + time);
      if (waker) wakers.set(waker, (wakers.get(waker) || 0) + time);
    }
    const ranked = map => [...map].sort((a, b) => b[1] - a[1]);
    const places = tree.framesOf(node);
    return {
      ...sums, counts, stacks: below.length, objects: ranked(objects), wakers: ranked(wakers),
      p50: profile.percentile(counts, 0.5, sums.max), p99: profile.percentile(counts, 0.99, sums.max),
      lines: [...new Set(places.map(profile.place).filter(Boolean))],
      inlined: places.some(frame => profile.frames.inlined[frame]),
    };
  }

  return { shownStacks, weightBy, fromRoot, fromLeaf, around, figures };
})();
