'use strict';
// The page: drawing, controls, address. What is drawn comes from `profile` in tree.js.
(() => {
  const $ = id => document.getElementById(id);
  const { meta, kinds, texts, functions, frames, stacks, pathOf, shownStacks, build, childrenOf, figures,
    nameOf, kindOf, labelOf, kindOfNode, duration, number, share } = profile;
  const ROW = 19, MIN_WIDTH = 0.6, TABLE_ROWS = 500;

  // Hues after Okabe and Ito, which colour-blind readers can tell apart: [hue, saturation, lightness in light, in dark].
  const KIND_COLOUR = {
    go: [204, 72, 76, 38], runtime: [212, 12, 80, 38], cgo: [52, 80, 68, 32], syscall: [38, 88, 68, 36],
    kernel: [16, 78, 72, 40], waker: [318, 45, 78, 42], reason: [164, 48, 70, 30], lost: [0, 0, 25, 82], process: [220, 8, 88, 26],
  };
  const STATE_COLOUR = {
    waiting: '#4a90c2', netpoll: '#2a9d7f', runnable: '#e0a021', runqueue: '#d2691e', syscall: '#c678a8', preempted: '#8b8f98',
  };
  const view = {
    state: '', reason: '', search: '', background: false, machinery: false, icicle: false, table: false, theme: '',
    zoom: null, focus: null, sort: 'total', down: true,
  };
  let root = null, drawn = [], hits = new Set(), regex = null, palette = {};

  // ---- small helpers

  function element(tag, text, className) {
    const made = document.createElement(tag);
    if (text !== undefined) made.textContent = text;
    if (className) made.className = className;
    return made;
  }
  function button(text, onClick) {
    const made = element('button', text);
    made.type = 'button';
    made.addEventListener('click', onClick);
    return made;
  }

  // ---- drawing

  const isDark = () => (view.theme || (matchMedia('(prefers-color-scheme: dark)').matches ? 'dark' : 'light')) === 'dark';

  /** A kind's hue; within it the package decides a shade, so that a change of package shows. */
  function colour(node, faded) {
    const kind = kindOfNode(node), dark = isDark(), label = labelOf(node);
    const key = kind + (kind === 'go' || kind === 'runtime' ? label.slice(0, label.indexOf('.', label.lastIndexOf('/') + 1)) : '') + faded;
    if (palette[key]) return palette[key];
    let hash = 0;
    for (let i = 0; i < key.length; i++) hash = (hash * 31 + key.charCodeAt(i)) | 0;
    const [hue, saturation, light, night] = KIND_COLOUR[kind] || KIND_COLOUR.lost;
    const shade = kind === 'go' || kind === 'runtime' ? (Math.abs(hash) % 9) - 4 : 0;
    const lightness = (dark ? night : light) + shade * (dark ? 1 : 1.3);
    return palette[key] = faded
      ? `hsl(${hue + shade * 2} ${saturation / 4}% ${dark ? 22 : 90}%)`
      : `hsl(${hue + shade * 2} ${dark ? saturation * 0.72 : saturation}% ${lightness}%)`;
  }

  function layout() {
    const zoom = view.zoom || root, width = $('scroller').clientWidth, rows = [];
    let depth = 0;
    const place = (node, x, w) => {
      rows.push({ node, x, w });
      depth = Math.max(depth, node.depth);
      let at = x;
      for (const child of childrenOf(node)) {
        const cw = node.total ? w * child.total / node.total : 0;
        if (cw < MIN_WIDTH) break;  // sorted by time: the rest is narrower still
        place(child, at, cw);
        at += cw;
      }
    };
    for (let up = zoom.parent; up; up = up.parent) rows.push({ node: up, x: 0, w: width });
    place(zoom, 0, width);
    return { rows, width, height: (depth + 1) * ROW + 2 };
  }

  let plan = { rows: [], width: 0, height: 0 };

  function resize() {
    if (view.table || !root) return;
    const scroller = $('scroller');
    // The spacer makes the scroll bar: the canvas itself is only ever as large as what is seen.
    // Both go first, or a scroll bar that is about to vanish takes width from the layout.
    $('spacer').style.height = $('canvas').style.height = '0';
    plan = layout();
    const seen = scroller.clientHeight;
    $('spacer').style.height = Math.max(0, plan.height - seen) + 'px';
    if (scroller.clientWidth !== plan.width) plan = layout();
    scroller.scrollTop = view.icicle ? 0 : plan.height;
    draw();
  }

  function draw() {
    const canvas = $('canvas'), scroller = $('scroller'), ratio = devicePixelRatio || 1;
    const width = scroller.clientWidth, height = scroller.clientHeight;
    canvas.style.height = height + 'px';
    if (canvas.width !== Math.round(width * ratio)) canvas.width = Math.round(width * ratio);
    if (canvas.height !== Math.round(height * ratio)) canvas.height = Math.round(height * ratio);
    const paint = canvas.getContext('2d'), dark = isDark();
    paint.setTransform(ratio, 0, 0, ratio, 0, 0);
    paint.clearRect(0, 0, width, height);
    paint.font = '12px system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", Ubuntu, sans-serif';
    paint.textBaseline = 'middle';
    const letter = paint.measureText('e').width, extent = Math.max(plan.height, height), top = scroller.scrollTop;
    drawn = [];
    for (const { node, x, w } of plan.rows) {
      const y = (view.icicle ? node.depth * ROW : extent - (node.depth + 1) * ROW) - top;
      drawn.push({ node, x, y, w });
      if (y > height || y < -ROW) continue;
      const above = view.zoom && node.depth < view.zoom.depth, faded = above || (regex && !hits.has(node));
      const lost = kindOfNode(node) === 'lost' && !faded;
      paint.fillStyle = colour(node, Boolean(faded));
      paint.fillRect(x, y, Math.max(w - (w > 3 ? 1 : 0), 0.5), ROW - 1);
      if (node === view.focus) {
        paint.strokeStyle = dark ? '#ffffff' : '#0b1a2a';
        paint.lineWidth = 2;
        paint.strokeRect(x + 1, y + 1, Math.max(w - 3, 1), ROW - 3);
      }
      const room = Math.floor((w - 8) / letter);
      if (room < 3) continue;
      const onDark = dark !== lost;
      paint.fillStyle = faded ? (dark ? '#8996a3' : '#66717d') : onDark ? '#eef3f7' : '#10202e';
      paint.fillText(fit(paint, node, w - 8, letter), x + 4, y + ROW / 2);
    }
  }

  const fitted = new Map();
  function fit(paint, node, width, letter) {
    const label = labelOf(node), key = Math.round(width) + ' ' + label, known = fitted.get(key);
    if (known !== undefined) return known;
    // Too long: first the import path's folders go, then the end.
    // Slashes beyond the first bracket are those of a type argument.
    let text = label;
    const slash = label.split(/[[(]/, 1)[0].lastIndexOf('/');
    if (slash > 0 && /^(go|runtime|cgo)$/.test(kindOfNode(node)) && label.length * letter > width
      && paint.measureText(label).width > width) text = label.slice(slash + 1);
    if (paint.measureText(text).width > width) {
      let low = 0, high = Math.min(text.length, Math.ceil(width / 2));
      while (low < high) {
        const middle = (low + high + 1) >> 1;
        if (paint.measureText(text.slice(0, middle) + '…').width <= width) low = middle;
        else high = middle - 1;
      }
      text = low > 1 ? text.slice(0, low) + '…' : '';
    }
    if (fitted.size > 20000) fitted.clear();
    fitted.set(key, text);
    return text;
  }

  // ---- search, zoom, card

  function search() {
    const box = $('search'), output = $('matched');
    hits = new Set();
    regex = null;
    palette = {};
    box.classList.remove('bad');
    output.textContent = '';
    if (!view.search) return;
    try {
      regex = new RegExp(view.search, 'i');
    } catch (problem) {
      box.classList.add('bad');
      output.textContent = 'not a regular expression';
      return;
    }
    const matches = new Map();
    let time = 0;
    const open = [[root, false]];
    while (open.length) {
      const [node, inside] = open.pop();
      let hit = false;
      if (node.fn >= 0) {
        if (!matches.has(node.fn)) matches.set(node.fn, regex.test(nameOf(node.fn)));
        hit = matches.get(node.fn);
      }
      if (hit) {
        hits.add(node);
        if (!inside) time += node.total;  // a hit within a hit is the same time
      }
      for (const child of node.children.values()) open.push([child, inside || hit]);
    }
    output.textContent = `matched ${share(time, root.total)}`;
    output.title = `${duration(time)} of the ${duration(root.total)} shown`;
  }

  function zoomTo(node) {
    view.zoom = node && node !== root ? node : null;
    view.focus = node;
    $('card').hidden = true;
    crumbs();
    resize();
    remember();
  }

  function crumbs() {
    const bar = $('crumbs'), chain = [];
    for (let node = view.zoom; node; node = node.parent) chain.unshift(node);
    const made = chain.map((node, index) => index < chain.length - 1
      ? button(labelOf(node), () => zoomTo(node)) : element('span', `${labelOf(node)}  ${duration(node.total)}, ${share(node.total, meta.total)}`));
    // A deep zoom: the root, then the last few.
    if (made.length > 6) made.splice(1, made.length - 5, element('span', '…'));
    bar.replaceChildren(...made.flatMap((item, index) => index ? [document.createTextNode('›'), item] : [item]));
  }

  function rowsOf(node) {
    const f = figures(node);
    const rows = [
      ['total', `${duration(node.total)}, ${share(node.total, meta.total)} of all off-CPU time`],
      ['count', `${number(node.count)} interval${node.count === 1 ? '' : 's'}${f.progress ? `, ${number(f.progress)} in progress` : ''}`],
      ['p50 / p99 / max', `${duration(f.p50)} / ${duration(f.p99)} / ${duration(f.max)}`],
      ['goroutines', f.stacks === 1 ? number(f.goroutines) : `${number(node.fn < 0 ? Math.min(f.goroutines, meta.goroutines) : f.goroutines)} at most`],
    ];
    if (root.total !== meta.total) rows.splice(1, 0, ['', `${share(node.total, root.total)} of what is shown`]);
    if (f.stacks > 1) rows.push(['stacks', number(f.stacks)]);
    return { rows, lines: f.lines, inlined: f.inlined };
  }

  function showCard(node, x, y) {
    const card = $('card'), { rows, lines, inlined } = rowsOf(node), table = element('table');
    const where = lines.slice(0, 2).join(' · ') + (lines.length > 2 ? ` and ${lines.length - 2} more` : '');
    for (const [name, value] of rows) {
      const row = element('tr');
      row.append(element('td', name), element('td', value));
      table.append(row);
    }
    const kind = node.fn < 0 ? 'all that is shown' : kindOfNode(node) + (inlined ? ', inlined' : '');
    card.replaceChildren(element('h2', labelOf(node)), element('p', where ? `${kind} · ${where}` : kind), table);
    card.hidden = false;
    const box = card.getBoundingClientRect();
    card.style.left = Math.max(4, Math.min(x + 14, innerWidth - box.width - 8)) + 'px';
    card.style.top = Math.max(4, y + 18 + box.height < innerHeight ? y + 18 : y - box.height - 12) + 'px';
  }

  function nodeAt(event) {
    const box = $('canvas').getBoundingClientRect(), x = event.clientX - box.left, y = event.clientY - box.top;
    const found = drawn.find(item => x >= item.x && x < item.x + item.w && y >= item.y && y < item.y + ROW);
    return found ? found.node : null;
  }

  function moveFocus(key) {
    const now = view.focus || view.zoom || root, siblings = now.parent ? childrenOf(now.parent) : [now];
    const deeper = view.icicle ? 'ArrowDown' : 'ArrowUp', next = {
      ArrowLeft: siblings[siblings.indexOf(now) - 1], ArrowRight: siblings[siblings.indexOf(now) + 1],
      ArrowUp: now.parent, ArrowDown: now.parent, [deeper]: childrenOf(now)[0],
    }[key];
    const item = drawn.find(candidate => candidate.node === next);
    if (!item) return;
    view.focus = next;
    const scroller = $('scroller'), height = scroller.clientHeight;
    if (item.y < 0) scroller.scrollTop += item.y - ROW;
    else if (item.y + ROW > height) scroller.scrollTop += item.y + 2 * ROW - height;
    draw();
    const at = drawn.find(candidate => candidate.node === next), box = $('canvas').getBoundingClientRect();
    showCard(next, box.left + Math.max(0, at.x), box.top + at.y);
    $('spoken').textContent = `${labelOf(next)}, ${kindOfNode(next)}, ${rowsOf(next).rows.map(row => row.join(' ')).join(', ')}`;
  }

  // ---- table

  const COLUMNS = [
    ['total', 'total', s => duration(stacks.total[s])], ['share', 'total', s => share(stacks.total[s], meta.total)],
    ['count', 'count', s => number(stacks.count[s])], ['p50', 'p50', s => duration(stacks.p50[s])],
    ['p99', 'p99', s => duration(stacks.p99[s])], ['max', 'max', s => duration(stacks.max[s])],
    ['goroutines', 'goroutines', s => stacks.goid[s] === null ? number(stacks.goroutines[s]) : `id ${stacks.goid[s]}`],
    ['in progress', 'progress', s => number(stacks.progress[s])],
  ];

  function drawTable() {
    const { shown } = shownStacks(view);
    let rows = shown.map(stack => [stack, pathOf(stack, view.machinery)]);
    if (regex) rows = rows.filter(([, path]) => path.some(frame => regex.test(nameOf(frames.function[frame]))));
    rows.sort((a, b) => (stacks[view.sort][b[0]] - stacks[view.sort][a[0]]) * (view.down ? 1 : -1) || a[0] - b[0]);
    const table = element('table'), head = element('tr'), body = element('tbody');
    for (const [title, column] of COLUMNS) {
      const cell = element('th'), sorted = view.sort === column && title !== 'share';
      cell.scope = 'col';
      cell.setAttribute('aria-sort', sorted ? (view.down ? 'descending' : 'ascending') : 'none');
      cell.append(button(title + (sorted ? (view.down ? ' ▾' : ' ▴') : ''), () => {
        view.down = view.sort === column ? !view.down : true;
        view.sort = column;
        drawTable();
      }));
      head.append(cell);
    }
    head.append(element('th', 'why', 'left'), element('th', 'stack, leaf first', 'left'));
    for (const [stack, path] of rows.slice(0, TABLE_ROWS)) {
      const row = element('tr'), leafFirst = path.slice(0, -1).reverse(), cell = element('td', undefined, 'stack');
      for (const column of COLUMNS) row.append(element('td', column[2](stack)));
      const first = leafFirst.length ? leafFirst[0] : path[0], file = texts[frames.file[first]];
      cell.append(element('b', nameOf(frames.function[first])), document.createTextNode(file ? `  ${file}:${frames.line[first]}` : ''));
      const rest = leafFirst.slice(1, 12).map(frame => nameOf(frames.function[frame]));
      cell.append(element('div', rest.join(' ← ') + (leafFirst.length > 12 ? ' ← …' : '')));
      row.append(element('td', nameOf(frames.function[stacks.reason[stack]]), 'left'), cell);
      row.tabIndex = 0;
      row.title = 'Show in the flame graph';
      const open = () => {
        let node = root;
        for (const frame of path) node = node.children.get(frames.function[frame]);
        setTab(false);
        zoomTo(node.parent || node);
      };
      row.addEventListener('click', open);
      row.addEventListener('keydown', event => { if (event.key === 'Enter') open(); });
      body.append(row);
    }
    const top = element('thead');
    top.append(head);
    table.append(top, body);
    const note = rows.length > TABLE_ROWS ? [element('p', `The first ${TABLE_ROWS} of ${number(rows.length)} stacks.`)] : [];
    $('table').replaceChildren(table, ...note);
  }

  // ---- the page around it

  function fillHead() {
    const target = meta.targets[0];
    $('title').append(meta.targets.map(item => item.name).join(', ') || 'gotrace', ' ', element('span', 'off-CPU time'));
    const facts = $('facts');
    facts.append(element('b', duration(meta.total)), ` off the CPU in ${number(meta.intervals)} intervals of `
      + `${number(meta.goroutines)} goroutines · ${duration(meta.duration)} window from ${meta.start} · mode ${meta.mode}`);
    if (target) facts.append(` · ${target.go} · ${target.exe}`);
    const warnings = $('warnings');
    const warn = (strong, rest) => {
      const line = element('p');
      line.append(element('b', strong), rest);
      warnings.append(line);
      warnings.hidden = false;
    };
    if (!meta.complete) warn('Incomplete: ', 'the trace was cut short; figures are those of the last commit.');
    if (meta.attached < meta.duration) warn('Not all of the window: ', `probes were attached for ${share(meta.attached, meta.duration)} of it.`);
    if (meta.filters.length) warn('Only a part was recorded: ', meta.filters.join(', '));
    for (const loss of meta.losses) warn(`${number(loss.count)} ${loss.name}: `, loss.text);
  }

  function timeBy(column) {
    const sums = new Map();
    for (let stack = 0; stack < stacks.node.length; stack++) {
      if (stacks.background[stack] && !view.background) continue;
      const name = texts[stacks[column][stack]];
      sums.set(name, (sums.get(name) || 0) + stacks.total[stack]);
    }
    return [...sums].sort((a, b) => b[1] - a[1]);
  }

  function fillFilters() {
    for (const [id, column] of [['state', 'state'], ['reason', 'why']]) {
      const options = timeBy(column).filter(([name]) => name);
      if (view[id] && !options.some(([name]) => name === view[id])) options.push([view[id], 0]);
      const made = [['', `all ${id}s`]].concat(options.map(([name, time]) => [name, `${name} (${duration(time)})`]));
      $(id).replaceChildren(...made.map(([value, text]) => Object.assign(element('option', text), { value })));
      $(id).value = view[id];
    }
    const bar = element('div', undefined, 'bar'), keys = element('div', undefined, 'keys'), states = timeBy('state');
    const whole = states.reduce((sum, [, time]) => sum + time, 0);
    for (const [name, time] of states) {
      const part = button('', () => change({ state: view.state === name ? '' : name }));
      part.style.width = 100 * time / (whole || 1) + '%';
      part.style.background = STATE_COLOUR[name];
      part.title = `${name}: ${duration(time)}; click to show only these`;
      part.setAttribute('aria-label', part.title);
      part.classList.toggle('off', Boolean(view.state) && view.state !== name);
      bar.append(part);
      const key = element('span'), swatch = element('span', undefined, 'swatch');
      swatch.style.background = STATE_COLOUR[name];
      key.append(swatch, element('b', name), ` ${duration(time)} · ${share(time, whole)}`);
      keys.append(key);
    }
    $('states').replaceChildren(bar, keys);
  }

  function fillFoot(hidden) {
    $('status').textContent = hidden
      ? `Runtime goroutines hidden: ${duration(hidden)}, ${share(hidden, meta.total)} of all off-CPU time` : '';
    const present = new Set(functions.kind.map(index => kinds[index]));
    $('legend').replaceChildren(...kinds.filter(kind => present.has(kind)).map(kind => {
      const [hue, saturation, light, night] = KIND_COLOUR[kind], key = element('span'), swatch = element('span', undefined, 'swatch');
      swatch.style.background = `hsl(${hue} ${isDark() ? saturation * 0.72 : saturation}% ${isDark() ? night : light}%)`;
      key.append(swatch, kind);
      return key;
    }));
  }

  function setTab(table) {
    view.table = table;
    $('graph').hidden = table;
    $('table').hidden = !table;
    $('tab-graph').setAttribute('aria-selected', String(!table));
    $('tab-table').setAttribute('aria-selected', String(table));
    $('card').hidden = true;
    if (table) drawTable(); else resize();
    remember();
  }

  /** Applies new filters: the tree is built anew, and the zoom kept where its path still exists. */
  function change(update, path) {
    const wanted = path || pathTo(view.zoom);
    Object.assign(view, update);
    const { shown, hidden } = shownStacks(view);
    root = build(shown, view.machinery);
    let zoom = root;
    for (const fn of wanted) {
      if (!zoom.children.has(fn)) break;
      zoom = zoom.children.get(fn);
    }
    view.zoom = zoom === root ? null : zoom;
    view.focus = null;
    $('card').hidden = true;
    for (const id of ['background', 'machinery']) $(id).checked = view[id];
    $('search').value = view.search;
    $('orientation').setAttribute('aria-pressed', String(view.icicle));
    if (view.theme) document.documentElement.dataset.theme = view.theme;
    document.documentElement.dataset.theme = isDark() ? 'dark' : 'light';
    fillFilters();
    fillFoot(hidden);
    search();
    crumbs();
    setTab(view.table);
  }

  function pathTo(node) {
    const path = [];
    for (; node && node.parent; node = node.parent) path.unshift(node.fn);
    return path;
  }

  // ---- state in the address

  const FLAGS = { background: 'rg', machinery: 'rf', icicle: 'icicle', table: 'table' };
  function remember() {
    const out = new URLSearchParams();
    for (const id of ['state', 'reason', 'search', 'theme']) if (view[id]) out.set(id, view[id]);
    for (const [id, name] of Object.entries(FLAGS)) if (view[id]) out.set(name, '1');
    if (view.zoom) out.set('zoom', pathTo(view.zoom).map(fn => fn.toString(36)).join('.'));
    const fragment = out.toString();
    try {
      if (fragment !== location.hash.slice(1)) history.replaceState(null, '', fragment ? '#' + fragment : location.pathname + location.search);
    } catch (refused) { /* a sandboxed frame may not change its address: the view still works */ }
  }
  function recall() {
    const from = new URLSearchParams(location.hash.slice(1)), update = {};
    for (const id of ['state', 'reason', 'search', 'theme']) update[id] = from.get(id) || '';
    for (const [id, name] of Object.entries(FLAGS)) update[id] = from.get(name) === '1';
    if (!['', 'dark', 'light'].includes(update.theme)) update.theme = '';
    change(update, (from.get('zoom') || '').split('.').filter(Boolean).map(text => parseInt(text, 36)));
  }

  // ---- events

  function redraw() {
    search();
    if (view.table) drawTable(); else draw();
    remember();
  }
  const reset = () => change({ search: '', state: '', reason: '' }, []);
  for (const id of ['state', 'reason']) $(id).addEventListener('change', event => change({ [id]: event.target.value }));
  for (const id of ['background', 'machinery']) $(id).addEventListener('change', event => change({ [id]: event.target.checked }));
  $('search').addEventListener('input', event => { view.search = event.target.value; redraw(); });
  $('tab-graph').addEventListener('click', () => setTab(false));
  $('tab-table').addEventListener('click', () => setTab(true));
  $('orientation').addEventListener('click', () => change({ icicle: !view.icicle }));
  $('theme').addEventListener('click', () => change({ theme: isDark() ? 'light' : 'dark' }));
  $('reset').addEventListener('click', reset);
  $('help-button').addEventListener('click', () => $('help').showModal());
  $('scroller').addEventListener('scroll', () => { $('card').hidden = true; draw(); });
  $('canvas').addEventListener('mousemove', event => {
    const node = nodeAt(event);
    if (node) showCard(node, event.clientX, event.clientY); else $('card').hidden = true;
  });
  $('canvas').addEventListener('mouseleave', () => { $('card').hidden = true; });
  $('canvas').addEventListener('click', event => {
    const node = nodeAt(event);
    if (node) zoomTo(node);
  });
  addEventListener('resize', resize);
  addEventListener('hashchange', recall);
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => change({}));
  addEventListener('keydown', event => {
    if ($('help').open || event.ctrlKey || event.metaKey || event.altKey) return;
    const typing = event.target.matches('input[type="search"], select');
    if (event.key === 'Escape') { reset(); $('search').blur(); }
    else if (typing) return;
    else if (event.key === '/') $('search').focus();
    else if (event.key === '?') $('help').showModal();
    else if (event.key === 'i') change({ icicle: !view.icicle });
    else if (event.key === 't') setTab(!view.table);
    else if (!view.table && event.key.startsWith('Arrow')) moveFocus(event.key);
    else if (!view.table && event.key === 'Enter' && view.focus && !event.target.matches('button, summary')) zoomTo(view.focus);
    else if (!view.table && event.key === 'Backspace' && view.zoom) zoomTo(view.zoom.parent);
    else return;
    event.preventDefault();
  });

  fillHead();
  recall();
  document.documentElement.dataset.ready = String(stacks.node.length);
})();
