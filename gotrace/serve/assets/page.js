const at = (id) => document.getElementById(id);
const page = { found: null, pid: null, seconds: [], asked: 0, over: null, refused: null };
const axis = new Axis(at("axis"), () => { showRange(); overviewSoon(0); }, () => flame());

// -- what is shown ------------------------------------------------------------------------------------------------------

function showTargets() {
  const { found } = page;
  at("about").textContent = `${found.gotrace} · ${found.targets.filter((one) => one.condition === "tracing").length} traced · `
    + `${(found.resident_bytes / 1048576).toFixed(0)} MB`;
  const problems = [found.problem, found.killed ? "The kill file exists: nothing is traced." : "",
    found.left_out ? `${found.left_out} processes are left out: there are too many.` : ""].filter(Boolean);
  at("problem").hidden = !problems.length;
  at("problem").textContent = problems.join(" ");
  at("none").hidden = found.targets.length > 0;
  const focused = document.activeElement?.dataset?.pid;
  rows(at("targets"), found.targets.map((one) => {
    const name = element("td");
    const button = element("button", one.name);
    button.dataset.pid = one.pid;
    name.append(button);
    const latest = one.latest || {};
    const condition = element("td", one.condition, one.condition);
    if (one.why) condition.title = one.why;
    return [name, number(one.pid), cell((one.container || "").slice(0, 12)), condition, cell(one.condition === "tracing" ? one.rung : ""),
      number(share(one.cost)), number(count(one.goroutines?.total)), number(latest.requests === undefined ? "" : count(Math.round(latest.requests))),
      number(latest.requests ? duration(latest.p99_ns) : ""), number(latest.losses ? count(latest.losses) : "")];
  }));
  [...at("targets").tBodies[0].rows].forEach((row, index) => {
    const one = found.targets[index];
    row.setAttribute("aria-selected", one === chosen());
    row.addEventListener("click", () => select(one.pid));
    if (String(one.pid) === focused) row.querySelector("button").focus();
  });
}

function showPushed() {
  at("push").hidden = !page.found.push.length;
  rows(at("pushed"), page.found.push.map((one) => [cell(`${one.what} ${one.to}`), number(count(one.pushed)), number(count(one.waiting)),
    number(count(one.refused + one.dropped)), element("td", one.problem, one.problem ? "refused" : "")]));
}

function showCaptures() {
  const captures = [...page.found.captures].reverse();
  at("empty").hidden = captures.length > 0;
  rows(at("captures"), captures.map((one) => {
    const time = element("td", "", "time");
    const button = element("button", new Date(one.time).toLocaleString());
    button.addEventListener("click", () => {
      select(one.target.pid);
      if (one.window) {
        const from = new Date(one.window.start).getTime() / 1000;
        axis.choose(from, from + one.window.duration_ns / 1e9, true);
      }
    });
    time.append(button);
    return [time, cell(`${one.target.name} (${one.target.pid})`), cell(one.reason || one.kind), cell(one.error || one.files.join(" "), one.error ? "refused" : "")];
  }));
}

// A pid is used again: the latest process with it, one that lives before one that has ended.
function chosen() {
  const all = (page.found?.targets || []).filter((one) => one.pid === page.pid);
  return all.filter((one) => one.condition !== "ended").pop() || all.pop();
}

function showOne() {
  const one = chosen();
  at("one").hidden = !one;
  if (!one) return;
  at("one-title").textContent = `${one.name} (${one.pid})`;
  const said = [one.go_version, one.exe, one.why, ...one.missing.map((missing) => `without ${missing.stage}: ${missing.why}`),
    ...one.messages.slice(-1).map((message) => message.text)];
  at("why").textContent = said.filter(Boolean).join(" · ");
  axis.show(page.seconds, one.ring.to ? one.ring : null);
  showRange();
}

function showRange() {
  const one = chosen(), { stretch } = axis;
  if (page.refused && Date.now() < page.refused.until) { at("range").textContent = page.refused.text; return; }
  if (!one || !one.ring.to) { at("range").textContent = "nothing is kept yet"; return; }
  const { from, to } = stretch || one.ring;
  at("range").textContent = `${stretch ? "" : "all that is kept: "}${clock(from)} to ${clock(to)}, ${duration((to - from) * 1e9)}`;
}

function query() {
  const { stretch } = axis;
  return `target=${page.pid}${stretch ? `&from=${stretch.from.toFixed(3)}&to=${stretch.to.toFixed(3)}` : ""}`;
}

