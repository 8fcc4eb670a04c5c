// Which colour a frame has. Hues after Okabe and Ito, which colour-blind readers can tell apart; the layers of a stack differ in
// lightness as well.
const colours = (() => {
  // [hue, saturation, lightness in light, in dark]
  const KIND = {
    go: [204, 72, 79, 34], runtime: [212, 10, 84, 30], cgo: [52, 80, 68, 30], syscall: [40, 96, 52, 52],
    kernel: [18, 84, 60, 44], waker: [310, 44, 80, 40], reason: [164, 30, 92, 16], lost: [0, 0, 25, 82], process: [220, 8, 88, 26],
    object: [280, 46, 80, 38], label: [250, 60, 86, 40],
  };
  const STATE = {
    waiting: '#4a90c2', netpoll: '#2a9d7f', runnable: '#e6c52e', runqueue: '#9c6b1f', syscall: '#dd6a3a', preempted: '#8b8f98',
    running: '#58a866', unknown: '#b7bcc4',
  };
  const MEANING = {
    go: 'Go code', runtime: 'Go runtime', cgo: 'C code', syscall: 'into the kernel', kernel: 'kernel', waker: 'who woke it',
    reason: 'why it stopped', lost: 'not known', process: 'process', object: 'what was waited for', label: 'label',
  };
  const PACKAGES = [[204, 70], [40, 85], [164, 50], [16, 70], [318, 40], [54, 75], [250, 45], [186, 60], [90, 40], [340, 55]];
  let cache = [], shareOf = null, shareTree = null;

  function hash(text) {
    let value = 0;
    for (let i = 0; i < text.length; i++) value = (value * 31 + text.charCodeAt(i)) | 0;
    return Math.abs(value);
  }
  // Slashes after the first bracket belong to a type argument.
  function packageOf(name) {
    const slash = name.split(/[[(]/, 1)[0].lastIndexOf('/');
    return name.slice(0, name.indexOf('.', slash + 1));
  }
  // Relative luminance of WCAG 2.1, for r, g, b from 0 to 1: letters are dark or light, whichever has more contrast.
  function inkOn(rgb) {
    const [r, g, b] = rgb.map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b > 0.18 ? '#06101a' : '#ffffff';
  }
  /** A box of this hue, saturation and lightness. */
  function box(hue, saturation, lightness) {
    const s = saturation / 100, l = lightness / 100, reach = s * Math.min(l, 1 - l);
    const part = n => { const k = (n + hue / 30) % 12; return l - reach * Math.max(-1, Math.min(k - 3, 9 - k, 1)); };
    return { fill: `hsl(${hue} ${saturation}% ${lightness}%)`, ink: inkOn([part(0), part(8), part(4)]) };
  }
  const hexBox = fill => ({ fill, ink: inkOn([1, 3, 5].map(at => parseInt(fill.slice(at, at + 2), 16) / 255)) });
  const kindOf = (tree, node) => profile.kindOf(tree.fn[node]);

  /** For each node, the state with most of its time. */
  function statesOf(tree) {
    if (shareTree === tree) return shareOf;
    const { stacks } = profile, numbers = [...new Set(stacks.state)], sums = numbers.map(() => new Float64Array(tree.size));
    for (const stack of tree.shown) {
      if (tree.end[stack] >= 0) sums[numbers.indexOf(stacks.state[stack])][tree.end[stack]] += stacks.total[stack];
    }
    for (const sum of sums) for (let node = tree.size - 1; node > 0; node--) sum[tree.parent[node]] += sum[node];
    shareTree = tree;
    return shareOf = Int32Array.from({ length: tree.size }, (_, node) => {
      let best = 0;
      for (let at = 1; at < sums.length; at++) if (sums[at][node] > sums[best][node]) best = at;
      return numbers[best];
    });
  }

  /** Fill and ink of a box: `{ fill, ink, edge }`; `edge`, if there is one, is a stripe on its left. */
  function of(tree, node, faded) {
    const kind = kindOf(tree, node), dark = view.isDark(), palette = view.paletteName();
    if (faded) return { fill: dark ? '#222a33' : '#e9edf1', ink: dark ? '#93a0ad' : '#5c6873' };
    if (palette === 'growth' && profile.diff) return growth(tree.before[node], tree.total[node], dark);
    if (palette === 'state') {
      const state = profile.texts[statesOf(tree)[node]];
      return hexBox(STATE[state] || STATE.preempted);
    }
    const fn = tree.fn[node], name = profile.nameOf(fn);
    return cache[fn + 1] || (cache[fn + 1] = palette === 'package' && kind === 'go' ? byPackage(name, dark) : byKind(name, kind, dark));
  }

  function byPackage(name, dark) {
    const value = hash(packageOf(name)), [hue, saturation] = PACKAGES[value % PACKAGES.length];
    return box(hue, dark ? saturation * 0.7 : saturation, (dark ? 30 : 74) + (value >> 5) % 4 * 3);
  }

  /** A kind's hue; in Go code and the runtime the package selects a shade, so that a change of package is visible. */
  function byKind(name, kind, dark) {
    const [hue, saturation, light, night] = KIND[kind] || KIND.lost;
    const shade = kind === 'go' || kind === 'runtime' ? hash(packageOf(name)) % 7 - 3 : 0;
    const lightness = (dark ? night : light) + shade * (dark ? 1 : 1.2);
    const made = box(hue + shade * 2, dark ? saturation * 0.75 : saturation, lightness);
    if (kind === 'reason') {
      const state = /^\[(\w+)/.exec(name);  // [state: reason]
      made.edge = (state && STATE[state[1]]) || STATE.preempted;
    }
    return made;
  }

  /** Red for more than before, blue for less; the larger the difference, the deeper the colour. */
  function growth(before, after, dark) {
    const larger = Math.max(before, after), far = larger ? Math.abs(after - before) / larger : 0;
    const hue = after > before ? 8 : 214, deep = Math.sqrt(far);
    if (far < 0.01) return hexBox(dark ? '#3a424b' : '#dde2e7');
    return box(hue, 30 + 50 * deep, dark ? 27 + 17 * deep : 92 - 32 * deep);
  }

  /** What the legend shows: [colour, edge, text]. */
  function legend() {
    const dark = view.isDark(), palette = view.paletteName();
    if (palette === 'growth' && profile.diff) {
      const ends = profile.per ? ['only in these', 'not in these'] : ['only after (new)', 'only before (vanished)'];
      return [[0, 1, ends[0]], [2, 3, 'more'], [1, 1, 'unchanged'], [3, 2, 'less'], [1, 0, ends[1]]]
        .map(([before, after, text]) => [growth(before, after, dark).fill, '', text]);
    }
    if (palette === 'state') {
      return [...new Set(profile.stacks.state)].map(index => profile.texts[index]).map(state => [STATE[state], '', state]);
    }
    const present = new Set([...new Set(profile.functions.kind)].map(index => profile.kinds[index]));
    return profile.kinds.filter(kind => present.has(kind)).map(kind => {
      const { fill, edge } = byKind('', kind, dark);
      return [palette === 'package' && kind === 'go' ? '' : fill, edge || '',
        MEANING[kind] + (palette === 'package' && kind === 'go' ? ': a colour for each package' : '')];
    });
  }

  const reset = () => { cache = []; shareTree = null; };
  return { STATE, MEANING, of, legend, reset, packageOf };
})();
