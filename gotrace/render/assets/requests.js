// Which time is shown: that in requests (of some durations, per request), other work, waiting for work, or all. Touches no element.
const requests = (() => {
  const NAMES = { requests: 'In requests', work: 'Other work', idle: 'Waiting for work', all: 'All time' };
  const MEANING = {
    requests: 'Time in requests, on their own goroutines', work: 'All other time of goroutines that ran in the window',
    idle: 'Waits that lasted the whole window: of goroutines that did not run in it', all: 'All off-CPU time',
  };
  const self = { spans: [], parts: ['all'] };
  let whole = null, columns = {};  // of all time; by part

  /** Takes the columns of the page's data apart. A comparison of two captures has one part. */
  function load() {
    const { stacks, size } = profile, data = profile.requests, none = new Float64Array(size);
    profile.real = data ? data.stacks : size;
    whole = { total: stacks.total, count: stacks.count, before: stacks.before, before_count: stacks.before_count };
    columns = { all: whole };
    Object.assign(profile, { whole: profile.meta.total, wholeName: 'all off-CPU time', per: '', sides: ['before', 'after'], cut: null });
    if (profile.diff) return;
    const column = name => stacks[name] ? Float64Array.from(stacks[name]) : none;
    const idle = { total: column('idle'), count: column('idle_count') }, inside = { total: column('inside'), count: column('inside_count') };
    const rest = key => Float64Array.from(whole[key], (value, stack) => Math.max(0, value - idle[key][stack] - inside[key][stack]));
    columns = { all: whole, idle, work: { total: rest('total'), count: rest('count') }, requests: inside };
    self.spans = data ? data.spans.map(prepared) : [];
    // The runtime's own goroutines are hidden by themselves.
    const some = part => part.total.some((ns, stack) => ns > 0 && !stacks.background[stack]);
    self.parts = [...(self.spans.length ? ['requests'] : []), ...((self.spans.length || some(idle)) && some(columns.work) ? ['work'] : []),
      ...(some(idle) ? ['idle'] : []), 'all'];
  }

  function prepared(span) {
    const { buckets } = span, total = buckets.reduce((sum, each) => sum + each.total, 0), count = buckets.reduce((sum, each) => sum + each.count, 0);
    const fn = profile.frames.function[span.frame], { nodes } = profile, cut = new Uint8Array(nodes.parent.length);
    // Nodes from the outermost call of the span function on.
    for (let node = 0; node < cut.length; node++) {
      const up = nodes.parent[node];
      // 2: a label, which stays above the span function.
      cut[node] = nodes.fn[node] === fn || (up >= 0 && cut[up] === 1) ? 1 : profile.kindOf(nodes.fn[node]) === 'label' ? 2 : 0;
    }
    return { ...span, total, count, cut, sums: new Map() };
  }

  const totalOf = part => columns[part].total.reduce((sum, ns) => sum + ns, 0);
  const chosen = () => self.spans[Number(view.span)] || self.spans[0];

  /** Numbers of the first and last bucket of a band of percentiles: those that hold requests of it. */
  function rangeOf(span, low, high) {
    const first = Math.round(low * span.count), end = Math.round(high * span.count), found = [];
    let seen = 0;
    for (const { bucket, count } of span.buckets) {
      if (Math.min(seen + count, end) > Math.max(seen, first)) found.push(bucket);
      seen += count;
    }
    return found.length ? [found[0], found.at(-1)] : null;
  }

  /** The range that is chosen, as bucket numbers; null: all requests. */
  function range(span) {
    const match = /^(\d+)-(\d+)$/.exec(view.range);
    if (match) return [Number(match[1]), Number(match[2])].sort((a, b) => a - b);
    return span.shown[0] > 0 || span.shown[1] < 1 ? rangeOf(span, ...span.shown) : null;
  }

  /** Sums over the requests of a span whose durations lie in a range of buckets: requests, ns, and both by stack and by cause. */
  function over(span, wanted) {
    const key = String(wanted);
    if (span.sums.has(key)) return span.sums.get(key);
    const found = {
      requests: 0, ns: 0, total: new Float64Array(profile.size), count: new Float64Array(profile.size), causes: new Map(), explained: 0,
    };
    for (const { bucket, count, total, waits, causes, followed } of span.buckets) {
      if (wanted && (bucket < wanted[0] || bucket > wanted[1])) continue;
      found.requests += count;
      found.ns += total;
      for (let at = 0; at < waits.length; at += 3) {
        found.count[waits[at]] += waits[at + 1];
        found.total[waits[at]] += waits[at + 2];
      }
      for (let at = 0; followed && at < causes.length; at += 2) {
        // Of those that were followed to all.
        const ns = causes[at + 1] * total / followed;
        found.causes.set(causes[at], (found.causes.get(causes[at]) || 0) + ns);
        found.explained += ns;
      }
    }
    if (span.sums.size > 50) span.sums.clear();
    span.sums.set(key, found);
    return found;
  }

  /** Gives every stack the figures of what is to be shown. */
  function choose() {
    const { stacks, meta } = profile, part = view.partName();
    const use = figures => { for (const key of ['total', 'count', 'before', 'before_count']) stacks[key] = figures[key]; };
    Object.assign(profile, {
      part, diff: Boolean(meta.diff && whole.before), whole: meta.total, wholeName: 'all off-CPU time', per: '', sides: ['before', 'after'], cut: null,
    });
    if (part !== 'requests') return use(columns[part]);
    const span = chosen(), these = over(span, range(span)), per = (sums, values) => values.map(ns => ns / (sums.requests || 1));
    const figures = { total: per(these, these.total), count: these.count };
    if (view.compare) {
      const every = over(span, null);
      Object.assign(figures, { before: per(every, every.total), before_count: every.count });
      Object.assign(profile, { diff: true, sides: ['all', 'these'] });
    }
    Object.assign(profile, { whole: these.ns / (these.requests || 1), wholeName: 'a request’s time', per: ' per request', cut: span.cut });
    return use(figures);
  }

  /** The causes of some requests, largest first: [text, share of their time]. */
  function causesOf(sums) {
    return [...sums.causes].sort((a, b) => b[1] - a[1]).map(([cause, ns]) => [profile.texts[profile.requests.causes[cause]], ns / (sums.ns || 1)]);
  }

  return Object.assign(self, { NAMES, MEANING, load, choose, chosen, range, rangeOf, over, causesOf, totalOf });
})();
