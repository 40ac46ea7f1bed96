"""The widgets out of which an evaluation is made."""

from __future__ import annotations

from typing import Any

import streamlit as st

from core import plugins
from core.plugins import settings
from core.runs.check import can_evaluate
from core.stats.sample_size import detectable_paired
from core.types import Evaluate, Request, Scalar
from hardware.errors import ExplorerError
from pages.ui import text
from pages.ui.choices import select
from pages.ui.forms import params_form
from pages.ui.models import chosen_model
from pages.ui.page import fault
from pages.ui.pickers import backend_picker
from pages.ui.reach import runs_here
from pages.ui.settings_form import how_form

DISCORDANCE = 0.2  # of the items on which two neighbouring variants differ, as a first guess
_FIRST = ("perplexity", "divergence", "qa", "choice", "arithmetic", "sql", "dialogue")


def evaluate_form() -> Request | None:
    """Model, backend, eval and settings; None while something is missing, which the form then says."""
    entry = chosen_model()
    if entry is None:
        return None
    backend_name = backend_picker()
    backend = plugins.get("backend", backend_name)
    known = {n: plugins.get("eval", n) for n in plugins.names("eval")}
    names = sorted(known, key=lambda n: (_FIRST.index(n) if n in _FIRST else len(_FIRST), n))
    name = select("Measure", names, lambda n: str(known[n].label), "eval")
    if name is None:
        return None
    plugin = known[name]
    st.caption(text.escape(plugins.about("eval", name)))
    given = params_form(plugin.Params, f"e-{name}", columns=2)
    how = how_form(backend_name, entry.id)
    if missing := plugin.needs - can_evaluate(backend, entry):
        st.warning(
            "Choose another backend.",
            title=f"{plugin.label} needs {' and '.join(sorted(missing))}, which {backend.label} cannot do",
            icon=":material/block:",
        )
        return None
    if not runs_here(entry, backend_name):
        return None
    task = Evaluate(eval=name, settings=given, margin=_before(plugin, given))
    return Request(model=entry.id, backend=backend_name, task=task, profilers=(), live=True, **how)


def _before(plugin: Any, given: dict[str, Scalar]) -> float | None:
    """The margin of a later comparison, and what this many items can tell: both said before the run."""
    try:
        params = settings(plugin.Params, given, plugin.label)
        n = plugin.size(params)
        rates = [m for m in plugin.metrics(params) if m.kind == "rate"] if n else []
    except ExplorerError as error:
        fault(error, hindrance=True)
        return None
    if not n or not rates:
        return None
    margin = st.number_input(
        "Margin (points)",
        0.1,
        50.0,
        1.0,
        key="margin",
        help="How much worse than another run's a rate may be and still count as no worse. It is kept with the run.",
    )
    least = detectable_paired(n, DISCORDANCE)
    what = f"a difference of {100 * least:.0f} points or more" if least else "no difference at all"
    st.caption(
        f":material/straighten: {text.counted(n, 'item')} compared with another run over the same items can show "
        f"{what}.",
        help="Exact McNemar test at the 5 % level with a power of 80 %, when the two differ on one item in five.",
    )
    return float(margin) / 100
