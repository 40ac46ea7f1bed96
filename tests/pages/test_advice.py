"""The page Advice: what it says of a run, one click that tries it, and the adviser's record."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest
from streamlit.testing.v1 import AppTest

from core.advice.book import Book
from core.paths import data_dir
from core.runs.runner import Runner
from core.runs.store import Store
from hardware import detect
from tests.pages.conftest import TINY, sound
from tests.pages.test_plan import words
from tests.support.undisturbed import undisturbed

Open = Callable[..., AppTest]
ADVICE = "pages/plan/advice.py"


@pytest.fixture
def guessable(store: Store) -> str:
    """A run whose forwards cost the same whatever their size, so that guessing is advised."""
    runner = Runner(store)
    asked = msgspec.structs.replace(TINY, profilers=("forward_cost",), options={"delay_s": 0.03}, retries=0)
    run = undisturbed(runner.wait(runner.start(asked)))
    runner.close()
    assert run.status() == "done"
    return run.id


def test_without_ceilings_it_says_what_is_missing(app: Open, filled: Store) -> None:
    at = sound(app(ADVICE))
    assert "Short of evidence" in words(at) and "No record yet" in words(at)


def test_a_run_of_another_machine_is_said_to_be_one(app: Open, filled: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "Another machine ran this" not in words(sound(app(ADVICE)))
    monkeypatch.setattr(detect, "machine_id", lambda: "another")
    assert "Another machine ran this" in words(sound(app(ADVICE)))


def test_what_is_missing_is_measured_by_a_button(app: Open, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    from pages.ui import ceilings

    runner = Runner(store)
    plain = undisturbed(runner.wait(runner.start(msgspec.structs.replace(TINY, profilers=(), retries=0))))
    runner.close()
    at = sound(app(ADVICE))
    assert at.button(key="ceilings-start").label == "Measure this machine"
    begun: list[int] = []
    monkeypatch.setattr(ceilings.Measuring, "start", lambda self, root: begun.append(self.threads))
    at = sound(at.button(key="ceilings-start").click().run())
    assert begun == [1], "with the threads of the run"
    ceilings.jobs.clear()

    again = at.button(key="advice-again")
    assert again.label == "Run it again with: Cost of a forward pass"
    at = sound(again.click().run())
    (other,) = [run_id for run_id in store.ids() if run_id != plain.id]
    assert at.query_params["run"] in (other, [other])
    run = store.open(other)
    assert run.request.profilers == ("forward_cost",)
    assert run.request.task == plain.request.task
    Runner(store).wait(other)
    undisturbed(run)
    at = sound(at.run())
    assert "tokens costs was not measured" not in words(at) and "advice-again" not in [b.key for b in at.button]


def test_while_the_run_goes_on_it_waits_for_its_end(app: Open, store: Store) -> None:
    runner = Runner(store)
    slow = msgspec.structs.replace(TINY, options={"delay_s": 0.2}, retries=0)
    run_id = runner.start(slow)
    try:
        at = sound(app(ADVICE, run=run_id))
        assert "when the run has ended" in words(at) and "did not end well" not in words(at)
    finally:
        runner.cancel(run_id)
        runner.wait(run_id)
        runner.close()


def test_one_click_tries_it_and_the_receipt_is_kept(app: Open, guessable: str) -> None:
    from pages.plan._trial_view import trials

    at = sound(app(ADVICE, run=guessable))
    assert "Guess tokens" in words(at) and "not tried" in words(at)
    (case,) = [c for c in Book(data_dir()).cases() if c.advice.rule == "guess"]
    at.button(key=f"advice-try-{case.advice.id}").click().run()
    thread = trials()["trial"].thread
    assert thread is not None
    thread.join(180)
    assert not thread.is_alive()
    trials.clear()
    (case,) = [c for c in Book(data_dir()).cases() if c.advice.rule == "guess"]
    assert len(case.baseline_runs) == len(case.changed_runs) == 5 and case.verdict is not None
    at = sound(app(ADVICE, run=guessable))
    assert case.verdict.outcome in words(at) and "5 more pairs" in [b.label for b in at.button]
    table = at.dataframe[0].value.set_index("Rule")
    assert table.loc["Guess tokens", "Offered"] == 1


def test_a_damaged_book_does_not_stop_it(app: Open, filled: Store) -> None:
    folder = data_dir() / "advice"
    folder.mkdir()
    (folder / "abc.json").write_text('{"advice": 3')
    assert "No record yet" in words(sound(app(ADVICE)))
