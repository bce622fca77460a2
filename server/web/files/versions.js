"use strict";

// Versions: what changed, two of them side by side, and changes as they come.

// steps are the lines of two texts by their longest common subsequence: " " stands in both, "-" in the first, "+" in the second;
// of what is equal before and after all differences only three lines.
function steps(before, after) {
  let a = before ? before.split("\n") : [], b = after ? after.split("\n") : [];
  const out = [];
  let head = 0;
  while (head < a.length && head < b.length && a[head] === b[head]) head++;
  let tail = 0;
  while (tail < a.length - head && tail < b.length - head && a[a.length - 1 - tail] === b[b.length - 1 - tail]) tail++;
  const context = 3;
  a.slice(Math.max(0, head - context), head).forEach((l) => out.push([" ", l]));
  const end = a.slice(a.length - tail, a.length - tail + context);
  a = a.slice(head, a.length - tail);
  b = b.slice(head, b.length - tail);
  if (a.length * b.length > 4e6) {
    a.forEach((l) => out.push(["-", l]));
    b.forEach((l) => out.push(["+", l]));
  } else {
    const width = b.length + 1, best = new Uint32Array((a.length + 1) * width);
    for (let i = a.length - 1; i >= 0; i--) for (let j = b.length - 1; j >= 0; j--) {
      best[i * width + j] = a[i] === b[j] ? best[(i + 1) * width + j + 1] + 1 : Math.max(best[(i + 1) * width + j], best[i * width + j + 1]);
    }
    let i = 0, j = 0;
    while (i < a.length || j < b.length) {
      if (i < a.length && j < b.length && a[i] === b[j]) { out.push([" ", a[i]]); i++; j++; }
      else if (j >= b.length || i < a.length && best[(i + 1) * width + j] >= best[i * width + j + 1]) out.push(["-", a[i++]]);
      else out.push(["+", b[j++]]);
    }
  }
  end.forEach((l) => out.push([" ", l]));
  return out;
}

// lines shows two texts below each other.
function lines(before, after) {
  return el("pre", { class: "diff", tabindex: "0" }, steps(before, after).map(([sign, l]) => el("span", { class: sign === "+" ? "plus" : sign === "-" ? "minus" : "" }, sign + " " + l + "\n")));
}

// changeList shows objects that differ; each opens to what differs in it.
const changeList = (id, from, to, objects, signal, titled) => el("div", {}, objects.map((o) => el("details", {
  ontoggle: async (e) => {
    const box = e.target;
    if (!box.open || box.querySelector("pre")) return;
    try {
      const page = await get("/clusters/" + enc(id) + "/differences?content=true&from=" + from + "&to=" + to + "&type=" + enc(o.type) + "&namespace=" + enc(o.namespace || "") + "&name=" + enc(o.name), signal);
      const text = (v) => (v ? JSON.stringify(v, null, 2) : "");
      const one = page.objects[0];
      box.append(one ? lines(text(one.before), text(one.after)) : el("pre", {}, t("sameNow")));
    } catch (err) { if (!signal.aborted) box.append(failure(err)); }
  },
}, el("summary", {}, el("span", { class: tone(o.change) }, word(o.change)), " " + (titled || o.type + " " + (o.namespace ? o.namespace + "/" : "") + o.name)), titled ? null : el("p", {}, el("a", { href: objectHref(id, o.type, o.namespace, o.name) }, t("openNamed", o.name))))));

const counts = (v) => [el("span", { class: "good" }, "+" + number(v.added)), " ", el("span", { class: "warn" }, "~" + number(v.changed)), " ", el("span", { class: "bad" }, "−" + number(v.removed))];


// chooser leads to the comparison of two versions.
function chooser(id, versions, from, to) {
  const select = (label, chosen) => el("select", { "aria-label": label }, versions.map((v) => el("option", { value: v.version, selected: String(v.version) === String(chosen) }, local(v.received_at) + " · " + v.version)));
  const a = select(t("compareFrom"), from), b = select(t("compareTo"), to);
  return el("div", { class: "bar", role: "group", "aria-label": t("compareHint") }, a, "→", b,
    el("button", { type: "button", onclick: () => { location.hash = "#/c/" + enc(id) + "/versions/" + a.value + "/" + b.value; } }, t("compare")));
}

// words are the pieces of two lines that differ: [before, differs, after] of each.
function marked(a, b) {
  let head = 0;
  while (head < a.length && head < b.length && a[head] === b[head]) head++;
  let tail = 0;
  while (tail < a.length - head && tail < b.length - head && a[a.length - 1 - tail] === b[b.length - 1 - tail]) tail++;
  const part = (s) => [s.slice(0, head), el("mark", {}, s.slice(head, s.length - tail)), s.slice(s.length - tail)];
  return [part(a), part(b)];
}

