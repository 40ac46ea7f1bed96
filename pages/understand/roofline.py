"""The roofline of a run: this machine's ceilings, measured and predicted points, one layer's arithmetic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, get_args

import streamlit as st

from core.analysis.bottlenecks import Ceiling
from core.analysis.equations import under_roof
from core.analysis.roofline import Point, causes
from core.analysis.under_roof import Forward, Level, Phase, measured, moves_activations, predicted, working_set_bytes
from core.charts.bandwidth import bandwidth_curve
from core.charts.roofline import ColourBy, roofline
from core.learn.glossary import explained
from core.paths import data_dir
from core.runs.store import Run
from core.types import GOING, Loaded, Result
from hardware import catalogue
from hardware.detect import usable_cores
from pages.ui import text
from pages.ui.ceilings import (
    THIS,
    Reference,
    choose_reference,
    kept_of,
    measure_panel,
    no_ceilings,
    own_name,
    reference_of,
    threads_of,
)
from pages.ui.figure import figure
from pages.ui.layer_detail import draw_arithmetic, draw_lines, loaded_of, shape_of
from pages.ui.links import link
from pages.ui.live import live
from pages.ui.page import page
from pages.ui.pickers import run_picker
from pages.ui.run_report import draw_closed
from pages.ui.state import current_run, result_of, set_widgets
from pages.ui.table import table

ABOUT = "How far each phase and each layer is from what the machine can do, and whether memory or arithmetic limits it."
MOST_OVERLAYS = 3
PICKED = "roofline-point"  # the widget that holds the point whose arithmetic is shown


def draw_cards(points: Sequence[Point], ceiling: Ceiling) -> None:
    """One reading per phase: bound by intensity against the ridge, and the distance from the roof."""
    whole = [p for p in points if p.whole and p.source == "measured"]
    if not whole:
        return
    with st.grid(len(whole) + 1, min_column_width=230):
        for p in whole:
            with st.container(border=True, height="stretch"):
                st.markdown(
                    f"**{p.phase.capitalize()} is {p.bound}-bound**, at {text.percent(p.efficiency)} of the roof"
                )
                st.progress(min(1.0, p.efficiency))
                st.caption(
                    f"{text.compute(p.flop_per_s)} of {text.compute(p.roof_flop_per_s)} "
                    f"at {p.intensity:.3g} FLOP per byte; the ridge is at {ceiling.ridge:.3g}."
                )
        with st.container(border=True, height="stretch"):
            st.markdown(f"**Reference roofline: {text.escape(ceiling.source)}**", help=explained("Ridge point"))
            st.caption(
                f"{text.compute(ceiling.flop_per_s)} and {text.bandwidth(ceiling.bytes_per_s)}, so the ridge is at "
                f"{ceiling.ridge:.3g} FLOP per byte. Left of it memory limits, right of it arithmetic, whatever the "
                "distance from the roof is."
            )


def draw_flags(points: Sequence[Point]) -> None:
    """A point above the roof is an error of ours, with what to suspect."""
    above = [p for p in points if p.above and p.source == "measured"]
    if not above:
        return
    worst = max(above, key=lambda p: p.efficiency)
    n = "One point lies" if len(above) == 1 else f"{len(above)} points lie"
    with st.expander(f"{n} above the roof: the ceiling or the count is wrong", icon=":material/error:"):
        st.markdown(
            f"Nothing can be faster than a correct roof. The worst is **{text.escape(worst.name)}** in {worst.phase}, "
            f"at {text.percent(worst.efficiency)} of it. What to suspect, most likely first:"
        )
        st.markdown("\n".join(f"{i}. {text.escape(words)}" for i, words in enumerate(causes(worst), 1)))
        st.caption(
            "Above it: " + ", ".join(text.escape(p.name) for p in above[:12]) + (" …" if len(above) > 12 else "")
        )


def forwards(run: Run, result: Result, loaded: Loaded) -> dict[Phase, Forward]:
    """The shapes to predict: the run's own, until the sliders move them. Sliders come when the run has ended."""
    own = shape_of(run, result, loaded)
    if result.status in GOING:
        return own
    limit = loaded.spec.max_context or 131_072
    with st.container(border=True):
        st.markdown("**Predicted points** :gray[· move them, nothing is run again]")
        one, two, three = st.columns(3, gap="medium")
        batch = one.select_slider("Batch", _steps(result.batch, 512), value=result.batch, key=f"batch-{run.id}")
        n_prompt = two.select_slider(
            "Prompt tokens", _steps(own["prefill"].n_new, limit), value=own["prefill"].n_new, key=f"prompt-{run.id}"
        )
        n_past = three.select_slider(
            "Tokens in the cache while decoding",
            _steps(own["decode"].n_past, limit),
            value=own["decode"].n_past,
            key=f"past-{run.id}",
        )
    return {
        "prefill": Forward(n_new=n_prompt, n_past=0, batch=batch),
        "decode": Forward(n_new=own["decode"].n_new, n_past=n_past, batch=batch),
    }


