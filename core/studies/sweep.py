"""Carries out a sweep: every cell that can run, in the grid's order, until its limits; and says how far it is.

A cell is done when a run of it ended well in each round and the worker reports that it ran what was asked. What went
wrong is kept with its reason, and is tried again only when asked to. Two failures in a row in one backend leave its
other cells for the next session.
"""

from __future__ import annotations

import hashlib
import statistics
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Literal

from core import plugins
from core.analysis.eta import Eta, remaining
from core.models import catalogue
from core.paths import data_dir
from core.runs.asked import unlike
from core.runs.foresight import Foreseen
from core.runs.other_machine import OtherMachine
from core.runs.runner import Runner
from core.runs.store import Run, Store
from core.stats.intervals import PAIRS, Ratio
from core.studies.grid import Cell, axis_inside, cells, ordered, value_words
from core.studies.ledger import BEGUN, Ledger, Say, State, folder_of
from core.studies.measures import MEASURES, latency_s, typical, values_of
from core.studies.on_machines import on_all
from core.studies.plan import Axis, Limits, Sweep, catalogue_name
from core.types import Record, Request, Scalar, to_json
from hardware.errors import ExplorerError

MOST_ROUNDS = 20  # of a cell whose interval stays wide
PAUSE = 2  # failures in a row in one backend
REFERENCE = "reference"
Status = Literal["done", "failed", "refused", "left"]


class Progress(Record, omit_defaults=False):
    """How far a sweep is, in cells; refused ones are no part of it. eta: of what is left; None when nothing is."""

    done: int
    failed: int
    refused: int
    left: int
    spent_s: float
    minutes: float
    eta: Eta | None

    @property
    def share(self) -> float:
        """Of the cells that can run, those that are over."""
        cells = self.done + self.failed + self.left
        return (self.done + self.failed) / cells if cells else 1.0


class CellRow(Record, omit_defaults=False):
    """A cell with what came of it. values: of each measure, over its rounds; empty unless done.

    machine: where it was measured, if elsewhere; of the last of its rounds.
    """

    id: str
    label: str
    at: dict[str, Scalar]
    status: Status
    reason: str
    runs: tuple[str, ...]
    values: dict[str, Ratio]
    disturbed: bool
    machine: str = ""


class Sample(Record, omit_defaults=False):
    """One measurement of the reference cell: when, and its latency over the median of all of them.

    machine: where, if elsewhere.
    """

    created_s: float
    ratio: float
    disturbed: bool
    machine: str = ""


class Report(Record, omit_defaults=False):
    """A sweep as it stands. reference: the label of the cell that was measured again and again; "" without."""

    plan: Sweep
    progress: Progress
    rows: tuple[CellRow, ...]
    reference: str
    drift: tuple[Sample, ...]


def planned(
    base: Request,
    axes: Sequence[Axis],
    title: str = "",
    rounds: int = 1,
    reference_every: int = 10,
    limits: Limits | None = None,
    seed: int = 0,
) -> Sweep:
    """A sweep whose name follows from what it measures, so that the same grid goes on in the same folder."""
    parts = (base, axes, rounds, reference_every, seed)
    digest = hashlib.sha256(to_json(parts)).hexdigest()[:8]
    models = next((axis.values for axis in axes if axis.name == "model"), (base.model,))
    first = catalogue_name(str(models[0])) if models else "nothing"
    return Sweep(
        name=f"sweep-{first}-{digest}",
        title=title or _title(axes, models),
        base=base,
        axes=tuple(axes),
        rounds=rounds,
        reference_every=reference_every,
        limits=limits or Limits(),
        seed=seed,
    )


def _title(axes: Sequence[Axis], models: Sequence[Scalar]) -> str:
    """`smollm2-135m: backend, prompt tokens`: which models, and what varies."""
    varied = [axis.name for axis in axes if len(axis.values) > 1 and axis.name != "model"]
    words = ", ".join(map(axis_inside, varied)) or ("models side by side" if len(models) > 1 else "one cell")
    more = f" and {len(models) - 3} more" if len(models) > 3 else ""
    return f"{', '.join(str(m) for m in models[:3])}{more}: {words}"


def foretold(every: Sequence[Cell], told: Sequence[Foreseen]) -> tuple[dict[str, str], dict[str, float]]:
    """Cell -> why it cannot run, with the next step; and of the others the seconds that each may take."""
    both = list(zip(every, told, strict=True))
    refused = {cell.id: one.reason for cell, one in both if one.reason}
    return refused, {cell.id: one.seconds for cell, one in both if not one.reason}


