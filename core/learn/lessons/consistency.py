"""Consistency training: reading its curves, and what they foretell."""

from __future__ import annotations

from core.charts.chart import Chart
from core.charts.curves import curve
from core.learn.lesson import (
    Beside,
    Choice,
    Control,
    Do,
    Lesson,
    Mistake,
    Number,
    Option,
    Own,
    Recorded,
    Scene,
    Step,
    Told,
)
from core.learn.lessons._common import generates
from core.learn.recorded import benchmark
from core.studies.standings import Standings
from core.types import Curve

NAMES = ("right_tokens_per_forward", "tokens_per_forward", "accuracy")
STRATEGY = "cllm-jacobi"


def curves() -> tuple[Curve, ...]:
    """The curves of the recorded training of the consistency model."""
    found = benchmark()
    return next((points for name, points in found.curves if name == "cllm"), ()) if found else ()


def ends(name: str) -> tuple[float, float]:
    """The first and the last value of a curve."""
    values = [c.values[name] for c in curves() if name in c.values]
    return values[0], values[-1]


def chart(scene: Scene) -> Chart:
    return curve(curves(), str(scene.value), NAMES.index(str(scene.value)), height=300)


def seen(scene: Scene) -> str:
    first, last = ends("right_tokens_per_forward")
    raw, _ = ends("tokens_per_forward")
    before, after = ends("accuracy")
    return (
        f"At the first probe the model gave {raw:.2f} tokens per forward pass, but only {first:.2f} of them right, and "
        f"{before:.0%} of its answers were: it repeats itself, which is easy to predict. In the end {last:.2f} "
        "are right "
        f"per forward pass and {after:.0%} of the answers. Tokens per forward pass count only beside what they "
        "are worth."
    )


def measured(found: Standings, scene: Scene) -> Beside | None:
    row = next((r for r in found.rows if r.id == STRATEGY and r.over_autoregressive is not None), None)
    if row is None or row.over_autoregressive is None:
        return None
    return Beside(
        f"Speed-up of “{row.label}”",
        row.over_autoregressive.value,
        row.predicted,
        "×",
        "Computed from tokens per forward pass over v(n), both measured in the same study.",
    )


def over_its_teacher(told: Told, scene: Scene) -> Beside | None:
    result, base = told.result, told.baseline
    if base is None or not result.tok_per_s or not base.tok_per_s or not result.tokens_per_forward:
        return None
    return Beside(
        f"Decode speed of {result.model} by Jacobi over {base.model}",
        result.tok_per_s / base.tok_per_s,
        result.tokens_per_forward,
        "×",
        "Computed are the tokens per forward pass: what it would be if a window cost no more than one token.",
    )


lesson = Lesson(
    order=11,
    title="Consistency training",
    minutes=6,
    about="When does a training for parallel decoding go wrong, and how is that seen?",
    control=Control("Curve", NAMES, "right_tokens_per_forward"),
    chart=chart,
    drawn_from="Of the training that was recorded with this project.",
    drawn_is="measured",
    steps=(
        Step(
            "predict",
            "A falling loss",
            "A model is trained so that any guess converges in few steps. Its loss falls and its tokens per "
            "forward pass "
            "rise quickly.",
            Choice(
                "What does that say?",
                (
                    Option(
                        "It will be as much faster", "A model that repeats one word does that too. Look at the answers."
                    ),
                    Option(
                        "Nothing yet: its answers may have collapsed",
                        "Yes: text that repeats is easy to predict, so tokens per forward pass rise while "
                        "answers fall.",
                    ),
                    Option(
                        "It has learned the task",
                        "The consistency loss asks for agreement with itself, not for a right answer.",
                    ),
                ),
                1,
            ),
        ),
        Step(
            "move",
            "Read the curves",
            "Look at the three curves of one recorded training, one after the other.",
            takeaway="A falling loss is not a faster model.",
        ),
        Step("see", "Right tokens", seen, takeaway="Only right tokens per forward pass count."),
        Step(
            "check",
            "What it was worth",
            check=Number(
                lambda s: (
                    "At the first probe, what share of the tokens per forward pass was right? (right tokens per "
                    "forward "
                    "pass over tokens per forward pass, from the curves)"
                ),
                "(a share)",
                lambda s: ends("right_tokens_per_forward")[0] / ends("tokens_per_forward")[0],
                (
                    Mistake(
                        lambda s: ends("right_tokens_per_forward")[1] / ends("tokens_per_forward")[1],
                        "That is the last probe. The first one is where it had collapsed.",
                    ),
                    Mistake(
                        lambda s: ends("tokens_per_forward")[0] / ends("right_tokens_per_forward")[0],
                        "Turned round: right ones over all.",
                    ),
                ),
                lambda s: (
                    f"{ends('right_tokens_per_forward')[0]:.2f} / {ends('tokens_per_forward')[0]:.2f} = "
                    f"{ends('right_tokens_per_forward')[0] / ends('tokens_per_forward')[0]:.0%}."
                ),
            ),
            takeaway="Collapse shows as tokens per forward pass far above the right ones.",
        ),
        Step("do", "Train one", "The page Train has the same curves as they grow; the benchmark has the speed-up."),
    ),
    do=Do(
        "Open the training",
        "pages/measure/train.py",
        lambda s: {"transform": "consistency"},
        Own(lambda request: generates(request, "jacobi"), over_its_teacher, frozenset({"consistency"})),
        Recorded("benchmark", measured),
    ),
)
