"""Weights as integers in groups: what the products say beside plain ones, and models whose weights are such."""

from __future__ import annotations

import platform
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from core.backends.pytorch import grouped, native
from core.backends.pytorch.fused import Fused
from core.dtypes import retype
from core.models import spec as specs
from core.types import GenerationConfig, Request
from hardware.detect import machine
from hardware.errors import ExplorerError
from tests.backends.test_depth import MORE, ONE, PROMPT, SIZES, made_of, open_folder
from tests.backends.test_fused import FAMILIES, PLAIN_GEMMA
from tests.decoding.test_decoding import decode, tokens_of

pytestmark = pytest.mark.engine("pytorch")

KINDS = tuple(grouped.FORMS)
LARGEST = 127  # of an input


def random(*shape: int, seed: int = 0) -> Any:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def plain(matrix: grouped.Matrix) -> Any:
    return matrix.rows(torch.arange(matrix.shape[0]))


def test_a_matrix_of_eight_bits_is_as_near_as_half_a_step() -> None:
    w = random(24, 96)
    w[3, 32:64] = 0  # a group without a largest
    steps = (w.view(24, 3, 32).abs().amax(-1, keepdim=True) / 127).half().float()
    off = (plain(grouped.pack(w, "q8_0")) - w).view(24, 3, 32).abs()
    assert (off <= 0.5 * steps + 127 * steps * 2**-11 + 1e-7).all()


def test_the_search_for_four_bits_beats_the_range_of_a_group() -> None:
    w = random(40, 640)
    groups = w.view(40, 20, 32)
    low, high = groups.amin(-1, keepdim=True), groups.amax(-1, keepdim=True)
    step = (high - low) / 15
    by_range = ((groups - low) / step).round() * step + low
    found = plain(grouped.pack(w, "q4_1")).view_as(groups)
    assert ((found - groups) ** 2).mean() < 0.92 * ((by_range - groups) ** 2).mean()
    flat = torch.full((8, 32), 0.25)
    assert torch.equal(plain(grouped.pack(flat, "q4_1")), flat), "a group of one value is that value"


def test_what_was_four_bits_once_is_found_again() -> None:
    """As in a model made from a file of Q4_1: sixteen steps in every group, of which the lowest and highest occur."""
    made = torch.Generator().manual_seed(0)
    q = torch.randint(0, 16, (16, 4, 32), generator=made)
    q[..., 5], q[..., 9] = 0, 15
    scale, least = torch.rand(16, 4, 1, generator=made).half().float() + 0.125, random(16, 4, 1).half().float()
    w = (scale.half().float() * q + least).view(16, 128)
    torch.testing.assert_close(plain(grouped.pack(w, "q4_1")), w, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("n_out", "n_in"), [(64, 128), (13, 37), (1, 5), (40, 96)])
def test_a_product_of_any_number_of_rows_is_the_plain_one(kind: str, n_out: int, n_in: int) -> None:
    """Within what rounding the inputs brings, half a step of each group; and of each row alone to the bit."""
    matrix, bias = grouped.pack(random(n_out, n_in), kind), random(n_out, seed=1)
    w = plain(matrix).double()
    x = random(64, n_in, seed=2)
    alone = torch.cat([native.product(row[None], [(matrix, bias)], matrix.form) for row in x])
    padded = torch.nn.functional.pad(x, (0, -n_in % 32)).view(64, -1, 32).abs()
    steps = (padded.amax(-1, keepdim=True) / LARGEST).expand(-1, -1, 32).reshape(64, -1)[:, :n_in].double()
    bound = 0.51 * steps @ w.abs().T + 1e-4
    assert ((alone.double() - (x.double() @ w.T + bias)).abs() <= bound).all()
    for rows in range(1, 65):
        assert torch.equal(native.product(x[:rows], [(matrix, bias)], matrix.form), alone[:rows]), rows


def test_rows_of_a_matrix_can_be_cut_where_a_panel_begins() -> None:
    matrix = grouped.pack(random(40, 64), "q8_0")
    assert torch.equal(plain(matrix[16:29]), plain(matrix)[16:29])


