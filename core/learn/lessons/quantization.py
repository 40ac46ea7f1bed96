"""Quantization: bits per weight with their scales, the error of a block, and what speed it brings."""

from __future__ import annotations

from core.charts.chart import Chart
from core.charts.lesson import Bar, bars
from core.dtypes import BITS_PER_WEIGHT
from core.learn.lesson import Beside, Choice, Control, Do, Lesson, Mistake, Number, Option, Own, Recorded, Scene, Step
from core.learn.lessons._common import bytes_per_token, generates_one_by_one, over_its_parent, si
from core.studies.findings import Findings

FORMATS = ("bf16", "q8_0", "q6_k", "q5_0", "q4_1", "q4_0", "q2_k")
BLOCK, SCALE_BITS = 32, 16  # of GGUF's plain formats
LARGEST, LEVELS = 6.35, 127  # a block's largest value in the example, and the largest whole number of eight bits


def bits(scene: Scene) -> float:
    return BITS_PER_WEIGHT[str(scene.value)]


def half_a_step() -> float:
    """The largest rounding error of the example's block: half the distance of two whole numbers."""
    return LARGEST / LEVELS / 2


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
                f"Q4_0 stores blocks of {BLOCK} weights: four bits for each, and one scale of {SCALE_BITS} bits "
                "for the "
                "block. How many bits is that per weight?",
                "bits",
                lambda s: BITS_PER_WEIGHT["q4_0"],
                (
                    Mistake(lambda s: 4.0, "You left out the scale: 16 bits shared by 32 weights."),
                    Mistake(lambda s: BITS_PER_WEIGHT["q4_1"], "That is Q4_1, with a scale and a smallest value."),
                    Mistake(lambda s: 4.0 + SCALE_BITS, "The scale is shared by all weights of the block."),
                ),
                f"4 + {SCALE_BITS} / {BLOCK} = {4 + SCALE_BITS / BLOCK:g} bits.",
                tolerance=0.01,
            ),
            takeaway="Bits per weight: the number's bits plus the scale's bits over the block's size.",
        ),
        Step(
            "check",
            "The error of a block",
            check=Number(
                f"The largest value of a block is {LARGEST:g}. It is stored in whole numbers from −{LEVELS} to "
                f"{LEVELS} "
                "with one scale. How far can a stored value be off?",
                "(the same unit as the value)",
                lambda s: half_a_step(),
                (
                    Mistake(
                        lambda s: 2 * half_a_step(),
                        "That is the distance of two stored values. Rounding goes to the nearer one: half of it.",
                    ),
                    Mistake(
                        lambda s: half_a_step() * LEVELS / 255,
                        "Whole numbers on both sides of zero share the range: 127 each.",
                    ),
                ),
                f"{LARGEST:g} / {LEVELS} / 2 = {LARGEST / LEVELS / 2:.3g}. One large value makes the step of its whole "
                "block larger: that is why outliers hurt.",
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
        Own(generates_one_by_one, over_its_parent, frozenset({"gguf_quantize", "torch_quantize", "onnx_quantize"})),
        Recorded("ladder", measured),
    ),
)
