"""Files to take along and for others, each made only when it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import streamlit as st

MIMES = {
    "html": ("text/html", ":material/html:"),
    "zip": ("application/zip", ":material/folder_zip:"),
    "json": ("application/json", ":material/data_object:"),
    "csv": ("text/csv", ":material/table_rows:"),
}


class Form(NamedTuple):
    """One file: what it is called on the button, its name, and how it is made."""

    label: str
    file_name: str
    made: Callable[[], bytes | str]


def _known(form: Form) -> tuple[str, str]:
    """Its type and its icon."""
    return MIMES[form.file_name.rpartition(".")[2]]


def download(
    form: Form, key: str, icon: str = ":material/download:", kind: Literal["secondary", "tertiary"] = "secondary"
) -> None:
    """The button for one file."""
    st.download_button(
        form.label,
        data=form.made,
        file_name=form.file_name,
        mime=_known(form)[0],
        icon=icon,
        key=key,
        on_click="ignore",
        type=kind,
    )


def share_menu(forms: Sequence[Form], key: str, about: str) -> None:
    """A popover with a download for each form."""
    with st.popover("Share", icon=":material/share:", type="tertiary"):
        st.caption(about)
        for n, form in enumerate(forms):
            download(form, f"{key}-{n}", _known(form)[1], "tertiary")


def study_menu(name: str, key: str, export: Callable[[str], bytes], bundled: bool = True) -> None:
    """The forms of a study: pages with live charts and bundles with its runs, each with and without texts.

    export: the name of a form -> the file. bundled: its runs are here.
    """
    forms = [
        Form("One page with live charts (HTML)", f"{name}.html", lambda: export("html")),
        Form("The same without texts", f"{name}-notexts.html", lambda: export("notexts.html")),
    ]
    if bundled:
        forms += [
            Form("Bundle with all its runs", f"{name}.zip", lambda: export("zip")),
            Form("Bundle without texts", f"{name}-notexts.zip", lambda: export("notexts.zip")),
        ]
    about = "Files that hold no path and no name of you or this machine. The pages open without a network."
    share_menu(forms, key, f"{about} A bundle is taken in on the page History." if bundled else about)
