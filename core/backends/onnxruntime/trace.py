"""Time per canonical layer of an ONNX model, from ONNX Runtime's own profiler.

The profiler can only be switched on when a session is opened, so tracing opens the file again, with
the first session's memory given back before; one copy of the weights lies in memory at a time. When
the profile has ended the same session goes on unprofiled. Times are whole microseconds per node and
exclude the executor's own time between nodes: the difference to the step's wall time shows it. On
CUDA they are the time to launch a kernel, not to run it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec

from core.backends.onnxruntime.nodes import layers_of_run
from core.types import LayerTime, ModelSpec

if TYPE_CHECKING:
    from core.backends.onnxruntime.engine import Engine

PhaseName = Literal["prefill", "decode"]
OTHER = "other"  # nodes that belong to no layer: masks, positions, the choice of the kept rows
SUFFIX = "_kernel_time"
CONTAINERS = ("If", "Loop", "Scan")  # their nodes have events of their own


class Arguments(msgspec.Struct):
    op_name: str = ""
    output_size: str | None = None  # bytes


class Event(msgspec.Struct):
    """One line of the profile; `dur` in microseconds."""

    name: str
    dur: int = 0
    args: Arguments = msgspec.field(default_factory=Arguments)


class OnnxTrace:
    """core.types.Trace; the session calls `count` after each forward. `on_finish` is called once."""

    def __init__(self, engine: Engine, spec: ModelSpec, on_finish: Callable[[], None]) -> None:
        self._engine, self._on_finish = engine, on_finish
        self._spec = spec
        self._phase: PhaseName = "prefill"
        self._runs: list[PhaseName] = []
        self._rows: dict[str, tuple[LayerTime, ...]] | None = None
        with tempfile.TemporaryDirectory(prefix="roofscope-profile-") as folder:
            engine.open(profile=str(Path(folder, "ort")))
            (file,) = Path(folder).iterdir()  # written into at the end; without a name it outlives no killed process
            self._profile = file.open(encoding="utf-8")

    def count(self) -> None:
        """A forward has been run in the current phase."""
        self._runs.append(self._phase)

    def phase(self, name: PhaseName) -> None:
        self._phase = name

    def rows(self) -> dict[str, tuple[LayerTime, ...]]:
        return self._rows or {}

    def finish(self) -> dict[str, tuple[LayerTime, ...]]:
        if self._rows is None:
            self._rows = {}
            try:
                self._engine.end_profiling()
                layers = layers_of_run(self._engine.file, self._spec, first_run(read(self._profile)))
                self._profile.seek(0)
                self._rows = fold(read(self._profile), self._runs, layers)
            finally:
                self._profile.close()
                self._on_finish()
        return self._rows


def read(lines: Iterable[str]) -> Iterator[Event]:
    """The events of a profile: a JSON list with one event per line, of which a long run makes a gigabyte.

    Ends early where a full disk has cut the file.
    """
    decoder = msgspec.json.Decoder(Event)
    for line in lines:
        text = line.strip().rstrip(",")
        if text.startswith("{"):
            try:
                yield decoder.decode(text)
            except msgspec.DecodeError:
                return


def first_run(events: Iterable[Event]) -> list[str]:
    """The nodes of the first forward, in the order in which they ran; every forward runs the same ones."""
    names = []
    for event in events:
        if event.name == "model_run":
            break
        if event.name.endswith(SUFFIX):
            names.append(event.name.removesuffix(SUFFIX))
    return names


class _Layer:
    def __init__(self) -> None:
        self.seconds_by_op: dict[str, float] = {}
        self.output_bytes: int | None = None
        self.runs: set[int] = set()


def fold(
    events: Iterable[Event], runs: Sequence[PhaseName], layers: Mapping[str, str | None]
) -> dict[str, tuple[LayerTime, ...]]:
    """Rows per phase. runs: the phase of each forward, in order; layers: node name -> layer.

    The profiler keeps the first million events. Forwards beyond them are taken to cost what the
    recorded ones of their phase did on average.
    """
    found: dict[str, dict[str, _Layer]] = {"prefill": {}, "decode": {}}
    run = 0
    for event in events:
        if event.name == "model_run":
            run += 1
        elif event.name.endswith(SUFFIX) and run < len(runs) and event.args.op_name not in CONTAINERS:
            name = layers.get(event.name.removesuffix(SUFFIX)) or OTHER
            layer = found[runs[run]].setdefault(name, _Layer())
            op = event.args.op_name
            layer.seconds_by_op[op] = layer.seconds_by_op.get(op, 0.0) + event.dur * 1e-6
            layer.runs.add(run)
            if event.args.output_size is not None:
                layer.output_bytes = int(event.args.output_size)
    scale = {phase: runs.count(phase) / max(1, runs[:run].count(phase)) for phase in found}
    return {phase: tuple(_row(n, x, scale[phase]) for n, x in rows.items()) for phase, rows in found.items() if rows}


def _row(name: str, layer: _Layer, scale: float) -> LayerTime:
    op = max(layer.seconds_by_op, key=lambda key: layer.seconds_by_op[key])
    return LayerTime(
        name=name,
        seconds=sum(layer.seconds_by_op.values()) * scale,
        calls=round(len(layer.runs) * scale),
        op=op,
        output_bytes=None if name == OTHER else layer.output_bytes,
    )
