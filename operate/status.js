"use strict";

// The status page renews itself: what is shown is replaced by what the program says now. What was opened, scrolled or has the focus
// stays, and nothing is replaced while a text is being selected.
const every = 10000;

// key names an element within the page, also after it was made anew.
const key = (e) => [e.tagName, e.getAttribute("aria-label"), e.getAttribute("href"), e.textContent].join(" ");
const opened = (d) => d.querySelector("summary").textContent;

// fetched is the page as of now: parsed by the browser, which runs nothing in it.
const fetched = () => new Promise((done, failed) => {
  const request = new XMLHttpRequest();
  request.open("GET", location.href);
  request.responseType = "document";
  request.timeout = every;
  request.onload = () => (request.status === 200 && request.response ? done(request.response) : failed(new Error(request.statusText)));
  request.onerror = request.ontimeout = failed;
  request.send();
});

// replace shows another page in the place of this one.
function replace(page) {
  const open = new Set([...document.querySelectorAll("details[open]")].map(opened));
  for (const d of page.querySelectorAll("details")) if (open.has(opened(d))) d.open = true;
  const had = document.activeElement !== document.body ? document.activeElement : null;
  const was = had && key(had), place = had && [...document.querySelectorAll(had.tagName)].indexOf(had);
  const scrolled = [...document.querySelectorAll(".scroll")].map((e) => [e.getAttribute("aria-label"), e.scrollLeft]);
  document.title = page.title;
  for (const part of ["header", "main"]) document.querySelector(part).replaceWith(document.adoptNode(page.querySelector(part)));
  for (const e of document.querySelectorAll(".scroll")) {
    const at = scrolled.find(([label]) => label === e.getAttribute("aria-label"));
    if (at) e.scrollLeft = at[1];
  }
  if (had) {
    const same = [...document.querySelectorAll(had.tagName)];
    (same.find((e) => key(e) === was) || same[place])?.focus({ preventScroll: true });
  }
  prepare();
}

async function renew() {
  if (document.hidden || String(getSelection())) return;
  const note = document.getElementById("away");
  try {
    replace(await fetched());
  } catch {
    note.hidden = false;
  }
}

// copyText puts what a command says on the clipboard, also where the page came by plain HTTP from elsewhere.
async function copyText(pre) {
  try {
    await navigator.clipboard.writeText(pre.textContent);
  } catch {
    const selection = getSelection();
    selection.selectAllChildren(pre);
    document.execCommand("copy");
    selection.removeAllRanges();
  }
}

// prepare shows the buttons that need this script.
function prepare() {
  for (const button of document.querySelectorAll("button.copy-it")) {
    button.hidden = false;
    button.addEventListener("click", async () => {
      await copyText(button.previousElementSibling);
      button.textContent = button.dataset.done;
    });
  }
}

// On a phone the stage that holds things up may be outside.
const held = document.querySelector(".way [fill]")?.closest(".stage"), way = held?.closest(".scroll");
if (way) way.scrollLeft = held.getBoundingClientRect().left - way.getBoundingClientRect().left - 30;

prepare();
if (!document.querySelector("details[open]")) setInterval(renew, every);
