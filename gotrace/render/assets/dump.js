// The page of a dump: verdicts, what goroutines wait for, and groups of them. gotrace/dump/page.py describes the data.
(async () => {
  const { duration, number, counted, share, brief } = words;
  const SHOWN = 200, IDS = 60;
  const packed = Uint8Array.from(atob($('data').textContent), letter => letter.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream('deflate'));
  const dump = JSON.parse(await new Response(stream).text());
  const { groups, frames, colours } = dump;
  const view = { search: '', state: '', reason: '', label: '', order: '', theme: '', object: '', verdict: '', machinery: false, open: false };
  const system = matchMedia('(prefers-color-scheme: dark)');
  let room = SHOWN;

  // ---- what a group says

  const total = groups.reduce((sum, group) => sum + group.count, 0);
  const isRuntime = frame => frames.kind[frame] === 'runtime';
  const folded = group => {
    const first = group.frames.findIndex(frame => !isRuntime(frame));
    if (view.machinery || first < 0) return group.frames;
    return group.frames.filter((frame, index) => index >= first && !(index === group.frames.length - 1 && isRuntime(frame)));
  };
  const why = group => group.reason ? `${group.state}: ${group.reason}` : group.state;
  for (const group of groups) {
    group.text = [why(group), group.object, ...group.labels, group.created, ...group.frames.flatMap(frame => [frames.name[frame], frames.place[frame]])]
      .join('\n');
  }

  // ---- which groups are shown

  function pattern() {
    try {
      $('search').classList.remove('bad');
      return view.search ? new RegExp(view.search, 'i') : null;
    } catch (wrong) {
      $('search').classList.add('bad');
      return null;
    }
  }

  function shown() {
    const search = pattern();
    const within = view.object !== '' ? dump.objects[view.object].groups : view.verdict !== '' ? dump.verdicts[view.verdict].groups : null;
    const wanted = within && new Set(within);
    const found = groups.filter((group, index) => (!view.state || group.state === view.state) && (!view.reason || why(group) === view.reason)
      && (!view.label || group.labels.includes(view.label)) && (!wanted || wanted.has(index)) && (!search || search.test(group.text)));
    return view.order ? found.sort((a, b) => (b.oldest ?? -1) - (a.oldest ?? -1)) : found;
  }

  // ---- what surrounds them

  function fillHead() {
    $('title').replaceChildren(dump.title, element('span', ` · ${counted(dump.goroutines, 'goroutine')}`));
    $('facts').textContent = dump.facts.join(' · ');
    $('warnings').hidden = !dump.notes.length;
    $('warnings').replaceChildren(...dump.notes.map(note => element('p', note)));
    $('losses').replaceChildren(...(dump.losses.length ? dump.losses.map(([count, name, text]) => {
      const line = element('div');
      line.append(element('b', `${number(count)} ${name}`), `: ${text}`);
      return line;
    }) : ['losses: none']));
  }

  function fillVerdicts() {
    $('verdicts').hidden = !dump.verdicts.length;
    $('verdicts').replaceChildren(...dump.verdicts.map((verdict, index) => {
      const line = element('div', undefined, `verdict${verdict.certain ? ' certain' : ''}`);
      line.append(element('b', verdict.certain ? verdict.kind : `${verdict.kind}, probably`), verdict.text);
      if (verdict.groups.length) {
        const made = button(String(index) === view.verdict ? 'Show all' : 'Show these', () => toggle('verdict', index), 'Only these goroutines');
        made.classList.add('whom');
        line.append(made);
      }
      return line;
    }));
  }

  const sumBy = valueOf => {
    const sums = new Map();
    for (const group of groups) for (const value of valueOf(group)) sums.set(value, (sums.get(value) || 0) + group.count);
    return [...sums].sort((a, b) => b[1] - a[1]);
  };

  function fillStates() {
    const bar = element('div', undefined, 'bar'), keys = element('div', undefined, 'keys');
    for (const [state, count] of sumBy(group => [group.state])) {
      const part = button('', () => change({ state: view.state === state ? '' : state }), `${state}: ${number(count)}; click to show only these`);
      part.style.width = `${100 * count / (total || 1)}%`;
      part.style.background = colours[state] || colours[''];
      part.setAttribute('aria-label', part.title);
      part.classList.toggle('off', Boolean(view.state) && view.state !== state);
      bar.append(part);
      const key = element('span');
      key.append(swatch(colours[state] || colours['']), element('b', state), ` ${number(count)} · ${share(count, total)}`);
      keys.append(key);
    }
    $('states').replaceChildren(bar, keys);
  }

  function fillSelects() {
    for (const [id, name, valueOf] of [['state', 'all states', group => [group.state]], ['reason', 'all reasons', group => [why(group)]],
      ['label', 'all labels', group => group.labels]]) {
      const options = sumBy(valueOf);
      $(id).hidden = !options.length;
      $(id).replaceChildren(...[['', name], ...options.map(([value, count]) => [value, `${brief(value, 80)} (${number(count)})`])]
        .map(([value, text]) => Object.assign(element('option', text), { value })));
      $(id).value = view[id];
    }
  }

  function fillObjects() {
    $('objects').hidden = !dump.objects.length;
    $('objects').querySelector('ul').replaceChildren(...dump.objects.map((object, index) => {
      const line = element('li'), made = button('', () => toggle('object', index), 'Only those who wait for it');
      made.append(element('b', number(object.waiters)), ` ${object.text}`);
      if (object.oldest !== null) made.append(element('span', `, the oldest for about ${duration(object.oldest)}`));
      made.setAttribute('aria-pressed', String(String(index) === view.object));
      line.append(made);
      return line;
    }));
  }

  // ---- the groups

  function stackOf(group, search) {
    const made = element('div', undefined, 'stack');
    const ids = group.ids.slice(0, IDS).join(', ') + (group.count > IDS ? ` and ${number(group.count - IDS)} more` : '');
    made.append(element('p', `goroutine${group.count === 1 ? '' : 's'} ${ids}${group.locked ? ', locked to the thread' : ''}`, 'ids'));
    const line = (name, place, kind) => {
      const one = element('p', name, kind + (search && (search.test(name) || search.test(place)) ? ' hit' : ''));
      if (place) one.append(element('span', `  ${place}`));
      made.append(one);
    };
    for (const frame of folded(group)) line(frames.name[frame], frames.place[frame], frames.kind[frame]);
    if (!group.frames.length) made.append(element('p', 'it runs, or its stack could not be read', 'ids'));
    if (group.created) line(`created by ${group.created}`, group.created_at, 'runtime');
    return made;
  }

  function rowOf(group, most, search) {
    const made = element('details', undefined, 'group'), head = element('summary'), count = element('div', undefined, 'number');
    const bar = element('i'), where = element('div', undefined, 'where'), said = element('div');
    bar.style.width = `${100 * group.count / most}%`;
    bar.style.background = colours[group.state] || colours[''];
    count.append(number(group.count), bar);
    const top = group.frames[group.top];
    said.append(element('span', why(group), 'tag'));
    for (const label of group.labels) said.append(element('span', label, 'tag'));
    said.append([group.oldest !== null ? `${group.count === 1 ? 'about' : 'up to about'} ${duration(group.oldest)}` : '', group.object && `at ${group.object}`]
      .filter(Boolean).join(', '));
    where.append(element('b', top === undefined ? why(group) : frames.name[top]), ` ${top === undefined ? '' : frames.place[top].split('/').pop()}`, said);
    head.append(count, where);
    made.append(head);
    const fill = () => { if (made.open && made.childElementCount === 1) made.append(stackOf(group, search)); };
    made.addEventListener('toggle', fill);
    made.open = view.open;
    fill();
    return made;
  }

  function fillGroups() {
    const found = shown(), most = Math.max(1, ...found.slice(0, 10000).map(group => group.count)), search = pattern();
    const rows = found.slice(0, room).map(group => rowOf(group, most, search));
    if (found.length > room) {
      const more = button(`${number(found.length - room)} more groups`, () => { room += 5 * SHOWN; fillGroups(); });
      more.classList.add('more');
      rows.push(more);
    }
    $('groups').replaceChildren(...rows);
    const goroutines = found.reduce((sum, group) => sum + group.count, 0);
    $('matched').textContent = `${counted(goroutines, 'goroutine')} in ${counted(found.length, 'group')}`;
    if (dump.left) $('matched').textContent += `, and ${counted(dump.left, 'group')} that are not in this page`;
  }

  // ---- changes

  const TEXTS = ['search', 'state', 'reason', 'label', 'order', 'theme', 'object', 'verdict'], FLAGS = ['machinery', 'open'];

  function draw() {
    document.documentElement.dataset.theme = view.theme || (system.matches ? 'dark' : 'light');
    for (const id of ['search', 'order']) if ($(id).value !== view[id]) $(id).value = view[id];
    for (const id of FLAGS) $(id).checked = view[id];
    fillVerdicts();
    fillStates();
    fillSelects();
    fillObjects();
    fillGroups();
    const out = new URLSearchParams();
    for (const key of TEXTS) if (view[key] !== '') out.set(key, view[key]);
    for (const key of FLAGS) if (view[key]) out.set(key, '1');
    try {
      history.replaceState(null, '', out.toString() ? '#' + out : location.pathname + location.search);
    } catch (refused) { /* a sandboxed frame may not change its address: the view still works */ }
  }

  function change(update) {
    room = SHOWN;
    Object.assign(view, update);
    draw();
  }
  const toggle = (key, index) => change({ object: '', verdict: '', [key]: view[key] === String(index) ? '' : String(index) });
  const reset = () => change({ search: '', state: '', reason: '', label: '', object: '', verdict: '' });

  function recall() {
    const from = new URLSearchParams(location.hash.slice(1));
    for (const key of TEXTS) view[key] = from.get(key) || '';
    for (const key of FLAGS) view[key] = from.get(key) === '1';
    if (!dump.objects[view.object]) view.object = '';
    if (!dump.verdicts[view.verdict]) view.verdict = '';
  }

  const KEYS = {
    d: () => change({ theme: document.documentElement.dataset.theme === 'dark' ? 'light' : 'dark' }),
    o: () => change({ order: view.order ? '' : 'age' }),
    f: () => change({ machinery: !view.machinery }),
    e: () => change({ open: !view.open }),
    '/': () => $('search').focus(),
    Escape: reset,
  };
  addEventListener('keydown', event => {
    const typing = /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName) && event.target.type !== 'checkbox';
    if (event.ctrlKey || event.metaKey || event.altKey || !KEYS[event.key] || (typing && event.key !== 'Escape')) return;
    event.preventDefault();
    KEYS[event.key]();
  });
  $('theme').addEventListener('click', KEYS.d);
  $('reset').addEventListener('click', reset);
  $('search').addEventListener('input', event => change({ search: event.target.value }));
  for (const id of ['state', 'reason', 'label', 'order']) $(id).addEventListener('change', event => change({ [id]: event.target.value }));
  for (const id of FLAGS) $(id).addEventListener('change', event => change({ [id]: event.target.checked }));
  system.addEventListener('change', draw);
  addEventListener('hashchange', () => { recall(); draw(); });
  recall();
  fillHead();
  draw();
  document.documentElement.dataset.ready = String(groups.length);
})();
