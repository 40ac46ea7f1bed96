"""The widgets for how a task is run and measured: dtype, threads, passes, profilers, plugins' own settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import streamlit as st

from core import plugins
from core.labels import setting
from core.models import derived
from core.types import Inside, Record, Scalar
from hardware.detect import usable_cores
from pages.ui import text
from pages.ui.choices import select
from pages.ui.forms import params_form, range_of
from pages.ui.pickers import backend_label, strategy_label

_BOUND: dict[str, Any] = {"bind": "query-params"}


def settings_form(backend_name: str, strategy_name: str, model: str | None) -> dict[str, Any]:
    """How to run and measure it: fields of a Request. model: its catalogue id, None where none is chosen."""
    backend = plugins.get("backend", backend_name)
    with st.popover("Settings", width="stretch"):
        dtype, threads = _precision(backend, model)
        left, right = st.columns(2)
        many = "batch" in backend.capabilities and not plugins.get("strategy", strategy_name).single
        batch = left.number_input(
            setting("Request", "batch"), *range_of("batch"), 1, key="batch", disabled=not many, **_BOUND
        )
        seed = right.number_input("Seed", *range_of("seed"), 0, key="seed", **_BOUND)
        repeats = left.number_input(
            "Repeats", *range_of("repeats"), 1, key="repeats", help="Timing passes; the median counts.", **_BOUND
        )
        warmup = right.number_input(setting("Request", "warmup"), *range_of("warmup"), 1, key="warmup", **_BOUND)
        profilers = _profilers(backend)
        live = st.toggle(
            "Show a live pass first",
            True,
            key="live",
            help="The text streams in a pass of its own. The screen then rests while the numbers are taken.",
            **_BOUND,
        )
        fresh = st.toggle(
            "Fresh process", False, key="fresh", help="Do not reuse a warm worker: loading is measured anew.", **_BOUND
        )
        params = _strategy_settings(strategy_name, model)
        options = _settings_of(backend.Options, backend_label(backend_name), options_key(backend_name))
    return {
        "dtype": dtype,
        "threads": threads,
        "batch": int(batch) if many else 1,
        "seed": int(seed),
        "repeats": int(repeats),
        "warmup": int(warmup),
        "profilers": profilers,
        "live": live,
        "fresh_process": fresh,
        "params": params,
        "options": options,
    }


def how_form(
    backend_name: str, model: str | None, prefix: str = "", default: str = "autoregressive", title: str = "Settings"
) -> dict[str, Any]:
    """How answers are decoded and on what: fields of a Request.

    model: its catalogue id. prefix: of the widgets' names, for two such forms; title: of the form.
    """
    backend = plugins.get("backend", backend_name)
    known = {name: plugins.get("strategy", name) for name in plugins.names("strategy")}
    able = [n for n, p in known.items() if p.needs <= backend.capabilities]
    usable = [n for n in able if "cache" in known[n].needs] or [n for n in able if "stream" in known[n].needs]
    with st.popover(title, width="stretch"):
        dtype, threads = _precision(backend, model, prefix)
        strategy = select(
            "Strategy",
            usable,
            lambda n: str(known[n].label),
            f"{prefix}strategy",
            default if default in usable else usable[0] if "autoregressive" not in usable else "autoregressive",
            help="How answers are decoded. Only an early exit or a skipped layer changes them.",
        )
        assert strategy is not None
        seed = st.number_input("Seed", *range_of("seed"), 0, key=f"{prefix}seed", **_BOUND)
        params = _strategy_settings(strategy, model, prefix)
        options = _settings_of(backend.Options, backend.label, f"{prefix}o-{backend_name}")
    return {
        "dtype": dtype,
        "threads": threads,
        "seed": int(seed),
        "strategy": strategy,
        "params": params,
        "options": options,
    }


def _precision(backend: Any, model: str | None, prefix: str = "") -> tuple[str | None, int | None]:
    """The dtype of the weights and the number of threads; a model trained here runs as it was trained."""
    dtype = None
    if backend.dtypes:
        trained = _trained_in(backend, model)
        dtype = st.segmented_control(
            setting("Request", "dtype"),
            backend.dtypes,
            key=dtype_key(backend, model, prefix),
            default=[*trained, *backend.dtypes][0],
            required=True,
            **_BOUND,
        )
    else:
        st.caption("Weights stay as the file holds them.")
    threads = st.number_input(
        "Threads",
        *range_of("threads"),
        None,
        key=f"{prefix}threads",
        placeholder=f"all cores ({usable_cores()})",
        help="Empty: all physical cores.",
        **_BOUND,
    )
    if threads and threads > usable_cores():
        st.caption(
            f":material/warning: {threads} threads on {usable_cores()} {'core' if usable_cores() == 1 else 'cores'} "
            "wait for each other: it will be slower than with fewer."
        )
    return dtype, int(threads) if threads else None


def dtype_key(backend: Any, model: str | None, prefix: str = "") -> str:
    """The widget of the weights' number format; a model that was trained here has one of its own."""
    return f"{prefix}dtype_{backend.name}" + (f"-{model}" if _trained_in(backend, model) else "")


