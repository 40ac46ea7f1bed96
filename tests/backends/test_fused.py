"""The fused forward against transformers' own, family by family and way by way, in every use that a session makes."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
from torch.utils._python_dispatch import TorchDispatchMode

from core import plugins
from core.backends.pytorch import native, ways
from core.backends.pytorch.fused import Fused
from core.backends.pytorch.room import STEP
from core.backends.pytorch.session import TorchSession
from core.backends.pytorch.ways import BLOCK_WAYS, Ways, choose
from core.runs.check import check
from core.types import Generate, GenerationConfig, Ids, Request
from hardware.errors import ExplorerError
from hardware.load import Load
from tests.backends.test_depth import FAMILIES, MORE, ONE, PROMPT, SIZES, made_of, open_folder
from tests.backends.test_tree import IDS, PARENTS
from tests.decoding.test_decoding import decode, tokens_of
from tests.support.tiny import heads_folder

pytestmark = pytest.mark.engine("pytorch")

WITHOUT_HEAD_DIM = {name: size for name, size in SIZES.items() if name != "head_dim"}
PLAIN_GEMMA = {"vocab_size": 320, "pad_token_id": 0} | {k: v for k, v in SIZES.items() if k != "vocab_size"}
FAMILIES = FAMILIES | {  # with what the others leave at its default
    "llama scaled": lambda: transformers.LlamaConfig(
        **SIZES, rope_parameters={"rope_type": "linear", "rope_theta": 500.0, "factor": 2.0}, rms_norm_eps=1e-3
    ),
    "one key head": lambda: transformers.LlamaConfig(**SIZES | {"num_key_value_heads": 1}, mlp_bias=True),
    "as many": lambda: transformers.Qwen3Config(**SIZES | {"num_key_value_heads": 4}),
    "odd sizes": lambda: transformers.LlamaConfig(
        **SIZES | {"head_dim": 6, "hidden_size": 28, "intermediate_size": 71}
    ),
    "gemma": lambda: transformers.GemmaConfig(**PLAIN_GEMMA),
    "phi3": lambda: transformers.Phi3Config(
        **WITHOUT_HEAD_DIM, pad_token_id=0, rope_parameters={"rope_type": "default", "rope_theta": 1e4}
    ),
    "phi3 partly rotated": lambda: transformers.Phi3Config(
        **WITHOUT_HEAD_DIM,
        pad_token_id=0,
        rope_parameters={"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5},
    ),
    "smollm3": lambda: transformers.SmolLM3Config(**SIZES, pad_token_id=0, no_rope_layers=[1, 0, 1, 1, 0, 1]),
    "olmo": lambda: transformers.OlmoConfig(**SIZES),
    "olmo2": lambda: transformers.Olmo2Config(**SIZES),
}
WAYS = ("compiled", "own", "plain", "packed")
Pair = tuple[TorchSession, TorchSession]


def step_of(session: TorchSession) -> Fused:
    step = session._call
    assert isinstance(step, Fused)
    return step


@pytest.fixture(scope="module", params=FAMILIES)
def opened(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """transformers' forward and the fused one, of the same weights."""
    config = FAMILIES[request.param]()
    folder = tmp_path_factory.mktemp("model")
    made = made_of(config, folder, fused=False), open_folder(folder)
    assert made[1].setup.fused, "it is the default"
    yield made
    for session in made:
        session.close()


@pytest.fixture
def pair(opened: Pair) -> Pair:
    """Through the compiled library."""
    return taking(opened, "compiled")


def taking(opened: Pair, way: str) -> Pair:
    step_of(opened[1]).take(Ways.always(way))
    for session in opened:
        session.reset()
    return opened


def same(pair: Pair, ids: Ids, keep: int | None = None, commit: int | None = None) -> None:
    wanted, got = (session.forward(ids, keep).numpy() for session in pair)
    assert got.shape == wanted.shape
    np.testing.assert_allclose(got, wanted, atol=1e-4, rtol=0)
    for session in pair:
        session.commit(ids.shape[1] if commit is None else commit)


