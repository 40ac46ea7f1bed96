"""Memory by hand on networks small enough to count, and by its laws on larger ones."""

from __future__ import annotations

import pytest

from core.analysis.capacity import fit, longest_context
from core.analysis.memory import Shape, grown, live_sets, split, with_vocabulary
from core.analysis.memory_seen import measured, reported, shape_of_run
from core.types import Attention, Elementwise, Embedding, Layer, Linear, Loaded, Memory, ModelSpec, Norm, Request
from tests.support.facts import setup

D, V, H, T = 8, 100, 2, 3


def spec(causal: bool = True, max_context: int | None = 64, window: int | None = None) -> ModelSpec:
    core = Attention(n_heads=H, n_kv_heads=1, qk_dim=4, v_dim=4, causal=causal, window=window)
    layers = (
        Layer(name="embed", kind="embedding", op=Embedding(rows=V, d=D), n_params=V * D, weight_bytes=V * D * 4),
        Layer(name="blocks.0.attn_norm", kind="norm", op=Norm(d=D), inputs=("embed",), n_params=D, weight_bytes=D * 4),
        Layer(
            name="blocks.0.attn.qkv_proj",
            kind="attention",
            op=Linear(d_in=D, d_out=16),
            inputs=("blocks.0.attn_norm",),
            n_params=D * 16,
            weight_bytes=D * 16 * 4,
        ),
        Layer(name="blocks.0.attn.core", kind="attention", op=core, inputs=("blocks.0.attn.qkv_proj",)),
        Layer(
            name="blocks.0.attn.residual",
            kind="other",
            op=Elementwise(d=D, n_inputs=2),
            inputs=("embed", "blocks.0.attn.core"),
        ),
        Layer(
            name="lm_head",
            kind="head",
            op=Linear(d_in=D, d_out=V, tied_to="embed"),
            inputs=("blocks.0.attn.residual", "embed"),
        ),
    )
    return ModelSpec(
        name="tiny",
        architecture="tiny",
        d_model=D,
        n_blocks=1,
        vocab_size=V,
        max_context=max_context,
        layers=layers,
        causal=causal,
    )


SHAPE = Shape(n_context=10, n_forward=T)


def test_live_sets_by_hand() -> None:
    """fp32, 3 tokens: 4 * 3 * width bytes each; the head keeps one position of logits in fp32."""
    alive = {x.name: (x.output_bytes, x.live_bytes) for x in live_sets(spec(), SHAPE)}
    e, n, q, c, r, logits = 96, 96, 192, 96, 96, 4 * V
    assert alive["embed"] == (e, e)
    assert alive["blocks.0.attn_norm"] == (n, e + n)
    assert alive["blocks.0.attn.qkv_proj"] == (q, e + n + q), "embed is still needed by the sum"
    assert alive["blocks.0.attn.core"] == (c, e + q + c)
    assert alive["blocks.0.attn.residual"] == (r, e + c + r)
    assert alive["lm_head"] == (logits, r + logits), "the tied table is a weight, not an activation"


def test_split_by_hand() -> None:
    of = split(spec(), SHAPE, runtime_bytes=1000)
    assert of.weights_bytes == 4 * (V * D + D + D * 16)
    assert of.kv_bytes == 10 * (4 + 4) * 2, "one KV head, keys and values, fp16"
    assert of.activations_bytes == 96 + 400
    assert of.workspace_bytes == 0
    assert of.total_bytes == of.weights_bytes + of.kv_bytes + of.activations_bytes + 1000


def test_unfused_attention_writes_scores_and_weights() -> None:
    unfused = Shape(n_context=10, n_forward=T, fused_attention=False)
    assert split(spec(), unfused).workspace_bytes == 2 * H * T * 10 * 4
    assert split(spec(window=4), unfused).workspace_bytes == 2 * H * T * 4 * 4


def test_an_encoder_keeps_no_cache() -> None:
    assert split(spec(causal=False), SHAPE).kv_bytes == 0


def test_all_but_the_weights_grows_with_the_batch() -> None:
    one, four = (split(spec(), Shape(n_context=10, n_forward=T, batch=b)) for b in (1, 4))
    assert four.weights_bytes == one.weights_bytes
    assert four.kv_bytes == 4 * one.kv_bytes
    assert four.activations_bytes == 4 * one.activations_bytes


def test_all_logits_dominate_a_small_model() -> None:
    few, every = (split(spec(), Shape(n_context=10, n_forward=T, n_logits=n)).activations_bytes for n in (1, T))
    assert every - few == 2 * 4 * V


