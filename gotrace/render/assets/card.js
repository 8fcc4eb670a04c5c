// The card beside the pointer or the focus: all figures of one box.
const card = (() => {
  const { brief, duration, number, counted, share, change } = words;
  let last = null;

  function figuresOf(tree, node) {
    if (!last || last.tree !== tree || last.node !== node) last = { tree, node, figures: trees.figures(tree, node) };
    return last.figures;
  }
  const some = list => list.slice(0, 2).map(([name, time]) => `${brief(name, 100)} (${duration(time)})`).join(', ')
    + (list.length > 2 ? ` and ${list.length - 2} more` : '');

  /** [name, text] of each figure. */
  function rowsOf(tree, node) {
    const { meta, diff } = profile, f = figuresOf(tree, node), total = tree.total[node], count = tree.count[node];
    const whole = flame.trees[0].total[0], rows = [];
    if (diff && profile.per) {
      const before = tree.before[node];
      rows.push(['all requests', `${duration(before)} per request`], ['these', `${duration(total)} per request`]);
      rows.push(['change', `${total >= before ? '+' : ''}${duration(total - before)}, ${change(before, total)}`]);
    } else if (diff) {
      const before = tree.before[node];
      rows.push(['before', `${duration(before)} in ${counted(tree.before_count[node], 'interval')}, normalised`]);
      rows.push(['after', `${duration(total)} in ${counted(count, 'interval')}`]);
      rows.push(['change', `${total >= before ? '+' : ''}${duration(total - before)}, ${change(before, total)}`]);
    } else {
      rows.push(['total', `${duration(total)}${profile.per}, ${share(total, profile.whole)} of ${profile.wholeName}`]);
      if (whole !== profile.whole && !profile.per) rows.push(['', `${share(total, whole)} of what is shown`]);
      rows.push(['count', counted(count, 'interval') + (f.progress ? `, ${number(f.progress)} in progress` : '')]);
    }
    if (profile.per && !f.max) return rows;  // no intervals
    rows.push([profile.per ? 'all of them, p50 / p99 / max' : 'p50 / p99 / max', `${duration(f.p50)} / ${duration(f.p99)} / ${duration(f.max)}`]);
    rows.push(['goroutines', f.stacks === 1 ? number(f.goroutines) : `${number(Math.min(f.goroutines, meta.goroutines || f.goroutines))} at most`]);
    if (f.objects.length) rows.push(['on', some(f.objects)]);
    if (f.wakers.length) rows.push(['woken by', some(f.wakers)]);
    if (f.stopped) rows.push(['world stopped', `${duration(f.stopped)}, ${share(f.stopped, total)} of it inside stop-the-world pauses`]);
    if (f.runs) rows.push(['long runs', `${number(f.runs)} ended here, the longest after ${duration(f.run_max)} on the CPU`]);
    if (f.stacks > 1) rows.push(['stacks', number(f.stacks)]);
    return rows;
  }

  /** Bars of the histogram, four to a power of two at most, the longest ones as high as the card's canvas. */
  function drawHistogram(canvas, counts) {
    let first = counts.findIndex(Boolean), last = counts.length - 1;
    if (first < 0) return '';
    while (!counts[last]) last--;
    first -= first % 2;
    const step = last - first < 48 ? 1 : last - first < 96 ? 2 : 4, bars = [];
    for (let at = first; at <= last; at += step) {
      let sum = 0;
      for (let bucket = at; bucket < at + step; bucket++) sum += counts[bucket] || 0;
      bars.push(sum);
    }
    const ratio = devicePixelRatio || 1, width = 260, height = 40, largest = Math.max(...bars);
    Object.assign(canvas, { width: width * ratio, height: height * ratio });
    const paint = canvas.getContext('2d'), wide = Math.min(18, width / bars.length);
    paint.scale(ratio, ratio);
    paint.fillStyle = view.isDark() ? '#7cc0f5' : '#0b62a8';
    // A count of one among thousands must not vanish: at least two pixels.
    bars.forEach((bar, at) => {
      const high = bar ? Math.max(2, height * bar / largest) : 0;
      paint.fillRect(at * wide, height - high, Math.max(1, wide - 1), high);
    });
    canvas.style.width = width + 'px';
    return [duration(profile.bucketLow(first)), duration(profile.bucketLow(last + 1)), wide * bars.length];
  }

  function show(tree, node, x, y) {
    const box = $('card'), f = figuresOf(tree, node), table = element('table');
    const where = f.lines.slice(0, 2).map(line => brief(line, 120)).join(' · ') + (f.lines.length > 2 ? ` and ${f.lines.length - 2} more` : '');
    for (const [name, value] of rowsOf(tree, node)) {
      const row = element('tr');
      row.append(element('td', name), element('td', value));
      table.append(row);
    }
    const kind = tree.fn[node] < 0 ? 'all that is shown'
      : colours.MEANING[flame.kindOf(tree, node)] + (f.inlined ? ', inlined' : '');
    const bars = element('canvas'), labels = drawHistogram(bars, f.counts), scale = element('div', undefined, 'scale');
    if (labels) {
      scale.append(element('span', labels[0]), element('span', labels[1]));
      scale.style.width = Math.max(110, labels[2]) + 'px';
    }
    const parts = [element('h2', brief(profile.nameOf(tree.fn[node]), 240)), element('p', where ? `${kind} · ${where}` : kind), table];
    box.replaceChildren(...parts, ...(labels ? [bars, scale] : []));
    if (flame.hot.has(node) && tree === flame.trees[0]) {
      const whys = profile.hotspots.filter(spot => flame.hotNodes.get(spot) === node).map(spot => spot.why);
      if (whys.length) box.append(element('p', 'hot: ' + whys.join('; '), 'hot'));
    }
    box.hidden = false;
    const size = box.getBoundingClientRect();
    box.style.left = Math.max(4, Math.min(x + 14, innerWidth - size.width - 8)) + 'px';
    box.style.top = Math.max(4, y + 20 + size.height < innerHeight ? y + 20 : y - size.height - 12) + 'px';
  }
  const hide = () => { $('card').hidden = true; };
  const forget = () => { last = null; };

  return { show, hide, forget, rowsOf };
})();
