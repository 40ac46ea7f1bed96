"""One token's work: which bytes it moves, which FLOPs it does."""

from __future__ import annotations

from core.charts.chart import Chart
from core.charts.lesson import Bar, bars
from core.learn.lesson import Beside, Choice, Control, Lesson, Mistake, Number, Option, Scene, Step, Told
from core.learn.lessons._common import forward, one_answer, si, weight_bytes

FORMATS = ("fp32", "bf16", "q8_0", "q4_0")


def chart(scene: Scene) -> Chart:
    rows = [(f, weight_bytes(scene, f)) for f in FORMATS]
    return bars([Bar(f, b, si(b, "B"), f == scene.value) for f, b in rows], "Weights read for one token", "B")


def seen(scene: Scene) -> str:
    one = forward(scene, dtype=str(scene.value))
    return (
        f"Every weight is used for every token: {si(one.weight_bytes, 'B')} are read in {scene.value}, and each of the "
        f"{si(scene.spec.n_params, '')} weights does one multiplication and one addition. That makes "
        f"{si(one.flops, 'FLOP')}, so {one.flops / one.bytes:.2g} FLOP per byte. Nothing of it is kept for the next "
        "token, which reads all of it again."
    )


def measured(told: Told, scene: Scene) -> Beside | None:
    result = told.result
    phase = next((p for p in result.phases if p.name == "decode"), None)
    if phase is None or not phase.seconds:
        return None
    return Beside(
        "Bytes moved per second while decoding",
        phase.bytes / phase.seconds,
        scene.device.mem_bandwidth_bytes_per_s,
        "B/s",
        "Computed is what the memory can do at most; the rest is arithmetic that does not overlap, and calling.",
    )


lesson = Lesson(
    order=1,
    title="One token's work",
    minutes=5,
    about="How much has to be read and computed for a single token?",
    control=Control("Weights stored as", FORMATS, "bf16"),
    chart=chart,
    steps=(
        Step(
            "predict",
            "What must be read?",
            "The model writes one more token. Its weights lie in memory.",
            Choice(
                "How many of the weights must be read for this one token?",
                (
                    Option("All of them", "Yes: every matrix takes part in every token, so every weight is read."),
                    Option(
                        "Those of one block",
                        "The token goes through all blocks, one after the other, and each has weights of its own.",
                    ),
                    Option(
                        "None: they are in the cache",
                        "A processor's cache holds some megabytes; the weights are larger, so the next token finds "
                        "them gone.",
                    ),
                    Option(
                        "Only the new token's row",
                        "That is the embedding alone, the smallest part. The matrices behind it are all used.",
                    ),
                ),
                0,
            ),
        ),
        Step(
            "move",
            "Change the format",
            "Store the weights with fewer bits and watch what one token has to read.",
            takeaway="What one token reads is the size of the weights.",
        ),
        Step("see", "Two FLOPs per weight", seen, takeaway="A weight does two FLOPs per token: multiply and add."),
        Step(
            "check",
            "Bytes",
            check=Number(
                lambda s: (
                    f"{s.spec.name} has {si(s.spec.n_params, '')} weights. How many bytes of weights does one token of "
                    f"it read in {s.value}?"
                ),
                "bytes",
                lambda s: weight_bytes(s, str(s.value)),
                (
                    Mistake(lambda s: 8 * weight_bytes(s, str(s.value)), "These are bits. Eight bits are one byte."),
                    Mistake(
                        lambda s: float(s.spec.n_params),
                        "That is the number of weights. Each takes several bits, so multiply by the bytes of one.",
                    ),
                    Mistake(
                        lambda s: weight_bytes(s, str(s.value)) / s.spec.n_blocks,
                        "That is one block's share. The token goes through every block.",
                    ),
                ),
                lambda s: f"{si(s.spec.n_params, '')} weights in {s.value}: {si(weight_bytes(s, str(s.value)), 'B')}.",
            ),
            takeaway="Bytes per token: weights times bytes per weight.",
        ),
        Step(
            "check",
            "FLOPs",
            check=Number(
                lambda s: (
                    f"How many FLOPs does one token of {s.spec.name}, of {si(s.spec.n_params, '')} weights, do with an "
                    "empty cache?"
                ),
                "FLOP",
                lambda s: forward(s).flops,
                (
                    Mistake(
                        lambda s: forward(s).flops / 2,
                        "You counted one FLOP per weight. A weight is multiplied and the product is added: two.",
                    ),
                    Mistake(
                        lambda s: weight_bytes(s, "fp32"),
                        "These are the bytes in fp32. FLOPs do not depend on the format: two per weight.",
                    ),
                ),
                lambda s: (
                    f"2 × {si(s.spec.n_params, '')} weights and a little for norms: {si(forward(s).flops, 'FLOP')}."
                ),
            ),
            takeaway="FLOPs per token: two per weight, in any format.",
        ),
        Step("do", "Run it", "Run the model and see how many bytes per second it really moves while it decodes."),
    ),
    do=one_answer(measured),
)
