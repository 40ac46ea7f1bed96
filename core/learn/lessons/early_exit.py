"""Early exits and distillation: what fewer blocks leave to be done."""

from __future__ import annotations

from core.analysis.work import total, work
from core.charts.chart import Chart
from core.charts.lesson import lines
from core.layer_names import block_of
from core.learn.lesson import Beside, Choice, Control, Do, Lesson, Mistake, Number, Option, Own, Recorded, Scene, Step
from core.learn.lessons._common import bytes_per_token, generates_autoregressively, over_its_parent
from core.studies.findings import Findings

DEPTHS = tuple(n / 10 for n in range(1, 11))
ASKED = (0.5, 0.4, 0.6, 0.7)  # mean depths that the question can be about


def head_share(scene: Scene) -> float:
    """Share of one token's bytes outside the blocks: head, embedding, last norm."""
    rows = work(scene.spec, 1, 0, weight_dtype="bf16", activation_dtype="bf16")
    return total([r for r in rows if block_of(r.name) is None]).bytes / bytes_per_token(scene)


def time_left(scene: Scene, depth: float) -> float:
    """Share of the time of a token that goes through this share of the blocks, by bytes."""
    head = head_share(scene)
    return head + (1 - head) * depth


def asked(scene: Scene) -> float:
    return scene.draw("depth", ASKED)


def chart(scene: Scene) -> Chart:
    return lines(
        {
            "blocks and head": [(d, time_left(scene, d)) for d in DEPTHS],
            "if blocks were all": [(d, d) for d in DEPTHS],
        },
        "Mean depth, as a share of the blocks",
        "Time per token that is left, by bytes",
        scene.at,
        log=False,
    )


def seen(scene: Scene) -> str:
    d = scene.at
    return (
        f"At a mean depth of {d:.0%} a token still moves {time_left(scene, d):.0%} of the bytes: the head takes "
        f"{head_share(scene):.0%} and has to be asked before each exit too. The keys and values of the blocks "
        "that were "
        "left out are missing for later tokens and must be filled in. Distillation makes the shallow network for good: "
        "the same saving, and a student that has learned to do with it."
    )


def measured(found: Findings, scene: Scene) -> Beside | None:
    row = next((r for r in found.rows if r.id == "torch-drop4-healed" and r.own is not None), None)
    if row is None or row.own is None:
        return None
    kept = (scene.spec.n_blocks - 4) / scene.spec.n_blocks
    return Beside(
        f"Speed-up of “{row.label}”",
        row.own.value,
        1 / time_left(scene, kept),
        "×",
        f"{kept:.0%} of the blocks are kept, and the rest was trained afterwards.",
    )


lesson = Lesson(
    order=13,
    title="Early exit and distillation",
    minutes=6,
    about="Half the blocks: half the time?",
    control=Control("Mean depth", DEPTHS, 0.5),
    chart=chart,
    steps=(
        Step(
            "predict",
            "Half the depth",
            "Tokens leave the network when it is sure: on average after half of the blocks.",
            Choice(
                "How much time per token is left?",
                (
                    Option("Half", "Depth halves, time does not: the head is computed in any case."),
                    Option(
                        "More than half", "Yes: the head and the embedding stay, and a small model has a large head."
                    ),
                    Option("Less than half", "Nothing beside the blocks becomes cheaper."),
                ),
                1,
            ),
        ),
        Step(
            "move",
            "Leave earlier",
            "Lower the mean depth and watch the time that is left.",
            takeaway="What is outside the blocks stays.",
        ),
        Step(
            "see", "Head and missing keys", seen, takeaway="An early exit saves the blocks behind it, never the head."
        ),
        Step(
            "check",
            "At less depth",
            check=Number(
                lambda s: (
                    f"Head and embedding take {head_share(s):.1%} of the bytes of a token of {s.spec.name}. What "
                    f"share of its time is left at {asked(s):.0%} of the depth, by bytes?"
                ),
                "(a share)",
                lambda s: time_left(s, asked(s)),
                (
                    Mistake(asked, "That would be so without a head. Its share stays whole."),
                    Mistake(
                        lambda s: asked(s) * (1 - head_share(s)),
                        "These are the blocks alone. Add the head.",
                    ),
                    Mistake(
                        lambda s: asked(s) + head_share(s),
                        "You added the head to a share of everything. Take that share of the blocks alone.",
                    ),
                ),
                lambda s: (
                    f"{head_share(s):.3f} + (1 − {head_share(s):.3f}) × {asked(s):g} = {time_left(s, asked(s)):.3f}."
                ),
                tolerance=0.01,
            ),
            takeaway="Time left: head share plus depth times the rest.",
        ),
        Step(
            "do",
            "Measure it",
            "The ladder has a network without four of its blocks, trained afterwards with its teacher.",
        ),
    ),
    do=Do(
        "Distil a student",
        "pages/measure/train.py",
        lambda s: {"transform": "distill"},
        Own(generates_autoregressively, over_its_parent, frozenset({"distill", "finetune"})),
        Recorded("ladder", measured),
    ),
)
