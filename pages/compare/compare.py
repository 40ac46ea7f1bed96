"""Two runs side by side: what was asked differently, and what came out differently."""

from __future__ import annotations

import streamlit as st

from core.analysis.breakdown import compare
from core.charts.bars import change_bars
from core.report.runs import report
from core.runs.compare import Ratio, differences, ratios, unlike, words
from core.runs.store import Run
from core.types import Result
from pages.ui import marks, text
from pages.ui.figure import figure
from pages.ui.page import empty, guard, page
from pages.ui.pickers import pick_run, run_header, run_names
from pages.ui.share import Form, share_menu
from pages.ui.state import current_run, open_run, result_of

_FORMAT = {"tok/s": text.token_rate, "s": text.seconds, "B": text.size}


def choose() -> tuple[Run, Run] | None:
    """The two runs, first and second; the choice is in the address."""
    current = current_run()
    ids = list(run_names(current.id if current else None))
    if len(ids) < 2:
        empty(
            "Two runs are needed", "Make another one, for instance with a second backend.", ":material/compare_arrows:"
        )
        return None
    newest = current.id if current and current.id in ids else ids[0]
    other = next(i for i in ids if i != newest)
    left, right = st.columns(2)
    with left:
        first = pick_run("First run, the reference", "first", other)
    with right:
        second = pick_run("Second run", "second", newest)
    if not first or not second:
        return None
    return open_run(first), open_run(second)


def draw_marks(a: Result, b: Result) -> None:
    """Say that a ratio is of numbers that are not both the machine's own."""
    told = [(name, r) for name, r in (("first", a), ("second", b)) if marks.mark(r)]
    for name, result in told:
        st.warning(
            marks.explained(result),
            title=f"The {name} run's speeds are {marks.mark(result)}: their ratios tell little",
            icon=":material/sensors:",
        )


def draw_unlike(first: Run, second: Run, a: Result, b: Result) -> None:
    """Say first what keeps the two from being comparable."""
    found = unlike(first.request, second.request, a, b, (first.origin, second.origin))
    if "machine" in found:
        names = " and ".join(r.host.machine.cpu for r in (a, b) if r.host is not None)
        st.warning(
            text.escape(f"{names}: the ratios compare machines as much as anything else."),
            title="The two ran on different machines",
            icon=":material/computer:",
        )
    others = [name for name in found if name != "machine"]
    if others:
        st.info(f"The {' and the '.join(others)} differ{'s' if len(others) == 1 else ''}.", icon=":material/info:")


def draw_ratios(found: tuple[Ratio, ...]) -> None:
    """One tile per headline: the second run's number, and how many times the first one's it is."""
    with st.grid(3, min_column_width=200):
        for r in found:
            show, about = _FORMAT[r.unit], "~ " if r.doubt else ""
            st.metric(
                r.label,
                show(r.b),
                delta=f"{about}{text.ratio(r.ratio)}" if r.ratio is not None else None,
                delta_color="off" if r.improves is None else "green" if r.improves else "red",
                delta_arrow="off" if r.ratio is None else "up" if r.ratio >= 1 else "down",
                delta_description=f"of {show(r.a)}" if r.ratio is not None else None,
                border=True,
                height="stretch",
                help=f"Second run; the ratio is second over first. {r.better.capitalize()} is better.",
            )


def draw_differences(a: Run, b: Run, result_a: Result, result_b: Result) -> None:
    found = differences(a.request, b.request, result_a, result_b)
    st.markdown("**What differs**")
    if not found:
        st.caption("Nothing was asked differently: the same request, machine and versions.")
        return
    st.table(
        {
            "Setting": [text.escape(d.label) for d in found],
            "First": [text.escape(d.a) for d in found],
            "Second": [text.escape(d.b) for d in found],
        },
        hide_index=True,
        border="horizontal",
        alt="Settings that differ between the two runs",
    )


def draw_texts(a: Result, b: Result) -> None:
    """Both texts in full, what only one of them says being marked."""
    st.markdown("**Texts**")
    if a.text == b.text:
        st.caption("The same text, character by character." if a.text else "Neither run has a text.")
        if a.text:
            with st.container(border=True, height=190):
                st.text(a.text)
        return
    pieces = words(a.text, b.text)
    left, right = st.columns(2)
    for column, side, mark in ((left, "a", ":orange-background[{}]"), (right, "b", ":blue-background[{}]")):
        with column.container(border=True, height=190):
            st.markdown(
                "".join(
                    _marked(part, mark if kind == side else "{}") for kind, part in pieces if kind in (side, "same")
                )
                or ":gray[No text]"
            )


def _marked(part: str, mark: str) -> str:
    lead, body, trail = _stripped(part)
    whole = lead + (mark.format(text.escape(body)) if body else "") + trail
    return whole.replace("\n", "  \n")


def _stripped(part: str) -> tuple[str, str, str]:
    """White space apart, because Markdown marks may not begin or end with it."""
    body = part.strip()
    start = part.index(body) if body else len(part)
    return part[:start], " ".join(body.split()), part[start + len(body) :]


def draw_layers(a: Result, b: Result) -> None:
    st.markdown("**Layers that differ most**")
    phase = st.segmented_control(
        "Phase", ["decode", "prefill"], default="decode", required=True, key="compare_phase", bind="query-params"
    )
    if not any(c.change is not None for c in compare(a.layers, b.layers, phase)):
        st.caption(f"No layer was timed in {phase} by both runs.")
        return
    figure(change_bars(a.layers, b.layers, phase), key="change-bars")


def draw_share(first: Run, second: Run) -> None:
    """The comparison as one file for others, made when it is asked for."""
    name = f"roofscope-{first.id}-{second.id}"
    forms = (
        Form("With prompts and answers", f"{name}.html", lambda: report([first, second])),
        Form("Without texts", f"{name}-notexts.html", lambda: report([first, second], texts=False)),
    )
    share_menu(forms, "share", "One HTML file with live charts that opens without a network. It holds no path or name.")


with page("Side by side", "Two runs: the ratio of every headline, the difference of their texts, and of each layer."):
    chosen = choose()
    if chosen:
        first, second = chosen
        a, b = result_of(first), result_of(second)
        left, right = st.columns(2)
        left.markdown(run_header(first))
        right.markdown(run_header(second))
        if first.id == second.id:
            st.info("Both are the same run. Choose another one on either side.", icon=":material/info:")
        draw_unlike(first, second, a, b)
        draw_marks(a, b)
        draw_ratios(ratios(a, b))
        with guard():
            draw_texts(a, b)
        with guard():
            draw_differences(first, second, a, b)
        with guard():
            draw_layers(a, b)
        if first.id != second.id:
            draw_share(first, second)
