// The visible graph, as an SVG document of its own.
const picture = (() => {
  const SPACE = 'http://www.w3.org/2000/svg';

  function node(name, attributes, text) {
    const made = document.createElementNS(SPACE, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (text !== undefined) made.textContent = text;
    return made;
  }
  const short = value => String(Math.round(value * 10) / 10);

  /** A picture is shared without its page: it includes what was lost. */
  function losses() {
    const sides = profile.meta.diff ? Object.entries(profile.meta.diff).filter(([name]) => /^(before|after)$/.test(name)) : [['', profile.meta]];
    return sides.flatMap(([name, meta]) => [
      ...(meta.complete ? [] : [`${name} incomplete`]),
      ...meta.losses.map(loss => `${name} ${words.number(loss.count)} ${loss.name}`),
    ]).map((text, index) => (index ? ', ' : ' · LOSSES: ') + text.trim()).join('');
  }

  /** The zoomed part in its full height, with a title and the legend. */
  function svg(title, note) {
    const { rows, width, height, ROW, FONT } = flame, dark = view.isDark(), head = 46, foot = 28;
    const root = node('svg', {
      xmlns: SPACE, width: short(width), height: short(height + head + foot), viewBox: `0 0 ${short(width)} ${short(height + head + foot)}`,
      'font-family': 'system-ui, "Segoe UI", Roboto, "Noto Sans", sans-serif', 'font-size': '12',
    });
    const ink = dark ? '#e6ebf0' : '#17202a';
    root.append(node('rect', { width: '100%', height: '100%', fill: dark ? '#12171d' : '#ffffff' }),
      node('text', { x: 6, y: 18, fill: ink, 'font-size': '15', 'font-weight': '600' }, title),
      node('text', { x: 6, y: 36, fill: ink }, note + losses()));
    const paint = document.createElement('canvas').getContext('2d');
    paint.font = FONT;
    for (const row of rows) {
      const { tree, node: at, x, w } = row, y = flame.topOf(row, height) + head, faded = flame.isFaded(row);
      const { fill, ink: letters, edge } = colours.of(tree, at, faded), group = node('g', {});
      group.append(node('title', {}, `${flame.labelOf(tree, at)}: ${words.duration(tree.total[at])}, `
        + `${words.share(tree.total[at], profile.whole)}, ${words.counted(tree.count[at], 'interval')}`));
      group.append(node('rect', { x: short(x), y: short(y), width: short(Math.max(w - (w > 3 ? 1 : 0), 0.5)), height: ROW - 1, fill }));
      if (edge && !faded && w > 6) group.append(node('rect', { x: short(x), y: short(y), width: 4, height: ROW - 1, fill: edge }));
      if (flame.kindOf(tree, at) === 'syscall' && !faded && !tree.upward) {
        const under = view.icicle || flame.trees.length === 2 ? y : y + ROW - 3;
        group.append(node('rect', { x: short(x), y: short(under), width: short(w), height: 2, fill: dark ? '#ffffff' : '#1b1200' }));
      }
      const text = w > 30 ? flame.fit(paint, tree, at, w - 12) : '';
      if (text) group.append(node('text', { x: short(x + (edge ? 8 : 5)), y: short(y + ROW / 2 + 4), fill: letters }, text));
      root.append(group);
    }
    let x = 6;
    for (const [fill, edge, text] of colours.legend()) {
      if (fill) root.append(node('rect', { x: short(x), y: height + head + 9, width: 10, height: 10, fill, stroke: '#808080' }));
      if (edge) root.append(node('rect', { x: short(x), y: height + head + 9, width: 3, height: 10, fill: edge }));
      root.append(node('text', { x: short(x + 15), y: height + head + 18, fill: ink }, text));
      x += 32 + paint.measureText(text).width;
    }
    return new XMLSerializer().serializeToString(root);
  }

  function save(title, note) {
    const link = document.createElement('a'), address = URL.createObjectURL(new Blob([svg(title, note)], { type: 'image/svg+xml' }));
    link.href = address;
    link.download = 'gotrace.svg';
    link.click();
    setTimeout(() => URL.revokeObjectURL(address), 10000);
  }

  return { svg, save };
})();
