// What surrounds the graph: the profile's target, what was lost, time by state, filters, hot spots, pauses, legend.
const head = (() => {
  const { brief, duration, number, counted, share, change } = words;
  const STARTS = 200;

  function fillHead() {
    const { meta } = profile, target = meta.targets[0], facts = $('facts');
    $('title').append(meta.targets.map(item => item.name).join(', ') || 'gotrace', ' ',
      element('span', profile.diff ? 'off-CPU time, before and after' : profile.requests ? 'requests and off-CPU time' : 'off-CPU time'));
    if (profile.diff) {
      const { before, after } = meta.diff;
      for (const [name, side] of [['before', before], ['after', after]]) {
        const line = element('span', undefined, 'side');
        line.append(element('b', `${name}: ${duration(side.total)}`), ` in ${counted(side.intervals, 'interval')}`
          + `${ofGoroutines(side)} · ${duration(side.duration)} window from ${side.start} · `
          + side.targets.map(each => `${each.name} ${each.go}`).join(', '));
        facts.append(line);
      }
    } else {
      facts.append(element('b', duration(meta.total)), ` off the CPU in ${counted(meta.intervals, 'interval')}`
        + `${ofGoroutines(meta)} · ${duration(meta.duration)} window`);
      if (target) facts.append(` · ${target.go}`);
    }
    fillWarnings(profile.diff ? [['Before: ', meta.diff.before], ['After: ', meta.diff.after]] : [['', meta]]);
    fillDetails();
  }

  /** Their number is known only at the end of a trace. */
  const ofGoroutines = meta => meta.complete ? ` of ${counted(meta.goroutines, 'goroutine')}` : '';

  function fillWarnings(sides) {
    const warnings = $('warnings');
    const warn = (strong, rest) => {
      const line = element('p');
      line.append(element('b', strong), rest);
      warnings.append(line);
      warnings.hidden = false;
    };
    for (const [side, meta] of sides) {
      if (!meta.complete) warn(`${side}Incomplete: `, 'the trace was cut short, or still went on: figures are those of the last commit, and waits that were in progress then are missing.');
      for (const line of meta.verdicts || []) warn(side, line);
      for (const line of meta.missing || []) warn(`${side}Missing: `, line);
      for (const line of meta.notes || []) warn(`${side}Note: `, line);
      for (const { name, count, text } of meta.losses) warn(`${side}${number(count)} ${name}: `, text);
      if (meta.attached < meta.duration) warn(`${side}Duty-cycled: `, `probes were attached for ${share(meta.attached, meta.duration)} of the window.`);
      for (const [index, line] of (meta.governor || []).entries()) warn(side, (index ? 'governor: ' : '') + line);
      if (meta.filters.length) warn(`${side}Only a part was recorded: `, meta.filters.join(', '));
    }
  }

  function fillDetails() {
    const { meta } = profile, body = $('details-body'), sides = profile.diff ? [meta.diff.before, meta.diff.after] : [meta], parts = [];
    const lines = sides.flatMap((side, index) => [
      ...side.targets.map(each => `${profile.diff ? ['before: ', 'after: '][index] : ''}${each.name} · ${each.go} · ${each.exe}`
        + (each.build ? ` · build ${each.build}` : '')),
      `window from ${side.start}, ${duration(side.duration)} · mode ${side.mode} · gotrace ${side.gotrace}`,
      ...(side.running === null || side.running === undefined ? [] : [`${duration(side.running)} on the CPU in goroutines, `
        + `${duration(side.cpu || 0)} CPU time of the process in all`]),
    ]);
    parts.push(...lines.map(line => element('p', line)));
    for (const note of meta.diff?.notes || []) parts.push(element('p', note));
    sides.forEach((side, index) => {
      if (!side.pauses || !side.pauses.length) return;
      const total = side.pauses.reduce((sum, each) => sum + each.total, 0), count = side.pauses.reduce((sum, each) => sum + each.count, 0);
      parts.push(element('h2', `${profile.diff ? ['Before: ', 'After: '][index] : ''}${counted(count, 'stop-the-world pause')}, ${duration(total)}`));
      if (!profile.diff) parts.push(pauseStrip());
      parts.push(textTable(['reason', 'count', 'total', 'p99', 'max'], side.pauses.map(each =>
        [each.reason, number(each.count), duration(each.total), duration(each.p99), duration(each.max)])));
    });
    if (meta.locks) parts.push(element('h2', 'Who held the locks'), ...meta.locks.map(line => element('p', line)));
    for (const { title, columns, rows, marked } of meta.diff?.tables || []) {
      parts.push(element('h2', title), textTable(columns, rows, marked || []));
    }
    body.replaceChildren(...parts);
    const pauses = meta.pauses?.reduce((sum, each) => sum + each.count, 0);
    $('details-name').textContent = (meta.locks ? 'Details, who held the locks' : 'Details') + (meta.diff?.tables?.length ? ', change by state and reason' : '')
      + (pauses ? `, ${counted(pauses, 'stop-the-world pause')} (longest ${duration(Math.max(...meta.pauses.map(each => each.max)))})` : '');
  }

  /** The window from left to right, a mark for each pause. */
  function pauseStrip() {
    const { start, duration: long, reason } = profile.pauses, strip = element('div', undefined, 'strip'), window = profile.meta.duration || 1;
    start.slice(0, 500).forEach((at, index) => {
      const mark = element('i');
      mark.style.left = 100 * at / window + '%';
      mark.style.width = Math.max(0.1, 100 * long[index] / window) + '%';
      mark.title = `${reason[index]}: ${duration(long[index])} at ${duration(at)}`;
      strip.append(mark);
    });
    return strip;
  }

  // ---- the switch for idle time, filters and the bar of states

  function fillParts(change) {
    $('parts').hidden = requests.parts.length < 2;
    $('parts').replaceChildren(...requests.parts.map(part => {
      const made = button(requests.NAMES[part], () => change({ part }, []), `${requests.MEANING[part]} (w)`);
      made.append(element('span', ` ${duration(requests.totalOf(part))}`));
      made.setAttribute('aria-pressed', String(part === profile.part));
      return made;
    }));
  }

  function timeBy(valueOf, weight) {
    const sums = new Map(), { stacks, size } = profile;
    for (let stack = 0; stack < (profile.part === 'all' ? profile.real : size); stack++) {
      if (stacks.background[stack] && !view.background) continue;
      const value = valueOf(stack);
      sums.set(value, (sums.get(value) || 0) + weight[stack]);
    }
    return [...sums].filter(([, time]) => time || profile.part === 'all').sort((a, b) => b[1] - a[1]);
  }

  function fillFilters(change) {
    const { stacks, texts } = profile;
    for (const [id, plural, valueOf] of [['state', 'states', s => stacks.state[s]], ['reason', 'reasons', s => stacks.why[s]],
      ['start', 'goroutines', s => stacks.start[s]]]) {
      const options = timeBy(valueOf, stacks.total).slice(0, STARTS)
        .map(([value, time]) => [id === 'start' ? (value < 0 ? '' : profile.nameOf(value)) : texts[value], time]).filter(([name]) => name);
      if (view[id] && !options.some(([name]) => name === view[id])) options.push([view[id], 0]);
      const made = [['', `all ${plural}`]].concat(options.map(([name, time]) => [name, `${brief(name, 80)} (${duration(time)})`]));
      $(id).replaceChildren(...made.map(([value, text]) => Object.assign(element('option', text), { value })));
      $(id).value = view[id];
    }
    fillLabels();
    const bars = profile.diff ? [[profile.sides[0], stacks.before], [profile.sides[1], stacks.total]] : [['', stacks.total]];
    $('states').replaceChildren(...bars.map(([name, weight]) => stateBar(name, weight, change)), stateKeys(change));
  }

  /** Time by label, where there are any. Of several labels each has all the time. */
  function fillLabels() {
    const { stacks, texts, real, size } = profile, sums = new Map();
    $('label').hidden = !stacks.labels;
    if (!stacks.labels) return;
    for (let stack = 0; stack < (profile.part === 'all' ? real : size); stack++) {
      if (stacks.background[stack] && !view.background) continue;
      for (const label of stacks.labels[stack]) sums.set(texts[label], (sums.get(texts[label]) || 0) + stacks.total[stack]);
    }
    const options = [...sums].sort((a, b) => b[1] - a[1]).slice(0, STARTS);
    if (view.label && !options.some(([name]) => name === view.label)) options.push([view.label, 0]);
    const made = [['', 'all labels']].concat(options.map(([name, time]) => [name, `${brief(name, 80)} (${duration(time)})`]));
    $('label').replaceChildren(...made.map(([value, text]) => Object.assign(element('option', text), { value })));
    $('label').value = view.label;
  }

  function stateBar(side, weight, change) {
    const states = timeBy(stack => profile.stacks.state[stack], weight), whole = states.reduce((sum, [, time]) => sum + time, 0);
    const line = element('div', undefined, 'barline'), bar = element('div', undefined, 'bar');
    for (const [state, time] of states) {
      if (!time) continue;
      const name = profile.texts[state], part = button('', () => change({ state: view.state === name ? '' : name }));
      part.style.width = 100 * time / (whole || 1) + '%';
      part.style.background = colours.STATE[name];
      part.title = `${side ? side + ', ' : ''}${name}: ${duration(time)}, ${share(time, whole)}; click to show only these`;
      part.setAttribute('aria-label', part.title);
      part.classList.toggle('off', Boolean(view.state) && view.state !== name);
      bar.append(part);
    }
    if (side) line.append(element('span', side));
    line.append(bar);
    return line;
  }

  function stateKeys() {
    const { stacks, texts, diff } = profile, keys = element('div', undefined, 'keys');
    const states = timeBy(stack => stacks.state[stack], stacks.total), whole = states.reduce((sum, [, time]) => sum + time, 0);
    const before = new Map(diff ? timeBy(stack => stacks.state[stack], stacks.before) : []);
    for (const [state, time] of states) {
      const key = element('span'), name = texts[state];
      const grown = diff ? ` (${profile.sides[0]} ${duration(before.get(state) || 0)}, ${change(before.get(state) || 0, time) || 'unchanged'})` : '';
      key.append(swatch(colours.STATE[name]), element('b', name), ` ${duration(time)}${profile.per} · ${share(time, whole)}${grown}`);
      keys.append(key);
    }
    return keys;
  }

  // ---- hot spots, legend

  function fillHotspots(jump) {
    const section = $('hotspots'), spots = profile.hotspots || [];
    section.hidden = !spots.length;
    if (!spots.length) return;
    const list = element('ol');
    for (const [index, spot] of spots.entries()) {
      const item = element('li'), made = button('', () => jump(index), 'Show in the flame graph (n: next)');
      made.append(element('b', brief(profile.whereOf(spot.stack), 160)), element('span', ` ${brief(spot.why, 200)}`));
      item.append(made);
      list.append(item);
    }
    $('hotspots-name').textContent = counted(spots.length, 'hot spot');
    $('hotspots-list').replaceChildren(list);
    section.open = spots.length <= 3;
  }

  function fillFoot(hidden) {
    const out = [];
    if (hidden) out.push(`Runtime goroutines hidden: ${duration(hidden)}, ${share(hidden, profile.meta.total)} of all off-CPU time`);
    if (profile.part !== 'all') {
      const others = requests.parts.filter(part => part !== profile.part && part !== 'all');
      out.push(others.map(part => `${requests.NAMES[part]}: ${duration(requests.totalOf(part))}`).join(', ') + ' not shown');
    }
    $('status').textContent = out.join(' · ');
    $('legend').replaceChildren(...colours.legend().map(([fill, edge, text]) => {
      const key = element('span');
      if (fill) key.append(swatch(fill, edge));
      key.append(text);
      return key;
    }));
  }

  return { fillHead, fillParts, fillFilters, fillHotspots, fillFoot };
})();
