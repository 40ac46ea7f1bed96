"""A result from hand-made events: every figure computed by hand."""

from __future__ import annotations

import msgspec
import pytest

from core.analysis.work import HEADS
from core.models.spec import from_config
from core.runs.recording import Recording, Sorted
from core.runs.summarize import summarize
from core.types import (
    Counts,
    Done,
    EnergyReading,
    Event,
    Failed,
    Forwards,
    Generate,
    LayerTime,
    LayerTimes,
    Loaded,
    Memory,
    Pass,
    Request,
    Result,
    Step,
    Warned,
)
from tests.support.facts import setup
from tests.support.steps import ran

CONFIG = {
    "model_type": "llama",
    "hidden_size": 8,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "vocab_size": 32,
    "max_position_embeddings": 64,
    "tie_word_embeddings": False,
}
SPEC = from_config(CONFIG, name="tiny", source="made for a test")
REQUEST = Request(model="tiny", backend="fake", task=Generate(prompt="x", max_new_tokens=3))


def step(
    pass_no: int,
    phase: str,
    seconds: float,
    tokens: int,
    n_input: int,
    n_context: int,
    text: str = "",
    n_forward: int = 1,
) -> Step:
    return Step(
        t_s=0, pass_no=pass_no, phase=phase, seconds=seconds,  # type: ignore[arg-type]
        counts=Counts(tokens=tokens, forwards=n_forward, inputs=n_input),
        n_context=n_context, text=text, ran=ran(n_input, n_context - n_input) if n_forward else (),
    )  # fmt: skip


def one_pass(number: int, scale: float = 1.0) -> list[Event]:
    """A prompt of 4 tokens in two chunks, then three tokens."""
    return [
        step(number, "prefill", 0.2 * scale, 0, 3, 3),
        step(number, "prefill", 0.1 * scale, 0, 1, 4),
        step(number, "prefill", 0.0, 1, 0, 4, "a", n_forward=0),
        step(number, "decode", 0.04 * scale, 1, 1, 5, "b"),
        step(number, "decode", 0.06 * scale, 1, 1, 6, "c"),
    ]


def loaded(t_s: float = 0.5) -> Loaded:
    return Loaded(
        t_s=t_s, seconds=0.4, warm=False, spec=SPEC, n_prompt_tokens=4, prompt_text="x",
        setup=setup(SPEC), capabilities=("forward",),
    )  # fmt: skip


def result(*events: Event) -> Result:
    return summarize("r1", Recording(REQUEST, events), "done")


def test_headline_numbers() -> None:
    found = result(loaded(), Pass(t_s=0, number=0, kind="timing"), *one_pass(0), Done(t_s=2.0))
    assert found.text == "abc" and found.n_new_tokens == 3 and found.n_forward == 4
    assert found.ttft_s == pytest.approx(0.3)
    assert found.tpot_s == pytest.approx(0.05)  # (0.04 + 0.06) / (3 - 1)
    assert found.tok_per_s == pytest.approx(20)
    assert found.prefill_tok_per_s == pytest.approx(4 / 0.3)
    assert found.itl_s == (0.04, 0.06) and found.load_s == 0.4 and found.total_s == 2.0


def test_only_timing_passes_make_headlines_and_repeats_give_the_median() -> None:
    events: list[Event] = [loaded()]
    for number, (kind, profiler, scale) in enumerate(
        [("warmup", None, 100), ("timing", None, 1), ("timing", None, 3), ("timing", None, 2), ("profile", "layers", 4)]
    ):
        events += [Pass(t_s=0, number=number, kind=kind, profiler=profiler), *one_pass(number, scale)]  # type: ignore[arg-type]
    found = result(*events)
    assert found.tpot_s == pytest.approx(0.10) and found.tpot_samples_s == pytest.approx((0.05, 0.15, 0.10))
    (cost,) = found.profiler_costs  # 4 times a step of 0.05 against the median step of all timing passes, 0.10
    assert cost.profiler == "layers" and cost.ratio == pytest.approx(0.2 / 0.10)


