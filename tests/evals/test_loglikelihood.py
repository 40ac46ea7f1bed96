"""A subject's log-likelihoods: against a softmax by hand, and what calls with a common beginning share."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from core import plugins
from core.models import spec as specs
from core.types import Request, Session
from core.worker.subject import ModelUnderTest
from hardware.errors import ExplorerError
from tests.support.tiny import MAX_CONTEXT, hf_folder

pytestmark = pytest.mark.engine("pytorch")

PROMPT, OPTIONS = [40, 41, 42, 50, 51, 60, 61, 62], ([70], [71, 72], [70, 73, 74])


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    path = str(hf_folder(tmp_path_factory.mktemp("tiny")))
    request = Request(model="tiny", backend="pytorch", threads=1)
    session: Session = plugins.get("backend", "pytorch").open(path, specs.read(path, "hf"), request, lambda *_: None)
    yield session
    session.close()


class Counting:
    """The session, counting the tokens it is fed. without: capabilities to hide."""

    def __init__(self, session: Session, without: str = "") -> None:
        self._session, self.n_fed = session, 0
        self.capabilities = session.capabilities - {without}
        session.reset()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def forward(self, ids: Any, keep: int | None = None) -> Any:
        self.n_fed += ids.shape[1]
        return self._session.forward(ids, keep)


def under_test(session: Any) -> ModelUnderTest:
    return ModelUnderTest(session, None, plugins.get("strategy", "autoregressive"), None)


def by_hand(session: Session, ids: list[int], continuation: list[int]) -> tuple[float, bool]:
    session.reset()
    logits = session.forward(np.array([[*ids, *continuation]])).numpy()[0].astype(np.float64)
    rows = logits[len(ids) - 1 : -1]
    log_p = rows - np.log(np.exp(rows).sum(-1, keepdims=True))
    picked = log_p[np.arange(len(continuation)), continuation]
    return float(picked.sum()), bool((rows.argmax(-1) == continuation).all())


def test_it_is_the_softmax_by_hand(opened: Session) -> None:
    subject = under_test(opened)
    for option in OPTIONS:
        found, greedy = subject.loglikelihood(PROMPT, option)
        wanted, best = by_hand(opened, PROMPT, option)
        assert found == pytest.approx(wanted, rel=1e-5) and greedy == best
        subject = under_test(opened)  # by_hand left the session elsewhere
    opened.reset()
    first = int(opened.forward(np.array([PROMPT]), keep=1).argmax()[0, 0])
    assert under_test(opened).loglikelihood(PROMPT, [first])[1]


def test_a_common_beginning_is_read_once(opened: Session) -> None:
    session = Counting(opened)
    subject = under_test(session)
    shared = [subject.loglikelihood(PROMPT, option) for option in OPTIONS]
    # the prompt once; then of each option all but its last token
    assert session.n_fed == len(PROMPT) + sum(len(option) - 1 for option in OPTIONS)
    assert session.n_committed == len(PROMPT) + len(OPTIONS[-1]) - 1
    alone = Counting(opened, without="rewind")
    fresh = under_test(alone)
    assert [fresh.loglikelihood(PROMPT, option)[0] for option in OPTIONS] == pytest.approx(
        [value for value, _ in shared], rel=1e-5
    )
    # the second goes on where the first ended, and the third cannot
    assert alone.n_fed == len(PROMPT) + 1 + len(PROMPT) + len(OPTIONS[2]) - 1


def test_choices_of_one_token_are_a_single_forward(opened: Session) -> None:
    for without in ("", "rewind"):
        session = Counting(opened, without)
        subject = under_test(session)
        found = [subject.loglikelihood(PROMPT, [choice]) for choice in (70, 71, 72, 70)]
        assert session.n_fed == len(PROMPT) and found[0] == found[3]
        rows = np.concatenate(list(under_test(opened).logprobs(opened, [*PROMPT, 70], len(PROMPT))))
        assert [value for value, _ in found] == pytest.approx([float(rows[0, i]) for i in (70, 71, 72, 70)], rel=1e-5)


def test_logits_are_kept_though_the_backend_writes_there_again(opened: Session) -> None:
    class Reusing(Counting):
        """Its logits lie in one place, as llama.cpp's do."""

        def __init__(self) -> None:
            super().__init__(opened)
            self._place = np.zeros((1, 99, opened.spec.vocab_size), dtype=np.float32)

        def forward(self, ids: Any, keep: int | None = None) -> Any:
            made = super().forward(ids, keep).numpy()
            held = self._place[:, : made.shape[1]]
            held[:] = made
            return SimpleNamespace(numpy=lambda: held, argmax=lambda: held.argmax(-1))

    subject = under_test(Reusing())
    asked = [(PROMPT, [70, 71]), (PROMPT, [70, 73, 74]), (PROMPT, [72]), ([*PROMPT, 70], [75])]
    got = [subject.loglikelihood(ids, option)[0] for ids, option in asked]
    assert got == pytest.approx([by_hand(opened, list(ids), option)[0] for ids, option in asked], rel=1e-5)


def test_a_shorter_question_after_a_longer_one(opened: Session) -> None:
    subject = under_test(opened)
    subject.loglikelihood(PROMPT, OPTIONS[2])
    got = [subject.loglikelihood(ids, [70])[0] for ids in (PROMPT[:3], [PROMPT[0]], PROMPT[:5], [99, 98])]
    want = [by_hand(opened, ids, [70])[0] for ids in (PROMPT[:3], [PROMPT[0]], PROMPT[:5], [99, 98])]
    assert got == pytest.approx(want, rel=1e-5)


def test_log_probabilities_in_between_do_not_confuse_it(opened: Session) -> None:
    subject = under_test(opened)
    before = subject.loglikelihood(PROMPT, [70])
    rows = np.concatenate(list(subject.logprobs(opened, [*PROMPT, 70], 1)))
    assert rows.shape == (len(PROMPT), opened.spec.vocab_size)
    assert np.exp(rows.astype(np.float64)).sum(-1) == pytest.approx(1, abs=1e-5)
    assert rows[-1, 70] == pytest.approx(before[0], rel=1e-5)
    assert subject.loglikelihood(PROMPT, [70])[0] == pytest.approx(before[0], rel=1e-5)


def test_the_last_token_needs_no_room(opened: Session) -> None:
    whole = [40 + i % 50 for i in range(MAX_CONTEXT + 1)]
    found = under_test(opened).loglikelihood(whole[:-4], whole[-4:])[0]
    rows = np.concatenate(list(under_test(opened).logprobs(opened, whole, MAX_CONTEXT - 3)))
    assert found == pytest.approx(float(rows[np.arange(4), whole[-4:]].sum()), rel=1e-5)
    with pytest.raises(ExplorerError, match="needs 97 tokens"):
        under_test(opened).loglikelihood([40, *whole[:-4]], whole[-4:])
