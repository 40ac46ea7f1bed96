"""Work summed over the forwards that ran: each value by hand, and every matrix product that PyTorch dispatches."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from core import plugins
from core.analysis.work import EXITS, HEADS, LayerWork, kv_bytes_per_token, ran_work, total, work
from core.dtypes import retype
from core.models import presets
from core.models import spec as specs
from core.models.spec import from_config
from core.types import Attention, Forwards, GenerationConfig, ModelSpec, Request
from tests.support.progress import silent
from tests.support.steps import taken

CONFIG = {
    "model_type": "llama", "hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 6,
    "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 300, "tie_word_embeddings": False,
}  # fmt: skip
SPEC = from_config(CONFIG, name="small")
PRESETS = Path(presets.__file__).parent / "presets"
HEAD = 64 * 300  # parameters


def preset(name: str) -> ModelSpec:
    return from_config(json.loads((PRESETS / f"{name}.json").read_text()), name=name)


def one(n_new: int, n_past: int = 0, n_logits: int = 1, **more: Any) -> Forwards:
    return Forwards(n_new=n_new, n_logits=n_logits, n_past=n_past, **more)


def of(spec: ModelSpec, *ran: Forwards, activation: str = "fp32", kv: str = "fp32") -> LayerWork:
    return total(ran_work(spec, ran, activation_dtype=activation, kv_dtype=kv))


@pytest.mark.parametrize(
    "name", ["llama-3.2-1b", "qwen3-0.6b", "gemma-3-27b", "mamba-130m", "mixtral-8x7b", "bert-base-uncased"]
)
def test_one_forward_is_the_work_of_that_forward(name: str) -> None:
    spec = preset(name)
    n_past = 70 if spec.causal else 0
    found = ran_work(spec, [one(5, n_past, n_logits=2, n_sequences=3)], activation_dtype="bf16", kv_dtype="fp16")
    wanted = work(spec, 5, n_past, 3, activation_dtype="bf16", kv_dtype="fp16", n_logits=2)
    assert [msgspec.structs.astuple(x) for x in found] == [pytest.approx(msgspec.structs.astuple(x)) for x in wanted]


def test_a_row_of_forwards_is_the_sum_of_each() -> None:
    together = of(SPEC, one(1, 10, times=50, rise=1), one(4, 60, n_logits=4, times=2))
    each = [of(SPEC, one(1, past)) for past in range(10, 60)] + [of(SPEC, one(4, 60, n_logits=4))] * 2
    for name in ("flops", "flops_executed", "weight_bytes", "activation_bytes", "kv_read_bytes", "kv_write_bytes"):
        assert getattr(together, name) == pytest.approx(sum(getattr(w, name) for w in each))


@pytest.mark.parametrize("window", [None, 3, 4, 64])
@pytest.mark.parametrize("n_new", [1, 4])
def test_many_forwards_are_the_sum_of_each_whatever_their_window(window: int | None, n_new: int) -> None:
    """While the window fills, in the middle of it and behind it; and out of order."""
    layers = tuple(
        msgspec.structs.replace(x, op=msgspec.structs.replace(x.op, window=window))
        if isinstance(x.op, Attention)
        else x
        for x in SPEC.layers
    )
    spec = msgspec.structs.replace(SPEC, layers=layers)
    pasts = [7, 0, 1, 2, 3, 4, 5, 59, 60, 61, 62, 63, 64, 65, 66, 200, 200]
    together, each = of(spec, *(one(n_new, p) for p in pasts)), [of(spec, one(n_new, p)) for p in pasts]
    alone = [total(work(spec, n_new, p, activation_dtype="fp32", kv_dtype="fp32")) for p in pasts]
    for name in ("flops", "flops_executed", "weight_bytes", "activation_bytes", "kv_read_bytes", "kv_write_bytes"):
        assert getattr(together, name) == sum(getattr(w, name) for w in each), name
        assert getattr(together, name) == pytest.approx(sum(getattr(w, name) for w in alone)), name


def test_half_precision_halves_the_cache_and_the_activations() -> None:
    """4,000 tokens of SmolLM2's shape in bf16: a token keeps 30 blocks * 2 * 3 heads * 64 elements of 2 bytes."""
    assert kv_bytes_per_token(preset_smollm(), "bf16") == 30 * 2 * 3 * 64 * 2 == 23_040
    spec = retype(preset_smollm(), "bf16")
    right, as_fp32 = (of(spec, one(1, 4000), activation=d, kv=d) for d in ("bf16", "fp32"))
    assert right.kv_read_bytes == 23_040 * 4001 and as_fp32.kv_read_bytes == 2 * right.kv_read_bytes
    assert as_fp32.bytes / right.bytes == pytest.approx(1.26, abs=0.005)


