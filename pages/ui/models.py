"""Choosing a model and saying what it is before anything is loaded."""

from __future__ import annotations

from pathlib import Path

import streamlit as st

from core.models import catalogue, spec
from core.types import Attention, ModelEntry, ModelSpec
from hardware.errors import ExplorerError
from pages.ui import text
from pages.ui.choices import select
from pages.ui.page import fault

FAMILIES = {
    "embedded": "embedded",
    "local": "local",
    "hub": "hub cache",
    "derived": "derived",
    "preset": "preset",
    "served": "endpoint",
}
_SEEN = 26  # letters of a name that the narrowest field shows


def model_picker(key: str = "model", label: str = "Model") -> str | None:
    """Choose a model of the catalogue, or type a path or a hub id; the id, bound to the address."""
    known = {e.id: e for e in catalogue.entries()}

    def name(model: str) -> str:
        entry = known.get(model)
        return f"{entry.label} · {FAMILIES[entry.family]}" if entry else model

    return select(
        label,
        list(known),
        name,
        key,
        accept_new_options=True,
        placeholder="Choose a model, or type a path or a hub id",
        help="Models that were found on this machine, and architectures with random weights (presets). "
        "A path to a GGUF file, a model folder or a config.json can be typed, and so can a hub id such as "
        "`HuggingFaceTB/SmolLM2-135M-Instruct`.",
    )


def chosen_model(label: str = "Model") -> ModelEntry | None:
    """Choose a model and see what it is; None while there is none, which the form then says."""
    chosen = model_picker("model", label)
    if not chosen:
        st.caption("Choose a model, or type the path of one.")
        return None
    try:
        entry = catalogue.find(chosen)
    except ExplorerError as error:
        fault(error, hindrance=True)
        return None
    return entry if model_card(entry) is not None else None


@st.cache_data(max_entries=64, show_spinner=False)
def _spec(fmt: str, path: str, changed: float) -> ModelSpec:
    return spec.read(path, fmt)


def spec_of(entry: ModelEntry) -> ModelSpec:
    """The architecture as the files say, read once; raises ExplorerError."""
    fmt, path = next(iter(entry.files.items()))
    file = Path(path)
    return _spec(fmt, path, file.stat().st_mtime if file.exists() else 0.0)


def model_card(entry: ModelEntry) -> ModelSpec | None:
    """Size and architecture in a line or two, with what a reader of the results must know; behind its name where a
    narrow field does not show all of it: a long one, or a path."""
    try:
        found = spec_of(entry)
    except ExplorerError as error:
        fault(error, hindrance=True)
        return None
    random = " · :orange-badge[random weights]" if entry.random_weights else ""
    doubts = f"  \n:material/info: {text.escape(found.doubts)}" if found.doubts else ""
    note = text.escape(entry.note or found.source)
    seen = len(entry.label) <= _SEEN and any(entry.id == other.id for other in catalogue.entries())
    name = "" if seen else f"**{text.escape(entry.label)}** · "
    st.caption(f"{name}{architecture_line(found, entry.size_bytes)}{random}{doubts}", help=note or None)
    return found


def _served_line(model: ModelSpec, size_bytes: int | None) -> str:
    """What a server says of a model whose layers it does not tell."""
    parts = (
        "behind a server, which does not tell its layers",
        text.escape(model.architecture) if model.architecture else None,
        model.dtype if model.dtype != "unknown" else None,
        text.size(size_bytes) if size_bytes else None,
        f"context {model.max_context:,}" if model.max_context else None,
    )
    return " · ".join(p for p in parts if p)


def architecture_line(model: ModelSpec, size_bytes: int | None) -> str:
    """`30 layers · width 576 · 9 heads (3 KV) · 135 M parameters · q4_1 · 92 MB`."""
    if not model.layers:
        return _served_line(model, size_bytes)
    heads = next((layer.op for layer in model.layers if isinstance(layer.op, Attention)), None)
    shared = f" ({heads.n_kv_heads} KV)" if heads and heads.n_kv_heads != heads.n_heads else ""
    size_bytes = size_bytes or model.weight_bytes
    parts = (
        text.counted(model.n_blocks, "layer"),
        f"width {model.d_model}",
        f"{heads.n_heads} heads{shared}" if heads else None,
        f"**{text.parameters(model.n_params)} parameters**",
        model.dtype,
        text.size(size_bytes) if size_bytes else None,
        f"context {model.max_context:,}" if model.max_context else None,
    )
    return " · ".join(p for p in parts if p)
