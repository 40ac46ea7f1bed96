"""One layer's arithmetic with its numbers, and the small steps from a run to what a roof needs."""

from __future__ import annotations

from statistics import fmean

import streamlit as st

from core.analysis.breakdown import Phase
from core.analysis.equations import Line, written_out
from core.analysis.under_roof import Forward, ceiling_for
from core.runs.passes import headline
from core.runs.store import Run
from core.runs.summarize import phase_work
from core.types import Loaded, Pass, Result, Step
from pages.ui import text
from pages.ui.ceilings import Held

SHOW = {"FLOP": lambda v: text.si(v, "FLOP"), "B": text.size, "FLOP/s": text.compute, "s": text.seconds}


def loaded_of(run: Run) -> Loaded | None:
    """What was opened: the last Loaded event."""
    return next((e for e in reversed(run.events()) if isinstance(e, Loaded)), None)


def steps_of(run: Run, phase: Phase) -> list[Step]:
    """The steps of a phase: of the last layers pass, else of the last pass that counts."""
    events = run.events()
    passes = [e for e in events if isinstance(e, Pass)]
    wanted = [p.number for p in passes if p.profiler == "layers"] or headline(events).numbers
    if not wanted:
        return []
    return [e for e in events if isinstance(e, Step) and e.pass_no == wanted[-1] and e.phase == phase]


def shape_of(run: Run, result: Result, loaded: Loaded) -> dict[Phase, Forward]:
    """What the run's own forwards looked like: the whole prompt, and the mean step of decode."""
    n_prompt = max(1, result.n_prompt_tokens or loaded.n_prompt_tokens or 1)
    steps = steps_of(run, "decode")
    n_forward = max(1, sum(s.n_forward for s in steps))
    n_new = max(1, round(sum(s.n_input for s in steps) / n_forward)) if steps else 1
    n_past = max(1, round(fmean(s.n_context for s in steps)) - n_new) if steps else n_prompt
    return {
        "prefill": Forward(n_new=n_prompt, n_past=0, batch=result.batch),
        "decode": Forward(n_new=n_new, n_past=n_past, batch=result.batch),
    }


def draw_arithmetic(run: Run, result: Result, phase: Phase, name: str, held: Held | None) -> None:
    """The calculation that puts this layer where it is, line by line."""
    loaded, steps = loaded_of(run), steps_of(run, phase)
    layer = next((x for x in loaded.spec.layers if x.name == name), None) if loaded else None
    if loaded is None or layer is None or not steps:
        st.info(f"`{name}` is run by the library beside the model's own layers: its work is not counted.")
        return
    row = next(w for w in phase_work(run.request, loaded, phase, steps) if w.name == name)
    seen = next((x for x in result.layers if x.phase == phase and x.name == name), None)
    ceiling = held.ceiling if held else None
    if held is not None and seen is not None:
        ceiling = ceiling_for(seen, held.ceiling, held.near)
    with st.container(border=True):
        st.markdown(
            f"**{text.escape(name)}** in {phase} :gray[· {layer.kind} · {text.count(layer.n_params)} parameters]"
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