def carry_out(
    plan: Sweep, minutes: float, say: Say, again: bool = False, retry: bool = False, machine: OtherMachine | None = None
) -> Ledger[Sweep]:
    """Measure whatever of the sweep is not measured yet. retry: what failed, too. machine: on another machine.

    Interrupting it loses nothing but the run going. Raises ExplorerError when no cell can run.
    """
    every = cells(plan)
    catalogue.entries(refresh=True)
    runner = machine or Runner(Store(data_dir()))
    ledger = Ledger(folder_of(plan), plan, minutes, runner, say, again)
    try:
        ledger.state.refused, expected = foretold(every, runner.foresee([cell.request for cell in every]))
        ready = ready_of(ledger.state, every)
        if retry:
            ledger.state.failures.clear()
        ledger.state.expected_s = expected | ledger.state.expected_s
        ledger.save()
        if machine is None:  # runs of this machine are none of another's
            _take_in(ledger, ready)
        Sweeping(ledger, ready).go()
    finally:
        runner.close()
        ledger.save()
    return ledger


def ready_of(state: State[Any], every: Sequence[Cell]) -> tuple[Cell, ...]:
    """The cells that can run; raises ExplorerError where there are none."""
    ready = tuple(cell for cell in every if cell.id not in state.refused)
    if not ready:
        reason = Counter(state.refused.values()).most_common(1)[0][0]
        raise ExplorerError("No cell of this grid can run.", f"The most common reason: {reason}")
    return ready


def carry_out_on(
    machines: Sequence[OtherMachine], plan: Sweep, minutes: float, say: Say, again: bool = False, retry: bool = False
) -> tuple[dict[str, Ledger[Sweep]], dict[str, str]]:
    """The whole sweep on every machine, all at the same time, as core.studies.on_machines does it."""

    def one(own: Sweep, machine: OtherMachine, told: Say) -> Ledger[Sweep]:
        return carry_out(own, minutes, told, again, retry, machine)

    return on_all(machines, plan, one, say)


class Sweeping:
    """One session of a sweep: what is left of it, in order, with its limits."""

    def __init__(self, ledger: Ledger[Sweep], ready: Sequence[Cell]) -> None:
        self.ledger, self.plan, self.ready = ledger, ledger.plan, tuple(ready)
        self._streak: Counter[str] = Counter()
        self._told = False

    def go(self) -> None:
        limits = self.plan.limits
        least = max(self.plan.rounds, PAIRS) if limits.width is not None else self.plan.rounds
        for number in range(MOST_ROUNDS if limits.width is not None else least):
            for cell, reference in self.turn(number):
                if number >= least and self._narrow(cell):
                    continue
                if self._over():
                    return
                self._cell(cell, number, reference)

    def turn(self, number: int) -> Iterator[tuple[Cell, str]]:
        """The cells of a round in their order, each with the key of the reference that belongs to it."""
        for place, cell in enumerate(ordered(self.ready, self.plan.seed, number)):
            yield cell, self.reference("", number * len(self.ready) + place)

    def reference(self, of: str, place: int) -> str:
        """The key of the reference measured before the cell at this place; "" for none. of: a name before it."""
        every = self.plan.reference_every
        return f"{REFERENCE}/{of}{place // every}" if every else ""

    def waits(self, backend: str) -> bool:
        """Whether the cells of a backend wait for the next session, because those before them failed."""
        return self._streak[backend] >= PAUSE

    def _cell(self, cell: Cell, number: int, reference: str) -> None:
        """Measure a cell in a round, unless that is done; the reference cell before it where its turn has come."""
        key, backend = f"{cell.id}/{number}", cell.request.backend
        if key in self.ledger.state.failures or self.ledger.done(key) is not None or self.waits(backend):
            return
        if reference:
            self._measure(reference, self.ready[0], "reference cell")
        if self._measure(key, cell, cell.label) is not None:
            self._streak[backend] = 0
            return
        self._streak[backend] += 1
        if self._streak[backend] == PAUSE:
            engine = plugins.label("backend", backend)
            self.ledger.say(f"{PAUSE} failures in a row: the other cells of {engine} wait for the next session")

    def _measure(self, key: str, cell: Cell, label: str) -> Run | None:
        """The finished run of a key that ran what was asked; a run of something else is a failure with its reason."""
        if key in self.ledger.state.failures:
            return None
        run = self.ledger.perform(key, cell.request, label)
        if run is None:
            return None
        if other := unlike(cell.request, run.recording()):
            self.ledger.fail(key, " ".join(other), label)
            return None
        return run

    def _narrow(self, cell: Cell) -> bool:
        """Whether the cell's interval is narrow enough, or it failed."""
        state, width = self.ledger.state, self.plan.limits.width
        if width is None or any(key.startswith(f"{cell.id}/") for key in state.failures):
            return True
        found = (self.ledger.done(key) for key in state.runs if key.startswith(f"{cell.id}/"))
        return narrow([s for run in found if run is not None and (s := latency_s(run.result())) is not None], width)

    def _over(self) -> bool:
        reason = ""
        if self.ledger.left_s <= 0:
            reason = "its time is over"
        elif self.plan.limits.cells is not None and n_measured(self.ledger.state) >= self.plan.limits.cells:
            reason = f"{self.plan.limits.cells} cells are measured"
        if reason and not self._told:
            self._told = True
            self.ledger.say(f"The sweep stops here: {reason}")
        return bool(reason)