@pytest.mark.parametrize("way", WAYS)
def test_prompt_one_token_and_several_say_the_same(opened: Pair, way: str) -> None:
    pair = taking(opened, way)
    same(pair, PROMPT)
    same(pair, ONE)
    same(pair, MORE)
    for accepted in (0, 3, 1):  # refused tokens leave no trace
        same(pair, MORE, keep=2, commit=accepted)
    for session in pair:
        session.rewind(6)
    same(pair, MORE)
    taking(opened, way)
    same(pair, np.concatenate([PROMPT, PROMPT[:, ::-1]]))  # a batch is its sequences
    same(pair, np.concatenate([MORE, MORE[:, ::-1]]))


@pytest.mark.parametrize("way", ["compiled", "plain"])
def test_a_tree_says_the_same_and_keeps_its_path(opened: Pair, way: str) -> None:
    pair = taking(opened, way)
    same(pair, PROMPT, keep=1)
    wanted, got = (session.forward_tree(IDS, PARENTS).numpy() for session in pair)
    np.testing.assert_allclose(got, wanted, atol=1e-4, rtol=0)
    for session in pair:
        session.commit_path((0, 2, 4))
    same(pair, MORE)


def test_blocks_can_be_left_out_as_before(pair: Pair) -> None:
    if "depth" not in pair[0].capabilities:
        assert "depth" not in pair[1].capabilities
        return
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


def test_strategies_find_the_tokens_of_the_plain_model(pair: Pair) -> None:
    plain, fused = pair
    wanted = tokens_of(decode("autoregressive", plain))
    for strategy in ("autoregressive", "jacobi", "lookahead", "prompt_lookup"):
        fused.reset()
        assert tokens_of(decode(strategy, fused)) == wanted, strategy


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


def test_a_step_dispatches_little(opened: Pair) -> None:
    counted = {}
    for name, session in zip(("plain", "fused"), opened, strict=True):
        session.reset()
        session.forward(PROMPT, keep=1)
        session.commit(PROMPT.shape[1])
        for way in ("plain", "compiled") if name == "fused" else ("transformers",):
            if name == "fused":
                step_of(session).take(Ways.always(way))
            with Dispatched() as seen:
                session.forward(ONE)
            counted[way] = seen.n
    assert counted["plain"] < counted["transformers"] and counted["compiled"] < 30, counted


@pytest.mark.parametrize("way", ["compiled", "own", "plain"])
def test_in_bf16_it_is_as_near_to_fp32_as_transformers(tmp_path: Path, way: str) -> None:
    exact = made_of(FAMILIES["llama"](), tmp_path, fused=False)
    errors = []
    for fused in (False, True):
        session = open_folder(tmp_path, "bf16", fused=fused)
        if fused:
            step_of(session).take(Ways.always(way))
        exact.reset()
        found = []
        for ids in (PROMPT, ONE, MORE):
            found.append(np.abs(session.forward(ids).numpy() - exact.forward(ids).numpy()).mean())
            for one in (session, exact):
                one.commit(ids.shape[1])
        errors.append(float(np.mean(found)))
        session.close()
    assert errors[1] < 1.1 * errors[0], errors


@pytest.mark.parametrize(("n_out", "n_in"), [(64, 128), (13, 37), (1, 5), (40, 96)])
def test_a_product_in_bf16_is_the_plain_one_with_inputs_in_bf16(n_out: int, n_in: int) -> None:
    """Or with inputs in fp32, where the processor has no products in bf16; and of each row alone to the bit."""
    import torch

    made = torch.Generator().manual_seed(0)
    w, bias, x = (torch.randn(*shape, generator=made) for shape in ((n_out, n_in), (n_out,), (21, n_in)))
    w = w.bfloat16()
    alone = torch.cat([native.product(row[None], [(w, bias)], 1) for row in x])
    errors = [(alone - (of.double() @ w.double().T + bias)).abs().max() for of in (x.bfloat16(), x)]
    assert min(errors) < 1e-5, errors
    for rows in range(1, 22):
        assert torch.equal(native.product(x[:rows], [(w, bias)], 1), alone[:rows]), rows


def test_layers_are_traced_and_counted_through_the_modules(opened: Pair) -> None:
    plain, fused = opened
    assert plain.capabilities == fused.capabilities and fused.setup.facts["traced_step"] == "transformers"
    names = []
    for session in opened:
        session.reset()
        trace = session.trace()
        trace.phase("decode")
        session.forward(PROMPT, keep=1)
        session.commit(PROMPT.shape[1])
        names.append({row.name for row in trace.finish()["decode"]})
    assert names[0] == names[1]
    assert {op.layer for op in plain.count(1, 4).ops} == {op.layer for op in fused.count(1, 4).ops}
    same(opened, MORE)  # the fused step goes on where the traced one left


