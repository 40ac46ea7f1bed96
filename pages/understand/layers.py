"""The network layer by layer: a graph, the bottlenecks in words, bars, and the difference of two runs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, get_args

import streamlit as st

from core.analysis.bottlenecks import Bottleneck, bottlenecks, outside
from core.analysis.breakdown import Phase, Quantity, attribution, compare
from core.analysis.under_roof import ideal_times
from core.charts.bars import block_bars, change_bars, kind_bars, layer_bars
from core.charts.graph import SHAPE_WORDS, Colour, Graph, layer_graph
from core.charts.graph_layout import Node
from core.charts.labels import distinct
from core.layer_names import block_of
from core.runs.store import Run
from core.types import GOING, Layer, LayerResult, Loaded, Result
from pages.ui import marks, text
from pages.ui.ceilings import Reference, choose_reference, no_ceilings
from pages.ui.figure import figure
from pages.ui.layer_detail import draw_arithmetic, loaded_of
from pages.ui.links import link
from pages.ui.live import live
from pages.ui.page import empty, page
from pages.ui.pickers import backend_label, pick_run, run_picker, strategy_label
from pages.ui.run_report import draw_closed
from pages.ui.state import open_run, readable, result_of
from pages.ui.table import table
from pages.understand._crosscheck import draw_counts

COLOURS = {
    "Time": "seconds",
    "Of the roof": "roof",
    "Bytes": "bytes",
    "FLOPs": "flops",
    "Weights": "weight_bytes",
}
UNITS = {"seconds": "s", "bytes": "B", "flops": "FLOP", "weight_bytes": "B", "roof": "%"}
DETAILS = {"Collapsed": "equal blocks as one", "Blocks": "one node per block", "Layers": "every layer"}


def draw_cards(found: Sequence[Bottleneck], rest: str | None, run: Run, going: bool) -> None:
    """The suspects in one sentence each, with what would help."""
    if not found and going:
        st.info(
            "Layers are timed in a pass of their own, after the timing; until then the bars show computed FLOPs. "
            "The graph follows when the run ends.",
            icon=":material/hourglass_top:",
        )
        return
    if not found:
        empty(
            "No layer was timed in this phase",
            "Run again with the layers profiler on; FLOPs and bytes below are computed.",
            ":material/timer_off:",
        )
        return
    with st.grid(len(found), min_column_width=230):
        for b in found:
            with st.container(border=True, height="stretch"):
                st.markdown(f"**{text.escape(b.title)}**  \n:gray[{b.kind}]")
                st.progress(min(1.0, b.share), text=f"**{text.percent(b.share)}** of the time in layers")
                st.caption(text.escape(b.finding))
                if b.of_roof is not None:
                    st.markdown(f":material/lightbulb: {text.escape(b.advice)}")
    if found[0].of_roof is None:
        st.info(found[0].advice, icon=":material/speed:")
    if rest:
        st.caption(f":material/help_center: {text.escape(rest)}")
    with st.container(horizontal=True):
        link("pages/understand/roofline.py", "See them on the roofline", ":material/stacked_line_chart:", run.id)


def colour_of(result: Result, phase: Phase, chosen: str, reference: Reference | None) -> Colour:
    rows = [x for x in result.layers if x.phase == phase]
    if chosen == "Of the roof":
        ideal = ideal_times(rows, reference.ceiling, reference.near) if reference else {}
        return Colour("share of the roof", "%", ideal, _values(rows, "seconds"))
    field = COLOURS[chosen]
    return Colour(f"{chosen.lower()} in {phase}", UNITS[field], _values(rows, field))


def _values(rows: Sequence[LayerResult], field: str) -> dict[str, float]:
    return {x.name: float(getattr(x, field)) for x in rows if getattr(x, field) is not None}


def open_blocks(layers: Sequence[Layer], detail: str) -> set[int]:
    """Blocks shown layer by layer: all of them, or those in the address."""
    blocks = {b for x in layers if (b := block_of(x.name)) is not None}
    if detail == "Layers":
        return blocks
    asked = st.query_params.get("open", "")
    return blocks & {n for part in asked.split(",") if (n := text.natural(part)) is not None}


def _selected(state: Any, nodes: Sequence[Node]) -> Node | None:
    """The node that is selected in the drawn graph."""
    for group in state.selection.selected if state else ():
        if group["data_type"] == "node" and group["data_indices"]:
            index: int = group["data_indices"][0]
            return nodes[index]
    return None


def _named(name: str | None, nodes: Sequence[Node]) -> Node | None:
    return next((n for n in nodes if n.id == name), None)


def _open_blocks(node: Node | None, opened: set[int], detail: str) -> bool:
    """Put the blocks of a node that was chosen into the address. False: it has none."""
    if node is None or not node.blocks:
        return False
    wanted = opened | set(node.blocks[:1] if detail == "Collapsed" and len(node.blocks) > 1 else node.blocks)
    st.query_params["open"] = ",".join(map(str, sorted(wanted)))
    return True


def draw_graph(layers: Sequence[Layer], colour: Colour, sizes: dict[str, float], detail: str) -> str | None:
    """The graph; clicking a block, or choosing it by its name, opens it. Returns the layer that is selected."""
    opened = open_blocks(layers, detail)
    graph: Graph = layer_graph(layers, colour, sizes, opened, merge=detail == "Collapsed")
    nodes = graph.nodes
    key = f"graph-{detail}-{'-'.join(map(str, sorted(opened))) if detail != 'Layers' else 'all'}"
    by_name = f"node-{detail}"

    def clicked() -> None:
        _open_blocks(_selected(st.session_state[key], nodes), opened, detail)

    def chosen_by_name() -> None:
        if _open_blocks(_named(st.session_state[by_name], nodes), opened, detail):
            st.session_state[by_name] = None

    state: Any = figure(graph.chart, key=key, height=560, on_select=clicked)
    with st.container(horizontal=True, horizontal_alignment="distribute", vertical_alignment="bottom"):
        named = st.selectbox(
            "Open a block, or look at a layer",
            [n.id for n in nodes],
            None,
            format_func=lambda name: name[:1].upper() + name[1:] if name.startswith(("block ", "blocks ")) else name,
            key=by_name,
            placeholder="by its name",
            help="The same as a click in the graph, for the keyboard.",
            on_change=chosen_by_name,
            width=300,
        )
        if opened and detail != "Layers":
            st.button(
                "Close all blocks",
                key="close-blocks",
                type="tertiary",
                on_click=st.query_params.pop,
                args=("open", None),
            )
    chosen = _selected(state, nodes) or _named(named, nodes)
    st.caption(
        f"{SHAPE_WORDS}. Area is time. Dashed edges skip layers. Drag to move; rest the pointer, then scroll to "
        "zoom. Click a block to open it, a layer for its arithmetic."
    )
    return chosen.id if chosen is not None and not chosen.blocks else None


def draw_table(result: Result, phase: Phase, reference: Reference | None) -> None:
    rows = [x for x in result.layers if x.phase == phase]
    ideal = ideal_times(rows, reference.ceiling, reference.near) if reference else {}
    with st.expander("All layers as a table", icon=":material/table_rows:"):
        table(
            [
                {
                    "Layer": x.name,
                    "Kind": x.kind,
                    "Operator": x.op,
                    "Time (µs)": x.seconds * 1e6 if x.seconds is not None else None,
                    "MFLOP": x.flops / 1e6 if x.flops is not None else None,
                    "MB moved": x.bytes / 1e6 if x.bytes is not None else None,
                    "MB of weights": x.weight_bytes / 1e6,
                    "Of the roof": ideal[x.name] / x.seconds if x.seconds and x.name in ideal else None,
                    "Calls": x.calls,
                }
                for x in rows
            ],
            height=380,
            column_config={
                "Time (µs)": st.column_config.NumberColumn(format="%.1f", help="Measured, in the profiler's own pass"),
                "MFLOP": st.column_config.NumberColumn(format="%.3f", help="Computed; empty means uncounted"),
                "MB moved": st.column_config.NumberColumn(format="%.3f", help="Computed, compulsory traffic"),
                "MB of weights": st.column_config.NumberColumn(format="%.3f"),
                "Of the roof": st.column_config.NumberColumn(format="percent", help="Ideal over measured time"),
            },
            alt=f"Every layer in {phase} with measured time and computed work",
        )


def draw_provenance(run: Run, result: Result, phase: Phase) -> None:
    cost = next((c for c in result.profiler_costs if c.profiler == "layers"), None)
    parts = [f"{text.provenance('measured')} times", f"{text.provenance('computed')} FLOPs and bytes"]
    if cost is not None:
        parts.append(marks.profiler_line([cost]))
    for a in attribution(run.recording().attempt):
        if a.phase == phase:
            parts.append(f"{text.percent(a.unattributed_share)} of its {phase} is in no layer")
    parts.append("per generated token" if phase == "decode" else "for the whole prompt")
    st.caption(" · ".join(parts), help=text.provenance_help())


def _nothing_common(there: str, before: Result, here: str, result: Result, phase: Phase) -> str:
    """Why no layer of two runs can be compared, and what to do."""
    both = ((there, before), (here, result))
    lacking = [name for name, of in both if not any(x.phase == phase and x.seconds for x in of.layers)]
    if not lacking:
        return f"{there} and {here} have no layer in common in this phase."
    have = "has" if len(lacking) == 1 else "have"
    again = "Choose another run, or run again with the profiler Layer times."
    return f"{' and '.join(lacking)} {have} no layer times in this phase. {again}"


def draw_against(run: Run, result: Result, other_id: str, phase: Phase, loaded: Loaded) -> None:
    """The difference of two runs: the other one is the first, this one the second."""
    other = open_run(other_id)
    before = result_of(other)
    there, here = told_apart(other, run)
    changes = {c.name: c.change for c in compare(before.layers, result.layers, phase) if c.change is not None}
    if not changes:
        st.info(text.escape(_nothing_common(there, before, here, result, phase)), icon=":material/compare_arrows:")
        return
    whole = sum(changes.values())
    st.markdown(
        f"This run (**{text.escape(here)}**) takes **{text.seconds(abs(whole))} {'more' if whole > 0 else 'less'}** in "
        f"{phase} than the other (**{text.escape(there)}**), over {text.counted(len(changes), 'layer')} that both "
        "timed."
    )
    colour = Colour("time, this run minus the other", "s", changes, ramp="diverging")
    sizes = {name: abs(v) for name, v in changes.items()}
    with st.container(border=True):
        draw_graph(loaded.spec.layers, colour, sizes, "Blocks")
    with st.container(border=True):
        st.markdown(f"**The largest differences** :gray[· {text.escape(here)} minus {text.escape(there)}]")
        figure(change_bars(before.layers, result.layers, phase), key="changes")


def choose_other(run: Run) -> str | None:
    """The run to compare this one with; None: its own layers are shown."""
    with st.popover("Compare with another run", icon=":material/compare_arrows:"):
        other = pick_run("The other run", "layers-other", "", none="none: this run alone")
    return other if other and other != run.id and readable(other) else None


def told_apart(first: Run, second: Run) -> tuple[str, str]:
    """What each of two runs is, in the words in which they differ; the moment too where all else is equal."""
    parts = [
        (r.model, backend_label(r.backend), strategy_label(r.strategy), r.dtype or "", f"batch {r.batch}")
        for r in (first.request, second.request)
    ]
    names, _ = distinct(parts)
    if parts[0] == parts[1]:
        names = [time.strftime("%d %b %H:%M:%S", time.localtime(r.created_s)) for r in (first, second)]
    return names[0], names[1]


def draw(run: Run, result: Result) -> None:
    loaded = loaded_of(run)
    if loaded is None:
        draw_closed(run, result)
        return
    phases = [p for p in get_args(Phase) if any(x.phase == p for x in result.layers)] or ["prefill"]
    with st.container(horizontal=True, vertical_alignment="bottom"):
        phase: Phase = (
            st.segmented_control(
                "Phase", phases, default=phases[-1], key="layers-phase", format_func=str.capitalize, required=True
            )
            or phases[-1]
        )
        reference = choose_reference(result, "layers-roof")
        other = choose_other(run)
    ceiling = reference.ceiling if reference else None
    if other is not None:
        draw_against(run, result, other, phase, loaded)
        return
    rows = result.layers
    draw_cards(
        bottlenecks(rows, phase, ceiling),
        outside(attribution(run.recording().attempt), phase),
        run,
        result.status in GOING,
    )
    if result.status not in GOING:
        picked = draw_network(result, loaded, phase, reference)
        if picked:
            draw_arithmetic(run, result, phase, picked, reference)
    draw_bars(rows, phase)
    if result.status not in GOING:
        draw_counts(result, phase)
    draw_table(result, phase, reference)
    draw_provenance(run, result, phase)


def draw_network(result: Result, loaded: Loaded, phase: Phase, reference: Reference | None) -> str | None:
    """The layers as a graph, and what colours them; the name of the one that is picked."""
    with st.container(border=True):
        with st.container(horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"):
            st.markdown("**The network**", width="content")
            shown = st.segmented_control(
                "Coloured by",
                list(COLOURS),
                default="Time",
                key="layers-colour",
                label_visibility="collapsed",
                required=True,
                wrap=True,
            )
            detail = st.segmented_control(
                "Detail",
                list(DETAILS),
                default="Blocks",
                key="layers-detail",
                label_visibility="collapsed",
                required=True,
            )
        if shown == "Of the roof" and reference is None:
            st.info(
                no_ceilings(result),
                icon=":material/speed:",
            )
        sizes = _values([x for x in result.layers if x.phase == phase], "seconds")
        colour = colour_of(result, phase, shown or "Time", reference)
        return draw_graph(loaded.spec.layers, colour, sizes, detail or "Blocks")


def draw_bars(rows: Sequence[LayerResult], phase: Phase) -> None:
    """The largest layers, and all of them by kind and block by block."""
    quantity: Quantity = "seconds" if any(x.seconds for x in rows if x.phase == phase) else "flops"
    with st.container(key="cards"):
        left, right = st.columns([1.25, 1], gap="medium")
    with left.container(border=True, height="stretch"):
        every = st.toggle("All layers", key="layers-all")
        with st.container(height=460, border=False):
            figure(
                layer_bars(rows, phase, quantity, None if every else 20, None if every else 430), key=f"bars-{every}"
            )
    with right.container(border=True, height="stretch"):
        st.markdown("**By kind of layer**")
        figure(kind_bars(rows, quantity), key="kinds")
        st.markdown(f"**Block by block, {phase}**")
        figure(block_bars(rows, phase, quantity, height=220), key="blocks")


with page("Layers", "Where the time, the bytes and the FLOPs of a run go, layer by layer, and what would help."):
    run = run_picker("layers")
    if run is not None:
        live(run, draw, "charts")
