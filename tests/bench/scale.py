"""What a long run, a long history and a deep network cost the app, in processor time of one process without a browser.

A run that comes with the project is drawn out to 50,000 tokens: its decode steps come again and again, each behind one
token more, in a pass that is watched and one that is timed. The history is rows of the index and their folders.
"""

from __future__ import annotations

import json
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec

from core.charts.graph import Colour, layer_graph
from core.charts.timeline import memory_timeline, token_timeline
from core.models import presets
from core.models.spec import from_config
from core.runs.demo import load_into
from core.runs.progress import decode_rates, journey, memory_line, stage
from core.runs.stages import Learned, outlook
from core.runs.store import Run, Store, row
from core.types import Event, Pass, Step, to_json
from hardware.process import resident

TOKENS, RUNS, BLOCKS = 50_000, 10_000, 126
TICKS, NEWS = 12, 25  # draws of a live run, and steps between two of them
Figure = dict[str, Any]


def run() -> list[Figure]:
    """One row for each figure, with the milliseconds that are the goal."""
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder))
        load_into(store)
        seed = next(run for run in store.runs() if {p.kind for p in run.recording().passes.values()} >= {"timing"})
        rows = [*long_run(store, seed), *long_history(store, seed), *deep_network()]
    for figure in rows:
        goal = f" (goal {figure['goal_ms']} ms)" if figure.get("goal_ms") else ""
        value = f"{figure['ms']:.0f} ms" if "ms" in figure else f"{figure['mb']:.0f} MB (goal {figure['goal_mb']} MB)"
        print(f"{figure['what']:<58} {value}{goal}", flush=True)
    return rows


def timed(act: Callable[[], Any]) -> float:
    """Milliseconds of processor time."""
    started = time.process_time()
    act()
    return 1000 * (time.process_time() - started)


# ---------------------------------------------------------------- one long run


def drawn_out(seed: Run) -> Iterator[Event]:
    """The seed's events up to its first timing pass, that pass watched and timed with very many steps, and its end."""
    events, later_s = seed.events(), 0.0
    timing = next(p.number for p in seed.recording().passes.values() if p.kind == "timing")
    steps = [e for e in events if isinstance(e, Step) and e.pass_no == timing]
    decode = [s for s in steps if s.phase == "decode"]
    for event in events:
        if isinstance(event, Pass) and event.number == timing:
            break
        yield event
    for number, kind in ((timing, "live"), (timing + 1, "timing")):
        yield Pass(t_s=event.t_s + later_s, number=number, kind=kind, profiler=None)  # type: ignore[arg-type]
        for i in range(TOKENS):
            one = steps[i] if i < len(steps) - len(decode) else decode[i % len(decode)]
            ran = tuple(msgspec.structs.replace(f, n_past=i, n_sequences=1) for f in one.ran)
            later_s += one.seconds
            yield msgspec.structs.replace(one, pass_no=number, t_s=event.t_s + later_s, n_context=i + 1, ran=ran)
    yield msgspec.structs.replace(events[-1], t_s=event.t_s + later_s)


def long_run(store: Store, seed: Run) -> list[Figure]:
    made = store.create(msgspec.structs.replace(seed.request, live=True, repeats=1))
    lines = [to_json(event) + b"\n" for event in drawn_out(seed)]
    file = made.path / "events.jsonl"
    file.write_bytes(b"".join(lines))
    opening = timed(lambda: shown(Run(made.path)))
    run = Run(made.path)
    file.write_bytes(b"".join(lines[: TOKENS - TICKS * NEWS]))
    shown(run)
    ticks = []
    for i in range(TICKS):
        at = TOKENS - (TICKS - i) * NEWS
        with file.open("ab") as more:
            more.write(b"".join(lines[at : at + NEWS]))
        ticks.append(timed(lambda: shown(run)))
    return [
        {"what": f"opening a run of {2 * TOKENS:,} steps", "ms": opening, "goal_ms": 1000},
        {"what": f"a draw while it is watched, at {TOKENS:,} tokens", "ms": statistics.median(ticks), "goal_ms": 150},
        {"what": "memory of the process that has it open", "mb": resident().rss_bytes / 1e6, "goal_mb": 400},
    ]


def shown(run: Run) -> None:
    """What the Run page asks for."""
    result, recording = run.result(), run.recording()
    journey(recording)
    stage(recording)
    outlook(recording, 1e4, Learned())
    decode_rates(recording)
    memory_line(recording)
    token_timeline(result.itl_s, result.ttft_s)
    memory_timeline(result.memory)


# ---------------------------------------------------------------- many runs


def long_history(store: Store, seed: Run) -> list[Figure]:
    from streamlit.dataframe_util import convert_anything_to_arrow_bytes

    from pages.compare._history_table import cells

    kept, request = row(seed), to_json(seed.request)
    store.history()
    with closing(sqlite3.connect(store.root / "index.sqlite")) as index, index:
        for i in range(RUNS):
            run_id = f"{seed.id[:15]}-{i:06d}"
            folder = store.folder / run_id
            folder.mkdir()
            (folder / "request.json").write_bytes(request)
            words = to_json(kept | {"run_id": run_id, "created_s": kept["created_s"] + i}).decode()
            index.execute("INSERT INTO history VALUES (?, ?)", (run_id, words))
    read = statistics.median(timed(store.history) for _ in range(3))
    rows = store.history()
    assert len(rows) > RUNS
    drawn = statistics.median(timed(lambda: convert_anything_to_arrow_bytes(cells(rows))) for _ in range(3))
    return [
        {"what": f"reading a history of {RUNS:,} runs", "ms": read},
        {"what": "and its table, as it is sent", "ms": drawn},
        {"what": "both together", "ms": read + drawn, "goal_ms": 1000},
    ]


# ---------------------------------------------------------------- a deep network


def deep_network() -> list[Figure]:
    config = json.loads((Path(presets.__file__).parent / "presets" / "llama-3.1-70b.json").read_text())
    layers = from_config(config | {"num_hidden_layers": BLOCKS}, name="deep").layers
    colour = Colour(title="Time", unit="s", values={x.name: 1e-3 for x in layers})
    sizes = dict.fromkeys(colour.values, 1e-3)
    found = []
    for words, opened in (("closed", ()), ("of which one is open", (3,)), ("all open", range(BLOCKS))):
        n_nodes = len(layer_graph(layers, colour, sizes, opened, merge=False).nodes)
        ms = statistics.median(timed(lambda o=opened: layer_graph(layers, colour, sizes, o, False)) for _ in range(3))
        found.append({"what": f"a graph of {BLOCKS} blocks, {words}: {n_nodes:,} nodes", "ms": ms})
    return found
