"""Every cause of a lower precision that does not pay, from hand-made numbers; and silence where there is none."""

from __future__ import annotations

import re
from typing import Any

import msgspec
import pytest

from core.analysis.fallback import slow, stored, warnings
from core.analysis.work import work
from core.dtypes import retype
from core.models.spec import from_config
from core.paths import data_dir
from core.runs.runner import Runner
from core.types import Generate, LayerResult, Linear, ModelSpec, Request
from hardware.ceilings import Ceilings, Gemm, ReadPoint, save
from hardware.detect import machine_id
from tests.support.facts import host, setup

CONFIG = {
    "model_type": "llama",
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 2,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "vocab_size": 4096,
    "tie_word_embeddings": False,
}
SPEC = from_config(CONFIG, name="small", source="made for a test")
HERE = Ceilings(
    machine_id="m",
    device="cpu",
    threads=2,
    date="2026-01-01T00:00:00Z",
    quick=True,
    seconds=1.0,
    gemms=(Gemm(dtype="fp32", m=512, k=512, n=512, flop_per_s=100e9, kernel=""),),
    reads=(ReadPoint(working_set_bytes=10**8, bytes_per_s=20e9, median_bytes_per_s=20e9),),
)
SETUP, IDLE = setup(), host(load_average=(0.0, 0.0, 0.0), physical_cores=2)


def stored_as(spec: ModelSpec, **dtypes: str) -> ModelSpec:
    """Layers whose name ends in a key (dots as underscores) hold that dtype; the key `rest` is for the others."""

    def one(layer: Any) -> Any:
        last = layer.name.split(".")[-1]
        dtype = dtypes.get(last, dtypes.get("rest"))
        return next(x for x in retype(spec, dtype).layers if x.name == layer.name) if dtype else layer

    return msgspec.structs.replace(spec, layers=tuple(map(one, spec.layers)))


def measured(spec: ModelSpec, phase: Any, n_new: int, times_fp32: float, op: str = "") -> list[LayerResult]:
    """All layers of a phase, the matrices `times_fp32` slower than an ideal fp32 kernel on HERE."""
    n_params = {layer.name: layer.n_params for layer in spec.layers}
    kinds = {layer.name: layer.op for layer in spec.layers}
    return [
        LayerResult(
            name=w.name, kind=w.kind, phase=phase, calls=1, flops=w.flops, bytes=w.bytes, weight_bytes=w.weight_bytes,
            n_params=n_params[w.name], op=op,
            seconds=times_fp32 * max(w.flops / 100e9, 4 * n_params[w.name] / 20e9) if isinstance(kinds[w.name], Linear)
            else 1.0,
        )
        for w in work(spec, n_new)
    ]  # fmt: skip


# ---------------------------------------------------------------- speed


def test_a_scalar_kernel_in_decode_is_named_with_its_figures() -> None:
    spec = retype(SPEC, "int8")
    (text,) = slow(spec, measured(spec, "decode", 1, 8.0), HERE, SETUP, IDLE)
    # 8 times slower than fp32 at 20 GB/s: fp32 reads 4 bytes where int8 reads 1
    assert text.startswith("In decode the 15 matrix layers in int8 reach 0.625 GB/s of weights, 8 times slower")
    assert "no fast kernel for int8" in text


def test_an_emulated_precision_in_prefill_is_named_with_its_cause() -> None:
    spec = retype(SPEC, "bf16")
    rows = measured(spec, "prefill", 64, 40.0)
    (text,) = slow(spec, rows, HERE, setup(emulated=("bf16",)), IDLE)
    # a little less than a fortieth of 100 GFLOP/s: the head works on one token, where reading is the limit
    assert "matrix layers in bf16 reach 2.39 GFLOP/s" in text and "40 times slower" in text
    assert "no bf16 instructions" in text
    (text,) = slow(spec, rows, HERE, SETUP, IDLE)
    assert "no fast kernel for bf16" in text
    spec = retype(SPEC, "fp16")
    (text,) = slow(spec, measured(spec, "prefill", 64, 40.0), HERE, SETUP, IDLE)
    assert "multiplies in fp16" in text


def test_the_operator_tells_the_cause() -> None:
    spec = retype(SPEC, "int4")
    (text,) = slow(spec, measured(spec, "decode", 1, 5.0, op="MatMulNBits"), HERE, SETUP, IDLE)
    assert "accuracy_level" in text and text.endswith(".")


@pytest.mark.parametrize(
    ("dtype", "phase", "n_new", "times"),
    [
        ("q4_1", "decode", 1, 0.2),  # a good kernel
        ("q4_1", "decode", 1, 2.5),  # a poor one on a machine that does something else besides
        ("q4_1", "prefill", 64, 9.0),  # llama.cpp's without matrix units
        ("bf16", "prefill", 64, 1.5),
        ("fp32", "decode", 1, 50.0),  # nothing lower than fp32 is in play
    ],
)
def test_sound_runs_are_not_warned_of(dtype: str, phase: str, n_new: int, times: float) -> None:
    spec = retype(SPEC, dtype)
    assert slow(spec, measured(spec, phase, n_new, times), HERE, SETUP, IDLE) == ()