def narrow(seconds: Sequence[float], width: float) -> bool:
    """Whether the interval of repeated measurements is narrower than this share of their mean."""
    mean = typical(seconds)
    if mean is None or mean.low is None or mean.high is None:
        return False
    return mean.high - mean.low <= width * mean.value


def n_measured(state: State[Sweep]) -> int:
    """Cells with at least one finished run."""
    return len({key.partition("/")[0] for key in state.took_s if not key.startswith(REFERENCE)})


def _take_in(ledger: Ledger[Sweep], ready: Sequence[Cell]) -> None:
    """Runs that ended although the process that wanted them was killed before it could write them down."""
    known = set(ledger.state.runs.values())
    for key in [k for k in ledger.state.runs if k not in ledger.state.took_s]:
        if (run := ledger.done(key)) is not None:
            ledger.state.took_s[key] = run.result().total_s or 0.0
    open_ = {c.request.key(): f"{c.id}/0" for c in ready if f"{c.id}/0" not in ledger.state.runs}
    try:
        begun = datetime.strptime(ledger.state.begun, BEGUN).timestamp()
    except ValueError:
        return
    for run_id in ledger.runner.store.ids():
        try:
            run = ledger.runner.store.open(run_id)
            if run.created_s < begun:
                return
            cell = run.request.key()
            if run_id not in known and cell in open_ and run.status() == "done":
                ledger.state.took_s[open_[cell]] = run.result().total_s or 0.0
                ledger.adopt(open_.pop(cell), run_id)
        except ExplorerError:
            continue


# ------------------------------------------------------------ how far it is, and what came of it


def status_of(state: State[Sweep], cell: Cell, rounds: int) -> Status:
    """Of one cell, from the ledger alone. What was measured stays so, even if it could not run any more."""
    if any(key.startswith(f"{cell.id}/") for key in state.failures):
        return "failed"
    if all(f"{cell.id}/{n}" in state.took_s for n in range(rounds)):
        return "done"
    return "refused" if cell.id in state.refused else "left"


def progress(state: State[Sweep]) -> Progress:
    """From the ledger alone, so that it can be asked often."""
    plan = state.plan
    every = cells(plan)
    by_status = {cell.id: status_of(state, cell, plan.rounds) for cell in every}
    n: Mapping[str, int] = Counter(by_status.values())
    backends = {cell.id: cell.request.backend for cell in every}
    done = [
        (backends[cell], state.expected_s[cell], seconds)
        for key, seconds in state.took_s.items()
        if (cell := key.partition("/")[0]) in state.expected_s and cell in backends
    ]
    open_ = [
        (backends[cell], state.expected_s.get(cell, 0.0))
        for cell, status in by_status.items()
        if status == "left"
        for number in range(plan.rounds)
        if f"{cell}/{number}" not in state.took_s
    ]
    return Progress(
        done=n.get("done", 0),
        failed=n.get("failed", 0),
        refused=n.get("refused", 0),
        left=n.get("left", 0),
        spent_s=state.spent_s,
        minutes=state.minutes,
        eta=remaining(open_, done, max(1, len(state.kinds))) if open_ else None,
    )


def report(state: State[Sweep], store: Store) -> Report:
    """Everything that came of a sweep so far; reads every run of it."""
    plan = state.plan
    every = cells(plan)
    ready = [cell for cell in every if cell.id not in state.refused]
    return Report(
        plan=plan,
        progress=progress(state),
        rows=tuple(_row(state, store, cell, plan.rounds) for cell in every),
        reference=ready[0].label if ready and plan.reference_every else "",
        drift=_drift(state, store),
    )


def flat(found: Report) -> list[dict[str, Any]]:
    """One row per cell for a table or CSV: the axes, the status, each measure with its interval."""
    names = [axis.name for axis in found.plan.axes]
    measures = [m for m in MEASURES if any(m in row.values for row in found.rows)]
    several = len({row.machine for row in found.rows if row.machine}) > 1
    table = []
    for row in found.rows:
        line: dict[str, Any] = {name: row.at.get(name) for name in names}
        line |= {"machine": row.machine} if several else {}
        line |= {"status": row.status, "reason": row.reason}
        for name in measures:
            value = row.values.get(name)
            line[name] = None if value is None else value.value
            if any((v := r.values.get(name)) is not None and v.low is not None for r in found.rows):
                line |= {f"{name}_low": value and value.low, f"{name}_high": value and value.high}
        table.append({**line, "disturbed": row.disturbed, "runs": " ".join(row.runs)})
    return table