def _steps(own: int, most: int) -> list[int]:
    """Powers of two up to `most`, and the run's own number."""
    return sorted({own, *(2**i for i in range(max(1, int(most)).bit_length()))})


def overlays(result: Result, reference: Reference) -> list[Reference]:
    names = [d.name for d in catalogue.devices(data_dir() / "devices") if d.name != reference.device.name]
    found, own = kept_of(result), own_name(result)
    here = [own] if found is not None and reference.device.name != own else []
    chosen = st.multiselect(
        "Lay over the roofs of",
        [*here, *names],
        key="roofline-overlay",
        bind="query-params",
        max_selections=MOST_OVERLAYS,
        placeholder="Other devices",
        help="Only the roofs that count for this run's number format. A doubtful figure carries a ~.",
    )
    folder = data_dir() / "devices"
    return [
        reference_of(found.as_device(own), result, found)
        if name == own and found
        else reference_of(catalogue.find(name, folder), result)
        for name in chosen
    ]


def draw_pick(run: Run, result: Result, by_id: Mapping[str, Point], reference: Reference) -> None:
    """Choose a point by its name, as a click on it does too, and see its arithmetic."""
    chosen = st.selectbox(
        "See a point's arithmetic with its numbers",
        list(by_id),
        None,
        format_func=lambda i: point_name(by_id[i]),
        key=PICKED,
        placeholder="click it, or choose its name",
        width=360,
    )
    point = by_id.get(chosen or "")
    if point is None:
        return
    names = {x.name for x in result.layers if x.phase == point.phase}
    if point.name in names and not point.whole:
        draw_arithmetic(run, result, point.phase, point.name, reference)
        return
    flops = point.flop_per_s * point.seconds
    with st.container(border=True):
        st.markdown(f"**{text.escape(point_name(point))}** :gray[· one forward pass · {text.si(flops, 'FLOP')}]")
        draw_lines(under_roof(flops, flops / point.intensity, reference.ceiling, point.seconds))


def point_name(point: Point) -> str:
    if point.whole:
        return f"{point.phase.capitalize()} as a whole"
    return f"{point.name} in {point.phase}"


def draw_table(points: Sequence[Point]) -> None:
    with st.expander("All points as a table", icon=":material/table_rows:"):
        table(
            [
                {
                    "Name": p.name,
                    "Phase": p.phase,
                    "Point": p.source,
                    "Bound": p.bound,
                    "FLOP per byte": p.intensity,
                    "GFLOP/s": p.flop_per_s / 1e9,
                    "Roof GFLOP/s": p.roof_flop_per_s / 1e9,
                    "Of the roof": p.efficiency,
                    "Time (µs)": p.seconds * 1e6,
                    "Above": p.above,
                }
                for p in points
            ],
            height=360,
            column_config={
                "FLOP per byte": st.column_config.NumberColumn(format="%.3f"),
                "GFLOP/s": st.column_config.NumberColumn(format="%.2f"),
                "Roof GFLOP/s": st.column_config.NumberColumn(format="%.2f"),
                "Of the roof": st.column_config.NumberColumn(format="percent"),
                "Time (µs)": st.column_config.NumberColumn(format="%.1f"),
            },
            alt="Every point of the roofline with its intensity, rate and distance from the roof",
        )


def draw_bandwidth(result: Result) -> None:
    found = kept_of(result)
    if found is None or not found.reads:
        return
    where = "this machine" if own_name(result) == THIS else "the machine that ran it"
    with st.expander(f"Bandwidth over working set, as measured on {where}", icon=":material/ssid_chart:"):
        reads = [(float(r.working_set_bytes), r.bytes_per_s) for r in found.reads]
        needed = working_set_bytes(result.layers, "decode")
        figure(bandwidth_curve(reads, found.knees, needed or None), key="bandwidth")
        st.caption(
            "A model whose weights fit into a cache may read faster than memory allows, so the roof is taken at its "
            f"working set. Copy {text.bandwidth(found.copy_bytes_per_s)}, "
            f"triad {text.bandwidth(found.triad_bytes_per_s)}."
        )


