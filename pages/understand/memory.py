"""The memory of a run: computed, reported and measured side by side, over time, as it grows, and where it fits."""

from __future__ import annotations

from typing import get_args

import msgspec
import streamlit as st

from core import plugins
from core.analysis.capacity import MOST_TOKENS, fit, usable_bytes
from core.analysis.memory import Axis, Shape, Split, as_stored, grown, live_sets, split
from core.analysis.memory_seen import Measured, by_purpose, measured, reported, shape_of_run
from core.charts.memory import Scale, growth, split_bars, weight_bars
from core.charts.timeline import memory_timeline
from core.dtypes import BITS_PER_WEIGHT
from core.paths import data_dir
from core.runs.check import foretold_buffers
from core.runs.store import Run
from core.types import GOING, Loaded, Memory, ModelSpec, Result
from hardware import catalogue
from hardware.errors import ExplorerError
from pages.ui import text
from pages.ui.figure import figure
from pages.ui.layer_detail import loaded_of
from pages.ui.live import live
from pages.ui.page import page
from pages.ui.pickers import run_picker
from pages.ui.run_report import draw_closed
from pages.ui.state import result_of
from pages.ui.table import table

ABOUT = "Weights, KV cache, activations, workspace and runtime: computed and measured, and how each of them grows."
PRECISIONS = ("q2_k", "q3_k", "q4_0", "q5_0", "q8_0", "bf16", "fp32")
KV_PRECISIONS = ("fp32", "fp16", "q8_0", "q4_0")
AXES: dict[Axis, str] = {
    "context": "Context",
    "batch": "Batch",
    "vocabulary": "Vocabulary",
    "precision": "Precision",
}
TITLES: dict[Axis, str] = {
    "context": "Tokens in the cache",
    "batch": "Sequences",
    "vocabulary": "Words in the vocabulary",
    "precision": "Bits per weight",
}


def runtime_of(run: Run) -> float | None:
    """What the backend's library itself takes, as it states it; None for an unknown one."""
    try:
        return float(plugins.get("backend", run.request.backend).runtime_bytes)
    except ExplorerError:
        return None


def parts(of: Split) -> dict[str, float]:
    return {
        "weights": of.weights_bytes,
        "KV cache": of.kv_bytes,
        "activations": of.activations_bytes,
        "workspace": of.workspace_bytes,
        "runtime": of.runtime_bytes or 0.0,
    }


def draw_side_by_side(of: Split, seen: Measured, told: dict[str, int], own: dict[str, int], shape: Shape) -> None:
    bars: list[tuple[str, dict[str, float]]] = [("computed", parts(of))]
    if own and told:
        bars.append(("expected", {k: float(v) for k, v in told.items()}))
    if own:
        bars.append(("reported by the library", {k: float(v) for k, v in own.items()}))
    steps = {"runtime": seen.runtime_bytes, "opening the model": seen.loading_bytes, "while running": seen.growth_bytes}
    if seen.loading_bytes is None and seen.peak_bytes is not None:  # it was open already
        steps = {"held before the run": seen.peak_bytes - (seen.growth_bytes or 0), "while running": seen.growth_bytes}
    known = {k: float(v) for k, v in steps.items() if v is not None}
    if known:
        bars.append(("measured", known))
    with st.container(key="cards"):
        left, right = st.columns([1.5, 1], gap="medium")
    with left.container(border=True, height="stretch"):
        st.markdown("**By purpose**")
        figure(split_bars(bars), key="split")
        expected = " Expected is what the library should report." if own and told else ""
        warm = "" if seen.loading_bytes is not None else " The model was open already, so opening it was not measured."
        st.caption(
            f"Computed for {shape.n_context:,} tokens of cache and passes of {shape.n_forward:,} tokens, batch "
            f"{shape.batch}. Measured is resident memory: what a library only reserves, for its largest forward say, "
            f"does not count until it is touched.{expected}{warm}"
        )
    with right.container(border=True, height="stretch"):
        st.markdown("**Peak**")
        total = of.total_bytes
        one, two = st.columns(2)
        one.metric("Computed", text.size(total), help="The sum of all parts; the runtime is as the backend states it.")
        share = text.ratio(seen.peak_bytes / total) if seen.peak_bytes else None
        two.metric("Measured", text.size(seen.peak_bytes), delta=share, delta_color="off", delta_arrow="off",
                   delta_description="computed" if share else None)  # fmt: skip
        rows = [{"Phase": name, "Highest": text.size(b)} for name, b in seen.peaks.items()]
        if rows:
            table(rows, alt="Highest resident memory in each phase")
        how = "the kernel's high-water mark" if seen.true_peaks else "the highest of the samples"
        st.caption(f"Peaks are {how}." if rows else "Memory was not measured in this run.")


