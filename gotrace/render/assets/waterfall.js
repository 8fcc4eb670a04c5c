// The path of one slow request: a track for each goroutine, a bar for each step, arrows where one waited for the other.
const waterfall = (() => {
  const { brief, duration, share, withoutPath } = words;
  const ROW = 30, FRAMES = 14;

  /** Steps in the order of time, with words. */
  function stepsOf(exemplar) {
    const { texts } = profile;
    return exemplar.path.map(([goid, start, long, state, reason, object, frames]) => {
      const own = frames.find(frame => profile.isProgram(profile.frames.function[frame])) ?? frames[0];
      const place = own === undefined ? '' : profile.nameOf(profile.frames.function[own]), name = texts[reason] || texts[state];
      const what = texts[state] === 'running' ? 'running' : texts[object] || !place ? name : `${name} in`;
      const where = what === 'running' ? place : texts[object] || place, short = where === place ? withoutPath(place) : where;
      return { goid, start, long, state: texts[state], frames, parts: [what, short], words: `${what} ${where}`.trim() };
    }).reverse();
  }

  const longestOf = steps => steps.reduce((best, step, at) => step.long > steps[best].long ? at : best, 0);

  function show(span, exemplar) {
    const { texts } = profile, steps = stepsOf(exemplar), dialog = $('waterfall');
    const goids = [...new Set([exemplar.goid, ...steps.map(step => step.goid)])], what = exemplar.what < 0 ? texts[span.name] : texts[exemplar.what];
    $('path-title').textContent = `${words.lasted(exemplar)} ${what}`;
    $('path-facts').textContent = [exemplar.before ? 'begun before the window: from its start on' : `from ${duration(exemplar.start)} of the window on`, `goroutine ${exemplar.goid}`,
      ...exemplar.labels.map(label => texts[label]), ...(exemplar.progress ? ['in progress'] : []),
      ...(steps.length ? [] : ['its path could not be followed'])].join(' · ');
    $('tracks').replaceChildren(...goids.map((goid, row) => track(goid, row, steps, exemplar)), ...arrows(goids, steps, exemplar));
    $('tracks').style.height = goids.length * ROW + 'px';
    $('path-scale').replaceChildren(...[0, 0.25, 0.5, 0.75, 1].map(part => element('span', duration(exemplar.duration * part))));
    $('step').replaceChildren();
    if (!dialog.open) dialog.showModal();
    const longest = $('tracks').querySelector(`[data-step="${longestOf(steps)}"]`);
    longest?.scrollIntoView({ block: 'center' });
    longest?.focus({ preventScroll: true });
  }

  const left = (exemplar, at) => 100 * Math.max(0, Math.min(1, (at - exemplar.start) / (exemplar.duration || 1)));

  function track(goid, row, steps, exemplar) {
    const line = element('div', undefined, 'track'), bars = element('div', undefined, 'bars');
    const frames = steps.find(step => step.goid === goid && step.frames.length)?.frames || [];
    const began = frames.map(frame => profile.nameOf(profile.frames.function[frame])).filter(name => !/^runtime\.goexit/.test(name)).at(-1) || '';
    const name = element('span', `goroutine ${goid} `, 'ends');
    name.append(goid === exemplar.goid ? '(the request)' : ending(withoutPath(began)));
    name.title = `goroutine ${goid} ${began}`;
    for (const [at, step] of steps.entries()) {
      if (step.goid !== goid) continue;
      const from = left(exemplar, step.start), bar = button('', () => tell(step, exemplar));
      bar.style.left = from + '%';
      bar.style.width = Math.max(0.1, left(exemplar, step.start + step.long) - from) + '%';
      bar.style.background = colours.STATE[step.state] || colours.STATE.unknown;
      bar.dataset.step = at;
      bar.title = `${step.words}: ${duration(step.long)}, ${share(step.long, exemplar.duration)}, ${duration(step.start - exemplar.start)} after its start`;
      bar.setAttribute('aria-label', bar.title);
      const [what, where] = step.parts, text = element('span', `${what} `, 'ends');
      text.append(ending(where));
      bar.append(text);
      bar.addEventListener('focus', () => tell(step, exemplar));
      bar.addEventListener('mouseenter', () => tell(step, exemplar));
      bars.append(bar);
    }
    line.append(name, bars);
    return line;
  }

  /** From the track that was waiting to the one that was waited for, and back. */
  function arrows(goids, steps, exemplar) {
    const made = element('div', undefined, 'arrows');
    for (let at = 1; at < steps.length; at++) {
      const from = goids.indexOf(steps[at - 1].goid), to = goids.indexOf(steps[at].goid);
      if (from === to) continue;
      const arrow = element('i', undefined, to > from ? 'down' : 'up');
      arrow.style.left = left(exemplar, steps[at].start) + '%';
      arrow.style.top = Math.min(from, to) * ROW + ROW / 2 + 'px';
      arrow.style.height = Math.abs(to - from) * ROW + 'px';
      made.append(arrow);
    }
    return [made];
  }

  function tell(step, exemplar) {
    const list = element('ol'), { frames } = profile;
    for (const frame of step.frames.slice(0, FRAMES)) {
      const item = element('li'), fn = frames.function[frame];
      item.append(profile.isProgram(fn) ? element('b', brief(profile.nameOf(fn), 160)) : brief(profile.nameOf(fn), 160),
        element('span', ` ${brief(profile.place(frame), 100)}`));
      list.append(item);
    }
    if (step.frames.length > FRAMES) list.append(element('li', `… ${step.frames.length - FRAMES} more towards the root`));
    const line = element('p');
    line.append(swatch(colours.STATE[step.state] || colours.STATE.unknown), element('b', step.words), ` · ${step.state} · goroutine ${step.goid} · ${duration(step.long)}, `
      + `${share(step.long, exemplar.duration)} of the request · ${duration(step.start - exemplar.start)} after its start`);
    $('step').replaceChildren(line, list);
  }

  function listen() {
    $('waterfall').addEventListener('keydown', event => {
      const by = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -1, ArrowDown: 1 }[event.key];
      if (!by) return;
      const now = Number(document.activeElement?.dataset.step ?? -by), next = $('tracks').querySelector(`[data-step="${now + by}"]`);
      if (next) next.focus();
      event.preventDefault();
    });
  }

  return { show, listen, stepsOf };
})();
