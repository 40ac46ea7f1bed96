"""The fused forward of Llama-like models against transformers' own, in every use that a session makes of it."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
from torch.utils._python_dispatch import TorchDispatchMode

from core.backends.pytorch.session import TorchSession
from core.errors import ExplorerError
from core.types import Ids
from tests.backends.test_depth import FAMILIES, MORE, ONE, PROMPT, SIZES, made_of, open_folder
from tests.backends.test_tree import IDS, PARENTS
from tests.decoding.test_decoding import decode, tokens_of
from tests.support.tiny import heads_folder

pytestmark = pytest.mark.engine("pytorch")

FAMILIES = FAMILIES | {  # with what the others leave at its default
    "llama scaled": lambda: transformers.LlamaConfig(
        **SIZES, rope_parameters={"rope_type": "linear", "rope_theta": 500.0, "factor": 2.0}, rms_norm_eps=1e-3
    ),
    "one key head": lambda: transformers.LlamaConfig(**SIZES | {"num_key_value_heads": 1}),
    "as many": lambda: transformers.Qwen3Config(**SIZES | {"num_key_value_heads": 4}),
}
Pair = tuple[TorchSession, TorchSession]


@pytest.fixture(scope="module", params=FAMILIES)
def opened(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """transformers' forward and the fused one, of the same weights."""
    config = FAMILIES[request.param]()
    made = [made_of(config, tmp_path_factory.mktemp("model"), fused=fused) for fused in (False, True)]
    yield made[0], made[1]
    for session in made:
        session.close()


@pytest.fixture
def pair(opened: Pair) -> Pair:
    for session in opened:
        session.reset()
    return opened


def same(pair: Pair, ids: Ids, keep: int | None = None, commit: int | None = None) -> None:
    wanted, got = (session.forward(ids, keep).numpy() for session in pair)
    assert got.shape == wanted.shape
    np.testing.assert_allclose(got, wanted, atol=1e-4, rtol=0)
    for session in pair:
        session.commit(ids.shape[1] if commit is None else commit)


def test_prompt_one_token_and_several_say_the_same(pair: Pair) -> None:
    same(pair, PROMPT)
    same(pair, ONE)
    same(pair, MORE)
    same(pair, MORE, keep=2)


def test_refused_tokens_leave_no_trace(pair: Pair) -> None:
    same(pair, PROMPT, keep=1)
    for accepted in (0, 3, 1):
        same(pair, MORE, commit=accepted)
    for session in pair:
        session.rewind(6)
    same(pair, MORE)


def test_a_batch_is_its_sequences(pair: Pair) -> None:
    same(pair, np.concatenate([PROMPT, PROMPT[:, ::-1]]))
    same(pair, np.concatenate([MORE, MORE[:, ::-1]]))


def test_a_tree_says_the_same_and_keeps_its_path(pair: Pair) -> None:
    same(pair, PROMPT, keep=1)
    wanted, got = (session.forward_tree(IDS, PARENTS).numpy() for session in pair)
    np.testing.assert_allclose(got, wanted, atol=1e-4, rtol=0)
    for session in pair:
        session.commit_path((0, 2, 4))
    same(pair, MORE)


def test_blocks_can_be_left_out_as_before(pair: Pair) -> None:
    same(pair, PROMPT, keep=1)
    wanted, got = (session.forward_through(MORE, (0, 2, 3)).numpy() for session in pair)
    np.testing.assert_allclose(got, wanted, atol=1e-4, rtol=0)
    for session in pair:
        session.commit(0)
    (wanted, ran), (got, fused_ran) = (
        (logits.numpy(), n) for logits, n in (s.forward_exit(ONE, 0.0, [2]) for s in pair)
    )
    assert ran == fused_ran == 2, "sure at once, behind two blocks; the others remember what they did not see"
    np.testing.assert_allclose(got, wanted, atol=1e-4, rtol=0)
    for session in pair:
        session.commit(1)
    same(pair, MORE)


@pytest.mark.parametrize("strategy", ["autoregressive", "jacobi", "lookahead", "prompt_lookup"])
def test_strategies_find_the_tokens_of_the_plain_model(pair: Pair, strategy: str) -> None:
    plain, fused = pair
    assert tokens_of(decode(strategy, fused)) == tokens_of(decode("autoregressive", plain))


def test_heads_are_given_the_last_hidden_state_of_it(tmp_path: Path) -> None:
    plain, fused = (open_folder(heads_folder(tmp_path), fused=fused) for fused in (False, True))
    for session in (plain, fused):
        session.forward(PROMPT, keep=1)
    np.testing.assert_allclose(fused.guesses(0), plain.guesses(0), atol=1e-4, rtol=0)
    for session in (plain, fused):
        session.reset()
    assert tokens_of(decode("medusa", fused)) == tokens_of(decode("autoregressive", plain))


class Dispatched(TorchDispatchMode):
    """Counts what reaches the kernels; a view and an empty tensor are no work."""

    def __init__(self) -> None:
        super().__init__()
        self.n = 0

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.n += not op.is_view
        return op(*args, **kwargs or {})


def test_a_step_dispatches_less_than_half_as_much(pair: Pair) -> None:
    same(pair, PROMPT, keep=1)
    counted = []
    for session in pair:
        with Dispatched() as seen:
            session.forward(ONE)
        counted.append(seen.n)
    assert counted[1] < counted[0] / 2, counted


@pytest.mark.parametrize(
    ("folder", "options", "says"),
    [
        (transformers.GPT2Config(n_layer=1, n_embd=16, n_head=2, vocab_size=320), {}, "does not know models like"),
        (FAMILIES["llama"](), {"compile": True}, "Set fused alone"),
        (FAMILIES["llama"](), {"attention": "eager"}, "Set fused alone"),
        (transformers.MistralConfig(**SIZES, sliding_window=8), {}, "does not know models like"),
    ],
)
def test_what_it_cannot_do_is_refused_in_a_sentence(tmp_path: Path, folder: Any, options: Any, says: str) -> None:
    with pytest.raises(ExplorerError) as refused:
        made_of(folder, tmp_path, fused=True, **options)
    assert says in f"{refused.value} {refused.value.hint}"


def test_layers_cannot_be_seen_in_it(opened: Pair) -> None:
    plain, fused = opened
    assert plain.capabilities - fused.capabilities == {"layers", "count", "stream"}


def test_the_model_keeps_only_what_the_step_does_not_hold(opened: Pair) -> None:
    left = sum(p.numel() for p in opened[1]._model.parameters())
    assert left == SIZES["vocab_size"] * SIZES["hidden_size"] + SIZES["hidden_size"], "the token table, the last norm"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_the_file_of_the_weights_is_let_go(tmp_path: Path) -> None:
    def mapped() -> bool:
        return str(tmp_path) in Path("/proc/self/maps").read_text()

    plain = made_of(FAMILIES["llama"](), tmp_path)
    assert mapped(), "transformers' weights lie in the file"
    plain.close()
    del plain
    gc.collect()
    fused = open_folder(tmp_path, fused=True)
    assert not mapped(), "the fused step has copies of its own"
    fused.close()
