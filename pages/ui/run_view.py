"""A run as it goes and after its end, drawn by the same functions: stage, headline numbers, text."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from core import plugins
from core.runs.progress import decode_rates, journey, memory_line, stage
from core.runs.store import Run
from core.types import GOING, Generate, Result
from pages.ui import marks, text
from pages.ui.outlook import draw_bar, spent_s
from pages.ui.pickers import profiler_label, run_header
from pages.ui.state import result_of, runner
from pages.ui.tile import tile
from pages.ui.words import stream, tail

_PROMPT = 160  # characters of the prompt that are shown above it
_TILE = 176  # pixels: room for a number, words under it and a chart; fixed, so that nothing moves when one arrives


def draw_header(run: Run, result: Result) -> None:
    """What runs, its status, and the way to stop it."""
    with st.container(horizontal=True, horizontal_alignment="distribute", vertical_alignment="center", gap="xsmall"):
        st.markdown(run_header(run), width="content")
        if result.status in GOING:
            stopping = run.cancel_requested
            st.button(
                "Stopping …" if stopping else "Stop",
                icon=":material/stop_circle:",
                key="stop",
                on_click=runner().cancel,
                args=(run.id,),
                disabled=stopping,
                help="What was measured so far is kept.",
            )


def draw_stage(run: Run, result: Result) -> None:
    """The stops of the run, and one bar over all of it: what the worker does now, the clock, and what is left."""
    marks = {
        "done": ":green-badge[:material/check: {}]",
        "skipped": ":orange-badge[:material/block: {}, not measured]",
        "now": ":blue-badge[{}]",
        "ahead": ":gray-badge[{}]",
    }
    st.markdown(" ".join(marks[state].format(profiler_label(stop)) for stop, state in journey(run.recording())))
    with st.container(key=f"run-bar-{run.id}"):
        if result.status in GOING:
            draw_bar(run)
        else:
            reached = 1.0 if result.status == "done" else stage(run.recording()).fraction or 0.0
            st.progress(reached, text=_ending(result, text.clock(spent_s(run))))


def _ending(result: Result, spent: str) -> str:
    kept = "; what was measured is kept" if result.n_forward else ""
    match result.status:
        case "done":
            return f"**Finished** in {spent}"
        case "cancelled":
            return f"**Stopped** after {spent}{kept}"
        case "interrupted":
            return f"**Interrupted**: the process that ran it is gone{kept}"
        case _:
            return f"**Failed** after {spent}{kept}"


def draw_numbers(run: Run, result: Result) -> None:
    """Six headline numbers in tiles of fixed height."""
    recording, n_passes = run.recording(), len(result.ttft_samples_s)
    served = plugins.served(run.request.backend)
    with st.grid(3, min_column_width=150, row_height=_TILE):
        _speed(
            result,
            "Decode",
            text.token_rate(result.tok_per_s),
            "Generated tokens per second after the first one, all sequences of the batch together: the median of "
            "the timing passes. The line is the last pass.",
            line=decode_rates(recording),
        )
        _speed(
            result,
            "Time per token",
            text.seconds(result.tpot_s),
            "(Latency − time to first token) / (tokens − 1). The bars are the last steps of the last timing pass.",
            line=[s * 1e3 for s in result.itl_s[-60:]],
            bars=True,
        )
        tile(
            "Peak memory",
            _so_far(result, text.size(result.peak_memory_bytes)),
            "Of a model behind a server: see what the server says."
            if served
            else "The worker's resident memory at its highest, library included.",
            line=[m / 1e6 for m in memory_line(recording)],
            under="in the server" if served else None,
        )
        _speed(
            result,
            "Time to first token",
            text.seconds(result.ttft_s),
            "Time inside the model until the first token: prefill and the first choice, without loading.",
            line=result.ttft_samples_s if n_passes > 1 else (),
            under="one timing pass" if n_passes == 1 else None,
        )
        _speed(
            result,
            "Prefill",
            text.token_rate(result.prefill_tok_per_s),
            "Prompt tokens read per second, all sequences of the batch together.",
            under=f"{result.n_prompt_tokens} prompt tokens" if result.n_prompt_tokens else None,
        )
        tile(
            "Loading",
            "Warm" if result.warm else text.seconds(result.load_s),
            "Opening the model. Warm: the worker had it open from the run before, so nothing was loaded.",
            under="already open" if result.warm else "cold start" if result.load_s else None,
        )


def _so_far(result: Result, value: str) -> str:
    """With a sign of "about" while it still moves."""
    return value if value == text.NONE else f"{marks.about(result, result.status in GOING)}{value}"


def _speed(
    result: Result,
    label: str,
    value: str,
    explained: str,
    line: Sequence[float] = (),
    under: str | None = None,
    bars: bool = False,
) -> None:
    """A tile that says under the number, before all else, where the speed is not the machine's own."""
    why = marks.explained(result)
    about = f"{explained}\n\n{why}" if why else explained
    tile(label, _so_far(result, value), about, under=marks.mark(result) or under, line=line, bars=bars)


def draw_text(run: Run | None) -> None:
    """The prompt and the end of the text, as plain text: what a model writes is never taken for Markdown.

    Also without a run: the browser shows the text of the next one here as soon as it comes.
    """
    result = None if run is None else result_of(run)
    going = result is not None and result.status in GOING
    task = None if run is None else run.request.task
    with st.container(gap="xsmall"):
        if isinstance(task, Generate) and task.prompt:
            st.caption(f":material/person: {text.escape(text.cut(task.prompt, _PROMPT))}")
    with st.container(key="run-text", gap=None):
        stream("" if run is None else run.id, tail(result.text) if result else "", going)
        if result is not None and not going and result.load_s is not None:
            with st.container(border=True, height=150, autoscroll=True):
                if result.text:
                    st.text(tail(result.text))
                else:
                    st.caption("No text: nothing was generated.")