def test_a_busy_machine_is_allowed_to_be_slower() -> None:
    spec = retype(SPEC, "int8")
    rows = measured(spec, "decode", 1, 8.0)
    busy = host(
        load_average=(6.0, 5.0, 4.0), physical_cores=2
    )  # 8 threads for 2 cores: 4 times slower may be the neighbours
    assert slow(spec, rows, HERE, SETUP, busy) == () and slow(spec, rows, HERE, SETUP)


def test_without_evidence_nothing_is_said() -> None:
    spec = retype(SPEC, "int8")
    rows = measured(spec, "decode", 1, 50.0)
    assert warnings(spec, rows, None, SETUP, IDLE) == ()  # no ceilings
    assert slow(spec, [msgspec.structs.replace(r, seconds=None) for r in rows], HERE, SETUP, IDLE) == ()
    assert slow(spec, [r for r in rows if r.name == "lm_head"], HERE, SETUP, IDLE) == ()  # one layer may be an accident
    assert slow(spec, rows, msgspec.structs.replace(HERE, gemms=()), SETUP, IDLE) == ()
    tiny = retype(from_config({**CONFIG, "hidden_size": 72, "intermediate_size": 64, "vocab_size": 64}), "int8")
    assert (
        slow(tiny, measured(tiny, "decode", 1, 50.0), HERE, SETUP, IDLE) == ()
    )  # the cost of calling, not of computing


# ---------------------------------------------------------------- stored weights


def test_a_head_that_a_quantizer_skipped() -> None:
    spec = stored_as(SPEC, rest="int8", lm_head="fp32")
    (text,) = stored(spec)
    head, blocks = 4 * 576 * 4096, 2 * (2 * 576 * 576 + 2 * 576 * 192 + 3 * 576 * 1536)
    assert text.startswith("The lm_head matrix was left in fp32 while the rest is int8;")
    assert f"{head / (head + blocks):.0%} of the weight bytes" in text


def test_a_tied_head_says_why() -> None:
    tied = from_config({**CONFIG, "tie_word_embeddings": True}, name="small")
    (text,) = stored(stored_as(tied, rest="int8", embed="fp32"))
    assert "it shares the table of embed" in text


def test_a_small_rest_in_full_precision_is_nothing_to_speak_of() -> None:
    small_head = from_config({**CONFIG, "vocab_size": 64})
    assert stored(stored_as(small_head, rest="int8", lm_head="fp16")) == ()
    assert stored(retype(SPEC, "fp32")) == () and stored(retype(SPEC, "bf16"), "BF16") == ()


def test_k_quants_that_fell_back_on_an_odd_width() -> None:
    """llama.cpp's Q4_K_M of this width: Q5_0 where rows have 576 weights, Q4_K where they have 1536."""
    spec = stored_as(SPEC, rest="q5_0", down_proj="q4_k", lm_head="q8_0", embed="q8_0")
    (text,) = stored(spec, "Q4_K - Medium")
    assert text.startswith("The file calls itself Q4_K - Medium, but is mostly Q5_0: rows of 576 weights")
    share, bits = re.search(r"so (\d+)% .* holds ([\d.]+) bits per weight instead of 4.5", text).groups()  # type: ignore[union-attr]
    blocks, down, head = 2 * 3_538_944, 2 * 884_736, 4096 * 576
    assert int(share) == round(100 * (blocks - down + head) / (blocks + head))
    wanted = ((blocks - down) * 5.5 + down * 4.5 + head * 8.5) / (blocks + head)
    assert float(bits) == pytest.approx(wanted, abs=0.05)
    assert stored(stored_as(SPEC, rest="q4_k", lm_head="q6_k"), "Q4_K - Medium") == ()


def test_a_label_that_promises_less_than_is_stored() -> None:
    (text,) = stored(stored_as(SPEC, rest="q8_0"), "Q4_0")
    assert text.startswith("The file calls itself Q4_0, which is 4.5 bits per weight, but its matrices hold 8.5")
    assert stored(stored_as(SPEC, rest="q8_0"), "Q8_0") == () and stored(stored_as(SPEC, rest="q8_0"), "?") == ()


def test_the_worker_says_it_at_the_end_of_a_run(runner: Runner, fake_request: Request) -> None:
    """Half a second per forward of a Q4_1 model is far too slow for memory of 40 GB/s, however busy the machine."""
    here = msgspec.structs.replace(
        HERE,
        machine_id=machine_id(),
        threads=1,
        reads=(ReadPoint(working_set_bytes=10**8, bytes_per_s=40e9, median_bytes_per_s=40e9),),
    )
    save(here, data_dir() / "ceilings")
    request = msgspec.structs.replace(
        fake_request, options={"delay_s": 0.5}, task=Generate(prompt="Hi", max_new_tokens=2), profilers=("layers",),
        warmup=0,
    )  # fmt: skip
    result = runner.wait(runner.start(request)).result()
    assert result.status == "done" and any(w.startswith("In decode the ") and "q4_1" in w for w in result.warnings)
