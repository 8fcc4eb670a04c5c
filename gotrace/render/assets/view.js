// The current view, and the fragment of the address that restores it.
const view = (() => {
  const TEXTS = ['state', 'reason', 'label', 'start', 'search', 'theme', 'palette', 'show', 'width', 'sort', 'part', 'span', 'range'];
  const FLAGS = { background: 'rg', machinery: 'rf', objects: 'fd', ascending: 'up', icicle: 'icicle', reversed: 'reversed', byName: 'name',
    compare: 'compare' };
  const CHOICES = {
    theme: ['dark', 'light'], palette: ['package', 'state', 'growth', 'kind'], show: ['both', 'table'], width: ['after', 'before'],
    part: ['requests', 'work', 'idle', 'all'],
  };
  const self = {
    state: '', reason: '', label: '', start: '', search: '', theme: '', palette: '', show: '', width: '', sort: '', part: '', span: '', range: '',
    background: false, machinery: false, objects: false, ascending: false, icicle: false, reversed: false, byName: false, compare: false,
    sandwich: -1,        // a function
    zoom: null,          // { tree, node }, null: all
    focus: null,         // likewise, where the keyboard is
  };

  const system = matchMedia('(prefers-color-scheme: dark)');
  const isDark = () => (self.theme || (system.matches ? 'dark' : 'light')) === 'dark';
  const palette = () => self.palette || (profile.diff ? 'growth' : 'kind');

  /** Which time is shown: requests first, else work. */
  const partName = () => requests.parts.includes(self.part) ? self.part : requests.parts[0];

  function fragment() {
    const out = new URLSearchParams();
    for (const key of TEXTS) if (self[key]) out.set(key, self[key]);
    for (const [key, name] of Object.entries(FLAGS)) if (self[key]) out.set(name, '1');
    if (self.sandwich >= 0) out.set('sandwich', self.sandwich.toString(36));
    if (self.zoom) {
      out.set('zoom', self.zoom.tree.path(self.zoom.node).map(fn => fn.toString(36)).join('.'));
      if (self.sandwich >= 0 && self.zoom.tree.upward) out.set('half', 'callers');
    }
    return out.toString();
  }

  function remember() {
    const text = fragment();
    if (text === location.hash.slice(1)) return;
    try {
      history.replaceState(null, '', text ? '#' + text : location.pathname + location.search);
    } catch (refused) { /* a sandboxed frame may not change its address: the view still works */ }
  }

  /** The view in the address, and the path to zoom to. Parts that make no sense are left out. */
  function recalled() {
    const from = new URLSearchParams(location.hash.slice(1)), update = {};
    for (const key of TEXTS) update[key] = from.get(key) || '';
    for (const [key, allowed] of Object.entries(CHOICES)) if (!allowed.includes(update[key])) update[key] = '';
    for (const [key, name] of Object.entries(FLAGS)) update[key] = from.get(name) === '1';
    if (!location.hash && profile.meta.runtime) update.machinery = true;
    const fn = parseInt(from.get('sandwich') || '', 36);
    update.sandwich = fn >= 0 && fn < profile.functions.name.length ? fn : -1;
    const path = (from.get('zoom') || '').split('.').filter(Boolean).map(text => parseInt(text, 36));
    return { update, path, upward: update.sandwich >= 0 && from.get('half') === 'callers' };
  }

  return Object.assign(self, { isDark, system, paletteName: palette, partName, remember, recalled });
})();
