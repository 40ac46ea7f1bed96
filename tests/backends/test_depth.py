"""Forwards that leave blocks out, against the whole model and against models cut by hand; the strategies on them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from transformers import DynamicCache

from core import plugins
from core.backends.pytorch.session import TorchSession
from core.decoding.layer_skip import that_run
from core.models import spec as specs
from core.types import GenerationConfig, Ids, Request, Sampling
from hardware.errors import ExplorerError
from tests.decoding.test_decoding import PROMPT as CHAIN_PROMPT
from tests.decoding.test_decoding import Chain, P, Q, Rows, expected, p_value, tokens_of
from tests.support.steps import Taken, taken
from tests.support.tiny import byte_level_tokenizer

pytestmark = pytest.mark.engine("pytorch")

N_BLOCKS = 6
SIZES = {
    "vocab_size": 320,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": N_BLOCKS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "initializer_range": 0.3,
}
FAMILIES = {
    "llama": lambda: transformers.LlamaConfig(**SIZES),
    "llama tied": lambda: transformers.LlamaConfig(**SIZES, tie_word_embeddings=True, attention_bias=True),
    "mistral": lambda: transformers.MistralConfig(**SIZES, sliding_window=None),
    "qwen2": lambda: transformers.Qwen2Config(**SIZES),
    "qwen3": lambda: transformers.Qwen3Config(**SIZES),
}
PROMPT = np.random.default_rng(1).integers(5, 300, size=(1, 12))
MORE = np.random.default_rng(2).integers(5, 300, size=(1, 5))
ONE = MORE[:, :1]


def quiet(note: str, done: float | None = None, total: float | None = None, unit: str = "") -> None:
    pass


def open_folder(folder: Path, dtype: str | None = None, **options: Any) -> TorchSession:
    wanted = Request(model="tiny", backend="pytorch", threads=1, dtype=dtype, options=options)
    made: TorchSession = plugins.get("backend", "pytorch").open(str(folder), specs.read(folder, "hf"), wanted, quiet)
    return made


def make(family: str, folder: Path, **options: Any) -> TorchSession:
    """Through transformers' modules, into which these tests look; tests/backends/test_fused.py has the fused step."""
    return made_of(FAMILIES[family](), folder, **{"fused": False} | options)


def made_of(config: Any, folder: Path, **options: Any) -> TorchSession:
    torch.manual_seed(3)
    transformers.AutoModelForCausalLM.from_config(config).eval().save_pretrained(folder)
    byte_level_tokenizer().save_pretrained(folder)
    return open_folder(folder, **options)