def test_layers_are_per_forward_and_beside_their_work() -> None:
    rows = (
        LayerTime(name="blocks.0.mlp.up_proj", seconds=0.04, calls=2, op="Linear"),
        LayerTime(name="other", seconds=0.01, calls=5),
    )
    times = LayerTimes(t_s=0, pass_no=1, phase="decode", n_steps=2, seconds_total=0.1, rows=rows)
    found = result(
        loaded(), Pass(t_s=0, number=0, kind="timing"), *one_pass(0),
        Pass(t_s=0, number=1, kind="profile", profiler="layers"), *one_pass(1), times,
    )  # fmt: skip
    layers = {(x.name, x.phase): x for x in found.layers}
    up = layers["blocks.0.mlp.up_proj", "decode"]
    assert up.seconds == pytest.approx(0.02)  # two forwards
    assert up.flops == 2 * 8 * 16
    assert up.weight_bytes == 8 * 16 * 4
    assert layers["blocks.0.mlp.up_proj", "prefill"].seconds is None
    assert layers["blocks.0.mlp.up_proj", "prefill"].flops == 4 * 2 * 8 * 16
    other = layers["other", "decode"]
    assert other.flops is None and other.seconds == pytest.approx(0.005)


def test_layers_run_as_one_are_one_row_with_the_sum_of_their_work() -> None:
    rows = (LayerTime(name="blocks.0.mlp", seconds=0.04, calls=2),)
    times = LayerTimes(t_s=0, pass_no=0, phase="decode", n_steps=2, seconds_total=0.1, rows=rows)
    found = result(loaded(), Pass(t_s=0, number=0, kind="timing"), *one_pass(0), times).layers
    decode = {x.name: x for x in found if x.phase == "decode"}
    assert "blocks.0.mlp.up_proj" not in decode
    mlp = decode["blocks.0.mlp"]
    assert mlp.n_params == 3 * 8 * 16 and mlp.kind == "mlp" and mlp.seconds == pytest.approx(0.02)
    assert mlp.flops is not None and mlp.flops > 3 * 2 * 8 * 16  # the activation has some, too
    prefill = {x.name for x in found if x.phase == "prefill"}
    assert "blocks.0.mlp.up_proj" in prefill


def test_phases_carry_computed_work() -> None:
    found = result(loaded(), Pass(t_s=0, number=0, kind="timing"), *one_pass(0))
    prefill, decode = found.phases
    assert (prefill.name, prefill.n_tokens, decode.name, decode.n_tokens) == ("prefill", 4, "decode", 2)
    assert prefill.seconds == pytest.approx(0.3) and decode.seconds == pytest.approx(0.1)
    per_forward = sum(x.flops for x in found.layers if x.phase == "decode" and x.flops)
    assert decode.flops == pytest.approx(2 * per_forward)


def test_an_encoder_has_a_time_and_no_tokens() -> None:
    found = result(loaded(), Pass(t_s=0, number=0, kind="timing"), step(0, "prefill", 0.25, 0, 4, 0))
    assert found.ttft_s == pytest.approx(0.25) and found.tpot_s is None and found.tok_per_s is None
    assert found.prefill_tok_per_s == pytest.approx(16)


def test_after_a_retry_only_the_last_loading_counts() -> None:
    first = [loaded(), Pass(t_s=0, number=0, kind="timing"), *one_pass(0, 50)]
    found = result(
        *first, Warned(t_s=1, message="Retried."), loaded(3.0), Pass(t_s=3, number=0, kind="timing"), *one_pass(0)
    )
    assert found.tpot_s == pytest.approx(0.05) and found.text == "abc" and found.warnings == ("Retried.",)


def test_nothing_measured_is_none_and_never_zero() -> None:
    found = result()
    assert (found.ttft_s, found.tpot_s, found.tok_per_s, found.load_s, found.peak_memory_bytes) == (None,) * 5
    assert found.layers == () and found.phases == ()


def test_a_failure_and_its_memory_are_told() -> None:
    peak = Memory(t_s=1, pass_no=0, phase="decode", rss_bytes=100, peak_bytes=170)
    broke = Failed(t_s=2, message="It broke.", hint="Mend it.")
    found = summarize("r1", Recording(REQUEST, [loaded(), peak, broke]), "failed")
    assert (found.error, found.hint, found.peak_memory_bytes) == ("It broke.", "Mend it.", 170)


