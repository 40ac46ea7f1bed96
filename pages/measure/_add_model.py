"""The dialog that makes another model available: a folder or file of this machine, or a download from the hub."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from core.models import catalogue
from core.models.fetch import Download, plan
from core.models.hub import DownloadPlan
from core.types import ModelEntry
from hardware.errors import ExplorerError
from pages.ui import text
from pages.ui.live import moving
from pages.ui.models import spec_of
from pages.ui.page import fault, guard
from pages.ui.state import adopt_value, downloads

_HERE, _HUB = "On this machine", "From the hub"


@st.dialog("Add a model", icon=":material/add:", width="medium")
def add_model(typed: str = "") -> None:
    """typed: what stands in the fields at first."""
    with guard():
        place = st.segmented_control(
            "Where it is", [_HERE, _HUB], default=_HUB if is_hub_id(typed) else _HERE, required=True, key="add-place"
        )
        if place == _HERE:
            _from_disk(typed if not is_hub_id(typed) else "")
        else:
            _from_hub(typed if is_hub_id(typed) else "")


def is_hub_id(typed: str) -> bool:
    """Whether it may be the name of a model of the hub, and is no path."""
    return typed.count("/") == 1 and not typed.startswith((".", "/", "~"))


def _from_disk(typed: str) -> None:
    path = st.text_input(
        "Folder or file",
        typed,
        key="add-path",
        placeholder="~/models",
        help="A folder is searched for models, four levels deep. A file: GGUF, or a config.json. A folder with a "
        "config.json alone is an architecture with random weights.",
    )
    if st.button("Add", type="primary", icon=":material/add:", disabled=not path, key="add-folder"):
        with st.spinner("Reading what is there"):  # a configuration that leaves sizes out asks transformers
            _add(path)
    if known := catalogue.folders():
        st.caption("Searched already")
        for folder in known:
            with st.container(horizontal=True, horizontal_alignment="distribute", vertical_alignment="center"):
                st.text(folder)
                if st.button(
                    "Remove",
                    icon=":material/close:",
                    type="tertiary",
                    key=f"forget-{folder}",
                    help="Search it no longer. Its files stay.",
                ):
                    catalogue.remove_folder(folder)
                    st.rerun(scope="fragment")
    if troubles := catalogue.problems():
        with st.expander(f"{len(troubles)} skipped", icon=":material/report:"):
            for trouble in troubles:
                st.text(trouble)


def _add(path: str) -> None:
    """Search it, say what was found and why not, and choose what can be used. Raises ExplorerError."""
    catalogue.add_folder(path)
    found, troubles = catalogue.found_in(path)
    usable = [entry for entry in found if _readable(entry)]
    if usable:
        names = ", ".join(text.escape(entry.label) for entry in usable[:3])
        more = f" and {len(usable) - 3} more" if len(usable) > 3 else ""
        words = "Added" if len(usable) == 1 else f"{len(usable)} models added"
        what = " A configuration: it runs with random weights." if usable[0].random_weights and not usable[1:] else ""
        st.toast(f"{words}: {names}{more}.{what}", icon=":material/check:")
        adopt_value("model", usable[0].id)
        st.rerun()
    if not found and (hint := _why_not(path, troubles)):
        fault(hint, hindrance=True)
        return
    for trouble in troubles:
        st.warning(text.escape(trouble), icon=":material/report:")
    if not found and not troubles:
        st.warning(
            "A model is a GGUF file, a folder with safetensors, or a config.json, at most four levels deep. "
            "The folder is searched from now on, so models that come into it are listed.",
            title="No model was found there",
            icon=":material/search_off:",
        )


def _why_not(path: str, troubles: Sequence[str]) -> ExplorerError | None:
    """The only trouble with this folder or file with what to do about it; None where it lies deeper inside."""
    try:
        catalogue.find(path)
    except ExplorerError as error:
        return error if len(troubles) == 1 and error.message in troubles[0] else None
    return None


def _readable(entry: ModelEntry) -> bool:
    """Whether its files say what it is; if not, say why not."""
    try:
        spec_of(entry)
    except ExplorerError as error:
        fault(error, hindrance=True)
        return False
    return True


def _from_hub(typed: str) -> None:
    going = next((d for d in downloads() if d.active), None)
    if going or (downloads() and not downloads()[-1].stopped):
        moving("download", _progress, "strip")
        if going:
            return
    repo_id = st.text_input(
        "Hub id", typed, key="add-hub", placeholder="owner/name", help="Only safetensors and GGUF files are fetched."
    ).strip()
    if st.button("Look it up", icon=":material/search:", disabled=not repo_id, key="add-lookup"):
        with st.spinner("Asking the hub"):
            try:
                _plans()[repo_id] = plan(repo_id)
            except ExplorerError as error:
                _plans().pop(repo_id, None)
                fault(error)
    if found := _plans().get(repo_id):
        _offer(found)


@st.cache_resource(show_spinner=False)
def _plans() -> dict[str, DownloadPlan]:
    return {}


def _offer(found: DownloadPlan) -> None:
    """Exact size, free disk and licence; then the button."""
    if len(found.choices) > 1:
        names = [choice.name for choice in found.choices]
        sizes = {choice.name: choice.size_bytes for choice in found.choices}
        chosen = st.selectbox(
            "File", names, names.index(found.gguf) if found.gguf in names else 0,
            format_func=lambda n: f"{n} · {text.size(sizes[n])}", key="add-file",
        )  # fmt: skip
        if chosen != found.gguf:
            with st.spinner("Asking the hub"):
                found = plan(found.repo_id, chosen)
            _plans()[found.repo_id] = found
    verdict = ":green-badge[fits]" if found.fits else ":red-badge[does not fit]"
    st.markdown(
        f"{verdict} **{text.size(found.to_download_bytes)}** to download of {text.size(found.total_bytes)} in "
        f"{text.counted(len(found.files), 'file')}; {text.size(found.free_bytes)} free on the disk"
    )
    terms = f"Licence: {found.licence}." if found.licence else "No licence is stated."
    st.caption(text.escape(f"{terms} Into {found.folder}."))
    if st.button("Download", type="primary", icon=":material/download:", disabled=not found.fits, key="add-download"):
        downloads().append(Download(found))
        st.rerun(scope="fragment")


def _progress() -> bool:
    """The download that goes on or went last, and whether it goes on. It does so without this dialog."""
    job = downloads()[-1]
    total = job.wanted.to_download_bytes
    if job.active:
        share = min(1.0, job.done_bytes / total) if total else 0.0
        st.progress(
            share, text=f"{text.escape(job.wanted.repo_id)} · {text.size(job.done_bytes)} of {text.size(total)}"
        )
        st.button("Stop", icon=":material/stop_circle:", key="add-stop", on_click=job.stop)
        st.caption("It goes on when this dialog is closed. A stopped file starts again from zero.")
    elif job.failure:
        fault(ExplorerError(*job.failure))
    elif job.path:
        catalogue.entries(refresh=True)
        st.success(f"{text.escape(job.wanted.repo_id)} is here.", icon=":material/check_circle:")
        if st.button("Use it", type="primary", key="add-use"):
            adopt_value("model", catalogue.find(job.path).id)
            st.rerun()
    return job.active
