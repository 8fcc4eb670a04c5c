'use strict';
// Numbers as a reader wants them; the same rules as gotrace/render/text.py.
const words = (() => {
  const digits = value => value.toFixed(value < 9.995 ? 2 : value < 99.95 ? 1 : 0);

  function duration(ns) {
    if (ns < 0) return '−' + duration(-ns);
    if (ns >= 7200e9) return digits(ns / 3600e9) + ' h';
    if (ns >= 600e9) return digits(ns / 60e9) + ' min';
    if (ns < 1000) return Math.round(ns) + ' ns';
    for (const [scale, unit] of [[1e3, 'µs'], [1e6, 'ms'], [1e9, 's']]) {
      if (ns < 999.5 * scale) return digits(ns / scale) + ' ' + unit;
    }
    return Math.round(ns / 1e9) + ' s';
  }
  const number = value => Math.round(value).toLocaleString('en-GB');
  const counted = (value, thing) => `${number(value)} ${thing}${value === 1 ? '' : 's'}`;

  function share(part, whole) {
    const percent = whole ? 100 * part / whole : 0;
    return percent > 0 && percent < 0.05 ? '<0.1 %' : percent.toFixed(1) + ' %';
  }

  /** Growth from before to after: "new", "vanished", "unchanged", "+12.0 %", "×3.4". */
  function change(before, after) {
    if (!before && !after) return '';
    if (!before) return 'new';
    if (!after) return 'vanished';
    const ratio = after / before;
    if (Math.abs(ratio - 1) < 0.0005) return 'unchanged';
    if (ratio >= 3) return '×' + digits(ratio);
    return (ratio >= 1 ? '+' : '−') + (100 * Math.abs(ratio - 1)).toFixed(1) + ' %';
  }

  /** A name cut to at most `most` characters by removing its middle. */
  const brief = (name, most) => name.length <= most ? name : name.slice(0, most / 2 - 1) + '…' + name.slice(1 - most / 2);

  /** How long a request took, as far as it is known. */
  const lasted = request => (request.progress || request.before ? 'at least ' : '') + duration(request.duration);

  /** A function's name without the path of its package: "http.(*conn).serve" of "net/http.(*conn).serve". A version stays with its module. */
  function withoutPath(name) {
    const head = name.split(/[([ ]/, 1)[0], parts = head.split('/'), kept = /^v\d+\./.test(parts.at(-1)) ? 2 : 1;
    return parts.slice(-kept).join('/') + name.slice(head.length);
  }

  return { brief, duration, lasted, number, counted, share, change, withoutPath };
})();
