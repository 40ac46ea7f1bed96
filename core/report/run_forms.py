"""A run in forms that others can use: JSON, CSV, one HTML file, and the bundle that redraws every chart.

Forms called `notexts` hold nobody's words; they and the HTML hold no path and no name of user or host.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from core.report.tables import as_csv
from core.runs.passes import verdicts
from core.runs.store import Run
from core.types import Item, Result, Step, to_json


def export_run(run: Run, fmt: str) -> bytes:
    """The run in one of FORMATS."""
    return FORMATS[fmt](run)


def offered(run: Run, result: Result) -> list[str]:
    """The FORMATS that would not be empty. result: the run's."""
    there = {
        "layers.csv": bool(result.layers),
        "steps.csv": any(isinstance(e, Step) for e in run.events()),
        "items.csv": bool(result.items),
        "curve.csv": bool(result.curves),
    }
    return [fmt for fmt in FORMATS if there.get(fmt, True)]


def _json(run: Run) -> bytes:
    about = run.about
    named = {"name": about.name, "note": about.note}
    return to_json({"request": run.request, "created_s": run.created_s, **named, "result": run.result()})


def _table(rows: Sequence[dict[str, Any]]) -> bytes:
    return as_csv(rows).encode()


def _layers(run: Run) -> bytes:
    return _table([msgspec.structs.asdict(layer) for layer in run.result().layers])


def _steps(run: Run) -> bytes:
    """One line per step, with its pass: what kind it was, and whether something disturbed it (empty: not measured)."""
    recording = run.recording()
    passes, known = recording.passes, verdicts(recording.attempt)
    return _table(
        [
            {
                **_flat(step, step.counts.tokens),
                "pass_kind": passes[step.pass_no].kind if step.pass_no in passes else None,
                "disturbed": known[step.pass_no].disturbed if step.pass_no in known else None,
            }
            for step in recording.all(Step)
        ]
    )


def _flat(record: Step | Item, n_tokens: int) -> dict[str, Any]:
    """A row with the counts as columns of their own; the shapes of its forwards are left to the JSON."""
    row = {k: v for k, v in msgspec.structs.asdict(record).items() if k not in ("counts", "ran")}
    counts = record.counts
    if counts is None:
        return row | dict.fromkeys(("n_tokens", "n_forward", "n_input", "n_draft", "depth", "n_sequences"))
    own = {"n_tokens": n_tokens, "n_forward": counts.forwards, "n_input": counts.inputs, "n_draft": counts.drafts}
    return row | own | {"depth": counts.depth, "n_sequences": counts.sequences}


def _items(run: Run) -> bytes:
    """One line per item of an evaluation, a column for each of its values. n_tokens: the first one, too."""
    items = run.result().items
    names = list(dict.fromkeys(name for item in items for name in item.values))
    rows = [_flat(item, 1 + item.counts.tokens if item.counts else 0) for item in items]
    return _table(
        [
            {**{k: v for k, v in row.items() if k != "values"}, **{n: row["values"].get(n) for n in names}}
            for row in rows
        ]
    )


def _curve(run: Run) -> bytes:
    """One line per point of a training curve."""
    curves = run.result().curves
    names = list(dict.fromkeys(name for c in curves for name in c.values))
    return _table([{"t_s": c.t_s, "step": c.step, **{n: c.values.get(n) for n in names}} for c in curves])


def _report(run: Run, texts: bool) -> bytes:
    from core.report.runs import report  # it brings the charts, which numbers alone do without

    return report([run], texts)


def _shared(run: Run) -> bytes:
    from core.report.bundle_for_others import shared_bundle

    return shared_bundle(run, texts=False)


FORMATS: dict[str, Callable[[Run], bytes]] = {
    "json": _json,
    "layers.csv": _layers,
    "steps.csv": _steps,
    "items.csv": _items,
    "curve.csv": _curve,
    "html": lambda run: _report(run, texts=True),
    "notexts.html": lambda run: _report(run, texts=False),
    "zip": lambda run: run.bundle(),
    "notexts.zip": _shared,
}