def preset_smollm() -> ModelSpec:
    return from_config(
        {
            "model_type": "llama", "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
            "num_attention_heads": 9, "num_key_value_heads": 3, "vocab_size": 49152, "tie_word_embeddings": True,
        },
        name="smollm2",
    )  # fmt: skip


def test_a_prompt_in_chunks_reads_the_weights_once_per_chunk() -> None:
    """In bf16: 134.5 M parameters are 269 MB in each of eight chunks; and one row of the table per token, 4.7 MB."""
    spec = retype(preset_smollm(), "bf16")
    once = of(spec, one(4096)).weight_bytes
    chunks = of(spec, one(512, 0, times=8, rise=512)).weight_bytes
    assert once / 1e6 == pytest.approx(274, abs=0.5) and chunks / 1e6 == pytest.approx(2157, abs=1)
    assert of(spec, one(4096)).flops == pytest.approx(of(spec, one(512, 0, times=8, rise=512)).flops, rel=0.05)


def test_the_head_is_computed_for_as_many_rows_as_were_asked_for() -> None:
    """Of SmolLM2 at a window of 16: 106 M parameters in the blocks and 28.3 M in the head, 16 rows of it and not 1."""
    few, all_rows = (of(preset_smollm(), one(16, 100, n_logits=n)) for n in (1, 16))
    assert all_rows.flops - few.flops == 2 * 15 * 576 * 49152
    assert all_rows.flops / few.flops == pytest.approx(1.24, abs=0.005)


def test_blocks_that_were_left_out_add_nothing() -> None:
    full, half = of(SPEC, one(1, 0)), of(SPEC, one(1, 0, blocks=((0, 2), (5, 6))))
    assert full.flops - half.flops == pytest.approx(
        sum(w.flops for w in work(SPEC, 1) if w.name.startswith(("blocks.2.", "blocks.3.", "blocks.4.")))
    )
    rows = {
        w.name: w for w in ran_work(SPEC, [one(1, blocks=((0, 2), (5, 6)))], activation_dtype="fp32", kv_dtype="fp32")
    }
    assert rows["blocks.1.mlp.up_proj"].flops == 2 * 64 * 160 == rows["blocks.5.mlp.up_proj"].flops
    assert rows["blocks.2.mlp.up_proj"].bytes == rows["blocks.4.attn.core"].bytes == 0
    assert rows["lm_head"].flops == 2 * HEAD


def test_blocks_that_only_fill_their_cache_make_keys_and_values() -> None:
    rows = ran_work(SPEC, [one(1, 9, 0, of="fill", blocks=((4, 6),))], activation_dtype="fp32", kv_dtype="fp16")
    found = {w.name: w for w in rows if w.bytes}
    assert {name.rpartition(".")[2] for name in found} == {"attn_norm", "k_proj", "v_proj", "core"} and len(found) == 8
    assert found["blocks.4.attn.k_proj"].flops == 2 * 64 * 32
    core = found["blocks.5.attn.core"]
    assert (core.flops, core.kv_read_bytes, core.kv_write_bytes) == (0, 0, 2 * 32 * 2)


def test_trained_heads_are_a_row_of_their_own() -> None:
    """Three heads: three products of 64 * 64, and three rows of the unembedding."""
    rows = ran_work(SPEC, [one(3, 0, 3, of="heads")], activation_dtype="fp32", kv_dtype="fp32")
    found = {w.name: w.flops for w in rows if w.flops}
    assert found == {"lm_head": 2 * 3 * HEAD, HEADS: 2 * 3 * 64 * 64} and rows[-1].name == HEADS
    assert rows[-1].weight_bytes == 3 * 64 * 64 * 4


def test_exit_heads_are_a_row_of_their_own() -> None:
    """Of rank 4, asked at two exits of one forward through four of six blocks: each two products of 4 * 64."""
    at_two_exits = (one(1, 9, 2, blocks=((0, 4),)), one(4, 0, 1, of="exits", times=2))
    rows = {w.name: w for w in ran_work(SPEC, at_two_exits, activation_dtype="fp32", kv_dtype="fp32")}
    found = rows[EXITS]
    assert found.flops == found.flops_executed == 2 * (2 * 4 * 64 + 2 * 64 * 4) == 2048
    assert found.weight_bytes == 2 * (2 * 4 * 64) * 4 == 4096
    assert found.activation_bytes == 2 * ((64 + 4) + (4 + 64)) * 4 == 1088
    assert rows["lm_head"].flops == 2 * 2 * HEAD and rows["final_norm"].flops == 2 * 4 * 64, "a norm for each exit"
    assert of(SPEC, *at_two_exits).flops - of(SPEC, at_two_exits[0]).flops == 2048
    assert of(SPEC, one(4, 0, 3, of="exits", n_sequences=2)).flops == 6 * 1024
    none = ran_work(SPEC, [one(4, 0, 0, of="exits")], activation_dtype="fp32", kv_dtype="fp32")
    assert total(none).bytes == 0


