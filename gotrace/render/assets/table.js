// The table beside the graph: the same stacks in rows, for sorting, and for readers who can't see the canvas.
const table = (() => {
  const { brief, duration, number, share, change } = words;
  const ROWS = 500;

  function columns() {
    const { stacks, diff } = profile, p50 = profile.percentilesOf(0.5), p99 = profile.percentilesOf(0.99);
    const found = diff ? [
      [profile.sides[0], s => stacks.before[s], s => duration(stacks.before[s])],
      [profile.sides[1], s => stacks.total[s], s => duration(stacks.total[s])],
      ['change', s => stacks.total[s] - stacks.before[s],
        s => (stacks.total[s] > stacks.before[s] ? '+' : '') + duration(stacks.total[s] - stacks.before[s])],
      ['', null, s => change(stacks.before[s], stacks.total[s])],
      [`count ${profile.sides[0]}`, s => stacks.before_count[s], s => number(stacks.before_count[s])],
      [`count ${profile.sides[1]}`, s => stacks.count[s], s => number(stacks.count[s])],
    ] : [
      ['total', s => stacks.total[s], s => duration(stacks.total[s])],
      ['share', null, s => share(stacks.total[s], profile.whole)],
      ['count', s => stacks.count[s], s => number(stacks.count[s])],
    ];
    if (view.show !== 'table') {
      // Beside the graph there is room only for the essentials.
      if (diff) return found.slice(0, 4);
      return [...found, ['p99', s => p99[s], s => duration(p99[s])]];
    }
    found.push(['p50', s => p50[s], s => duration(p50[s])], ['p99', s => p99[s], s => duration(p99[s])],
      ['max', s => stacks.max[s], s => duration(stacks.max[s])],
      ['goroutines', s => stacks.goroutines[s],
        s => stacks.goid[s] === null ? number(stacks.goroutines[s]) : `id ${stacks.goid[s]}`],
      ['in progress', s => stacks.progress[s], s => number(stacks.progress[s])]);
    if (stacks.stopped.some(Boolean)) found.push(['world stopped', s => stacks.stopped[s], s => duration(stacks.stopped[s])]);
    return found;
  }

  function head(list, sorted) {
    const line = element('tr');
    for (const [title, value] of list) {
      const cell = element('th'), here = title === sorted;
      cell.scope = 'col';
      if (value) {
        cell.setAttribute('aria-sort', here ? (view.ascending ? 'ascending' : 'descending') : 'none');
        cell.append(button(title + (here ? (view.ascending ? ' ▴' : ' ▾') : ''), () => {
          view.ascending = here && !view.ascending;
          view.sort = title;
          draw();
          view.remember();
          $('table').querySelectorAll('th button').forEach(each => { if (each.textContent.startsWith(title)) each.focus(); });
        }));
      } else cell.append(title);
      line.append(cell);
    }
    if (view.show === 'table') line.append(element('th', 'why', 'left'));
    line.append(element('th', 'stack, leaf first', 'left'));
    return line;
  }

  /** Where the goroutine waited in its own code, by name and place, then its callers. */
  function stackCell(stack) {
    const { frames } = profile, path = profile.pathOf(stack, { ...view, objects: true }), cell = element('td', undefined, 'stack');
    const at = path.lastIndexOf(profile.stacks.reason[stack]), own = path.slice(0, at).reverse();
    const kind = frame => profile.kindOf(frames.function[frame]), [waited, woken] = [true, false].map(
      of => path.slice(at + 1).filter(frame => (kind(frame) === 'object') === of)), name = frame => brief(profile.nameOf(frames.function[frame]), 140);
    const first = Math.max(0, own.findIndex(frame => !/^(kernel|syscall)$/.test(kind(frame)))), beneath = own.slice(0, first);
    if (own.length) {
      const place = brief(profile.place(own[first]), 100);
      cell.append(element('b', name(own[first])), document.createTextNode(place ? `  ${place}` : ''));
    } else cell.append(element('b', name(path[at])));
    const boundary = beneath.find(frame => kind(frame) === 'syscall');
    if (boundary !== undefined) cell.append(element('div', `⇥ ${name(boundary)}`));
    const rest = own.slice(first + 1, first + 12), callers = element('div');
    // A reader looks for the program's own functions.
    for (const frame of rest) callers.append('← ', profile.isProgram(frames.function[frame]) ? element('b', name(frame)) : name(frame), ' ');
    if (own.length > first + 12) callers.append('← …');
    if (rest.length) cell.append(callers);
    if (waited.length && boundary === undefined) cell.append(element('div', 'on ' + waited.map(name).join()));
    if (woken.length) cell.append(element('div', 'woken by ' + woken.slice(0, 4).map(name).join(' ← ')));
    return cell;
  }

  function draw() {
    const { frames, stacks } = profile, list = columns(), tree = flame.trees[0], marks = flame.marks[0];
    const within = view.zoom ? view.zoom.tree.stacksBelow(view.zoom.node) : tree.stacksBelow(0);
    const hit = !marks ? null : stack => flame.trees.some((each, at) => each.end[stack] >= 0 && flame.marks[at][each.end[stack]] & 2);
    const rows = hit ? within.filter(hit) : within.slice();
    const wanted = view.sort || (profile.diff ? 'change' : 'total'), sign = view.ascending ? 1 : -1;
    const by = list.find(([title, value]) => title === wanted && value) || list[0];
    // In a comparison the largest change comes first, in either direction.
    const key = by[0] === 'change' ? stack => Math.abs(by[1](stack)) : by[1];
    const values = Float64Array.from({ length: profile.size }, () => 0);
    for (const stack of rows) values[stack] = key(stack);
    rows.sort((a, b) => sign * (values[a] - values[b]) || a - b);
    const made = element('table'), body = element('tbody'), top = element('thead');
    top.append(head(list, by[0]));
    for (const stack of rows.slice(0, ROWS)) {
      const row = element('tr');
      for (const [title, , text] of list) {
        const cell = element('td', text(stack));
        if (profile.diff && (title === 'change' || title === '')) {
          cell.className = stacks.total[stack] > stacks.before[stack] ? 'more' : stacks.total[stack] < stacks.before[stack] ? 'less' : '';
        }
        row.append(cell);
      }
      const why = brief(profile.nameOf(frames.function[stacks.reason[stack]]), 60), cell = stackCell(stack);
      if (view.show === 'table') row.append(element('td', why, 'left'));
      else (cell.querySelector('div') ? cell.insertBefore(element('div', why, 'why'), cell.querySelector('div')) : cell.append(element('div', why, 'why')));
      row.append(cell);
      row.tabIndex = 0;
      row.title = 'Show in the flame graph';
      row.addEventListener('click', () => page.showStack(stack));
      row.addEventListener('keydown', event => { if (event.key === 'Enter') page.showStack(stack); });
      body.append(row);
    }
    made.append(element('caption', 'Stacks, one in a row; Enter shows one in the flame graph', 'spoken'), top, body);
    const note = rows.length > ROWS ? `The first ${ROWS} of ${number(rows.length)} stacks.` : '';
    $('table').replaceChildren(made, ...(note ? [element('p', note)] : []));
  }

  return { draw };
})();
