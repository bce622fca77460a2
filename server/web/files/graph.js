"use strict";

// Pictures of objects and their relations: columns of boxes from Ingress to Node, and lines between them.

const svgSpace = "http://www.w3.org/2000/svg";
const draw = (tag, attrs, ...children) => {
  const e = document.createElementNS(svgSpace, tag);
  for (const [k, v] of Object.entries(attrs || {})) {
    if (v === undefined || v === null) continue;
    if (k.startsWith("on")) e.addEventListener(k.slice(2), v);
    else e.setAttribute(k, String(v));
  }
  e.append(...children.flat().filter((c) => c !== null && c !== undefined).map((c) => (c instanceof Node ? c : document.createTextNode(String(c)))));
  return e;
};

const layerNames = { other: "", ingress: t("layer.ingress"), service: t("layer.service"), workload: t("layer.workload"), pod: t("layer.pod"), node: t("layer.node") };
const stateNames = { shown: t("box.shown"), partly: t("box.partly"), dropped: t("box.dropped"), missing: t("box.missing") };
const stateSigns = { shown: "", partly: "! ", dropped: "✕ ", missing: "? " };
const boxWidth = 162, boxHeight = 36, rowStep = 46, columnStep = 258, topMargin = 30;

const boxTitle = (b) => b.kind + " " + (b.namespace ? b.namespace + "/" : "") + b.name;

// arrange returns the columns with their boxes, so that lines are short and cross little, and the place of each box.
function arrange(graph) {
  const near = graph.boxes.map(() => []);
  for (const l of graph.lines) { near[l.from].push(l.to); near[l.to].push(l.from); }
  const columns = Object.keys(layerNames).map((layer) => graph.boxes.map((b, i) => i).filter((i) => graph.boxes[i].layer === layer)).filter((c) => c.length);
  const column = [], y = [];
  columns.forEach((list, c) => list.forEach((i, row) => { column[i] = c; y[i] = row; }));
  const mean = (i, side) => {
    const rows = near[i].filter((j) => (side < 0 ? column[j] < column[i] : column[j] > column[i])).map((j) => y[j]);
    return rows.length ? rows.reduce((a, b) => a + b, 0) / rows.length : y[i];
  };
  const sweep = (list, side) => {
    const key = new Map(list.map((i) => [i, mean(i, side)]));
    list.sort((a, b) => key.get(a) - key.get(b) || a - b);
    list.forEach((i, row) => { y[i] = row; });
  };
  for (let round = 0; round < 4; round++) {
    columns.slice(1).forEach((list) => sweep(list, -1));
    columns.slice(0, -1).reverse().forEach((list) => sweep(list, 1));
  }
  // The longest column stands; the others go beside what they belong to, without overlaps.
  const longest = columns.reduce((best, list, c) => (list.length > columns[best].length ? c : best), 0);
  const beside = (list, side) => {
    let free = 0;
    for (const i of list) { y[i] = Math.max(free, mean(i, side)); free = y[i] + 1; }
  };
  for (let c = longest + 1; c < columns.length; c++) beside(columns[c], -1);
  for (let c = longest - 1; c >= 0; c--) beside(columns[c], 1);
  return { columns, column, y, near };
}