def test_a_batch_counts_each_sequence_up_to_its_own_end() -> None:
    """Two sequences, the second over after one more token: five tokens in four steps of 0.1 s, and no padding."""
    request = msgspec.structs.replace(REQUEST, batch=2)
    steps: list[Event] = [
        msgspec.structs.replace(
            step(0, "decode", 0.1, 1, 1, 5 + i),
            counts=Counts(tokens=n, forwards=1, inputs=1, sequences=sequences),
        )
        for i, (sequences, n) in enumerate([(2, 2), (1, 1), (1, 1), (1, 1)])
    ]
    found = summarize("r1", Recording(request, [loaded(), Pass(t_s=0, number=0, kind="timing"), *steps]), "done")
    assert found.tpot_s == pytest.approx(0.1) and found.n_new_tokens == 4
    assert found.tok_per_s == pytest.approx(5 / 0.4) and found.batch_filled == pytest.approx(5 / 8)


def test_guesses_behind_the_prompt_are_no_tokens_of_it() -> None:
    """Jacobi's early window: the last chunk of a prompt of four tokens carries seven guesses. So is energy counted."""
    steps = [step(0, "prefill", 0.2, 0, 3, 3), step(0, "prefill", 0.1, 0, 1 + 7, 4), step(0, "prefill", 0, 1, 0, 4)]
    steps[2] = msgspec.structs.replace(steps[2], counts=Counts(tokens=1), ran=())
    reading = EnergyReading(t_s=0, pass_no=0, phase="prefill", seconds=0.3, cpu_s=0.3)
    (phase,) = (found := result(loaded(), Pass(t_s=0, number=0, kind="timing"), *steps, reading)).phases
    assert (phase.n_tokens, phase.n_forward) == (4, 2) and phase.tok_per_s == found.prefill_tok_per_s
    assert phase.tok_per_s == pytest.approx(4 / 0.3)
    assert [e.n_tokens for e in found.energy] == [4]
    (stopped,) = result(loaded(), Pass(t_s=0, number=0, kind="timing"), steps[0]).phases
    assert stopped.n_tokens == 3, "what was read before the stop"


def test_exit_heads_are_a_part_of_their_own() -> None:
    """A head of rank 2 behind the only block, of width 8: two products of 2 * 8 a token."""
    through = Forwards(n_new=1, n_logits=2, n_past=4, blocks=((0, 1),))
    asked = (through, Forwards(n_new=2, n_logits=1, n_past=0, of="exits"))
    decode = msgspec.structs.replace(step(0, "decode", 0.1, 1, 1, 5), ran=asked)
    (phase,) = result(loaded(), Pass(t_s=0, number=0, kind="timing"), decode).phases
    (part,) = phase.parts
    assert (part.of, part.n_forward, part.flops) == ("exits", 1, 2 * 2 * 2 * 8)
    (without,) = result(
        loaded(), Pass(t_s=0, number=0, kind="timing"), msgspec.structs.replace(decode, ran=asked[:1])
    ).phases
    assert phase.flops - without.flops == part.flops and phase.bytes - without.bytes == part.bytes


def test_drafts_of_the_first_blocks_are_a_part_of_their_own() -> None:
    """Two drafts by the first of two blocks, then one forward of the whole model over their three tokens.

    A draft by hand, width 8, two heads of 4 on one of keys and values, MLP 16, 32 words, in fp32, behind 4 tokens:
    384 FLOPs of q, k, v and o, 768 of the MLP, 36 of the rotary embedding, 64 of two norms, 32 of the activation and
    16 of two sums; 32 of the final norm and 512 of the head; attention 32 for each of 5 tokens, and of 6 for the next.
    Bytes: 3,424 of the weights that run and 32 of one row of the table; 1,472 of activations; keys and values of 32 a
    token, of all tokens read and of one written.
    """
    spec = from_config({**CONFIG, "num_hidden_layers": 2}, name="tiny", source="made for a test")
    two = msgspec.structs.replace(loaded(), spec=spec, setup=setup(spec))
    drafts = Forwards(n_new=1, n_logits=1, n_past=4, of="blocks", blocks=((0, 1),), times=2, rise=1)
    checked = Forwards(n_new=3, n_logits=3, n_past=4)
    decode = msgspec.structs.replace(step(0, "decode", 0.1, 2, 3, 6), ran=(drafts, checked))
    alone = msgspec.structs.replace(decode, ran=(checked,))
    (phase,), (without,) = (
        result(two, Pass(t_s=0, number=0, kind="timing"), events).phases for events in (decode, alone)
    )
    (part,) = phase.parts
    flops = 2 * (384 + 768 + 36 + 64 + 32 + 16 + 32 + 512) + 32 * (5 + 6)
    moved = 2 * (3424 + 32 + 1472) + 32 * (5 + 6) + 2 * 32
    assert (
        (part.of, part.n_forward, part.flops, part.bytes) == ("blocks", 2, flops, moved) == ("blocks", 2, 4040, 10272)
    )
    assert phase.flops - without.flops == part.flops and phase.bytes - without.bytes == part.bytes
    assert without.parts == () and phase.n_forward == without.n_forward == 1, "a draft is no forward of the model"


