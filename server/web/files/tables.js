"use strict";

// Tables that are sorted by any title and saved as CSV or JSON, short ones and those of any length; and what is copied.

// save offers a text as a file.
function save(name, type, text) {
  const a = el("a", { href: URL.createObjectURL(new Blob([text], { type })), download: name });
  a.click();
  setTimeout(() => URL.revokeObjectURL(a.href), 10000);
}

// csv is rows of texts; what a spreadsheet would take for a formula is kept a text.
const csv = (rows) => rows.map((r) => r.map((c) => '"' + String(c).replace(/^([=+\-@\t\r])/, "'$1").replaceAll('"', '""') + '"').join(",")).join("\r\n") + "\r\n";

// exports are the buttons that save what is shown: rows gives the texts of the cells, items what is written as JSON.
const exports = (caption, names, rows, items) => [
  el("button", { type: "button", class: "small", "aria-label": t("csvOf", caption), onclick: () => save(caption + ".csv", "text/csv", csv([names, ...rows()])) }, "CSV"),
  el("button", { type: "button", class: "small", "aria-label": t("jsonOf", caption), onclick: () => save(caption + ".json", "application/json", JSON.stringify(items(), null, 2)) }, "JSON"),
];

// copy puts a text on the clipboard, also where the page came by plain HTTP from elsewhere, where browsers have no clipboard.
async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const area = el("textarea", { class: "aside-copy", "aria-hidden": true });
    area.value = text;
    const focused = document.activeElement;
    (document.querySelector("dialog[open]") || document.body).append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
    if (focused) focused.focus({ preventScroll: true });
  }
  byId("live").textContent = t("copied", text);
}
const copyButton = (text) => el("button", { type: "button", class: "copy-name", title: t("copyOf", text), "aria-label": t("copyOf", text), onclick: (e) => { e.stopPropagation(); copy(text); } },
  draw("svg", { width: 14, height: 14, viewBox: "0 0 14 14", "aria-hidden": true }, draw("path", { d: "M4.5 4.5h8v8h-8z M9.5 2.5v-1h-8v8h1" })));

const compareTexts = new Intl.Collator("en", { numeric: true }).compare;

// sortings are how the tables of a view are sorted, for views that are drawn again and again.
const sortings = new Map();

// sortable makes the titles of a table; changed is called with the column and whether it falls.
function sortable(key, head, changed) {
  const cells = head.map((h, c) => el("th", { scope: "col", class: h.startsWith("~") ? "far" : "" }, el("button", { type: "button", title: t("sortBy", h.replace("~", "")), onclick: () => {
    const was = sortings.get(key);
    sortings.set(key, { column: c, falling: Boolean(was && was.column === c && !was.falling) });
    mark();
    changed();
  } }, h.replace("~", ""))));
  const mark = () => {
    const by = sortings.get(key);
    cells.forEach((cell, i) => { if (by && i === by.column) cell.setAttribute("aria-sort", by.falling ? "descending" : "ascending"); else cell.removeAttribute("aria-sort"); });
  };
  mark();
  return cells;
}

// sorted are items in the order that was chosen; text gives the text of an item's cell.
function sorted(key, items, text) {
  const by = sortings.get(key);
  if (!by) return items;
  return [...items].sort((a, b) => compareTexts(text(a, by.column), text(b, by.column)) * (by.falling ? -1 : 1));
}

// table shows rows of texts and elements; a title that begins with ~ is not shown on a phone.
function table(caption, head, rows) {
  const names = head.map((h) => h.replace("~", "")), key = location.hash + " " + caption;
  const lines = rows.map((r) => {
    const e = el("tr", {}, r.map((c, i) => el("td", { class: head[i].startsWith("~") ? "far" : "" }, c)));
    return { e, texts: [...e.children].map((cell) => cell.textContent) };
  });
  const body = el("tbody", {});
  const order = () => sorted(key, lines, (l, c) => l.texts[c]);
  const arrange = () => body.replaceChildren(...order().map((l) => l.e));
  const grid = el("table", { "aria-label": caption }, el("thead", {}, el("tr", {}, sortable(key, head, arrange))), body);
  arrange();
  return el("div", { class: "table" }, el("div", { class: "scroll" }, grid),
    rows.length ? el("p", { class: "tools" }, exports(caption, names, () => order().map((l) => l.texts), () => order().map((l) => Object.fromEntries(names.map((n, i) => [n, l.texts[i]]))))) : null);
}

// longTable shows a list of any length that can be searched. Only the rows on the screen exist as elements. texts gives
// the texts of an item's cells, href the address of the item.
async function longTable(signal, path, caption, head, name, texts, href) {
  let items = [], shown = [];
  const key = location.hash + " " + caption;
  const search = el("input", { type: "search", placeholder: t("searchIn", caption), "aria-label": t("searchIn", caption) });
  const note = el("p", { class: "quiet", role: "status" });
  const body = el("tbody", {});
  const titles = el("tr", { "aria-rowindex": 1 }, sortable(key, head, () => filter()));
  const grid = el("table", { "aria-label": caption }, el("thead", {}, titles), body);
  const box = el("div", { class: "long", role: "region", tabindex: "0", "aria-label": t("scrolls", caption) }, grid);

  const gap = (rows) => {
    const e = el("tr", { class: "gap", "aria-hidden": true }, el("td", { colspan: head.length }));
    e.style.height = rows * rowHeight + "px";
    return e;
  };
  const row = (item, i) => el("tr", { "aria-rowindex": i + 2 }, texts(item).map((text, c) => el("td", { class: head[c].startsWith("~") ? "far" : "", title: text },
    c === name ? [el("a", { href: href(item) }, text), copyButton(text)]
      : head[c] === t("state") ? el("span", { class: tone(text) }, word(text)) : text)));
  const draw = () => {
    const from = Math.max(0, Math.min(shown.length, Math.floor(box.scrollTop / rowHeight) - 8));
    const to = Math.min(shown.length, Math.ceil((box.scrollTop + box.clientHeight) / rowHeight) + 8);
    // The row with the focus is made again, too.
    const focused = body.contains(document.activeElement) ? document.activeElement.closest("tr").getAttribute("aria-rowindex") : null;
    const tag = focused ? document.activeElement.tagName.toLowerCase() : "";
    body.replaceChildren(gap(from), ...shown.slice(from, to).map((item, i) => row(item, from + i)), gap(shown.length - to));
    if (focused) (body.querySelector('tr[aria-rowindex="' + focused + '"] ' + tag) || box).focus({ preventScroll: true });
  };
  const filter = () => {
    const text = search.value.trim().toLowerCase();
    const found = text ? items.filter((item) => texts(item).some((cell) => String(cell).toLowerCase().includes(text))) : items;
    shown = sorted(key, found, (item, c) => texts(item)[c]);
    grid.setAttribute("aria-rowcount", shown.length + 1);
    note.textContent = text ? t("someOf", number(shown.length), number(items.length)) : t("inAll", number(items.length));
    draw();
  };
  const load = async () => {
    items = await all(path, signal, (read, total) => { if (total > read.length) note.textContent = t("someRead", number(read.length), number(total)); });
    filter();
  };
  search.addEventListener("input", () => { box.scrollTop = 0; filter(); });
  onScroll(box, draw);

  show(el("h2", {}, caption), el("div", { class: "bar" }, search, exports(caption, head.map((h) => h.replace("~", "")), () => shown.map(texts), () => shown)), note, box);
  await load();
  onChange = oneAtATime(load, (err) => { if (!signal.aborted) note.textContent = err.message; });
}
