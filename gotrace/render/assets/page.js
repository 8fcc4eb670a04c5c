// The page: what happens when something is clicked, typed or pressed.
const page = (() => {
  const { duration, share } = words;
  let regex = null, hotNext = 0, under = null;  // under: the pointer

  // ---- from a view to what is drawn

  /** Applies a new view: builds the trees again, and keeps the zoom if its path still exists. */
  function change(update, path, upward) {
    const old = view.zoom, wanted = path || (old ? old.tree.path(old.node) : []), up = path ? upward : Boolean(old && old.tree.upward);
    Object.assign(view, update);
    document.documentElement.dataset.theme = view.isDark() ? 'dark' : 'light';
    requests.choose();
    document.documentElement.toggleAttribute('data-diff', profile.diff);
    const { shown, hidden } = trees.shownStacks(view);
    flame.trees = view.sandwich >= 0 ? trees.around(view.sandwich, shown, view)
      : [(view.reversed ? trees.fromLeaf : trees.fromRoot)(shown, view)];
    const tree = flame.trees[flame.trees.length === 2 && !up ? 1 : 0], node = tree.find(wanted);
    view.zoom = node ? { tree, node } : null;
    view.focus = under = null;
    card.forget();
    card.hide();
    colours.reset();
    findHot();
    showControls();
    head.fillParts(change);
    latency.fill();
    head.fillFilters(change);
    head.fillFoot(hidden);
    search();
    crumbs();
    setShow(view.show);
  }

  function showControls() {
    for (const id of ['background', 'machinery', 'objects']) $(id).checked = view[id];
    $('search').value = view.search;
    $('palette').value = view.paletteName();
    $('order').value = view.byName ? 'name' : 'time';
    $('from').querySelector('[value="object"]').hidden = !profile.stacks.waited;
    $('from').value = !view.reversed ? 'root' : view.objects && profile.stacks.waited ? 'object' : 'leaf';
    $('width').value = view.width;
    $('width-label').hidden = !profile.diff;
    const growth = $('palette').querySelector('[value="growth"]');
    if (growth) growth.hidden = growth.disabled = !profile.diff;
    for (const [value, name] of [['after', profile.sides[1]], ['before', profile.sides[0]]]) {
      $('width').querySelector(`[value="${value}"]`).textContent = `width: ${name}`;
    }
    $('flip').setAttribute('aria-pressed', String(view.icicle));
    $('from').disabled = view.sandwich >= 0;
    $('flip').disabled = view.sandwich >= 0;
  }

  function search() {
    const box = $('search'), output = $('matched');
    flame.marks = [];
    regex = null;
    box.classList.remove('bad');
    output.textContent = '';
    $('also').hidden = true;
    if (!view.search) return;
    try {
      regex = new RegExp(view.search, 'i');
    } catch (problem) {
      box.classList.add('bad');
      output.textContent = 'not a regular expression';
      return;
    }
    const hit = new Uint8Array(profile.functions.name.length);
    for (let fn = 0; fn < hit.length; fn++) hit[fn] = Number(regex.test(profile.nameOf(fn)) || regex.test(profile.rawNameOf(fn)));
    // The search also covers names that the merged boundaries hide, and offers them.
    $('also').hidden = view.objects || ![...profile.objects].some(fn => hit[fn] && !regex.test(profile.nameOf(fn).split('(')[0]));
    const found = flame.trees.map(tree => tree.match(hit));
    flame.marks = found.map(each => each.marks);
    const [tree] = flame.trees, whole = tree.weight[0];
    // Both halves of a sandwich have the same time: a hit above or below counts once.
    const time = flame.trees.length === 1 ? found[0].weight : tree.shown.filter(stack =>
      flame.trees.some((each, at) => flame.marks[at][each.end[stack]] & 2))
      .reduce((sum, stack) => sum + trees.weightBy(view.width)(stack), 0);
    output.textContent = `matched ${share(time, whole)}`;
    output.title = `${duration(time)} of the ${duration(whole)} shown; nested hits count once`;
  }

  function setShow(show) {
    view.show = show;
    $('graph').hidden = show === 'table';
    $('table').hidden = !show;
    document.querySelector('main').dataset.show = show || 'graph';
    for (const [id, value] of [['tab-graph', ''], ['tab-both', 'both'], ['tab-table', 'table']]) {
      $(id).setAttribute('aria-selected', String(show === value));
    }
    card.hide();
    if (show) table.draw();
    flame.resize();
    view.remember();
  }

  function zoomTo(tree, node) {
    view.zoom = node ? { tree, node } : null;
    view.focus = { tree, node };
    card.hide();
    crumbs();
    if (view.show) table.draw();
    flame.resize();
    view.remember();
  }
  const zoomOut = () => view.zoom && zoomTo(view.zoom.tree, Math.max(0, view.zoom.tree.parent[view.zoom.node]));

  function crumbs() {
    const bar = $('crumbs'), made = [], zoom = view.zoom;
    if (view.sandwich >= 0) {
      const end = element('span', undefined, 'sandwiched');
      end.append('callers and callees of ', element('b', profile.nameOf(view.sandwich)), ' ',
        button('close', () => change({ sandwich: -1 }, []), 'Back to the whole graph (s)'));
      made.push(end);
    }
    if (zoom) {
      const chain = [];
      for (let node = zoom.node; node >= 0; node = zoom.tree.parent[node]) chain.unshift(node);
      const total = zoom.tree.total[zoom.node];
      let links = chain.map((node, index) => index < chain.length - 1
        ? button(profile.nameOf(zoom.tree.fn[node]), () => zoomTo(zoom.tree, node))
        : element('span', `${profile.nameOf(zoom.tree.fn[node])}  ${duration(total)}, ${share(total, profile.whole)}`));
      // A deep zoom: the root, then the last few.
      if (links.length > 6) links = [links[0], element('span', '…'), ...links.slice(-4)];
      made.push(...links.flatMap((item, index) => index ? [element('span', '›', 'between'), item] : [item]));
    }
    bar.replaceChildren(...made);
  }

  // ---- hot spots and rows of the table: from a stack to its box

  /** The box in which a stack's own code waits: the one below its boundary, reason and waker. */
  function boxOf(stack) {
    const [tree] = flame.trees;
    if (tree.upward) return tree.end[stack];
    let node = tree.end[stack];
    if (node < 0) return node;
    for (let left = profile.split(stack, view).tail.length; left > 0 && tree.parent[node] > 0; left--) node = tree.parent[node];
    return node;
  }
  function findHot() {
    flame.hotNodes = new Map(flame.trees.length === 1 ? profile.hotspots.map(spot => [spot, boxOf(spot.stack)]) : []);
    flame.hot = new Set([...flame.hotNodes.values()].filter(node => node > 0));
  }

  function showStack(stack) {
    const tree = flame.trees[0], update = { show: view.show === 'table' ? '' : view.show };
    if (flame.trees.length !== 1 || tree.end[stack] < 0) {
      Object.assign(update, { sandwich: -1, state: '', reason: '', label: '', start: '', search: '' }, requests.parts.length > 1 ? { part: 'all' } : {});
      if (profile.stacks.background[stack]) update.background = true;
      change(update, []);
    } else setShow(update.show);
    zoomTo(flame.trees[0], boxOf(stack));
    speak(flame.trees[0], boxOf(stack));
  }
  function jump(index) {
    hotNext = (index + 1) % profile.hotspots.length;
    showStack(profile.hotspots[index].stack);
    say(`Hot spot ${index + 1} of ${profile.hotspots.length}: ${profile.hotspots[index].why}`);
  }

  // ---- actions on one box: the focused one, else the one under the pointer, else the zoomed one

  const chosen = () => view.focus || under || view.zoom;

  function sandwich() {
    const box = chosen(), fn = box ? box.tree.fn[box.node] : -1;
    if (fn >= 0 && fn !== view.sandwich) change({ sandwich: fn }, []);
    else if (view.sandwich >= 0) change({ sandwich: -1 }, []);
    else say('Point at a function or move to it with the arrow keys first.');
  }

  async function copyName() {
    const box = chosen(), fn = box ? box.tree.fn[box.node] : view.sandwich;
    if (fn < 0) return say('Point at a function or move to it with the arrow keys first.');
    const name = profile.nameOf(fn);
    try {
      await navigator.clipboard.writeText(name);
    } catch (refused) {
      // Not available, or not allowed for files: the older way.
      const field = element('textarea', name, 'spoken');
      document.body.append(field);
      field.select();
      document.execCommand('copy');
      field.remove();
    }
    say(`Copied ${name}`);
  }

  function exportSvg() {
    if (view.show === 'table') setShow('');
    const { meta } = profile, zoom = view.zoom;
    const about = [view.state && `state ${view.state}`, view.reason && `reason ${view.reason}`, view.label, view.start && `goroutines of ${view.start}`,
      view.search && `search ${view.search}`, view.sandwich >= 0 && `callers and callees of ${profile.nameOf(view.sandwich)}`,
      zoom && `zoomed to ${profile.nameOf(zoom.tree.fn[zoom.node])}`].filter(Boolean).join(' · ');
    picture.save(document.title, `${duration(flame.trees[0].total[0])}${profile.per || ' off the CPU'}, ${duration(meta.duration)} window${about ? ' · ' + about : ''}`);
    say('Saved gotrace.svg');
  }

  let silent = 0;
  function say(text) {
    $('toast').textContent = text;
    $('toast').hidden = false;
    clearTimeout(silent);
    silent = setTimeout(() => { $('toast').hidden = true; }, 4000);
  }
  function speak(tree, node) {
    $('spoken').textContent = `${flame.labelOf(tree, node)}, ${flame.kindOf(tree, node)}, `
      + card.rowsOf(tree, node).map(row => row.join(' ')).join(', ');
  }

  // ---- keyboard

  function moveFocus(key) {
    const now = view.focus || view.zoom || { tree: flame.trees.at(-1), node: 0 };
    let { tree, node } = now;
    const two = flame.trees.length === 2, siblings = node ? [...tree.children(tree.parent[node], view.byName)] : [node];
    const away = two ? (tree.upward ? 'ArrowUp' : 'ArrowDown') : view.icicle ? 'ArrowDown' : 'ArrowUp';
    let next;
    if (key === 'Home') next = 0;
    else if (key === 'ArrowLeft') next = siblings[siblings.indexOf(node) - 1];
    else if (key === 'ArrowRight') next = siblings[siblings.indexOf(node) + 1];
    else if (key === away) next = tree.children(node, view.byName)[0];
    else if (node) next = tree.parent[node];
    else if (two) {
      tree = flame.trees[tree.upward ? 1 : 0];
      next = tree.children(0, view.byName)[0];
    }
    // The middle of a sandwich is drawn as the root of its lower half.
    if (two && next === 0) tree = flame.trees[1];
    const row = next === undefined ? null : flame.rowOf(tree, next);
    if (!row) return;
    view.focus = { tree, node: next };
    const scroller = $('scroller'), height = scroller.clientHeight;
    if (row.seen < 0) scroller.scrollTop += row.seen - flame.ROW;
    else if (row.seen + flame.ROW > height) scroller.scrollTop += row.seen + 2 * flame.ROW - height;
    flame.draw();
    const box = $('canvas').getBoundingClientRect();
    card.show(tree, next, box.left + Math.max(0, row.x), box.top + row.seen);
    speak(tree, next);
  }

  const cycle = (id, key, values) => change({ [key]: values[(values.indexOf($(id).value) + 1) % values.length] });
  const KEYS = {
    '/': () => { $('search').focus(); $('search').select(); },
    '?': () => $('help').showModal(),
    i: () => change({ icicle: !view.icicle }),
    r: () => change({ reversed: !view.reversed }, []),
    o: () => change({ byName: !view.byName }),
    p: () => cycle('palette', 'palette', [...$('palette').options].filter(option => !option.disabled).map(option => option.value)),
    w: () => requests.parts.length > 1
      ? change({ part: requests.parts[(requests.parts.indexOf(profile.part) + 1) % requests.parts.length] }, []) : say('This is all time.'),
    a: () => requests.spans.length ? change({ compare: !view.compare, part: '' }) : say('No requests.'),
    l: () => requests.spans.length ? $('latency').focus() : say('No requests.'),
    d: () => change({ theme: view.isDark() ? 'light' : 'dark' }),
    f: () => change({ machinery: !view.machinery }),
    g: () => change({ background: !view.background }),
    x: () => change({ objects: !view.objects }),
    t: () => setShow({ '': 'both', both: 'table', table: '' }[view.show]),
    s: sandwich, c: copyName, e: exportSvg,
    n: () => profile.hotspots.length ? jump(hotNext) : say('No hot spots.'),
    0: () => zoomTo(flame.trees.at(-1), 0),
    Backspace: zoomOut,
  };

  function onKey(event) {
    if (document.querySelector('dialog[open]') || event.ctrlKey || event.metaKey || event.altKey) return;
    const typing = event.target.matches('input[type="search"], select'), inGraph = view.show !== 'table' && !event.target.closest('#table');
    if (event.key === 'Escape') { reset(); $('search').blur(); }
    else if (typing) {
      if (event.key !== 'Enter' || !event.target.matches('#search')) return;
      $('canvas').focus();
    } else if (inGraph && /^Arrow|^Home$/.test(event.key)) moveFocus(event.key);
    else if (event.key === 'Enter') {
      if (!inGraph || !view.focus || event.target.closest('button, summary, tr, a')) return;
      zoomTo(view.focus.tree, view.focus.node);
    } else if (Object.hasOwn(KEYS, event.key)) KEYS[event.key]();
    else return;
    event.preventDefault();
  }

  const reset = () => change({ search: '', state: '', reason: '', label: '', start: '', range: '', sandwich: -1 }, []);
  function recall() {
    const { update, path, upward } = view.recalled();
    change(update, path, upward);
  }

  function listen() {
    for (const id of ['state', 'reason', 'label', 'start', 'palette', 'width']) $(id).addEventListener('change', event => change({ [id]: event.target.value }));
    for (const id of ['background', 'machinery', 'objects']) $(id).addEventListener('change', event => change({ [id]: event.target.checked }));
    $('order').addEventListener('change', event => change({ byName: event.target.value === 'name' }));
    $('from').addEventListener('change', event => {
      const { value } = event.target;
      change({ reversed: value !== 'root', ...(profile.stacks.waited && value !== 'root' ? { objects: value === 'object' } : {}) }, []);
    });
    $('search').addEventListener('input', event => {
      view.search = event.target.value;
      search();
      if (view.show) table.draw();
      flame.draw();
      view.remember();
    });
    $('tab-graph').addEventListener('click', () => setShow(''));
    $('tab-both').addEventListener('click', () => setShow('both'));
    $('tab-table').addEventListener('click', () => setShow('table'));
    $('flip').addEventListener('click', () => change({ icicle: !view.icicle }));
    $('theme').addEventListener('click', KEYS.d);
    $('reset').addEventListener('click', reset);
    $('also').addEventListener('click', () => change({ objects: true }));
    $('sandwich').addEventListener('click', sandwich);
    $('copy').addEventListener('click', copyName);
    $('svg').addEventListener('click', exportSvg);
    $('help-button').addEventListener('click', KEYS['?']);
    $('scroller').addEventListener('scroll', () => { card.hide(); flame.draw(); });
    $('canvas').addEventListener('mousemove', event => {
      const row = flame.rowAt(event.clientX, event.clientY);
      under = row ? { tree: row.tree, node: row.node } : null;
      if (row) card.show(row.tree, row.node, event.clientX, event.clientY);
      else card.hide();
    });
    $('canvas').addEventListener('mouseleave', () => { under = null; card.hide(); });
    $('canvas').addEventListener('click', event => {
      const row = flame.rowAt(event.clientX, event.clientY);
      if (row) zoomTo(row.tree, row.node);
    });
    for (const id of ['details', 'hotspots', 'requests']) $(id).addEventListener('toggle', () => { flame.resize(); latency.draw(); });
    latency.listen(change);
    waterfall.listen();
    addEventListener('resize', () => { flame.resize(); latency.draw(); });
    addEventListener('hashchange', recall);
    view.system.addEventListener('change', () => change({}));
    addEventListener('keydown', onKey);
  }

  async function start() {
    try {
      await profile.load();
    } catch (problem) {
      $('warnings').append(element('p', 'This browser cannot unpack the data of this page (it needs DecompressionStream, of 2023): ' + problem));
      $('warnings').hidden = false;
      return;
    }
    requests.load();
    if (!profile.diff && !requests.spans.length) $('palette').querySelector('[value="growth"]').remove();
    head.fillHead();
    head.fillHotspots(jump);
    listen();
    recall();
    performance.mark('drawn');
    document.documentElement.dataset.ready = String(profile.real);
  }

  return { start, change, showStack, zoomTo };
})();
page.start();
