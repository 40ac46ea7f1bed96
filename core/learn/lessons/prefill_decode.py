"""Prefill and decode: why a prompt's token is cheaper than an answer's."""

from __future__ import annotations

from core.charts.chart import Chart
from core.charts.lesson import lines
from core.learn.lesson import Beside, Choice, Control, Lesson, Mistake, Number, Option, Scene, Step, Told
from core.learn.lessons._common import forward, ideal_s, one_answer, si

LENGTHS = tuple(float(2**n) for n in range(0, 12))


def prompt_s(scene: Scene, n: float) -> float:
    return ideal_s(forward(scene, n_new=int(n)), scene.ceiling())


def turning_point(scene: Scene) -> float:
    """Prompt tokens from which arithmetic on bf16 weights takes longer than reading them."""
    one = forward(scene)
    return scene.ceiling().ridge / (one.flops / one.weight_bytes)


def chart(scene: Scene) -> Chart:
    one = prompt_s(scene, 1)
    return lines(
        {
            "prompt of so many tokens": [(n, prompt_s(scene, n)) for n in LENGTHS],
            "as many tokens of an answer": [(n, n * one) for n in LENGTHS],
        },
        "Tokens",
        "Time that the roof allows",
        scene.at,
        unit="s",
    )


def seen(scene: Scene) -> str:
    n, one = scene.at, prompt_s(scene, 1)
    return (
        f"{n:g} tokens of a prompt need {si(prompt_s(scene, n), 's')}; {n:g} tokens of an answer {si(n * one, 's')}. A "
        "prompt is known in advance, so all of its tokens go through the network together and share each read of the "
        f"weights. From about {turning_point(scene):.3g} tokens on arithmetic takes longer than reading, and the "
        "prompt's time grows with its length."
    )


def measured(told: Told, scene: Scene) -> Beside | None:
    result = told.result
    if not result.ttft_s or not result.tpot_s or not result.n_prompt_tokens:
        return None
    n = result.n_prompt_tokens
    return Beside(
        f"Answer token over prompt token, at a prompt of {n}",
        result.tpot_s / (result.ttft_s / n),
        n * prompt_s(scene, 1) / prompt_s(scene, n),
        "×",
        "Computed for bf16 on the roof; kernels for few tokens are further from it than those for one.",
    )


lesson = Lesson(
    order=3,
    title="Prefill and decode",
    minutes=6,
    about="Why does reading a long prompt take so little, and writing so long?",
    control=Control("Tokens", LENGTHS, 64.0, "tokens"),
    chart=chart,
    steps=(
        Step(
            "predict",
            "Read or write",
            "A chat reads a prompt of 64 tokens and writes an answer of 64.",
            Choice(
                "Which of the two takes longer?",
                (
                    Option(
                        "Both the same",
                        "Prompt and answer tokens do not cost alike: the prompt's go through the network together.",
                    ),
                    Option(
                        "Reading: it must understand everything",
                        "It does the same FLOPs per token, but all tokens of a prompt share each read of the weights.",
                    ),
                    Option("Writing", "Yes: each written token reads all the weights again."),
                ),
                2,
            ),
        ),
        Step(
            "move",
            "Lengthen the prompt",
            "Move the number of tokens and compare both lines.",
            takeaway="A prompt's tokens share each read of the weights; an answer's do not.",
        ),
        Step(
            "see",
            "Where it turns",
            seen,
            takeaway="Short prompts cost as much as one token; long ones their arithmetic.",
        ),
        Step(
            "check",
            "Compute-bound from here on",
            check=Number(
                lambda s: (
                    f"{s.device.name} has its ridge at {s.ceiling().ridge:.3g} FLOP per byte. From how many prompt "
                    "tokens "
                    "on is prefill compute-bound, with weights in bf16?"
                ),
                "tokens",
                turning_point,
                (
                    Mistake(
                        lambda s: 2 * turning_point(s),
                        "A weight does two FLOPs per token. You counted one, so you need half as many tokens.",
                    ),
                    Mistake(
                        lambda s: turning_point(s) / 2,
                        "That holds for int8 weights: half the bytes. In bf16 a weight has two bytes.",
                    ),
                    Mistake(lambda s: 1.0, "One token has about one FLOP per byte, far left of the ridge."),
                ),
                lambda s: (
                    "n tokens do 2 n FLOPs per weight of 2 bytes: n FLOP per byte. At the ridge: "
                    f"{turning_point(s):.3g} tokens."
                ),
            ),
            takeaway="In bf16 a prompt turns compute-bound at as many tokens as the ridge has FLOP per byte.",
        ),
        Step("do", "Run it", "Run the model and compare what a token of the prompt and one of the answer cost."),
    ),
    do=one_answer(measured),
)