def options_key(backend_name: str) -> str:
    """What the names of a backend's option widgets begin with."""
    return f"o-{backend_name}"


def params_key(strategy: str, model: str | None, prefix: str = "") -> str:
    """What the names of a strategy's widgets begin with; a model that advises on them has its own."""
    return f"{prefix}p-{strategy}" + (f"-{model}" if _advised(strategy, model) else "")


def _trained_in(backend: Any, model: str | None) -> list[str]:
    return [str(d) for d in derived.inherited(model or "", "dtype").values() if d in backend.dtypes]


def _advised(strategy: str, model: str | None) -> dict[str, Any]:
    return derived.inherited(model or "", "window", "fill") if strategy == "jacobi" else {}


def _outside(backend: Any, profiler: Any) -> bool:
    """Whether the profiler measures a process in which this backend's model is not."""
    return "remote" in backend.capabilities and isinstance(profiler, Inside)


def _profilers(backend: Any) -> tuple[str, ...]:
    """What to attach, of what this backend can do; the others stand below with their reason."""
    known = {name: plugins.get("profiler", name) for name in plugins.names("profiler")}
    reasons = {
        name: plugin.unavailable()
        or (f"{backend.label} cannot do it." if plugin.needs - backend.capabilities else None)
        or ("the model runs in another process." if _outside(backend, plugin) else None)
        for name, plugin in known.items()
    }
    usable = [name for name, reason in reasons.items() if not reason]
    chosen = st.pills(
        "Profilers",
        usable,
        selection_mode="multi",
        default=[name for name in ("memory", "layers") if name in usable],
        format_func=lambda name: str(known[name].label),
        key="profilers",
        help="Each one has a pass of its own, so that it does not touch the headline numbers.",
        **_BOUND,
    )
    for name, reason in reasons.items():
        if reason:
            st.caption(f":material/block: {known[name].label}: {text.escape(reason)}")
    return tuple(chosen or ())


def _strategy_settings(name: str, model: str | None, prefix: str = "") -> dict[str, Scalar]:
    """A strategy's settings; a model trained for Jacobi decoding brings those that it was trained for."""
    key, advised = params_key(name, model, prefix), _advised(name, model)
    return _settings_of(plugins.get("strategy", name).Params, strategy_label(name), key, advised)


def _settings_of(
    kind: type[Record], owner: str, key: str, advised: Mapping[str, Scalar] | None = None
) -> dict[str, Scalar]:
    """A plugin's own settings under its name; those that were changed."""
    if not kind.__struct_fields__:
        return {}
    st.markdown(f"**{owner}**")
    if advised:
        st.caption(f"The model was trained for {', '.join(f'{name} {value}' for name, value in advised.items())}.")
    return params_form(kind, key, advised=advised)
