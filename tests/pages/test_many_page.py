"""The page Many runs: empty, with runs, with another baseline, with words that no run has."""

from __future__ import annotations

from collections.abc import Callable

from streamlit.testing.v1 import AppTest

from core.runs.store import Store
from tests.pages.conftest import sound

Open = Callable[..., AppTest]
PAGE = "pages/compare/many.py"


def test_two_runs_beside_each_other(app: Open, filled: Store) -> None:
    at = sound(app(PAGE))
    table = at.dataframe[0].value
    assert len(table) == 2 and set(table["Configuration"]) == {"Autoregressive", "Native"}, "labels, no code names"
    speeds = list(table["Decode speed"])
    assert sum("★" in words for words in speeds) == 1 and sum("×" in words for words in speeds) == 1
    assert "×" in speeds[1], "the first one is the baseline"
    assert len(at.get("vega_lite_chart")) == 3
    other = at.selectbox(key="many-baseline").options[1]
    at = sound(at.selectbox(key="many-baseline").select(other).run())
    assert "×" in at.dataframe[0].value["Decode speed"][0]


def test_words_that_no_run_has(app: Open, filled: Store) -> None:
    at = sound(app(PAGE))
    at = sound(at.text_input(key="many-words").set_value("nowhere").run())
    assert any("No finished run here" in m.value for m in at.markdown) and not at.dataframe


def test_the_prepared_comparison_is_one_click(app: Open) -> None:
    at = sound(app(PAGE))
    button = at.button(key="many-families")
    assert button.label == "Measure them" and not button.disabled


def test_one_run_is_a_table_without_charts_of_one_point(app: Open, filled: Store) -> None:
    at = sound(app(PAGE))
    at = sound(at.text_input(key="many-words").set_value("native").run())
    assert not at.get("vega_lite_chart") and len(at.dataframe[0].value) == 1
    assert any("two configurations or more" in i.value for i in at.info)
    assert "prompt tokens · 8 new tokens" in at.dataframe[0].value["Configuration"].iloc[0]
