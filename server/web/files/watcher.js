"use strict";

// The election: who watches and why, all candidates, and who had the role when.

// roleHistory is a time line: a bar for each time in which an agent had the role, and the same as a list, with why it ended.
function roleHistory(w) {
  const list = w.history || [];
  if (!list.length) return null;
  const at = (text) => (text ? Date.parse(text) : null), now = Date.now();
  const begin = Math.min(...list.map((h) => at(h.from) ?? at(h.until) ?? now)), length = Math.max(1, now - begin);
  const width = 900, agents = [...new Set(list.map((h) => h.name))], step = 26;
  const x = (time) => Math.round(width * (time - begin) / length);
  const said = (h) => (h.how ? t("how." + h.how) : "");
  const range = (h) => t("roleUntil", h.from ? local(h.from) : t("roleBefore"), h.until ? local(h.until) : t("now"));
  const svg = draw("svg", { class: "role", viewBox: "0 0 " + width + " " + agents.length * step, preserveAspectRatio: "none", role: "img", "aria-label": t("roleTimeline") }, list.map((h) => {
    const from = x(at(h.from) ?? begin), to = x(at(h.until) ?? now), y = agents.indexOf(h.name) * step;
    return draw("g", {}, draw("title", {}, h.name + ", " + range(h) + (h.how ? ": " + said(h) : "")),
      draw("rect", { x: 0, y: y + step - 1, width, height: 1, class: "line" }), draw("rect", { x: from, y: y + 3, width: Math.max(3, to - from), height: step - 8, class: h.until ? "was" : "is" }));
  }));
  svg.style.height = agents.length * step + "px";
  const items = list.map((h, i) => {
    const next = list[i - 1], empty = next && h.until && next.from ? (at(next.from) - at(h.until)) / 1000 : 0;
    return el("li", {}, el("b", {}, h.name), " (" + h.class + ") ", el("span", { class: "quiet" }, range(h)), h.how ? [el("br"), said(h) + ". ", empty > 1 ? el("span", { class: "warn" }, t("nobodyHeld", span(empty))) : null] : null);
  });
  return el("section", { "aria-label": t("roleHistory") }, el("h2", {}, t("roleHistory")),
    el("div", { class: "timeline" }, el("div", { class: "agents" }, agents.map((a) => el("div", { title: a }, a))), svg), el("ol", { class: "time" }, items));
}

async function showWatcher(id, signal) {
  while (!signal.aborted) {
    try {
      const w = await get("/watchers/" + enc(id), signal);
      show(el("h2", {}, t("whoWatches")),
        el("p", { class: "card" }, el("b", {}, word(w.state)), w.holder ? t("holderSince", w.holder.name, w.holder.class, local(w.holder.since), span(w.holder.expires_in_seconds)) : "", w.reason ? " – " + because(w.reason) : ""),
        w.unfulfilled ? el("p", { class: "warn" }, t("unfulfilled")) : null,
        table(t("candidates"), [t("rank"), t("agent"), t("class"), t("state"), t("reason"), "~" + t("lastAnswer"), "~" + t("seen")], w.candidates.map((a) => [
          a.rank || "–", a.name, a.class, el("span", { class: tone(a.state) }, word(a.state)), because(a.reason), because(a.answer), t("ago", span(a.seen_seconds_ago))])),
        roleHistory(w),
        w.designations.length ? el("h2", {}, t("designations")) : null,
        w.designations.length ? table(t("designations"), [t("whom"), t("source"), t("fulfilledBy")], w.designations.map((d) => [d.workload || d.agent_group || d.host_pattern || d.agent, d.source, d.fulfilled_by])) : null);
    } catch (err) {
      if (signal.aborted) return;
      show(el("h2", {}, t("whoWatches")), err.status === 404 ? el("p", {}, err.message) : failure(err));
      if (err.status === 401) return;
    }
    await pause(5000, signal);
  }
}