def test_trained_heads_are_a_part_and_a_layer_of_their_own() -> None:
    """Three heads of width 8 on one state: three products of 2 * 8 * 8, and of 2 * 8 * 32 with the unembedding."""
    heads, tree = Forwards(n_new=3, n_logits=3, n_past=0, of="heads"), Forwards(n_new=4, n_logits=4, n_past=4)
    decode = msgspec.structs.replace(step(0, "decode", 0.1, 2, 4, 6), ran=(heads, tree))
    alone = msgspec.structs.replace(decode, ran=(tree,))
    found, without = (result(loaded(), Pass(t_s=0, number=0, kind="timing"), events) for events in (decode, alone))
    (phase,), (plain,) = found.phases, without.phases
    (part,) = phase.parts
    assert (part.of, part.n_forward) == ("heads", 1)
    assert part.flops == 3 * (2 * 8 * 8 + 2 * 8 * 32) == phase.flops - plain.flops
    # the heads' weights, a state read and three written; the unembedding, three states read and three rows of logits
    assert part.bytes == 4 * (3 * 8 * 8 + 8 + 3 * 8) + 4 * (8 * 32 + 3 * 8 + 3 * 32) == phase.bytes - plain.bytes
    layers = {x.name: x for x in found.layers}
    own = layers[HEADS]
    assert (own.kind, own.seconds, own.flops, own.weight_bytes) == ("head", None, 3 * 2 * 8 * 8, 4 * 3 * 8 * 8)
    assert sum(x.flops or 0.0 for x in found.layers) == phase.flops and list(layers)[-1] == HEADS
    assert HEADS not in {x.name for x in without.layers}


def test_a_backend_that_prunes_its_last_block_computes_less_of_a_prompt() -> None:
    """Of chunks of three and one tokens the last position each: two rows of the MLP instead of four."""
    pruning = msgspec.structs.replace(loaded(), setup=setup(SPEC, prunes_last_block=True))
    found = result(pruning, Pass(t_s=0, number=0, kind="timing"), *one_pass(0))
    prefill = {x.name: x for x in found.layers if x.phase == "prefill"}
    assert prefill["blocks.0.mlp.up_proj"].flops == 2 * 2 * 8 * 16
    assert prefill["blocks.0.attn.q_proj"].flops == 4 * 2 * 8 * 8


def test_a_run_that_grows_is_what_it_is_read_at_once() -> None:
    """Events sorted as they came, over a crash and a second attempt, give the result of all of them together."""
    begun = [Pass(t_s=0, number=n, kind="live" if n == 0 else "timing", profiler=None) for n in range(2)]
    attempt: list[Event] = [
        loaded(),
        begun[0],
        step(0, "prefill", 0.5, 1, 4, 4, "a"),
        step(0, "decode", 0.25, 1, 1, 5, "b"),
        step(0, "decode", 0.5, 1, 1, 6, "c"),
        begun[1],
        step(1, "prefill", 0.5, 1, 4, 4, "a"),
        Memory(t_s=1, pass_no=1, phase="decode", rss_bytes=7),
        step(1, "decode", 0.125, 1, 1, 5, "b"),
        Warned(t_s=1, message="w"),
        step(1, "decode", 0.125, 1, 1, 6, "c"),
    ]
    events = [*attempt[:5], *attempt, Done(t_s=2)]
    known = Sorted()
    for n in range(len(events) + 1):
        grown = summarize("r", Recording(REQUEST, events[:n], known), "running")
        assert grown == summarize("r", Recording(REQUEST, events[:n]), "running"), n
    assert (grown.tpot_s, grown.n_new_tokens, grown.text, grown.n_forward) == (0.125, 3, "abc", 3)
    decode = grown.phases[1]
    assert (decode.n_tokens, decode.seconds, decode.n_forward) == (2, 0.25, 2)
