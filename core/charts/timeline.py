"""What happened when: memory over a run, seconds per token, tokens per second."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from functools import cache
from itertools import groupby
from typing import Any

import altair as alt

from core.charts.chart import PRESENT, Chart, Row, built, fed, present, si_label, unseen
from core.charts.labels import columns, si
from core.charts.palette import BANDS, BLUE, GREY, ORANGE, RED, SKY
from core.types import Memory

MOST_POINTS = 1000
_PARTS = {"anonymous": BLUE, "file-backed": SKY, "accelerator": ORANGE}


def memory_timeline(memory: Sequence[Memory], height: int = 320) -> Chart:
    """Resident memory of the worker over the run, split where the system tells, with the phases above.

    Anonymous memory is the process's own; file-backed pages come from a mapped file and the system
    may take them back. A triangle marks the kernel's high-water mark at the end of a phase. A single sample, which
    has no area, is shown by points.
    """
    kept = thin(memory, MOST_POINTS)
    parts: list[Row] = []
    for m in kept:
        split = {"anonymous": m.anon_bytes, "file-backed": m.file_bytes, "accelerator": m.device_bytes}
        if m.anon_bytes is None:
            split = {"anonymous": m.rss_bytes, "accelerator": m.device_bytes}
        parts += [{"t_s": m.t_s, "part": k, "bytes": b} for k, b in split.items() if b is not None]
    peaks = [
        {"t_s": m.t_s, "bytes": m.peak_bytes, "text": f"peak of {m.phase}: {si(m.peak_bytes, 'B')}"}
        for m in memory
        if m.peak_bytes is not None
    ]
    highest = max((m.peak_bytes or m.rss_bytes for m in memory), default=None)
    words = (
        f"Memory of the run over time, at most {si(highest, 'B')}"
        if memory
        else "Memory over time, nothing measured yet"
    )
    return fed(
        _memory_spec(height),
        words,
        parts=parts,
        alone=parts if len(kept) == 1 else [],
        present=present(r["part"] for r in parts),
        bands=bands(memory),
        peaks=peaks,
        room=[{"bytes": 1.25 * (highest or 0)}],
    )


def bands(memory: Sequence[Memory]) -> list[Row]:
    """Stretches of one phase of one pass: start, end, and the share of the whole time."""
    if not memory:
        return []
    whole = max(memory[-1].t_s - memory[0].t_s, 1e-9)
    rows: list[Row] = []
    for (_, phase), group in groupby(memory, key=lambda m: (m.pass_no, m.phase)):
        samples = list(group)
        rows.append(
            {"phase": phase if phase in BANDS else "other", "start_s": samples[0].t_s, "end_s": samples[-1].t_s}
        )
    for row, following in zip(rows, [*rows[1:], None], strict=True):
        if following:
            row["end_s"] = following["start_s"]
        row["share"] = (row["end_s"] - row["start_s"]) / whole
    return rows


@cache
def _memory_spec(height: int) -> dict[str, Any]:
    x = alt.X(
        "t_s:Q",
        title="Since Run was pressed",
        axis=alt.Axis(grid=False, labelExpr=si_label("s"), tickCount=6, labelOverlap="greedy", labelSeparation=8),
        scale=alt.Scale(nice=False, zero=False),
    )
    y = alt.Y("bytes:Q", title="Resident memory", stack=True, axis=alt.Axis(labelExpr=si_label("B"), tickCount=5))
    when = alt.Tooltip("t_s:Q", title="Time (s)", format=".2f")
    tip = [alt.Tooltip("part:N", title="Part"), alt.Tooltip("bytes:Q", title="Bytes", format=".3s"), when]
    legend = alt.Legend(orient="bottom", symbolType="square", columns=columns(95), values=alt.ExprRef(PRESENT))
    colour = alt.Color(
        "part:N", title=None, scale=alt.Scale(domain=list(_PARTS), range=list(_PARTS.values())), legend=legend
    )
    areas = (
        alt.Chart(alt.NamedData("parts"))
        .mark_area(interpolate="step-after", opacity=0.75, line=False)
        .encode(x=x, y=y, color=colour, tooltip=tip)
    )
    alone = (
        alt.Chart(alt.NamedData("alone"))
        .mark_point(filled=True, size=70, opacity=1)
        .encode(x=x, y=y, color=colour.legend(None), tooltip=tip)
    )
    marks = (
        alt.Chart(alt.NamedData("peaks"))
        .mark_point(shape="triangle-down", filled=True, size=70, color=RED, opacity=1)
        .encode(
            x=alt.X("t_s:Q"),
            y=alt.Y("bytes:Q", stack=None),
            tooltip=[alt.Tooltip("text:N", title="High-water mark"), when],
        )
    )
    room = alt.Chart(alt.NamedData("room")).mark_point(opacity=0).encode(y=alt.Y("bytes:Q"))  # for the phases' names
    wash, *over = _phases()
    layered = alt.layer(unseen(), room, wash, areas, alone, marks, *over).resolve_scale(color="independent")
    return built(layered, height)


def _phases() -> tuple[alt.Chart, ...]:
    """What tells the phases: their colour behind the areas, and over them a strip with their names."""
    base = alt.Chart(alt.NamedData("bands"))
    start = alt.X("start_s:Q")
    scale = alt.Scale(domain=list(BANDS), range=list(BANDS.values()))
    colour = alt.Color("phase:N", title=None, scale=scale, legend=None)
    wash = base.mark_rect(opacity=0.07).encode(x=start, x2="end_s:Q", color=colour)
    tip = [alt.Tooltip("phase:N", title="Phase")]
    strip = base.mark_rect(opacity=0.9, height=5, yOffset=0).encode(
        x=start, x2="end_s:Q", y=alt.value(2), color=colour, tooltip=tip
    )
    across = "width * datum.share >= 6 * length(datum.phase) + 8"  # pixels of a band and of the word in it
    upright = f"!({across}) && width * datum.share >= 18"
    look: dict[str, Any] = {"baseline": "top", "fontSize": 11, "color": GREY}
    words = (
        base.mark_text(align="left", dx=4, dy=8, text={"expr": f"{across} ? datum.phase : ''"}, **look),
        base.mark_text(align="right", angle=270, dx=-10, dy=3, text={"expr": f"{upright} ? datum.phase : ''"}, **look),
    )
    return (
        wash,
        strip,
        *(w.encode(x=start, y=alt.value(0)) for w in words),
    )


def token_timeline(itl_s: Sequence[float], ttft_s: float | None = None, height: int = 200) -> Chart:
    """Seconds for each new token of the last timing pass, the median as a line, the slow ones marked.

    A token is marked when it took more than 1.5 times the median. The first token, which carries the
    whole prefill, is left to its own number.
    """
    median = statistics.median(itl_s) if itl_s else None
    step = max(1, -(-len(itl_s) // (2 * MOST_POINTS)))
    tokens = [
        {"token": i + 2, "seconds": s, "slow": bool(median and s > 1.5 * median)}
        for i, s in enumerate(itl_s)
        if i % step == 0
    ]
    level = [{"seconds": median, "text": f"median {si(median, 's')}"}] if median else []
    words = (
        f"Time per token over {len(itl_s)} tokens, median {si(median, 's')}" if median else "Time per token, none yet"
    )
    if ttft_s is not None:
        words += f", after {si(ttft_s, 's')} to the first"
    room = [{"seconds": 1.2 * max(itl_s)}] if itl_s else []
    return fed(_token_spec(height), words, tokens=tokens, level=level, room=room)


@cache
def _token_spec(height: int) -> dict[str, Any]:
    base = alt.Chart(alt.NamedData("tokens"))
    x = alt.X(
        "token:Q", title="Token", axis=alt.Axis(grid=False, format="d", tickMinStep=1), scale=alt.Scale(nice=False)
    )
    y = alt.Y(
        "seconds:Q", title="Time", axis=alt.Axis(labelExpr=si_label("s"), tickCount=4), scale=alt.Scale(zero=True)
    )
    line = base.mark_line(interpolate="step", strokeWidth=1.2, color=BLUE, opacity=0.55).encode(x=x, y=y)
    points = base.mark_point(filled=True, opacity=0.9).encode(
        x=x,
        y=y,
        color=alt.condition("datum.slow", alt.value(RED), alt.value(BLUE)),
        shape=alt.condition("datum.slow", alt.value("diamond"), alt.value("circle")),
        size=alt.condition("datum.slow", alt.value(60), alt.value(18)),
        tooltip=[alt.Tooltip("token:Q", title="Token"), alt.Tooltip("seconds:Q", title="Seconds", format=".3s")],
    )
    level = alt.Chart(alt.NamedData("level"))
    rule = level.mark_rule(strokeDash=[5, 4], color=GREY).encode(y=alt.Y("seconds:Q"))
    label = level.mark_text(align="right", baseline="top", dy=2, dx=-2, color=GREY, fontSize=11).encode(
        x=alt.value("width"), y=alt.value(0), text="text:N"
    )
    room = alt.Chart(alt.NamedData("room")).mark_point(opacity=0).encode(y=alt.Y("seconds:Q"))  # for the median's words
    return built(alt.layer(line, points, rule, label, room), height)


def thin(memory: Sequence[Memory], most: int) -> list[Memory]:
    """At most about `most` samples: the highest of each stretch, and every one that carries a peak."""
    if len(memory) <= most:
        return list(memory)
    step = -(-len(memory) // most)
    kept = []
    for start in range(0, len(memory), step):
        stretch = memory[start : start + step]
        best = max(range(len(stretch)), key=lambda i: stretch[i].rss_bytes)
        kept += [m for i, m in enumerate(stretch) if i == best or m.peak_bytes is not None]
    return kept
