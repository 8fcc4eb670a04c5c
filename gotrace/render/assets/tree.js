'use strict';
// The page's data: stacks, the tree that they merge into, and the figures of any part of it. Touches no element but #data.
const profile = (() => {
  const { meta, kinds, texts, functions, frames, nodes, stacks } = JSON.parse(document.getElementById('data').textContent);
  const RUNTIME = 1, GOEXIT = 2;

  // What a frame of these kinds stands for lies beyond the Go stack: it is never folded away.
  const BEYOND = new Set(['kernel', 'syscall', 'waker', 'reason', 'lost']);

  // ---- words and numbers

  function duration(ns) {
    if (ns >= 7200e9) return digits(ns / 3600e9) + ' h';
    if (ns >= 600e9) return digits(ns / 60e9) + ' min';
    if (ns < 1000) return Math.round(ns) + ' ns';
    for (const [scale, unit] of [[1e3, 'µs'], [1e6, 'ms'], [1e9, 's']]) {
      if (ns < 999.5 * scale) return digits(ns / scale) + ' ' + unit;
    }
    return Math.round(ns / 1e9) + ' s';
  }
  const digits = value => value.toFixed(value < 9.995 ? 2 : value < 99.95 ? 1 : 0);
  const number = value => value.toLocaleString('en-GB');
  function share(part, whole) {
    const percent = whole ? 100 * part / whole : 0;
    return percent > 0 && percent < 0.05 ? '<0.1 %' : percent.toFixed(1) + ' %';
  }

  // ---- stacks and the tree

  const nameOf = fn => texts[functions.name[fn]];
  const kindOf = fn => kinds[functions.kind[fn]];

  /** Frames of a stack, root first, its reason last; without the waiting machinery and goexit unless they are wanted. */
  function pathOf(stack, machinery) {
    const path = [];
    for (let node = stacks.node[stack]; node >= 0; node = nodes.parent[node]) path.push(nodes.frame[node]);
    let kept = path;
    if (!machinery) {
      // Leaf first here. The same rule as folded_frames in render/frames.py.
      const mark = frame => functions.mark[frames.function[frame]];
      const kind = frame => kindOf(frames.function[frame]);
      let last = path.length;
      if (last && kind(path[last - 1]) === 'process') last--;
      const processes = path.slice(last);
      while (last && mark(path[last - 1]) === GOEXIT) last--;
      let index = 0;
      const beyond = [];
      // Of a waker's stack the runtime's frames are folded where it has others.
      const own = path.some(frame => kind(frame) === 'waker' && mark(frame) < RUNTIME);
      const hidden = frame => mark(frame) === GOEXIT || (own && mark(frame) === RUNTIME);
      while (index < last && (BEYOND.has(kind(path[index])) || mark(path[index]) >= RUNTIME)) {
        if (BEYOND.has(kind(path[index])) && !(kind(path[index]) === 'waker' && hidden(path[index]))) beyond.push(path[index]);
        index++;
      }
      if (index < last) kept = beyond.concat(path.slice(index, last), processes);
    }
    kept.reverse();
    // What stopped the goroutine, then who made it runnable: that stack stands on its head.
    let wakers = kept.length;
    while (wakers && kindOf(frames.function[kept[wakers - 1]]) === 'waker') wakers--;
    kept.splice(wakers, 0, stacks.reason[stack]);
    return kept;
  }

  /** Indices of the stacks that pass the filters, and the time of those hidden only as the runtime's own. */
  function shownStacks(filter) {
    const shown = [];
    let hidden = 0;
    for (let stack = 0; stack < stacks.node.length; stack++) {
      if (filter.state && texts[stacks.state[stack]] !== filter.state) continue;
      if (filter.reason && texts[stacks.why[stack]] !== filter.reason) continue;
      if (stacks.background[stack] && !filter.background) hidden += stacks.total[stack];
      else shown.push(stack);
    }
    return { shown, hidden };
  }

  function newNode(fn, parent) {
    return { fn, parent, depth: parent ? parent.depth + 1 : 0, total: 0, count: 0, children: new Map(), ends: [], sorted: null };
  }

  function build(shown, machinery) {
    const top = newNode(-1, null);
    top.machinery = machinery;
    for (const stack of shown) {
      const total = stacks.total[stack], count = stacks.count[stack];
      let node = top;
      node.total += total;
      node.count += count;
      for (const frame of pathOf(stack, machinery)) {
        const fn = frames.function[frame];
        let child = node.children.get(fn);
        if (!child) node.children.set(fn, child = newNode(fn, node));
        node = child;
        node.total += total;
        node.count += count;
      }
      node.ends.push(stack);
    }
    return top;
  }

  function childrenOf(node) {
    if (!node.sorted) node.sorted = [...node.children.values()].sort((a, b) => b.total - a.total || a.fn - b.fn);
    return node.sorted;
  }
  const labelOf = node => node.fn < 0 ? 'all' : nameOf(node.fn) || '(no name)';
  const kindOfNode = node => node.fn < 0 ? 'process' : kindOf(node.fn);

  function stacksBelow(node) {
    const found = [], open = [node];
    while (open.length) {
      const next = open.pop();
      for (const stack of next.ends) found.push(stack);
      for (const child of next.children.values()) open.push(child);
    }
    return found;
  }

  // Bucket edges of gotrace/histogram.py: eight to a power of two.
  function bucketMiddle(index) {
    if (index < 8) return index;
    const width = 2 ** (Math.floor(index / 8) - 1), low = (8 + index % 8) * width;
    return Math.floor((low + low + width) / 2);
  }

  function percentileOf(stack, fraction) {
    const list = stacks.buckets[stack];
    let counted = 0, seen = 0;
    for (let i = 1; i < list.length; i += 2) counted += list[i];
    const rank = Math.max(1, Math.ceil(fraction * counted));
    for (let i = 0; i < list.length && rank < counted; i += 2) {
      seen += list[i + 1];
      if (seen >= rank) return Math.min(bucketMiddle(list[i]), stacks.max[stack]);
    }
    return stacks.max[stack];
  }
  stacks.p50 = stacks.max.map((_, stack) => percentileOf(stack, 0.5));
  stacks.p99 = stacks.max.map((_, stack) => percentileOf(stack, 0.99));

  /** Figures of all stacks at and above a node, merged from their histograms; made when a card asks for them. */
  function figures(node) {
    if (node.figures) return node.figures;
    let top = node;
    while (top.parent) top = top.parent;
    const below = stacksBelow(node), buckets = new Map(), places = new Map();
    let counted = 0, max = 0, goroutines = 0, progress = 0;
    for (const stack of below) {
      const list = stacks.buckets[stack];
      for (let i = 0; i < list.length; i += 2) {
        buckets.set(list[i], (buckets.get(list[i]) || 0) + list[i + 1]);
        counted += list[i + 1];
      }
      max = Math.max(max, stacks.max[stack]);
      goroutines += stacks.goroutines[stack];
      progress += stacks.progress[stack];
      if (node.depth && kindOfNode(node) !== 'reason') {
        const frame = pathOf(stack, top.machinery)[node.depth - 1];
        if (texts[frames.file[frame]]) places.set(frame, (places.get(frame) || 0) + stacks.total[stack]);
      }
    }
    const order = [...buckets.keys()].sort((a, b) => a - b);
    // As percentile in gotrace/histogram.py, which knows the largest value exactly.
    const percentile = fraction => {
      const rank = Math.max(1, Math.ceil(fraction * counted));
      if (rank >= counted) return max;
      let seen = 0;
      for (const bucket of order) {
        seen += buckets.get(bucket);
        if (seen >= rank) return Math.min(bucketMiddle(bucket), max);
      }
      return max;
    };
    const lines = [...places].sort((a, b) => b[1] - a[1]).map(([frame]) => frame);
    return node.figures = {
      stacks: below.length, max, goroutines, progress, p50: percentile(0.5), p99: percentile(0.99),
      lines: [...new Set(lines.map(frame => `${texts[frames.file[frame]]}:${frames.line[frame]}`))],
      inlined: lines.some(frame => frames.inlined[frame]),
    };
  }

  return {
    meta, kinds, texts, functions, frames, stacks, pathOf, shownStacks, build, childrenOf, figures,
    nameOf, kindOf, labelOf, kindOfNode, duration, number, share,
  };
})();