class Spot(Record, omit_defaults=False):
    """The best cell among those that share their values of two or three axes; None where none is measured."""

    x: str
    y: str
    panel: str
    best: CellRow | None
    n: int
    reason: str


def spots(rows: Sequence[CellRow], measure: str, x: str, y: str = "", panel: str = "") -> tuple[Spot, ...]:
    """The cells by their values of up to three axes; those of all other axes are searched for the best.

    A cell that lacks an axis, which another plugin's setting is, stands under a dash.
    """
    better = MEASURES[measure].better
    found: dict[tuple[str, str, str], list[CellRow]] = {}
    for row in rows:
        place = (_shown(row, x), _shown(row, y), _shown(row, panel))
        found.setdefault(place, []).append(row)
    listed = []
    for (one, two, three), same in found.items():
        known = [row for row in same if measure in row.values]
        best = None
        if known:
            pick = max if better == "higher" else min
            best = pick(known, key=lambda row: row.values[measure].value)
        reason = "" if best else next((row.reason for row in same if row.reason), "not measured yet")
        listed.append(Spot(x=one, y=two, panel=three, best=best, n=len(known), reason=reason))
    orders = [_order(rows, name) for name in (x, y, panel)]
    return tuple(sorted(listed, key=lambda s: tuple(o[v] for o, v in zip(orders, (s.x, s.y, s.panel), strict=True))))


def _shown(row: CellRow, axis: str) -> str:
    if not axis:
        return ""
    return value_words(axis, row.at[axis]) if axis in row.at else "–"


def _order(rows: Sequence[CellRow], axis: str) -> dict[str, tuple[float, int]]:
    """Numbers by their size, other values as they come."""
    shown = list(dict.fromkeys(_shown(row, axis) for row in rows))
    numbers = {_shown(row, axis): float(v) for row in rows if isinstance(v := row.at.get(axis), int | float)}
    return {value: (numbers.get(value, float("inf")), place) for place, value in enumerate(shown)}


def _row(state: State[Sweep], store: Store, cell: Cell, rounds: int) -> CellRow:
    status = status_of(state, cell, rounds)
    own = {key: run_id for key, run_id in state.runs.items() if key.startswith(f"{cell.id}/")}
    reasons = [state.refused.get(cell.id, "")]
    reasons += [reason for key, reason in state.failures.items() if key.startswith(f"{cell.id}/")]
    samples: dict[str, list[float]] = {}
    disturbed = False
    for key, run_id in own.items():
        if key in state.failures or key not in state.took_s:
            continue
        try:
            result = store.open(run_id).result()
        except ExplorerError:
            continue
        disturbed = disturbed or result.disturbed
        for name, value in values_of(result).items():
            samples.setdefault(name, []).append(value)
    means = {name: mean for name, found in samples.items() if (mean := typical(found)) is not None}
    return CellRow(
        id=cell.id,
        label=cell.label,
        at=cell.at,
        status=status,
        reason=" ".join(filter(None, reasons)),
        runs=tuple(own.values()),
        values=means if status in ("done", "left") else {},
        disturbed=disturbed,
        machine=next((state.machines[key] for key in reversed(own) if key in state.machines), ""),
    )


def _drift(state: State[Sweep], store: Store) -> tuple[Sample, ...]:
    seen: list[tuple[float, float, bool, str]] = []
    for key, run_id in state.runs.items():
        if not key.startswith(f"{REFERENCE}/") or key not in state.took_s or key in state.failures:
            continue
        try:
            run = store.open(run_id)
            result = run.result()
            if (seconds := latency_s(result)) is not None:
                seen.append((run.created_s, seconds, result.disturbed, state.machines.get(key, "")))
        except ExplorerError:
            continue
    seen.sort()
    if not seen:
        return ()
    middle = statistics.median_high(s for _, s, _, _ in seen)
    return tuple(Sample(created_s=t, ratio=s / middle, disturbed=d, machine=m) for t, s, d, m in seen)


def drift_words(samples: Sequence[Sample]) -> str:
    """How far the reference cell moved; empty with fewer than two measurements."""
    if len(samples) < 2:
        return ""
    low, high = min(s.ratio for s in samples), max(s.ratio for s in samples)
    words = (
        f"The reference cell was measured {len(samples)} times; its slowest answer took {high / low:.2f} times its "
        "quickest. Differences between cells below that may be the machine's."
    )
    typical_of = {
        m: statistics.median(s.ratio for s in samples if s.machine == m) for m in {s.machine for s in samples}
    }
    if len(typical_of) < 2:
        return words
    quick, slow = min(typical_of, key=lambda m: typical_of[m]), max(typical_of, key=lambda m: typical_of[m])
    return f"{words} On {slow} its median is {typical_of[slow] / typical_of[quick]:.2f} times that on {quick}."
