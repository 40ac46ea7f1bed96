"""The speed that a watched run tells against the command line's, with a real browser looking on.

The real server in a process of its own and Debian's Chromium without a graphics card at 1280 pixels. Pairs in turn:
a run started on the Run page, and `python -m core run` with the same prompt, tokens, threads, warm-up, profilers and
timing passes, each in a fresh worker. While the command line runs, the browser shows an empty page.

On a shared host two runs a minute apart differ by more than what is looked for. So a watched run is also compared with
itself: of its timing passes, seconds apart, every second one goes with the server and the browser stopped (SIGSTOP).
What server and browser take of the processor in the other passes is read beside it: a figure that the host's other
guests do not move.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import product
from pathlib import Path
from typing import Any

import psutil

from core.runs.demo import OFFERED
from core.runs.passes import verdicts
from core.runs.store import Run, Store
from core.stats.intervals import paired_ratio
from core.types import Pass, Result, Step
from hardware.detect import usable_cores
from tests.browser.conftest import CHROMIUM, ROOT, Server

BACKENDS, TOKENS, PAIRS = ("llama_cpp", "onnxruntime", "pytorch"), (64, 512), 5
WAYS, AGAINST = ("watched", "two", "another"), ("command line", "stopped")
MODEL, PROMPT, PROFILERS = "smollm2-135m", "Write about the sea.", "memory,layers"
TARGET, FIRST_TARGET_S = 0.97, 0.5
FIRST_RUNS, FIRST_TOKENS = 4, 24  # the first of them warms the worker
LOOK_MS = 500  # between two looks at a run's folder: this process shall not disturb either
TURN_S = 0.02  # the same, where it must see that a pass begins
END_S = 600

# The moment of a click, and that of the first new text in the view of the run.
EYE = """
window.clicked = window.seen = null;
const places = "[data-testid=stText], .roofscope-words:not([hidden], [data-empty])";
const words = () => [...document.querySelectorAll(`.st-key-run-text :is(${places})`)].map((e) => e.innerText).join("");
let before = "";
document.addEventListener("click", (event) => {
  if (!event.target.closest(".st-key-start")) return;
  before = words();
  [window.clicked, window.seen] = [Date.now() / 1000, null];
}, true);
new MutationObserver(() => {
  if (window.clicked && !window.seen && words() && words() !== before) window.seen = Date.now() / 1000;
}).observe(document, { childList: true, subtree: true, characterData: true });
"""


def run(
    backends: Sequence[str] = BACKENDS,
    tokens: Sequence[int] = TOKENS,
    ways: Sequence[str] = WAYS,
    against: Sequence[str] = AGAINST,
    pairs: int = PAIRS,
) -> list[dict[str, Any]]:
    """One row per backend, number of tokens, way to watch and what it is compared with; then the first character."""
    rows: list[dict[str, Any]] = []
    with _looking() as (server, browser):
        for backend in backends:
            command_line(server, backend, 8)  # what is made once: a converted model, a file in the system's memory
            for n, way, other in product(tokens, ways, against):
                tabs = [_tab(browser) for _ in range(2 if way == "two" else 1)]
                compare = _passes if other == "stopped" else _runs
                rows.append({"backend": backend, "tokens": n, "way": way, "against": other})
                rows[-1] |= compare(server, tabs, backend, n, way, pairs)
                for tab in tabs:
                    tab.context.close()
                _tell(rows[-1])
            if AGAINST[0] in against:
                rows.append(_first(server, browser, backend))
    return rows


def _tell(row: dict[str, Any]) -> None:
    app, other = (statistics.median(row[side]) for side in ("app_tok_per_s", "other_tok_per_s"))
    print(
        f"{row['backend']:<12} {row['tokens']:>4} tokens, {row['way']:<8} {app:7.1f} tok/s ({row['app']}), "
        f"{row['against']} {other:7.1f} ({row['other']}): {row['ratio']} (target {TARGET})",
        flush=True,
    )


@contextmanager
def _looking() -> Iterator[tuple[Server, Any]]:
    from playwright.sync_api import sync_playwright

    if CHROMIUM is None:
        sys.exit("There is no Chromium on this machine: apt-get install chromium.")
    with tempfile.TemporaryDirectory() as home, sync_playwright() as playwright:
        server = Server(Path(home))
        (server.home / "data").mkdir(parents=True, exist_ok=True)
        (server.home / "data" / OFFERED).touch()  # else the recorded run would be taken for the first one from the page
        server.start()
        browser = playwright.chromium.launch(
            executable_path=shutil.which(CHROMIUM), args=["--no-sandbox", "--disable-gpu"]
        )
        try:
            yield server, browser
        finally:
            browser.close()
            server.stop()


def _runs(server: Server, tabs: Sequence[Any], backend: str, n: int, way: str, pairs: int) -> dict[str, Any]:
    """Whole runs in turn: from the page, and from the command line."""
    shown: list[Result] = []
    plain: list[Result] = []
    for i in range(pairs):
        for which in ("app", "line") if i % 2 == 0 else ("line", "app"):
            if which == "app":
                shown.append(watched(server, tabs, backend, n, way).result())
            else:
                plain.append(command_line(server, backend, n))
    speeds = [[r.tok_per_s or 0.0 for r in side] for side in (shown, plain)]
    return _row(
        speeds, [f"{sum(r.disturbed for r in side)} disturbed, {_repeated(side)} repeated" for side in (shown, plain)]
    )


def _passes(server: Server, tabs: Sequence[Any], backend: str, n: int, way: str, pairs: int) -> dict[str, Any]:
    """Timing passes of one run from the page: who looks on rests as for a user, or is stopped and cannot run at all.

    Two passes for each, of which the second counts: in the first, who was stopped makes up for what it missed. The
    ratio is that of pairs in which neither was disturbed, as a run counts them; how many were stands beside it.
    onlookers_cores: processor seconds per second of server and browser, over the passes that count for the app.
    """
    run = _begin(server, tabs, backend, n, way, repeats=4 * pairs)
    stopped, cores = _turns(run, server)
    rates, disturbed = _rates(run), {n for n, found in verdicts(run.events()).items() if found.disturbed}
    sides: tuple[list[int], list[int]] = ([], [])
    for pair in zip(list(rates)[1::4], list(rates)[3::4], strict=False):
        for number in pair:
            sides[stopped[number]].append(number)
    clean = [pair for pair in zip(*sides, strict=True) if not disturbed & set(pair)]
    return _row(
        [[rates[pair[i]] for pair in clean] for i in (0, 1)],
        [f"{len(disturbed & set(side))} of {len(side)} disturbed" for side in sides],
    ) | {"onlookers_cores": cores}


def _row(speeds: Sequence[Sequence[float]], told: Sequence[str]) -> dict[str, Any]:
    """speeds, told: of the app, and of what it is compared with."""
    return {
        "app_tok_per_s": speeds[0], "other_tok_per_s": speeds[1], "ratio": str(paired_ratio(*speeds)),
        "app": told[0], "other": told[1],
    }  # fmt: skip


def _turns(run: Run, server: Server) -> tuple[dict[int, bool], float]:
    """Whether the onlookers were stopped, by the number of each timing pass: two not, four, four not, and so on; and
    the cores that they took in the second of each two in which they were not."""
    stopped: dict[int, bool] = {}
    used_s = passed_s = processor_s = begun = 0.0
    counts = False
    try:
        for event in _passes_of(run):
            onlookers, timing = _onlookers(server), event["kind"] == "timing"
            if counts and timing:  # what comes after the last of them is no timing pass's
                used_s += _processor_s(onlookers) - processor_s
                passed_s += time.monotonic() - begun
            if timing:
                k = len(stopped) // 2
                stopped[event["number"]] = (k + k // 2) % 2 == 1
            stop = timing and stopped[event["number"]]
            counts = timing and not stop and len(stopped) % 2 == 0
            _signal(onlookers, signal.SIGSTOP if stop else signal.SIGCONT)
            processor_s, begun = _processor_s(onlookers), time.monotonic()
    finally:
        _signal(_onlookers(server), signal.SIGCONT)
    return stopped, used_s / passed_s


def _passes_of(run: Run) -> Iterator[dict[str, Any]]:
    """Each pass of the run as it begins, until its end."""
    end, line, file = time.monotonic() + END_S, b"", run.path / "events.jsonl"
    while not file.exists() and time.monotonic() < end:
        time.sleep(TURN_S)
    with file.open("rb") as events:
        while time.monotonic() < end:
            line += events.readline()
            if not line.endswith(b"\n"):
                time.sleep(TURN_S)
                continue
            event, line = json.loads(line), b""
            if event["type"] in ("done", "failed"):
                return
            if event["type"] == "pass":
                yield event
    sys.exit("The run did not end.")


def _onlookers(server: Server) -> list[psutil.Process]:
    """The server, and every process of the browser that this bench has started."""
    own = [p for p in psutil.Process().children(recursive=True) if "chrom" in p.name()]
    return [*([psutil.Process(server.process.pid)] if server.process else []), *own]


def _processor_s(processes: Sequence[psutil.Process]) -> float:
    """Processor time that they have taken, those left out that are gone."""
    taken = 0.0
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            taken += sum(process.cpu_times()[:2])
    return taken


def _signal(processes: Sequence[psutil.Process], what: signal.Signals) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(what)


def _rates(run: Run) -> dict[int, float]:
    """Decoded tokens per second of each timing pass, by its number, in order."""
    events = run.events()
    decode: dict[int, list[Step]] = {e.number: [] for e in events if isinstance(e, Pass) and e.kind == "timing"}
    for e in events:
        if isinstance(e, Step) and e.phase == "decode" and e.pass_no in decode:
            decode[e.pass_no].append(e)
    return {n: sum(s.counts.tokens for s in own) / sum(s.seconds for s in own) for n, own in decode.items() if own}


def _repeated(results: Sequence[Result]) -> int:
    """Timing passes beyond the one that was asked for."""
    return sum(r.disturbance.n_passes - 1 for r in results if r.disturbance is not None)


def _tab(browser: Any) -> Any:
    page = browser.new_context(viewport={"width": 1280, "height": 900}).new_page()
    page.set_default_timeout(1000 * END_S)
    page.add_init_script(EYE)
    return page


def watched(server: Server, tabs: Sequence[Any], backend: str, n: int, way: str, fresh: bool = True) -> Run:
    """One run from the Run page to its end."""
    run = _begin(server, tabs, backend, n, way, fresh=str(fresh).lower())
    _until_over(tabs[0], run)
    if fresh:
        for tab in tabs:
            tab.goto("about:blank")
    return run


def _begin(server: Server, tabs: Sequence[Any], backend: str, n: int, way: str, **more: Any) -> Run:
    """A run from the Run page, which then stays open, is left for another page, or is open twice."""
    asked = {"model": MODEL, "backend": backend, "prompt": PROMPT, "max_new_tokens": n, "ignore_eos": "true"}
    tabs[0].goto(server.address(**asked, threads=usable_cores(), **more))
    run = _press(server, tabs[0])
    for other in tabs[1:]:
        other.goto(server.address(run=run.id))
    if way == "another":
        tabs[0].get_by_role("link", name="History").click()
    return run


def _press(server: Server, page: Any) -> Run:
    """Press Run and find the run that it began."""
    store = Store(server.home / "data")
    known = set(store.ids())
    page.locator(".st-key-start button:not([disabled])").first.click()
    end = time.monotonic() + END_S
    while not (new := set(store.ids()) - known):
        if time.monotonic() > end:
            sys.exit("The run did not begin.")
        page.wait_for_timeout(50)
    return store.open(new.pop())


def _until_over(page: Any, run: Run) -> None:
    """Look at the run's folder now and then: reading all of its events would cost the run itself."""
    file = run.path / "events.jsonl"
    end = time.monotonic() + END_S
    while time.monotonic() < end:
        page.wait_for_timeout(LOOK_MS)
        if file.exists():
            with file.open("rb") as events:
                events.seek(max(0, file.stat().st_size - 4096))
                if re.search(rb'"type":"(done|failed)"', events.read().rstrip().rpartition(b"\n")[2]):
                    return
    sys.exit("The run did not end.")


