'use strict';
// Hover, zoom and search in the static SVG. Knows only the drawing: each frame's box and title.
(() => {
  const byId = id => document.getElementById(id);
  const LETTER = 7.2, MARGIN = 10, INNER = 1180, HIT = '#d81b60';
  const frames = [...byId('frames').children].map(group => {
    const [title, rect, text] = group.children, [name] = title.textContent.split('\n'), fill = rect.getAttribute('fill');
    const x = +rect.getAttribute('x'), y = +rect.getAttribute('y'), width = +rect.getAttribute('width');
    const folders = name.match(/^[^[(]*\//);
    return {
      group, rect, text, name, raw: group.dataset.raw || name, fill, x, y, w: width >= 2.7 ? width + 0.3 : width / 0.9,
      about: title.textContent.replace('\n', '  '), folders: folders && /^[a-z]/i.test(name) ? folders[0].length : 0,
      ink: [1, 3, 5].some(at => parseInt(fill.slice(at, at + 2), 16) > 110) ? '#06101a' : '#ffffff',
    };
  });
  const root = frames[0];
  let zoomed = root, term = '', ignoreCase = false;

  function fit(frame, width) {
    const room = Math.floor((width - 6) / LETTER);
    if (room < 3) return '';
    const name = frame.name.length > room ? frame.name.slice(frame.folders) : frame.name;
    return name.length <= room ? name : name.slice(0, room - 1) + '…';
  }

  function place(frame, x, w) {
    frame.rect.setAttribute('x', x.toFixed(2));
    frame.rect.setAttribute('width', Math.max(w - 0.3, 0.1).toFixed(2));
    const words = fit(frame, w);
    if (!frame.text && words) {
      frame.text = document.createElementNS('http://www.w3.org/2000/svg', 'text');
      frame.text.setAttribute('y', frame.y + 12);
      frame.text.setAttribute('fill', frame.rect.getAttribute('fill') === HIT ? '#ffffff' : frame.ink);
      frame.group.append(frame.text);
    }
    if (!frame.text) return;
    frame.text.setAttribute('x', (x + 3).toFixed(0));
    frame.text.textContent = words;
  }

  function zoom(to) {
    zoomed = to;
    const scale = INNER / to.w, slack = 0.02;  // for the rounding in the file
    for (const frame of frames) {
      const below = frame.y > to.y && frame.x <= to.x + slack && frame.x + frame.w >= to.x + to.w - slack;
      const inside = frame.y <= to.y && frame.x >= to.x - slack && frame.x + frame.w <= to.x + to.w + slack;
      frame.group.classList.toggle('off', !below && !inside);
      frame.group.classList.toggle('above', below);
      if (below) place(frame, MARGIN, INNER);
      else if (inside) place(frame, MARGIN + (frame.x - to.x) * scale, frame.w * scale);
    }
    byId('reset').classList.toggle('off', to === root);
    remember();
  }

  function search(wanted) {
    let regex = null;
    term = wanted;
    byId('matched').textContent = ' ';
    if (term) {
      try { regex = new RegExp(term, ignoreCase ? 'i' : ''); } catch (problem) { byId('matched').textContent = 'not a regular expression'; }
    }
    const hits = [];
    for (const frame of frames) {
      const hit = Boolean(regex) && frame !== root && (regex.test(frame.name) || regex.test(frame.raw));
      if (hit) hits.push(frame);
      frame.rect.setAttribute('fill', hit ? HIT : frame.fill);
      if (frame.text) frame.text.setAttribute('fill', hit ? '#ffffff' : frame.ink);
    }
    if (regex) {
      // A hit above a hit is the same time: it begins before the end of the one below.
      let end = -1, width = 0;
      for (const { x, w } of hits.sort((a, b) => a.x - b.x || b.w - a.w)) {
        if (x >= end - 0.02) { width += w; end = x + w; }
      }
      byId('matched').textContent = `Matched: ${(100 * width / root.w).toFixed(1)} %`;
    }
    byId('search').textContent = term ? 'Reset search' : 'Search';
    remember();
  }

  function ask() {
    if (term) { search(''); return; }
    const wanted = prompt('Functions that match this regular expression:', '');
    if (wanted) search(wanted);
  }

  function toggleCase() {
    ignoreCase = !ignoreCase;
    byId('case').setAttribute('fill', ignoreCase ? '#0b62a8' : '#5a6672');
    search(term);
  }

  // ---- the view in the address: level and left edge of the zoomed frame, and the search

  function remember() {
    const out = new URLSearchParams();
    if (zoomed !== root) { out.set('y', zoomed.y); out.set('x', zoomed.x); }
    if (term) out.set('s', term);
    if (ignoreCase) out.set('i', '1');
    const fragment = out.toString();
    try {
      if (fragment !== location.hash.slice(1)) history.replaceState(null, '', fragment ? '#' + fragment : location.pathname + location.search);
    } catch (refused) { /* a sandboxed frame may not change its address: the view still works */ }
  }
  function recall() {
    const from = new URLSearchParams(location.hash.slice(1));
    const found = frames.find(frame => String(frame.x) === from.get('x') && String(frame.y) === from.get('y'));
    const wanted = from.get('s') || '';
    if ((from.get('i') === '1') !== ignoreCase) toggleCase();
    zoom(found || root);
    search(wanted);
  }

  // ---- events

  const frameAt = event => frames.find(frame => frame.group === event.target.closest('#frames > g'));
  byId('frames').addEventListener('mouseover', event => { const frame = frameAt(event); if (frame) byId('details').textContent = frame.about; });
  byId('frames').addEventListener('mouseleave', () => { byId('details').textContent = ' '; });
  byId('frames').addEventListener('click', event => { const frame = frameAt(event); if (frame) zoom(frame); });
  byId('reset').addEventListener('click', () => zoom(root));
  byId('search').addEventListener('click', ask);
  byId('case').addEventListener('click', toggleCase);
  addEventListener('hashchange', recall);
  addEventListener('keydown', event => {
    if (event.key === 'F3' || (event.ctrlKey && event.key === 'f')) ask();
    else if (event.ctrlKey && event.key === 'i') toggleCase();
    else if (event.key === 'Escape') { search(''); zoom(root); }
    else return;
    event.preventDefault();
  });
  for (const id of ['search', 'case']) byId(id).classList.remove('off');
  recall();
  document.documentElement.dataset.ready = String(frames.length);
})();
