"""Guessing strategies on a model that can be computed by hand: a Markov chain over a few tokens."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from core import plugins
from core.analysis.decoding import acceptance, tokens_per_forward
from core.decoding._pool import Pool, diagonals
from core.decoding.prompt_lookup import find
from core.types import GenerationConfig, Ids, Ledger, Sampling, Step
from hardware.errors import ExplorerError
from tests.support.steps import Taken, as_step, taken


class Rows:
    def __init__(self, values: NDArray[np.float32]) -> None:
        self._values = values

    def argmax(self) -> Ids:
        return self._values.argmax(-1)

    def numpy(self) -> NDArray[np.float32]:
        return self._values


class Spec:
    name = "chain"

    def __init__(self, vocab_size: int) -> None:
        self.vocab_size, self.n_blocks = vocab_size, 1


class Chain:
    """A session whose next token depends on the last one only: table[last] are the logits."""

    capabilities = frozenset({"forward", "cache", "rollback", "rewind"})
    max_context = 4096

    def __init__(self, table: NDArray[np.float64], vocab_size: int | None = None) -> None:
        self._table, self.spec = table.astype(np.float32), Spec(vocab_size or len(table))
        self.read: list[int] = []
        self._pending: list[int] = []
        self.n_forward, self.ran = 0, Ledger()

    @property
    def n_committed(self) -> int:
        return len(self.read)

    def forward(self, ids: Ids, keep: int | None = None) -> Rows:
        self._pending = ids[0].tolist()
        self.n_forward += 1
        n = ids.shape[1]
        self.ran.note(n, min(n, keep or n), len(self.read), len(ids))
        return Rows(self._table[ids[:, -keep:] if keep else ids])

    def commit(self, n: int) -> None:
        assert n <= len(self._pending)
        self.read += self._pending[:n]
        self._pending = []

    def rewind(self, n: int) -> None:
        assert 0 <= n <= len(self.read)
        del self.read[len(self.read) - n :]

    def reset(self) -> None:
        self.read, self._pending = [], []

    def sync(self) -> None:
        pass


CYCLE = np.roll(np.eye(6), 1, axis=1) * 9.0  # 0 -> 1 -> ... -> 5 -> 0
PROMPT = np.array([[0, 1, 2, 3, 4, 5, 0, 1]])


def decode(name: str, session: Any, *drafts: Any, limit: int = 31, **given: Any) -> list[Taken]:
    strategy = plugins.get("strategy", name)
    config = {k: given.pop(k) for k in ("sampling", "seed", "stop") if k in given}
    params = strategy.Params(**given)
    steps = strategy.decode(session, PROMPT, GenerationConfig(limit=limit, **config), params, *drafts)
    return taken(steps, session, *drafts)


def tokens_of(steps: list[Taken]) -> list[int]:
    return [token for step in steps if step.tokens for token in step.tokens[0]]


def accepted(steps: list[Taken]) -> list[int]:
    return [len(step.tokens[0]) for step in steps if step.phase == "decode"]


WANTED = [(2 + i) % 6 for i in range(31)]


def test_prompt_lookup_takes_whole_drafts_from_a_text_that_repeats() -> None:
    steps = decode("prompt_lookup", Chain(CYCLE), draft_length=5)
    assert tokens_of(steps) == WANTED
    # the first draft ends where the prompt does: 3 4 5 0 1 2 is followed by nothing yet
    assert accepted(steps)[0] == 6 and max(accepted(steps)) == 6 and sum(accepted(steps)) == 30
    assert len(accepted(steps)) <= 7


def test_a_draft_of_the_model_itself_is_always_accepted() -> None:
    target, draft = Chain(CYCLE), Chain(CYCLE)
    steps = decode("speculative", target, draft, draft_length=4)
    assert tokens_of(steps) == WANTED and accepted(steps) == [5] * 6
    assert [step.counts.drafts for step in steps if step.phase == "decode"] == [4] * 6
    assert draft.n_forward == 1 + 6 * 4 and target.n_forward == 1 + 6
    assert draft.read == [*PROMPT[0], *WANTED][: len(draft.read)]


def test_a_draft_that_is_always_wrong_costs_and_gives_nothing() -> None:
    backwards = Chain(np.roll(np.eye(6), -1, axis=1) * 9.0)
    steps = decode("speculative", Chain(CYCLE), backwards, draft_length=4)
    assert tokens_of(steps) == WANTED and accepted(steps) == [1] * 30
    assert backwards.read == [*PROMPT[0], *WANTED][: len(backwards.read)], "what was rejected is forgotten"


def test_a_drafts_token_that_the_model_does_not_know_ends_the_draft() -> None:
    strange = Chain(np.tile(np.eye(9)[8], (9, 1)) * 9.0)
    steps = decode("speculative", Chain(CYCLE), strange)
    assert tokens_of(steps) == WANTED and not any(step.guess for step in steps)
    hot = decode("speculative", Chain(CYCLE), strange, sampling=Sampling(temperature=5.0))
    assert max(token for step in hot for token in step.guess) < 6


class Narrow(Chain):
    """A draft of fewer tokens, which fails as a table of embeddings would."""

    def forward(self, ids: Ids, keep: int | None = None) -> Rows:
        assert ids.max() < self.spec.vocab_size, "index out of range"
        return super().forward(ids, keep)


def test_a_token_that_the_draft_does_not_know_ends_the_drafting_and_changes_nothing() -> None:
    wide = np.roll(np.eye(9), 1, axis=1) * 9.0  # 0 -> 1 -> ... -> 8 -> 0
    narrow = Narrow(CYCLE)
    steps = decode("speculative", Chain(wide), narrow, draft_length=4)
    assert tokens_of(steps) == [(2 + i) % 9 for i in range(31)]
    assert max(narrow.read) < 6 and any(step.guess for step in steps)
    hot = decode("speculative", Chain(wide * 0.2), Narrow(CYCLE), sampling=Sampling(temperature=2.0))
    assert len(tokens_of(hot)) == 31 and max(tokens_of(hot)) > 5


def test_a_prompt_that_the_draft_cannot_read_is_refused() -> None:
    with pytest.raises(ExplorerError, match="tokens that the draft model chain does not have"):
        decode("speculative", Chain(CYCLE), Narrow(CYCLE[:4, :4]))


class Song(Chain):
    """Its tokens follow from their places; only at every fourth place does it need the right token before."""

    def __init__(self) -> None:
        super().__init__(np.eye(7))
        self.text = np.random.default_rng(8).integers(0, 6, 200).tolist()
        self.text[: PROMPT.shape[1]] = PROMPT[0].tolist()

    def forward(self, ids: Ids, keep: int | None = None) -> Rows:
        super().forward(ids, keep)
        start, row = len(self.read), ids[0].tolist()
        sung = [self.text[start + j + 1] for j in range(len(row))]
        for j, token in enumerate(row):
            if (start + j + 1) % 4 == 0 and token != self.text[start + j]:
                sung[j] = (sung[j] + 1) % 6
        values = np.eye(7, dtype=np.float32)[sung][None]
        return Rows(values[:, -keep:] if keep else values)


@pytest.mark.parametrize("form", ["sliding", "block"])
def test_jacobi_accepts_many_tokens_where_the_window_converges(form: str) -> None:
    session = Song()
    steps = decode("jacobi", session, window=12, form=form, limit=121)
    assert tokens_of(steps) == session.text[8:129]
    found = acceptance(as_steps(steps))
    assert found and found.tokens_per_forward > 3 and found.fast_forwarded == 120 - found.n_forward
    assert 0 < found.stationary < found.fast_forwarded


def test_an_early_window_is_guessed_with_the_prompt_and_saves_a_step() -> None:
    late, early = (decode("jacobi", Song(), window=8, limit=61, early=e) for e in (False, True))
    assert tokens_of(early) == tokens_of(late)
    read = [[s.counts.inputs for s in steps if s.phase == "prefill"] for steps in (late, early)]
    assert read == [[8, 0], [8 + 7, 0]]  # the prompt, with 7 guesses behind it
    first = next(s for s in early if s.phase == "decode")
    assert len(first.tokens[0]) > 1  # the first step has guesses that a forward has seen
    assert next(len(s.tokens[0]) for s in late if s.phase == "decode") == 1


def test_a_cycle_never_converges_early() -> None:
    """A wrong phase stays wrong under a bijection, so Jacobi decoding gives what the theory says: nothing."""
    assert max(accepted(decode("jacobi", Chain(CYCLE), window=12))) == 1


def test_the_block_form_finishes_a_block_before_the_next() -> None:
    steps = [s for s in decode("jacobi", Song(), window=8, form="block", limit=61) if s.phase == "decode"]
    left, n_blocks = 0, 0
    for step in steps[:-8]:
        if left == 0:
            left, n_blocks = 8, n_blocks + 1
        assert step.counts.inputs == left, "the window shrinks by what was accepted"
        left -= len(step.tokens[0])
    assert n_blocks >= 3


def test_the_sliding_window_stays_full_until_the_limit_is_near() -> None:
    steps = [s for s in decode("jacobi", Song(), window=8, limit=61) if s.phase == "decode"]
    done = 1
    for step in steps:
        assert step.counts.inputs == min(8, 61 - done)
        done += len(step.tokens[0])


@pytest.mark.parametrize("form", ["sliding", "block"])
def test_nothing_is_guessed_behind_the_end_that_the_model_foresees(form: str) -> None:
    session = Song()
    session.text[50] = 6  # ends the text; what stands at place 49 foresees it
    steps = decode("jacobi", session, window=12, form=form, limit=61, stop={6})
    assert tokens_of(steps) == session.text[8:51]
    fed_to, done = [], 9
    for step in (s for s in steps if s.phase == "decode"):
        fed_to.append(done - 1 + step.counts.inputs - 1)
        done += len(step.tokens[0])
    foreseen = next(i for i, place in enumerate(fed_to) if place >= 49)
    assert fed_to[foreseen + 1 :] and max(fed_to[foreseen + 1 :]) == 49


def test_lookahead_learns_the_text_it_wrote() -> None:
    with_pool = decode("lookahead", Chain(CYCLE), limit=61, pool_from_prompt=False)
    assert tokens_of(with_pool) == [(2 + i) % 6 for i in range(61)]
    assert accepted(with_pool)[-3:] != [1, 1, 1] and len(accepted(with_pool)) < 40
    from_prompt = decode("lookahead", Chain(CYCLE), limit=61)
    assert accepted(from_prompt)[0] >= 4, "the prompt's n-grams are there from the first step"


def test_the_pool_keeps_the_newest_and_prefers_what_the_window_says() -> None:
    pool = Pool(2)
    for ngram in ([1, 2, 3], [1, 4, 5], [1, 2, 3], [1, 6, 7]):
        pool.add(ngram)
    assert pool.closest(1, []) == (6, 7), "the newest of equals"
    assert pool.closest(1, [2, 9]) == (2, 3), "and [1, 4, 5] was the oldest"
    assert pool.closest(1, [4, 5]) == (6, 7) and pool.closest(9, [1]) == ()


def test_diagonals_step_back_one_iteration_per_token() -> None:
    # positions 0 1 2 are known; the older row began at 1, the newer at 2
    rows = [(2, [12, 23, 24]), (1, [11, 32, 33])]
    found = list(diagonals([10, 11, 12], rows, [43, 44, 45], 3))
    # 43 at position 3 follows the newer row's 12 at 2 and the older row's 11 at 1
    assert found == [[11, 12, 43], [32, 23, 44], [33, 24, 45]]
    assert list(diagonals([10, 11, 12], rows[:1], [43], 3)) == [], "no n-grams before enough iterations"


def test_find_takes_the_longest_then_the_latest_place() -> None:
    assert find([1, 2, 3, 9, 2, 3, 8, 1, 2, 3], 3, 1, 2) == [9, 2]
    assert find([2, 3, 9, 2, 3, 8, 7, 2, 3], 3, 1, 2) == [8, 7]
    assert find([1, 2, 3], 3, 1, 4) == [] and find([5, 5], 3, 1, 4) == [5] and find([5], 3, 1, 4) == []
    assert find([7, 1, 2, 7], 3, 2, 4) == [], "one token is not enough"


def test_lookup_settings_that_contradict_are_refused() -> None:
    with pytest.raises(ExplorerError, match="n-gram"):
        decode("prompt_lookup", Chain(CYCLE), max_ngram=2, min_ngram=3)


def test_a_draft_with_a_short_context_or_no_way_back_is_refused() -> None:
    short, fixed = Chain(CYCLE), Chain(CYCLE)
    short.max_context = 20  # type: ignore[misc]
    fixed.capabilities = frozenset({"forward", "cache"})  # type: ignore[misc]
    with pytest.raises(ExplorerError, match="context of 20"):
        decode("speculative", Chain(CYCLE), short)
    with pytest.raises(ExplorerError, match="rewind"):
        decode("speculative", Chain(CYCLE), fixed)


# ---------------------------------------------------------------- speculative sampling is exact

N_DRAWS, N_TOKENS = 4000, 3
P = np.log(np.random.default_rng(1).dirichlet(np.ones(6), 6))
Q = np.log(np.random.default_rng(2).dirichlet(np.ones(6), 6))


def counts(name: str, sampling: Sampling, *drafts: Any, **params: Any) -> NDArray[np.int64]:
    """How often each triple of tokens was drawn, over N_DRAWS seeds."""
    found = np.zeros((6,) * N_TOKENS, dtype=np.int64)
    session = Chain(P)
    for seed in range(N_DRAWS):
        steps = decode(name, session, *drafts, limit=N_TOKENS + 1, sampling=sampling, seed=seed, **params)
        found[tuple(tokens_of(steps)[1:])] += 1
    return found


def expected(sampling: Sampling) -> NDArray[np.float64]:
    """The exact probabilities of the triples, after any first token."""
    from core.decoding._prompt import probabilities

    t = probabilities(P.astype(np.float32), sampling)
    return np.einsum("f,fa,ab,bc->abc", t[int(PROMPT[0, -1])], t, t, t)


def p_value(observed: NDArray[np.int64], wanted: NDArray[np.float64]) -> float:
    """Pearson's chi-square; cells with fewer than five expected are joined."""
    e = wanted.ravel() * observed.sum()
    o = observed.ravel()
    assert not o[e == 0].any(), "a token that cannot be drawn was drawn"
    rare = e < 5
    e, o = np.append(e[~rare], e[rare].sum()), np.append(o[~rare], o[rare].sum())
    e, o = e[e > 0], o[e > 0]
    degrees = len(e) - 1
    statistic = float(((o - e) ** 2 / e).sum())
    # Wilson and Hilferty's normal approximation of the chi-square's tail
    z = ((statistic / degrees) ** (1 / 3) - (1 - 2 / (9 * degrees))) / np.sqrt(2 / (9 * degrees))
    from math import erfc

    return 0.5 * erfc(float(z) / np.sqrt(2))


