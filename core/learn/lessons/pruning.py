"""Pruning: zeros in a dense kernel, and blocks that are left out."""

from __future__ import annotations

from core.analysis.work import total, work
from core.charts.chart import Chart
from core.charts.lesson import lines
from core.layer_names import block_of
from core.learn.lesson import Beside, Choice, Control, Do, Lesson, Mistake, Number, Option, Own, Recorded, Scene, Step
from core.learn.lessons._common import bytes_per_token, generates_autoregressively, over_its_parent
from core.studies.findings import Findings

DROPPED = tuple(float(n) for n in range(0, 9))
ASKED = 4  # blocks, as in the recorded ladder
OTHERS = (ASKED, 5, 6, 8)


def blocks_share(scene: Scene) -> float:
    """Share of one token's bytes that the blocks move; the rest is the head and the embedding."""
    rows = work(scene.spec, 1, 0, weight_dtype="bf16", activation_dtype="bf16")
    inside = [r for r in rows if block_of(r.name) is not None]
    return total(inside).bytes / bytes_per_token(scene)


def asked(scene: Scene) -> int:
    """Blocks that the question leaves out."""
    return scene.draw("blocks", OTHERS)


def without(scene: Scene, n: float) -> float:
    """Speed-up of decode when n blocks are left out, by the bytes that remain."""
    return 1 / (1 - blocks_share(scene) * n / scene.spec.n_blocks)


def chart(scene: Scene) -> Chart:
    return lines(
        {
            "blocks left out": [(n, without(scene, n)) for n in DROPPED],
            "as many weights set to zero": [(n, 1.0) for n in DROPPED],
        },
        f"Blocks of {scene.spec.n_blocks}",
        "Speed-up of decode, by bytes",
        scene.at,
        log=False,
        unit="×",
    )


def seen(scene: Scene) -> str:
    n = scene.at
    return (
        f"{n:g} blocks fewer leave {1 / without(scene, n):.0%} of the bytes, so decode can be "
        f"{without(scene, n):.2f} times "
        f"as fast: {blocks_share(scene):.0%} of what a token moves lies in the blocks, the rest in the head. The same "
        "number of zeros scattered over the matrices brings nothing: a dense kernel reads and multiplies them too."
    )


def measured(found: Findings, scene: Scene) -> Beside | None:
    row = next((r for r in found.rows if r.id == "torch-drop4" and r.own is not None), None)
    if row is None or row.own is None:
        return None
    pruned = [r for r in found.rows if r.id.startswith("torch-wanda") and r.own is not None]
    zeros = ", ".join(f"{r.label} {r.own.value:.2f} ×" for r in pruned if r.own is not None) or "none"
    return Beside(
        f"Speed-up of “{row.label}” over the whole model",
        row.own.value,
        without(scene, ASKED),
        "×",
        f"The same ladder measured variants with zeros: {zeros}.",
    )


lesson = Lesson(
    order=7,
    title="Pruning",
    minutes=6,
    about="Does a model with half its weights at zero run faster?",
    control=Control("Blocks left out", DROPPED, 4.0, "blocks"),
    chart=chart,
    steps=(
        Step(
            "predict",
            "Half of the weights are zero",
            "Half of the weights of every matrix are set to zero, the smallest ones.",
            Choice(
                "How much faster does it run in an ordinary library?",
                (
                    Option(
                        "Twice as fast",
                        "Sparse is not fast by itself: zeros are stored, read and multiplied like the rest.",
                    ),
                    Option("As fast as before", "Yes: a dense kernel does not look whether a number is zero."),
                    Option(
                        "Slower: it has to look for the zeros",
                        "A dense kernel looks for nothing; formats that skip zeros are another thing.",
                    ),
                ),
                1,
            ),
        ),
        Step(
            "move",
            "Leave out blocks",
            "Take whole blocks out, and compare with as many zeros.",
            takeaway="Structure that is gone saves bytes; zeros in place do not.",
        ),
        Step(
            "see",
            "What remains to be read",
            seen,
            takeaway="Pruning speeds up what it removes from memory, and nothing else.",
        ),
        Step(
            "check",
            "Fewer blocks",
            check=Number(
                lambda s: (
                    f"{blocks_share(s):.1%} of the bytes of a token of {s.spec.name} lie in {s.spec.n_blocks} equal "
                    "blocks, the rest in head "
                    f"and embedding. {asked(s)} blocks are left out. How many times as fast can decode be?"
                ),
                "times",
                lambda s: without(s, asked(s)),
                (
                    Mistake(
                        lambda s: s.spec.n_blocks / (s.spec.n_blocks - asked(s)),
                        "That would be so if blocks were all. The head is read as before.",
                    ),
                    Mistake(lambda s: 1.0, "That holds for zeros. Blocks that are gone are not read."),
                    Mistake(
                        lambda s: 1 + asked(s) / s.spec.n_blocks,
                        "Time falls by that share; speed is one over the time that is left.",
                    ),
                ),
                lambda s: (
                    f"1 / (1 − {blocks_share(s):.3f} × {asked(s)} / {s.spec.n_blocks}) = {without(s, asked(s)):.3f}."
                ),
                tolerance=0.01,
            ),
            takeaway="The parts that stay set the limit.",
        ),
        Step("do", "Measure it", "A ladder of variants has measured zeros and dropped blocks, with their perplexity."),
    ),
    do=Do(
        "Prune a model",
        "pages/measure/transform.py",
        lambda s: {"transform": "drop_layers"},
        Own(generates_autoregressively, over_its_parent, frozenset({"drop_layers", "shrink", "prune"})),
        Recorded("ladder", measured),
    ),
)
