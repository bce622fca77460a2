"use strict";

// The overview of a cluster, and the search through everything.

// strip draws the kept versions: one bar each, as high as it has objects, with what it changed in colour below.
function strip(id, versions) {
  const width = 900, height = 90, most = Math.max(1, ...versions.map((v) => v.objects)), step = width / Math.max(versions.length, 12);
  const changed = (v) => v.added + v.changed + v.removed;
  const busiest = Math.max(1, ...versions.slice(1).map(changed));
  return draw("svg", { class: "strip", viewBox: "0 0 " + width + " " + height, role: "group", "aria-label": "Objects of the kept versions" },
    versions.map((v, i) => {
      const high = Math.max(2, Math.round(60 * v.objects / most)), low = i ? Math.round(22 * changed(v) / busiest) : 0;
      const what = new Date(v.received_at).toLocaleString() + ": " + number(v.objects) + " objects" + (i ? ", +" + v.added + " ~" + v.changed + " −" + v.removed : ", the oldest that can be read") + ", version " + v.version;
      return draw("a", { href: "#/c/" + enc(id) + "/versions", "aria-label": what }, draw("title", {}, what),
        draw("rect", { x: i * step, y: 0, width: step, height, class: "area" }),
        draw("rect", { x: i * step + 1, y: 62 - high, width: Math.max(1, step - 2), height: high, class: "objects" }),
        low ? draw("rect", { x: i * step + 1, y: 66, width: Math.max(1, step - 2), height: Math.max(2, low), class: v.removed ? "removed" : v.added ? "added" : "changed" }) : null);
    }));
}

// bars shows counts by name, each as long as it is large, and as a link.
const bars = (label, list) => {
  const most = Math.max(1, ...list.map((b) => b.count));
  return el("ul", { class: "bars", "aria-label": label }, list.map((b) => {
    const bar = el("span", { class: "bar-fill " + b.mood, "aria-hidden": true });
    bar.style.width = Math.max(1, 100 * b.count / most) + "%";
    return el("li", { title: b.title }, el("a", { href: b.href }, b.name), el("b", {}, number(b.count)), el("span", { class: "bar-ground" }, bar));
  }));
};

// showOverview answers at one glance: does it work, since when not, who watches, what is lost, what changed.
async function showOverview(id, signal) {
  const base = "/clusters/" + enc(id), of = "#/c/" + enc(id);
  let before = el("p", { class: "quiet" }, "Loading …");
  const load = async () => {
    const missing = (err) => { if (err.status === 404 || err.status === 503) return null; throw err; };
    const [info, summary, lost, { versions }, { clusters: watchers }] = await Promise.all([
      get(base, signal), get(base + "/inventory", signal).catch(missing), get(base + "/dropped/reasons", signal).catch(missing), get(base + "/versions", signal), get("/watchers", signal)]);
    const watcher = watchers.find((w) => w.cluster === id);
    const refused = summary && !summary.ok;
    const [mood, verdict] = info.state === "stale" ? ["bad", "No report for " + span(info.age_seconds) + ". DeepFlow keeps what it has; look at the agent's /status."]
      : info.error_msg ? ["bad", "The agent reports an error since " + new Date(info.error_since).toLocaleString() + ": " + info.error_msg]
      : info.suspicion ? ["bad", "A report was refused that would remove " + number(info.suspicion.removed) + " objects."]
      : refused ? ["bad", "deepflow-server would take nothing over: " + summary.failures.map((f) => f.reason + " (" + f.advice + ")").join("; ")]
      : ["good", "It works: " + number(info.objects) + " objects, reported " + span(info.age_seconds) + " ago."];
    const where = el("div", {}, before);
    const c = summary ? summary.counts : null;
    show(el("h2", {}, "Cluster " + id), el("p", { class: "card verdict edge-" + mood, role: "status" }, el("b", { class: mood }, verdict)),
      c ? el("ul", { class: "numbers", "aria-label": "What deepflow-server would have" }, [["nodes", c.nodes, "nodes"], ["namespaces", c.namespaces, "map"], ["workloads", c.workloads, "tree"], ["Pods", c.pods, "tree"], ["services", c.services, "services"], ["ingresses", c.ingresses, "map"]]
        .map(([what, n, tab]) => el("li", {}, el("a", { href: of + "/" + tab }, el("b", {}, number(n)), " " + what)))) : null,
      el("div", { class: "panels" },
        el("section", { class: "card", "aria-label": "Who watches" }, el("h3", {}, "Who watches"), watcher
          ? el("p", {}, watcher.holder ? watcher.holder.name + ", since " + new Date(watcher.holder.since).toLocaleString() : "Nobody: " + watcher.state, watcher.reason ? " – " + watcher.reason : "", " · ", el("a", { href: of + "/watcher" }, "all candidates"))
          : el("p", {}, "No agent asks to watch. Reports come from " + (info.reporter.source_ip || info.reporter.peer || "–") + ".")),
        el("section", { class: "card", "aria-label": "Objects over time" }, el("h3", {}, "Objects over time"), versions.length ? strip(id, versions) : null,
          el("p", { class: "quiet" }, versions.length + " versions can be read; below each bar what it changed. ", el("a", { href: of + "/versions" }, "Versions"))),
        el("section", { class: "card", "aria-label": "What is lost" }, el("h3", {}, "What deepflow-server would lose"), lost && lost.reasons.length
          ? bars("Reasons", lost.reasons.map((r) => ({ name: r.reason, count: r.count, href: of + "/dropped/" + enc(r.reason), mood: r.scope === "relation" ? "warn" : "bad", title: r.sentence + " " + r.advice })))
          : el("p", { class: "good" }, "Nothing.")),
        el("section", { class: "card", "aria-label": "Where" }, el("h3", {}, "Namespaces that lose objects"), where),
        el("section", { class: "card", "aria-label": "Latest changes" }, el("h3", {}, "Latest changes"), versions.length > 1
          ? el("ol", { class: "time" }, versions.slice(1).slice(-6).reverse().map((v) => el("li", {}, when(v.received_at), " ", counts(v))))
          : el("p", { class: "quiet" }, "None among the kept versions."), el("p", {}, el("a", { href: of + "/changes" }, "Live"), " · ", el("a", { href: of + "/versions" }, "what exactly")))));
    // To find all that is dropped takes longer than the rest.
    const dropped = await get(base + "/dropped?scope=object&limit=5000", signal).catch(missing);
    const spaces = new Map();
    for (const f of dropped ? dropped.items : []) spaces.set(f.namespace, (spaces.get(f.namespace) || 0) + 1);
    const worst = [...spaces].filter(([n]) => n).sort((a, b) => b[1] - a[1] || a[0].localeCompare(b[0])).slice(0, 8);
    before = worst.length ? bars("Namespaces", worst.map(([name, count]) => ({ name, count, href: mapHref(id, name), mood: "bad", title: "Map of " + name }))) : el("p", { class: "good" }, "None.");
    where.replaceChildren(before);
  };
  await load();
  onChange = oneAtATime(load, (err) => { if (!signal.aborted) show(failure(err)); });
  while (!signal.aborted) {
    await pause(10000, signal);
    if (!signal.aborted && !main.contains(document.activeElement)) await onChange();
  }
}

