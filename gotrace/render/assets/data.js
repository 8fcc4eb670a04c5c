// The page's data: unpacks it, and gives what its columns say of a stack, and figures of many stacks. Touches only element #data.
const profile = (() => {
  const self = {};
  const RUNTIME = 1, GOEXIT = 2;
  // Frames of these kinds stand for something beyond the Go stack: they are never folded away.
  const BEYOND = ['kernel', 'syscall', 'waker', 'reason', 'lost'];
  let meta, kinds, texts, functions, frames, nodes, stacks, kindNumber, beyond;
  let plain;  // by frame: the same boundary without its file or socket, or the frame itself

  async function inflate(text) {
    const letters = atob(text), bytes = new Uint8Array(letters.length);
    for (let at = 0; at < bytes.length; at++) bytes[at] = letters.charCodeAt(at);
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream('deflate'));
    return JSON.parse(await new Response(stream).text());
  }

  /** Undoes `_packed` of gotrace/render/html.py. */
  function unpack(data) {
    const parent = Int32Array.from(data.nodes.parent), frame = new Int32Array(parent.length);
    for (let node = 0; node < parent.length; node++) parent[node] = node - parent[node];
    // A frame is its index among the frames seen so far under its parent's; the next index is a new one.
    const behind = Array.from({ length: data.frames.function.length + 1 }, () => null), { fresh, place: places } = data.nodes;
    let used = 0;
    for (let node = 0; node < parent.length; node++) {
      const key = parent[node] < 0 ? behind.length - 1 : frame[parent[node]], place = places[node];
      const known = behind[key] || (behind[key] = []);
      if (place === known.length) known.push(fresh[used++]);
      frame[node] = known[place];
    }
    data.nodes = { parent, frame };
    const { stacks: s } = data;
    let last = 0;
    s.node = Int32Array.from(s.node, step => last += step);
    // Buckets: how many each stack has, then each one's distance from the previous one, and its count.
    const flat = s.buckets, size = s.node.length, pairs = (flat.length - size) / 2;
    const from = new Int32Array(size + 1), index = new Uint16Array(pairs), count = new Float64Array(pairs);
    for (let stack = 0, at = 0, to = 0; stack < size; stack++) {
      for (let left = flat[at++], bucket = 0; left > 0; left--, at += 2, to++) {
        index[to] = bucket += flat[at];
        count[to] = flat[at + 1];
      }
      from[stack + 1] = to;
    }
    s.buckets = { from, index, count };
    return data;
  }

  async function load() {
    const data = unpack(await inflate(document.getElementById('data').textContent));
    ({ meta, kinds, texts, functions, frames, nodes, stacks } = data);
    kindNumber = Object.fromEntries(kinds.map((kind, index) => [kind, index]));
    beyond = kinds.map(kind => BEYOND.includes(kind));
    for (const key of ['total', 'count', 'max', 'stopped']) stacks[key] = Float64Array.from(stacks[key]);
    mergeObjects();
    for (const [table, key] of [[functions, 'kind'], [functions, 'mark'], [frames, 'function']]) table[key] = Int32Array.from(table[key]);
    nodes.fn = nodes.frame.map(frame => frames.function[frame]);
    const diff = Boolean(meta.diff && stacks.before);
    if (diff) for (const key of ['before', 'before_count']) stacks[key] = Float64Array.from(stacks[key]);
    // The first function of a stack's goroutine, by node of the shared tree.
    const began = new Int32Array(nodes.parent.length);
    for (let node = 0; node < began.length; node++) {
      const up = nodes.parent[node], fn = nodes.fn[node];
      began[node] = up >= 0 && began[up] >= 0 ? began[up]
        : isTop(fn) || functions.mark[fn] === GOEXIT ? -1 : fn;
    }
    const start = Int32Array.from(stacks.node, node => node < 0 ? -1 : began[node]);
    Object.assign(self, data, { stacks: Object.assign(stacks, { start }), diff, size: stacks.node.length });
    percentiles.clear();
  }

  /** Gives each boundary `read(fd 7 → …)` a plain `read`, which replaces it when files and sockets are merged. */
  function mergeObjects() {
    const made = new Map(), count = frames.function.length;
    plain = Int32Array.from({ length: count }, (_, frame) => frame);
    self.objects = new Set();
    for (let frame = 0; frame < count; frame++) {
      const fn = frames.function[frame], name = kindOf(fn) === 'syscall' ? texts[functions.name[fn]] : '', at = name.indexOf('(');
      if (at <= 0) continue;
      const short = name.slice(0, at);
      self.objects.add(fn);
      if (!made.has(short)) {
        // A boundary of that name may exist: it is then the same function.
        let own = functions.name.findIndex((text, each) => functions.kind[each] === functions.kind[fn] && texts[text] === short);
        if (own < 0) {
          own = functions.name.push(texts.push(short) - 1) - 1;
          functions.kind.push(functions.kind[fn]);
          functions.mark.push(functions.mark[fn]);
        }
        frames.file.push(frames.file[frame]);
        frames.line.push(0);
        frames.inlined.push(0);
        made.set(short, frames.function.push(own) - 1);
      }
      plain[frame] = made.get(short);
    }
  }

  const nameOf = fn => fn < 0 ? 'all' : texts[functions.name[fn]] || '(no name)';
  /** As the binary has it: with `%2e` for a dot in the import path's last element. */
  const rawNameOf = fn => functions.raw?.[fn] ?? nameOf(fn);
  const kindOf = fn => fn < 0 ? 'process' : kinds[functions.kind[fn]];
  /** A process or a label: above the goroutine's own frames. */
  const isTop = fn => /^(process|label)$/.test(kindOf(fn));
  const functionOf = node => nodes.fn[node];

  /** A stack in two: `base`, the node up to which the shared tree is shown (with its goroutine's root if `roots`), and `tail`,
   *  the frames beyond it: boundary (with its file or socket if `objects`), kernel, the reason, what was waited for if `objects`, then who woke it, whose stack
   *  stands on its head; `woken` is how many frames that is. */
  function split(stack, { machinery, objects }) {
    const isWaker = node => functions.kind[nodes.fn[node]] === kindNumber.waker;
    let base = stacks.node[stack], roots = true, wakers = [];
    for (; base >= 0 && isWaker(base); base = nodes.parent[base]) wakers.push(nodes.frame[base]);
    const tail = [];
    if (machinery) {
      const kernel = node => /^(syscall|kernel)$/.test(kindOf(functionOf(node)));
      for (; base >= 0 && kernel(base); base = nodes.parent[base]) tail.unshift(nodes.frame[base]);
    } else {
      // The same rule as folded_frames in render/frames.py: nothing is folded if no user code would be left.
      const kept = [];
      let node = base;
      for (; node >= 0; node = nodes.parent[node]) {
        const fn = functionOf(node);
        if (beyond[functions.kind[fn]]) kept.push(nodes.frame[node]);
        else if (functions.mark[fn] < RUNTIME) break;
      }
      if (node >= 0 && !isTop(functionOf(node))) {
        base = node;
        roots = false;
        tail.push(...kept.reverse());
      }
      wakers = wakers.filter(frame => functions.mark[frames.function[frame]] !== GOEXIT);
      const own = wakers.filter(frame => functions.mark[frames.function[frame]] < RUNTIME);
      if (own.length) wakers = own;
    }
    if (!objects) for (let at = 0; at < tail.length; at++) tail[at] = plain[tail[at]];
    tail.push(stacks.reason[stack]);
    if (objects && stacks.waited?.[stack] >= 0) tail.push(stacks.waited[stack]);
    tail.push(...wakers.reverse());
    return { base, roots, tail, woken: wakers.length };
  }

  /** A node of the shared tree that folding leaves out: the root of a goroutine. */
  function isRoot(node) {
    for (; node >= 0 && functions.mark[functionOf(node)] === GOEXIT; node = nodes.parent[node]);
    return node < 0 || isTop(functionOf(node));
  }

  /** The stacks of requests are shown from the span function on; those whose callers are missing as they are. */
  const isCut = base => Boolean(self.cut && base >= 0 && self.cut[base] === 1);

  /** Frames of a stack, root first, its reason after its own frames. */
  function pathOf(stack, options) {
    const { base, roots, tail } = split(stack, options), path = [], cut = isCut(base);
    for (let node = base; node >= 0; node = nodes.parent[node]) {
      if (cut && !self.cut[node]) continue;
      if (roots || functions.mark[functionOf(node)] !== GOEXIT || !isRoot(node)) path.push(nodes.frame[node]);
    }
    return path.reverse().concat(tail);
  }

  // ---- durations: bucket edges of gotrace/common/histogram.py, eight to a power of two

  function bucketLow(index) {
    return index < 8 ? index : (8 + index % 8) * 2 ** (Math.floor(index / 8) - 1);
  }
  function bucketMiddle(index) {
    return index < 8 ? index : Math.floor((bucketLow(index) + bucketLow(index + 1)) / 2);
  }

  /** The sum of some stacks' counts, by bucket. */
  function histogram(some) {
    const counts = new Float64Array(512), { from, index, count } = stacks.buckets;
    for (const stack of some) {
      for (let at = from[stack]; at < from[stack + 1]; at++) counts[index[at]] += count[at];
    }
    return counts;
  }

  /** As percentile in gotrace/common/histogram.py, which knows the largest value exactly. */
  function percentile(counts, fraction, max) {
    let counted = 0, seen = 0;
    for (const count of counts) counted += count;
    const rank = Math.max(1, Math.ceil(fraction * counted));
    if (!counted || rank >= counted) return counted ? max : 0;
    for (let bucket = 0; bucket < counts.length; bucket++) {
      seen += counts[bucket];
      if (seen >= rank) return Math.min(bucketMiddle(bucket), max);
    }
    return max;
  }

  const percentiles = new Map();
  /** A percentile of every stack, computed when the table needs it. */
  function percentilesOf(fraction) {
    if (!percentiles.has(fraction)) {
      const { from, index, count } = stacks.buckets;
      percentiles.set(fraction, Float64Array.from(stacks.max, (max, stack) => {
        let counted = 0, seen = 0;
        for (let at = from[stack]; at < from[stack + 1]; at++) counted += count[at];
        const rank = Math.max(1, Math.ceil(fraction * counted));
        for (let at = from[stack]; at < from[stack + 1] && rank < counted; at++) {
          seen += count[at];
          if (seen >= rank) return Math.min(bucketMiddle(index[at]), max);
        }
        return counted ? max : 0;
      }));
    }
    return percentiles.get(fraction);
  }

  /** What the stack waited on (a file, a socket, a lock), "" if that is not known; and the function that woke it. */
  function behind(stack) {
    let object = '', waker = '';
    for (const frame of split(stack, { objects: true }).tail) {
      const fn = frames.function[frame], kind = kindOf(fn), name = nameOf(fn);
      if (kind === 'syscall' && name.includes('(')) object = name.slice(name.indexOf('(') + 1).replace(/\)$/, '');
      if (kind === 'object' && !object) object = name;
      if (kind === 'waker' && !waker) waker = name;
    }
    return { object, waker };
  }

  /** The rule of render/summary.py: import paths of the standard library have no dot in their first element. */
  const isProgram = fn => /^(go|cgo)$/.test(kindOf(fn)) && /^main\.|^[^/]*\.[^/]*\//.test(nameOf(fn));

  /** Where a stack waits, in words: its leaf, and the program's own function that called it, if that is another. */
  function whereOf(stack) {
    const { base, tail } = split(stack, {});
    if (base < 0) return nameOf(frames.function[tail[0]]);
    let own = base;
    while (own >= 0 && !isProgram(nodes.fn[own])) own = nodes.parent[own];
    const leaf = nameOf(nodes.fn[base]);
    return own < 0 || own === base ? leaf : `${leaf} in ${nameOf(nodes.fn[own])}`;
  }

  const place = frame => texts[frames.file[frame]]
    ? texts[frames.file[frame]] + (frames.line[frame] ? ':' + frames.line[frame] : '') : '';

  return Object.assign(self, {
    load, nameOf, rawNameOf, kindOf, isTop, functionOf, split, isRoot, isCut, pathOf, bucketLow, histogram, percentile, percentilesOf, behind, isProgram, whereOf,
    place,
  });
})();
