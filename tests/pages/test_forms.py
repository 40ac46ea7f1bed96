"""Widgets out of a struct, for every kind of field that a plugin may have."""

from __future__ import annotations

import json
from pathlib import Path

from streamlit.testing.v1 import AppTest

from core import labels, plugins


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


def templates() -> None:
    import streamlit as st

    from core.models import catalogue
    from pages.ui.template_form import template_form

    if folder := st.query_params.get("folder"):
        st.json({"form": template_form(catalogue.find(folder))})


def opened(folder: str) -> AppTest:
    at = AppTest.from_function(templates)
    at.query_params["folder"] = folder
    return at.run()


def folder_with(tmp_path: Path, template: object) -> str:
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    return str(tmp_path / "config.json")


def test_a_model_with_several_templates_lets_one_choose(tmp_path: Path) -> None:
    listed = [{"name": "default", "template": "{{ enable_thinking }}"}, {"name": "tool_use", "template": "x"}]
    at = opened(folder_with(tmp_path, listed))
    assert not at.exception
    assert json.loads(at.json[0].value)["form"] == {"template": None, "thinking": None}
    at.selectbox(key="template").set_value("tool_use")
    at.selectbox(key="thinking").set_value("off").run()
    assert json.loads(at.json[0].value)["form"] == {"template": "tool_use", "thinking": False}


def test_one_plain_template_leaves_nothing_to_choose(tmp_path: Path) -> None:
    at = opened(folder_with(tmp_path, "plain"))
    assert not at.exception and not at.selectbox and json.loads(at.json[0].value)["form"] == {}


def choosing() -> None:
    import streamlit as st

    from pages.ui.choices import select

    st.session_state.setdefault("published", {})["way"] = "b"  # by the page that the link stands on
    st.write(select("Way", ["a", "b"], str, "way"))


def test_a_link_between_pages_carries_what_the_first_one_wrote_into_the_address() -> None:
    at = AppTest.from_function(choosing)
    at.query_params["way"] = "b"
    at.run()
    assert at.selectbox(key="way").value == "b"
    at.selectbox(key="way").set_value("a").run()
    assert at.selectbox(key="way").value == "a", "and then it is the reader's"


def test_no_setting_is_called_by_its_code_name() -> None:
    """`N ctx` and `Use extra bufts` were names with nothing but their underscores taken away."""
    fields = {"backend": "Options", "strategy": "Params", "transform": "Params", "eval": "Params"}
    wrong = []
    for kind, field in fields.items():
        for name in plugins.names(kind):  # type: ignore[arg-type]
            owner = getattr(plugins.get(kind, name), field)  # type: ignore[call-overload]
            for setting in owner.__struct_fields__:
                label = labels.setting(owner.__name__, setting)
                plain = setting.removesuffix("_s").replace("_", " ").capitalize()
                wrong += [f"{name}.{setting}"] if "_" in setting and label in (plain, f"{plain} (s)") else []
    assert not wrong


def test_help_comes_from_the_docstring_and_bounds_from_the_type() -> None:
    at = AppTest.from_function(script).run()
    size = at.number_input(key="p-size")
    assert (size.help, size.min, size.max) == ("how large.", 1, 9)
    assert at.toggle(key="p-on").help == "switches."
    assert at.selectbox(key="p-off").help == "switches."
    assert at.selectbox(key="p-kind").help == "which one."
    assert at.selectbox(key="p-maybe").value is None
