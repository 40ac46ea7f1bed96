"""Prediction for this machine: measured ceilings, what each backend adds by its own runs, measured runs beside."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import streamlit as st

from core import plugins
from core.analysis.predict_here import PredictionHere
from core.charts.intervals import Interval, intervals
from core.models import catalogue as models
from core.runs.forecast import Here
from core.runs.overheads import NEWEST, Overheads, known
from core.runs.resolve import reaches, supposed_dtype
from core.types import ModelEntry, ModelSpec
from hardware.ceilings import Ceilings
from hardware.detect import machine_id, usable_cores
from hardware.errors import ExplorerError
from pages.ui import text
from pages.ui.ceilings import kept
from pages.ui.figure import figure
from pages.ui.pickers import backend_label, ordered_backends
from pages.ui.state import store
from pages.ui.table import table


@st.cache_data(max_entries=4, show_spinner="Reading this machine's own runs")
def _overheads(root: str, run_ids: tuple[str, ...], date: str, _ceilings: Ceilings) -> Overheads:
    """Changes with the runs and the ceilings."""
    return known(store(), _ceilings)


def overheads_here(found: Ceilings) -> Overheads:
    """What this machine's own runs tell, against these ceilings."""
    return _overheads(str(store().root), tuple(store().ids()[:NEWEST]), found.date, found)


def here() -> Here | None:
    """This machine, as everything that predicts for it sees it; None before its ceilings are measured."""
    found = kept(usable_cores())
    return None if found is None else Here(found, overheads_here(found))


def own_backends() -> list[str]:
    """Those that are installed here and run models in this machine's memory."""
    found = [(name, plugins.get("backend", name)) for name in ordered_backends() if name != "fake"]
    return [name for name, plugin in found if "forward" in plugin.capabilities and not plugin.unavailable()]


def draw_here(spec: ModelSpec, model: str, weights: str | None, cache: str, prompt: int, new: int, batch: int) -> None:
    """One line per backend: what to expect here, and what was measured already."""
    machine = here()
    if machine is None:
        st.caption("Measure this machine's ceilings on the Devices page to predict its own backends.")
        return
    rows = []
    for backend in own_backends():
        plugin = plugins.get("backend", backend)
        dtype = supposed_dtype(plugin, spec.dtype, weights)
        try:
            predicted = machine.predict(
                spec, plugin, prompt_tokens=prompt, new_tokens=new, batch=batch, weights=weights, kv_dtype=cache
            )
        except ExplorerError:  # its arithmetic was not measured
            continue
        n_runs = machine.overhead(backend, dtype).n_runs
        rows.append((backend, dtype, predicted, n_runs, _measured(model, backend, dtype, batch)))
    _draw(rows)
    if model and weights is None:
        _say_unreached(models.find(model), [backend for backend, *_ in rows])


def _say_unreached(entry: ModelEntry, backends: Sequence[str]) -> None:
    """Which of the backends cannot run the model as its files have it, and why."""
    reasons: dict[str, list[str]] = {}
    for name in backends:
        if reason := reaches(entry, name):
            reasons.setdefault(text.prose(reason.message), []).append(backend_label(name))
    for why, labels in reasons.items():
        st.caption(f":material/block: Not run as it is by {' and '.join(labels)}: {why}")


def _measured(model: str, backend: str, dtype: str, batch: int) -> dict[str, Any] | None:
    """The newest finished run of the same thing on this machine."""
    wanted = {"model": model, "backend": backend, "batch": batch, "status": "done", "machine_id": machine_id()}
    for row in store().history():
        if all(row.get(k) == v for k, v in wanted.items()) and row.get("dtype") == dtype:
            return row
    return None


def measured_words(seen: dict[str, Any] | None) -> str:
    """The speed of a row of History, with a ~ where something disturbed it."""
    if seen is None:
        return text.NONE
    return f"{'~ ' if seen.get('disturbed') else ''}{text.token_rate(seen.get('tok_per_s'))}"


def _draw(rows: list[tuple[str, str, PredictionHere, int, dict[str, Any] | None]]) -> None:
    lines = [
        Interval(
            f"{backend_label(backend)}, {dtype}", f.ideal, f.calibrated, f.low, f.high, p.fits is not False, p.bound_by
        )
        for backend, dtype, p, _, _ in rows
        if (f := p.decode_tok_per_s) is not None
    ]
    if lines:
        figure(intervals(lines, "Tokens per second", "tok/s"), key="bars-here")
    table(
        [
            {
                "Backend": backend_label(backend),
                "Weights": dtype,
                "Decode": text.token_rate(p.decode_tok_per_s.calibrated if p.decode_tok_per_s else None),
                "Measured": measured_words(seen),
                "First token": text.seconds(p.ttft_s.calibrated),
                "Memory": text.size(p.peak_memory_bytes.calibrated),
                "Decode, by the ridge": p.bound_by,
                "Calibrated with": f"{n} forward passes" if n else "nothing yet: a guess",
            }
            for backend, dtype, p, n, seen in rows
        ],
        column_config={
            "Measured": st.column_config.TextColumn(
                help="The newest run of this model, backend, weights and batch on this machine, whatever its prompt "
                "was; ~ marks a disturbed one"
            ),
            "Calibrated with": st.column_config.TextColumn(help="Measured forward passes of this machine's own runs"),
        },
        alt="Predicted and measured speed of each backend on this machine",
    )
    st.caption(
        f"{text.provenance('estimated')} from {text.provenance('measured')} ceilings, with what each backend adds as "
        "this machine's own runs tell. Every run makes it better.",
        help=text.provenance_help(),
    )
