// One clock for a tab. It asks the server for news of what moves, has a part of the page drawn when there are some and
// its pace allows it, one part after the other (of several that are fired at once, Streamlit draws one), and keeps
// everything still while numbers are taken: it says so to the server once all is drawn.
// Two kinds of elements: a part's `pulse`, which cannot be seen, and the `line` that says that the screen rests.
// Times in seconds, moments in milliseconds.
const WATCH = "/roofscope/watch";
const DRAWN_BY = 5; // a part that was fired and is not drawn by then is fired again
const UNSEEN = 4; // between two draws in a tab that nobody sees: what comes one after the other still goes on
const TICK = 3; // between two changes of the resting line
const IDLE = 15; // between two looks of a tab in which nothing moves
const LATEST = 20; // of a question without an answer; the server answers earlier

const now = () => performance.now();
const sleep = (seconds) => new Promise((done) => setTimeout(done, 1000 * seconds));

class Clock {
  parts = new Map(); // by element: {data, since, fired, fire}
  last = new Set(); // elements that are still to be drawn before all keeps still
  line = null;
  note = null; // of the rest that is going on
  going = ""; // the run that went on when the page was drawn
  tab = `${Date.now()}-${Math.random()}`;
  running = false;
  failed = 0;
  wake = () => {};

  constructor() {
    document.addEventListener("visibilitychange", () => {
      this.wake();
      this.look();
    });
    setInterval(() => this.look(), 1000 * IDLE);
  }

  // In a tab in which nothing moves, now and then: a run that began or ended elsewhere is drawn, once.
  async look() {
    if (document.hidden || this.running || !this.line) return;
    try {
      const { rest, going } = await (await fetch(`${WATCH}?idle=1`, { cache: "no-store" })).json();
      if (this.running || !this.line) return;
      if (rest) return this.rest(rest);
      if (going === this.going) return;
      this.going = going;
      this.line.changed();
    } catch (error) {
      return; // the server is gone, which Streamlit tells
    }
  }

  enter(key, data, fire) {
    this.parts.set(key, { data, since: now(), fired: null, fire });
    this.changed();
  }

  leave(key) {
    this.parts.delete(key);
    this.changed();
  }

  rest(note) {
    if (this.note && note && this.note.since === note.since) return;
    this.last = new Set(note && !this.note ? this.parts.keys() : []); // with all that was shown live
    this.note = note && { ...note, began: now() - 1000 * note.for_s };
    document.documentElement.toggleAttribute("data-resting", Boolean(this.note)); // for look.css
    if (this.line) this.note ? this.line.show(this.note) : this.line.hide();
    this.changed();
  }

  changed() {
    this.wake();
    if (!this.running) this.run();
  }

  // Until something enters, leaves or rests; a question that is open is taken back.
  change(seconds) {
    return Promise.race([sleep(seconds), new Promise((done) => (this.wake = done))]);
  }

  async run() {
    this.running = true;
    while (this.parts.size || this.note) {
      const left = this.drawing();
      if (this.note && left) await this.change(left); // a question would say that this tab rests
      else if (this.note && this.last.size) this.fire(this.last.values().next().value);
      else await this.ask();
    }
    this.running = false;
  }

  // Seconds that a part which was fired still has to be drawn; 0 without one.
  drawing() {
    const fired = [...this.parts.values()].map((part) => part.fired ?? -Infinity);
    return Math.max(0, DRAWN_BY - (now() - Math.max(-Infinity, ...fired)) / 1000);
  }

  async ask() {
    const least = document.hidden ? UNSEEN : 0;
    const left = (part, seconds) => Math.max(seconds ?? Infinity, least) - (now() - part.since) / 1000;
    const due = (part) => left(part, part.data.after_s);
    const late = (part) => left(part, part.data.run ? part.data.latest_s : part.data.after_s);
    const drawing = this.drawing(); // meanwhile only a rest is news
    const parts = this.note || drawing ? [] : [...this.parts];
    const soonest = (when) => parts.reduce((a, b) => (a && when(a[1]) <= when(b[1]) ? a : b), null);
    const [first, latest] = [soonest(due), soonest(late)];
    const query = new URLSearchParams({ tab: this.tab, resting: this.note ? this.note.since : "" });
    if (first) {
      const { data } = first[1];
      query.set("after_s", Math.max(0, due(first[1])));
      query.set("latest_s", Math.max(0, Math.min(LATEST, late(latest[1]))));
      if (data.run) query.set("run", data.run);
      if (data.run) query.set("seen", data.seen);
    }
    const question = new AbortController();
    this.wake = () => question.abort();
    const limit = setTimeout(() => question.abort(), 1000 * (this.note ? LATEST + 10 : drawing || LATEST + 10));
    try {
      const answer = await fetch(`${WATCH}?${query}`, { signal: question.signal, cache: "no-store" });
      const { rest, news } = await answer.json();
      this.failed = 0;
      const before = this.note;
      if ((rest && rest.since) !== (before && before.since)) this.rest(rest);
      if (before && !this.note && this.line) this.line.over();
      const next = { late: latest, new: first }[news];
      if (next) this.fire(next[0]);
    } catch (error) {
      if (question.signal.aborted) return;
      this.failed += 1; // the server is gone or busy: plain ticking, ever more rarely
      await this.change(Math.min(10, 2 ** this.failed));
      if (!this.note && first) this.fire(first[0]);
      if (this.note && this.failed > 5) this.rest(null);
    } finally {
      clearTimeout(limit);
    }
  }