function flame() {
  const address = `flamegraph?${query()}`;
  at("graph").hidden = at("tab").hidden = false;
  at("graph").src = at("tab").href = address;
}

function showOverview(found) {
  const total = STATES.reduce((sum, state) => sum + (found.states[state] || 0), 0) || 1;
  const used = STATES.filter((state) => found.states[state]).sort((a, b) => found.states[b] - found.states[a]);
  at("bar").replaceChildren(...used.map((state) => {
    const part = element("div");
    part.style.flex = `${found.states[state] / total} 0 0`;
    part.style.background = `var(--${state})`;
    part.title = `${state} ${duration(found.states[state])}`;
    return part;
  }));
  at("bar").setAttribute("aria-label", used.map((state) => `${state} ${duration(found.states[state])}`).join(", "));
  at("key").replaceChildren(...used.map((state) => {
    const item = element("span"), swatch = element("span", "", "swatch");
    swatch.style.background = `var(--${state})`;
    item.append(swatch, `${state} ${duration(found.states[state])}`);
    return item;
  }));
  rows(at("requests"), found.requests.map((one) => [cell(one.span), number(count(one.count)), number(one.rate_per_s.toPrecision(3)),
    number(duration(one.p50_ns)), number(duration(one.p99_ns)), number(duration(one.max_ns))]));
  rows(at("hotspots"), found.hotspots.map((one) => [cell(one.place), cell(`${one.state}: ${one.reason}: ${one.why}`), number(duration(one.p99_ns)),
    number(duration(one.total_ns))]));
  rows(at("places"), found.places.map((one) => [cell(one.place), cell(`${one.state}: ${one.reason}`), number(count(one.count)),
    number(duration(one.p99_ns)), number(duration(one.max_ns)), number(duration(one.total_ns))]));
}

// -- what is asked ------------------------------------------------------------------------------------------------------

async function overview() {
  const pid = page.pid, number = ++page.asked;
  if (!chosen()?.ring.to) return;
  try {
    const found = await ask(`overview?${query()}`);
    if (pid === page.pid && number === page.asked) showOverview(found);
  } catch (error) { at("range").textContent = error.message; }
}

function overviewSoon(afterMs) {
  clearTimeout(page.over);
  page.over = setTimeout(overview, afterMs || 150);
}

async function refresh() {
  page.found = await ask("targets");
  if (!chosen() && page.found.targets.length) {
    page.pid = (page.found.targets.find((one) => one.condition === "tracing") || page.found.targets[0]).pid;
    page.seconds = [];
  }
  if (page.seconds.length && page.seconds[page.seconds.length - 1].end > page.found.now) { // the clock was set back
    page.seconds = [];
    axis.forget();
  }
  if (chosen()) {
    const pid = page.pid, last = page.seconds[page.seconds.length - 1]?.end || 0;
    const { seconds } = await ask(`timeline?target=${pid}&from=${last ? (last + 0.2).toFixed(3) : 0}`);
    if (pid === page.pid) page.seconds = [...page.seconds, ...seconds].slice(-4000);
  }
  showTargets();
  showOne();
  showPushed();
  showCaptures();
}

function select(pid) {
  if (page.pid === pid) return;
  page.pid = pid;
  page.seconds = [];
  axis.stretch = null;
  axis.steps = [];
  at("graph").hidden = at("tab").hidden = true;
  at("graph").removeAttribute("src");
  location.hash = pid;
  tick();
  overviewSoon(0);
}

let running = false, ticks = 0;
async function tick() {
  if (running) return;
  running = true;
  try {
    await refresh();
    document.documentElement.dataset.ready = String(++ticks);
    if (!axis.stretch && ticks % 5 === 1) overviewSoon(0);
  } catch (error) {
    at("problem").hidden = false;
    at("problem").textContent = `No answer: ${error.message}`;
  } finally { running = false; }
}

at("flame").addEventListener("click", flame);
at("length").addEventListener("change", (event) => { axis.length = Number(event.target.value); axis.forget(); });
at("capture").addEventListener("click", async () => {
  at("capture").disabled = true;
  page.refused = null;
  try { await ask(`capture?${query()}`, "POST"); } catch (error) { page.refused = { text: error.message, until: Date.now() + 10000 }; }
  at("capture").disabled = false;
  tick();
});
if (/^#\d+$/.test(location.hash)) page.pid = Number(location.hash.slice(1));
tick();
setInterval(() => { if (!document.hidden) tick(); }, 1000);
