"""Is it really faster: noise, repeats, and the best of many."""

from __future__ import annotations

from functools import cache
from statistics import NormalDist, fmean, stdev

from core.charts.chart import Chart
from core.charts.lesson import lines
from core.learn.lesson import Beside, Choice, Control, Do, Lesson, Mistake, Number, Option, Own, Scene, Step, Told
from core.learn.lessons._common import RUN, generates
from core.stats.paired import ALPHA
from core.stats.proportions import mcnemar

PAIRS = tuple(float(n) for n in range(2, 13))
NOISE, CANDIDATES = 0.03, 50
FEWS, NOISES, MANY = (5, 4, 6, 7), (NOISE, 0.02, 0.04, 0.05), (CANDIDATES, 20, 100, 200)  # that are asked about


@cache
def smallest_p(n: int) -> float:
    """Two-sided p of a sign test when all n pairs agree: the smallest that n pairs can reach."""
    return mcnemar(n, 0)


def best_of(n: int) -> float:
    """How many standard deviations the best of n equal candidates lies above their mean, on average (Blom, 1958)."""
    return NormalDist().inv_cdf((n - 0.375) / (n + 0.25))


def few(scene: Scene) -> int:
    """Pairs that the question is about."""
    return scene.draw("pairs", FEWS)


def many(scene: Scene) -> tuple[int, float]:
    """Candidates and their noise that the question is about."""
    return scene.draw("candidates", MANY), scene.draw("noise", NOISES)


def chart(scene: Scene) -> Chart:
    return lines(
        {"smallest p that can come out": [(n, smallest_p(int(n))) for n in PAIRS]},
        "Pairs of runs",
        "p when every pair agrees",
        scene.at,
        ("significance", ALPHA),
        log=False,
    )


def seen(scene: Scene) -> str:
    n = int(scene.at)
    least = next(int(k) for k in PAIRS if smallest_p(int(k)) < ALPHA)
    return (
        f"If all of {n} pairs favour the same side, p is {smallest_p(n):.3g}: as likely as {n} coins that fall alike. "
        f"From {least} pairs on it can be below {ALPHA:g}. And the best of many looks good by chance alone: of "
        f"{CANDIDATES} equal candidates at {NOISE:.0%} noise, the best seems {NOISE * best_of(CANDIDATES):.1%} faster."
    )


def measured(told: Told, scene: Scene) -> Beside | None:
    result = told.result
    samples = result.tpot_samples_s
    if len(samples) < 2:
        return None
    return Beside(
        f"How much the best of {len(samples)} equal passes beats their mean",
        1 - min(samples) / fmean(samples),
        best_of(len(samples)) * stdev(samples) / fmean(samples),
        "",
        "Computed from the spread of these passes: the same run, nothing changed. One run is no result.",
    )


lesson = Lesson(
    order=12,
    title="Is it really faster?",
    minutes=7,
    about="How many runs does it take to say so?",
    control=Control("Pairs of runs", PAIRS, 5.0, "pairs"),
    chart=chart,
    drawn_from="Of the sign test, the same on any machine.",
    steps=(
        Step(
            "predict",
            "Five out of five",
            "A change is measured against the old version in five pairs of runs. It wins all five, by two percent.",
            Choice(
                f"Is that significant at {ALPHA:g} in a test that looks at who won?",
                (
                    Option(
                        "Yes: five out of five",
                        "Five coins fall alike in one of sixteen cases: that is not rare enough.",
                    ),
                    Option(
                        "No, five pairs cannot be", "Yes: the smallest p that five pairs can give is above the limit."
                    ),
                    Option(
                        "Yes, two percent is a lot", "Whether it is real depends on the noise, not on the size alone."
                    ),
                ),
                1,
            ),
        ),
        Step(
            "move",
            "Add pairs",
            "How many pairs does it take before the test can say anything?",
            takeaway="Too few pairs cannot be significant, whatever they show.",
        ),
        Step("see", "Chance, twice", seen, takeaway="The best of many equal candidates looks faster than it is."),
        Step(
            "check",
            "All pairs agree",
            check=Number(
                lambda s: f"All of {few(s)} pairs favour the new version. What is the two-sided p of the sign test?",
                "(a probability)",
                lambda s: smallest_p(few(s)),
                (
                    Mistake(
                        lambda s: smallest_p(few(s)) / 2,
                        "That is one-sided: all for the new one. All for the old would be as odd.",
                    ),
                    Mistake(lambda s: 1 / few(s), "The pairs multiply: one half for each."),
                    Mistake(lambda s: ALPHA, "That is the limit to compare it with."),
                ),
                lambda s: f"2 × (1/2)^{few(s)} = {smallest_p(few(s)):g}.",
            ),
            takeaway="n agreeing pairs reach p = 2 × (1/2)^n.",
        ),
        Step(
            "check",
            "The best of many",
            check=Number(
                lambda s: (
                    f"{many(s)[0]} settings are equally fast; each measurement has {many(s)[1]:.0%} noise. How many "
                    "percent faster than the mean does the best one look, on average?"
                ),
                "%",
                lambda s: 100 * many(s)[1] * best_of(many(s)[0]),
                (
                    Mistake(
                        lambda s: 100 * many(s)[1],
                        "That is one standard deviation. The best of so many lies further out.",
                    ),
                    Mistake(
                        lambda s: 100 * many(s)[1] * many(s)[0] ** 0.5, "The root belongs to a mean, not to the best."
                    ),
                    Mistake(lambda s: 100 * many(s)[1] / many(s)[0] ** 0.5, "That is the error of the mean of all."),
                ),
                lambda s: (
                    f"{best_of(many(s)[0]):.2f} standard deviations × {many(s)[1]:.0%} = "
                    f"{many(s)[1] * best_of(many(s)[0]):.1%}."
                ),
            ),
            takeaway="Measure the winner of a search again, apart from the search.",
        ),
        Step(
            "do",
            "Repeat it",
            "Run the same thing several times: the spread of equal passes is the noise of this machine.",
        ),
    ),
    do=Do(
        "Run ten passes",
        RUN,
        lambda s: {"backend": "llama_cpp", "repeats": "10"},
        Own(lambda request: generates(request) and request.repeats > 1, measured),
        here=True,
    ),
)
