"""One layer's arithmetic with its numbers, and the small steps from a run to what a roof needs."""

from __future__ import annotations

import streamlit as st

from core.analysis.arithmetic import Line, written_out
from core.analysis.bottlenecks import Ceiling
from core.analysis.breakdown import Phase
from core.analysis.predict import compute_peak
from core.errors import ExplorerError
from core.runs.store import Run
from core.runs.summarize import phase_work
from core.types import Loaded, Pass, Result, Step
from hardware.device import Device
from pages.ui import text

SHOW = {"FLOP": lambda v: text.si(v, "FLOP"), "B": text.size, "FLOP/s": text.compute, "s": text.seconds}


def loaded_of(run: Run) -> Loaded | None:
    """What was opened: the last Loaded event."""
    return next((e for e in reversed(run.events()) if isinstance(e, Loaded)), None)


def ceiling_of(device: Device | None, result: Result) -> Ceiling | None:
    """The roof of a device for the dtype of this run's weights."""
    if device is None:
        return None
    try:
        _, peak = compute_peak(device, result.dtype or "fp32")
    except ExplorerError:  # a number format that only the run's own library knows
        _, peak = compute_peak(device, "fp32")
    return Ceiling(flop_per_s=peak, bytes_per_s=device.mem_bandwidth_bytes_per_s, source=device.name)


def steps_of(run: Run, phase: Phase) -> list[Step]:
    """The steps of a phase: of the last layers pass, else of the last timing pass."""
    events = run.events()
    passes = [e for e in events if isinstance(e, Pass)]
    wanted = [p.number for p in passes if p.profiler == "layers"] or [p.number for p in passes if p.kind == "timing"]
    if not wanted:
        return []
    return [e for e in events if isinstance(e, Step) and e.pass_no == wanted[-1] and e.phase == phase]


def draw_arithmetic(run: Run, result: Result, phase: Phase, name: str, ceiling: Ceiling | None) -> None:
    """The calculation that puts this layer where it is, line by line."""
    loaded, steps = loaded_of(run), steps_of(run, phase)
    layer = next((x for x in loaded.spec.layers if x.name == name), None) if loaded else None
    if loaded is None or layer is None or not steps:
        st.info(f"`{name}` is run by the library beside the model's own layers: its work is not counted.")
        return
    row = next(w for w in phase_work(run.request, loaded, phase, steps) if w.name == name)
    seen = next((x for x in result.layers if x.phase == phase and x.name == name), None)
    with st.container(border=True):
        st.markdown(
            f"**{text.escape(name)}** in {phase} :gray[· {layer.kind} · {text.count(layer.n_params)} parameters]"
        )
        draw_lines(written_out(layer, row, ceiling, seen.seconds if seen else None))
        if ceiling is not None:
            st.caption(
                f"π and β are those of {text.escape(ceiling.source)}. FLOPs and bytes are computed, the time is measured."
            )


def draw_lines(lines: tuple[Line, ...]) -> None:
    for line in lines:
        left, middle, right = st.columns([1.1, 2.6, 1], vertical_alignment="center")
        left.markdown(f":gray[{line.name}]")
        middle.latex(line.formula + (rf" = {line.numbers}" if line.numbers else ""))
        right.markdown(f"**{value(line)}**")


def value(line: Line) -> str:
    if line.value is None:
        return text.NONE
    if line.unit == "%":
        return text.percent(line.value)
    if line.unit == "FLOP/B":
        return f"{line.value:.3g} FLOP/B"
    return SHOW[line.unit](line.value)