@pytest.fixture(scope="module", params=FAMILIES)
def opened(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TorchSession]:
    made = make(request.param, tmp_path_factory.mktemp("model"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TorchSession]:
    made = make("llama", tmp_path_factory.mktemp("model"))
    yield made
    made.close()


@pytest.fixture
def session(opened: TorchSession) -> TorchSession:
    read(opened)
    return opened


def read(session: TorchSession) -> None:
    session.reset()
    session.forward(PROMPT, keep=1)
    session.commit(PROMPT.shape[1])


def largest(logits: Any) -> float:
    row = logits.numpy()[0, -1].astype(np.float64)
    return float(1 / np.exp(row - row.max()).sum())


# ---------------------------------------------------------------- through some of the blocks


@pytest.mark.parametrize("keep", [None, 1, 2])
@pytest.mark.parametrize("ids", [ONE, MORE], ids=["one", "more"])
def test_all_blocks_are_the_forward(session: TorchSession, ids: Ids, keep: int | None) -> None:
    wanted = session.forward(ids, keep=keep).numpy()
    assert np.array_equal(session.forward_to(ids, N_BLOCKS, keep=keep).numpy(), wanted)
    session.commit(1)
    assert session.n_committed == PROMPT.shape[1] + 1
    session.forward(MORE)  # every block has seen what was committed


def test_eager_attention_sees_the_same(tmp_path: Path) -> None:
    session = make("llama", tmp_path, attention="eager")
    read(session)
    wanted = session.forward(MORE).numpy()
    assert np.array_equal(session.forward_to(MORE, N_BLOCKS).numpy(), wanted)
    session.close()


@pytest.mark.parametrize("depth", [1, 3, 5])
def test_the_first_blocks_are_a_model_of_their_own(session: TorchSession, depth: int) -> None:
    """transformers, with the list of blocks cut and no cache, must say the same."""
    session.reset()
    session.forward_to(PROMPT, depth)
    session.commit(PROMPT.shape[1])
    found = session.forward_to(MORE, depth).numpy()
    model, blocks = session._model, session._model.model.layers
    try:
        model.model.layers = blocks[:depth]
        with torch.inference_mode():
            wanted = model(torch.from_numpy(np.concatenate([PROMPT, MORE], axis=1)), use_cache=False).logits.numpy()
    finally:
        model.model.layers = blocks
    np.testing.assert_allclose(found, wanted[:, PROMPT.shape[1] :], atol=1e-4)


def test_blocks_in_the_middle_can_be_left_out(session: TorchSession) -> None:
    """As if they added nothing to the hidden state that passes them."""
    found = session.forward_through(MORE, [0, 1, 4, 5]).numpy()
    blocks = session._model.model.layers
    writers = [part for i in (2, 3) for part in (blocks[i].self_attn.o_proj, blocks[i].mlp.down_proj)]
    outputs = [p for part in writers for p in part.parameters()]
    kept = [p.data for p in outputs]
    try:
        for p in outputs:
            p.data = torch.zeros_like(p)
        wanted = session.forward(MORE).numpy()
    finally:
        for p, data in zip(outputs, kept, strict=True):
            p.data = data
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    assert not np.allclose(found, session.forward(MORE).numpy(), atol=1e-2)


def test_a_block_that_missed_a_token_waits_until_it_is_taken_back(session: TorchSession) -> None:
    wanted = session.forward(MORE).numpy()
    session.forward_to(ONE, 2)
    session.commit(1)
    with pytest.raises(ExplorerError, match="missed a token"):
        session.forward(MORE[:, 1:])
    with pytest.raises(ExplorerError, match="missed a token"):
        session.forward_to(MORE[:, 1:], 3)
    with pytest.raises(ExplorerError, match="missed a token"):
        session.forward_exit(MORE[:, 1:2], 0.5, [1])
    session.forward_to(MORE[:, 1:3], 2)
    session.commit(1)
    assert session.n_committed == PROMPT.shape[1] + 2
    session.rewind(2)
    assert np.array_equal(session.forward(MORE).numpy(), wanted)


def test_what_is_pending_in_some_blocks_is_dropped_whole(session: TorchSession) -> None:
    wanted = session.forward(MORE).numpy()
    session.forward_to(MORE, 2)
    assert np.array_equal(session.forward(MORE).numpy(), wanted)
    session.forward_to(MORE, 4)
    session.commit(0)
    assert np.array_equal(session.forward(MORE).numpy(), wanted)
    session.forward_to(MORE, 3)
    session.commit(2)
    session.forward_to(MORE, 3)
    session.rewind(2)  # what is pending goes with it
    assert np.array_equal(session.forward(MORE).numpy(), wanted)


def test_a_full_context_is_refused(llama: TorchSession) -> None:
    llama.reset()
    with pytest.raises(ExplorerError, match="context"):
        llama.forward_to(np.zeros((1, 129), dtype=np.int64), 2)


# ---------------------------------------------------------------- until it is sure


@pytest.mark.parametrize("exits", [[1, 2, 3, 4, 5], [3], [N_BLOCKS], []])
def test_a_threshold_out_of_reach_is_the_forward(session: TorchSession, exits: list[int]) -> None:
    wanted = session.forward(ONE).numpy()
    session.commit(1)
    after = session.forward(MORE[:, 1:]).numpy()
    read(session)
    found, ran = session.forward_exit(ONE, 1.01, exits)
    assert ran == N_BLOCKS and np.array_equal(found.numpy(), wanted)
    session.commit(1)
    assert np.array_equal(session.forward(MORE[:, 1:]).numpy(), after)


def test_it_leaves_at_the_first_exit_that_is_sure(session: TorchSession) -> None:
    logits = {depth: session.forward_to(ONE, depth).numpy() for depth in range(1, N_BLOCKS)}
    sure = {depth: largest(Rows(values)) for depth, values in logits.items()}
    for threshold in (*sorted(sure.values()), 0.0):
        for exits in (list(sure), [2, 4], [5]):
            found, ran = session.forward_exit(ONE, threshold - 1e-6, exits)
            wanted = next((d for d in exits if sure[d] >= threshold - 1e-6), N_BLOCKS)
            assert ran == wanted
            if wanted < N_BLOCKS:
                np.testing.assert_allclose(found.numpy(), logits[wanted], atol=1e-5)


def test_blocks_left_out_remember_the_state_that_left(session: TorchSession) -> None:
    """Their keys and values are what their own attention makes of that state at that position."""
    body, leave = session._model.model, 2
    states: list[Any] = []
    hook = body.layers[leave - 1].register_forward_hook(lambda module, inputs, output: states.append(output))
    _, ran = session.forward_exit(ONE, 0.0, [leave])
    hook.remove()
    session.commit(1)
    assert ran == leave
    place = PROMPT.shape[1]
    with torch.inference_mode():
        rope = body.rotary_emb(states[0], position_ids=torch.tensor([[place]]))
        for i in range(leave, N_BLOCKS):
            alone = DynamicCache(config=body.config)
            body.layers[i](states[0], position_embeddings=rope, past_key_values=alone, use_cache=True)
            held = session._cache.layers[i]
            assert held.get_seq_length() == place + 1
            torch.testing.assert_close(held.keys[:, :, place:], alone.layers[i].keys)
            torch.testing.assert_close(held.values[:, :, place:], alone.layers[i].values)
    session.forward(MORE)  # and nothing is missing


def test_a_batch_leaves_together(llama: TorchSession) -> None:
    both = np.concatenate([PROMPT, PROMPT[:, ::-1]])
    sure = []
    for row in both:
        llama.reset()
        llama.forward(row[None])
        llama.commit(len(row))
        sure.append([largest(llama.forward_to(ONE, depth)) for depth in range(1, N_BLOCKS)])
    threshold = float(np.median(sure))
    wanted = next((i + 1 for i, p in enumerate(zip(*sure, strict=True)) if min(p) >= threshold), N_BLOCKS)
    llama.reset()
    llama.forward(both)
    llama.commit(both.shape[1])
    logits, ran = llama.forward_exit(np.concatenate([ONE, ONE]), threshold, range(1, N_BLOCKS))
    assert ran == wanted and logits.argmax().shape == (2, 1)


def test_layers_are_timed_and_nothing_stays_attached(llama: TorchSession) -> None:
    read(llama)
    before = llama.forward(MORE).numpy()
    trace = llama.trace()
    llama.forward_to(MORE, 2)
    _, ran = llama.forward_exit(ONE, 0.0, [3])
    rows = {row.name: row for row in trace.finish()["prefill"]}
    assert ran == 3 and rows["blocks.0.attn.q_proj"].calls == rows["blocks.1.mlp.down_proj"].calls == 2
    assert rows["blocks.2.mlp.down_proj"].calls == 1 and "blocks.3.mlp.down_proj" not in rows
    assert rows["lm_head"].calls == 2
    assert np.array_equal(llama.forward(MORE).numpy(), before)
    flops = [op for op in llama.count(1, 4).ops if op.layer.startswith("blocks.5.mlp.down")]
    assert flops[0].flops == 2 * 64 * 32


# ---------------------------------------------------------------- strategies


def run(name: str, session: Any, limit: int = 24, prompt: Ids = PROMPT, **given: Any) -> list[Taken]:
    strategy = plugins.get("strategy", name)
    config = {k: given.pop(k) for k in ("sampling", "seed", "stop") if k in given}
    steps = strategy.decode(session, prompt, GenerationConfig(limit=limit, **config), strategy.Params(**given))
    return taken(steps, session)


def test_the_draft_of_all_but_one_block_is_counted(llama: TorchSession) -> None:
    wanted = tokens_of(run("autoregressive", llama))
    steps = [s for s in run("self_speculative", llama, exit_layer=5, draft_length=3) if s.phase == "decode"]
    assert [t for s in steps for t in s.tokens[0]] == wanted[1:]
    assert all(s.counts.drafts == len(s.guess) <= 3 and s.counts.depth is None for s in steps)
    assert any(len(s.tokens[0]) > 1 for s in steps), "five of six blocks agree now and then"
    assert llama.n_committed == PROMPT.shape[1] + len(wanted) - 1


def test_an_unsure_draft_ends_early(llama: TorchSession) -> None:
    sure = [s for s in run("self_speculative", llama, exit_layer=3, draft_length=8) if s.guess]
    unsure = [s for s in run("self_speculative", llama, exit_layer=3, draft_length=8, stop_confidence=1.0) if s.guess]
    assert len(sure[0].guess) == 8 and {len(s.guess) for s in unsure} == {1}
    assert tokens_of(sure) == tokens_of(unsure)


class TwoDepths(Chain):
    """A chain whose first block is another chain."""

    capabilities = Chain.capabilities | {"depth"}

    def __init__(self) -> None:
        super().__init__(P)
        self.spec.n_blocks, self.exit_heads = 2, ()  # type: ignore[attr-defined]

    def forward_to(self, ids: Ids, depth: int, keep: int | None = None) -> Rows:
        assert depth == 1
        self.forward(ids, keep)
        self.ran.clear()
        self.ran.note(ids.shape[1], keep or ids.shape[1], self.n_committed, len(ids), "blocks", range(depth))
        return Rows(Q.astype(np.float32)[ids[:, -keep:] if keep else ids])


@pytest.mark.parametrize("stop", [0.0, 0.4])
def test_sampling_is_distributed_as_the_whole_model(stop: float) -> None:
    plain, found, session = Sampling(temperature=1.0), np.zeros((6, 6, 6), dtype=np.int64), TwoDepths()
    for seed in range(3000):
        given = {"sampling": plain, "seed": seed, "draft_length": 2, "stop_confidence": stop}
        steps = run("self_speculative", session, 4, CHAIN_PROMPT, **given)
        found[tuple(tokens_of(steps)[1:])] += 1
    assert p_value(found, expected(plain)) > 1e-3


def test_early_exit_is_the_model_where_nothing_is_sure(llama: TorchSession) -> None:
    wanted = run("autoregressive", llama)
    found = run("early_exit", llama, threshold=1.0, first_exit=5)
    assert tokens_of(found) == tokens_of(wanted)
    assert {s.counts.depth for s in found if s.phase == "decode"} == {1.0} and found[0].counts.depth is None


def test_early_exit_tells_how_deep_each_token_went(llama: TorchSession) -> None:
    steps = [s for s in run("early_exit", llama, threshold=0.0, first_exit=2, every=2) if s.phase == "decode"]
    assert [s.counts.depth for s in steps] == [2 / 6] * 23
    mixed = [
        s.counts.depth for s in run("early_exit", llama, threshold=0.2, first_exit=1, every=1) if s.phase == "decode"
    ]
    assert len(set(mixed)) > 1 and set(mixed) <= {k / 6 for k in range(1, 7)}


@pytest.mark.parametrize(("name", "params"), [("early_exit", {"threshold": 0.1, "first_exit": 1}), ("layer_skip", {})])
def test_inexact_strategies_keep_limit_stop_seed_and_batch(
    llama: TorchSession, name: str, params: dict[str, Any]
) -> None:
    free = tokens_of(run(name, llama, **params))
    assert len(free) == 24
    stop = free[9]
    assert tokens_of(run(name, llama, stop=frozenset({stop}), **params)) == free[: free.index(stop) + 1]
    hot = Sampling(temperature=1.3)
    drawn = tokens_of(run(name, llama, sampling=hot, seed=3, **params))
    assert drawn == tokens_of(run(name, llama, sampling=hot, seed=3, **params)) != free
    batch = run(name, llama, prompt=np.concatenate([PROMPT, PROMPT]), **params)
    assert [t for s in batch if s.tokens for t in s.tokens[1]] == free
    assert not plugins.get("strategy", name).exact


def test_the_schedule_of_layer_skipping_by_hand(llama: TorchSession) -> None:
    assert that_run(10, 0.0, 0.5, 2) == list(range(10))
    assert that_run(10, 0.5, 0.5, 2) == [0, 1, 4, 5, 6, 7, 8, 9]  # 7.5 blocks are rounded to 8
    assert that_run(10, 1.0, 0.5, 2) == [0, 1, 7, 8, 9] == that_run(10, 7.0, 0.5, 2)
    assert that_run(10, 1.0, 0.0, 3) == [0, 1, 2, 9] and that_run(2, 1.0, 0.0, 4) == [0, 1]
    steps = [s for s in run("layer_skip", llama, limit=6, last_share=0.5, bottom=1) if s.phase == "decode"]
    assert [s.counts.depth for s in steps] == [6 / 6, 5 / 6, 4 / 6, 4 / 6, 3 / 6]  # 6, 5.25, 4.5 (to even), 3.75, 3
    assert {s.counts.depth for s in run("layer_skip", llama, last_share=1.0)[2:]} == {1.0}
    assert tokens_of(run("layer_skip", llama, last_share=1.0)) == tokens_of(run("autoregressive", llama))
    slow = [s.counts.depth for s in run("layer_skip", llama, limit=6, last_share=0.5, bottom=1, over_tokens=3)[2:]]
    assert slow == [1.0, 4 / 6, 0.5, 0.5, 0.5]


def test_no_later_token_runs_a_block_that_an_earlier_one_skipped() -> None:
    for share in (0.0, 0.3, 0.9):
        for bottom in (1, 3, 30):
            before = set(range(30))
            for place in range(50):
                now = set(that_run(30, place / 49, share, bottom))
                assert now <= before and {0, 29} <= now
                before = now


@pytest.mark.parametrize(
    ("name", "params"), [("self_speculative", {"exit_layer": 6}), ("early_exit", {"first_exit": 7})]
)
def test_an_exit_behind_the_last_block_is_refused(llama: TorchSession, name: str, params: dict[str, int]) -> None:
    with pytest.raises(ExplorerError, match="block"):
        run(name, llama, **params)


# ---------------------------------------------------------------- the embedded model

N = 24  # tokens of its greedy answer


@pytest.fixture(scope="module")
def smollm(tmp_path_factory: pytest.TempPathFactory, shared_cache: Path) -> Iterator[TorchSession]:
    from core.models import artifacts, catalogue

    home = tmp_path_factory.mktemp("home")
    (home / "cache").symlink_to(shared_cache)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROOFSCOPE_HOME", str(home))
        _, path = artifacts.provide(catalogue.find("smollm2-135m"), ("hf",), quiet)
    made = open_folder(Path(path), device="cpu")
    yield made
    made.close()


@pytest.fixture(scope="module")
def autoregressive(smollm: TorchSession) -> list[int]:
    """Its greedy answer to the question."""
    return tokens_of(run("autoregressive", smollm, N, question(smollm)))


def question(session: TorchSession) -> Ids:
    from core.tokenizers.chat import render

    text = "Explain in three sentences why the sky is blue."
    assert session.chat_template is not None
    return np.array([session.encode(render(session.chat_template, text, None, session.bos_token, session.eos_token))])


@pytest.mark.model
def test_the_embedded_model_speculates_with_itself_token_for_token(
    smollm: TorchSession, autoregressive: list[int]
) -> None:
    assert len(autoregressive) == N
    for depth in (15, 27):
        steps = run("self_speculative", smollm, N, question(smollm), exit_layer=depth)
        assert tokens_of(steps) == autoregressive
    assert len(steps) < 22, "all but three blocks agree often"


@pytest.mark.model
def test_the_embedded_model_leaves_early_and_loses_by_it(smollm: TorchSession, autoregressive: list[int]) -> None:
    """Along its own greedy text: the lower the threshold, the fewer blocks, and the further from the whole model."""
    prompt = question(smollm)
    steps = run("early_exit", smollm, N, prompt, threshold=0.9, first_exit=25, every=1)
    depth = float(np.mean([s.counts.depth for s in steps if s.counts.depth is not None]))
    assert 25 / 30 <= depth < 1 and len(smollm.decode(tokens_of(steps)).split()) > 10
    (whole, none), (_, few), (_, some), (shallow, many) = along(smollm, prompt, autoregressive, (1.01, 0.9, 0.5, 0.2))
    assert whole == 1 and none < 1e-6 and none < few < some < many and 22 / 30 <= shallow < 0.9


def along(
    session: TorchSession, prompt: Ids, text: list[int], thresholds: Sequence[float]
) -> list[tuple[float, float]]:
    """At each: mean share of the blocks run, and mean KL divergence from the whole model (nats per token)."""

    def log_softmax(values: Any) -> Any:
        x = values.astype(np.float64)
        x -= x.max(-1, keepdims=True)
        return x - np.log(np.exp(x).sum(-1, keepdims=True))

    session.reset()
    session.forward(prompt, keep=1)
    session.commit(prompt.shape[1])
    p = log_softmax(session.forward(np.array([text])).numpy()[0])
    session.commit(0)
    found = []
    for threshold in thresholds:
        q, ran = [], []
        for token in text:
            logits, depth = session.forward_exit(np.array([[token]]), threshold, range(22, 30, 2))
            session.commit(1)
            q.append(log_softmax(logits.numpy()[0, -1]))
            ran.append(depth / session.spec.n_blocks)
        session.rewind(len(text))
        found.append((float(np.mean(ran)), float((np.exp(p) * (p - np.array(q))).sum(-1).mean())))
    return found
