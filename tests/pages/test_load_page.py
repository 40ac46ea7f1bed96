"""The load test's page: its form answers in sentences, and a test is shown with its figures, notes and files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from streamlit.testing.v1 import AppTest

from core.endpoints import store
from core.loadtest.events import Answered, Began, Broken, Done, Ended, Event, Opened, Outcome, Told
from core.loadtest.load_store import LoadStore, LoadTest
from core.loadtest.objectives import Objectives
from core.loadtest.plan import Plan
from core.paths import data_dir
from core.types import to_json
from tests.pages.conftest import sound

Open = Callable[..., AppTest]
PAGE = "pages/measure/load.py"
PLAN = Plan(address="http://127.0.0.1:9", model="<b>m</b>", levels=(1.0, 2.0), objectives=Objectives(ttft=40))


def answers(level: int, users: int) -> list[Event]:
    """Each user asks every half second; the answers to the second one come late."""
    found: list[Event] = []
    for i in range(40):
        for user in range(users):
            at, first = i * 0.25, 0.03 + 0.03 * user
            outcome = Outcome(
                index=i,
                begun_s=at,
                sent_s=at + 0.001,
                connect_s=0.001,
                first_s=at + first,
                last_s=at + 0.24,
                ended_s=at + 0.25,
                n_tokens=4,
                first_tokens=1,
                asked_tokens=4,
                prompt_tokens=12,
                counted_by="chunks",
                single=True,
                gaps_s=(0.07, 0.07, 0.07),
                failure="busy" if i == 30 and user else "",
                reason="The server takes *no* more." if i == 30 and user else "",
            )
            found.append(Answered(t_s=level * 20 + at, level=level, outcome=outcome))
    return found


def shelved(*more: Event, plan: Plan = PLAN) -> LoadTest:
    test = LoadStore(data_dir()).create(plan, local=True)
    events: list[Event] = [Told(t_s=0.0, words="A first request took 1.00 s and does not count.")]
    for level, users in enumerate((1, 2)):
        events += [Began(t_s=level * 20, level=level, load=users), Opened(t_s=level * 20, level=level, at_s=0.0)]
        events += [*answers(level, users), Ended(t_s=level * 20 + 11, level=level, close_s=10.1, cpu_s=0.3)]
    (test.path / "events.jsonl").write_bytes(b"".join(to_json(e) + b"\n" for e in (*events, *more)))
    return test


def known() -> None:
    """A server that the user added, so that the form has one to offer."""
    endpoint = store.Endpoint(url="http://127.0.0.1:9/v1", flavour="llama_cpp")
    place = store.folder() / store.name_of(endpoint.url)
    place.mkdir(parents=True)
    (place / store.ABOUT).write_bytes(to_json(endpoint))


def words(at: AppTest) -> str:
    return " ".join(e.value for kind in ("markdown", "caption", "info", "error", "warning") for e in at.get(kind))


def test_a_finished_test_is_shown(app: Open) -> None:
    test = shelved(Done(t_s=40.0))
    at = sound(app(PAGE))
    charts = [e.proto.alt for e in at.get("vega_lite_chart")]
    assert [a.split(" over ")[0] for a in charts] == [
        "Time to first token",
        "Requests per second",
        "40 requests of a level",
    ]
    assert len(at.dataframe) == 2 and list(at.dataframe[0].value["users"]) == ["1", "2"]
    assert list(at.dataframe[0].value["good/bad/unknown"]) == ["40/0/0", "40/40/0"]
    said = words(sound(at.segmented_control(key=f"load-level-{test.id}").set_value("2").run()))
    assert "1 × busy" in said and "does not count" in said and "\\*no\\*" in said, "a server's words are no Markdown"
    assert "\\<b\\>m" in said
    assert {b.label for b in at.get("download_button")} >= {"Levels as CSV", "Requests as CSV", "All as JSON"}
    sound(at.segmented_control(key="load-metric").set_value("e2e").run())


def test_a_test_that_is_going_shows_its_requests_and_can_be_stopped(app: Open) -> None:
    test = shelved(Began(t_s=40.0, level=2, load=4.0), *answers(2, 1)[:9])
    test.own()
    at = sound(app(PAGE))
    assert "warming up" in at.get("progress")[0].proto.text
    charts = [e.proto.alt for e in at.get("vega_lite_chart")]
    assert charts[0].startswith("9 requests of a level") and len(charts) == 4
    assert "129 requests" in words(at)
    assert at.button(key="load-stop").click().run().button(key="load-stop").disabled and test.cancel_requested


def test_no_empty_file_is_offered(app: Open) -> None:
    test = LoadStore(data_dir()).create(PLAN, local=True)
    (test.path / "events.jsonl").write_bytes(to_json(Broken(t_s=1.0, message="Nobody listens.")) + b"\n")
    at = sound(app(PAGE))
    assert [b.label for b in at.get("download_button")] == ["All as JSON"]
    at.button(key="load-delete").click().run()
    assert [t.value for t in sound(at).toast] == ["The load test is deleted."] and not LoadStore(data_dir()).rows()


@pytest.mark.parametrize(
    ("end", "plan", "word"),
    [
        (Broken(t_s=41.0, message="Nobody listens.", hint="Start the server."), PLAN, "Start the server"),
        (None, PLAN, "ended without a word"),
        (Done(t_s=41.0), msgspec.structs.replace(PLAN, find=True), "1 user met the objectives"),
    ],
)
def test_every_end_is_told(app: Open, end: Event | None, plan: Plan, word: str) -> None:
    shelved(*([end] if end else []), plan=plan)
    at = sound(app(PAGE))
    assert word in words(at) or any(word in e.proto.body for e in at.error)
    assert at.get("vega_lite_chart"), "what was measured is kept"


def test_damaged_tests_and_foreign_ids_are_sentences(app: Open) -> None:
    test = shelved(Done(t_s=40.0))
    (test.path / "about.json").write_text("{")
    for asked in (test.id, "../../etc", "20990101-000000-000aaaa"):
        assert "damaged" in " ".join(e.proto.title + e.proto.body for e in sound(app(PAGE, load=asked)).error)


@pytest.mark.parametrize(
    ("key", "value", "word"), [("load-levels-closed", "1, x", "loads"), ("load-prompt", "0", "length")]
)
def test_the_form_answers_in_sentences(app: Open, key: str, value: str, word: str) -> None:
    assert sound(app(PAGE)).button(key="load-start").disabled
    known()
    at = sound(app(PAGE))
    assert not at.button(key="load-start").disabled
    at.text_input(key=key).set_value(value).run()
    assert sound(at).button(key="load-start").disabled
    assert word in " ".join(w.proto.title + w.proto.body for w in at.warning)


def test_a_bad_address_is_answered_in_a_sentence(app: Open) -> None:
    at = sound(app(PAGE, **{"load-server": "ftp://x"}))
    assert at.button(key="load-start").disabled and "address" in at.warning[0].proto.title


def test_start_hands_the_plan_over(app: Open, monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    asked: list[tuple[Plan, bool]] = []

    def start(self: Any, plan: Plan, local: bool) -> LoadTest:
        asked.append((plan, local))
        return shelved(Done(t_s=40.0))

    monkeypatch.setattr(LoadStore, "start", start)
    known()
    at = app(PAGE)
    at.selectbox(key="load-loop").set_value("open").run()
    at.text_input(key="load-levels-open").set_value("0.5, 3").run()
    at.number_input(key="load-ttft-none").set_value(250.0).run()
    sound(at.button(key="load-start").click().run())
    ((plan, local),) = asked
    assert (plan.mode, plan.levels, plan.objectives.ttft, local) == ("open", (0.5, 3.0), 250.0, True)
    assert len(at.dataframe) == 2, "the new test is shown"
