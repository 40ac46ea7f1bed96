"""What every backend's session must do, on a tiny model (core.types.Session is the contract).

A backend joins by a file `tests/support/tiny/<name>.py` with `make(folder) -> (path, format)`, and
may say there how far its logits may be off: `TOLERANCE` (absolute; the logits' deviation is about 2).
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core import plugins
from core.dtypes import canonical_dtype
from core.layer_names import within
from core.types import Counting, Depths, GenerationConfig, Heads, Ids, Sampling, Session, Trees
from hardware.errors import ExplorerError
from tests.support import tiny_session
from tests.support.protocols import faults
from tests.support.tiny_session import BACKENDS

OTHER = "other"  # operators that belong to no layer: masks, positions
REFUSED = (ExplorerError, AssertionError)
PROMPT = np.random.default_rng(5).integers(33, 120, size=(1, 12))
MORE = np.random.default_rng(6).integers(33, 120, size=(1, 5))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tiny")


@pytest.fixture(scope="module", params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def open_session(backend: str, folder: Path) -> Callable[..., Session]:
    return functools.partial(tiny_session.opened, backend, folder)


@pytest.fixture(scope="module")
def opened(open_session: Callable[..., Session]) -> Iterator[Session]:
    made = open_session()
    yield made
    made.close()


@pytest.fixture
def session(opened: Session) -> Session:
    opened.reset()
    return opened


@pytest.fixture
def close(backend: str) -> Callable[[Any, Any], None]:
    tolerance = getattr(tiny_session.module_of(backend), "TOLERANCE", 1e-3)

    def check(got: Any, wanted: Any) -> None:
        np.testing.assert_allclose(got, wanted, atol=tolerance, rtol=0)

    return check


def needs(session: Session, *capabilities: str) -> None:
    for capability in capabilities:
        if capability not in session.capabilities:
            pytest.skip(f"the session declares no '{capability}'")


def committed(session: Session, ids: Ids) -> Any:
    """All logits of `ids`, which are then in the cache."""
    logits = session.forward(ids).numpy().copy()  # a handle is valid until the next forward only
    session.commit(ids.shape[1])
    return logits


def greedy(session: Session, prompt: Ids, n: int) -> list[int]:
    session.reset()
    logits, tokens = session.forward(prompt, keep=1), []
    session.commit(prompt.shape[1])
    for _ in range(n):
        token = logits.argmax()
        tokens.append(int(token[0, 0]))
        logits = session.forward(token, keep=1)
        session.commit(1)
    return tokens


# ---------------------------------------------------------------- what it says about itself


def test_plugin_is_named_after_its_file(backend: str) -> None:
    plugin = plugins.get("backend", backend)
    assert plugin.name == backend and plugin.label and plugin.formats
    known = {"forward", "cache", "rollback", "rewind", "stream", "batch", "layers", "count", "depth", "tree", "heads"}
    assert plugin.capabilities <= known


def test_session_describes_itself(session: Session, backend: str) -> None:
    assert session.capabilities <= plugins.get("backend", backend).capabilities
    assert "forward" in session.capabilities
    assert session.max_context > PROMPT.shape[1] and session.setup.threads
    said = session.setup
    assert said.weight_dtype == session.spec.dtype
    for dtype in (said.activation_dtype, said.kv_dtype):  # by these its activations and its cache are counted
        assert dtype == canonical_dtype(dtype)
    assert all(isinstance(i, int) and 0 <= i < session.spec.vocab_size for i in session.eos_ids)


@pytest.mark.parametrize("text", ["Hello the world", "Grüße, 世界 🌍", " two  spaces\n\tand a tab"])
def test_encode_and_decode_round_trip(session: Session, text: str) -> None:
    ids = session.encode(text)
    assert all(isinstance(i, int) and 0 <= i < session.spec.vocab_size for i in ids)
    assert session.decode(ids) == text


def test_special_tokens_are_recognised_and_left_out(session: Session) -> None:
    if not session.eos_token:
        pytest.skip("the model has no end-of-sequence token")
    ids = session.encode(f"a{session.eos_token}b")
    assert len(ids) == 3 and ids[1] in session.eos_ids
    assert session.decode(ids) == "ab"


# ---------------------------------------------------------------- forward and the cache


def test_logits_have_the_promised_shape(session: Session) -> None:
    logits = session.forward(PROMPT)
    values, best = logits.numpy(), logits.argmax()
    assert values.dtype == np.float32 and values.shape[:2] == PROMPT.shape
    assert values.shape[2] >= session.spec.vocab_size
    assert best.dtype == np.int64 and best.shape == PROMPT.shape
    assert (best == values.argmax(-1)).all()
    assert np.unique(best).size > 1, "a model that always says the same proves nothing here"


@pytest.mark.parametrize("keep", [1, 3])
def test_keep_gives_the_last_rows(session: Session, close: Any, keep: int) -> None:
    every = session.forward(PROMPT).numpy().copy()
    session.reset()
    close(session.forward(PROMPT, keep=keep).numpy(), every[:, -keep:])


def test_a_forward_of_n_equals_n_forwards_of_one(session: Session, close: Any) -> None:
    needs(session, "cache")
    at_once = committed(session, PROMPT)
    assert session.n_committed == PROMPT.shape[1]
    session.reset()
    one_by_one = [committed(session, PROMPT[:, i : i + 1]) for i in range(PROMPT.shape[1])]
    close(np.concatenate(one_by_one, axis=1), at_once)


def test_forward_continues_after_what_is_committed(session: Session, close: Any) -> None:
    needs(session, "cache")
    whole = committed(session, np.concatenate([PROMPT, MORE], axis=1))
    session.reset()
    committed(session, PROMPT)
    close(committed(session, MORE), whole[:, PROMPT.shape[1] :])


@pytest.mark.parametrize("kept", range(MORE.shape[1] + 1))
def test_commit_keeps_a_prefix_and_the_rest_leaves_no_trace(session: Session, close: Any, kept: int) -> None:
    needs(session, "cache", "rollback")
    committed(session, np.concatenate([PROMPT, MORE[:, :kept]], axis=1))
    wanted = committed(session, PROMPT[:, ::-1].copy())
    session.reset()
    committed(session, PROMPT)
    session.forward(MORE)
    session.commit(kept)
    assert session.n_committed == PROMPT.shape[1] + kept
    close(committed(session, PROMPT[:, ::-1].copy()), wanted)


def test_a_second_forward_drops_what_was_pending(session: Session, close: Any) -> None:
    needs(session, "cache", "rollback")
    committed(session, PROMPT)
    wanted = session.forward(MORE).numpy().copy()
    session.forward(MORE[:, ::-1].copy())
    assert session.n_committed == PROMPT.shape[1]
    close(session.forward(MORE).numpy(), wanted)


@pytest.mark.parametrize("back", [0, 1, 3, PROMPT.shape[1]])
def test_committed_tokens_can_be_taken_back(session: Session, close: Any, back: int) -> None:
    needs(session, "cache", "rewind")
    kept = PROMPT.shape[1] - back
    if kept:
        committed(session, PROMPT[:, :kept])
    wanted = committed(session, MORE)
    session.reset()
    committed(session, PROMPT)
    session.forward(MORE[:, ::-1].copy())
    session.rewind(back)
    assert session.n_committed == kept
    close(committed(session, MORE), wanted)


def test_no_more_can_be_committed_than_is_pending(session: Session) -> None:
    needs(session, "cache")
    session.forward(MORE)
    with pytest.raises(REFUSED):
        session.commit(MORE.shape[1] + 1)


def test_reset_forgets_everything(session: Session, close: Any) -> None:
    needs(session, "cache")
    fresh = committed(session, MORE)
    committed(session, PROMPT)
    session.reset()
    assert session.n_committed == 0
    close(committed(session, MORE), fresh)


def test_a_full_context_is_refused_and_harms_nothing(session: Session) -> None:
    needs(session, "cache")
    many = np.resize(PROMPT, (1, session.max_context))
    with pytest.raises(ExplorerError, match="context"):
        session.forward(np.resize(PROMPT, (1, session.max_context + 1)))
    session.reset()
    session.forward(many, keep=1)
    session.commit(session.max_context)
    with pytest.raises(ExplorerError, match="context") as refused:
        session.forward(MORE[:, :1])
    assert refused.value.hint
    assert session.n_committed == session.max_context


def test_two_sequences_equal_two_runs(
    session: Session, open_session: Callable[..., Session], close: Callable[[Any, Any], None]
) -> None:
    needs(session, "batch")
    pair = open_session(batch=2)
    other = PROMPT[:, ::-1].copy()
    more = MORE if "cache" in session.capabilities else MORE[:, :0]

    def run(session: Session, prompt: Ids) -> Any:
        session.reset()
        rows = [session.forward(prompt).numpy().copy()]
        if more.size:
            session.commit(prompt.shape[1])
            rows.append(committed(session, np.repeat(more, len(prompt), axis=0)))
        return np.concatenate(rows, axis=1)

    together = run(pair, np.concatenate([PROMPT, other]))
    close(together, np.concatenate([run(session, PROMPT), run(session, other)]))
    if "stream" in pair.capabilities:
        steps = list(pair.stream(np.concatenate([PROMPT, other]), GenerationConfig(limit=4)))
        assert all(tokens.shape == (2, 1) for tokens in steps)
        for row, prompt in enumerate((PROMPT, other)):
            alone = list(session.stream(prompt, GenerationConfig(limit=4)))
            assert [int(t[row, 0]) for t in steps] == [int(t[0, 0]) for t in alone]
    pair.close()


# ---------------------------------------------------------------- the library's own loop


def streamed(session: Session, limit: int = 12, **config: Any) -> list[int]:
    steps = list(session.stream(PROMPT, GenerationConfig(limit=limit, **config)))
    assert all(tokens.shape == (1, 1) for tokens in steps)
    return [int(tokens[0, 0]) for tokens in steps]


def test_stream_equals_our_greedy_loop(session: Session) -> None:
    needs(session, "stream", "cache")
    wanted = greedy(session, PROMPT, 12)
    assert streamed(session) == wanted
    session.reset()
    assert greedy(session, PROMPT, 12) == wanted


def test_stream_stops_at_a_stop_token_and_keeps_it(session: Session) -> None:
    needs(session, "stream")
    free = streamed(session)
    stop = free[4]
    assert streamed(session, stop=frozenset({stop})) == free[: free.index(stop) + 1]


def test_sampling_follows_its_seed(session: Session) -> None:
    needs(session, "stream")
    hot = Sampling(temperature=2.0, top_k=50, top_p=0.95)
    first = streamed(session, sampling=hot, seed=3)
    assert streamed(session, sampling=hot, seed=3) == first
    assert streamed(session, sampling=hot, seed=4) != first
    assert first != streamed(session)


def test_top_k_of_one_is_greedy(session: Session, backend: str) -> None:
    needs(session, "stream")
    if backend == "fake":
        pytest.skip("the fake draws letters, not from its logits")
    assert streamed(session, sampling=Sampling(temperature=1.0, top_k=1)) == streamed(session)


def test_a_stream_closed_early_stops(session: Session, close: Any) -> None:
    needs(session, "stream", "cache")
    fresh = committed(session, PROMPT)
    stream = session.stream(PROMPT, GenerationConfig(limit=50))
    next(stream), next(stream)
    stream.close()  # type: ignore[attr-defined]
    session.reset()
    close(committed(session, PROMPT), fresh)


def test_stream_refuses_a_prompt_that_is_too_long(session: Session) -> None:
    needs(session, "stream")
    with pytest.raises(ExplorerError, match="context"):
        list(session.stream(np.resize(PROMPT, (1, session.max_context + 1)), GenerationConfig(limit=2)))


# ---------------------------------------------------------------- layer times


def test_trace_names_the_layers_of_the_spec(session: Session, close: Any) -> None:
    needs(session, "layers", "cache")
    before = committed(session, PROMPT), committed(session, MORE)
    session.reset()
    trace = session.trace()
    started = time.perf_counter()
    trace.phase("prefill")
    committed(session, PROMPT)
    trace.phase("decode")
    for i in range(3):
        committed(session, MORE[:, i : i + 1])
    session.sync()
    wall_s = time.perf_counter() - started
    trace.rows()
    phases = trace.finish()
    assert trace.finish() == phases

    assert set(phases) == {"prefill", "decode"}
    layers = [*(layer.name for layer in session.spec.layers), OTHER]
    for rows in phases.values():
        names = [row.name for row in rows]
        assert len(names) == len(set(names)), "one row per layer"
        assert not [name for name in names if not any(within(layer, name) for layer in layers)]
        for block in range(session.spec.n_blocks):
            for part in ("attn", "mlp"):
                assert [row for row in rows if within(row.name, f"blocks.{block}.{part}") and row.seconds > 0]
        assert all(row.seconds >= 0 and row.calls > 0 for row in rows)
        assert any(within(name, "lm_head") for name in names)
    assert sum(row.seconds for rows in phases.values() for row in rows) <= wall_s

    session.reset()
    close(committed(session, PROMPT), before[0])
    close(committed(session, MORE), before[1])


# ---------------------------------------------------------------- the end


OPTIONAL = {  # verbs and facts that only some libraries have: a protocol of their own, and one of its members
    "count": (Counting, "count"),
    "depth": (Depths, "forward_to"),
    "tree": (Trees, "forward_tree"),
    "heads": (Heads, "guesses"),
}


def test_the_session_keeps_the_typed_protocol(session: Session) -> None:
    assert not faults(session, Session)
    for capability in session.capabilities & OPTIONAL.keys():
        assert not faults(session, OPTIONAL[capability][0]), f"what {capability} promises is there"


def test_what_is_not_declared_is_refused(session: Session, backend: str) -> None:
    absent = plugins.get("backend", backend).capabilities - session.capabilities
    ways: dict[str, Callable[[], Any]] = {
        "stream": lambda: list(session.stream(PROMPT, GenerationConfig(limit=1))),
        "layers": lambda: session.trace(),
        "batch": lambda: session.forward(np.concatenate([PROMPT, PROMPT])),
        "rollback": lambda: (session.forward(MORE), session.commit(1)),
        "rewind": lambda: (session.forward(MORE[:, :1]), session.commit(1), session.rewind(1)),
        "cache": lambda: (session.forward(MORE), session.commit(MORE.shape[1])),
        "count": lambda: session.count(1),
        "depth": lambda: session.forward_to(MORE, 1),
        "tree": lambda: session.forward_tree(MORE[:, :1], [-1]),
        "heads": lambda: session.guesses(0),
    }
    undeclared = set(ways) - session.capabilities
    assert absent <= undeclared
    for capability in sorted(undeclared):
        if capability in OPTIONAL and not hasattr(session, OPTIONAL[capability][1]):
            continue
        with pytest.raises(REFUSED):
            ways[capability]()
        session.reset()


def test_a_closed_session_refuses_to_work(open_session: Callable[..., Session]) -> None:
    session = open_session()
    session.forward(PROMPT)
    session.close()
    with pytest.raises(ExplorerError):
        session.forward(PROMPT)
