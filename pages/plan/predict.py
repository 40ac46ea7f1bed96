"""Speed and memory of a model on a device before having either, as intervals, with every assumption."""

from __future__ import annotations

import shlex
from typing import Any

import msgspec
import streamlit as st

from core import plugins
from core.analysis.calibrate import MethodError, calibration_table
from core.analysis.predict import Figure, Prediction, bounds_in_words, predict
from core.charts.intervals import Interval, intervals
from core.models import catalogue as models
from core.models import spec as specs
from core.paths import data_dir
from core.types import ModelSpec
from hardware import catalogue
from hardware.device import Device
from hardware.errors import ExplorerError
from hardware.published import runs
from pages.ui import text
from pages.ui.ceilings import THIS, this_machine
from pages.ui.choices import select
from pages.ui.figure import figure
from pages.ui.models import architecture_line, model_picker, spec_of
from pages.ui.page import fault, page
from pages.ui.panes import panes
from pages.ui.pickers import backend_label
from pages.ui.predict_here import draw_here, here, own_backends
from pages.ui.table import table
from pages.ui.tile import tile

ABOUT = "Time to first token, time per token, throughput and memory of any model on any device, as intervals."
WEIGHTS = ("q2_k", "q3_k_m", "q4_0", "q4_k_m", "q5_k_m", "q6_k", "q8_0", "fp16", "bf16", "fp32")
CACHES = ("fp16", "q8_0", "q4_0", "fp32")
FIRST = ("RTX 4090", "H100 SXM5 80GB", "A100 SXM4 80GB", "Apple M3 Max (40c GPU)", "T4")
OWN = "A config.json of my own"
HERE_HELP = "What this machine's line stands for: each library adds its own to the measured ceilings."


def choose_model() -> tuple[ModelSpec, str, str] | None:
    """The architecture, how the command line names it, and its id in the catalogue."""
    source = st.segmented_control(
        "Model from",
        ["Catalogue", OWN],
        default="Catalogue",
        key="predict-from",
        required=True,
        label_visibility="collapsed",
    )
    if source == OWN:
        file = st.file_uploader("config.json, as on the hub", type="json", key="predict-config")
        if file is None:
            st.caption("No weights are needed: the configuration says how large every layer is.")
            return None
        found = from_upload(file.name, file.getvalue())
        _say(found)
        return found, f"--config {shlex.quote(file.name)}", ""
    chosen = model_picker("predict-model")
    if not chosen:
        return None
    entry = models.find(chosen)
    found = spec_of(entry)
    _say(found, entry.size_bytes)
    return found, f"--model {shlex.quote(chosen)}", chosen


def _say(found: ModelSpec, size_bytes: int | None = None) -> None:
    """What the model is, where that is from, and what its files leave open. size_bytes: of the files, where known."""
    lines = (
        architecture_line(found, size_bytes),
        f":material/info: {text.escape(found.doubts)}" if found.doubts else "",
    )
    st.caption("  \n".join(filter(None, lines)), help=text.escape(found.source) or None)


def from_upload(name: str, data: bytes) -> ModelSpec:
    """The architecture of an uploaded configuration; raises ExplorerError."""
    config = specs.parsed_config(data, name)
    return specs.from_config(config, name=name.removesuffix(".json"), source=f"Uploaded as {name}")


def choose_devices() -> tuple[list[Device | None], str | None]:
    """The devices, None standing for this machine, and the backend that this machine is to run."""
    known: dict[str, Device | None] = {d.name: d for d in catalogue.devices(data_dir() / "devices")}
    machine, backends = here(), own_backends()
    measured = machine is not None and this_machine(machine.ceilings) is not None and backends
    if measured:
        known = {THIS: None, **known}
    default = [n for n in (THIS, *FIRST) if n in known]
    chosen = st.multiselect("Devices", list(known), default=default, key="predict-devices")
    backend = None
    if not measured:
        st.caption("This machine joins them once its ceilings are measured, on the Devices page.")
    elif THIS in chosen:
        backend = select("Backend here", backends, backend_label, "predict-backend", help=HERE_HELP)
    return [known[name] for name in chosen], backend