// picture draws a graph. link gives the address of a box, "" if it has none; sentence explains a reason.
function picture(graph, link, sentence, label) {
  const { columns, column, y, near } = arrange(graph);
  const x = (i) => 10 + column[i] * columnStep, top = (i) => topMargin + y[i] * rowStep;
  const height = topMargin + (Math.max(0, ...y) + 1) * rowStep, width = 20 + Math.max(0, columns.length - 1) * columnStep + boxWidth;
  const pen = document.createElement("canvas").getContext("2d");
  pen.font = getComputedStyle(document.body).font.replace(/[\d.]+px/, "12px");
  // fit shortens a text to so many pixels.
  const fit = (text, most) => {
    if (pen.measureText(text).width <= most) return text;
    let n = Math.min(text.length, 40);
    while (n > 1 && pen.measureText(text.slice(0, n) + "…").width > most) n--;
    return text.slice(0, n) + "…";
  };
  // halves breaks a reason that is wider than the way between two columns at the capital letter next to its middle.
  const halves = (reason) => {
    if (reason.length < 12) return ["✕ " + reason];
    const starts = [...reason.matchAll(/[A-Z]/g)].map((m) => m.index).filter((i) => i > 0);
    const at = starts.reduce((best, i) => (Math.abs(i - reason.length / 2) < Math.abs(best - reason.length / 2) ? i : best), reason.length);
    return ["✕ " + reason.slice(0, at), reason.slice(at)];
  };
  const hatch = (id) => draw("pattern", { id, width: 8, height: 8, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" }, draw("rect", { width: 3, height: 8, class: id }));
  const svg = draw("svg", { width, height, viewBox: "0 0 " + width + " " + height, role: "group", "aria-label": label },
    draw("defs", {}, hatch("hatch-dropped"), hatch("hatch-partly")),
    columns.map((list, c) => draw("text", { x: 10 + c * columnStep, y: 16, class: "column" }, layerNames[graph.boxes[list[0]].layer])));
  const lineElements = graph.lines.map((l) => {
    const [a, b] = column[l.from] <= column[l.to] ? [l.from, l.to] : [l.to, l.from];
    const same = column[a] === column[b];
    const x1 = x(a) + (same ? boxWidth / 2 : boxWidth), x2 = same ? x(b) + boxWidth / 2 : x(b), y1 = top(a) + (same ? boxHeight : boxHeight / 2), y2 = top(b) + (same ? 0 : boxHeight / 2);
    const bend = same ? "M" + x1 + " " + y1 + "L" + x2 + " " + y2 : "M" + x1 + " " + y1 + "C" + (x1 + 45) + " " + y1 + " " + (x2 - 45) + " " + y2 + " " + x2 + " " + y2;
    const path = draw("path", { d: bend, class: l.reason ? "broken" : "whole" });
    if (!l.reason) return draw("g", { class: "line" }, path);
    const mx = (x1 + x2) / 2, my = (y1 + y2) / 2;
    return draw("g", { class: "line" }, path, draw("title", {}, l.reason + ": " + sentence(l.reason)), 
      halves(l.reason).map((text, i) => draw("text", { x: mx, y: my + (i ? 12 : -5), class: "reason", "text-anchor": "middle" }, text)));
  });
  svg.append(...lineElements);
  let current = Math.max(0, graph.boxes.findIndex((b) => b.focus));
  const boxes = graph.boxes.map((b, i) => {
    const href = link(b);
    const why = b.reasons.length ? ": " + b.reasons.map((r) => r + ", " + sentence(r)).join(" ") : "";
    const e = draw("a", {
      href: href || null, class: "box " + b.state + (b.focus ? " focus" : ""), tabindex: i === current ? 0 : -1, role: "link", "aria-label": boxTitle(b) + ", " + stateNames[b.state] + why,
      "aria-current": b.focus ? "true" : null, "aria-disabled": href ? null : "true", transform: "translate(" + x(i) + " " + top(i) + ")", "data-at": i, "data-key": [b.layer, b.type, b.id, boxTitle(b)].join(" "),
    }, draw("title", {}, boxTitle(b) + " – " + stateNames[b.state] + why),
    draw("rect", { width: boxWidth, height: boxHeight, rx: 5, class: "ground" }),
    b.state === "dropped" || b.state === "partly" ? draw("rect", { width: b.state === "dropped" ? boxWidth : 10, height: boxHeight, rx: 5, fill: "url(#hatch-" + b.state + ")" }) : null,
    draw("text", { x: 14, y: 14, class: "kind" }, stateSigns[b.state] + b.kind),
    draw("text", { x: 14, y: 29, class: "name" }, fit(b.name, boxWidth - 16)));
    return e;
  });
  svg.append(...boxes);

  const go = (i) => {
    boxes[current].setAttribute("tabindex", -1);
    current = i;
    boxes[i].setAttribute("tabindex", 0);
    boxes[i].focus();
    boxes[i].scrollIntoView({ block: "nearest", inline: "nearest" });
  };
  svg.addEventListener("focusin", (e) => { const at = e.target.closest("[data-at]"); if (at) { boxes[current].setAttribute("tabindex", -1); current = Number(at.dataset.at); at.setAttribute("tabindex", 0); } });
  svg.addEventListener("keydown", (e) => {
    const list = columns[column[current]], row = list.indexOf(current);
    const beside = (side) => near[current].filter((j) => (side < 0 ? column[j] < column[current] : column[j] > column[current])).sort((a, b) => Math.abs(y[a] - y[current]) - Math.abs(y[b] - y[current]))[0];
    const to = { ArrowDown: list[row + 1], ArrowUp: list[row - 1], Home: list[0], End: list[list.length - 1], ArrowLeft: beside(-1), ArrowRight: beside(1) }[e.key];
    if (to === undefined) return;
    e.preventDefault();
    go(to);
  });
  const text = el("details", {}, el("summary", {}, t("asText")), el("ul", {}, graph.boxes.map((b, i) => {
    const out = graph.lines.filter((l) => l.from === i).map((l) => (l.reason ? t("breaksBefore", l.reason, boxTitle(graph.boxes[l.to])) : t("leadsTo", boxTitle(graph.boxes[l.to]))));
    return el("li", {}, boxTitle(b) + ": " + stateNames[b.state] + (b.reasons.length ? " (" + b.reasons.join(", ") + ")" : "") + (out.length ? "; " + out.join("; ") : ""));
  })));
  const box = el("div", { class: "picture" }, svg);
  return {
    element: el("div", {}, box, text),
    // search marks the boxes that contain a text, and returns them.
    search(wanted) {
      const found = wanted ? graph.boxes.map((b, i) => i).filter((i) => boxTitle(graph.boxes[i]).toLowerCase().includes(wanted.toLowerCase())) : [];
      const with_ = new Set(found.flatMap((i) => [i, ...near[i]]));
      boxes.forEach((e, i) => { e.classList.toggle("dim", Boolean(wanted) && !with_.has(i)); e.classList.toggle("hit", found.includes(i)); });
      lineElements.forEach((e, i) => e.classList.toggle("dim", Boolean(wanted) && !(with_.has(graph.lines[i].from) && with_.has(graph.lines[i].to))));
      if (found.length) boxes[found[0]].scrollIntoView({ block: "nearest", inline: "nearest" });
      return found;
    },
    go,
  };
}

const legend = () => el("p", { class: "quiet legend" }, Object.entries(stateNames).map(([state, what]) => el("span", { class: "key " + state }, (stateSigns[state] || "") + what)));
