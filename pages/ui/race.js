// Replays recorded decoding steps against one clock. Data only: every text goes in as a text node.
const WORDS = { accepted: "right, accepted", fixed: "right, but behind a wrong one", wrong: "wrong", beyond: "after the end" };

function element(kind, name, text) {
  const made = document.createElement(kind);
  if (name) made.className = name;
  if (text !== undefined) made.textContent = text;
  return made;
}

function clock(seconds) {
  return seconds < 1 ? `${(seconds * 1000).toFixed(0)} ms` : `${seconds.toFixed(2)} s`;
}

function lane(data) {
  const root = element("section", "lane");
  const head = element("div", "head");
  head.append(element("strong", "", data.label), element("span", "count", ""));
  const text = element("div", "text");
  const row = element("div", "window");
  const bar = element("div", "bar");
  bar.append(element("i"));
  root.append(head, bar, text, row);
  return { data, root, text, row, count: head.lastChild, fill: bar.firstChild, shown: -1 };
}

function draw(view, now) {
  const frames = view.data.frames;
  let done = 0;
  while (done < frames.length && frames[done].end_s <= now) done++;
  const total = frames.reduce((n, f) => n + f.pieces.length, 0) || 1;
  const made = frames.slice(0, done).reduce((n, f) => n + f.pieces.length, 0);
  const forwards = frames.slice(1, done).reduce((n, f) => n + f.n_forward, 0);
  const ended = done === frames.length;
  const end = frames.length ? frames[frames.length - 1].end_s : 0;
  view.fill.style.width = `${(100 * made) / total}%`;
  view.count.textContent = ended
    ? `finished: ${made} tokens in ${clock(end)}, ${forwards} forward passes`
    : `${made} tokens, ${forwards} forward passes`;
  view.root.classList.toggle("ended", ended);
  if (view.shown === done) return;
  view.shown = done;
  view.text.replaceChildren(
    ...frames.slice(0, done).map((f, i) => element("span", i === done - 1 ? "new" : i % 2 ? "odd" : "", f.pieces.join("")))
  );
  const next = frames[done];
  view.row.replaceChildren(
    ...(next ? next.guess : []).map(([piece, state]) => {
      const cell = element("span", `cell ${state}`, piece.trim() === "" ? "␣" : piece);
      cell.title = WORDS[state];
      return cell;
    })
  );
  view.told = next && next.guess.length ? `Window of ${next.guess.length} guesses: ${counted(next.guess)}` : "";
  view.row.setAttribute("role", "img"); // its words are read in place of one cell after the other
  view.row.setAttribute("aria-label", view.told || "No window");
  view.added = done ? frames[done - 1].pieces.join("") : "";
}

// "3 right, accepted; 13 wrong"
function counted(guess) {
  const told = Object.entries(WORDS).map(([state, words]) => [guess.filter(([, s]) => s === state).length, words]);
  return told.filter(([n]) => n).map(([n, words]) => `${n} ${words}`).join("; ");
}

export default function ({ data, parentElement }) {
  const old = parentElement.querySelector(".race");
  if (old) old.remove();
  const root = element("div", "race");
  const views = data.lanes.map(lane);
  const end = Math.max(...data.lanes.map((l) => (l.frames.length ? l.frames[l.frames.length - 1].end_s : 0)), 0.001);
  const times = [...new Set(data.lanes[data.lanes.length - 1].frames.map((f) => f.end_s))];
  // frame 0 is the prompt's; the place of the last step that is shown stands behind it
  let now = data.autoplay ? 0 : data.steps === null ? end : times[Math.min(data.steps, times.length - 1)] ?? end;
  let playing = Boolean(data.autoplay);
  let last = null;

  const bar = element("div", "controls");
  const play = element("button", "", "");
  const back = element("button", "", "◀ Step");
  const step = element("button", "", "Step ▶");
  const slider = element("input");
  Object.assign(slider, { type: "range", min: 0, max: 1000, value: 0 });
  slider.setAttribute("aria-label", "Time of the race");
  const speed = element("select");
  speed.setAttribute("aria-label", "Speed");
  for (const [value, words] of [["1", "real time"], ["0.5", "half speed"], ["0.25", "a quarter"], ["0.1", "a tenth"], ["0.02", "a fiftieth"]]) {
    const option = element("option", "", words);
    option.value = value;
    speed.append(option);
  }
  speed.value = data.speed || "0.25";
  const time = element("span", "time", "");
  const said = element("div", "said"); // read aloud at a step, and silent while the race goes on
  said.setAttribute("role", "status");
  bar.append(play, back, step, time, slider, speed);

  const legend = element("div", "legend");
  for (const state of ["accepted", "fixed", "wrong", "beyond"]) {
    legend.append(element("span", `cell ${state}`, "ab"), element("span", "", WORDS[state]));
  }
  const lanes = element("div", "lanes");
  lanes.append(...views.map((v) => v.root));
  root.append(bar, lanes, legend, said);
  parentElement.append(root);

  function show() {
    play.textContent = playing ? "❚❚ Pause" : now >= end ? "↻ Again" : "▶ Play";
    slider.value = Math.round((1000 * now) / end);
    time.textContent = `${clock(now)} of ${clock(end)}`;
    views.forEach((v) => draw(v, now + 1e-9));
    slider.setAttribute("aria-valuetext", time.textContent);
  }
  function tell() {
    const view = views[views.length - 1];
    said.textContent = `${view.count.textContent}. New: ${view.added.trim() || "nothing"}. ${view.told}`;
  }
  function tick(stamp) {
    if (!root.isConnected) return;
    if (playing) {
      if (last !== null) now = Math.min(end, now + ((stamp - last) / 1000) * Number(speed.value));
      last = stamp;
      if (now >= end) playing = false;
      show();
    } else {
      last = null;
    }
    requestAnimationFrame(tick);
  }
  play.onclick = () => {
    if (!playing && now >= end) now = 0;
    playing = !playing;
    last = null;
    show();
  };
  step.onclick = () => {
    playing = false;
    now = times.find((t) => t > now + 1e-9) ?? end;
    show();
    tell();
  };
  back.onclick = () => {
    playing = false;
    now = [...times].reverse().find((t) => t < now - 1e-9) ?? 0;
    show();
    tell();
  };
  for (const part of [slider, speed]) {
    // their own keys are not the page's, which turns its steps with the arrows
    part.addEventListener("keydown", (event) => event.key !== "Escape" && event.stopPropagation());
  }
  slider.oninput = () => {
    playing = false;
    now = (end * Number(slider.value)) / 1000;
    show();
  };
  show();
  requestAnimationFrame(tick);
}
