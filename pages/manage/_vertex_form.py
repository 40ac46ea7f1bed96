"""Endpoints of Vertex AI: project, region, and what answers there, with the credentials that this machine has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import streamlit as st

from core.endpoints import store, vertex
from core.endpoints.vertex import Cloud
from hardware.errors import ExplorerError
from pages.ui import text
from pages.ui.page import fault
from pages.ui.state import rows_key
from pages.ui.table import table

T = TypeVar("T")
PROJECTS, REGIONS, FOUND = "vertex-projects", "vertex-regions", "vertex-found"


def draw_vertex() -> str | None:
    """The form; returns the address of an endpoint that was added now."""
    with st.expander("Add an endpoint of Vertex AI", icon=":material/cloud:"):
        st.caption(
            "Google's application default credentials of this machine are used (`gcloud auth application-default "
            "login`). Roofscope lists and calls endpoints; it deploys nothing, and what is deployed costs until you "
            "undeploy it."
        )
        left, middle, right = st.columns([2, 2, 1], vertical_alignment="bottom")
        project = left.selectbox(
            "Project", _names(PROJECTS), index=None, accept_new_options=True, key="vertex-project", placeholder="Its id"
        )
        region = middle.selectbox(
            "Region",
            _names(REGIONS),
            index=None,
            accept_new_options=True,
            key="vertex-region",
            placeholder="us-central1",
        )
        if right.button("List", icon=":material/search:", key="vertex-list", width="stretch"):
            _list(project, region)
        found: list[Cloud] | None = st.session_state.get(FOUND)
        if found is None:
            return None
        if not found:
            st.caption(f"There is no endpoint in {text.escape(str(region))}.")
            return None
        return _choose(found)


def _list(project: str | None, region: str | None) -> None:
    """Ask for what is not chosen yet: projects, then regions, then endpoints."""
    if not project:
        names = _asked("Asking for your projects", vertex.projects)
        _keep(PROJECTS, None if names is None else [name for name, _ in names])
    elif not region:
        _keep(REGIONS, _asked("Asking for its regions", lambda: list(vertex.regions(project))))
    else:
        _keep(FOUND, _asked("Asking for its endpoints", lambda: list(vertex.endpoints(project, region))))


def _keep(name: str, found: Any) -> None:
    if found is not None:
        st.session_state[name] = found
        st.rerun()


def _asked(words: str, ask: Callable[[], T]) -> T | None:
    try:
        with st.spinner(words):
            return ask()
    except ExplorerError as error:
        fault(error)
        return None


def _names(key: str) -> list[str]:
    return list(st.session_state.get(key, ()))


def _choose(found: list[Cloud]) -> str | None:
    event: Any = table(
        [_row(cloud) for cloud in found],
        key=rows_key("vertex-endpoints", (cloud.id for cloud in found)),
        on_select="rerun",
        selection_mode="single-row",
        alt="Endpoints of this project in this region",
        column_config={"Endpoint": st.column_config.TextColumn(pinned=True, width=200)},
    )
    chosen = found[event.selection.rows[0]] if event.selection.rows else found[0]
    name = text.escape(chosen.label or chosen.id)
    if not chosen.deployed:
        st.caption(f"No model is deployed on {name}.")
        return None
    if not st.button(f"Add {name}", icon=":material/add:", type="primary", key="vertex-add"):
        return None
    added = _asked("Keeping it", lambda: store.add_cloud(chosen))
    if added is None:
        return None
    st.session_state.pop(FOUND, None)
    return added.url


def _row(cloud: Cloud) -> dict[str, Any]:
    main = cloud.main
    return {
        "Endpoint": cloud.label or cloud.id,
        "Address": "dedicated" if cloud.dedicated else "shared",
        "Model": (main.label or main.model or None) if main else None,
        "Machine": (main.machine or None) if main else None,
        "Accelerators": f"{main.n_accelerators or 1} × {main.accelerator}" if main and main.accelerator else None,
        "Replicas, at most": main.replicas if main else None,
    }