def predict_one(
    device: Device | None, spec: ModelSpec, weights: str | None, cache: str, backend: str | None, **sizes: int
) -> Prediction:
    """On a device by its data sheet; on this machine (None) as everything here predicts for this backend."""
    if device is not None:
        return predict(spec, device, weights=weights, kv_dtype=cache, **sizes)  # type: ignore[arg-type]
    machine = here()
    assert machine is not None and backend is not None
    found = machine.predict(spec, plugins.get("backend", backend), weights=weights, kv_dtype=cache, **sizes)
    asked = {"model": spec.name, "weights": weights or spec.dtype, "kv_dtype": cache, **sizes}
    return machine.beside_devices(found, THIS, asked)


def draw_figure(label: str, of: Figure | None, show: Any, about: str) -> None:
    if of is None:
        tile(label, text.NONE, "An encoder does not decode.")
        return
    tile(
        label,
        f"~ {show(of.calibrated)}",
        f"{about} Ideal roof: {show(of.ideal)}.",
        under=text.between(show(of.low), show(of.high)),
    )


def draw_headline(of: Prediction) -> None:
    verdict = "fits" if of.fits else "does not fit"
    colour, icon = ("green", "check_circle") if of.fits else ("red", "cancel")
    st.markdown(
        f"**{text.escape(of.device)}** :{colour}-badge[:material/{icon}: {verdict}] {text.provenance('estimated')}",
        help=text.provenance_help(),
    )
    st.caption(bounds_in_words(of))
    with st.grid(2, min_column_width=150):
        draw_figure("Decode", of.decode_tok_per_s, text.token_rate, "Generated tokens per second, all sequences.")
        draw_figure("Time per token", of.tpot_s, text.seconds, "After the first one.")
        draw_figure("Time to first token", of.ttft_s, text.seconds, "The whole prompt.")
        draw_figure("Peak memory", of.peak_memory_bytes, text.size, f"{text.size(of.usable_memory_bytes)} are usable.")


def bars(found: list[Prediction], pick: Any, title: str, unit: str, key: str) -> None:
    rows = [
        Interval(p.device, f.ideal, f.calibrated, f.low, f.high, p.fits, note(p))
        for p in found
        if (f := pick(p)) is not None
    ]
    if rows:
        figure(intervals(rows, title, unit), key=key)


def note(of: Prediction) -> str:
    return f"decode {of.bound_by}, prefill {of.prefill_bound_by}"


def draw_devices(found: list[Prediction]) -> None:
    decode, first, memory, rows = st.tabs(["Decode", "Time to first token", "Memory", "Table"])
    with decode:
        bars(found, lambda p: p.decode_tok_per_s, "Tokens per second", "tok/s", "bars-decode")
    with first:
        bars(found, lambda p: p.ttft_s, "Time to first token", "s", "bars-first")
    with memory:
        bars(found, lambda p: p.peak_memory_bytes, "Peak memory", "B", "bars-memory")
    with rows:
        draw_table(found)
    st.caption("Tick: the ideal roof. Dot: calibrated estimate. Bar: nine in ten measured values. Cross: does not fit.")


def draw_table(found: list[Prediction]) -> None:
    table(
        [
            {
                "Device": p.device,
                "Fits": p.fits,
                "Decode (tok/s)": p.decode_tok_per_s.calibrated if p.decode_tok_per_s else None,
                "Decode, at least": p.decode_tok_per_s.low if p.decode_tok_per_s else None,
                "Decode, at most": p.decode_tok_per_s.high if p.decode_tok_per_s else None,
                "Decode, ideal roof": p.decode_tok_per_s.ideal if p.decode_tok_per_s else None,
                "First token (s)": p.ttft_s.calibrated,
                "Prefill (tok/s)": p.prefill_tok_per_s.calibrated,
                "Memory (GB)": p.peak_memory_bytes.calibrated / 1e9,
                "By the ridge, bound by": note(p),
                "Doubts": p.doubts,
            }
            for p in found
        ],
        column_config={
            name: st.column_config.NumberColumn(format=fmt)
            for name, fmt in {
                "Decode (tok/s)": "%.1f",
                "Decode, at least": "%.1f",
                "Decode, at most": "%.1f",
                "Decode, ideal roof": "%.1f",
                "First token (s)": "%.3f",
                "Prefill (tok/s)": "%.0f",
                "Memory (GB)": "%.2f",
            }.items()
        },
        alt="Predicted speed and memory on each device",
    )


