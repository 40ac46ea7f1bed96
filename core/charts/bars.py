"""Bars over layers: the largest ones, shares by kind, block by block, and the difference of two runs."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import altair as alt

from core.analysis.breakdown import Phase, Quantity, by_block, by_kind, by_layer, compare
from core.charts.chart import PRESENT, Chart, Row, built, fed, present, si_label, unseen
from core.charts.labels import UNITS, columns, short, si
from core.charts.palette import BLUE, GREY, KINDS, RED
from core.types import LayerResult

STEP = 18  # pixels of one bar where all layers are shown


def layer_bars(
    layers: Sequence[LayerResult],
    phase: Phase = "decode",
    quantity: Quantity = "seconds",
    top: int | None = 20,
    height: int | None = 400,
) -> Chart:
    """The largest layers of a phase, largest first. height None: as high as the bars need."""
    groups = by_layer(layers, phase, quantity)[:top]
    rows: list[Row] = [
        {
            "name": g.name,
            "label": short(g.name),
            "kind": g.kind,
            "value": g.value,
            "text": si(g.value, UNITS[quantity]),
            "share": g.share,
        }
        for g in groups
    ]
    words = f"Layers by {_words(quantity)} in {phase}"
    if groups:
        words += f": {groups[0].name} is the largest with {si(groups[0].value, UNITS[quantity])}"
    return fed(_layer_spec(quantity, height), words if rows else f"{words}, nothing measured yet", layers=rows)


@cache
def _layer_spec(quantity: Quantity, height: int | None) -> dict[str, Any]:
    pick = alt.selection_point(name="pick", fields=["name"], empty=False)
    base = alt.Chart(alt.NamedData("layers"))
    y = alt.Y("label:N", title=None, sort=None, axis=_names())
    bars = (
        base.mark_bar(cornerRadiusEnd=2, cursor="pointer")
        .encode(
            y=y,
            x=alt.X(
                "value:Q",
                title=None,
                axis=alt.Axis(labelExpr=si_label(UNITS[quantity]), tickCount=4, labelOverlap="greedy"),
            ),
            color=kind_colour(legend=False),
            opacity=alt.condition(pick, alt.value(1), alt.value(0.85)),
            stroke=alt.condition(pick, alt.value(RED), alt.value(None)),
            tooltip=[
                alt.Tooltip("name:N", title="Layer"),
                alt.Tooltip("kind:N", title="Kind"),
                alt.Tooltip("text:N", title=_words(quantity).capitalize()),
                alt.Tooltip("share:Q", title="Share of the phase", format=".1%"),
            ],
        )
        .add_params(pick)
    )
    words = base.mark_text(align="left", baseline="middle", dx=4, fontSize=11, color=GREY).encode(
        y=y, x=alt.X("value:Q"), text="text:N"
    )
    if height is not None:
        return built(alt.layer(bars, words), height)
    stepped = built(alt.layer(bars, words).properties(height=alt.Step(STEP)), None)
    return {**stepped, "autosize": {"type": "fit-x", "contains": "padding"}}


def kind_bars(layers: Sequence[LayerResult], quantity: Quantity = "seconds") -> Chart:
    """Where prefill and decode spend it: one full bar each, divided by kind."""
    rows: list[Row] = []
    largest = []
    for phase in ("prefill", "decode"):
        start = 0.0
        groups = sorted(by_kind(layers, phase, quantity), key=lambda g: list(KINDS).index(g.kind))
        for g in groups:
            share = g.share or 0.0
            rows.append(
                {
                    "phase": phase,
                    "kind": g.kind,
                    "start": start,
                    "end": start + share,
                    "middle": start + share / 2,
                    "label": f"{g.kind} {share:.0%}" if share > 0.28 else (f"{share:.0%}" if share > 0.08 else ""),
                    "text": si(g.value, UNITS[quantity]),
                    "n_layers": g.n_layers,
                    "share": share,
                }
            )
            start += share
        if groups:
            best = max(groups, key=lambda g: g.share or 0.0)
            largest.append(f"{best.kind} takes {best.share or 0:.0%} of {phase}")
    words = f"Share of {_words(quantity)} by kind of layer: " + (", ".join(largest) or "nothing measured yet")
    there = {row["kind"] for row in rows}
    return fed(_kind_spec(quantity), words, kinds=rows, present=present(kind for kind in KINDS if kind in there))


@cache
def _kind_spec(quantity: Quantity) -> dict[str, Any]:
    base = alt.Chart(alt.NamedData("kinds"))
    y = alt.Y(
        "phase:N",
        title=None,
        sort=None,
        scale=alt.Scale(domain=["prefill", "decode"]),
        axis=alt.Axis(ticks=False, domain=False, labelPadding=8, labelFontSize=13),
    )
    bars = base.mark_bar(stroke="#8A8D91", strokeWidth=0.4, height={"band": 0.72}).encode(
        y=y,
        x=alt.X(
            "start:Q",
            title=None,
            axis=alt.Axis(format="%", tickCount=5, grid=False, labelOverlap="greedy"),
            scale=alt.Scale(domain=[0, 1]),
        ),
        x2="end:Q",
        color=kind_colour(),
        tooltip=[
            alt.Tooltip("phase:N", title="Phase"),
            alt.Tooltip("kind:N", title="Kind"),
            alt.Tooltip("text:N", title=_words(quantity).capitalize()),
            alt.Tooltip("share:Q", title="Share", format=".1%"),
            alt.Tooltip("n_layers:Q", title="Layers"),
        ],
    )
    words = base.mark_text(baseline="middle", fontSize=11, fontWeight="bold", color="#111111").encode(
        y=y,
        x=alt.X("middle:Q"),
        text="label:N",
        color=alt.condition(
            "datum.kind == 'attention' || datum.kind == 'head' || datum.kind == 'embedding'",
            alt.value("#FFFFFF"),
            alt.value("#111111"),
        ),
    )
    return built(alt.layer(unseen(), bars, words), 200)


def block_bars(
    layers: Sequence[LayerResult], phase: Phase = "decode", quantity: Quantity = "seconds", height: int = 240
) -> Chart:
    """The network from its first to its last block, each block divided by kind."""
    rows: list[Row] = [
        {"name": g.name, "kind": g.kind, "value": g.value, "text": si(g.value, UNITS[quantity]), "share": g.share}
        for g in by_block(layers, phase, quantity)
    ]
    sums: dict[str, float] = {}
    for row in rows:
        sums[row["name"]] = sums.get(row["name"], 0.0) + row["value"]
    words = f"{_words(quantity).capitalize()} of {phase} block by block" + ("" if rows else ", nothing measured yet")
    if sums:
        most = max(sums, key=lambda name: sums[name])
        words += f": {len(sums)} of them, the largest is {most} with {si(sums[most], UNITS[quantity])}"
    return fed(_block_spec(quantity, height), words, blocks=rows)


@cache
def _block_spec(quantity: Quantity, height: int) -> dict[str, Any]:
    bars = (
        alt.Chart(alt.NamedData("blocks"))
        .mark_bar()
        .encode(
            x=alt.X(
                "name:N",
                title="Block",
                sort=None,
                axis=alt.Axis(labelAngle=0, labelOverlap="greedy", labelSeparation=8, labelLimit=80),
            ),
            y=alt.Y("value:Q", title=None, axis=alt.Axis(labelExpr=si_label(UNITS[quantity]), tickCount=4)),
            color=kind_colour(legend=False),
            tooltip=[
                alt.Tooltip("name:N", title="Block"),
                alt.Tooltip("kind:N", title="Kind"),
                alt.Tooltip("text:N", title=_words(quantity).capitalize()),
                alt.Tooltip("share:Q", title="Share of the phase", format=".1%"),
            ],
        )
    )
    return built(bars, height)


def change_bars(
    first: Sequence[LayerResult],
    second: Sequence[LayerResult],
    phase: Phase = "decode",
) -> Chart:
    """The 20 layers whose time differs most between two runs: to the right the second run needs more."""
    found = [c for c in compare(first, second, phase, "seconds") if c.change is not None][:20]
    rows: list[Row] = [
        {
            "name": c.name,
            "label": short(c.name),
            "change": c.change,
            "direction": "more" if (c.change or 0) > 0 else "less",
            "text": f"{'+' if (c.change or 0) > 0 else '−'}{si(abs(c.change or 0), 's')}",
            "first": si(c.first, "s"),
            "second": si(c.second, "s"),
            "ratio": c.ratio,
        }
        for c in found
    ]
    words = f"Layers whose time differs most between two runs in {phase}"
    if rows:
        words += ": " + ", ".join(f"{row['name']} {row['text']}" for row in rows[:3])
    return fed(_change_spec(), words if rows else f"{words}: no layer was measured in both", changes=rows)


@cache
def _change_spec() -> dict[str, Any]:
    base = alt.Chart(alt.NamedData("changes"))
    y = alt.Y("label:N", title=None, sort=None, axis=_names())
    x = alt.X(
        "change:Q",
        title="Second run minus first",
        scale=alt.Scale(zero=True, nice=False, padding=66),  # room for the words beside the longest bars
        axis=alt.Axis(labelExpr=si_label("s"), tickCount=5, labelOverlap="greedy"),
    )
    bars = base.mark_bar(cornerRadiusEnd=2).encode(
        y=y,
        x=x,
        color=alt.Color(
            "direction:N",
            title=None,
            scale=alt.Scale(domain=["less", "more"], range=[BLUE, RED]),
            legend=alt.Legend(orient="bottom"),
        ),
        tooltip=[
            alt.Tooltip("name:N", title="Layer"),
            alt.Tooltip("first:N", title="First run"),
            alt.Tooltip("second:N", title="Second run"),
            alt.Tooltip("ratio:Q", title="Second over first", format=".2f"),
        ],
    )
    right = base.transform_filter("datum.change >= 0").mark_text(align="left", dx=4, fontSize=11, color=GREY)
    left = base.transform_filter("datum.change < 0").mark_text(align="right", dx=-4, fontSize=11, color=GREY)
    texts = [t.encode(y=y, x=x, text="text:N") for t in (right, left)]
    return built(alt.layer(bars, *texts), 400)


def _names() -> alt.Axis:
    return alt.Axis(
        labelLimit=190,
        ticks=False,
        domain=False,
        labelPadding=6,
        labelFontSize=11,
        labelOverlap=False,
        labelFlush=False,
    )


def kind_colour(legend: bool = True) -> alt.Color:
    """Colour by kind of layer, the same everywhere. legend: of the kinds in the data set `present`."""
    return alt.Color(
        "kind:N",
        title=None,
        scale=alt.Scale(domain=list(KINDS), range=list(KINDS.values())),
        legend=alt.Legend(
            orient="bottom",
            columns=columns(95),
            symbolType="square",
            symbolStrokeWidth=0,
            labelFontSize=12,
            values=alt.ExprRef(PRESENT),
        )
        if legend
        else None,
    )


def _words(quantity: Quantity) -> str:
    return {
        "seconds": "time",
        "flops": "FLOPs",
        "bytes": "bytes moved",
        "weight_bytes": "weight bytes",
        "output_bytes": "output bytes",
    }[quantity]
