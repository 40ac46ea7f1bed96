"""The widgets out of which a Request is made. Every scalar is in the address, so a configuration can be shared."""

from __future__ import annotations

from typing import Any

import msgspec
import streamlit as st

from core import registry
from core.errors import ExplorerError
from core.models import catalogue
from core.runs.check import MemoryEstimate, estimate
from core.types import Generate, ModelEntry, ModelSpec, Record, Request, Sampling, Scalar, from_json, to_json
from hardware.detect import usable_cores
from pages.ui import text
from pages.ui.add_model import add_model
from pages.ui.choices import select
from pages.ui.forms import params_form
from pages.ui.models import model_card, model_picker
from pages.ui.pickers import backend_label, backend_picker, strategy_label
from pages.ui.state import adopt_value

PROMPT = "What is the capital of France?"
TEXT, RANDOM = "text", "random"
_BOUND: dict[str, Any] = {"bind": "query-params"}
_VERDICT = {
    "fits": ("green", "check_circle", "fits"),
    "tight": ("orange", "warning", "tight"),
    "no": ("red", "block", "does not fit"),
}


def request_form() -> Request | None:
    """Draw the form; None while something in it is missing, which the form then says."""
    entry, spec = _model()
    backend_name = backend_picker()
    strategy_name, usable = _strategy(backend_name, spec)
    task = _task()
    left, right = st.columns(2)
    with left:
        task = _sampling(task)
    with right:
        settings = _settings(backend_name, strategy_name)
    if entry is None or task is None or not usable:
        return None
    if registry.get("backend", backend_name).unavailable():
        return None
    request = Request(model=entry.id, backend=backend_name, strategy=strategy_name, task=task, **settings)
    return _with_memory(request)


def _model() -> tuple[ModelEntry | None, ModelSpec | None]:
    """The chosen model and its architecture; None while there is none that can be read."""
    with st.container(horizontal=True, vertical_alignment="bottom", gap="xsmall"):
        chosen = model_picker()
        if st.button("", icon=":material/add:", key="add-model", help="Add a folder, a file or a model of the hub."):
            add_model()
    if not chosen:
        st.caption("Choose a model, or type the path of one.")
        return None, None
    try:
        entry = catalogue.find(chosen)
    except ExplorerError as error:
        st.warning(error.hint, title=error.message, icon=":material/search_off:")
        if st.button("Get this model", icon=":material/download:", key="get-model", width="stretch"):
            add_model(chosen)
        return None, None
    spec = model_card(entry)
    return (entry if spec else None), spec


def _strategy(backend_name: str, spec: ModelSpec | None) -> tuple[str, bool]:
    """The strategy, and whether this backend can do it with this model."""
    backend = registry.get("backend", backend_name)
    plugins = {name: registry.get("strategy", name) for name in registry.names("strategy")}
    can = backend.capabilities - ({"cache", "rollback", "stream"} if spec and not spec.causal else set())
    lacks = {name: sorted(p.needs - can) for name, p in plugins.items()}
    chosen = select(
        "Strategy",
        list(plugins),
        lambda n: f"{plugins[n].label} · not here" if lacks[n] else str(plugins[n].label),
        "strategy",
        help="How the next tokens are found. Our own loop shows every step; the native one is the library's.",
    )
    assert chosen is not None
    if not lacks[chosen]:
        return chosen, True
    able = next((name for name in plugins if not lacks[name]), None)
    encoder = spec is not None and not spec.causal
    who = "an encoder" if encoder else backend.label
    st.warning(
        f"{plugins[able].label} works." if able else "Choose another backend.",
        title=f"{plugins[chosen].label} needs {' and '.join(lacks[chosen])}, which {who} cannot do",
        icon=":material/block:",
    )
    if able and st.button(f"Use {strategy_label(able)}", key="use-strategy", width="stretch"):
        adopt_value("strategy", able)
        st.rerun()
    return chosen, False


def _task() -> Generate | None:
    left, right = st.columns([1.35, 1])
    kind = left.segmented_control(
        "Prompt",
        [TEXT, RANDOM],
        default=TEXT,
        required=True,
        key="prompt_kind",
        width="stretch",
        format_func={TEXT: "Text", RANDOM: "Random"}.__getitem__,
        help="A text, or a number of random tokens for measuring: then exactly the tokens asked for are produced.",
        **_BOUND,
    )
    n_new = int(
        right.number_input(
            "New tokens", 1, 1_000_000, 64, key="max_new_tokens", help="At most; a model may stop earlier.", **_BOUND
        )
    )
    prompt, prompt_tokens = None, None
    if kind == RANDOM:
        prompt_tokens = int(st.number_input("Prompt tokens", 1, 1_000_000, 128, key="prompt_tokens", **_BOUND))
    else:
        prompt = st.text_area(
            "Prompt text", PROMPT, key="prompt", height=80, label_visibility="collapsed", max_chars=100_000, **_BOUND
        )
    if kind == TEXT and not (prompt or "").strip():
        st.warning("Type a prompt, or choose random tokens.", title="The prompt is empty", icon=":material/edit:")
        return None
    return Generate(prompt=prompt, prompt_tokens=prompt_tokens, max_new_tokens=n_new)


