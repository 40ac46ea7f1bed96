// What Streamlit's own elements leave out for those who cannot see or use no mouse: names of small charts, keys for
// what scrolls, and streamed text that is read out. It adds attributes and changes nothing that React has drawn.
const EVERY = 300; // milliseconds between two looks at a page that changes
const TEXT = "[data-testid=stText], .roofscope-words:not([hidden], [data-empty])"; // that a model wrote
const PROSE = "[data-testid=stMarkdownContainer], [data-testid=stCaptionContainer]";
const PARTS = "[aria-label=Open], [aria-label=Increment], [aria-label=Decrement], [aria-label='Clear all']"; // of a widget
const SPOKEN = 4000; // between two readings of text that grows: a sentence or so, not every token

function name(element, words, role) {
  if (element.getAttribute("aria-label") === words) return;
  element.setAttribute("aria-label", words);
  if (role) element.setAttribute("role", role);
}

function mend() {
  for (const chart of document.querySelectorAll("[data-testid=stMetricChart]")) {
    const label = chart.closest("[data-testid=stMetric]")?.querySelector("[data-testid=stMetricLabel]");
    name(chart, `Small chart of the latest values of ${label?.textContent.trim() ?? "this number"}`, "img");
    for (const part of chart.querySelectorAll("svg, [role^=graphics]")) part.setAttribute("aria-hidden", "true");
  }
  for (const list of document.querySelectorAll("[data-testid=stSidebarNavItems]")) {
    // sections stand between list and items, so that neither is one: links of a navigation they are all the same
    for (const part of [list, ...list.querySelectorAll("li")]) part.setAttribute("role", "none");
  }
  for (const head of document.querySelectorAll("[data-testid=stNavSectionHeader]")) {
    // a section folds at a click, and here by its keys, too
    head.setAttribute("role", "button");
    head.setAttribute("tabindex", "0");
    head.setAttribute("aria-expanded", String(head.nextElementSibling !== null));
    head.onkeydown = (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      head.click();
    };
  }
  showPlace();
  for (const bar of document.querySelectorAll("[data-testid=stProgress] [role=progressbar]"))
    name(bar, text(bar.closest("[data-testid=stProgress]")) || "Progress");
  for (const part of document.querySelectorAll(`:is([data-testid^=st] [data-rac], [data-testid=stNumberInput]) :is(${PARTS})`)) {
    const label = part.closest("[data-testid=stElementContainer]")?.querySelector("[data-testid=stWidgetLabel]");
    if (label) name(part, `${part.getAttribute("aria-label")}: ${text(label)}`);
  }
  for (const help of document.querySelectorAll(`:is(${PROSE}) [aria-label=Help]`)) {
    const about = text(help.closest(PROSE));
    if (about) name(help, `Help: ${about.slice(0, 80)}`);
  }
  headings();
  for (const part of document.querySelectorAll("[data-testid=stVegaLiteChart] g[role^=graphics]:empty"))
    part.setAttribute("aria-hidden", "true"); // nothing is drawn in it, so that it has no name
  for (const part of document.querySelectorAll("[data-testid=stVegaLiteChart] g[role=graphics-symbol]:not([aria-label])"))
    part.setAttribute("role", "none"); // it only holds marks, and these have names
  for (const icon of document.querySelectorAll(`:is(${PROSE}) [role=img][aria-label$=' icon']`))
    icon.setAttribute("aria-hidden", "true"); // it stands beside words that say the same
  for (const text of document.querySelectorAll(".st-key-run-text")) name(text, "Generated text", "region");
  for (const box of document.querySelectorAll("[data-testid=stVerticalBlock], [data-testid=stCode] pre")) {
    const scrolls = box.scrollHeight > box.clientHeight + 1 && /auto|scroll/.test(getComputedStyle(box).overflowY);
    if (scrolls && !box.hasAttribute("tabindex")) box.setAttribute("tabindex", "0");
  }
}

// Words in bold at the top of a card are its heading, one level below the section's.
function headings() {
  let section = 1;
  const framed = (element) => element !== null && parseFloat(getComputedStyle(element).borderTopWidth) > 0;
  const words = "[data-testid=stMarkdownContainer] > p > strong:first-child";
  for (const part of document.querySelectorAll(`[data-testid=stMain] :is(h1, h2, ${words})`)) {
    if (part.tagName !== "STRONG") {
      section = Number(part.tagName[1]);
      continue;
    }
    const line = part.parentElement;
    const card = part.closest("[data-testid=stVerticalBlock]");
    const first = line.firstChild === part && card?.querySelector("[data-testid=stMarkdownContainer] > p") === line;
    if (first && framed(card)) {
      part.setAttribute("role", "heading");
      part.setAttribute("aria-level", String(section + 1));
    } else if (part.hasAttribute("role")) {
      part.removeAttribute("role");
      part.removeAttribute("aria-level");
    }
  }
}

// What an element says, without the names of icons.
function text(element) {
  const copy = element.cloneNode(true);
  for (const icon of copy.querySelectorAll("[role=img], [data-testid=stIconMaterial]")) icon.remove();
  return copy.textContent.replace(/\s+/g, " ").trim();
}

// The menu scrolls to the page that is open, once for each page: on a low screen it may stand below the edge.
function showPlace() {
  const place = document.querySelector("[data-testid=stSidebarNavLink][aria-current=page]");
  if (!place || place.href === state.place) return;
  state.place = place.href;
  place.scrollIntoView({ block: "nearest" });
}

class Reader {
  constructor(place) {
    this.place = place;
    this.said = null; // the text as it was when it was last read out; null: none is there
    this.at = -SPOKEN;
  }

  // Reads out what has come since, no more than a sentence behind; a text that was there from the start is not read.
  look() {
    const text = document.querySelector(`.st-key-run-text :is(${TEXT})`)?.textContent ?? null;
    if (text === null || this.said === null || text === this.said) {
      this.said = text ?? (document.querySelector(".st-key-run-text") ? "" : null);
      return;
    }
    const wait = SPOKEN - (performance.now() - this.at);
    clearTimeout(this.timer);
    if (wait > 0) {
      this.timer = setTimeout(() => this.look(), wait); // the end of a text is read, too
      return;
    }
    const tail = this.said.slice(-40);
    const from = tail ? text.lastIndexOf(tail) : 0;
    this.place.textContent = from < 0 ? text.slice(-400) : text.slice(tail ? from + tail.length : 0);
    this.said = text;
    this.at = performance.now();
  }
}

const state = (window.roofscopeAccess ??= { reader: null, waiting: false });

function look() {
  state.waiting = false;
  mend();
  state.reader?.look();
}

window.roofscopeMended ??=
  new MutationObserver(() => {
    if (state.waiting) return;
    state.waiting = true;
    setTimeout(look, EVERY);
  }).observe(document.body, { childList: true, subtree: true, characterData: true }) ?? true;

export default function ({ parentElement }) {
  const place = (parentElement.host ?? parentElement).closest("[data-testid=stElementContainer]");
  // it takes no room, nor a gap, and does not make a narrow page wider than its screen
  if (place) Object.assign(place.style, { position: "absolute", left: 0 });
  state.reader = new Reader(parentElement.querySelector(".said"));
  look();
  return () => {
    state.reader = null;
  };
}