def test_the_librarys_own_loop_finds_the_same(opened: Pair) -> None:
    made = [[t.tolist() for t in s.stream(PROMPT, GenerationConfig(limit=6))] for s in opened]
    assert made[0] == made[1]


def test_the_cache_keeps_what_it_held_when_it_grows(pair: Pair) -> None:
    many = np.random.default_rng(4).integers(5, 300, size=(1, STEP - 1)) if pair[0].max_context > STEP + 8 else MORE
    for ids in (many, ONE, ONE, MORE):
        same(pair, ids[:, : pair[0].max_context - 20 - pair[0].n_committed], keep=1)


@pytest.mark.parametrize(
    ("folder", "options", "says"),
    [
        (transformers.GPT2Config(n_layer=1, n_embd=16, n_head=2, vocab_size=320), {}, "does not know models like"),
        (FAMILIES["llama"](), {"compile": True}, "Set fused alone"),
        (FAMILIES["llama"](), {"attention": "eager"}, "Set fused alone"),
        (transformers.MistralConfig(**SIZES, sliding_window=8), {}, "does not know models like"),
        (transformers.OlmoConfig(**SIZES, clip_qkv=1.0), {}, "does not know models like"),
        (transformers.GemmaConfig(**PLAIN_GEMMA, hidden_act="gelu"), {}, "does not know models like"),
    ],
)
def test_what_it_cannot_do_is_refused_in_a_sentence(tmp_path: Path, folder: Any, options: Any, says: str) -> None:
    with pytest.raises(ExplorerError) as refused:
        made_of(folder, tmp_path, fused=True, **options)
    assert says in f"{refused.value} {refused.value.hint}"


@pytest.mark.parametrize("asked", [{"options": {"fused": True}}, {"dtype": "q8_0"}])
def test_a_family_that_it_does_not_know_is_refused_before_anything_is_loaded(asked: dict[str, Any]) -> None:
    with pytest.raises(ExplorerError, match="does not know models like gpt2"):
        check(Request(model="gpt2", backend="pytorch", task=Generate(prompt="Hi"), **asked))
    assert check(Request(model="gpt2", backend="pytorch", task=Generate(prompt="Hi"))).spec.architecture == "gpt2"


def test_what_it_cannot_do_runs_through_the_modules_where_nobody_asked(tmp_path: Path) -> None:
    session = made_of(transformers.GPT2Config(n_layer=1, n_embd=16, n_head=2, vocab_size=320), tmp_path)
    assert not session.setup.fused and session.forward(PROMPT).argmax().shape == PROMPT.shape
    session.close()


