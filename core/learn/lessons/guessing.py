"""When guessing pays: tokens per forward pass against what a forward pass of several tokens costs."""

from __future__ import annotations

from core.analysis.decoding import expected_speedup, expected_tokens_per_forward, relative_cost
from core.charts.chart import Chart
from core.charts.lesson import lines
from core.learn.lesson import Beside, Choice, Control, Do, Lesson, Mistake, Number, Option, Own, Scene, Step, Told
from core.learn.lessons._common import CONTEXT, RUN, forward, ideal_s

ALPHA, GAMMA = 0.7, 8
DRAFTS = tuple(float(n) for n in (1, 2, 3, 4, 6, 8, 12, 16, 24, 32))
ALPHAS, GAMMAS = (ALPHA, 0.6, 0.8, 0.9), (GAMMA, 3, 6, 7)  # that the questions ask with
EXAMPLE_V = (2.6, 1.6, 1.9, 3.2)  # costs of a forward pass to compute with; this machine's is measured at the end


def roof_v(scene: Scene, n: int) -> float:
    """v(n) as the roof allows it, for the weights as the file stores them."""
    one, many = (ideal_s(forward(scene, k, CONTEXT, dtype=None), scene.ceiling("fp32")) for k in (1, n))
    return many / one


def asked(scene: Scene) -> tuple[float, int]:
    """The probability of a guess, and how many guesses, that the questions are about."""
    return scene.draw("alpha", ALPHAS), scene.draw("gamma", GAMMAS)


def given(scene: Scene) -> float:
    """Tokens per forward pass of the question."""
    return expected_tokens_per_forward(*asked(scene))


def example_v(scene: Scene) -> float:
    return scene.draw("v", EXAMPLE_V)


def tokens(scene: Scene) -> float:
    return expected_tokens_per_forward(ALPHA, int(scene.at))


def chart(scene: Scene) -> Chart:
    return lines(
        {
            "tokens per forward pass": [(g, expected_tokens_per_forward(ALPHA, int(g))) for g in DRAFTS],
            "what it costs, by the roof": [(g, roof_v(scene, int(g) + 1)) for g in DRAFTS],
        },
        "Guessed tokens",
        "Tokens, and cost (×)",
        scene.at,
        unit="×",
    )


def seen(scene: Scene) -> str:
    g = int(scene.at)
    v = roof_v(scene, g + 1)
    return (
        f"With {g} guesses a forward pass gives {tokens(scene):.2f} tokens on average, and by this roof it costs "
        f"{v:.2f} "
        f"forward passes of one token: {expected_speedup(tokens(scene), v):.2f} times as fast. A guess counts only if "
        "all before it were right, so more guesses bring ever less, while each is paid for."
    )


def measured(told: Told, scene: Scene) -> Beside | None:
    result = told.result
    cost = result.forward_cost
    v = relative_cost(cost, GAMMA) if cost is not None else None
    if v is None:
        return None
    return Beside(
        f"v({GAMMA}): a forward pass of {GAMMA} tokens over one of a single token",
        v,
        roof_v(scene, GAMMA),
        "×",
        "Where measured is far above the roof, the kernels make several tokens dear: guessing has to bring that many.",
    )


lesson = Lesson(
    order=8,
    title="When guessing pays",
    minutes=7,
    about="Several tokens per forward pass: when is that faster?",
    control=Control("Guessed tokens", DRAFTS, 4.0, "tokens"),
    chart=chart,
    steps=(
        Step(
            "predict",
            "Three tokens at once",
            "A method gets three tokens out of each forward pass instead of one.",
            Choice(
                "How much faster is it?",
                (
                    Option(
                        "Three times",
                        "Accepted tokens are not the speed-up: a forward pass of several tokens costs more than "
                        "one of one.",
                    ),
                    Option(
                        "Three times, divided by what such a forward pass costs",
                        "Yes: tokens per forward pass belong to the method, seconds per forward pass to the machine.",
                    ),
                    Option(
                        "Not at all: the arithmetic is the same",
                        "Reading the weights is shared, and that was the limit.",
                    ),
                ),
                1,
            ),
        ),
        Step(
            "move",
            "Guess more",
            "Add guesses. What they bring flattens; what they cost does not.",
            takeaway="Guessing pays while tokens per forward pass exceed v(n).",
        ),
        Step("see", "Bringing and costing", seen, takeaway="Speed-up is tokens per forward pass over v(n)."),
        Step(
            "check",
            "Tokens per forward pass",
            check=Number(
                lambda s: (
                    f"Each of {asked(s)[1]} guesses is right with probability {asked(s)[0]:g}, if all before it were; "
                    "the model adds one token of its own. How many tokens does a forward pass give on average?"
                ),
                "tokens",
                given,
                (
                    Mistake(
                        lambda s: asked(s)[0] * asked(s)[1],
                        "That counts every guess by itself. Behind the first wrong one all others are lost.",
                    ),
                    Mistake(
                        lambda s: asked(s)[0] * asked(s)[1] + 1, "Behind the first wrong guess all others are lost."
                    ),
                    Mistake(lambda s: asked(s)[1] + 1.0, "That is the most it can give, when every guess is right."),
                    Mistake(
                        lambda s: 1 / (1 - asked(s)[0]), "That holds for endless guesses; here there are but a few."
                    ),
                ),
                lambda s: f"(1 − {asked(s)[0]:g}^{asked(s)[1] + 1}) / (1 − {asked(s)[0]:g}) = {given(s):.3g}.",
                tolerance=0.015,
            ),
            takeaway="Tokens per forward pass: (1 − α^(γ+1)) / (1 − α), with one of the model's own.",
        ),
        Step(
            "check",
            "The speed-up",
            check=Number(
                lambda s: (
                    f"It gives {given(s):.2f} tokens, and the forward pass costs as much as {example_v(s):g} of one "
                    "token. Guesses come for free. What is the speed-up?"
                ),
                "times",
                lambda s: expected_speedup(given(s), example_v(s)),
                (
                    Mistake(given, "These are the tokens. Divide by what the forward pass costs."),
                    Mistake(example_v, "That is the cost alone."),
                    Mistake(
                        lambda s: (given(s) - 1) / example_v(s),
                        "The token of the model's own counts too.",
                    ),
                ),
                lambda s: f"{given(s):.2f} / {example_v(s):g} = {expected_speedup(given(s), example_v(s)):.3g}.",
            ),
            takeaway="The same accepted tokens bring more on a machine where a forward pass of several costs less.",
        ),
        Step("do", "Measure v(n)", "The profiler of the forward cost measures v(n) on this machine."),
    ),
    do=Do(
        "Run with that profiler",
        RUN,
        lambda s: {"backend": "llama_cpp", "profilers": "forward_cost"},
        Own(lambda request: "forward_cost" in request.profilers, measured),
        here=True,
    ),
)