class Choices(NamedTuple):
    """What is drawn: against which roofs, which points, coloured by what. small: layers that only move, too."""

    reference: Reference | None
    level: Level
    colour: ColourBy
    small: bool
    others: Sequence[Reference]


def choose(result: Result) -> Choices:
    with st.container(horizontal=True, vertical_alignment="bottom"):
        reference = choose_reference(result, "roofline-device")
        level: Level = (
            st.segmented_control(
                "Points", get_args(Level), default="Layers", key="roofline-level", required=True, bind="query-params"
            )
            or "Layers"
        )
        colour = st.segmented_control(
            "Colour",
            ["kind", "bound"],
            default="kind",
            key="roofline-colour",
            required=True,
            format_func=str.capitalize,
        )
        small = st.toggle(
            "Small layers",
            key="roofline-small",
            help="Also norms, sums and activations: layers that mostly move what the layer before has just written.",
        )
        others = overlays(result, reference) if reference else []
    return Choices(reference, level, "bound" if colour == "bound" else "kind", small, others)


def draw_sources(reference: Reference) -> None:
    """Where times, work and roofs come from."""
    doubts = f" · {text.escape(reference.device.doubts())}" if reference.device.doubts() else ""
    sources = "; ".join(map(text.escape, reference.device.sources))
    st.caption(
        f"{text.provenance('measured')} times · {text.provenance('computed')} FLOPs and bytes · "
        f"{text.provenance(reference.device.provenance)} roofs, {reference.dtype} arithmetic ({sources}){doubts}",
        help=text.provenance_help(),
    )


def draw(run: Run, result: Result) -> None:
    loaded = loaded_of(run)
    if loaded is None:
        draw_closed(run, result)
        return
    reference, level, colour, small, others = choose(result)
    if reference is None:
        st.info(
            no_ceilings(result, "above"),
            title="There is no reference roofline yet",
            icon=":material/speed:",
        )
        return
    ceiling = reference.ceiling
    rows = [x for x in result.layers if small or level == "Operators" or not moves_activations(x)]
    points = list(measured(result.phases, rows, level, ceiling, reference.near))
    draw_cards(points, ceiling)
    chart = st.container(border=True)
    activation, cache = loaded.setup.activation_dtype, loaded.setup.kv_dtype
    for phase, forward in forwards(run, result, loaded).items():
        if any(x.phase == phase for x in result.layers):
            shown = {x.name for x in rows if x.phase == phase}
            found = predicted(loaded.spec, phase, forward, level, ceiling, activation, cache, reference.near)
            points += [p for p in found if p.whole or p.name in shown]
    roofs = [*reference.roofs, *(r for h in others for r in h.roofs if r.main)]
    going = result.status in GOING
    order = sorted(points, key=lambda p: (not p.whole, p.source == "measured"))
    by_id = {p.id: p for p in order}  # whole phases first, and of a measured and a predicted one the measured
    key = f"roof-{run.id}-{colour}-{going}"

    def clicked() -> None:
        picked = next((x["id"] for x in st.session_state[key].selection.get("pick", ())), None)
        set_widgets({PICKED: picked if picked in by_id else None})

    with chart:
        figure(
            roofline(roofs, points, colour, pick=not going),
            key=key,
            on_select="ignore" if going else clicked,
        )
        st.caption(
            "Filled: measured. Hollow: predicted, on the roof by construction; a line joins the two. Area is time. "
            "Crossed: above the roof. Bytes are those that the model must move at least (compulsory traffic)."
        )
    if not going:
        draw_pick(run, result, by_id, reference)
    draw_flags(points)
    draw_table(points)
    draw_bandwidth(result)
    draw_sources(reference)
    with st.container(horizontal=True):
        link("pages/understand/layers.py", "The same layers as a graph", ":material/account_tree:", run.id)


with page("Roofline", ABOUT):
    shown = current_run()
    measure_panel(threads_of(result_of(shown)) if shown else usable_cores())
    run = run_picker("roofline")
    if run is not None:
        live(run, draw, "charts")