def test_without_a_compiler_it_runs_in_pytorchs_operators(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(in_groups: bool = False) -> None:
        raise native.UnbuiltError("there is no C++ compiler")

    monkeypatch.setattr(native, "library", none)
    plain = made_of(FAMILIES["llama"](), tmp_path, fused=False)
    fused = open_folder(tmp_path)
    assert fused.setup.facts["fused_kernels"] == "PyTorch's: there is no C++ compiler"
    same((plain, fused), PROMPT)
    same((plain, fused), MORE)


def test_a_library_that_does_not_compile_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "step.cpp"
    broken.write_text("int main( {")
    monkeypatch.setattr(native, "SOURCE", broken)
    monkeypatch.setenv("ROOFSCOPE_HOME", str(tmp_path / "empty"))
    native.library.cache_clear()
    try:
        with pytest.raises(native.UnbuiltError, match=r"does not compile .*error"):
            native.library()
        assert not list((tmp_path / "empty" / "cache" / "kernels").glob("*.so*"))
    finally:
        native.library.cache_clear()


# ---------------------------------------------------------------- which way


@pytest.mark.parametrize(
    ("timed", "best"),
    [
        ({"compiled": 1.0, "plain": 0.97}, "compiled"),  # hardly faster
        ({"compiled": 1.0, "plain": 0.9}, "plain"),
        ({"compiled": 1.0, "packed": 0.93}, "compiled"),  # not worth a second copy
        ({"compiled": 1.0, "packed": 0.5, "modules": 0.6}, "packed"),
        ({"plain": 1.0, "modules": 0.8}, "modules"),
    ],
)
def test_another_way_must_be_clearly_faster(timed: dict[str, float], best: str) -> None:
    assert choose(timed, BLOCK_WAYS) == best


def test_the_way_of_the_next_larger_number_of_rows_is_taken() -> None:
    found = Ways(of_blocks={1: "compiled", 8: "packed", 256: "plain"}, of_head={1: "compiled", 64: "plain"})
    assert [found.blocks(n) for n in (1, 2, 8, 9, 256, 4000)] == ["compiled", *["packed"] * 3, *["plain"] * 2]
    assert found.packs and not found.packs_head and found.head(500) == "plain"


def test_what_was_not_measured_is_what_is_likely() -> None:
    likely = Ways.unmeasured(compiled=True, emulated=True)
    assert [likely.blocks(n) for n in (1, 64, 65, 4000)] == ["compiled", "compiled", "own", "own"]
    found = Ways(of_blocks={1: "packed"}, of_head={1: "plain"}).over(likely)
    assert [found.blocks(n) for n in (1, 30, 65)] == ["packed", "packed", "own"]
    assert Ways().over(likely) == likely
    assert Ways.unmeasured(compiled=False, emulated=True).blocks(300) == "plain"


@pytest.mark.parametrize(
    ("waited_s", "stolen_s", "taken"), [(0.0, 0.0, True), (0.1, None, True), (1.0, 0.0, False), (None, 0.5, False)]
)
def test_what_was_timed_while_others_had_the_machine_is_not_taken(
    waited_s: float | None, stolen_s: float | None, taken: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two seconds of its own, a tenth of what it wanted may be lost: 0.22 s."""
    monkeypatch.setattr(ways.load, "between", lambda *_: Load(1.0, 2.0, waited_s, None, stolen_s))
    known, found = Ways(of_blocks={1: "plain"}), Ways(of_blocks={1: "packed"})
    assert ways.undisturbed(lambda: found, known) is (found if taken else known)


def test_what_was_measured_is_kept_and_foretold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every way is timed, the fastest is taken; the next opening reads it; packed copies are in the forecast."""
    monkeypatch.setenv("ROOFSCOPE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(ways, "SMALL_BYTES", 0)
    monkeypatch.setattr(ways, "BUDGET_S", -1.0)
    monkeypatch.setattr(ways, "LOST", 1.0)  # however busy this machine is
    plain = made_of(FAMILIES["llama"](), tmp_path / "model", fused=False)
    wanted = Request(model="tiny", backend="pytorch", threads=1)
    assert ways.kept(plain.spec, "fp32", 1) is None
    first = open_folder(tmp_path / "model")
    found = ways.kept(plain.spec, "fp32", 1)
    assert found is not None and set(found.ms) == set(found.of_blocks) == {1}, "no more than it may spend"
    monkeypatch.setattr(ways, "BUDGET_S", 60.0)
    open_folder(tmp_path / "model").close()
    found = ways.kept(plain.spec, "fp32", 1)
    assert found is not None and set(found.ms) == set(found.of_blocks) == set(ways.ROWS)
    assert {"compiled", "plain", "modules"} <= set(found.ms[1])
    same((plain, first), PROMPT)
    packing = Ways(of_blocks={1: "packed", 256: "plain"}, of_head={1: "plain", 256: "plain"}, ms=found.ms)
    ways.keep(plain.spec, "fp32", 1, packing)
    second = open_folder(tmp_path / "model")
    assert step_of(second).ways == packing
    reserve = plugins.get("backend", "pytorch").reserve(plain.spec, wanted, 100)
    assert reserve.packed_bytes == step_of(second).packed_bytes > 0
    for session in (plain, first):
        session.reset()
    same((first, second), PROMPT)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_the_weights_stay_where_they_are(tmp_path: Path) -> None:
    session = made_of(FAMILIES["llama"](), tmp_path)
    assert str(tmp_path) in Path("/proc/self/maps").read_text(), "transformers' weights lie in the file"
    assert step_of(session).packed_bytes == 0
    session.close()
