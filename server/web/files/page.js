"use strict";

// Every text from the server goes through el() or textContent and so never becomes markup.
const el = (tag, attrs, ...children) => {
  const e = document.createElement(tag);
  for (const [k, v] of Object.entries(attrs || {})) {
    if (v === undefined || v === null) continue;
    if (k.startsWith("aria-")) e.setAttribute(k, String(v));
    else if (v === false) continue;
    else if (k === "class") e.className = v;
    else if (k.startsWith("on")) e.addEventListener(k.slice(2), v);
    else e.setAttribute(k, v === true ? "" : String(v));
  }
  e.append(...children.flat().filter((c) => c !== null && c !== undefined).map((c) => (c instanceof Node ? c : document.createTextNode(String(c)))));
  return e;
};
const byId = (id) => document.getElementById(id);
const main = byId("main");

// show shows elements, and gives the focus back to what takes the place of the element that had it.
function show(...children) {
  const had = main.contains(document.activeElement) && document.activeElement !== main ? document.activeElement : null;
  const key = (e) => [e.tagName, e.getAttribute("href"), e.getAttribute("aria-label"), e.textContent].join(" ");
  const was = had && key(had);
  main.replaceChildren(...children.flat().filter((c) => c));
  const now = was && [...main.querySelectorAll(had.tagName)].find((e) => key(e) === was);
  if (now) now.focus({ preventScroll: true });
}
const enc = encodeURIComponent;
// Formats are made once: toLocaleString makes one for each number.
const plainNumber = new Intl.NumberFormat("en"), dateAndTime = new Intl.DateTimeFormat(t("locale"), { year: "numeric", month: "numeric", day: "numeric", hour: "numeric", minute: "numeric", second: "numeric" });
const number = (n) => plainNumber.format(n);
const local = (time) => {
  const at = new Date(time);
  return isNaN(at) ? "–" : dateAndTime.format(at);
};

class Refused extends Error {
  constructor(status, message, advice) {
    super(message + (advice ? " – " + advice : ""));
    this.status = status;
  }
}

// request sends a request with the token of this tab; signal ends it.
async function request(path, signal, headers) {
  const token = sessionStorage.getItem("token");
  const resp = await fetch("api/v1" + path, {
    signal, cache: "no-store", credentials: "omit",
    headers: { ...(token ? { Authorization: "Bearer " + token } : {}), ...(headers || {}) },
  });
  if (resp.ok) return resp;
  let body = {};
  try { body = await resp.json(); } catch { /* whatever answered is no pseudo-server */ }
  const err = new Refused(resp.status, body.error || resp.statusText, body.advice);
  if (resp.status === 401 || resp.status === 403) askToken(err.message);
  throw err;
}
const get = async (path, signal) => (await request(path, signal)).json();

function askToken(why) {
  byId("auth-why").textContent = why;
  if (!byId("auth").open) byId("auth").showModal();
  byId("token").focus();
}
for (const [id, key] of [["login", "token"], ["auth-title", "token"], ["token-label", "token"], ["auth-why", "tokenWanted"], ["auth-ok", "tokenUse"], ["auth-none", "tokenNone"], ["language", "language"]]) byId(id).textContent = t(key);
byId("everywhere").placeholder = t("searchEverything");
for (const [id, key] of [["everywhere", "searchEverything"], ["tabs", "viewsOfCluster"], ["language", "languageTitle"]]) byId(id).setAttribute("aria-label", t(key));
byId("language").title = t("languageTitle");
byId("language").lang = language === "zh" ? "en" : "zh-CN";
byId("language").addEventListener("click", () => {
  try { localStorage.setItem("language", language === "zh" ? "en" : "zh"); } catch { /* this browser keeps nothing */ }
  location.reload();
});
byId("login").addEventListener("click", () => askToken(t("tokenKept")));
byId("auth-ok").addEventListener("click", () => { sessionStorage.setItem("token", byId("token").value.trim()); byId("auth").close(); route(); });
byId("auth-none").addEventListener("click", () => { sessionStorage.removeItem("token"); byId("auth").close(); route(); });
byId("token").addEventListener("keydown", (e) => { if (e.key === "Enter") byId("auth-ok").click(); });

const span = (seconds) => {
  if (!(seconds >= 0)) return "–";
  const s = Math.round(seconds);
  if (s < 120) return t("seconds", s);
  if (s < 7200) return t("minutes", Math.round(s / 60));
  if (s < 172800) return t("hours", Math.round(s / 3600));
  return t("days", Math.round(s / 86400));
};
const short = (seconds) => (seconds < 1 ? t("millis", Math.round(seconds * 1000)) : span(seconds));
const when = (text) => el("time", { datetime: text }, text ? local(text) : "–");
const tone = (state) => ({ ok: "good", RUNNING: "good", NORMAL: "good", added: "good", holder: "good", stale: "warn", EXCEPTION: "warn", changed: "warn", error: "bad", removed: "bad", crash: "bad", cluster: "bad", excluded: "bad", object: "warn" })[state] || "";
const failure = (err) => el("p", { class: "card bad", role: "alert" }, err.message);