def test_the_vocabulary_grows_table_and_head_only() -> None:
    double = with_vocabulary(spec(), 2 * V)
    assert double.weight_bytes == (spec().weight_bytes or 0) + 4 * V * D
    assert double.n_params == spec().n_params + V * D
    assert with_vocabulary(spec(), V) == spec()


@pytest.mark.parametrize("axis", ["context", "batch", "vocabulary"])
def test_memory_grows_along_every_axis(axis: str) -> None:
    totals = [s.total_bytes for s in grown(spec(), SHAPE, axis, [8, 16, 64, 256])]  # type: ignore[arg-type]
    assert totals == sorted(totals) and totals[0] < totals[-1]


def test_precision_shrinks_the_weights() -> None:
    small, large = grown(spec(), SHAPE, "precision", ["q4_0", "fp32"])
    assert small.weights_bytes < large.weights_bytes
    assert small.kv_bytes == large.kv_bytes


@pytest.mark.parametrize("room", [5_000, 6_000, 20_000])
def test_the_longest_context_is_the_last_that_fits(room: float) -> None:
    model = spec(max_context=None)
    n = longest_context(model, SHAPE, room)
    fits = [split(model, Shape(n_context=k, n_forward=T)).total_bytes <= room for k in (n, n + 1)]
    assert fits == [True, False]


def test_limits_of_the_longest_context() -> None:
    assert longest_context(spec(max_context=64), SHAPE, 1e12) == 64
    assert longest_context(spec(), SHAPE, 10) == 0
    assert longest_context(spec(causal=False), SHAPE, 1e12) == 64


@pytest.mark.parametrize("room", [5_000, 9_000, 100_000])
def test_the_largest_batch_is_the_last_that_fits(room: float) -> None:
    n = fit(spec(), SHAPE, [room])[0].largest_batch
    needs = [split(spec(), Shape(n_context=10, n_forward=T, batch=b)).total_bytes for b in (n, n + 1)]
    assert needs[0] <= room < needs[1]


def test_fit_in_several_rooms() -> None:
    small, large = fit(spec(), SHAPE, [100, 1e9], runtime_bytes=50)
    assert (small.fits, small.longest_context, small.largest_batch) == (False, 0, 0)
    assert large.fits and large.longest_context == 64 and large.largest_batch > 1000


# ---------------------------------------------------------------- what events tell


def loaded(warm: bool = False) -> Loaded:
    return Loaded(
        t_s=1.0,
        seconds=0.5,
        warm=warm,
        spec=spec(),
        n_prompt_tokens=5,
        prompt_text="",
        setup=setup(),
        capabilities=(),
        rss_before_bytes=100,
        rss_after_bytes=300,
    )


def memory(t_s: float, phase: str, rss: int, peak: int | None = None) -> Memory:
    return Memory(t_s=t_s, pass_no=0, phase=phase, rss_bytes=rss, peak_bytes=peak)


def test_measured_parts() -> None:
    seen = [memory(1.1, "prefill", 350, 420), memory(1.2, "decode", 380)]
    found = measured(loaded(), seen)
    assert (found.runtime_bytes, found.loading_bytes, found.growth_bytes) == (100, 200, 120)
    assert found.peak_bytes == 420 and found.peaks == {"prefill": 420, "decode": 380}
    assert found.true_peaks


def test_a_warm_run_did_not_measure_loading() -> None:
    found = measured(loaded(warm=True), [memory(1.1, "decode", 350)])
    assert found.runtime_bytes is None and found.loading_bytes is None
    assert found.growth_bytes == 50 and not found.true_peaks


def test_nothing_measured_is_none() -> None:
    found = measured(None, [])
    assert found.peak_bytes is None and found.growth_bytes is None and found.peaks == {}


def test_reported_buffers_by_purpose() -> None:
    told = {"CPU KV": 10, "CPU compute": 20, "CPU output": 1, "CPU_Mapped model": 40}
    assert reported(setup(buffers_bytes=told)) == {"KV cache": 10, "workspace": 21, "weights": 40}
    assert reported(setup()) == {}


def test_shape_of_a_run_follows_what_the_library_reserved() -> None:
    from core.runs.recording import Recording
    from core.runs.summarize import summarize

    result = summarize("r", Recording(Request(model="m", backend="fake"), [loaded()]), "done")
    assert shape_of_run(result, setup()) == Shape(n_context=5, n_forward=5, kv_dtype="fp32")
    own = shape_of_run(result, setup(n_context=4096, n_batch=2, kv_dtype="fp16"))
    assert (own.n_context, own.n_forward, own.kv_dtype) == (4096, 2, "fp16")