def command_line(server: Server, backend: str, n: int) -> Result:
    """The same request without anybody who looks on."""
    command = [
        sys.executable, "-m", "core", "run", "--json", "--model", MODEL, "--backend", backend, "--prompt", PROMPT,
        "--max-new-tokens", str(n), "--ignore-eos", "--threads", str(usable_cores()), "--warmup", "1",
        "--repeats", "1", "--profilers", PROFILERS,
    ]  # fmt: skip
    env = {**os.environ, "ROOFSCOPE_HOME": str(server.home), "HOME": str(server.home)}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    return Store(server.home / "data").open(json.loads(done.stdout)["run_id"]).result()


def _first(server: Server, browser: Any, backend: str) -> dict[str, Any]:
    """Seconds from the click on Run to the first character on the screen, beyond the model's own prefill."""
    page = _tab(browser)
    extra = []
    for i in range(FIRST_RUNS):
        made = watched(server, [page], backend, FIRST_TOKENS + i, "watched", fresh=False)
        if i:
            page.wait_for_function("window.seen !== null")
            clicked, seen = page.evaluate("[window.clicked, window.seen]")
            extra.append(seen - clicked - _prefill_s(made))
    page.context.close()
    found = statistics.median(extra)
    print(
        f"{backend:<12} Run to the first visible character, warm: prefill + {found * 1e3:.0f} ms "
        f"(target {FIRST_TARGET_S * 1e3:.0f})",
        flush=True,
    )
    return {"backend": backend, "first_character_extra_s": extra}


def _prefill_s(run: Run) -> float:
    """Of the pass that was shown."""
    events = run.events()
    number = next(e for e in events if isinstance(e, Pass)).number
    return sum(e.seconds for e in events if isinstance(e, Step) and e.pass_no == number and e.phase == "prefill")
