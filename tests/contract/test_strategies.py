"""What every exact strategy must do, on every backend: the tokens of autoregressive decoding, and exact counts.

All strategies that generate are found by the registry; tiny models as in test_backends.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import numpy as np
import pytest

from core import plugins
from core.types import GenerationConfig, Ids, Sampling, Session
from hardware.errors import ExplorerError
from tests.support.steps import Taken, taken
from tests.support.tiny_session import BACKENDS, module_of, opened

GENERATING = {"cache", "stream"}  # a strategy that needs neither reads the prompt and stops
STRATEGIES = [name for name in plugins.names("strategy") if plugins.get("strategy", name).needs & GENERATING]
EXACT = [name for name in STRATEGIES if plugins.get("strategy", name).exact]
GUESSING = [name for name in EXACT if plugins.get("strategy", name).single]
VARIANTS: dict[str, tuple[dict[str, Any], ...]] = {
    "jacobi": (
        *({}, {"form": "block", "window": 5}, {"window": 1}, {"window": 40}),
        *({"early": True, "form": "block", "window": 5}, {"early": True, "window": 1}, {"pool": 4, "fill": "end"}),
        *({"pool": 2, "ngram": 3, "form": "block", "window": 5}, {"pool": 1, "window": 1, "ngram": 2}),
    ),
    "lookahead": (
        *({}, {"window": 3, "ngram": 3, "candidates": 1, "pool_from_prompt": False}),
        *({"window": 1, "ngram": 2}, {"window": 20, "ngram": 9}),
    ),
    "medusa": ({}, {"tree": "confident", "n_nodes": 40, "top_k": 9}, {"n_nodes": 1, "top_k": 1}),
    "prompt_lookup": ({}, {"max_ngram": 5, "min_ngram": 2, "draft_length": 30}),
    "self_speculative": ({}, {"draft_length": 1}, {"draft_length": 9, "stop_confidence": 0.3}),
    "speculative": ({}, {"draft_length": 1}, {"draft_length": 9}),
}
CASES = [(name, params) for name in EXACT for params in VARIANTS.get(name, ({},))]
# a passage that repeats, so that drafts from the context are right now and then
PROMPT = np.tile(np.random.default_rng(5).integers(33, 120, size=(1, 6)), (1, 3))
LIMIT = 40
HOT = Sampling(temperature=1.3, top_k=40, top_p=0.95)


@pytest.fixture(scope="module", params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def sessions(backend: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Session]]:
    """Two of the same tiny model: the second one drafts."""
    folder = tmp_path_factory.mktemp("tiny")
    made = [opened(backend, folder) for _ in range(2)]
    yield made
    for session in made:
        session.close()


@pytest.fixture(scope="module")
def one_at_a_time(sessions: list[Session]) -> Callable[..., list[int]]:
    """The tokens of the autoregressive loop, computed once for each configuration."""

    @functools.cache
    def tokens(**config: Any) -> list[int]:
        return tokens_of(run("autoregressive", sessions, **config))

    return tokens


class Unsure:
    """A draft that agrees only now and then: every third choice is another token."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def forward(self, ids: Ids, keep: int | None = None) -> Any:
        logits = self._session.forward(ids, keep)
        values = logits.numpy().copy()
        if self._session.n_committed % 3 == 0:
            values[..., 50:60] += 20.0
        return Values(values)


class Values:
    def __init__(self, values: Any) -> None:
        self._values = values

    def argmax(self) -> Any:
        return self._values.argmax(-1)

    def numpy(self) -> Any:
        return self._values


def run(
    name: str,
    sessions: list[Session],
    limit: int = LIMIT,
    params: dict[str, Any] | None = None,
    prompt: Ids = PROMPT,
    **config: Any,
) -> list[Taken]:
    strategy = plugins.get("strategy", name)
    made = msgspec.convert(params or {}, strategy.Params)
    drafts = [Unsure(sessions[1])] if hasattr(made, "draft") else []
    if missing := strategy.needs - sessions[0].capabilities:
        pytest.skip(f"the session cannot {missing}")
    if (params or {}).get("pool") and "tree" not in sessions[0].capabilities:
        pytest.skip("a pool beside the window needs a tree")
    steps = strategy.decode(sessions[0], prompt, GenerationConfig(limit=limit, **config), made, *drafts)
    return taken(steps, sessions[0], *drafts)


def tokens_of(steps: list[Taken]) -> list[int]:
    return [token for step in steps if step.tokens for token in step.tokens[0]]


@pytest.mark.parametrize(("name", "params"), CASES)
def test_greedy_tokens_are_those_of_one_at_a_time(
    sessions: list[Session], one_at_a_time: Callable[..., list[int]], name: str, params: dict[str, Any]
) -> None:
    wanted = one_at_a_time()
    assert len(wanted) == LIMIT and len(set(wanted)) > 3
    assert tokens_of(run(name, sessions, params=params)) == wanted


@pytest.mark.parametrize(("name", "params"), CASES)
def test_the_limit_is_met_exactly(
    sessions: list[Session], one_at_a_time: Callable[..., list[int]], name: str, params: dict[str, Any]
) -> None:
    wanted = one_at_a_time()
    for limit in (1, 2, 3, 7, LIMIT - 1):
        assert tokens_of(run(name, sessions, limit=limit, params=params)) == wanted[:limit]


