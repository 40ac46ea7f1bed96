"""The form of a sweep: which values of which settings, how often, and until when."""

from __future__ import annotations

from typing import NamedTuple

import streamlit as st

from core import plugins
from core.models import catalogue
from core.studies.grid import known_axes, parsed_axis
from core.studies.plan import Axis, Limits, Sweep
from core.studies.sweep import planned
from core.types import Generate, Request
from hardware.errors import ExplorerError
from pages.ui.page import fault
from pages.ui.pickers import backend_label, strategy_label

_LISTS = (
    ("prompt_tokens", "Prompt tokens", "16, 128", "Random ids, so that every model gets the same number."),
    ("new_tokens", "New tokens", "32", ""),
    ("threads", "Threads", "", "Empty: all physical cores."),
    ("batch", "Batch", "", "Sequences at once; empty: one."),
)


class Wanted(NamedTuple):
    """A plan and how long it may take. elsewhere: what the command says to carry it out on other machines."""

    plan: Sweep
    minutes: float
    elsewhere: tuple[str, ...] = ()


class _Bounds(NamedTuple):
    """How often each cell is measured, and until when."""

    rounds: int
    repeats: int
    minutes: float
    limits: Limits
    reference_every: int


def sweep_form() -> Wanted | None:
    """Draw the form; None, with the reason on the page, while it makes no plan."""
    models, backends, strategies, lines = _draw_axes()
    bounds = _draw_bounds()
    elsewhere = _draw_machines()
    try:
        axes = [
            *_chosen("model", models),
            *_chosen("backend", backends),
            *_chosen("strategy", strategies),
            *(parsed_axis(line) for line in lines),
        ]
        base = Request(
            model=str(models[0]) if models else "",
            backend=str(backends[0]) if backends else "",
            task=Generate(prompt_tokens=64, max_new_tokens=32),
            profilers=("memory",),
            repeats=bounds.repeats,
        )
        if not models or not backends or not strategies:
            st.info("Choose at least one model, backend and strategy.", icon=":material/grid_on:")
            return None
        plan = planned(base, axes, rounds=bounds.rounds, reference_every=bounds.reference_every, limits=bounds.limits)
    except ExplorerError as error:
        fault(error, hindrance=True)
        return None
    return Wanted(plan, bounds.minutes, elsewhere)


def _draw_axes() -> tuple[list[str], list[str], list[str], list[str]]:
    """Models, backends, strategies, and the other axes as they are typed on the command line: "threads=1, 2"."""
    entries = {e.id: e for e in catalogue.entries()}
    first = "smollm2-135m" if "smollm2-135m" in entries else next(iter(entries), None)
    models = st.multiselect(
        "Models",
        list(entries),
        default=[first] if first else [],
        format_func=lambda i: entries[i].label if i in entries else i,
        key="sweep-models",
        accept_new_options=True,
        placeholder="choose, or type a path",
    )
    there = [n for n in plugins.names("backend") if n != "fake" and plugins.get("backend", n).unavailable() is None]
    backends = st.multiselect(
        "Backends",
        plugins.names("backend"),
        default=[n for n in ("llama_cpp", "pytorch") if n in there] or there[:1],
        format_func=backend_label,
        key="sweep-backends",
    )
    typed = {}
    columns = st.columns(2)
    for n, (name, label, default, about) in enumerate(_LISTS):
        typed[name] = columns[n % 2].text_input(
            label, default, key=f"sweep-{name}", help=f"{about} Several values with commas between.".strip()
        )
    strategies = st.multiselect(
        "Strategies",
        plugins.names("strategy"),
        default=["autoregressive"],
        format_func=strategy_label,
        key="sweep-strategies",
    )
    with st.expander("More axes", icon=":material/tune:"):
        dtypes = st.text_input(
            "Weights as", "", key="sweep-dtype", placeholder="own, bf16", help="Of backends that can choose."
        )
        cache = st.text_input(
            "KV cache as", "", key="sweep-kv", placeholder="f16, q8_0", help="Of backends that can choose: llama.cpp."
        )
        more = st.text_area(
            "Plugins' own settings",
            "",
            key="sweep-more",
            placeholder="jacobi.window=4,8,16\nllama_cpp.flash_attn=on,off",
            help="One axis a line. It varies only in the cells of its plugin. Known: "
            + ", ".join(f"`{name}`" for name in known_axes() if "." in name),
        )
    settings = {"dtype": dtypes, "kv_dtype": cache} | typed
    lines = [f"{name}={words}" for name, words in settings.items() if words.strip()]
    return models, backends, strategies, [*lines, *(line for line in more.splitlines() if line.strip())]


def _draw_bounds() -> _Bounds:
    with st.expander("How, and until when", icon=":material/timer:"):
        one, two = st.columns(2)
        rounds = one.number_input("Rounds", 1, 20, 1, key="sweep-rounds", help="Runs of each cell; five for a claim.")
        repeats = two.number_input("Repeats", 1, 100, 1, key="sweep-repeats", help="Timing passes of each run.")
        minutes = one.number_input("Minutes at most", 1.0, 10_000.0, 30.0, 5.0, key="sweep-minutes")
        most = two.number_input("Cells at most", 1, None, None, key="sweep-cells", placeholder="all")
        width = one.number_input(
            "Until intervals are narrower than",
            0.5,
            100.0,
            None,
            0.5,
            key="sweep-width",
            placeholder="not asked for",
            format="%g",
            help="Per cent of the value. Every cell is then measured at least five times.",
        )
        every = two.number_input(
            "Reference cell every",
            0,
            1000,
            10,
            key="sweep-every",
            help="Cells; it shows the machine's drift. 0: never.",
        )
    return _Bounds(
        rounds=int(rounds),
        repeats=int(repeats),
        minutes=float(minutes),
        limits=Limits(cells=int(most) if most else None, width=width / 100 if width else None),
        reference_every=int(every),
    )


def _draw_machines() -> tuple[str, ...]:
    """Where it is carried out, as arguments of the command; empty: here."""
    with st.expander("Other machines", icon=":material/lan:"):
        on = st.text_input(
            "Machines",
            key="sweep-on",
            placeholder="here",
            help="Addresses of `roofscope serve` with commas between (host1, host2:8765), or the nodes of a Ray "
            "cluster: ray, ray:HEAD:6379, ray://HEAD:10001.",
        )
        one, two = st.columns(2)
        where = one.text_input(
            "Only those with",
            key="sweep-where",
            placeholder="host=one,two",
            help="Labels, with spaces between: of a Ray node those that it was started with, such as gpu=a100.",
        )
        key = two.text_input(
            "Key from", key="sweep-key-from", placeholder="no key", help="An environment variable of this app."
        )
    if not on.strip():
        return ()
    labels = [words for label in where.split() for words in ("--where", label)]
    return ("--on", on.strip(), *labels, *(("--key-from", key.strip()) if key.strip() else ()))


def _chosen(name: str, values: list[str]) -> list[Axis]:
    return [Axis(name=name, values=tuple(values))] if values else []
