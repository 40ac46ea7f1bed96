"""A trial with the real runner on the fake backend: pairs in turns, what cannot run, stopping and going on."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import pytest

from core.advice.book import Book
from core.advice.gather import evidence_of
from core.advice.record import Advice, Bottleneck, Case, Gain, advice_id, as_trial
from core.advice.rules import RULES, advise
from core.advice.trial import attempt
from core.runs.runner import Runner
from core.runs.store import Store
from core.types import Evaluate, Generate, Request
from hardware.errors import ExplorerError
from tests.support.undisturbed import undisturbed

TINY = Request(
    model="tiny-moe", backend="fake", task=Generate(prompt="Hello there", max_new_tokens=4), threads=1, retries=0
)


@pytest.fixture
def runner(store: Store) -> Iterator[Runner]:
    found = Runner(store)
    yield found
    found.close()


def advice(changed: Request) -> Advice:
    baseline, after = as_trial(TINY, "tpot_s"), as_trial(changed, "tpot_s")
    return Advice(
        id=advice_id("fewer_calls", baseline, after), rule="fewer_calls", evidence=("r",),
        bottleneck=Bottleneck(phase="decode", group="calls"), finding="f.", change="c.", baseline=baseline,
        changed=after, metric="tpot_s", gain=Gain(likely=2.0, low=1.5, high=3.0, basis="b."), quality="unknown",
        against=False, made_at=1.0,
    )  # fmt: skip


def test_pairs_are_interleaved_stopped_and_gone_on_with(store: Store, runner: Runner) -> None:
    book, seen = Book(store.root), []
    (case,) = book.offer([advice(msgspec.structs.replace(TINY, options={"delay_s": 0.001}))])
    case = attempt(
        case, runner, book, 2, lambda words, done, total: seen.append((words, done, total)), lambda: len(seen) == 3
    )
    assert [words for words, _, _ in seen] == ["the baseline", "the change", "the change"]
    assert (len(case.baseline_runs), len(case.changed_runs)) == (1, 1), "the third run was stopped before it counted"
    assert book.find(case.advice.id) == case
    again = attempt(case, runner, book, 1, lambda words, done, total: seen.append((words, done, total)))
    assert [words for words, _, _ in seen[3:]] == ["the change", "the baseline"], "every other pair is turned round"
    assert again.verdict is not None and again.verdict.outcome == "undecided", "two pairs have no interval"
    assert again.verdict.same_text is True
    for run_id, delay in zip((*again.baseline_runs, *again.changed_runs), (0.0, 0.0, 0.001, 0.001), strict=True):
        assert store.open(run_id).request.options.get("delay_s", 0.0) == delay


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (msgspec.structs.replace(TINY, model="nowhere"), "nowhere"),
        (msgspec.structs.replace(TINY, strategy="medusa"), "needs"),
        (msgspec.structs.replace(TINY, options={"crash": "SIGSEGV"}), "crashed inside"),
    ],
)
def test_what_cannot_run_is_a_verdict(store: Store, runner: Runner, changed: Request, words: str) -> None:
    case = attempt(Case(advice=advice(changed)), runner, Book(store.root), 1)
    assert case.verdict is not None and case.verdict.outcome == "could not run"
    assert words in case.verdict.sentence


def test_evidence_of_a_run_without_ceilings(store: Store, runner: Runner) -> None:
    run = undisturbed(runner.wait(runner.start(TINY)))
    advices, silences = advise(evidence_of(store, run.id))
    assert len(advices) + len(silences) == len(RULES)
    assert any(s.short for s in silences)


def test_no_advice_about_what_is_no_finished_generation(store: Store, runner: Runner) -> None:
    made = store.create(msgspec.structs.replace(TINY, task=Evaluate(eval="qa")))
    with pytest.raises(ExplorerError, match="about a generation"):
        evidence_of(store, made.id)
    with pytest.raises(ExplorerError, match="did not end well"):
        evidence_of(store, store.create(TINY).id)