def test_a_pruned_last_block_computes_the_rows_that_are_wanted() -> None:
    """Eight new tokens, two of which are asked for: six rows less of three products, and of what is between."""
    given = {"activation_dtype": "fp32", "kv_dtype": "fp32"}
    whole, pruned = (
        {w.name: w for w in ran_work(SPEC, [one(8, 3, 2)], **given, prunes_last_block=p)} for p in (False, True)
    )
    less = {name: whole[name].flops - pruned[name].flops for name in whole if whole[name] != pruned[name]}
    assert less == {
        "blocks.5.attn.residual": 6 * 64,
        "blocks.5.mlp_norm": 6 * 4 * 64,
        "blocks.5.mlp.gate_proj": 6 * 2 * 64 * 160,
        "blocks.5.mlp.up_proj": 6 * 2 * 64 * 160,
        "blocks.5.mlp.act": 6 * 2 * 160,
        "blocks.5.mlp.down_proj": 6 * 2 * 160 * 64,
        "blocks.5.mlp.residual": 6 * 64,
        "final_norm": 6 * 4 * 64,
    }
    assert pruned["blocks.5.mlp.up_proj"].weight_bytes == 64 * 160 * 4, "read once, for however few rows"
    chunk = {w.name: w for w in ran_work(SPEC, [one(8, 0, 0)], **given, prunes_last_block=True)}
    assert chunk["blocks.5.mlp.up_proj"].bytes == 0 < chunk["blocks.4.mlp.up_proj"].bytes
    same = work(SPEC, 8, 3, n_logits=2, kv_dtype="fp32", prunes_last_block=True)
    assert [w.flops for w in same] == [pruned[w.name].flops for w in same]


# ---------------------------------------------------------------- against what PyTorch dispatches

LIMIT = 14
PROMPT = np.random.default_rng(3).integers(5, 250, size=(1, 11))
CASES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("autoregressive", {"prefill_chunk": 4}),
    ("jacobi", {"window": 6}),
    ("jacobi", {"window": 4, "early": True, "pool": 3}),
    ("lookahead", {"window": 3, "ngram": 3}),
    ("prompt_lookup", {"min_ngram": 1}),
    ("early_exit", {"threshold": 0.2, "first_exit": 1, "every": 2}),
    ("early_exit", {"threshold": 0.2}),  # by exit heads behind blocks 2 and 4
    ("layer_skip", {"last_share": 0.5, "bottom": 1}),
    ("self_speculative", {"exit_layer": 3, "draft_length": 3}),
    ("self_speculative", {"draft_length": 3}),  # by the exit head behind block 2
    ("medusa", {"n_nodes": 5}),
    ("speculative", {"draft_length": 3}),
    ("encode", {}),
)


@pytest.mark.engine("pytorch")
@pytest.mark.parametrize(("name", "params"), CASES, ids=[f"{name}-{i}" for i, (name, _) in enumerate(CASES)])
def test_every_product_that_is_dispatched_is_computed(tmp_path: Path, name: str, params: dict[str, Any]) -> None:
    """All linear layers, attention and heads of a whole run, prompt and answer: the same number, to the last FLOP.

    The rotary tables are a product of positions and frequencies too, which no layer stands for: they are left out.
    """
    session, draft = (small(tmp_path / which, blocks) for which, blocks in (("model", 6), ("draft", 2)))
    if name == "medusa":
        add_heads(session)
    if name in ("early_exit", "self_speculative") and "first_exit" not in params and "exit_layer" not in params:
        add_exits(session)
    strategy = plugins.get("strategy", name)
    drafts = [draft] if name == "speculative" else []
    ran: list[Any] = []

    def run() -> None:
        made = msgspec.convert(params, strategy.Params)
        steps = strategy.decode(session, PROMPT, GenerationConfig(limit=LIMIT), made, *drafts)
        ran.extend(taken(steps, session, *drafts))

    found = dispatched(run)
    forwards = [f for step in ran for f in step.ran]
    assert sum(len(step.tokens[0]) for step in ran if step.tokens) == (0 if name == "encode" else LIMIT)
    computed = 0.0
    for spec, drafting in ((session.spec, False), (draft.spec, True)):
        own = [f for f in forwards if (f.of == "draft") == drafting]
        computed += products(ran_work(spec, own, activation_dtype="fp32", kv_dtype="fp32"))
    assert found == computed


