"""The widgets out of which a Request is made. Every scalar is in the address, so a configuration can be shared."""

from __future__ import annotations

import msgspec
import streamlit as st

from core import plugins
from core.labels import setting
from core.models import catalogue
from core.runs.check import MemoryEstimate, check_context, check_text, estimate
from core.runs.foresight import Foresight
from core.runs.recording import Recording
from core.runs.resolve import resolve
from core.runs.stages import learned, outlook, passes
from core.types import Generate, ModelEntry, ModelSpec, Request, from_json, to_json
from hardware.detect import machine_id
from hardware.errors import ExplorerError
from pages.measure._add_model import add_model, is_hub_id
from pages.measure._task_form import sampling_form, task_form
from pages.ui import text
from pages.ui.choices import select
from pages.ui.models import model_card, model_picker
from pages.ui.page import fault
from pages.ui.pickers import backend_picker, strategy_label
from pages.ui.reach import runs_here
from pages.ui.settings_form import settings_form
from pages.ui.state import adopt_value, store

_LONG_S = 60.0  # a run that takes longer says so before it starts
_VERDICT = {
    "fits": ("green", "check_circle", "fits"),
    "tight": ("orange", "warning", "tight"),
    "no": ("red", "block", "does not fit"),
}


def request_form() -> Request | None:
    """Draw the form; None while something in it is missing, which the form then says."""
    entry, spec = _model()
    backend_name = backend_picker()
    reached = entry is not None and runs_here(entry, backend_name)
    strategy_name, usable = _strategy(backend_name, spec)
    task = task_form()
    left, right = st.columns(2, gap="xsmall")
    with left:
        task = sampling_form(task, entry)
    with right:
        settings = settings_form(backend_name, strategy_name, entry.id if entry else None)
    if entry is None or task is None or not usable or not reached:
        return None
    request = Request(model=entry.id, backend=backend_name, strategy=strategy_name, task=task, **settings)
    return _with_memory(request)


def _model() -> tuple[ModelEntry | None, ModelSpec | None]:
    """The chosen model and its architecture; None while there is none that can be read."""
    with st.container(gap="xxsmall"):  # beside the field, the button would cut names
        chosen = model_picker()
        add = "Add a folder, a file or a model of the hub."
        if st.button("Add a model", icon=":material/add:", type="tertiary", key="add-model", help=add):
            add_model()
    if not chosen:
        st.caption("Choose a model, or type the path of one.")
        return None, None
    try:
        entry = catalogue.find(chosen)
    except ExplorerError as error:
        fault(error, hindrance=True)
        hub = is_hub_id(chosen)
        if hub and st.button("Get this model", icon=":material/download:", key="get-model", width="stretch"):
            add_model(chosen)
        return None, None
    spec = model_card(entry)
    return (entry if spec else None), spec


def _strategy(backend_name: str, spec: ModelSpec | None) -> tuple[str, bool]:
    """The strategy, and whether this backend can do it with this model."""
    backend = plugins.get("backend", backend_name)
    known = {name: plugins.get("strategy", name) for name in plugins.names("strategy")}
    can = backend.capabilities - ({"cache", "rollback", "stream"} if spec and not spec.causal else set())
    lacks = {name: sorted(p.needs - can) for name, p in known.items()}
    chosen = select(
        "Strategy",
        list(known),
        lambda n: f"{known[n].label} · not here" if lacks[n] else str(known[n].label),
        "strategy",
        help=_about_strategies(),
    )
    assert chosen is not None
    if not lacks[chosen]:
        return chosen, True
    able = next((name for name in known if not lacks[name]), None)
    encoder = spec is not None and not spec.causal
    who = "an encoder" if encoder else backend.label
    st.warning(
        f"{known[able].label} works." if able else "Choose another backend.",
        title=f"{known[chosen].label} needs {' and '.join(lacks[chosen])}, which {who} cannot do",
        icon=":material/block:",
    )
    if able:
        words = f"Use {strategy_label(able)}"
        st.button(words, key="use-strategy", width="stretch", on_click=adopt_value, args=("strategy", able))
    return chosen, False


@st.cache_data(show_spinner=False)
def _about_strategies() -> str:
    """What each strategy does, as Markdown for a tooltip."""
    rows = (
        f"- **{strategy_label(name)}**: {text.escape(plugins.about('strategy', name))}"
        for name in plugins.names("strategy")
    )
    return "How the next tokens are found.\n\n" + "\n".join(rows)


@st.cache_data(ttl=5, max_entries=64, show_spinner=False)
def _estimate(request: bytes) -> MemoryEstimate:
    wanted = resolve(from_json(request, Request))
    check_text(wanted)
    check_context(wanted)
    return estimate(wanted)


@st.cache_data(ttl=30, max_entries=64, show_spinner=False)
def _expected(request: bytes) -> tuple[float, bool]:
    """Seconds that the run will take, and whether earlier runs like it on this machine say so."""
    wanted = from_json(request, Request)
    left = outlook(Recording(wanted, ()), 0.0, learned(store().history(), wanted, machine_id())).left
    return (Foresight(store()).seconds(resolve(wanted)), False) if left is None else (left.likely_s, True)


def _say_duration(request: Request) -> None:
    """Before a long run: about how long it will take, and by what this is judged."""
    if plugins.served(request.backend):
        return
    seconds, known = _expected(to_json(request))
    if seconds < _LONG_S:
        return
    n = passes(request)
    basis = "by earlier runs like it" if known else "a rough guess: nothing like it ran here yet"
    new = f" for {request.task.max_new_tokens:,} new tokens" if isinstance(request.task, Generate) else ""
    times = f"{n:,} {'pass' if n == 1 else 'passes'}"
    st.caption(f":material/hourglass_top: **About {text.roughly(seconds)}**{new}: {times}, {basis}.")


def _with_memory(request: Request) -> Request | None:
    """Say before loading whether it fits, and ask when it does not."""
    try:
        needed = _estimate(to_json(request))
    except ExplorerError as error:
        fault(error, hindrance=True)
        return None
    if plugins.served(request.backend):
        st.caption("Its memory is the server's; what a server cannot tell is left out.")
        return request
    color, icon, verdict = _VERDICT[needed.verdict]
    st.markdown(
        f":{color}-badge[:material/{icon}: {verdict}] **{text.size(needed.total_bytes)}** "
        f"of {text.size(needed.available_bytes)} free",
        help=f"Estimated before loading: weights {text.size(needed.weights_bytes)}, "
        f"second copies that kernels pack {text.size(needed.packed_bytes)}, "
        f"KV cache {text.size(needed.kv_bytes)}, activations {text.size(needed.workspace_bytes)}, "
        f"library {text.size(needed.runtime_bytes)}."
        + (
            f" Its buffers, as the library will report them: {text.size(needed.buffers_bytes)}, of which only what a "
            "run touches counts here."
            if needed.buffers_bytes
            else ""
        ),
    )
    _say_duration(request)
    if needed.verdict != "no":
        return request
    if not st.toggle(
        setting("Request", "allow_oversize"),
        key="allow_oversize",
        help="The system may swap, or end the worker; the app goes on.",
    ):
        return None
    return msgspec.structs.replace(request, allow_oversize=True)