// What is searched, with the wire type of a row.
const searched = [
  ["pods", "Pods", () => "*v1.Pod"], ["workloads", "Workloads", (w) => w.source], ["services", "Services", () => "Service"], ["ingresses", "Ingresses", () => "Ingress"],
  ["nodes", "Nodes", () => "*v1.Node"], ["configmaps", "ConfigMaps", () => "*v1.ConfigMap"],
];

// showFound shows what contains a text, in one cluster or, without its id, in those that are stored.
async function showFound(id, signal, text) {
  const most = 20;
  const ids = id ? [id] : (await get("/clusters", signal)).clusters.map((c) => c.id);
  const sections = await Promise.all(ids.slice(0, most).map(async (of) => {
    const base = "/clusters/" + enc(of), query = "limit=" + most + "&contains=" + enc(text);
    const list = (path) => get(base + path + "?" + query, signal).catch((err) => { if (signal.aborted) throw err; return { items: [], total: 0 }; });
    const parts = [];
    for (const [kind, title, type] of searched) {
      const page = await list("/inventory/" + kind);
      parts.push([title, page.total, page.items.map((x) => [kind === "workloads" ? workloadHref(of, x) : objectHref(of, type(x), x.namespace, x.name), (x.namespace ? x.namespace + "/" : "") + x.name, (x.addresses || [x.address || x.cluster_ip || x.type || ""]).join(" ")])]);
    }
    const dropped = await list("/dropped");
    parts.push(["Dropped", dropped.total, dropped.items.filter((f) => f.name && f.type).map((f) => [objectHref(of, f.type, f.namespace, f.name), (f.namespace ? f.namespace + "/" : "") + f.name, f.reason])]);
    return [of, parts.filter(([, total]) => total)];
  }));
  const found = sections.filter(([of, parts]) => parts.length || of.includes(text));
  show(el("h2", {}, "Found: " + text), found.length ? null : el("p", {}, "Nothing that is shown or dropped contains it."),
    ...found.flatMap(([of, parts]) => [id ? null : el("h3", {}, el("a", { href: "#/c/" + enc(of) + "/overview" }, "Cluster " + of)), ...parts.map(([title, total, rows]) => el("section", { "aria-label": title + " of " + of },
      el("h3", {}, title + " (" + number(total) + ")"), el("ul", { class: "found" }, rows.map(([href, name, side]) => el("li", {}, el("a", { href }, name), " ", el("span", { class: "quiet" }, side)))),
      total > rows.length ? el("p", { class: "quiet" }, "The first " + rows.length + " are shown.") : null))]));
}

const everywhere = byId("everywhere");
everywhere.addEventListener("keydown", (e) => {
  if (e.key !== "Enter" || !everywhere.value.trim()) return;
  const [, kind, id] = location.hash.split("/").map(decoded);
  location.hash = kind === "c" ? "#/c/" + enc(id) + "/find/" + enc(everywhere.value.trim()) : "#/find/" + enc(everywhere.value.trim());
});
addEventListener("keydown", (e) => {
  if (e.key !== "/" || e.ctrlKey || e.metaKey || e.altKey || e.target.matches("input, select, textarea") || document.querySelector("dialog[open]")) return;
  e.preventDefault();
  everywhere.focus();
  everywhere.select();
});

// save offers a text as a file.
function save(name, type, text) {
  const a = el("a", { href: URL.createObjectURL(new Blob([text], { type })), download: name });
  a.click();
  setTimeout(() => URL.revokeObjectURL(a.href), 10000);
}

// csv is rows of texts; what a spreadsheet would take for a formula is kept a text.
const csv = (rows) => rows.map((r) => r.map((c) => '"' + String(c).replace(/^([=+\-@\t\r])/, "'$1").replaceAll('"', '""') + '"').join(",")).join("\r\n") + "\r\n";

// Everything is there: begin.
addEventListener("hashchange", route);
route();