TARGETS = {  # -march, more flags, and what a processor must have to run it
    "plain": ("x86-64", (), set()),
    "avx2": ("haswell", (), {"avx2", "fma", "f16c"}),
    "avx_vnni": ("haswell", ("-mavxvnni",), {"avx2", "fma", "f16c", "avx_vnni"}),
    "avx512": ("skylake-avx512", (), {"avx512"}),
    "avx512_vnni": ("cascadelake", (), {"avx512", "avx512_vnni"}),
}


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The library for each kind of processor that this one can be; plain C++ for any."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        pytest.skip("the kernels are for x86")
    folder, here = tmp_path_factory.mktemp("kernels"), set(machine().isa)
    building = {}
    for name, (march, flags, needs) in TARGETS.items():
        if needs <= here:
            command = [native._compiler(), *native.FLAGS, "-O1", "-DGROUPED=1", f"-march={march}", *flags]
            building[name] = subprocess.Popen([*command, str(native.SOURCE), "-o", str(folder / f"{name}.so")])
    assert not any(child.wait(native.COMPILE_S) for child in building.values())
    return {name: native.loaded(folder / f"{name}.so", in_groups=True) for name in building}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kernel_says_what_plain_c_says(
    kind: str, kernels: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Integers are the same to the last; fp32 rounds otherwise where product and sum are one instruction."""
    matrix, bias = grouped.pack(random(40, 160), kind), random(40, seed=1)
    x = random(21, 160, seed=2) * torch.logspace(-3, 3, 21)[:, None]
    said = {}
    for name, library in kernels.items():
        monkeypatch.setattr(native, "library", lambda in_groups=False, library=library: library)
        said[name] = native.product(x, [(matrix, bias)], matrix.form)
    monkeypatch.undo()
    said["native"] = native.product(x, [(matrix, bias)], matrix.form)
    rounding = 4e-6 * (x.abs() @ plain(matrix).abs().T + bias.abs())
    for name, found in said.items():
        assert ((found - said["plain"]).abs() <= rounding).all(), name


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("threads", [1, 3])
def test_large_inputs_and_zeros_have_no_overflow(kind: str, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The largest integers on both sides, in every input."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    w = torch.ones(16, 128)
    w[1] = -1
    w[:, 0::32] = -1  # so that four bits use their whole range
    w[1, 0::32] = 1
    matrix = grouped.pack(w, kind)
    for x in (torch.ones(5, 128) * 1e4, -torch.ones(5, 128) * 1e4, torch.zeros(5, 128)):
        wanted = x.double() @ plain(matrix).double().T
        got = native.product(x, [(matrix, None)], matrix.form).double()
        torch.testing.assert_close(got, wanted, rtol=2e-4, atol=1e-6)


# ---------------------------------------------------------------- models


def written_out(session: Any, folder: Path) -> None:
    """The same model with its integers as plain numbers, in `folder`."""
    model, config = session._model, session._model.config
    state = {}
    for path, module in model.named_modules():
        weight = getattr(module, "weight", None)
        if weight is not None:
            state[f"{path}.weight"] = plain(weight) if isinstance(weight, grouped.Matrix) else weight.detach()
        if getattr(module, "bias", None) is not None:
            state[f"{path}.bias"] = module.bias.detach()
    made = transformers.AutoModelForCausalLM.from_config(config).eval()
    if config.tie_word_embeddings:
        state.pop("lm_head.weight")
    told = made.load_state_dict(state, strict=False)
    assert not told.unexpected_keys and set(told.missing_keys) <= {"lm_head.weight", "model.embed_tokens.embed_scale"}
    made.save_pretrained(folder)


def as_integers(x: Any) -> Any:
    """x (..., d) rounded to whole parts, -127 to 127, of the largest of each 32."""
    d = x.shape[-1]
    groups = torch.nn.functional.pad(x, (0, -d % 32)).unflatten(-1, (-1, 32))
    steps = (groups.abs().amax(-1, keepdim=True) / LARGEST).clamp(min=1e-30)
    return ((groups / steps).round() * steps).flatten(-2)[..., :d]


MODELS = {name: FAMILIES[name] for name in ("llama tied", "odd sizes", "gemma", "phi3", "olmo2", "qwen3")}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", MODELS)
def test_a_model_says_what_its_weights_written_out_say(tmp_path: Path, family: str, kind: str) -> None:
    """Where the inputs of every product are rounded as it rounds them."""
    made_of(MODELS[family](), tmp_path / "model", fused=False).close()
    session = open_folder(tmp_path / "model", kind)
    assert session.setup.fused and session.setup.activation_dtype == session.setup.kv_dtype == "fp32"
    assert "count" not in session.capabilities and "layers" in session.capabilities
    (tmp_path / "plain").mkdir()
    for file in (tmp_path / "model").iterdir():
        if file.suffix != ".safetensors":
            (tmp_path / "plain" / file.name).write_bytes(file.read_bytes())
    written_out(session, tmp_path / "plain")
    other = open_folder(tmp_path / "plain", "fp32", fused=False)
    for module in other._open_model().modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_pre_hook(lambda _, inputs: (as_integers(inputs[0]),))
    for ids in (PROMPT, ONE, MORE, np.tile(PROMPT, (1, 6))):
        got, wanted = session.forward(ids).numpy(), other.forward(ids).numpy()
        near = 1e-6 if ids.size < 20 else 0.02  # of many inputs one lies between two integers, and falls either way
        assert np.abs(got - wanted).mean() < near * wanted.std(), family
        for one in (session, other):
            one.commit(ids.shape[1])
    for one in (session, other):
        one.close()


def test_the_modules_compute_with_the_same_integers(tmp_path: Path) -> None:
    """A trace, the library's loop and blocks left out run through transformers; strategies find the same tokens."""
    made_of(FAMILIES["llama tied"](), tmp_path, fused=False).close()
    session = open_folder(tmp_path, "q8_0")
    assert isinstance(session._call, Fused) and session._call.grouped
    wanted = session.forward(PROMPT).numpy()
    session.reset()
    trace = session.trace()
    trace.phase("decode")
    np.testing.assert_allclose(session.forward(PROMPT).numpy(), wanted, atol=5e-3)
    assert "blocks.0.mlp.down_proj" in {row.name for row in trace.finish()["decode"]}
    session.reset()
    np.testing.assert_allclose(session.forward_through(PROMPT, range(6)).numpy(), wanted, atol=1e-6)
    made = [t.tolist() for t in session.stream(PROMPT, GenerationConfig(limit=4))]
    session.reset()
    found = tokens_of(decode("autoregressive", session))
    assert len(made) == 4 and tokens_of(decode("prompt_lookup", session)) == found
    session.close()


def test_weights_are_held_once_and_weigh_what_the_format_says(tmp_path: Path) -> None:
    made_of(transformers.LlamaConfig(**SIZES, tie_word_embeddings=True), tmp_path, fused=False).close()
    for kind in KINDS:
        session = open_folder(tmp_path, kind)
        matrices = {id(m.weight): m.weight for m in session._model.modules() if hasattr(m, "weight")}
        held = sum(m.n_bytes for m in matrices.values() if isinstance(m, grouped.Matrix))
        said = retype(specs.read(tmp_path, "hf"), kind)
        norms = sum(p.numel() * 4 for p in session._model.parameters())
        assert held + norms == said.weight_bytes
        session.close()


@pytest.mark.parametrize("tied", [True, False])
def test_a_model_in_four_bits_has_its_table_and_its_head_in_eight(tmp_path: Path, tied: bool) -> None:
    made_of(transformers.LlamaConfig(**SIZES, tie_word_embeddings=tied), tmp_path, fused=False).close()
    session = open_folder(tmp_path, "q4_1")
    held = {path: m.weight for path, m in session._model.named_modules() if hasattr(m, "weight")}
    kinds = {path: matrix.kind for path, matrix in held.items() if isinstance(matrix, grouped.Matrix)}
    table, head = held["model.embed_tokens"], held["lm_head"]
    assert kinds.pop("model.embed_tokens") == kinds.pop("lm_head") == "q8_0" and set(kinds.values()) == {"q4_1"}
    assert (table is head) == tied
    session.close()


@pytest.mark.parametrize(
    ("config", "options", "says"),
    [
        (transformers.GPT2Config(n_layer=1, n_embd=16, n_head=2, vocab_size=320), {}, "does not know models like"),
        (transformers.GemmaConfig(**PLAIN_GEMMA, hidden_act="gelu"), {}, "does not know models like"),
        (FAMILIES["llama"](), {"fused": False}, "are for the fused step"),
        (FAMILIES["llama"](), {"compile": True}, "are for the fused step"),
        (FAMILIES["llama"](), {"attention": "eager"}, "are for the fused step"),
        (FAMILIES["llama"](), {"device": "cuda"}, "on the processor only"),
    ],
)
def test_where_the_fused_step_cannot_be_used_it_is_refused(
    tmp_path: Path, config: Any, options: Any, says: str
) -> None:
    made_of(config, tmp_path, fused=False).close()
    with pytest.raises(ExplorerError, match=says):
        open_folder(tmp_path, "q8_0", **options)


def test_without_a_compiler_it_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(in_groups: bool = False) -> None:
        raise native.UnbuiltError("there is no C++ compiler")

    made_of(FAMILIES["llama"](), tmp_path, fused=False).close()
    monkeypatch.setattr(native, "library", none)
    with pytest.raises(ExplorerError, match="need the compiled step, and there is no C"):
        open_folder(tmp_path, "q4_1")


def test_the_forecast_holds_the_plain_weights_while_they_are_read() -> None:
    from core import plugins

    backend = plugins.get("backend", "pytorch")
    spec = specs.from_config(FAMILIES["llama"]().to_dict(), "tiny")
    told = {kind: retype(spec, kind) for kind in ("fp32", *KINDS)}
    sizes = {kind: backend.reserve(s, Request(model="tiny", backend="pytorch"), 8) for kind, s in told.items()}
    for kind in KINDS:
        assert sizes[kind].weights_bytes == told[kind].weight_bytes < 0.35 * sizes["fp32"].weights_bytes
        assert sizes[kind].weights_bytes + sizes[kind].workspace_bytes >= 4 * spec.n_params
        assert sizes[kind].kv_bytes == sizes["fp32"].kv_bytes and sizes[kind].packed_bytes == 0
