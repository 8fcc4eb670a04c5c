// The requests above the graph: how long they took, which of them are looked at, what their time went to in the end, the slowest.
const latency = (() => {
  const { brief, duration, number, counted, share } = words;
  const HEIGHT = 96, FOOT = 16, TOP = 13, EDGES = [[0, 0.5], [0.5, 0.9], [0.9, 0.99], [0.99, 1]], CAUSES = 6;
  let drag = null, change = () => {};

  const band = (low, high) => `p${+(100 * low).toFixed(2)}–${+(100 * high).toFixed(2)}`;

  // ---- the scale: logarithmic, from the shortest to the longest

  function scaleOf(span) {
    const low = Math.log(Math.max(1, profile.bucketLow(span.buckets[0].bucket))), high = Math.log(profile.bucketLow(span.buckets.at(-1).bucket + 1));
    const width = $('latency').clientWidth, spread = Math.max(high - low, 0.3);
    return {
      width, x: ns => width * (Math.log(Math.max(1, ns)) - low) / spread,
      bucketAt: x => {
        const ns = Math.exp(low + spread * Math.max(0, Math.min(1, x / (width || 1))));
        let bucket = span.buckets[0].bucket;
        while (bucket < span.buckets.at(-1).bucket && profile.bucketLow(bucket + 1) <= ns) bucket++;
        return bucket;
      },
    };
  }

  function draw() {
    const span = requests.chosen(), canvas = $('latency');
    if (!span || !$('requests').open || !span.buckets.length) return;
    const ratio = devicePixelRatio || 1, scale = scaleOf(span), dark = view.isDark(), [low, high] = drag ? drag.range : requests.range(span) || [0, 1e9];
    Object.assign(canvas, { width: Math.round(scale.width * ratio), height: HEIGHT * ratio });
    const paint = canvas.getContext('2d'), tall = HEIGHT - FOOT, most = Math.max(...span.buckets.map(each => each.count));
    paint.setTransform(ratio, 0, 0, ratio, 0, 0);
    paint.font = flame.FONT.replace('12px', '11px');
    const ink = dark ? '#9aa7b4' : '#5a6672';
    for (const { bucket, count } of span.buckets) {
      const x = scale.x(profile.bucketLow(bucket)), wide = scale.x(profile.bucketLow(bucket + 1)) - x;
      // The height is logarithmic as well: one among thousands is seen.
      const tallness = Math.max(3, (tall - TOP) * Math.log1p(count) / Math.log1p(most));
      paint.fillStyle = bucket < low || bucket > high ? (dark ? '#3a4652' : '#c9d3dc') : dark ? '#7cc0f5' : '#0b62a8';
      paint.fillRect(x, tall - tallness, Math.max(1, wide - (wide > 4 ? 1 : 0)), tallness);
    }
    paint.fillStyle = paint.strokeStyle = ink;
    paint.fillRect(0, tall, scale.width, 1);
    for (let ten = 1; ten < 1e14; ten *= 10) for (const step of [1, 2, 5]) {
      const x = scale.x(ten * step), text = duration(ten * step).replace('.00', '').replace('.0 ', ' '), wide = paint.measureText(text).width;
      if (x < 0 || x + wide > scale.width) continue;
      paint.fillRect(x, tall, 1, 4);
      if (step === 1 || scale.x(1e10) - scale.x(1e9) > 260) paint.fillText(text, x + 3, HEIGHT - 3);
    }
    for (const [name, at] of [['p50', span.p50], ['p90', span.p90], ['p99', span.p99]]) {
      const x = scale.x(at);
      paint.setLineDash([3, 3]);
      paint.beginPath();
      paint.moveTo(x, 0);
      paint.lineTo(x, tall);
      paint.stroke();
      paint.fillText(name, Math.min(x + 3, scale.width - 24), 9);
    }
    paint.setLineDash([]);
    if (view.range || drag) {
      const from = scale.x(profile.bucketLow(low)), to = scale.x(profile.bucketLow(high + 1));
      paint.strokeStyle = dark ? '#ffffff' : '#0b1a2a';
      paint.strokeRect(from + 0.5, 0.5, Math.max(2, to - from - 1), tall);
    }
  }

  const wordsOf = (span, [low, high]) => `${duration(profile.bucketLow(low))} to ${duration(profile.bucketLow(high + 1))}`;

  /** Everything around the histogram, for what is chosen now. */
  function fill() {
    const span = requests.chosen(), section = $('requests');
    section.hidden = !span;
    if (!span) return;
    const { texts } = profile, range = requests.range(span), sums = requests.over(span, range);
    if ($('span').options.length !== requests.spans.length) {
      $('span').replaceChildren(...requests.spans.map((each, index) => Object.assign(
        element('option', brief(texts[each.name], 90) + (texts[each.process] ? `, ${texts[each.process]}` : '')), { value: String(index) })));
    }
    $('span').value = String(requests.spans.indexOf(span));
    const facts = $('span-facts');
    facts.replaceChildren(element('b', counted(span.count, 'request')),
      ` · ${span.rate >= 10 ? number(span.rate) : span.rate.toPrecision(2)}/s`
      + (span.progress ? ` · ${number(span.progress)} in progress` : '')
      + ` · p50 ${duration(span.p50)} · p90 ${duration(span.p90)} · p99 ${duration(span.p99)} · p99.9 ${duration(span.p999)} · max ${duration(span.max)}`);
    for (const gap of span.gaps) facts.append(Object.assign(element('span', gap), { className: 'gap' }));
    $('latency').hidden = !span.buckets.length;
    $('latency').setAttribute('aria-valuetext', range ? wordsOf(span, range) : 'all requests');
    const choices = EDGES.map(([low, high]) => [band(low, high), requests.rangeOf(span, low, high)]).filter(([, chosen]) => chosen);
    $('bands').replaceChildren(...[['all', null], ...choices].map(([name, wanted]) => {
      const made = button(name, () => change({ range: wanted ? wanted.join('-') : '', part: '' }), wanted
        ? `Requests of ${wordsOf(span, wanted)}: those of ${name} and what shares a bar with them` : 'All requests');
      made.setAttribute('aria-pressed', String(wanted ? view.range === wanted.join('-') : !range));
      return made;
    }));
    $('compare').checked = view.compare;
    $('range').textContent = (range ? `${number(sums.requests)} of ${counted(span.count, 'request')}, ${wordsOf(span, range)}` : 'all requests')
      + (sums.requests ? `, mean ${duration(sums.ns / sums.requests)}` : '');
    fillCauses(sums);
    fillSlowest(span, range);
    draw();
  }

  function fillCauses(sums) {
    const list = requests.causesOf(sums), made = element('ol');
    for (const [text, part] of list.slice(0, CAUSES)) {
      const item = element('li'), bar = element('i');
      bar.style.width = 100 * Math.min(1, part) + '%';
      item.append(bar, element('b', share(part, 1)), ' ', element('span', text));
      item.title = text;
      made.append(item);
    }
    $('causes').hidden = !list.length;
    $('causes-list').replaceChildren(made);
    $('causes-name').textContent = `Causes in the end, of ${share(Math.min(sums.explained, sums.ns), sums.ns)} of the time`;
  }

  function fillSlowest(span, range) {
    const { texts } = profile, list = element('ol'), bucketOf = ns => span.buckets.findLast(each => profile.bucketLow(each.bucket) <= ns)?.bucket ?? 0;
    for (const exemplar of span.exemplars) {
      const item = element('li'), what = exemplar.what < 0 ? '' : texts[exemplar.what], bucket = bucketOf(exemplar.duration);
      const made = button('', () => waterfall.show(span, exemplar), exemplar.path.length ? 'Show where its time went' : 'Its path could not be followed');
      made.append(element('b', words.lasted(exemplar)), ` ${brief(what || `goroutine ${exemplar.goid}`, 100)} `,
        element('span', (exemplar.before ? 'begun before the window' : `at ${duration(exemplar.start)}`) + (exemplar.progress ? ', in progress' : '')));
      made.classList.toggle('off', Boolean(range) && (bucket < range[0] || bucket > range[1]));
      item.append(made);
      list.append(item);
    }
    $('slowest').hidden = !span.exemplars.length;
    $('slowest-list').replaceChildren(list);
  }

  // ---- choosing a range: dragging, or the arrow keys

  const toRange = ([low, high]) => change({ range: `${low}-${high}`, part: '' });

  function listen(onChange) {
    change = onChange;
    if (!requests.spans.length) return void $('latency').remove();
    const canvas = $('latency'), at = event => scaleOf(requests.chosen()).bucketAt(event.clientX - canvas.getBoundingClientRect().left);
    canvas.addEventListener('pointerdown', event => {
      const bucket = at(event);
      drag = { from: bucket, range: [bucket, bucket] };
      canvas.setPointerCapture(event.pointerId);
      draw();
    });
    canvas.addEventListener('pointermove', event => {
      const bucket = at(event), span = requests.chosen();
      if (drag) {
        drag.range = [Math.min(drag.from, bucket), Math.max(drag.from, bucket)];
        draw();
      }
      const range = drag ? drag.range : [bucket, bucket];
      canvas.title = `${wordsOf(span, range)}: ${counted(requests.over(span, range).requests, 'request')}`;
    });
    const finish = () => {
      const range = drag && drag.range;
      drag = null;
      if (range) toRange(range);
    };
    canvas.addEventListener('pointerup', finish);
    canvas.addEventListener('lostpointercapture', finish);
    canvas.addEventListener('pointercancel', () => { drag = null; draw(); });
    canvas.addEventListener('keydown', onKey);
    $('span').addEventListener('change', event => change({ span: event.target.value, range: '', part: '' }, []));
    $('compare').addEventListener('change', event => change({ compare: event.target.checked, part: '' }));
  }

  /** Arrows move the range by a bar, with Shift its end; Home and End go to the shortest and the longest; Escape chooses all. */
  function onKey(event) {
    const span = requests.chosen(), all = span.buckets.map(each => each.bucket), now = requests.range(span);
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const next = (bucket, by) => all[Math.max(0, Math.min(all.length - 1, all.findIndex(each => each >= bucket) + by))];
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (by) {
      if (!now) toRange(by > 0 ? [all[0], all[0]] : [all.at(-1), all.at(-1)]);
      else if (event.shiftKey) toRange([now[0], Math.max(now[0], next(now[1], by))]);
      else toRange([next(now[0], by), next(now[1], by)]);
    } else if (event.key === 'Home') toRange([all[0], all[0]]);
    else if (event.key === 'End') toRange([all.at(-1), all.at(-1)]);
    else if (event.key === 'Escape' && view.range) change({ range: '' });
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  return { fill, draw, listen };
})();
