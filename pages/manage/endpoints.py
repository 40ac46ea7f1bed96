"""Model servers: find out who answers at an address, keep it, run its models, forget it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import streamlit as st

from core.endpoints import store, vertex
from core.endpoints.flavours import LABELS, ServedModel
from core.endpoints.store import Endpoint
from core.models import catalogue
from hardware.errors import ExplorerError
from pages.manage._implied_view import draw_implied
from pages.manage._vertex_form import draw_vertex
from pages.ui import text
from pages.ui.links import link
from pages.ui.page import fault, nothing_yet, page
from pages.ui.panes import table_height
from pages.ui.state import rows_key
from pages.ui.table import table

ABOUT = "Model servers whose models can be run, talked to and measured here: who answers, what it serves, and its key."
NO_KEY, VARIABLE, RING = "No key", "Environment variable", "System keyring"
ADDED = "endpoint-added"


def draw_form() -> None:
    """An address and where its key comes from; the server is asked before anything is kept."""
    with st.container(border=True):
        st.markdown("**Add a server**")
        left, middle, right = st.columns([2, 1.3, 1.7])
        url = left.text_input("Address", placeholder="http://127.0.0.1:8080", key="endpoint-url")
        source = middle.selectbox(
            "Its key comes from",
            [NO_KEY, VARIABLE, RING],
            key="endpoint-source",
            help="A key is never written into a file of Roofscope. A variable is read when a request goes out and must "
            "be set before the app starts; the keyring is the system's own.",
        )
        value = ""
        if source == VARIABLE:
            value = right.text_input("Name of the variable", placeholder="MY_KEY", key="endpoint-variable")
        elif source == RING:
            value = right.text_input("Key", type="password", key="endpoint-key")
        if st.button("Add", icon=":material/add:", type="primary", key="endpoint-add"):
            add(url, source, value)
        st.caption(
            "llama.cpp's server, Ollama, LM Studio, vLLM, SGLang, TGI and any OpenAI-compatible address are told "
            "apart by asking. A key and prompts go to the address that you type, and nowhere else."
        )


def add(url: str, source: str, value: str) -> None:
    """Ask and keep; a fault is one sentence, and nothing is kept."""
    if not url.strip():
        fault(
            ExplorerError("The address is empty.", "Type where the server is: http://127.0.0.1:8080."), hindrance=True
        )
        return
    if source != NO_KEY and not value.strip():
        wanted = "the name of its variable" if source == VARIABLE else "the key itself"
        fault(ExplorerError("The key is missing.", f"Type {wanted}, or choose {NO_KEY}."), hindrance=True)
        return
    if source == RING:
        keep(lambda: store.add_with_key(url, value))
    else:
        keep(lambda: store.add(url, value.strip() if source == VARIABLE else ""))


def keep(ask: Callable[[], Endpoint]) -> None:
    """What a server answers of itself becomes known; what was known stays where it does not answer."""
    try:
        with st.spinner("Asking the server"):
            found = ask()
    except ExplorerError as error:
        fault(error)
        return
    catalogue.entries(refresh=True)
    st.session_state[ADDED] = found.url
    st.rerun()


def draw_endpoint(endpoint: Endpoint) -> None:
    """One server: who it is, its models, and what can be done with the chosen one."""
    key = store.name_of(endpoint.url)
    models = [model for _, model in store.files(endpoint)]
    with st.container(border=True):
        with st.container(horizontal=True, horizontal_alignment="distribute", vertical_alignment="center"):
            name = f"{LABELS[endpoint.flavour]} {endpoint.version}".strip()
            st.markdown(f"**{text.escape(name)}** · {text.code(endpoint.url)}", width="content")
            with st.container(horizontal=True, width="content"):
                if st.button("Ask again", icon=":material/refresh:", key=f"again-{key}", type="tertiary"):
                    keep(lambda: store.add(endpoint.url, endpoint.key_from))
                if st.button("Forget", icon=":material/delete:", key=f"forget-{key}", type="tertiary"):
                    store.forget(endpoint.url)
                    catalogue.entries(refresh=True)
                    st.toast(f"{text.escape(endpoint.url)} is forgotten.", icon=":material/delete:")
                    st.rerun()
        st.caption(" · ".join(filter(None, about(endpoint))))
        if not models:
            st.caption("It has no model that generates text.")
            return
        event: Any = table(
            [row(model) for model in models],
            key=rows_key(f"models-{key}", (model.id for model in models)),
            on_select="rerun",
            selection_mode="single-row",
            height=table_height(len(models), 320),
            alt=f"Models of {endpoint.url}, as the server tells them",
            column_config={
                "Model": st.column_config.TextColumn(pinned=True, width=230),
                "Size (GB)": st.column_config.NumberColumn(format="%.2f", help="On the server's disk"),
                "Context": st.column_config.NumberColumn(
                    format="localized",
                    help="Tokens of one request; where it is not told, what the model was trained for",
                ),
            },
        )
        chosen = models[event.selection.rows[0]] if event.selection.rows else models[0]
        draw_links(endpoint, chosen)
        draw_implied(endpoint, chosen)


def draw_links(endpoint: Endpoint, model: ServedModel) -> None:
    """What to do with a model; without a selection, with the first."""
    query = {"model": store.catalogue_id(endpoint, model), "backend": "endpoint", "strategy": "native"}
    with st.container(horizontal=True, vertical_alignment="center"):
        st.caption(text.escape(store.short(model.id)), width="content")
        link("pages/measure/run.py", "Run", ":material/play_arrow:", query=query)
        left = {f"a-{name}": value for name, value in query.items()}
        link("pages/measure/chat.py", "Chat", ":material/chat:", query=left)
        link("pages/measure/evaluate.py", "Evaluate", ":material/fact_check:", query=query | {"eval": "qa"})
        link("pages/measure/load.py", "Load test", ":material/speed:")


def about(endpoint: Endpoint) -> tuple[str, ...]:
    """What is known of a server beside its models."""
    held = {
        "": "no key",
        store.KEYRING: "key in the system's keyring",
        vertex.KEY: "Google's credentials of this machine",
    }
    slots = f"{endpoint.slots} requests at once" if endpoint.slots else ""
    return (
        *in_cloud(endpoint.cloud),
        text.escape(held.get(endpoint.key_from, f"key from {endpoint.key_from}")),
        slots,
        "counts tokens for us" if endpoint.tokenizes else "",
        f"added {text.when(endpoint.added_s)}",
    )


def in_cloud(cloud: vertex.Cloud | None) -> tuple[str, ...]:
    """Where an endpoint of Vertex AI is, and on what."""
    if cloud is None:
        return ()
    main = cloud.main
    on = f"{main.n_accelerators or 1} × {main.accelerator}" if main and main.accelerator else ""
    machine = main.machine if main else ""
    named = (cloud.project, cloud.region, "dedicated address" if cloud.dedicated else "shared address", machine, on)
    return tuple(text.escape(words) for words in named if words)


def row(model: ServedModel) -> dict[str, Any]:
    return {
        "Model": store.short(model.id),
        "State": model.state or None,
        "Parameters": text.parameters(model.n_params) if model.n_params else None,
        "Quantization": model.quantization or None,
        "Size (GB)": model.size_bytes / 1e9 if model.size_bytes else None,
        "Context": model.context or model.trained_context,
        "Architecture": model.architecture or None,
    }


with page("Endpoints", ABOUT):
    draw_form()
    if added := draw_vertex():
        catalogue.entries(refresh=True)
        st.session_state[ADDED] = added
        st.rerun()
    if told := st.session_state.pop(ADDED, None):
        st.success(f"{text.escape(told)} answered at {time.strftime('%H:%M:%S')}.", icon=":material/check:")
    known = store.endpoints()
    for one in known:
        draw_endpoint(one)
    if not known:
        nothing_yet(
            "No server yet",
            "Start one (llama-server -m model.gguf, ollama serve) and add its address above; its models then stand in "
            "every list of models.",
            ":material/lan:",
        )