@st.cache_data(show_spinner="Leaving every device out once")
def error_rows() -> list[dict[str, Any]]:
    """How wrong the method was on devices it had not seen."""
    table: tuple[MethodError, ...] = calibration_table(runs())
    return [
        {
            "Phase": e.phase,
            "Method": e.method,
            "Left out": e.left_out or "–",
            "Runs": e.n,
            "Median error": e.median_error,
            "90 % of errors below": e.p90_error,
            "Measured inside the range": e.coverage,
            "Interval score": e.interval_score,
        }
        for e in table
    ]


def draw_assumptions(of: Prediction, command: str) -> None:
    with st.container(border=True):
        st.markdown("**Assumptions**")
        st.markdown("\n".join(f"- {text.escape(line)}" for line in of.assumptions))
        st.markdown("**To reproduce it**")
        st.code(command, language="bash", wrap_lines=True)
        with st.expander("All inputs", icon=":material/data_object:"):
            st.json(msgspec.to_builtins(of.inputs))
    with st.expander("How wrong it was on devices it had never seen", icon=":material/fact_check:"):
        table(
            error_rows(),
            column_config={
                name: st.column_config.NumberColumn(format="percent")
                for name in ("Median error", "90 % of errors below", "Measured inside the range")
            }
            | {
                "Interval score": st.column_config.NumberColumn(
                    format="%.2f",
                    help="Width of the range of ln(measured / predicted), and twenty times what lies outside it. "
                    "Lower is better.",
                )
            },
            alt="Errors of the prediction and of two rules of thumb on published measurements",
        )
        st.caption("Published llama-bench results. Each device, or its whole family, was left out of the fit once.")


def ask() -> None:
    form, view = panes()
    with form:
        model = choose_model()
        one, two = st.columns(2)
        own = "as the file has them"
        weights = one.selectbox("Weights", [own, *WEIGHTS], index=3, key="predict-weights", bind="query-params")
        cache = two.selectbox("KV cache", CACHES, key="predict-kv", bind="query-params")
        one, two, three = st.columns(3)
        prompt = one.number_input("Prompt", 1, 1_000_000, 512, key="predict-prompt", bind="query-params", help="Tokens")
        new = two.number_input("New", 1, 1_000_000, 128, key="predict-new", bind="query-params", help="Tokens")
        batch = three.number_input("Batch", 1, 4096, 1, key="predict-batch", bind="query-params", help="Sequences")
        devices, backend = choose_devices()
    with view:
        if model is None or not devices:
            st.info("Choose a model and at least one device.", icon=":material/query_stats:")
            return
        spec, named, model_id = model
        dtype = None if weights == own else weights
        found = [
            predict_one(d, spec, dtype, cache, backend, prompt_tokens=prompt, new_tokens=new, batch=batch)
            for d in devices
        ]
        focus = st.segmented_control(
            "Device",
            [p.device for p in found],
            default=found[0].device,
            format_func=text.escape,
            key="predict-focus",
            label_visibility="collapsed",
            required=True,
            wrap=True,
        )
        one_of = next((p for p in found if p.device == focus), found[0])
        draw_headline(one_of)
        with st.container(border=True):
            draw_devices(found)
        where = f"here --backend {backend}" if one_of.device == THIS else shlex.quote(one_of.device)
        stored_as = f"--weights {dtype} " if dtype else ""  # without it as the file has them, which may be several
        command = (
            f"python -m core predict {named} --device {where} {stored_as}"
            f"--kv-dtype {cache} --prompt-tokens {prompt} --new-tokens {new} --batch {batch} --json"
        )
        with st.container(border=True):
            st.markdown("**On this machine, by backend**")
            draw_here(spec, model_id, dtype, cache, prompt, new, batch)
        draw_assumptions(one_of, command)


with page("Predict", ABOUT):
    try:
        ask()
    except ExplorerError as error:
        fault(error)
