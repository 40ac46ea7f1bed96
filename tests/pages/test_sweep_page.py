"""The Sweep page: a grid is counted and looked at before it runs, is measured or searched, and is shown."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress

import msgspec
import pytest
from streamlit.testing.v1 import AppTest

from core.studies import search, study_store, sweep
from core.studies.plan import Axis, Search, Sweep
from core.types import Generate, Request
from pages.ui import sweep_view
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
        ({"threads": "two"}, "'two' is not a number of threads"),
        ({"threads": "1,,2"}, "is not an axis"),
        (
            {"prompt_tokens": ",".join(map(str, range(1, 1001))), "batch": ",".join(map(str, range(1, 1001)))},
            "1,000,000",
        ),
    ],
)
def test_a_grid_that_is_none_or_too_large_is_said(app: Open, texts: dict[str, str], words: str) -> None:
    at = sound(fill(sound(app(PAGE)), ["fake"], **{"new_tokens": "2", **texts}))
    assert words in said(at)


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> list[Sweep | Search]:
    """What the buttons start is carried out at once and in this process, without repeats of disturbed passes."""
    started: list[Sweep | Search] = []

    def start(plan: Sweep | Search, minutes: float, *more: str) -> None:
        started.append(plan)
        base = msgspec.structs.replace(plan.base, retries=0, warmup=0, profilers=())
        if isinstance(plan, Search):
            search.seek(msgspec.structs.replace(plan, base=base, final_rounds=1), minutes, lambda words: None)
        else:
            sweep.carry_out(msgspec.structs.replace(plan, base=base), minutes, lambda words: None)

    monkeypatch.setattr(study_store, "start_sweep", start)
    return started


def test_a_sweep_is_measured_and_shown(app: Open, at_once: list[Sweep | Search]) -> None:
    at = sound(fill(sound(app(PAGE)), ["fake"], prompt_tokens="4", new_tokens="2, 3", threads="1"))
    at = sound(at.button(key="sweep-start").click().run())
    (plan,) = at_once
    assert plan.title == "smollm2-135m: new tokens" and plan.base.profilers == ("memory",)
    assert "**2** done · **0** failed" in said(at)
    table = at.dataframe[0].value
    assert list(table["Status"]) == ["Done", "Done"] and len(at.get("vega_lite_chart")) >= 2
    found = sweep_view.report_of(plan.name)
    for disturbed in (True, False):
        rows = tuple(msgspec.structs.replace(row, disturbed=disturbed) for row in found.rows)
        changed = msgspec.structs.replace(found, rows=rows)
        cells = [sweep_view._cells(row, changed) for row in sweep.flat(changed)]
        told = [cell["Decode speed"] for cell in cells]
        assert all("tok/s" in words and words.startswith("~ ") == disturbed for words in told), told
        words = "2 of 2 measured cells were disturbed by other programs (~)." if disturbed else ""
        assert sweep_view.disturbed_words(changed) == words


def test_a_sweep_that_is_going_is_not_missing(app: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    assert any("No sweep yet" in m.value for m in sound(app(PAGE)).markdown)
    monkeypatch.setattr(study_store, "going", lambda: "sweep-of-now")
    at = sound(app(PAGE))
    assert not any("No sweep yet" in m.value for m in at.markdown)
    assert any("Nothing to show yet" in m.value for m in at.markdown)


def test_a_sweep_that_is_going_shows_its_cells_as_they_are_measured(app: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    base = Request(model="tiny-moe", backend="fake", task=Generate(prompt_tokens=4), threads=1, profilers=(), retries=0)
    axes = (Axis(name="batch", values=(1, 2)), Axis(name="new_tokens", values=(2, 3)))
    plan = sweep.planned(base, axes)
    monkeypatch.setattr(study_store, "going", lambda: plan.name)
    at = sound(app(PAGE))
    drawn: list[int] = []
    for most in (1, 4):
        with suppress(EnoughError):
            sweep.carry_out(plan, 5, after(most))
        sound(at.run())
        done = list(at.dataframe[0].value["Status"]).count("Done")
        assert f"**{done}** done" in said(at)
        drawn.append(done)
        assert [w.value for w in at.selectbox if w.label in ("Across", "Down, or lines")] == ["new_tokens", "batch"]
    assert 0 < drawn[0] < drawn[1] == 4


def test_a_search_that_is_going_shows_what_it_has_measured(app: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    base = Request(model="tiny-moe", backend="fake", task=Generate(prompt_tokens=4), threads=1, profilers=(), retries=0)
    axes = (Axis(name="batch", values=(1, 2)), Axis(name="new_tokens", values=(2, 3)))
    plan = search.searching(base, axes, ("tok_per_s",), total=4, final_rounds=1)
    monkeypatch.setattr(study_store, "going", lambda: plan.name)
    at = sound(app(PAGE).segmented_control(key="sweep-mode").set_value("Search for the best").run())
    assert "Nothing to show yet" in said(at)
    runs: list[int] = []
    for most in (1, 20):
        with suppress(EnoughError):
            search.seek(plan, 5, after(most))
        sound(at.run())
        runs.append(int(at.dataframe[0].value["Runs"].sum()))
        (over,) = re.findall(r"\*\*(\d)\*\* of at most 9 runs", at.get("progress")[0].proto.text)
        assert int(over) == runs[0] if most == 1 else int(over) > 4, "final rounds count"
        assert ("figures that count come by themselves" in said(at)) == (most == 1)
    assert 0 < runs[0] < runs[1] == 4
    assert "go on with the search" not in said(at)


class EnoughError(Exception):
    """The sweep is stopped here."""


def after(most: int) -> Callable[[str], None]:
    """What a sweep tells; stopped after so many cells and the reference cell."""
    told: list[str] = []

    def say(words: str) -> None:
        told.append(words)
        if len(told) > most + 1:
            raise EnoughError

    return say


def test_a_search_chooses_within_limits(app: Open, at_once: list[Sweep | Search]) -> None:
    at = fill(sound(app(PAGE)), ["fake"], prompt_tokens="4", new_tokens="3", threads="1")
    at.text_area(key="sweep-more").set_value("fake.delay_s=0.2,0.0")
    at = sound(at.segmented_control(key="sweep-mode").set_value("Search for the best").run())
    assert "No search yet" in said(at)
    at.multiselect(key="search-goals").set_value(["tok_per_s"])
    measurements = next(w for w in at.number_input if w.label == "Measurements")
    assert measurements.value == 2, "no more than there are cells"
    at.number_input(key="search-latency_s").set_value(60.0)
    at = sound(at.run())
    assert "All 2 cells are predicted and measured; then" in said(at)
    at = sound(at.button(key="search-start").click().run())
    (plan,) = at_once
    assert isinstance(plan, Search) and plan.total == 2 and plan.constraints[0].limit == 60.0
    assert "delay per step 0.0\\: of all that meet the constraints" in said(at) and "costs nothing here" in said(at)
    assert at.dataframe[0].value["Stage"].iloc[0] == "Finalist"


def test_the_name_of_a_plan_is_in_the_list(app: Open) -> None:
    base = Request(model="smollm2-135m", backend="fake", task=Generate(prompt_tokens=4))
    plan = sweep.planned(base, (Axis(name="batch", values=(1, 2)),))
    assert plan.title == "smollm2-135m: batch"


def test_other_machines_are_named_on_the_page(app: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[tuple[str, tuple[str, ...]]] = []
    monkeypatch.setattr(study_store, "start_sweep", lambda plan, minutes, *more: started.append((plan.name, more)))
    at = sound(fill(sound(app(PAGE)), ["fake"], prompt_tokens="4", new_tokens="2, 3", threads="1"))
    assert not [r for r in at.radio if r.key == "sweep-divide"]
    at = sound(fill(at, ["fake"], on="lab, desk:99", where="host=lab,desk gpu=a100", **{"key-from": "LAB_KEY"}))
    assert "the others say themselves what cannot run there" in said(at)
    at = sound(at.button(key="sweep-start").click().run())
    at.radio(key="sweep-divide").set_value("takes its share").run()
    at = sound(at.button(key="sweep-start").click().run())
    named = ("--on", "lab, desk:99", "--where", "host=lab,desk", "--where", "gpu=a100", "--key-from", "LAB_KEY")
    assert [more for _, more in started] == [named, (*named, "--divide")]
    assert started[1][0] == f"{started[0][0]}-divided"
    at.segmented_control(key="sweep-mode").set_value("Search for the best").run()
    assert "Each machine searches by itself" in said(at)
    sound(at.button(key="search-start").click().run())
    assert started[2][0].startswith("search-") and started[2][1] == named
