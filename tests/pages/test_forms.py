"""Widgets out of a struct, for every kind of field that a plugin may have."""

from __future__ import annotations

from streamlit.testing.v1 import AppTest


def script() -> None:
    from typing import Annotated, Literal

    import streamlit as st
    from msgspec import Meta

    from core.types import Record
    from pages.ui.forms import params_form

    class Params(Record):
        """size: how large. on, off: switches. kind: which one."""

        size: Annotated[int, Meta(ge=1, le=9)] = 4
        limit: int | None = None
        rate: float = 0.5
        on: bool = True
        off: bool | None = None
        kind: Literal["a", "b"] = "a"
        maybe: Literal["x"] | None = None
        name: str = ""

    st.json(params_form(Params, "p"))


def test_only_what_was_changed_comes_back() -> None:
    at = AppTest.from_function(script).run()
    assert not at.exception
    assert at.json[0].value == "{}"
    at.number_input(key="p-size").set_value(7)
    at.selectbox(key="p-off").set_value(False)
    at.selectbox(key="p-kind").set_value("b")
    at.text_input(key="p-name").set_value("n").run()
    assert at.json[0].value.replace(" ", "") == '{"size":7,"off":false,"kind":"b","name":"n"}'


def test_help_comes_from_the_docstring_and_bounds_from_the_type() -> None:
    at = AppTest.from_function(script).run()
    size = at.number_input(key="p-size")
    assert (size.help, size.min, size.max) == ("how large.", 1, 9)
    assert at.toggle(key="p-on").help == "switches."
    assert at.selectbox(key="p-off").help == "switches."
    assert at.selectbox(key="p-kind").help == "which one."
    assert at.selectbox(key="p-maybe").value is None