@pytest.mark.parametrize(
    "sampling",
    [Sampling(temperature=1.0), Sampling(temperature=0.7, top_k=3), Sampling(temperature=1.5, top_p=0.8)],
    ids=["plain", "top-k", "top-p"],
)
def test_speculative_sampling_is_distributed_as_the_large_model(sampling: Sampling) -> None:
    found = counts("speculative", sampling, Chain(Q), draft_length=2)
    assert p_value(found, expected(sampling)) > 1e-3


def test_the_chi_square_sees_a_wrong_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the correction a draft model's text would be its own; the test must notice."""
    from core.decoding import _draft

    monkeypatch.setattr(_draft, "accept_sampled", lambda logits, guess, q, *_: [*guess, 0][:3])
    plain = Sampling(temperature=1.0)
    assert p_value(counts("speculative", plain, Chain(Q), draft_length=2), expected(plain)) < 1e-6


def test_jacobi_sampling_is_distributed_as_the_model() -> None:
    plain = Sampling(temperature=1.0)
    assert p_value(counts("jacobi", plain, window=3), expected(plain)) > 1e-3


# ---------------------------------------------------------------- and what the steps say of it


def as_steps(found: list[Taken]) -> list[Step]:
    return [as_step(a) for a in found]


def test_tokens_per_forward_of_a_whole_run() -> None:
    assert tokens_per_forward(as_steps(decode("speculative", Chain(CYCLE), Chain(CYCLE)))) == 5.0
    assert tokens_per_forward(as_steps(decode("autoregressive", Chain(CYCLE)))) == 1.0


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=0.7)])
@pytest.mark.parametrize("strategy", ["autoregressive", "prompt_lookup"])
def test_a_model_that_computes_no_numbers_says_so_instead_of_its_first_token(strategy: str, sampling: Sampling) -> None:
    """Overflow in fp16 and damaged weights: the best of NaN is the token 0, which other programs print on and on."""
    plugin = plugins.get("strategy", strategy)
    prompt, config = np.array([[1, 2]]), GenerationConfig(limit=4, sampling=sampling)
    with pytest.raises(ExplorerError, match=r"computes no numbers from this prompt \(NaN\)"):
        list(plugin.decode(Chain(np.full((5, 5), np.nan)), prompt, config, plugin.Params()))
    first = np.eye(5)[[0] * 5] * 99.0  # the token 0 behind every other, as a model can want it
    steps = list(plugin.decode(Chain(first), prompt, config, plugin.Params()))
    assert {token for step in steps for row in step.tokens for token in row} == {0}
