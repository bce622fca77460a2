"use strict";

// The overview of a cluster, and the search through everything.

// strip draws the kept versions: one bar each, as high as it has objects, with what it changed in colour below.
function strip(id, versions) {
  const width = 900, height = 90, most = Math.max(1, ...versions.map((v) => v.objects)), step = width / Math.max(versions.length, 12);
  const changed = (v) => v.added + v.changed + v.removed;
  const busiest = Math.max(1, ...versions.slice(1).map(changed));
  return draw("svg", { class: "strip", viewBox: "0 0 " + width + " " + height, preserveAspectRatio: "none", role: "group", "aria-label": t("objectsOfVersions") },
    versions.map((v, i) => {
      const high = Math.max(2, Math.round(60 * v.objects / most)), low = i ? Math.round(22 * changed(v) / busiest) : 0;
      const what = i ? t("stripVersion", local(v.received_at), number(v.objects), v.added, v.changed, v.removed, v.version) : t("stripOldest", local(v.received_at), number(v.objects), v.version);
      return draw("a", { href: "#/c/" + enc(id) + "/versions", "aria-label": what }, draw("title", {}, what),
        draw("rect", { x: i * step, y: 0, width: step, height, class: "area" }),
        draw("rect", { x: i * step + 1, y: 62 - high, width: Math.max(1, step - 2), height: high, class: "objects" }),
        low ? draw("rect", { x: i * step + 1, y: 66, width: Math.max(1, step - 2), height: Math.max(2, low), class: v.removed ? "removed" : v.added ? "added" : "changed" }) : null);
    }));
}