def _sampling(task: Generate | None) -> Generate | None:
    """Ask how tokens are chosen; the task with it."""
    with st.popover("Sampling", icon=":material/casino:", width="stretch"):
        temperature = st.slider(
            "Temperature",
            0.0,
            2.0,
            0.0,
            0.05,
            key="temperature",
            help="0 is greedy: the likeliest token each time.",
            **_BOUND,
        )
        greedy = temperature == 0
        top_k = st.number_input("Top k", 1, None, None, key="top_k", disabled=greedy, placeholder="all", **_BOUND)
        top_p = st.number_input(
            "Top p", 0.01, 1.0, None, 0.05, key="top_p", disabled=greedy, placeholder="all", **_BOUND
        )
        chat = st.toggle("Chat template", True, key="chat", help="Wrap a prompt as the model was trained.", **_BOUND)
        ignore_eos = st.toggle(
            "Ignore end of text", False, key="ignore_eos", help="Always produce all new tokens.", **_BOUND
        )
    if task is None:
        return None
    chosen = (
        Sampling() if greedy else Sampling(temperature=temperature, top_k=int(top_k) if top_k else None, top_p=top_p)
    )
    return msgspec.structs.replace(task, chat=chat, ignore_eos=ignore_eos, sampling=chosen)


def _settings(backend_name: str, strategy_name: str) -> dict[str, Any]:
    backend = registry.get("backend", backend_name)
    with st.popover("Settings", icon=":material/tune:", width="stretch"):
        dtype = None
        if backend.dtypes:
            dtype = st.segmented_control(
                "Weights as",
                backend.dtypes,
                key=f"dtype_{backend_name}",
                default=backend.dtypes[0],
                required=True,
                **_BOUND,
            )
        else:
            st.caption("Weights stay as the file holds them.")
        cores = usable_cores()
        threads = st.number_input(
            "Threads",
            1,
            4096,
            None,
            key="threads",
            placeholder=f"all cores ({cores})",
            help="Empty: all physical cores.",
            **_BOUND,
        )
        left, right = st.columns(2)
        many = "batch" in backend.capabilities and not registry.get("strategy", strategy_name).single
        batch = left.number_input("Batch", 1, 1024, 1, key="batch", disabled=not many, **_BOUND)
        seed = right.number_input("Seed", 0, 2**31 - 1, 0, key="seed", **_BOUND)
        repeats = left.number_input(
            "Repeats", 1, 1000, 1, key="repeats", help="Timing passes; the median counts.", **_BOUND
        )
        warmup = right.number_input("Warm-up passes", 0, 1000, 1, key="warmup", **_BOUND)
        profilers = _profilers(backend)
        fresh = st.toggle(
            "Fresh process", False, key="fresh", help="Do not reuse a warm worker: loading is measured anew.", **_BOUND
        )
        params = _settings_of(
            registry.get("strategy", strategy_name).Params, strategy_label(strategy_name), f"p-{strategy_name}"
        )
        options = _settings_of(backend.Options, backend_label(backend_name), f"o-{backend_name}")
    return {
        "dtype": dtype,
        "threads": int(threads) if threads else None,
        "batch": int(batch) if many else 1,
        "seed": int(seed),
        "repeats": int(repeats),
        "warmup": int(warmup),
        "profilers": profilers,
        "fresh_process": fresh,
        "params": params,
        "options": options,
    }


def _profilers(backend: Any) -> tuple[str, ...]:
    """What to attach, of what this backend can do; the others stand below with their reason."""
    plugins = {name: registry.get("profiler", name) for name in registry.names("profiler")}
    reasons = {
        name: plugin.unavailable()
        or (f"{backend.label} cannot do it." if plugin.needs - backend.capabilities else None)
        for name, plugin in plugins.items()
    }
    usable = [name for name, reason in reasons.items() if not reason]
    chosen = st.pills(
        "Profilers",
        usable,
        selection_mode="multi",
        default=[name for name in ("memory", "layers") if name in usable],
        format_func=lambda name: str(plugins[name].label),
        key="profilers",
        help="Each one has a pass of its own, so that it does not touch the headline numbers.",
        **_BOUND,
    )
    for name, reason in reasons.items():
        if reason:
            st.caption(f":material/block: {plugins[name].label}: {text.escape(reason)}")
    return tuple(chosen or ())


def _settings_of(kind: type[Record], owner: str, key: str) -> dict[str, Scalar]:
    """A plugin's own settings under its name; those that were changed."""
    if not kind.__struct_fields__:
        return {}
    st.markdown(f"**{owner}**")
    return params_form(kind, key)


@st.cache_data(ttl=5, max_entries=64, show_spinner=False)
def _estimate(request: bytes) -> MemoryEstimate:
    return estimate(from_json(request, Request))


def _with_memory(request: Request) -> Request | None:
    """Say before loading whether it fits, and ask when it does not."""
    try:
        needed = _estimate(to_json(request))
    except ExplorerError as error:
        st.warning(error.hint or error.message, title=error.message if error.hint else None)
        return None
    color, icon, verdict = _VERDICT[needed.verdict]
    st.markdown(
        f":{color}-badge[:material/{icon}: {verdict}] about **{text.size(needed.total_bytes)}** "
        f"of {text.size(needed.available_bytes)} free",
        help=f"Estimated before loading: weights {text.size(needed.weights_bytes)}, "
        f"KV cache {text.size(needed.kv_bytes)}, library and workspace {text.size(needed.overhead_bytes)}.",
    )
    if needed.verdict != "no":
        return request
    if not st.toggle(
        "Run anyway", key="allow_oversize", help="The system may swap, or end the worker; the app goes on."
    ):
        return None
    return msgspec.structs.replace(request, allow_oversize=True)
