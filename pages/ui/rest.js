// One clock for a tab. It asks the server for news of what moves, has a part of the page drawn when there are some and
// its pace allows it, and keeps everything still while numbers are taken: it says so to the server once all is drawn.
// Two kinds of elements: a part's `pulse`, which cannot be seen, and the `line` that says that the screen rests.
// Times in seconds, moments in milliseconds.
const WATCH = "/roofscope/watch";
const DRAWN_BY = 5; // a part that was fired and is not drawn by then is fired again
const UNSEEN = 4; // between two draws in a tab that nobody sees: what comes one after the other still goes on
const TICK = 3; // between two changes of the resting line
const LATEST = 20; // of a question without an answer; the server answers earlier

const now = () => performance.now();
const sleep = (seconds) => new Promise((done) => setTimeout(done, 1000 * seconds));

class Clock {
  parts = new Map(); // by element: {data, since, fired, fire}
  line = null;
  note = null; // of the rest that is going on
  again = new Set(); // elements that are to be drawn once more when what they were fired for is drawn
  tab = `${Date.now()}-${Math.random()}`;
  running = false;
  failed = 0;
  wake = () => {};

  constructor() {
    document.addEventListener("visibilitychange", () => this.wake());
  }

  enter(key, data, fire) {
    const part = { data, since: now(), fired: null, fire };
    this.parts.set(key, part);
    if (this.again.delete(key)) this.fire((one) => one === part);
    this.changed();
  }

  leave(key) {
    this.parts.delete(key);
    this.changed();
  }

  rest(note) {
    if (this.note && note && this.note.since === note.since) return;
    this.note = note && { ...note, began: now() - 1000 * note.for_s };
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
      const drawn = this.drawing().map((part) => DRAWN_BY - (now() - part.fired) / 1000);
      if (this.note && drawn.length) await this.change(Math.max(...drawn)); // the server takes a question for silence
      else await this.ask();
    }
    this.running = false;
  }

  drawing() {
    return [...this.parts.values()].filter((part) => part.fired && now() - part.fired < 1000 * DRAWN_BY);
  }

  async ask() {
    const least = document.hidden ? UNSEEN : 0;
    const left = (part, seconds) => Math.max(0, Math.max(seconds ?? Infinity, least) - (now() - part.since) / 1000);
    const due = (part) => left(part, part.data.after_s);
    const late = (part) => left(part, part.data.run ? part.data.latest_s : part.data.after_s);
    const drawing = this.drawing();
    const parts = [...this.parts.values()].filter((part) => !drawing.includes(part));
    const first = this.note ? null : parts.sort((a, b) => due(a) - due(b))[0];
    const query = new URLSearchParams({ tab: this.tab, resting: this.note ? this.note.since : "" });
    if (first) {
      query.set("after_s", due(first));
      query.set("latest_s", Math.min(LATEST, ...parts.map(late)));
      if (first.data.run) query.set("run", first.data.run);
      if (first.data.run) query.set("seen", first.data.seen);
    }
    const question = new AbortController();
    this.wake = () => question.abort();
    const limit = setTimeout(() => question.abort(), 1000 * (drawing.length ? DRAWN_BY : LATEST + 10));
    try {
      const answer = await fetch(`${WATCH}?${query}`, { signal: question.signal, cache: "no-store" });
      const { rest, news } = await answer.json();
      this.failed = 0;
      const before = this.note;
      if (rest && !before) this.last();
      if ((rest && rest.since) !== (before && before.since)) this.rest(rest);
      if (before && !this.note && this.line) this.line.over();
      if (news === "late") this.fire((part) => parts.includes(part) && late(part) === 0);
      else if (news && first) this.fire((part) => part === first || (parts.includes(part) && due(part) === 0));
    } catch (error) {
      if (question.signal.aborted) return;
      this.failed += 1; // the server is gone or busy: plain ticking, ever more rarely
      await this.change(Math.min(10, 2 ** this.failed));
      if (!this.note) this.fire((part) => parts.includes(part) && (late(part) === 0 || part === first));
      else if (this.failed > 5) this.rest(null);
    } finally {
      clearTimeout(limit);
    }
  }

  // Everything once more, with all that was shown live.
  last() {
    const drawing = this.drawing();
    for (const [key, part] of this.parts) if (drawing.includes(part)) this.again.add(key);
    this.fire((part) => !drawing.includes(part));
  }

  fire(which) {
    for (const part of this.parts.values()) {
      if (!which(part)) continue;
      part.fired = now();
      part.fire();
    }
  }
}

class Line {
  constructor(root, stop, over) {
    this.root = root;
    this.over = over;
    const find = (name) => root.querySelector(name);
    Object.assign(this, { box: find(".rest"), words: find(".words"), clock: find(".clock"), bar: find(".bar i") });
    find("button").onclick = () => {
      find("button").disabled = true;
      stop();
    };
  }

  show(note) {
    this.hide();
    this.words.textContent = note.words; // once: screen readers say a change of it
    this.root.querySelector("button").disabled = false;
    this.box.hidden = false;
    this.bar.parentElement.hidden = !note.expected_s;
    const tick = () => {
      const spent = (now() - note.began) / 1000;
      this.clock.textContent = `${Math.floor(spent)} s`;
      if (note.expected_s) this.bar.style.width = `${Math.min(98, (100 * spent) / note.expected_s)}%`;
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

export default function ({ data, key, parentElement, setTriggerValue }) {
  const place = (parentElement.host ?? parentElement).closest("[data-testid=stElementContainer]");
  if (place) place.style.position = "absolute"; // it takes no room, nor a gap
  if (data.kind === "pulse") {
    clock.enter(key, data, () => setTriggerValue("tick", true));
    return () => clock.leave(key);
  }
  clock.line?.hide();
  clock.line = new Line(parentElement, () => setTriggerValue("stop", true), () => {
    if (data.drawn_resting) setTriggerValue("over", true);
  });
  if (data.rest) clock.note = null;
  if (data.rest) clock.rest(data.rest);
  else if (clock.note) clock.line.show(clock.note);
  return () => {
    clock.line?.hide();
    clock.line = null;
  };
}
