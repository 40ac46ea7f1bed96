"""Quantization: bits per weight with their scales, the error of a block, and what speed it brings."""

from __future__ import annotations

from core.charts.chart import Chart
from core.charts.lesson import Bar, bars
from core.dtypes import BITS_PER_WEIGHT
from core.learn.lesson import Beside, Choice, Control, Do, Lesson, Mistake, Number, Option, Own, Recorded, Scene, Step
from core.learn.lessons._common import bytes_per_token, generates_autoregressively, over_its_parent, si
from core.studies.findings import Findings

FORMATS = ("bf16", "q8_0", "q6_k", "q5_0", "q4_1", "q4_0", "q2_k")
PLAIN = {"q4_0": 4, "q8_0": 8, "q5_0": 5}  # GGUF's plain formats, with the bits of a weight
BLOCK, SCALE_BITS = 32, 16  # of these
LARGEST = (6.35, 2.54, 12.7, 3.81)  # a block's largest value in the example
QUANTIZED = frozenset({"gguf_quantize", "torch_quantize", "onnx_quantize"})
LEVELS = 127  # the largest whole number of eight bits


def bits(scene: Scene) -> float:
    return BITS_PER_WEIGHT[str(scene.value)]


def plain(scene: Scene) -> tuple[str, int]:
    """The format that is asked about, and the bits that a weight has in it without its scale."""
    name = scene.draw("format", tuple(PLAIN))
    return name, PLAIN[name]


def largest(scene: Scene) -> float:
    return scene.draw("largest", LARGEST)


def half_a_step(scene: Scene) -> float:
    """The largest rounding error of the example's block: half the distance of two whole numbers."""
    return largest(scene) / LEVELS / 2


def by_bytes(scene: Scene, dtype: str) -> float:
    """Speed-up of decode over bf16 if bytes were all."""
    return bytes_per_token(scene, "bf16") / bytes_per_token(scene, dtype)


def chart(scene: Scene) -> Chart:
    rows = [(f, bytes_per_token(scene, f)) for f in FORMATS]
    return bars(
        [Bar(f"{f}, {BITS_PER_WEIGHT[f]:g} bits", b, si(b, "B"), f == scene.value) for f, b in rows],
        "Bytes moved for one token",
        "B",
    )


def seen(scene: Scene) -> str:
    return (
        f"{scene.value} takes {bits(scene):g} bits per weight, scales included, so one token moves "
        f"{si(bytes_per_token(scene, str(scene.value)), 'B')}: {by_bytes(scene, str(scene.value)):.2f} times less than "
        "in bf16. If bytes were all, decode would be as much faster. Before each product the numbers are turned back "
        "into floats or multiplied as whole numbers: that work is added, and it is why kernels gain less."
    )


def measured(found: Findings, scene: Scene) -> Beside | None:
    row = next((r for r in found.rows if r.id == "gguf-q4_k_m" and r.own is not None), None)
    base = next((r for r in found.rows if r.id == "gguf-f16"), None)
    if row is None or row.own is None or base is None or not row.bits_per_weight or not base.bits_per_weight:
        return None
    return Beside(
        f"Speed-up of {row.label} over {base.label}",
        row.own.value,
        base.bits_per_weight / row.bits_per_weight,
        "×",
        "Computed is the ratio of the bits: what it would be if reading weights were all that takes time.",
    )


lesson = Lesson(
    order=6,
    title="Quantization",
    minutes=7,
    about="Half the bits: half the time?",
    control=Control("Weights stored as", FORMATS, "q4_0"),
    chart=chart,
    steps=(
        Step(
            "predict",
            "Half the bits",
            "A model's weights go from 16 bits to 8.",
            Choice(
                "How much faster does it decode for one user?",
                (
                    Option(
                        "Exactly twice as fast",
                        "Half the bits would be twice the speed if reading were all; unpacking and the rest remain.",
                    ),
                    Option("At most twice as fast", "Yes: bytes set the limit, and kernels reach less of it."),
                    Option(
                        "Four times: half the bytes and half the arithmetic",
                        "Arithmetic was not the limit, and weights alone in 8 bit leave it in floats.",
                    ),
                    Option("Not at all", "Decode is limited by reading weights, and there is half as much to read."),
                ),
                1,
            ),
        ),
        Step(
            "move",
            "Choose a format",
            "Go down the formats. The bits include what the scales take.",
            takeaway="A format's name says the bits of a number; its scales come on top.",
        ),
        Step(
            "see",
            "Bytes, and then work",
            seen,
            takeaway="The ratio of bytes is the most that quantization can bring to decode.",
        ),
        Step(
            "check",
            "Bits with their scales",
            check=Number(
                lambda s: (
                    f"{plain(s)[0].upper()} stores blocks of {BLOCK} weights: {plain(s)[1]} bits for each, and one "
                    f"scale of {SCALE_BITS} bits for the block. How many bits is that per weight?"
                ),
                "bits",
                lambda s: BITS_PER_WEIGHT[plain(s)[0]],
                (
                    Mistake(
                        lambda s: float(plain(s)[1]),
                        f"You left out the scale: {SCALE_BITS} bits shared by {BLOCK} weights.",
                    ),
                    Mistake(
                        lambda s: plain(s)[1] + 2 * SCALE_BITS / BLOCK,
                        "That is a format with a smallest value beside the scale, such as Q4_1. Here there is one.",
                    ),
                    Mistake(
                        lambda s: float(plain(s)[1] + SCALE_BITS), "The scale is shared by all weights of the block."
                    ),
                ),
                lambda s: f"{plain(s)[1]} + {SCALE_BITS} / {BLOCK} = {plain(s)[1] + SCALE_BITS / BLOCK:g} bits.",
                tolerance=0.01,
            ),
            takeaway="Bits per weight: the number's bits plus the scale's bits over the block's size.",
        ),
        Step(
            "check",
            "The error of a block",
            check=Number(
                lambda s: (
                    f"The largest value of a block is {largest(s):g}. It is stored in whole numbers from −{LEVELS} to "
                    f"{LEVELS} with one scale. How far can a stored value be off?"
                ),
                "(the same unit as the value)",
                half_a_step,
                (
                    Mistake(
                        lambda s: 2 * half_a_step(s),
                        "That is the distance of two stored values. Rounding goes to the nearer one: half of it.",
                    ),
                    Mistake(
                        lambda s: half_a_step(s) * LEVELS / 255,
                        "Whole numbers on both sides of zero share the range: 127 each.",
                    ),
                ),
                lambda s: (
                    f"{largest(s):g} / {LEVELS} / 2 = {half_a_step(s):.3g}. One large value makes the step of its "
                    "whole block larger: that is why outliers hurt."
                ),
            ),
            takeaway="The largest value of a block sets the error of all its weights.",
        ),
        Step(
            "do",
            "Measure it",
            "A ladder of variants measures what each format really brings, and what it costs in quality.",
        ),
    ),
    do=Do(
        "Quantize it, then run both",
        "pages/measure/transform.py",
        lambda s: {"transform": "gguf_quantize"},
        Own(generates_autoregressively, over_its_parent, QUANTIZED),
        Recorded("ladder", measured),
    ),
)