// sides shows two texts beside each other, lines that belong together in one row, what differs within them marked.
function sides(before, after) {
  const rows = [], gone = [];
  const row = (left, right) => rows.push(el("tr", {}, el("td", { class: left !== null && left !== right ? "minus" : "" }, left === null ? "" : left), el("td", { class: right !== null && left !== right ? "plus" : "" }, right === null ? "" : right)));
  const flush = () => { for (const l of gone.splice(0)) row(l, null); };
  for (const [sign, l] of steps(before, after)) {
    if (sign === "-") gone.push(l);
    else if (sign === "+" && gone.length) {
      const left = gone.shift(), [a, b] = marked(left, l);
      rows.push(el("tr", {}, el("td", { class: "minus" }, a), el("td", { class: "plus" }, b)));
    } else {
      flush();
      if (sign === "+") row(null, l);
      else row(l, l);
    }
  }
  flush();
  return el("div", { class: "scroll", tabindex: "0", role: "group", "aria-label": t("compareHint") }, el("table", { class: "sides" },
    el("thead", {}, el("tr", {}, el("th", { scope: "col" }, t("before")), el("th", { scope: "col" }, t("after")))), el("tbody", {}, rows)));
}

// showCompare shows what differs between two versions, each object's JSON side by side.
async function showCompare(id, signal, from, to) {
  const base = "/clusters/" + enc(id), query = base + "/differences?from=" + enc(from) + "&to=" + enc(to);
  const { versions } = await get(base + "/versions", signal);
  const body = el("div", {});
  let token = null, first = true;
  const more = el("button", { type: "button", hidden: true, onclick: () => load() }, t("more"));
  const object = (o, open) => el("details", { class: "card", open, ontoggle: async (e) => {
    const box = e.target;
    if (!box.open || box.querySelector("table, pre")) return;
    try {
      const page = await get(query + "&content=true&type=" + enc(o.type) + "&namespace=" + enc(o.namespace || "") + "&name=" + enc(o.name), signal);
      const text = (v) => (v ? JSON.stringify(v, null, 2) : "");
      const one = page.objects[0];
      box.append(one ? sides(text(one.before), text(one.after)) : el("pre", {}, t("sameNow")));
    } catch (err) { if (!signal.aborted) box.append(failure(err)); }
  } }, el("summary", {}, el("span", { class: tone(o.change) }, word(o.change)), " " + o.type + " " + (o.namespace ? o.namespace + "/" : "") + o.name),
  el("p", {}, el("a", { href: objectHref(id, o.type, o.namespace, o.name) }, t("openNamed", o.name))));
  const load = async () => {
    const page = await get(query + "&limit=200" + (token ? "&continue=" + enc(token) : ""), signal);
    // The first few are open: it is them that one came for.
    const open = 3;
    body.append(...page.objects.map((o, i) => object(o, first && i < open)));
    if (first && !page.total) body.append(el("p", { class: "good" }, t("noDifference")));
    if (first) body.prepend(el("p", {}, counts(page)));
    first = false;
    token = page.continue;
    more.hidden = !token;
  };
  await load();
  show(el("h2", {}, t("compareTitle", from, to)), chooser(id, versions, from, to), body, more);
}

async function showVersions(id, signal) {
  const { versions } = await get("/clusters/" + enc(id) + "/versions", signal);
  const item = (v, i) => {
    const before = versions[i - 1];
    if (!before) return el("li", {}, when(v.received_at), " ", t("oldest", v.version, number(v.objects)));
    const body = el("div", {});
    let token = null;
    const more = el("button", { type: "button", hidden: true, onclick: () => load() }, t("more"));
    const load = async () => {
      try {
        const page = await get("/clusters/" + enc(id) + "/differences?limit=200&from=" + before.version + "&to=" + v.version + (token ? "&continue=" + enc(token) : ""), signal);
        body.append(changeList(id, before.version, v.version, page.objects, signal));
        token = page.continue;
        more.hidden = !token;
      } catch (err) { if (!signal.aborted) body.append(failure(err)); }
    };
    return el("li", {}, el("details", { ontoggle: (e) => { if (e.target.open && !body.childElementCount) load(); } },
      el("summary", {}, when(v.received_at), " ", t("versionHas", v.version, number(v.objects)), " ", counts(v)), body, more));
  };
  show(el("h2", {}, t("versions")), versions.length > 1 ? chooser(id, versions, versions[versions.length - 2].version, versions[versions.length - 1].version) : null, el("ol", { class: "time" }, versions.map(item).reverse()));
  onChange = () => { if (![...main.querySelectorAll("details")].some((d) => d.open)) showVersions(id, signal).catch(() => {}); };
}

async function showLive(id, signal) {
  const draw = () => show(el("h2", {}, t("liveTitle")),
    stream.events.length ? null : el("p", { class: "quiet" }, t("waiting")),
    el("ol", { class: "time" }, stream.events.map((v) => el("li", {}, el("p", {}, when(v.received_at), " ", t("versionIs", v.version), " ", counts(v)),
      changeList(id, v.before, v.version, v.objects, signal), v.truncated ? el("p", { class: "quiet" }, t("moreInVersions")) : null))));
  draw();
  onChange = draw;
}