// lagPicture draws how long each kept report was under way.
function lagPicture(versions) {
  const known = versions.filter((v) => v.lag_seconds !== undefined);
  if (!known.length) return el("p", { class: "quiet" }, t("lagNone"));
  const width = 900, height = 70, step = width / Math.max(known.length, 12), most = Math.max(...known.map((v) => v.lag_seconds), 0.001);
  return [draw("svg", { class: "strip lag-strip", viewBox: "0 0 " + width + " " + height, preserveAspectRatio: "none", role: "img", "aria-label": t("lagTitle") }, known.map((v, i) => {
    const high = Math.max(2, Math.round((height - 4) * v.lag_seconds / most)), what = t("lagOf", local(v.received_at), short(v.lag_seconds), number(v.objects));
    return draw("g", {}, draw("title", {}, what), draw("rect", { x: i * step, y: 0, width: step, height, class: "area" }), draw("rect", { x: i * step + 1, y: height - high, width: Math.max(1, step - 2), height: high, class: v.lag_seconds > 60 ? "changed" : "objects" }));
  })), el("p", { class: "quiet" }, t("lagMost", short(most), short(known[known.length - 1].lag_seconds)))];
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
  let before = el("p", { class: "quiet" }, t("loading"));
  const load = async () => {
    const missing = (err) => { if (err.status === 404 || err.status === 503) return null; throw err; };
    const [info, summary, lost, { versions }, { clusters: watchers }] = await Promise.all([
      get(base, signal), get(base + "/inventory", signal).catch(missing), get(base + "/dropped/reasons", signal).catch(missing), get(base + "/versions", signal), get("/watchers", signal)]);
    const watcher = watchers.find((w) => w.cluster === id);
    const refused = summary && !summary.ok;
    const [mood, verdict] = info.state === "stale" ? ["bad", t("vStale", span(info.age_seconds))]
      : info.error_msg ? ["bad", t("vError", local(info.error_since), info.error_msg)]
      : info.suspicion ? ["bad", info.suspicion.other_cluster ? t("vOtherCluster", info.suspicion.reporter.source_ip || info.suspicion.reporter.peer || "–", local(info.suspicion.since), number(info.suspicion.refused))
        : t("vSuspicion", number(info.suspicion.removed))]
      : refused ? ["bad", t("nothingTaken", summary.failures.map((f) => f.reason + " (" + told("advice", f.reason, f.advice) + ")").join("; "))]
      : ["good", t("vWorks", number(info.objects), span(info.age_seconds))];
    const where = el("div", {}, before);
    const c = summary ? summary.counts : null;
    show(el("h2", {}, t("clusterNamed", id), copyButton(id)), el("p", { class: "card verdict edge-" + mood, role: "status" }, el("b", { class: mood }, verdict)),
      c ? el("ul", { class: "numbers", "aria-label": t("counts") }, [["nodesN", c.nodes, "nodes"], ["namespacesN", c.namespaces, "map"], ["workloadsN", c.workloads, "tree"], ["podsN", c.pods, "tree"], ["servicesN", c.services, "services"], ["ingressesN", c.ingresses, "map"]]
        .map(([what, n, tab]) => el("li", {}, el("a", { href: of + "/" + tab }, el("b", {}, number(n)), " " + t(what))))) : null,
      el("div", { class: "panels" },
        el("section", { class: "card", "aria-label": t("whoWatches") }, el("h3", {}, t("whoWatches")), watcher
          ? el("p", {}, watcher.holder ? t("sinceWhen", watcher.holder.name, local(watcher.holder.since)) : t("nobodyIs", word(watcher.state)), watcher.reason ? " – " + because(watcher.reason) : "", " · ", el("a", { href: of + "/watcher" }, t("allCandidates")))
          : el("p", {}, t("noneAsks", info.reporter.source_ip || info.reporter.peer || "–"))),
        el("section", { class: "card", "aria-label": t("overTime") }, el("h3", {}, t("overTime")), versions.length ? strip(id, versions) : null,
          el("p", { class: "quiet" }, t("versionsKept", versions.length), " ", el("a", { href: of + "/versions" }, t("versions")))),
        el("section", { class: "card", "aria-label": t("lagTitle") }, el("h3", {}, t("lagTitle")), lagPicture(versions)),
        el("section", { class: "card", "aria-label": t("lost") }, el("h3", {}, t("lostTitle")), lost && lost.reasons.length
          ? bars(t("reasons"), lost.reasons.map((r) => ({ name: r.reason, count: r.count, href: of + "/dropped/" + enc(r.reason), mood: r.scope === "relation" ? "warn" : "bad", title: told("sentence", r.reason, r.sentence) + " " + told("advice", r.reason, r.advice) })))
          : el("p", { class: "good" }, t("nothing"))),
        el("section", { class: "card", "aria-label": t("where") }, el("h3", {}, t("whereTitle")), where),
        el("section", { class: "card", "aria-label": t("latest") }, el("h3", {}, t("latest")), versions.length > 1
          ? el("ol", { class: "time" }, versions.slice(1).slice(-6).reverse().map((v) => el("li", {}, when(v.received_at), " ", counts(v))))
          : el("p", { class: "quiet" }, t("noneKept")), el("p", {}, el("a", { href: of + "/changes" }, t("tab.changes")), " · ", el("a", { href: of + "/versions" }, t("exactly"))))));
    // To find all that is dropped takes longer than the rest.
    const dropped = await get(base + "/dropped?scope=object&limit=5000", signal).catch(missing);
    const spaces = new Map();
    for (const f of dropped ? dropped.items : []) spaces.set(f.namespace, (spaces.get(f.namespace) || 0) + 1);
    const worst = [...spaces].filter(([n]) => n).sort((a, b) => b[1] - a[1] || a[0].localeCompare(b[0])).slice(0, 8);
    before = worst.length ? bars(t("namespaces"), worst.map(([name, count]) => ({ name, count, href: mapHref(id, name), mood: "bad", title: t("mapOf", name) }))) : el("p", { class: "good" }, t("none"));
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
  ["pods", () => "*v1.Pod"], ["workloads", (w) => w.source], ["services", () => "Service"], ["ingresses", () => "Ingress"], ["nodes", () => "*v1.Node"],
  ["configmaps", () => "*v1.ConfigMap"],
];

// showFound shows what contains a text, in one cluster or, without its id, in those that are stored.
async function showFound(id, signal, text) {
  const most = 20;
  const ids = id ? [id] : (await get("/clusters?limit=" + most, signal)).clusters.map((c) => c.id);
  const sections = await Promise.all(ids.slice(0, most).map(async (of) => {
    const base = "/clusters/" + enc(of), query = "limit=" + most + "&contains=" + enc(text);
    const list = (path) => get(base + path + "?" + query, signal).catch((err) => { if (signal.aborted) throw err; return { items: [], total: 0 }; });
    const parts = [];
    for (const [kind, type] of searched) {
      const page = await list("/inventory/" + kind);
      parts.push([t("kind." + kind), page.total, page.items.map((x) => [kind === "workloads" ? workloadHref(of, x) : objectHref(of, type(x), x.namespace, x.name), (x.namespace ? x.namespace + "/" : "") + x.name, (x.addresses || [x.address || x.cluster_ip || x.type || ""]).join(" ")])]);
    }
    const dropped = await list("/dropped");
    parts.push([t("dropped"), dropped.total, dropped.items.filter((f) => f.name && f.type).map((f) => [objectHref(of, f.type, f.namespace, f.name), (f.namespace ? f.namespace + "/" : "") + f.name, f.reason])]);
    return [of, parts.filter(([, total]) => total)];
  }));
  const found = sections.filter(([of, parts]) => parts.length || of.includes(text));
  show(el("h2", {}, t("foundTitle", text)), found.length ? null : el("p", {}, t("notFound")),
    ...found.flatMap(([of, parts]) => [id ? null : el("h3", {}, el("a", { href: "#/c/" + enc(of) + "/overview" }, t("clusterNamed", of))), ...parts.map(([title, total, rows]) => el("section", { "aria-label": t("kindOf", title, of) },
      el("h3", {}, t("kindCount", title, number(total))), el("ul", { class: "found" }, rows.map(([href, name, side]) => el("li", {}, el("a", { href }, name), " ", el("span", { class: "quiet" }, side)))),
      total > rows.length ? el("p", { class: "quiet" }, t("firstN", rows.length)) : null))]));
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

// Everything is there: begin.
addEventListener("hashchange", route);
route();
