// The text of a run, asked for and shown as it comes: from the press of Run on, before the page has been drawn anew.
// The server keeps a question open until there is more, and gives one answer while numbers are taken. Times in seconds.
const WORDS = "/roofscope/words";
const BEGINS = 20; // after Run was pressed: a run that has not begun by then was refused
const EMPTY = "The text appears here.";

const sleep = (seconds) => new Promise((done) => setTimeout(done, 1000 * seconds));

class Words {
  box = null;
  run = "";
  text = "";
  length = 0;
  going = false;
  pressed = -Infinity; // when Run was pressed; the run that it begins is not known yet
  resting = "";
  asking = null;

  constructor() {
    document.addEventListener("click", (event) => event.target.closest?.(".st-key-start") && this.press(), true);
  }

  press() {
    if (!this.box) return;
    this.pressed = performance.now();
    this.asking?.abort();
    this.ask();
  }

  get awaiting() {
    return performance.now() - this.pressed < 1000 * BEGINS;
  }

  // What the page was drawn with; the text may have come farther meanwhile. The page itself shows one that is over.
  draw(root, { run, text, going }) {
    this.box = root.querySelector(".roofscope-words") ?? root.appendChild(document.createElement("div"));
    this.box.className = "roofscope-words";
    this.box.tabIndex = 0;
    const same = run === this.run;
    const before = this.awaiting && same && !going; // drawn before the run began
    if (!before) this.pressed = -Infinity;
    if (!same) [this.run, this.length, this.resting, this.text] = [run, 0, "", ""];
    this.going = going;
    this.show(!going ? "" : this.text.length > text.length ? this.text : text);
    if ((going || before) && !this.asking) this.ask();
  }

  leave() {
    this.box = null;
    this.asking?.abort();
    this.asking = null;
  }

  show(text) {
    const box = this.box;
    const end = box.scrollHeight - box.scrollTop - box.clientHeight < 24;
    box.hidden = !this.going && !text;
    box.toggleAttribute("data-empty", !text);
    this.text = text;
    box.textContent = text || EMPTY;
    if (end) box.scrollTop = box.scrollHeight;
  }

  async ask() {
    const question = (this.asking = new AbortController());
    let failed = 0;
    while (this.box && !question.signal.aborted && (this.going || this.awaiting)) {
      const query = new URLSearchParams({ resting: this.resting });
      if (this.awaiting) query.set("but", this.run);
      else query.set("run", this.run), query.set("seen", this.length);
      try {
        const response = await fetch(`${WORDS}?${query}`, { signal: question.signal, cache: "no-store" });
        const told = await response.json();
        failed = 0;
        if (told.run) this.tell(told);
        if (told.again_s) await sleep(told.again_s);
      } catch (error) {
        failed += 1; // the server is gone or busy
        if (!question.signal.aborted) await sleep(Math.min(10, 2 ** failed));
      }
    }
    if (this.asking === question) this.asking = null;
  }

  tell({ run, text, length, over, resting }) {
    if (this.awaiting) [this.run, this.pressed, this.going] = [run, -Infinity, true];
    if (!this.box || run !== this.run || !this.going) return; // a page that shows its end came first
    [this.length, this.resting, this.going] = [length, resting, !over];
    this.show(text);
  }
}

const words = (window.roofscopeWords ??= new Words());

export default function ({ data, parentElement }) {
  words.draw(parentElement, data);
  return () => words.leave();
}
