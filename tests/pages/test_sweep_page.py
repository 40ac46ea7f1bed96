"""The Sweep page: a grid is counted and looked at before it runs, runs in a process of its own, and is shown."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from streamlit.testing.v1 import AppTest

from core.paths import data_dir
from core.studies import study_store, sweep
from core.studies.plan import Axis
from core.types import Generate, Request
from tests.pages.conftest import sound

Open = Callable[..., AppTest]
PAGE = "pages/plan/sweep.py"


def fill(at: AppTest, backends: list[str], **texts: str) -> AppTest:
    at.multiselect(key="sweep-backends").set_value(backends)
    for name, value in texts.items():
        at.text_input(key=f"sweep-{name}").set_value(value)
    return at.run()


def said(at: AppTest) -> str:
    kinds = (at.markdown, at.caption, at.warning, at.error, at.info)
    return "\n".join(str(e.value) + str(getattr(e.proto, "title", "")) for kind in kinds for e in kind)


def test_what_cannot_run_is_listed_before(app: Open) -> None:
    at = sound(fill(sound(app(PAGE)), ["fake"], prompt_tokens="4, 8", new_tokens="2", dtype="own, int3"))
    assert "**4** cells: **2** can run, 2 cannot" in said(at)
    refused = at.dataframe[0].value
    assert len(refused) == 2 and all("cannot load weights as int3" in why for why in refused["Why"])
    assert not at.button(key="sweep-start").disabled
    at = sound(fill(at, ["fake"], dtype="int3"))
    assert "Nothing in this grid can run here" in said(at) and at.button(key="sweep-start").disabled


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        ({"threads": "two"}, "'two' is no number of threads"),
        ({"threads": "1,,2"}, "is no axis"),
        (
            {"prompt_tokens": ",".join(map(str, range(1, 1001))), "batch": ",".join(map(str, range(1, 1001)))},
            "1,000,000",
        ),
    ],
)
def test_a_grid_that_is_none_or_too_large_is_said(app: Open, texts: dict[str, str], words: str) -> None:
    at = sound(fill(sound(app(PAGE)), ["fake"], **{"new_tokens": "2", **texts}))
    assert words in said(at)


def test_a_sweep_runs_in_a_process_of_its_own_and_is_shown(app: Open) -> None:
    at = sound(fill(sound(app(PAGE)), ["fake"], prompt_tokens="4", new_tokens="2, 3", threads="1"))
    sound(at.button(key="sweep-start").click().run())
    (name,) = sweep.sweeps() or (study_store.going(),)
    end = time.monotonic() + 60
    while study_store.going() and time.monotonic() < end:
        time.sleep(0.2)
    assert study_store.going() is None, study_store.last_words(str(name), 10)
    at = sound(at.run())
    assert "**2** done · **0** failed" in said(at)
    assert at.button(key="sweep-start").disabled, "it is done"
    table = at.dataframe[0].value
    assert list(table["Status"]) == ["Done", "Done"] and len(at.get("vega_lite_chart")) >= 2
    plan = sweep.load(data_dir() / "studies" / str(name)).plan
    assert plan.title.startswith("New tokens of")


def test_the_name_of_a_plan_is_in_the_list(app: Open) -> None:
    base = Request(model="smollm2-135m", backend="fake", task=Generate(prompt_tokens=4))
    plan = sweep.planned(base, (Axis(name="batch", values=(1, 2)),))
    assert plan.title == "Batch of smollm2-135m"