def draw_table(of: Split, seen: Measured, told: dict[str, int], own: dict[str, int]) -> None:
    note = {
        "weights": "Exactly the tensors of the file",
        "KV cache": "Keys and values, windows and recurrent states respected",
        "activations": "The largest set of layer outputs alive at once",
        "workspace": "Attention scores where they are written out; a library's scratch buffers",
        "runtime": "The library itself, before a model is open",
    }
    with st.expander("As a table", icon=":material/table_rows:"):
        table(
            [
                {
                    "Part": name,
                    "Computed (MB)": b / 1e6 if name != "runtime" or of.runtime_bytes is not None else None,
                    "Expected (MB)": told[name] / 1e6 if own and name in told else None,
                    "Reported (MB)": own[name] / 1e6 if name in own else None,
                    "Measured (MB)": seen.runtime_bytes / 1e6 if name == "runtime" and seen.runtime_bytes else None,
                    "What it is": note[name],
                }
                for name, b in parts(of).items()
            ],
            column_config={
                name: st.column_config.NumberColumn(format="%.1f")
                for name in ("Computed (MB)", "Expected (MB)", "Reported (MB)", "Measured (MB)")
            },
            alt="Memory by purpose, computed, expected, reported by the library and measured",
        )


def wanted_shape(spec: ModelSpec, own: Shape, run_id: str) -> Shape:
    """The run's shape, until the controls change it."""
    limit = spec.max_context or 131_072
    contexts = sorted({own.n_context, *(2**i for i in range(5, max(6, limit.bit_length())))})
    with st.container(horizontal=True, vertical_alignment="bottom"):
        n_context = st.select_slider("Context", contexts, value=own.n_context, key=f"memory-context-{run_id}")
        batch = st.select_slider(
            "Batch", sorted({own.batch, *(2**i for i in range(9))}), value=own.batch, key=f"memory-batch-{run_id}"
        )
        weights = st.selectbox("Weights", ["as they are", *PRECISIONS], key="memory-weights", bind="query-params")
        kv = st.selectbox(
            "KV cache",
            list(dict.fromkeys([own.kv_dtype, *KV_PRECISIONS])),
            key=f"memory-kv-{run_id}",
        )
    return msgspec.structs.replace(
        own,
        n_context=n_context,
        batch=batch,
        weight_dtype=None if weights == "as they are" else weights,
        kv_dtype=kv or own.kv_dtype,
        n_forward=own.n_forward if spec.causal else n_context,
    )


def values_of(axis: Axis, spec: ModelSpec, shape: Shape) -> list[float | str]:
    match axis:
        case "context":
            return sorted(
                {float(shape.n_context), *(2.0**i for i in range(5, (spec.max_context or 131_072).bit_length()))}
            )
        case "batch":
            return sorted({float(shape.batch), *(2.0**i for i in range(9))})
        case "vocabulary":
            return sorted({float(spec.vocab_size), *(2.0**i for i in range(10, 19))})
        case "precision":
            return list(PRECISIONS)


def now_of(axis: Axis, spec: ModelSpec, shape: Shape) -> float:
    match axis:
        case "context":
            return shape.n_context
        case "batch":
            return shape.batch
        case "vocabulary":
            return spec.vocab_size
        case "precision":
            return BITS_PER_WEIGHT.get(shape.weight_dtype or spec.dtype, 32.0)


def draw_growth(spec: ModelSpec, shape: Shape, runtime: float | None) -> None:
    axis: Axis = (
        st.segmented_control(
            "Over", get_args(Axis), default="context", key="memory-axis", format_func=AXES.get, required=True
        )
        or "context"
    )
    values = values_of(axis, spec, shape)
    splits = grown(spec, shape, axis, values, runtime)
    xs = [BITS_PER_WEIGHT[str(v)] if axis == "precision" else float(v) for v in values]
    rows = [(x, parts(s)) for x, s in zip(xs, splits, strict=True)]
    scale: Scale = "linear" if axis == "precision" else "log"
    figure(growth(rows, TITLES[axis], now_of(axis, spec, shape), x_scale=scale), key=f"growth-{axis}")
    if axis == "vocabulary":
        st.caption("The token table and the head grow with the vocabulary, and so do the logits.")
    elif axis == "precision":
        st.caption("Quantized formats store block scales too; norms and biases stay in fp32.")