@pytest.mark.parametrize(("name", "params"), CASES)
def test_it_stops_at_every_token_that_may_stop_it(
    sessions: list[Session], one_at_a_time: Callable[..., list[int]], name: str, params: dict[str, Any]
) -> None:
    free = one_at_a_time()
    for stop in sorted(set(free))[:8]:  # some of them lie inside an accepted run
        found = tokens_of(run(name, sessions, params=params, stop=frozenset({stop})))
        assert found == free[: free.index(stop) + 1]


@pytest.mark.parametrize(("name", "params"), [case for case in CASES if case[0] in GUESSING])
def test_steps_count_what_was_done(
    sessions: list[Session], name: str, params: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    trees = list[int]()
    if "tree" in sessions[0].capabilities:
        forward_tree = sessions[0].forward_tree
        monkeypatch.setattr(sessions[0], "forward_tree", lambda *a: trees.append(1) or forward_tree(*a))
    steps = run(name, sessions, params=params)
    decode = [step for step in steps if step.phase == "decode"]
    tokens, text = [t for step in decode for t in step.tokens[0]], tokens_of(steps)
    assert sum(len(step.tokens[0]) for step in decode) == LIMIT - 1, "the first token is the prefill's"
    at = 1
    for step in decode:
        n, accepted = len(step.tokens[0]), step.tokens[0]
        known_and_guess = 1 + len(step.guess)
        ran, fed = step.counts, step.counts.inputs
        assert ran.forwards == 1 and 1 <= n <= known_and_guess
        assert fed == known_and_guess or (fed > known_and_guess and trees), "a tree has more lines"
        (whole,) = (f for f in step.ran if f.of == "model")
        assert whole.n_logits == whole.n_new == fed and whole.n_past == PROMPT.shape[1] + at - 1
        drafts = {"speculative": "draft", "self_speculative": "blocks"}
        assert {f.of for f in step.ran if f.of in ("draft", "blocks")} <= {drafts.get(name)}
        assert ran.drafts == len(step.guess) * (name in drafts) or params.get("stop_confidence")
        assert accepted[: n - 1] == step.guess[: n - 1], "all but the last were guessed"
        assert n == known_and_guess or accepted[-1] != step.guess[n - 1], "and the last was not"
        assert tuple(text[at : at + n]) == accepted
        at += n
    assert sessions[0].n_committed == PROMPT.shape[1] + len(tokens), "all but the last token are in the cache"
    assert len(decode) <= LIMIT - 1


@pytest.mark.parametrize("name", GUESSING)
def test_sampling_follows_its_seed(sessions: list[Session], name: str) -> None:
    first = tokens_of(run(name, sessions, sampling=HOT, seed=3))
    assert tokens_of(run(name, sessions, sampling=HOT, seed=3)) == first and len(first) == LIMIT
    assert tokens_of(run(name, sessions, sampling=HOT, seed=4)) != first


@pytest.mark.parametrize(("name", "params"), [case for case in CASES if case[0] in GUESSING])
def test_sampling_draws_what_one_at_a_time_draws(
    backend: str,
    sessions: list[Session],
    one_at_a_time: Callable[..., list[int]],
    name: str,
    params: dict[str, Any],
) -> None:
    """With the same seed, token for token; drafts with a distribution of their own are equal in distribution only."""
    if hasattr(module_of(backend), "TOLERANCE"):
        pytest.skip("its logits are not exact, and a draw near a border may fall to the other side")
    steps = run(name, sessions, params=params, sampling=HOT, seed=3)
    if any(step.counts.drafts for step in steps):
        pytest.skip("a model drafts, so it is equal in distribution: see tests/decoding/test_decoding.py")
    assert tokens_of(steps) == one_at_a_time(sampling=HOT, seed=3)


@pytest.mark.parametrize("name", GUESSING)
def test_a_batch_is_refused(sessions: list[Session], name: str) -> None:
    with pytest.raises(ExplorerError, match="one sequence"):
        run(name, sessions, prompt=np.concatenate([PROMPT, PROMPT]))


@pytest.mark.parametrize("name", GUESSING)
def test_a_window_larger_than_the_context_is_refused(sessions: list[Session], name: str) -> None:
    fields = plugins.get("strategy", name).Params.__struct_fields__
    size = next((field for field in ("draft_length", "window") if field in fields), None)
    if size is None:
        pytest.skip("it has no window of a size that can be set")
    if sessions[0].max_context > 200:
        pytest.skip("its context is larger")
    params = {size: 200}
    with pytest.raises(ExplorerError, match="larger than the context"):
        run(name, sessions, params=params)


@pytest.mark.parametrize("name", GUESSING)
def test_the_context_can_be_filled_to_its_end(
    sessions: list[Session], one_at_a_time: Callable[..., list[int]], name: str
) -> None:
    limit = sessions[0].max_context - PROMPT.shape[1]
    wanted = one_at_a_time(limit=limit)
    assert tokens_of(run(name, sessions, limit=limit)) == wanted and len(wanted) == limit


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_strategy_closed_early_leaves_a_usable_session(
    sessions: list[Session], one_at_a_time: Callable[..., list[int]], name: str
) -> None:
    wanted = one_at_a_time()
    strategy = plugins.get("strategy", name)
    if missing := strategy.needs - sessions[0].capabilities:
        pytest.skip(f"the session cannot {missing}")
    params = strategy.Params()
    drafts = [sessions[1]] if hasattr(params, "draft") else []
    steps = strategy.decode(sessions[0], PROMPT, GenerationConfig(limit=LIMIT), params, *drafts)
    for _ in range(4):
        next(steps)
    steps.close()
    assert tokens_of(run("autoregressive", sessions)) == wanted
    assert not strategy.exact or tokens_of(run(name, sessions)) == wanted
