"""python -m tests.faults soak --minutes N --seed S [--record]: the app is used for long, and nothing of it grows.

The real server and Chromium with the fake backend and llama.cpp: runs, pages, reloads, stops and closed tabs at random,
the same ones for the same seed. Before them each page is opened, each backend runs, and as many runs are looked at as
the app keeps open: what it imports then and keeps for good, or up to a bound, is no growth. After each act memory, open
files, threads and processes of app and worker are read. Verdicts are by a straight line with its interval, per 100 of
these acts: the app's through what came after the first quarter, a worker's through what came after the first WARM_RUNS
runs of its life; shorter lives say nothing. So that there are long ones, nothing is stopped in stretches of the acts,
and no other backend chosen (tests.faults.visitor). A session that was left ends after LEFT_S here, and not after
the app's two minutes, so that a short piece sees their ends too. Recorded pieces lie in
tests/bench/recorded/soak.json and soak-curve.json; `make tables` makes tables of them. What lives in the app, object by
object, tells `python -m tests.faults left`. A browser that stands still is ended and counted, and another goes on.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import psutil

from core import plugins
from tests.bench.recording import record, recorded
from tests.faults.trend import Series, Trend, after, trend

if TYPE_CHECKING:
    from tests.faults.visitor import Visitor

WARM = 0.25  # of the acts, which fill the app's caches
WARM_RUNS = 20  # of a worker: with llama.cpp three of three grew from 280 to 290 MB in 15 runs, by 1 MB in the next 25
PER = 100  # acts
LEFT_S = 20
HUNG_S = 300.0  # of an act: Playwright has no limit for opening and closing a tab, and Chromium does neither at times
HUNG, IDLE = "browser ended", "nothing of the browser computed"
BUSY_OVER_S, BUSY_PERCENT = 5.0, 50.0
POINTS = 24  # of a recorded curve
MB = 1e6


class Seen(NamedTuple):
    """Of a process: pid, resident and anonymous bytes, open files, threads."""

    pid: int
    rss_bytes: int
    anon_bytes: int
    files: int
    threads: int


class Sample(NamedTuple):
    """After an act. runs: begun so far. worker: None where there is none. processes: of the app, with itself."""

    t_s: float
    act: int
    runs: int
    app: Seen
    worker: Seen | None
    processes: int


class Quantity(NamedTuple):
    """limit: growth per 100 acts that does no harm. of: its lives in the samples, warm, each with acts and readings."""

    name: str
    limit: float
    of: Callable[[Sequence[Sample]], list[Series]]


def seen(process: psutil.Process) -> Seen:
    """Raises psutil.Error."""
    with process.oneshot():
        memory = process.memory_info()
        anon = memory.rss - getattr(memory, "shared", 0)
        return Seen(process.pid, memory.rss, anon, process.num_fds(), process.num_threads())


def sampled(server: psutil.Process, t_s: float, act: int, runs: int) -> Sample:
    children, worker = server.children(recursive=True), None
    for child in children:
        with contextlib.suppress(psutil.Error):
            if "core.worker.worker" in " ".join(child.cmdline()):
                worker = seen(child)
    return Sample(t_s, act, runs, seen(server), worker, 1 + len(children))


def of_app(read: Callable[[Sample], float]) -> Callable[[Sequence[Sample]], list[Series]]:
    return lambda samples: [[(s.act, read(s)) for s in samples[int(len(samples) * WARM) :]]]


def of_workers(read: Callable[[Seen], float]) -> Callable[[Sequence[Sample]], list[Series]]:
    """Each worker has a life of its own, which begins with a run."""

    def lives(samples: Sequence[Sample]) -> list[Series]:
        found: list[list[tuple[float, float, float]]] = []
        pid, before = None, 0
        for s in samples:
            if s.worker is None or s.worker.pid != pid:  # a number is given again: it tells one from the next only
                found.append([])
                pid, before = (s.worker.pid if s.worker else None), s.runs - 1
            if s.worker is not None:
                found[-1].append((s.act, read(s.worker), s.runs - before))
        return [after(life, WARM_RUNS) for life in found]

    return lives


QUANTITIES = (
    Quantity("app: memory, resident (MB)", 5.0, of_app(lambda s: s.app.rss_bytes / MB)),
    Quantity("app: memory, anonymous (MB)", 5.0, of_app(lambda s: s.app.anon_bytes / MB)),
    Quantity("app: open files", 1.0, of_app(lambda s: s.app.files)),
    Quantity("app: threads", 1.0, of_app(lambda s: s.app.threads)),
    Quantity("worker: memory, resident (MB)", 5.0, of_workers(lambda p: p.rss_bytes / MB)),
    Quantity("worker: memory, anonymous (MB)", 5.0, of_workers(lambda p: p.anon_bytes / MB)),
    Quantity("worker: open files", 1.0, of_workers(lambda p: p.files)),
    Quantity("worker: threads", 1.0, of_workers(lambda p: p.threads)),
    Quantity("processes", 0.5, of_app(lambda s: s.processes)),
)


def verdicts(samples: Sequence[Sample]) -> Iterator[tuple[Quantity, list[Series], Trend | None]]:
    """Of every quantity, over what came when it was warm."""
    for quantity in QUANTITIES:
        lives = [[(act / PER, value) for act, value in life] for life in quantity.of(samples)]
        yield quantity, lives, trend(lives)


def rows(piece: str, samples: Sequence[Sample]) -> list[dict[str, Any]]:
    """What is recorded of a piece: a row for each quantity."""
    found = []
    for quantity, lives, line in verdicts(samples):
        values = [value for life in lives for _, value in life]
        found.append(
            {
                "piece": piece,
                "what": quantity.name,
                "acts": samples[-1].act,
                "least": min(values, default=None),
                "most": max(values, default=None),
                "last": values[-1] if values else None,
                "per 100 acts": line and line.slope,
                "low": line and line.low,
                "high": line and line.high,
                "limit": quantity.limit,
                "verdict": line.said(quantity.limit) if line else "lives too short to tell",
            }
        )
    return found


def curve(piece: str, samples: Sequence[Sample]) -> list[dict[str, Any]]:
    """Some of the samples, evenly over the piece."""
    step = max(1, len(samples) // POINTS)
    return [
        {
            "piece": piece,
            "minute": s.t_s / 60,
            "acts": s.act,
            "app MB": s.app.rss_bytes / MB,
            "app files": s.app.files,
            "app threads": s.app.threads,
            "worker": s.worker and s.worker.pid,
            "worker MB": s.worker and s.worker.rss_bytes / MB,
            "worker files": s.worker and s.worker.files,
            "worker threads": s.worker and s.worker.threads,
            "processes": s.processes,
        }
        for s in samples[::step]
    ]


def soaked(minutes: float, seed: int) -> tuple[list[Sample], list[str], Counter[str]]:
    """The samples, what went wrong, and what was done how often."""
    from tests.browser.conftest import chromium
    from tests.faults.visitor import Visitor, served

    backends = tuple(b for b in ("fake", "llama_cpp") if plugins.get("backend", b).unavailable() is None)
    samples: list[Sample] = []
    faults: list[str] = []
    os.environ["STREAMLIT_SERVER_DISCONNECTED_SESSION_TTL"] = str(LEFT_S)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as home, served(Path(home)) as server:
        assert server.process is not None
        app, visitor = psutil.Process(server.process.pid), Visitor(server, seed, backends)
        end = math.inf
        while time.monotonic() < end:
            with chromium() as (browser,):
                visitor.takes(browser)
                if not samples:
                    visitor.everything()
                    end = time.monotonic() + 60 * minutes
                _acts(visitor, app, end - 60 * minutes, end, samples, faults)
        children = app.children(recursive=True)
    left = [c.pid for c in psutil.wait_procs(children, timeout=20)[1]]
    faults += [f"process {pid} is left behind" for pid in left]
    return samples, faults, visitor.did


def _acts(
    visitor: Visitor, app: psutil.Process, began: float, end: float, samples: list[Sample], faults: list[str]
) -> None:
    """Until the end, or until the browser had to be ended."""
    while time.monotonic() < end:
        act, found, hung = len(samples) + 1, list[str](), list[str]()
        watch = threading.Timer(HUNG_S, lambda hung=hung: hung.append(_end_browser()))
        watch.start()
        try:
            visitor.act()
        except Exception as error:
            found.append(f"{type(error).__name__}: {str(error)[:300]}")
        watch.cancel()
        watch.join()
        if hung:
            visitor.did[HUNG] += 1
            busy = f"act {act}, {visitor.doing}, did not end in {HUNG_S:.0f} s; {hung[0]}"
            print(busy, flush=True)
            if hung[0] != IDLE:  # a page that computes for ever is the app's
                faults.append(busy)
            return
        for what in found:
            faults.append(f"act {act}, {visitor.doing}: {what}")
            print(faults[-1], flush=True)
        samples.append(sampled(app, time.monotonic() - began, act, visitor.did["run"] + visitor.did["stop"]))
        if act % 20 == 0:
            print(_line(samples[-1], visitor.doing), flush=True)


def _end_browser() -> str:
    """Of this process; whoever waits for it gets an error. Which of its processes computed until then."""
    browser = [child for child in psutil.Process().children(recursive=True) if "chrom" in child.name()]
    busy = list[str]()
    for child in browser:
        with contextlib.suppress(psutil.Error):
            child.cpu_percent(None)
    time.sleep(BUSY_OVER_S)
    for child in browser:
        with contextlib.suppress(psutil.Error):
            if (percent := child.cpu_percent(None)) > BUSY_PERCENT:
                kind = next((a for a in child.cmdline() if a.startswith("--type=")), "--type=browser")
                busy.append(f"its {kind.removeprefix('--type=')} computed ({percent:.0f} % of a core)")
    for child in browser:
        with contextlib.suppress(psutil.Error):
            child.kill()
    return ", ".join(busy) or IDLE


def _line(s: Sample, what: str) -> str:
    worker = f"{s.worker.rss_bytes / MB:.0f} MB" if s.worker else "none"
    return (
        f"{s.t_s / 60:5.1f} min, act {s.act} ({what}): app {s.app.rss_bytes / MB:.0f} MB, {s.app.files} files, "
        f"{s.app.threads} threads; worker {worker}; {s.processes} processes"
    )


def keep(name: str, piece: str, new: Sequence[dict[str, Any]]) -> None:
    """In place of what was recorded of the same piece."""
    old = (recorded(name) or {"results": []})["results"]
    results = [*(row for row in old if row["piece"] != piece), *new]
    record(name, results, "python -m tests.faults soak")


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults soak", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--minutes", type=float, default=120.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--record", action="store_true", help="keep its curve and its verdicts with the project")
    given = parser.parse_args(arguments)
    samples, faults, did = soaked(given.minutes, given.seed)
    piece = f"seed {given.seed}, {samples[-1].t_s / 60:.0f} min, {len(samples)} acts, {len(faults)} faults"
    piece += f"; left sessions kept for {LEFT_S} s"
    if did[HUNG]:
        piece += f"; browser ended by the soak: {did[HUNG]}"
    found = rows(piece, samples)
    for row in found:
        line, least = row["per 100 acts"], row["least"]
        range_ = "–" if least is None else f"{least:8.1f} to {row['most']:8.1f}"
        slope = "–" if line is None else f"{line:+.2f} ({row['low']:+.2f} to {row['high']:+.2f})"
        print(f"{row['what']:32} {range_:20}   {slope} per {PER} acts: {row['verdict']}")
    print(f"{piece}: {dict(did)}")
    for fault in faults:
        print(fault)
    if given.record:
        keep("soak", piece, found)
        keep("soak-curve", piece, curve(piece, samples))
    return 1 if faults or any(row["verdict"] == "grows" for row in found) else 0