  fire(key) {
    this.last.delete(key);
    const part = this.parts.get(key);
    if (!part) return;
    part.fired = now();
    part.fire();
  }
}

class Line {
  constructor(root, stop, over, changed) {
    this.root = root;
    this.over = over;
    this.changed = changed;
    const find = (name) => root.querySelector(name);
    Object.assign(this, { box: find(".rest"), words: find(".words"), clock: find(".clock"), bar: find(".bar i") });
    find("button").onclick = () => {
      find("button").disabled = true;
      stop();
    };
  }

  show(note) {
    this.hide();
    this.words.textContent = note.words; // once: it is said aloud
    this.root.querySelector("button").disabled = false;
    this.box.hidden = false;
    const [before, whole] = note.whole_s ? [note.before_s, note.whole_s] : [0, note.expected_s]; // else of the rest
    this.bar.parentElement.hidden = !whole;
    const tick = () => {
      const spent = (now() - note.began) / 1000;
      const late = whole && before + spent > whole ? ", longer than expected" : "";
      this.clock.textContent = `${Math.floor(spent)} s${late}`;
      if (whole) this.bar.style.width = `${Math.min(98, (100 * (before + spent)) / whole)}%`;
    };
    tick();
    this.timer = setInterval(tick, 1000 * TICK); // no animation: every change costs the numbers a processor for a moment
  }

  hide() {
    clearInterval(this.timer);
    this.box.hidden = true;
    this.words.textContent = "";
  }
}

const clock = (window.roofscopeClock ??= new Clock());

// Streamlit tells of a server that is gone with a command of its own. These are our words; when the server is there
// again, the page goes on by itself. What React has drawn is hidden and not changed.
const GONE = /Is Streamlit still running|Streamlit server is not responding/;
const START = "streamlit run app.py";

function tell() {
  for (const dialog of document.querySelectorAll("[role=dialog]")) {
    const body = dialog.querySelector("h2")?.nextElementSibling;
    if (!body || body.dataset.roofscope || !GONE.test(body.textContent)) continue;
    body.dataset.roofscope = "told";
    for (const part of body.children) part.style.display = "none";
    const words = document.createElement("p");
    words.append("Roofscope's server has ended. Start it again in its folder with ");
    words.append(Object.assign(document.createElement("code"), { textContent: "make run" }), " or ");
    words.append(Object.assign(document.createElement("code"), { textContent: START }));
    words.append(". This page then goes on by itself; no finished run is lost.");
    body.append(words);
  }
}

window.roofscopeTold ??= new MutationObserver(tell).observe(document.body, { childList: true, subtree: true }) ?? true;

// Streamlit empties the address of a page just before it leaves it, as an entry of its own in the tab's history: the
// way back would lead to the page without what was chosen on it. Such an entry waits, and goes if a page follows.
const LEAVING = 500; // milliseconds

function keepEntries() {
  const push = history.pushState.bind(history);
  const replace = history.replaceState.bind(history);
  let waiting = null;
  const settle = (entry) => {
    const [timer, held] = waiting ?? [];
    waiting = null;
    clearTimeout(timer);
    if (held && entry) push(...entry);
  };
  history.pushState = (...entry) => {
    const next = new URL(entry[2] ?? location.href, location.href);
    const same = next.pathname === location.pathname;
    settle(same && waiting?.[1]);
    if (same && !next.search && location.search) waiting = [setTimeout(() => settle(entry), LEAVING), entry];
    else push(...entry);
  };
  history.replaceState = (...entry) => {
    settle(waiting?.[1]);
    replace(...entry);
  };
  return true;
}

window.roofscopeEntries ??= keepEntries();

export default function ({ data, key, parentElement, setTriggerValue }) {
  const place = (parentElement.host ?? parentElement).closest("[data-testid=stElementContainer]");
  // it takes no room, nor a gap, and does not make a narrow page wider than its screen
  if (place) Object.assign(place.style, { position: "absolute", left: 0 });
  const back = getComputedStyle(parentElement.host ?? parentElement).getPropertyValue("--st-background-color");
  document.documentElement.style.setProperty("--roofscope-background", back); // only components are told it
  if (data.kind === "pulse") {
    clock.enter(key, data, () => setTriggerValue("tick", true));
    return () => clock.leave(key);
  }
  clock.line?.hide();
  const over = () => data.drawn_resting && setTriggerValue("over", true);
  clock.line = new Line(parentElement, () => setTriggerValue("stop", true), over, () => setTriggerValue("changed", true));
  clock.going = data.going;
  if (data.rest) clock.note = null;
  if (data.rest) clock.rest(data.rest);
  else if (clock.note) clock.line.show(clock.note);
  return () => {
    clock.line?.hide();
    clock.line = null;
  };
}
