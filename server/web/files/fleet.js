"use strict";

// The clusters: the fleet in numbers, what is wrong with it by cause, and the list, which the server searches, filters and sorts.

// fleetText is what was searched for, for who comes back from a cluster.
let fleetText = "";

const fleetPage = 100, fleetMost = 5000;

// fleetColumns are what the server sorts by, of the first columns.
const fleetColumns = ["cluster", "trouble", "age", "objects", "version", "watcher"];

const troubleHref = (cause) => "#/trouble/" + enc(cause);

// fleetNumbers are the fleet at one glance.
const fleetNumbers = (fleet) => el("ul", { class: "numbers", "aria-label": t("counts") }, [
  ["nFine", fleet.fine, "none"], ["nLate", fleet.late, "late"], ["nStale", fleet.stale, "stale"], ["nFrozen", fleet.frozen, "frozen"], ["nUnwatched", fleet.without_watcher, "without_watcher"],
].map(([key, n, cause]) => el("li", {}, el("a", { href: troubleHref(cause) }, el("b", {}, number(n)), " " + t(key)))), el("li", { class: "quiet" }, t("nStored", number(fleet.objects), megabytes(fleet.bytes))),
fleet.reports_per_minute === undefined ? null : el("li", { class: "quiet" }, t("perMinute", number(fleet.reports_per_minute), megabytes(fleet.bytes_per_minute))));

const megabytes = (n) => (n / 1048576).toLocaleString("en", { maximumFractionDigits: n < 10485760 ? 1 : 0 }) + " " + t("mib");

// suspected says why a report is refused, in few words.
const suspected = (s) => (s.other_cluster ? t("otherCluster", s.reporter.source_ip || s.reporter.peer || "–") : t("suspicion", number(s.removed)));

// fleetRow is the line of a cluster.
const fleetRow = (c) => [
  el("a", { href: "#/c/" + enc(c.id) + "/overview" }, c.id),
  el("span", {}, el("span", { class: tone(c.state) }, word(c.state)), ...(c.trouble || []).filter((name) => word(name) !== word(c.state)).map((name) => [" ", el("span", { class: "chip small " + (name === "late" ? "warn" : "bad") }, word(name))]).flat()),
  span(c.age_seconds), number(c.objects), c.version, c.watcher ? c.watcher.holder || word(c.watcher.state) : "–",
  Object.entries(c.labels || {}).map(([key, value]) => key + "=" + value).join(" "), c.reporter.source_ip || c.reporter.peer || "–",
  c.suspicion ? suspected(c.suspicion) : c.error_msg,
];

// showClusters shows the clusters that have a cause of trouble; without one, all.
async function showClusters(signal, trouble) {
  const caption = t("clusters"), head = [t("cluster"), t("health"), t("lastReport"), t("objects"), "~" + t("version"), "~" + t("tab.watcher"), "~" + t("labels"), "~" + t("reporter"), t("remark")];
  const names = head.map((h) => h.replace("~", "")), texts = () => [...body.children].map((row) => [...row.children].map((cell) => cell.textContent));
  let shown = [], wanted = fleetPage, asked = 0, typing = 0, drawn = false;
  const top = el("div", {}), body = el("tbody", {}), note = el("p", { class: "quiet", role: "status" });
  const search = el("input", { type: "search", placeholder: t("searchIn", caption), "aria-label": t("searchIn", caption), oninput: () => {
    clearTimeout(typing);
    typing = setTimeout(() => { fleetText = search.value.trim(); wanted = fleetPage; find(); }, 100);
  } });
  const only = el("select", { "aria-label": t("troubles"), onchange: () => { location.hash = only.value ? troubleHref(only.value) : "#/"; } });
  const more = el("button", { type: "button", hidden: true, onclick: () => { wanted = Math.min(fleetMost, wanted * 5); find(); } }, t("more"));
  const far = (i) => (head[i].startsWith("~") ? "far" : "");
  const titles = [...sortable("fleet", head.slice(0, fleetColumns.length), () => find()), ...head.slice(fleetColumns.length).map((h, i) => el("th", { scope: "col", class: far(i + fleetColumns.length) }, h.replace("~", "")))];
  const list = el("div", {}, el("div", { class: "bar" }, search, only, exports(caption, names, texts, () => shown)), note,
    el("div", { class: "scroll" }, el("table", { "aria-label": caption }, el("thead", {}, el("tr", {}, titles)), body)), more);
  search.value = fleetText;

  // find shows what is asked for now; an answer that is late does not replace a younger one.
  const find = async () => {
    const by = sortings.get("fleet") || { column: 0 }, mine = ++asked;
    const page = await get("/clusters?limit=" + wanted + "&sort=" + (by.falling ? "-" : "") + fleetColumns[by.column] + (fleetText ? "&contains=" + enc(fleetText) : "") + (trouble ? "&trouble=" + enc(trouble) : ""), signal).catch((err) => err);
    if (signal.aborted || mine !== asked) return;
    if (page instanceof Error) {
      if (!drawn) throw page;
      note.textContent = page.message;
      return;
    }
    shown = page.clusters;
    const focused = body.contains(document.activeElement) ? document.activeElement.getAttribute("href") : null;
    body.replaceChildren(...shown.map((c) => el("tr", {}, fleetRow(c).map((cell, i) => el("td", { class: far(i) }, cell)))));
    if (focused) ([...body.querySelectorAll("a")].find((a) => a.getAttribute("href") === focused) || search).focus({ preventScroll: true });
    more.hidden = !page.continue || wanted >= fleetMost;
    note.textContent = shown.length < page.total ? t("someOf", number(shown.length), number(page.total)) : t("inAll", number(page.total));
  };
  const load = async () => {
    const [fleet, { servers }] = await Promise.all([get("/fleet", signal), get("/upstream", signal), find()]);
    if (signal.aborted) return;
    const behind = servers.length ? el("p", {}, el("a", { href: "#/upstream" }, t("behind")), t("reached", servers.filter((s) => s.healthy).length, servers.length)) : null;
    if (!fleet.clusters) {
      drawn = false;
      show(el("h2", {}, caption), behind, el("p", {}, t("noCluster")));
      return;
    }
    const groups = fleet.troubles.map((g) => ({ name: word(g.cause), count: g.count, href: troubleHref(g.cause), mood: g.cause === "late" ? "warn" : "bad", title: told("sentence", g.cause, g.sentence) + " " + told("advice", g.cause, g.advice) }));
    top.replaceChildren(...[behind, fleetNumbers(fleet),
      groups.length ? el("section", { class: "card", "aria-label": t("troubles") }, el("h3", {}, t("troubles")), bars(t("troubles"), groups)) : null].filter((e) => e));
    const causes = new Set(["", "any", "none", ...fleet.troubles.map((g) => g.cause), trouble]);
    if (document.activeElement !== only) only.replaceChildren(...[...causes].map((name) => el("option", { value: name, selected: name === trouble }, name ? word(name) : t("allClusters"))));
    if (!drawn) show(el("h2", {}, caption), top, list);
    drawn = true;
  };
  await load();
  while (!signal.aborted) {
    await pause(5000, signal);
    if (signal.aborted) return;
    try { await load(); } catch (err) {
      if (signal.aborted) return;
      if (err.status === 401 || err.status === 403) throw err;
      note.textContent = err.message;
    }
  }
}
