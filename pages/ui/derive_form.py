"""The widgets out of which a request to make a model is made."""

from __future__ import annotations

import streamlit as st

from core import plugins
from core.models.artifacts import restorable
from core.types import Derive, ReadsQuantized, Request
from hardware.detect import usable_cores
from pages.ui import text
from pages.ui.choices import select
from pages.ui.forms import params_form, range_of
from pages.ui.models import chosen_model

_BOUND = {"bind": "query-params"}
_FIRST = ("gguf_quantize", "finetune")  # what the pages' hints recommend


def derive_form(trains: bool) -> Request | None:
    """Model, transform and its settings; None while something is missing, which the form then says.

    trains: offer the transforms that train, or the others. Those that read quantized weights stand first where there
    are any, and are offered nowhere else.
    """
    known = {name: plugins.get("transform", name) for name in plugins.names("transform")}
    known = {name: p for name, p in known.items() if p.trains == trains}
    entry = chosen_model(label="Start from")
    if not trains:
        quantized = entry is not None and restorable(entry)
        reading = {name: p for name, p in known.items() if isinstance(p, ReadsQuantized)}
        known = (reading if quantized else {}) | {name: p for name, p in known.items() if name not in reading}
    restoring = [name for name, p in known.items() if isinstance(p, ReadsQuantized)]
    first = next((name for name in (*restoring, *_FIRST) if name in known), None)
    name = select("Method", list(known), lambda n: str(known[n].label), "transform", first)
    if name is None or entry is None:
        return None
    plugin = known[name]
    st.caption(text.escape(plugins.about("transform", name)))
    settings = params_form(plugin.Params, f"t-{name}", columns=2, shown=6)
    with st.popover("Name, threads, seed", icon=":material/edit:", width="stretch"):
        new = st.text_input(
            "Name of the new model", "", key="new-name", placeholder="from the parent and the method", **_BOUND
        )
        threads = st.number_input(
            "Threads", *range_of("threads"), None, key="threads", placeholder=f"all cores ({usable_cores()})", **_BOUND
        )
        seed = st.number_input("Seed", *range_of("seed"), 0, key="seed", **_BOUND)
    if reason := plugin.unavailable():
        st.warning(reason, title=f"{plugin.label} cannot run here", icon=":material/extension_off:")
        return None
    return Request(
        model=entry.id,
        backend=plugin.backend,
        task=Derive(transform=name, settings=settings, name=new.strip() or None),
        threads=int(threads) if threads else None,
        seed=int(seed),
        profilers=(),
    )