@pytest.mark.engine("pytorch")
def test_what_drafts_stands_in_the_count_as_rows_of_its_own(tmp_path: Path) -> None:
    """A step after eleven tokens: three drafts by three of six blocks; three heads, which guess a tree of five.

    A draft multiplies, in each block, q and o of 64 * 64, k and v of 64 * 32 and the MLP's three of 64 * 160, scores
    and sums for four heads of 16 over all tokens so far, and the head once.
    """
    session, limit = small(tmp_path / "model", 6), GenerationConfig(limit=LIMIT)

    def first(name: str, **params: Any) -> tuple[Forwards, ...]:
        strategy = plugins.get("strategy", name)
        steps = taken(strategy.decode(session, PROMPT, limit, msgspec.convert(params, strategy.Params)), session)
        return next(step.ran for step in steps if step.phase == "decode")

    drafts, checked = first("self_speculative", exit_layer=3, draft_length=3)
    assert drafts == one(1, 11, of="blocks", blocks=((0, 3),), times=3, rise=1) and checked == one(4, 11, 4)
    linear = 2 * (2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 160)
    found = products(ran_work(session.spec, [drafts], activation_dtype="fp32", kv_dtype="fp32"))
    assert found == 3 * (3 * linear + 2 * HEAD) + 3 * 2 * 4 * (16 + 16) * (12 + 13 + 14)
    session.reset()
    add_heads(session)
    guessed, tree = first("medusa", n_nodes=5)
    assert guessed == one(3, 0, 3, of="heads") and tree == one(6, 11, 6)
    found = products(ran_work(session.spec, [guessed], activation_dtype="fp32", kv_dtype="fp32"))
    assert found == 3 * (2 * 64 * 64 + 2 * HEAD)


def products(rows: tuple[LayerWork, ...]) -> float:
    last = {"q_proj", "k_proj", "v_proj", "o_proj", "core", "gate_proj", "up_proj", "down_proj", "lm_head"}
    return sum(w.flops_executed for w in rows if w.name.rpartition(".")[2] in last | {HEADS, EXITS})


def small(folder: Path, blocks: int) -> Any:
    import transformers

    config = transformers.LlamaConfig(
        **{**CONFIG, "num_hidden_layers": blocks, "max_position_embeddings": 128, "initializer_range": 0.3}
    )
    config.save_pretrained(folder)
    request = Request(model="small", backend="pytorch", threads=1, options={"fused": False})
    return plugins.get("backend", "pytorch").open(str(folder), specs.read(folder, "config"), request, silent)


def add_heads(session: Any) -> None:
    """Three Medusa heads with random weights, each right half the time."""
    import torch

    heads = import_module("core.backends.pytorch.heads")
    weight = torch.randn(3, 64, 64, generator=torch.Generator().manual_seed(0)) / 64
    session.add_heads(heads.Heads(session._model, weight, ((0.5, 0.2, 0.1),) * 3))


def add_exits(session: Any) -> None:
    """Random exit heads of rank 4 behind blocks 2 and 4."""
    import torch

    depth, model = import_module("core.backends.pytorch.depth"), session._model
    torch.manual_seed(0)
    heads = {str(block): depth.exit_head(64, 4, model.model.norm) for block in (2, 4)}
    for head in heads.values():
        torch.nn.init.normal_(head.up.weight, std=0.1)
    model.exit_heads = torch.nn.ModuleDict(heads)
    session._depth_of_modules = session._depth_of_step = depth.depth_of(model)
    session.exit_heads = session._depth.exit_heads


def dispatched(run: Any) -> float:
    """FLOPs of all matrix products but those of the rotary embedding, whose inner dimension is 1."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    count = import_module("core.backends.pytorch.count")
    found = [0.0]

    class Mode(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            kwargs = kwargs or {}
            if not count._is_known(func):
                with self:
                    result = func.decompose(*args, **kwargs)
                if result is not NotImplemented:
                    return result
            result = func(*args, **kwargs)
            flops, product = count._flops(func, args, kwargs, result)
            if count._name(func) == "mv":  # which is in no table: the heads' product with one hidden state
                flops, product = 2.0 * args[0].numel(), True
            inner = [a.shape[-1] for a in args[:1] if isinstance(a, torch.Tensor) and a.dim() >= 2]
            if product and inner != [1]:
                found[0] += flops
            return result

    with Mode():
        run()
    return found[0]
