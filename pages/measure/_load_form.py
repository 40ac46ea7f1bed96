"""The form of a load test: server, load, lengths, objectives and bounds, to a plan."""

from __future__ import annotations

from typing import Any, Literal

import streamlit as st

from core.endpoints import store
from core.endpoints.flavours import usable
from core.loadtest.lengths import lengths
from core.loadtest.objectives import LABELS, NAMES, PRESETS, Objectives
from core.loadtest.plan import Mode, Plan, check, levels_of
from hardware.errors import ExplorerError
from pages.ui import text
from pages.ui.choices import select
from pages.ui.page import fault

_BOUND: dict[str, Any] = {"bind": "query-params"}
_LOOPS: dict[Mode, str] = {"closed": "Users (closed loop)", "open": "Rate (open loop)"}
_WHICH: dict[Mode, str] = {
    "closed": "So many users, each asking again once answered: what the server can do. How long others wait is hidden.",
    "open": "Requests arrive at random, however many are still unanswered: what users feel.",
}
_OWN = "none"


def load_form() -> Plan | None:
    """The plan; None, with a sentence on the screen, while it cannot be carried out."""
    address, model = _server()
    loop = select("Load", list(_LOOPS), lambda name: _LOOPS[name], "load-loop", "closed")  # type: ignore[index]
    mode: Mode = "open" if loop == "open" else "closed"
    st.caption(_WHICH[mode])
    levels = st.text_input(
        "Users, one level each" if mode == "closed" else "Requests per second, one level each",
        "1, 2, 4" if mode == "closed" else "0.5, 1, 2",
        key=f"load-levels-{mode}",
        **_BOUND,
    )
    find = st.toggle(
        "Find the largest good load",
        False,
        key="load-find",
        help="Between the first and the last level, by doubling and bisection. It needs an objective.",
        **_BOUND,
    )
    with st.grid(2, min_column_width=120):
        prompt = st.text_input("Prompt tokens", "128", key="load-prompt", help=_HOW_LONG, **_BOUND)
        answer = st.text_input("Answer tokens", "64", key="load-answer", help=_HOW_LONG, **_BOUND)
    limits = _objectives()
    settings = _settings(mode)
    if not address:
        st.caption("Type the server's address to begin.")
        return None
    try:
        plan = Plan(
            address=address,
            model=model,
            mode=mode,
            levels=levels_of(levels),
            prompt=lengths(prompt),
            answer=lengths(answer),
            objectives=limits,
            find=find,
            **settings,
        )
        check(plan)
    except ExplorerError as error:
        fault(error, hindrance=True)
        return None
    return plan


def _server() -> tuple[str, str]:
    """Its address and the model that it shall run; either may be empty."""
    known = {e.url: e for e in store.endpoints()}
    where = select(
        "Server",
        list(known),
        str,
        "load-server",
        accept_new_options=True,
        placeholder="http://127.0.0.1:8080",
        help="The address of a model server: llama.cpp, Ollama, LM Studio, vLLM, SGLang, TGI, `roofscope serve`, or "
        "another that speaks OpenAI's API. Nothing is sent before you press Start.",
    )
    there = known.get(where or "")
    model = select(
        "Model",
        [m.id for m in usable(there.models)] if there else [],
        store.short,
        f"load-model-{store.name_of(there.url)}" if there else "load-model",
        accept_new_options=True,
        placeholder="the first one that it lists",
    )
    return (where or "").strip(), (model or "").strip()


_HOW_LONG = "`128`; `64-256` for any in between; `128~0.5` for a log-normal draw with this median and spread."


def _objectives() -> Objectives:
    """Limits from a published preset, or typed in."""
    with st.popover("Objectives", icon=":material/flag:", width="stretch"):
        preset = select(
            "Published limits",
            [_OWN, *PRESETS],
            lambda n: "None: my own" if n == _OWN else PRESETS[n].label,
            "load-preset",
            _OWN,
        )
        known = PRESETS.get(preset or "")
        if known is not None:
            st.caption(text.escape(known.source))
        key = preset or _OWN
        found: dict[str, float | None] = {}
        for name in NAMES:
            found[name] = st.number_input(
                f"{LABELS[name]} at most (ms)",
                min_value=0.1,
                max_value=3.6e6,
                value=None if known is None else getattr(known.objectives, name),
                key=f"load-{name}-{key}",
                placeholder="no limit",
                help=f"`{name}` in vLLM's words.",
                **_BOUND,
            )
        share = st.number_input(
            "Share of requests that must keep them (%)",
            min_value=1.0,
            max_value=99.9,
            value=90.0 if known is None else 100 * known.objectives.share,
            key=f"load-share-{key}",
            **_BOUND,
        )
    return Objectives(**found, share=share / 100)


def _settings(mode: Mode) -> dict[str, Any]:
    """How long, how often, and what ends it."""
    with st.popover("Settings", icon=":material/tune:", width="stretch"):
        bounds = _bounds(mode)
        past = st.toggle("Go on past saturation", False, key="load-past", **_BOUND)
        dataset = st.text_input(
            "Data set (JSONL)",
            "",
            key="load-dataset",
            help='A file of this machine, one object per line: {"prompt": "…", "max_tokens": 64}, or '
            '{"prompt_tokens": 128}.',
            **_BOUND,
        )
        key_from = st.text_input(
            "Key from the variable",
            "",
            key="load-key",
            help="The name of the environment variable that holds the server's key. The key itself is never written.",
            **_BOUND,
        )
    at_saturation: Literal["stop", "go on"] = "go on" if past else "stop"
    return {**bounds, "at_saturation": at_saturation, "dataset": dataset.strip(), "key": key_from.strip()}


def _bounds(mode: Mode) -> dict[str, float]:
    """Times and numbers, in two columns."""
    left, right = st.columns(2)

    def number(column: Any, label: str, least: float, most: float, usual: float, key: str, help: str = "") -> float:
        found: float = column.number_input(label, least, most, usual, key=f"load-{key}", help=help or None, **_BOUND)
        return found

    found = {
        "window_s": number(left, "Window (s)", 1.0, 7200.0, 30.0, "window", "What counts, on each level."),
        "warmup_s": number(right, "Warm-up (s)", 0.0, 3600.0, 5.0, "warmup", "Under load, before the window."),
        "repeats": number(left, "Repeats", 1, 20, 1, "repeats", "Interleaved."),
        "seed": number(right, "Seed", 0, 2**31 - 1, 0, "seed"),
        "max_requests": number(left, "Requests at most", 1, 1_000_000, 5000, "requests", "On each level."),
        "max_minutes": number(right, "Minutes at most", 0.5, 1440.0, 30.0, "minutes", "In all."),
        "timeout_s": number(left, "Timeout (s)", 1.0, 7200.0, 300.0, "timeout", "Silence that ends a request."),
    }
    if mode == "open":
        found["grace_s"] = number(right, "Grace (s)", 0.0, 3600.0, 60.0, "grace", "For the last answers.")
        burst = "1: Poisson; less: bursts; more: even."
        found["burstiness"] = number(left, "Burstiness", 0.01, 1000.0, 1.0, "burst", burst)
    return found
