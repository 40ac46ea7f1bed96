"""Choosing a run, a backend or a device. Choosing a model is in pages.ui.models."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import streamlit as st

from core import plugins
from core.paths import data_dir
from core.runs.ceilings import ran_on
from core.runs.demo import recorded_id
from core.runs.store import Run
from core.types import Derive, Evaluate, Generate, Request, Result
from hardware import catalogue as hardware
from hardware.detect import machine_id
from hardware.device import Device
from pages.ui import marks, text
from pages.ui.choices import select
from pages.ui.models import model_picker
from pages.ui.page import empty
from pages.ui.served_view import draw_outside
from pages.ui.state import choose_run, current_run, readable, result_of, set_widgets, store

__all__ = ["backend_label", "backend_picker", "device_picker", "model_picker", "pick_run", "run_header", "run_picker"]

_SHOWN_RUNS = 50


def run_picker(key: str) -> Run | None:
    """The strip at the top of a page about one run: what it was, and a way to another one.

    Draws an empty state and returns None when there is no run at all, and when its model is behind a server, of which
    these pages have nothing to explain.
    """
    run = current_run()
    if run is None:
        empty("No run yet", "This page explains a run. Make one, or import one in History.")
        return None
    with st.container(horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"):
        st.markdown(run_header(run), help=marks.explained(result_of(run)) or None, width="content")
        with st.popover("Other run", icon=":material/swap_horiz:", type="tertiary", key=f"{key}-another"):
            names = run_names(run.id)
            shown = f"{key}-run"
            set_widgets({shown: run.id})
            st.selectbox(
                "Show this run",
                list(names),
                format_func=names.__getitem__,
                key=shown,
                on_change=lambda: choose_run(st.session_state[shown]),
            )
    if plugins.served(run.request.backend):
        draw_outside(result_of(run))
        return None
    return run


def pick_run(label: str, key: str, default: str | None, none: str | None = None) -> str | None:
    """A list of the newest runs, the choice being in the address; the id of the chosen one.

    none: what stands first in the list for no run at all, whose id is "".
    """
    names = ({} if none is None else {"": none}) | run_names(default or None)
    return select(label, list(names), lambda i: names.get(i, i), key, default)


def run_names(also: str | None) -> dict[str, str]:
    """The newest generations, and `also` when it is older, as id -> one line."""
    return run_lines(_newest(also))


def run_lines(runs: Iterable[Run]) -> dict[str, str]:
    """Id -> one line, no two alike: a list knows its lines by their words, so that two equal ones would be one."""
    lines = {run.id: run_line(run) for run in runs}
    met = Counter(lines.values())
    return {i: line if met[line] == 1 else f"{line} · {i.rsplit('-', 1)[-1]}" for i, line in lines.items()}


def _newest(also: str | None) -> list[Run]:
    ids = [also] if also else []
    ids += [run_id for run_id in store().ids()[: 2 * _SHOWN_RUNS] if run_id != also]
    runs = [store().open(run_id) for run_id in ids if readable(run_id)]
    shown = [run for run in runs if isinstance(run.request.task, Generate)][:_SHOWN_RUNS]
    return sorted(shown, key=lambda run: run.id, reverse=True)


def run_line(run: Run) -> str:
    """One run as plain text for a list."""
    request = run.request
    told = (text.when(run.created_s), request.model, backend_label(request.backend), what(request))
    return " · ".join(filter(None, (run.about.name, *told)))


def what(request: Request) -> str:
    """What was done: the strategy of a generation, the eval's or the transform's name."""
    match request.task:
        case Evaluate():
            return plugins.label("eval", request.task.eval)
        case Derive():
            return plugins.label("transform", request.task.transform)
    return strategy_label(request.strategy)


def run_header(run: Run) -> str:
    """One run as a line of Markdown with its status."""
    request = run.request
    name = run.about.name
    parts = (
        *((f"**{text.escape(name)}**",) if name else ()),
        f"**{text.escape(request.model)}**",
        text.escape(backend_label(request.backend)),
        text.escape(what(request)),
        text.when(run.created_s),
    )
    result = result_of(run)
    recorded = " :gray-badge[:material/inventory_2: Recorded run]" if run.id == recorded_id() else ""
    disturbed = f" {marks.badge(result)}" if result.disturbed else ""
    return " · ".join(parts) + "   " + text.status(run.status()) + disturbed + recorded + other_machine(result)


def elsewhere(result: Result) -> str:
    """The machine of a run that another one made; empty for one of this machine."""
    return "" if result.host is None or ran_on(result) == machine_id() else result.host.machine.cpu


def other_machine(result: Result) -> str:
    """The same as a badge."""
    machine = elsewhere(result)
    return f" :violet-badge[:material/computer: On another machine: {text.escape(machine)}]" if machine else ""


def backend_label(name: str) -> str:
    """`llama.cpp`; an unknown name (a run from elsewhere) stays as it is."""
    return plugins.label("backend", name)


def strategy_label(name: str) -> str:
    """`Autoregressive`, without the explanation in brackets."""
    return plugins.label("strategy", name)


def profiler_label(name: str) -> str:
    """`Layer times`; anything else with a capital letter."""
    found = plugins.label("profiler", name)
    return found if found != name else name.capitalize()


def backend_picker(key: str = "backend", label: str = "Backend", default: str | None = None) -> str:
    """Choose a library. One that is not installed can be chosen too, to read why and how to get it."""
    backends = {name: plugins.get("backend", name) for name in ordered_backends()}
    missing = {name: plugin.unavailable() for name, plugin in backends.items()}

    def show(name: str) -> str:
        return f"{backends[name].label} · not installed" if missing[name] else str(backends[name].label)

    chosen = select(
        label, list(backends), show, key, default, help="The library that runs the model, in a process of its own."
    )
    assert chosen is not None
    if reason := missing[chosen]:
        st.warning(reason, title=f"{backends[chosen].label} is not installed", icon=":material/extension_off:")
    return chosen


def ordered_backends() -> list[str]:
    """Real libraries first, in the order in which most people want them."""
    preferred = ("llama_cpp", "pytorch", "onnxruntime")
    names = plugins.names("backend")
    return [*(n for n in preferred if n in names), *(n for n in names if n not in (*preferred, "fake")), "fake"]


def device_picker(key: str, label: str, default: str | None) -> Device:
    """Choose a device of the catalogue, the user's own included."""
    found = {device.name: device for device in hardware.devices(data_dir() / "devices")}
    names = list(found)
    chosen: str = st.selectbox(
        label,
        names,
        index=names.index(default) if default in found else 0,
        key=key,
        bind="query-params",
        help="Figures as the data sheets state them; doubtful ones are marked.",
    )
    return found[chosen]
