"""What is asked of a search for architectures: cut from a trained model, or from scratch for a device."""

from __future__ import annotations

from typing import Any

import streamlit as st

from core import plugins
from core.analysis.cuts import Space
from core.paths import data_dir
from core.studies import architectures, free_shapes
from core.studies.measures import MEASURES
from core.studies.plan import Architectures, FreeShapes
from hardware import catalogue
from pages.ui.models import model_picker
from pages.ui.pickers import backend_label, device_picker

NONE = "the first engine"
_LIMITS = (  # measure, label, what one of the widget's unit is, whether it is a floor
    ("tok_per_s", "Decode, at least (tok/s)", 1.0, True),
    ("ttft_s", "First token, at most (s)", 1.0, False),
    ("peak_memory_bytes", "Memory, at most (GB)", 1e9, False),
    ("n_params", "Parameters, at most (M)", 1e6, False),
)
QUANTIZED = ("no", "Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M")


def limits(key: str) -> tuple[dict[str, float], dict[str, float]]:
    """(at most, at least) by measure."""
    most: dict[str, float] = {}
    least: dict[str, float] = {}
    columns = st.columns(2)
    for n, (measure, label, unit, floor) in enumerate(_LIMITS):
        assert measure in MEASURES, "a measure that a search knows"
        value = columns[n % 2].number_input(
            label, 0.0, None, None, key=f"{key}-{measure}", placeholder="none", format="%g", help="Empty: no limit."
        )
        if value is not None:
            (least if floor else most)[measure] = float(value) * unit
    return most, least


def cut_form() -> tuple[Architectures, float] | None:
    """The plan and its minutes; None without a model. Raises ExplorerError for what is no plan."""
    model = model_picker("architectures-model", "Trained model")
    if not model:
        st.caption("Choose a trained model: shapes are cut from it.")
        return None
    there = [n for n in plugins.names("backend") if n != "fake" and not plugins.served(n)]
    usual = [n for n in there if plugins.get("backend", n).unavailable() is None]
    engines = st.multiselect(
        "Measured in",
        there,
        default=usual,
        format_func=backend_label,
        key="architectures-engines",
        help="Every finished shape is exported to and timed in each of them. Limits are for the first.",
    )
    devices = [NONE, *(d.name for d in catalogue.devices(data_dir() / "devices"))]
    device = st.selectbox("Limits are for", devices, key="architectures-device")
    most, least = limits("architectures-limit")
    one, two = st.columns(2)
    finished = int(
        one.number_input("Shapes to finish", 2, 50, 9, key="architectures-finished", help="Trained and timed.")
    )
    minutes = float(two.number_input("Minutes at most", 1.0, 10_000.0, 60.0, 5.0, key="architectures-minutes"))
    plan = architectures.planned(
        model, tuple(engines), "" if device == NONE else device, most, least, finished=finished, **_details()
    )
    return plan, minutes


def _details() -> dict[str, Any]:
    """The fields of the plan that most searches leave as they are."""
    with st.expander("Space, training, proof", icon=":material/tune:"):
        one, two = st.columns(2)
        deepest = int(one.number_input("Blocks left out, at most", 0, 1000, 12, key="architectures-deepest"))
        step = int(two.number_input("MLP channels per step", 1, 100_000, 128, key="architectures-step"))
        masked = "Run without their parts, untrained."
        scored = int(one.number_input("Shapes to mask", 2, 1000, 40, key="architectures-scored", help=masked))
        drawn = "Of those finished, to test proxies."
        checks = int(two.number_input("Drawn at random", 0, 49, 3, key="architectures-checks", help=drawn))
        train = float(one.number_input("Training, minutes each", 0.1, 600.0, 2.0, 0.5, key="architectures-train"))
        texts = int(two.number_input("Texts it learns from", 10, 100_000, 160, key="architectures-texts"))
        speedup = float(one.number_input("Speed-up wanted", 1.0, 100.0, 1.3, 0.1, key="architectures-speedup"))
        quantize = two.selectbox("Answer also quantized", QUANTIZED, key="architectures-quantize", help="And checked.")
    return {
        "space": Space(deepest=deepest, step=step),
        "scored": scored,
        "checks": checks,
        "training": {"minutes": train, "texts": texts, "probe_minutes": max(0.05, train / 2)},
        "speedup": speedup,
        "quantize": "" if quantize == "no" else quantize,
    }


def free_form() -> tuple[FreeShapes, float]:
    """The plan and its minutes. Raises ExplorerError for what is no plan."""
    device = device_picker("architectures-free-device", "Device", "RTX 4090")
    most, least = limits("architectures-free-limit")
    one, two = st.columns(2)
    low, high = st.slider("Blocks", 1, 96, (4, 48), key="architectures-free-blocks")
    trials = int(one.number_input("Shapes to ask for", 10, 20_000, 400, 100, key="architectures-free-trials"))
    weights = two.selectbox("Weights", ("fp16", "bf16", "q8_0", "q4_k_m", "fp32"), key="architectures-free-weights")
    prompt = int(one.number_input("Prompt tokens", 1, 1_000_000, 512, key="architectures-free-prompt"))
    new = int(two.number_input("New tokens", 1, 100_000, 128, key="architectures-free-new"))
    plan = free_shapes.planned(
        device.name,
        most,
        least,
        blocks=(low, high),
        trials=trials,
        weights=weights,
        prompt_tokens=prompt,
        new_tokens=new,
    )
    return plan, 30.0