// A view owns what it started: when the address changes, its signal ends everything.
let view = new AbortController();
let onChange = null; // what a view does when a version comes
let stream = { id: null, ctl: null, last: "", events: [] };

const tabs = ["overview", "tree", "map", "dropped", "watcher", "versions", "changes", "services", "nodes"];

// decoded is a part of the address, as it stands if it has escapes that are none.
function decoded(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

function route() {
  view.abort();
  view = new AbortController();
  onChange = null;
  const [, kind, id, tab = "overview", ...rest] = location.hash.split("/").map(decoded);
  const nav = byId("tabs");
  nav.replaceChildren();
  nav.hidden = kind !== "c";
  byId("crumb").textContent = kind === "c" ? id : "";
  document.title = (kind === "c" ? id + " – " : "") + "pseudo-server";
  follow(kind === "c" ? id : null);
  if (kind !== "c") treeStates.clear();
  if (kind === "upstream") return run(showUpstream);
  if (kind === "find") return run((signal) => showFound(null, signal, id || ""));
  if (kind !== "c") return run((signal) => showClusters(signal, kind === "trouble" ? id || "" : ""));
  for (const key of tabs) {
    nav.append(el("a", { href: "#/c/" + enc(id) + "/" + key, "aria-current": key === tab ? "page" : null }, t("tab." + key)));
  }
  const views = { overview: showOverview, find: (of, signal) => showFound(of, signal, rest[0] || ""), tree: showTree, map: (of, signal) => showMap(of, signal, rest[0]), object: (of, signal) => showObject(of, signal, rest), dropped: (of, signal) => showDropped(of, signal, rest[0]), watcher: showWatcher, versions: (rest[0] ? (of, signal) => showCompare(of, signal, rest[0], rest[1]) : showVersions), changes: showLive, services: showServices, nodes: showNodes };
  run((signal) => (views[tab] || showOverview)(id, signal));
}

async function run(render) {
  const signal = view.signal;
  show(el("p", { class: "quiet" }, t("loading")));
  try {
    await render(signal);
  } catch (err) {
    if (signal.aborted) return;
    show(failure(err));
    if (err instanceof Refused) return;
    // The server, or the way to it, is away for a moment.
    await pause(2000, signal);
    if (!signal.aborted) run(render);
  }
}

const pause = (ms, signal) => new Promise((done) => {
  const timer = setTimeout(done, ms);
  signal.addEventListener("abort", () => { clearTimeout(timer); done(); }, { once: true });
});

// showUpstream shows the deepflow-servers behind this one, and per cluster what passes to them, those with trouble first.
async function showUpstream(signal) {
  while (!signal.aborted) {
    try {
      const [up, { clusters: watchers }] = await Promise.all([get("/upstream", signal), get("/watchers", signal)]);
      const elected = new Map(watchers.map((w) => [w.cluster, w]));
      const who = (id) => {
        const w = elected.get(id);
        return el("a", { href: "#/c/" + enc(id) + "/watcher" }, w ? (w.holder ? w.holder.name : t("nobody")) + (w.reason ? " – " + because(w.reason) : "") : "–");
      };
      const remarks = (c) => [...(c.bypassed || []).map((b) => el("p", { class: "bad" }, t("bypass", b.what, local(b.since)))),
        c.last_fixed ? el("p", { class: "warn" }, t("fixedLast", c.last_fixed.join("; "))) : null,
        c.last_reordered ? el("p", { class: "quiet" }, t("reorderedLast", c.last_reordered)) : null,
        c.last_not_kept_or_refused ? el("p", { class: "warn" }, c.last_not_kept_or_refused) : null];
      show(el("h2", {}, t("behind")),
        table(t("servers"), [t("address"), t("state"), t("problem")], up.servers.map((s) => [s.address, el("span", { class: s.healthy ? "good" : "bad" }, t(s.healthy ? "healthy" : "unreached")), s.problem || ""])),
        el("p", {}, (up.advertise ? t("advertised", up.advertise) : t("notAdvertised")) + " " + t("failingReports", up.reports)),
        el("h2", {}, t("clusters")),
        up.clusters_total > (up.clusters || []).length ? el("p", { class: "quiet" }, t("someOfClusters", (up.clusters || []).length, up.clusters_total)) : null,
        table(t("clustersBehind"), [t("cluster"), t("server"), t("elected"), "~" + t("syncs"), "~" + t("addedMs"), t("forwarded"), t("fixed"), t("reordered"), t("refused"), t("notKept"), t("remark")], (up.clusters || []).map((c) => [
          el("a", { href: "#/c/" + enc(c.cluster) + "/tree" }, c.cluster), c.server, who(c.cluster), number(c.syncs), c.added_ms.toFixed(1), number(c.reports_forwarded),
          number(c.reports_fixed), number(c.reports_reordered), number(c.reports_refused), number(c.reports_not_kept), el("div", {}, remarks(c))])));
    } catch (err) {
      if (signal.aborted) return;
      show(el("h2", {}, t("behind")), failure(err));
      if (err.status === 401 || err.status === 403) return;
    }
    await pause(5000, signal);
  }
}

// all reads a list page by page; each is told of every page.
async function all(path, signal, each) {
  const items = [];
  let token = "";
  do {
    const page = await get(path + (path.includes("?") ? "&" : "?") + "limit=5000" + (token ? "&continue=" + enc(token) : ""), signal);
    for (const item of page.items) items.push(item);
    token = page.continue;
    if (each) each(items, page.total);
  } while (token);
  return items;
}

const rowHeight = 28;

// onScroll calls draw while a box is scrolled, once a frame at most.
const onScroll = (box, draw) => {
  let due = false;
  box.addEventListener("scroll", () => {
    if (due) return;
    due = true;
    requestAnimationFrame(() => { due = false; draw(); });
  });
};

// treeStates are what was opened and selected in the trees of clusters, for who comes back from an object.
const treeStates = new Map();

// Addresses of views.
const objectHref = (id, type, namespace, name, uid) => "#/c/" + enc(id) + "/object/" + [type, namespace || "", name || ""].map(enc).join("/") + (uid ? "/" + enc(uid) : "");
const mapHref = (id, namespace) => "#/c/" + enc(id) + "/map/" + enc(namespace);
// workloadHref is the address of a workload; one that is no entry is in the picture of its namespace.
const workloadHref = (id, w) => (w.source.startsWith("*") ? objectHref(id, w.source, w.namespace, w.name, w.source === "*v1.ReplicaSet" ? w.uid : "") : mapHref(id, w.namespace));

// showTree shows namespaces, workloads and Pods. Only the rows on the screen exist as elements.
async function showTree(id, signal) {
  const base = "/clusters/" + enc(id) + "/inventory";
  const kept = treeStates.get(id) || { open: new Set(), selected: 0, top: 0, filter: "", namespace: "", state: "" };
  const back = treeStates.has(id);
  treeStates.set(id, kept);
  const open = kept.open; // keys of opened nodes
  const pods = new Map(); // workload → Pods
  const lost = new Map(); // namespace → number of its objects that are dropped
  let workloads = [], namespaces = [], rows = [], selected = kept.selected, found = null, filterText = kept.filter;

  const search = el("input", { type: "search", placeholder: t("searchTree"), "aria-label": t("searchTree") });
  const only = el("select", { "aria-label": t("namespace") }, el("option", { value: "" }, t("allNamespaces")));
  const state = el("select", { "aria-label": t("podStates") }, el("option", { value: "" }, t("allPods")), el("option", { value: "EXCEPTION" }, t("notRunning")), el("option", { value: "RUNNING" }, t("running")));
  const everything = el("button", { type: "button" }, t("openAll"));
  const note = el("p", { class: "quiet", role: "status" });
  const numbers = el("ul", { class: "numbers", "aria-label": t("counts") });
  const space = el("div", { class: "space" });
  const tree = el("div", { class: "tree", role: "tree", tabindex: "0", "aria-label": t("treeLabel") }, space);

  const load = async () => {
    const [summary, ns, ws] = await Promise.all([get(base, signal), all(base + "/namespaces", signal), all(base + "/workloads", signal)]);
    workloads = ws;
    namespaces = ns.map((n) => n.name);
    const c = summary.counts;
    numbers.replaceChildren(...[["nodesN", c.nodes], ["namespacesN", c.namespaces], ["workloadsN", c.workloads], ["podsN", c.pods], ["servicesN", c.services]]
      .map(([what, n]) => el("li", {}, el("b", {}, number(n)), " " + t(what))),
      el("li", { class: summary.ok ? "good" : "bad" }, summary.ok ? summary.version : t("nothingTaken", summary.failures.map((f) => f.reason).join(", "))));
    const before = only.value;
    only.replaceChildren(el("option", { value: "" }, t("allNamespaces")), ...namespaces.map((n) => el("option", { value: n }, n)));
    only.value = before;
    await Promise.all([...open].filter((k) => k.startsWith("w ")).slice(0, 20).map((k) => loadPods(k.slice(2))));
    if (filterText) await find();
    layout();
  };
  const loadPods = async (ref) => {
    pods.set(ref, await all(base + "/pods?workload=" + enc(ref), signal, (items, total) => {
      if (total > items.length) note.textContent = t("podsRead", number(items.length), number(total));
    }));
    note.textContent = "";
  };
  // openTrouble opens what is in trouble, unless somebody was faster: namespaces that lose objects, workloads that lack Pods.
  const openTrouble = async () => {
    const { items } = await get("/clusters/" + enc(id) + "/dropped?scope=object&limit=1000", signal);
    for (const f of items) if (f.namespace) lost.set(f.namespace, (lost.get(f.namespace) || 0) + 1);
    const short = workloads.filter((w) => w.pods < w.replicas).slice(0, 5);
    const spaces = [...new Set([...[...lost.keys()].filter((n) => namespaces.includes(n)).sort((a, b) => lost.get(b) - lost.get(a)), ...short.map((w) => w.namespace)])].slice(0, 3);
    if (!open.size && !filterText && spaces.length) {
      for (const n of spaces) open.add("n " + n);
      for (const w of short) if (spaces.includes(w.namespace) && w.pods) { open.add("w " + refOf(w)); await loadPods(refOf(w)); }
      layout();
      move(Math.max(0, rows.findIndex((r) => r.key === "n " + spaces[0])));
      note.textContent = t("troubleOpened");
    } else layout();
  };
  const refOf = (w) => w.type + "/" + w.namespace + "/" + w.name;

  // layout makes the list of visible rows of what is open.
  const layout = () => {
    rows = [];
    const groups = new Map(namespaces.map((n) => [n, []]));
    for (const w of workloads) {
      if (!groups.has(w.namespace)) groups.set(w.namespace, []);
      groups.get(w.namespace).push(w);
    }
    for (const [ns, list] of groups) {
      if (only.value && ns !== only.value) continue;
      const text = filterText.toLowerCase();
      const shown = found ? list.filter((w) => w.name.toLowerCase().includes(text) || found.has(refOf(w))) : list;
      if (found && !shown.length && !ns.toLowerCase().includes(text)) continue;
      const isOpen = found ? true : open.has("n " + ns);
      rows.push({ level: 1, key: "n " + ns, name: ns, side: t("nWorkloads", number(list.length)), lost: lost.get(ns), open: isOpen, leaf: !list.length, href: mapHref(id, ns) });
      if (!isOpen) continue;
      for (const w of shown) {
        const ref = refOf(w), hit = found && found.get(ref);
        const wOpen = hit ? true : open.has("w " + ref);
        rows.push({ level: 2, key: "w " + ref, ref, name: w.name, short: w.pods < w.replicas, side: w.type + " · " + t("nPods", number(w.pods), number(w.replicas)), far: w.services.join(", "), open: wOpen, leaf: !w.pods, href: workloadHref(id, w) });
        if (!wOpen) continue;
        for (const p of hit || pods.get(ref) || []) {
          if (state.value && p.state !== state.value) continue;
          rows.push({ level: 3, key: "p " + p.uid, name: p.name, state: p.state, side: p.addresses.join(" "), far: p.node, leaf: true, href: objectHref(id, "*v1.Pod", p.namespace, p.name) });
        }
      }
    }
    selected = Math.min(selected, Math.max(0, rows.length - 1));
    space.style.height = rows.length * rowHeight + "px";
    draw();
  };
  const range = () => [Math.max(0, Math.floor(tree.scrollTop / rowHeight) - 8), Math.min(rows.length, Math.ceil((tree.scrollTop + tree.clientHeight) / rowHeight) + 8)];
  // Rows are used again: to make their elements takes most of the time of a scroll. They stand in the order of what they show.
  const pool = [];
  let drawn = [0, 0];
  const makeRow = () => {
    const part = (attrs) => el("span", attrs, "");
    const row = { twist: part({ class: "twist" }), name: part({ class: "name" }), trouble: part(), state: part(), side: part({ class: "side" }), far: part({ class: "side far" }), open: el("span", { class: "open", title: t("openRow") }, "↗") };
    row.twist.setAttribute("aria-hidden", "true");
    row.open.setAttribute("aria-hidden", "true");
    row.e = el("div", { role: "treeitem" }, Object.values(row));
    return row;
  };
  const put = (e, text, mood) => {
    if (mood !== undefined) e.className = "state " + mood;
    if (e.hidden !== !text) e.hidden = !text;
    if (e.firstChild.data !== text) e.firstChild.data = text;
  };
  const fill = (row, r, i) => {
    const is = i === selected, { e } = row;
    if (row.r === r && row.i === i && row.is === is) return;
    Object.assign(row, { r, i, is });
    e.className = "row l" + r.level;
    e.id = "row-" + i;
    e.style.top = i * rowHeight + "px";
    for (const [k, v] of [["level", r.level], ["selected", is], ["setsize", rows.length], ["posinset", i + 1]]) e.setAttribute("aria-" + k, v);
    if (r.leaf) e.removeAttribute("aria-expanded"); else e.setAttribute("aria-expanded", r.open);
    row.twist.firstChild.data = r.leaf ? "" : r.open ? "▾" : "▸";
    put(row.name, r.name);
    row.name.title = r.name;
    if (r.lost) put(row.trouble, t("nLost", number(r.lost)), "bad"); else put(row.trouble, r.short ? "!" : "", r.short ? "warn" : "");
    put(row.state, r.state ? word(r.state) : "", tone(r.state));
    put(row.side, r.side);
    put(row.far, r.far || "");
    row.far.title = r.far || "";
    row.open.hidden = r.level === 3;
  };
  const draw = () => {
    const [from, to] = range(), by = from - drawn[0];
    drawn = [from, to];
    // Those that go on being shown keep their elements.
    if (by > 0 && by < pool.length) { const gone = pool.splice(0, by); pool.push(...gone); space.append(...gone.map((row) => row.e)); }
    if (by < 0 && -by < pool.length) { const gone = pool.splice(by); pool.unshift(...gone); space.prepend(...gone.map((row) => row.e)); }
    while (pool.length > to - from) pool.pop().e.remove();
    while (pool.length < to - from) { const row = makeRow(); pool.push(row); space.append(row.e); }
    pool.forEach((row, k) => fill(row, rows[from + k], from + k));
    tree.setAttribute("aria-activedescendant", rows.length ? "row-" + selected : "");
  };
  space.addEventListener("click", (e) => {
    const row = pool.find((one) => one.e.contains(e.target));
    if (!row) return;
    if (e.target === row.open) return leave(row.r, row.i);
    selected = row.i;
    tree.focus();
    act(row.r);
  });
  const leave = (r, i) => { selected = i; location.hash = r.href; };
  const act = async (r) => {
    if (r.level === 3 || r.leaf) return leave(r, selected);
    if (open.has(r.key)) open.delete(r.key);
    else {
      open.add(r.key);
      layout(); // before the Pods are there, so that the next key finds it open
      try { if (r.ref && !pods.has(r.ref)) await loadPods(r.ref); } catch (err) { if (!signal.aborted) note.textContent = err.message; }
    }
    layout();
  };
  const move = (to) => {
    selected = Math.max(0, Math.min(rows.length - 1, to));
    const top = selected * rowHeight;
    if (top < tree.scrollTop) tree.scrollTop = top;
    else if (top + rowHeight > tree.scrollTop + tree.clientHeight) tree.scrollTop = top + rowHeight - tree.clientHeight;
    draw();
  };
  onScroll(tree, () => {
    kept.top = tree.scrollTop;
    const [from, to] = range();
    if (from !== drawn[0] || to !== drawn[1]) draw();
  });
  tree.addEventListener("keydown", (e) => {
    const r = rows[selected], screen = Math.floor(tree.clientHeight / rowHeight) - 1;
    const moves = { ArrowDown: selected + 1, ArrowUp: selected - 1, Home: 0, End: rows.length - 1, PageDown: selected + screen, PageUp: selected - screen };
    if (e.key in moves) move(moves[e.key]);
    else if (!r) return;
    else if (e.key === "Enter" || e.key === " ") { if (!e.repeat) act(r); }
    else if (e.key === "o") leave(r, selected);
    else if (e.key === "c" && !e.ctrlKey && !e.metaKey) copy(r.name);
    else if (e.key === "ArrowRight") { if (!r.leaf && !r.open) act(r); else move(selected + 1); }
    else if (e.key === "ArrowLeft") {
      if (!r.leaf && r.open) act(r);
      else { let i = selected; while (i > 0 && rows[i].level >= r.level) i--; move(i); }
    } else return;
    e.preventDefault();
  });
  const find = async () => {
    if (!filterText) { found = null; return; }
    const page = await get(base + "/pods?limit=2000&contains=" + enc(filterText) + (only.value ? "&namespace=" + enc(only.value) : ""), signal);
    found = new Map();
    for (const p of page.items) {
      if (!found.has(p.workload)) found.set(p.workload, []);
      found.get(p.workload).push(p);
    }
    note.textContent = t("podsContain", number(page.total)) + (page.total > page.items.length ? t("firstShown", number(page.items.length)) : "");
  };
  let typing = 0;
  search.addEventListener("input", () => {
    clearTimeout(typing);
    typing = setTimeout(async () => {
      filterText = search.value.trim();
      note.textContent = "";
      tree.scrollTop = 0;
      selected = 0;
      try { await find(); layout(); } catch (err) { if (!signal.aborted) note.textContent = err.message; }
    }, 200);
  });
  only.addEventListener("change", async () => { selected = 0; tree.scrollTop = 0; try { await find(); } catch { return; } layout(); });
  state.addEventListener("change", layout);
  everything.addEventListener("click", async () => {
    everything.disabled = true;
    try {
      const list = await all(base + "/pods", signal, (items, total) => { note.textContent = t("podsRead", number(items.length), number(total)); });
      pods.clear();
      for (const p of list) {
        if (!pods.has(p.workload)) pods.set(p.workload, []);
        pods.get(p.workload).push(p);
      }
      for (const n of namespaces) open.add("n " + n);
      for (const w of workloads) open.add("w " + refOf(w));
      note.textContent = "";
      layout();
    } catch (err) { if (!signal.aborted) note.textContent = err.message; }
    everything.disabled = false;
  });

  search.value = filterText;
  state.value = kept.state;
  await load();
  only.value = kept.namespace;
  show(el("h2", {}, t("treeTitle", id)), numbers, el("div", { class: "bar" }, search, only, state, everything), note, tree);
  layout();
  tree.scrollTop = kept.top;
  if (back) tree.focus();
  else openTrouble().catch((err) => { if (!signal.aborted) note.textContent = err.message; });
  signal.addEventListener("abort", () => Object.assign(kept, { selected, top: kept.top, filter: filterText, namespace: only.value, state: state.value }), { once: true });
  onChange = oneAtATime(load, (err) => { if (!signal.aborted) note.textContent = err.message; });
}

// reasonSentences explain the reasons of a cluster's findings.
async function reasonSentences(id, signal) {
  const { reasons } = await get("/clusters/" + enc(id) + "/dropped/reasons", signal);
  const known = new Map(reasons.map((r) => [r.reason, told("sentence", r.reason, r.sentence) + " " + told("advice", r.reason, r.advice)]));
  return (reason) => known.get(reason) || "";
}

const boxHref = (id) => (b) => (b.id && b.type ? objectHref(id, b.type, b.namespace, b.name, b.type === "*v1.ReplicaSet" ? b.id : "") : "");

// plainValue is a value of JSON for people.
const plainValue = (v) => (Array.isArray(v) && v.every((x) => typeof x !== "object") ? v.join(", ") : typeof v === "object" && v !== null ? JSON.stringify(v) : String(v));

const states = { shown: ["good", "shownWhole"], partly: ["warn", "shownPartly"], dropped: ["bad", "isDropped"] };

// showObject shows everything about one object: rest is its type, namespace, name, and uid where the name does not tell.
async function showObject(id, signal, [type, namespace, name, uid]) {
  const query = "?type=" + enc(type) + (uid ? "&uid=" + enc(uid) : "&namespace=" + enc(namespace || "") + "&name=" + enc(name || ""));
  const load = async () => {
    const [o, sentence] = await Promise.all([get("/clusters/" + enc(id) + "/object" + query, signal), reasonSentences(id, signal)]);
    const own = o.graph.boxes.find((b) => b.focus), [mood, verdict] = !o.reported ? ["bad", "notReported"] : own ? states[own.state] : ["quiet", ""];
    const kind = o.type.slice(o.type.lastIndexOf(".") + 1);
    document.title = kind + " " + o.name + " – " + id;
    const text = JSON.stringify(o.object, null, 2);
    const past = o.history.map((h) => el("li", {}, h.before
      ? el("div", {}, when(h.received_at), changeList(id, h.before, h.version, [{ change: h.change, type: o.type, namespace: o.namespace, name: o.name }], signal, t("versionN", h.version)))
      : el("p", {}, when(h.received_at), " ", t("oldestHas", h.version))));
    show(el("h2", { id: "object", tabindex: "-1" }, kind + " " + (o.namespace ? o.namespace + "/" : "") + o.name, copyButton(o.name), " ", verdict ? el("span", { class: "chip " + mood }, t(verdict)) : null),
      el("p", { class: "quiet" }, o.type + (o.uid ? " · uid " + o.uid : "") + " · " + t("bytesOf", number(o.raw_bytes), number(o.bytes)) + " · " + t("versionN", o.version)
        + (o.others ? " · " + t("othersOf", o.others) : ""), o.namespace ? " · " : null, o.namespace ? el("a", { href: mapHref(id, o.namespace) }, t("mapOf", o.namespace)) : null),
      ...o.findings.map((f) => el("section", { class: "card", "aria-label": f.reason + (f.detail ? ": " + f.detail : "") },
        el("p", {}, el("b", { class: tone(f.scope) }, f.reason), " – " + told("sentence", f.reason, f.sentence) + (f.detail ? " (" + f.detail + ")" : "")), el("p", {}, t("whatToDo", told("advice", f.reason, f.advice))))),
      o.graph.boxes.length ? el("h2", {}, t("neighbours")) : null,
      o.graph.boxes.length ? picture(o.graph, boxHref(id), sentence, t("neighboursOf", o.name)).element : null,
      o.graph.boxes.length ? legend() : null,
      o.graph.grouped ? el("p", { class: "quiet" }, t("groupedPods") + (o.graph.omitted ? " " + t("leftOut", o.graph.omitted) : "")) : null,
      el("h2", {}, t("understood")),
      o.understood.length ? table(t("understoodShort"), [t("valueOf"), t("value"), "~" + t("readFrom")], o.understood.map((f) => [f.name.replaceAll("_", " "), plainValue(f.value), f.from])) : el("p", {}, t("notUnderstood")),
      el("h2", {}, t("historyKept")), past.length ? el("ol", { class: "time" }, past) : el("p", { class: "quiet" }, t("unchanged")),
      el("h2", {}, t("asStored")), el("details", { open: text.length < 20000 }, el("summary", {}, t("characters", number(text.length))), el("pre", { tabindex: "0" }, text)));
  };
  await load();
  byId("object").focus();
  // Not while somebody reads what he opened.
  onChange = oneAtATime(async () => { if (!main.querySelector("ol.time details[open]")) await keepFocus(load); }, (err) => { if (!signal.aborted) show(failure(err)); });
}
addEventListener("keydown", (e) => { if (e.key === "Escape" && location.hash.split("/")[3] === "object" && !document.querySelector("dialog[open]")) history.back(); });

// keepFocus gives the focus back to the box that had it before a picture was drawn again.
async function keepFocus(load) {
  const key = document.activeElement.dataset.key;
  await load();
  const box = key && [...main.querySelectorAll(".picture .box")].find((e) => e.dataset.key === key);
  if (box) box.focus({ preventScroll: true });
}

// showMap shows the picture of a namespace.
async function showMap(id, signal, wanted) {
  const base = "/clusters/" + enc(id);
  const [spaces, sentence] = await Promise.all([all(base + "/inventory/namespaces", signal), reasonSentences(id, signal)]);
  if (!wanted) {
    // The one that loses most.
    const { items } = await get(base + "/dropped?scope=object&limit=5000", signal);
    const lost = new Map();
    for (const f of items) lost.set(f.namespace, (lost.get(f.namespace) || 0) + 1);
    wanted = spaces.map((n) => n.name).sort((a, b) => (lost.get(b) || 0) - (lost.get(a) || 0))[0];
  }
  if (!wanted) return show(el("p", {}, t("noNamespace")));
  const select = el("select", { "aria-label": t("namespace"), onchange: () => { location.hash = mapHref(id, select.value); } },
    [...new Set([...spaces.map((n) => n.name), wanted])].map((n) => el("option", { value: n, selected: n === wanted }, n)));
  const search = el("input", { type: "search", placeholder: t("searchPicture"), "aria-label": t("searchPicture") });
  const note = el("p", { class: "quiet", role: "status" });
  const place = el("div", {});
  let drawn = null, found = [], at = -1;
  const find = () => {
    found = drawn.search(search.value.trim());
    at = -1;
    note.textContent = search.value.trim() ? t("nFound", number(found.length)) : rest;
  };
  let rest = "";
  const load = async () => {
    const { graph } = await get(base + "/graph?namespace=" + enc(wanted), signal);
    drawn = picture(graph, boxHref(id), sentence, t("mapTitle", wanted));
    rest = t("nBoxes", number(graph.boxes.length)) + (graph.grouped ? t("groupedShort") : "") + (graph.omitted ? t("leftOutShort", number(graph.omitted)) : "");
    place.replaceChildren(drawn.element);
    find();
  };
  search.addEventListener("input", find);
  search.addEventListener("keydown", (e) => { if (e.key === "Enter" && found.length) { at = (at + 1) % found.length; drawn.go(found[at]); } });
  await load();
  show(el("h2", {}, t("namespaceNamed", wanted)), el("div", { class: "bar" }, select, search), note, place, legend());
  onChange = oneAtATime(() => keepFocus(load), (err) => { if (!signal.aborted) note.textContent = err.message; });
}

async function showDropped(id, signal, wanted) {
  const base = "/clusters/" + enc(id) + "/dropped";
  const { reasons } = await get(base + "/reasons", signal);
  const group = (r) => {
    const body = el("div", {});
    let token = null;
    const more = el("button", { type: "button", hidden: true, onclick: () => load() }, t("more"));
    const load = async () => {
      try {
        const page = await get(base + "?limit=200&reason=" + enc(r.reason) + (token ? "&continue=" + enc(token) : ""), signal);
        body.append(table(r.reason, ["~" + t("type"), t("namespace"), t("name"), t("detail")], page.items.map((f) => [
          f.type, f.namespace, f.name && f.type ? el("a", { href: objectHref(id, f.type, f.namespace, f.name) }, f.name) : "–", f.detail])));
        token = page.continue;
        more.hidden = !token;
      } catch (err) { if (!signal.aborted) body.append(failure(err)); }
    };
    return el("details", { class: "card", open: r.reason === wanted, ontoggle: (e) => { if (e.target.open && !body.childElementCount) load(); } },
      el("summary", {}, el("b", {}, number(r.count)), " ", el("span", { class: tone(r.scope) }, word(r.scope)), " ", el("b", {}, r.reason), " – " + told("sentence", r.reason, r.sentence)),
      el("p", {}, t("whatToDo", told("advice", r.reason, r.advice))), body, more);
  };
  show(el("h2", {}, t("droppedTitle")),
    ...(reasons.length ? reasons.map(group) : [el("p", { class: "good" }, t("nothing"))]));
  onChange = () => { if (![...main.querySelectorAll("details")].some((d) => d.open)) showDropped(id, signal, wanted).catch(() => {}); };
}

// oneAtATime returns a function that calls load, and once more if it was called meanwhile.
const oneAtATime = (load, failed) => {
  let running = false, again = false;
  return async () => {
    again = true;
    if (running) return;
    running = true;
    try {
      while (again) { again = false; await load(); }
    } catch (err) { failed(err); }
    running = false;
  };
};

const showServices = (id, signal) => longTable(signal, "/clusters/" + enc(id) + "/inventory/services", t("services"),
  [t("namespace"), t("name"), "~" + t("type"), "~" + t("address"), t("ports"), t("workloads"), "~" + t("ingress")], 1,
  (s) => [s.namespace, s.name, s.type, s.cluster_ip, s.ports.map((p) => p.port + "→" + p.target_port + "/" + p.protocol).join(", "), s.workloads.join(", "), s.ingress || ""],
  (s) => objectHref(id, "Service", s.namespace, s.name));

const showNodes = (id, signal) => longTable(signal, "/clusters/" + enc(id) + "/inventory/nodes", t("nodes"),
  [t("name"), t("state"), "~" + t("role"), t("address"), "~" + t("podNetwork"), t("cpus"), t("mib"), t("pods")], 0,
  (n) => [n.name, n.state, n.role, n.address, n.pod_cidr, n.cpus, number(n.memory_mib), number(n.pods)],
  (n) => objectHref(id, "*v1.Node", "", n.name));

const maxEvents = 200;

// follow reads the changes of the cluster that is shown.
function follow(id) {
  if (stream.id === id) return;
  if (stream.ctl) stream.ctl.abort();
  stream = { id, ctl: null, last: "", events: [] };
  byId("live").textContent = "";
  listen();
}

// listen reads the stream while somebody looks, and goes on where it ended: a browser has six connections to a server for all its
// tabs, and those of pages that it keeps for the way back count.
function listen() {
  if (stream.ctl) stream.ctl.abort();
  stream.ctl = stream.id && !document.hidden ? new AbortController() : null;
  if (stream.ctl) read(stream, stream.ctl.signal);
}
document.addEventListener("visibilitychange", listen);

// read uses fetch, because EventSource cannot send a token.
async function read(s, signal) {
  while (!signal.aborted) {
    try {
      const resp = await request("/clusters/" + enc(s.id) + "/changes", signal, s.last ? { "Last-Event-ID": s.last } : {});
      byId("live").textContent = t("live");
      const reader = resp.body.pipeThrough(new TextDecoderStream()).getReader();
      let rest = "";
      for (;;) {
        const { done, value } = await reader.read();
        if (done) break;
        const parts = (rest + value).split("\n\n");
        rest = parts.pop();
        for (const part of parts) {
          const field = Object.fromEntries(part.split("\n").filter((l) => !l.startsWith(":")).map((l) => [l.slice(0, l.indexOf(":")), l.slice(l.indexOf(":") + 2)]));
          if (field.id) s.last = field.id;
          if (field.data) happened(s, field.event, JSON.parse(field.data));
        }
      }
    } catch (err) {
      if (signal.aborted) return;
      if (err.status && err.status < 500) {
        byId("live").textContent = err.message;
        if (stream === s) stream.id = null; // a token that is given now begins it anew
        return;
      }
    }
    byId("live").textContent = t("connecting");
    await pause(2000, signal);
  }
}

let refreshing = 0;
function happened(s, event, data) {
  if (event === "version") {
    s.events.unshift(data);
    s.events.length = Math.min(s.events.length, maxEvents);
    byId("live").textContent = t("liveVersion", data.version, data.added, data.changed, data.removed);
  } else if (event === "gone") {
    byId("live").textContent = t("forgotten");
    return;
  } else if (event === "cluster") {
    if (data.error_msg) byId("live").textContent = t("clusterError");
    return;
  }
  // A burst of versions is shown once.
  clearTimeout(refreshing);
  refreshing = setTimeout(() => { if (onChange) onChange(); }, 300);
}
