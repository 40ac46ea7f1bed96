"""One layer's arithmetic with its numbers, and the small steps from a run to what a roof needs."""

from __future__ import annotations

from statistics import fmean

import streamlit as st

from core.analysis.breakdown import Phase
from core.analysis.equations import Line, written_out
from core.analysis.under_roof import Forward, ceiling_for
from core.runs.store import Run
from core.runs.summarize import phase_work
from core.types import Loaded, Result
from pages.ui import text
from pages.ui.ceilings import Reference

SHOW = {"FLOP": lambda v: text.si(v, "FLOP"), "B": text.size, "FLOP/s": text.compute, "s": text.seconds}


def loaded_of(run: Run) -> Loaded | None:
    """What was opened, by the last attempt."""
    return run.recording().loaded


def shape_of(run: Run, result: Result, loaded: Loaded) -> dict[Phase, Forward]:
    """What the run's own forwards looked like: the whole prompt, and the mean step of decode."""
    n_prompt = max(1, result.n_prompt_tokens or loaded.n_prompt_tokens or 1)
    recording = run.recording()
    own = [f for f in recording.forwards(recording.of_phase("decode", "layers")) if f.of == "model"]
    pasts = [past for f in own for past in f.pasts]
    n_new = round(sum(f.times * f.n_new for f in own) / len(pasts)) if pasts else 1
    n_past = max(1, round(fmean(pasts))) if pasts else n_prompt
    return {
        "prefill": Forward(n_new=n_prompt, n_past=0, batch=result.batch),
        "decode": Forward(n_new=n_new, n_past=n_past, batch=result.batch),
    }


def draw_arithmetic(run: Run, result: Result, phase: Phase, name: str, reference: Reference | None) -> None:
    """The calculation that puts this layer where it is, line by line."""
    recording = run.recording()
    loaded, steps = recording.loaded, recording.of_phase(phase, "layers")
    layer = next((x for x in loaded.spec.layers if x.name == name), None) if loaded else None
    if loaded is None or layer is None or not steps:
        st.info(f"{text.code(name)} is run by the library beside the model's own layers: its work is not counted.")
        return
    row = next(w for w in phase_work(recording, phase, steps[0].pass_no) if w.name == name)
    seen = next((x for x in result.layers if x.phase == phase and x.name == name), None)
    ceiling = reference.ceiling if reference else None
    if reference is not None and seen is not None:
        ceiling = ceiling_for(seen, reference.ceiling, reference.near)
    with st.container(border=True):
        st.markdown(
            f"**{text.escape(name)}** in {phase} :gray[· {layer.kind} · {text.parameters(layer.n_params)} parameters]"
        )
        draw_lines(written_out(layer, row, ceiling, seen.seconds if seen else None))
        if ceiling is not None:
            source = text.escape(ceiling.source)
            st.caption(f"π and β are those of {source}. FLOPs and bytes are computed, the time is measured.")


def draw_lines(lines: tuple[Line, ...]) -> None:
    for line in lines:
        left, middle, right = st.columns([1.2, 2.8, 0.8], gap="small", vertical_alignment="center")
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