def draw_layers(spec: ModelSpec, shape: Shape) -> None:
    alive = live_sets(as_stored(spec, shape.weight_dtype), shape)
    figure(weight_bars([(x.name, x.weight_bytes, x.output_bytes, x.live_bytes) for x in alive]), key="live")
    top = max(alive, key=lambda x: x.live_bytes)
    st.caption(f"Most is alive at {text.escape(top.name)}: {text.size(top.live_bytes)}. {text.provenance('computed')}")


def draw_fits(spec: ModelSpec, shape: Shape, runtime: float | None) -> None:
    devices = catalogue.devices(data_dir() / "devices")
    rooms = [usable_bytes(d.kind, d.mem_bytes) for d in devices]
    found = fit(spec, shape, rooms, runtime or 0.0)
    n_fit = sum(f.fits for f in found)
    st.markdown(
        f"**It fits on {n_fit} of {len(devices)} devices** :gray[· context {shape.n_context:,}, batch {shape.batch}]"
    )
    limit = spec.max_context or MOST_TOKENS
    table(
        [
            {
                "Device": d.name,
                "Fits": f.fits,
                "Memory (GB)": d.mem_bytes / 1e9,
                "Longest context": f.longest_context,
                "The model's limit": f.longest_context >= limit,
                "Largest batch": f.largest_batch,
                "Doubtful": d.is_uncertain("mem_bytes"),
            }
            for d, f in zip(devices, found, strict=True)
        ],
        height=420,
        column_config={
            "Memory (GB)": st.column_config.NumberColumn(
                format="%.1f",
                help="Stated, in 10⁹ bytes: a data sheet's 24 GB are 25.8 here. A part is left to the system",
            ),
            "Longest context": st.column_config.NumberColumn(format="localized", help="Tokens, at this batch"),
            "The model's limit": st.column_config.CheckboxColumn(help="The model ends there, not the memory"),
            "Largest batch": st.column_config.NumberColumn(format="localized", help="Sequences, at this context"),
            "Doubtful": st.column_config.CheckboxColumn(help="The memory size is worked out from others or disputed"),
        },
        alt="Every device: whether the model fits, the longest context and the largest batch",
    )
    st.caption(f"{text.provenance('computed')} needs · {text.provenance('stated')} memory", help=text.provenance_help())


def draw_over_the_run(result: Result) -> None:
    """Every sample, or why there is none."""
    over = result.status not in GOING
    with st.container(border=True):
        if over and not result.memory:
            st.markdown("**Over the run**")
            st.caption("There is no sample: the run ended before its first step, or its model was behind a server.")
            return
        st.markdown("**Over the run** :gray[· triangles are true peaks]")
        figure(memory_timeline(result.memory), key="timeline")
        only = " The run was over before a second sample was due." if over and len(result.memory) == 1 else ""
        st.caption("Anonymous memory is the process's own. File-backed pages come from the mapped model file; the "
                   f"system may take them back.{only}")  # fmt: skip


def draw_run(run: Run, result: Result) -> None:
    loaded = loaded_of(run)
    if loaded is None:
        draw_closed(run, result)
        return
    shape = shape_of_run(result, loaded.setup)
    of = split(loaded.spec, shape, runtime_of(run))
    seen, own = measured(loaded, run.recording().all(Memory)), reported(loaded.setup)
    told = by_purpose({"model": loaded.spec.weight_bytes or 0, **foretold_buffers(loaded.spec, run.request)})
    draw_side_by_side(of, seen, told, own, shape)
    draw_over_the_run(result)
    draw_table(of, seen, told, own)


def draw_what_if(run: Run, loaded: Loaded, result: Result) -> None:
    runtime = runtime_of(run)
    with st.container(border=True):
        st.markdown("**What if** :gray[· nothing is run again]")
        shape = wanted_shape(loaded.spec, shape_of_run(result, loaded.setup), run.id)
        growing, layers = st.tabs(
            [":material/trending_up: How it grows", ":material/stacked_bar_chart: Layer by layer"]
        )
        with growing:
            draw_growth(loaded.spec, shape, runtime)
        with layers:
            draw_layers(loaded.spec, shape)
    with st.container(border=True):
        draw_fits(loaded.spec, shape, runtime)


with page("Memory", ABOUT):
    run = run_picker("memory")
    if run is not None:
        live(run, draw_run, "charts")
        opened = loaded_of(run)
        if opened is not None:
            draw_what_if(run, opened, result_of(run))
