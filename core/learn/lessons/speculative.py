"""Speculative decoding, step by step: a rule of acceptance that leaves the distribution as it is."""

from __future__ import annotations

from functools import cache
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from core import plugins
from core.analysis.decoding import acceptance, expected_tokens_per_forward
from core.charts.chart import Chart
from core.charts.lesson import Bar, bars
from core.decoding._draft import accept_sampled
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
from core.studies.standings import Standings
from core.types import Ids, Sampling

WORDS = ("cat", "dog", "bird")
P, Q = np.array([0.5, 0.3, 0.2]), np.array([0.2, 0.5, 0.3])
OTHERS = (  # shares of the large model and of the draft that the questions ask with
    (P, Q),
    (np.array([0.4, 0.1, 0.5]), np.array([0.2, 0.5, 0.3])),
    (np.array([0.1, 0.6, 0.3]), np.array([0.2, 0.6, 0.2])),
    (np.array([0.7, 0.2, 0.1]), np.array([0.4, 0.1, 0.5])),
)
DRAWS = (100.0, 1000.0, 10000.0)
GUESSING = ("speculative", "self_speculative", "prompt_lookup")  # strategies that draft and verify
NAME = {"p": "large model", "q": "draft"}


class _Large:
    """The large model's logits behind the drafted word and behind the next."""

    def argmax(self) -> Ids:
        return np.full((1, 2), int(P.argmax()))

    def numpy(self) -> NDArray[np.float32]:
        logits: NDArray[np.float32] = np.log(np.stack([P, P]))[None].astype(np.float32)
        return logits


@cache
def frequencies(n: int) -> tuple[float, ...]:
    """How often each word came first in n steps of the project's own rule, the draft guessing one word."""
    rng, sampling, large = np.random.default_rng(0), Sampling(temperature=1.0), _Large()
    found = np.zeros(len(P))
    for word in rng.choice(len(Q), size=n, p=Q):
        found[accept_sampled(large, [int(word)], [Q], sampling, rng)[0]] += 1
    return tuple(float(x) for x in found / n)


Shares = NDArray[np.float64]


def asked(scene: Scene) -> tuple[Shares, Shares]:
    return scene.draw("shares", OTHERS)


def accepted(p: Shares = P, q: Shares = Q) -> float:
    """Probability that a drafted word is accepted: the sum of the smaller of p and q."""
    return float(np.minimum(p, q).sum())


def told(shares: Shares) -> str:
    """`cat 50%, dog 30%, bird 20%`."""
    return ", ".join(f"{w} {x:.0%}" for w, x in zip(WORDS, shares, strict=True))


def chart(scene: Scene) -> Chart:
    found = frequencies(int(scene.at))
    rows = []
    for word, p, q, f in zip(WORDS, P, Q, found, strict=True):
        rows += [
            Bar(f"{word}: {NAME['q']}", float(q), f"{q:.0%}"),
            Bar(f"{word}: {NAME['p']}", float(p), f"{p:.0%}"),
            Bar(f"{word}: what came out", f, f"{f:.1%}", True),
        ]
    return bars(rows, f"Share of {scene.at:,.0f} draws")


def seen(scene: Scene) -> str:
    off = max(abs(f - p) for f, p in zip(frequencies(int(scene.at)), P, strict=True))
    return (
        f"The draft says a word by its own shares q. It is accepted with probability min(1, p/q); otherwise a word is "
        f"drawn from what p has more than q. In {scene.at:,.0f} draws what came out is within {off:.1%} of the large "
        f"model's shares, though the draft's are quite different. {accepted():.0%} of the drafted words are accepted."
    )


def measured(found: Standings, scene: Scene) -> Beside | None:
    row = next((r for r in found.rows if r.strategy == "speculative" and r.over_autoregressive), None)
    if row is None or row.over_autoregressive is None:
        return None
    return Beside(
        f"Speed-up of “{row.label}”",
        row.over_autoregressive.value,
        row.predicted,
        "×",
        f"It gave {row.tokens_per_forward:.2f} tokens per forward pass; drafting and the dearer forward passes "
        "took most of it.",
    )


def own(told: Told, scene: Scene) -> Beside | None:
    found = acceptance(told.steps)
    drafts = [len(step.guess) for step in told.steps if step.phase == "decode"]
    if found is None or found.rate is None or not any(drafts):
        return None
    return Beside(
        f"Tokens per forward pass with {plugins.label('strategy', told.result.strategy)}",
        found.tokens_per_forward,
        fmean(expected_tokens_per_forward(found.rate, n) for n in drafts),
        "tokens",
        f"{found.rate:.0%} of the drafted tokens that were looked at were accepted. Computed from that share and the "
        "length of every draft, as if each were accepted independently of the others.",
    )


lesson = Lesson(
    order=9,
    title="Speculative decoding, step by step",
    minutes=7,
    about="A small model guesses: is the text still the large one's?",
    control=Control("Draws", DRAWS, 1000.0, "draws"),
    chart=chart,
    drawn_from="Drawn by the rule that this app decodes with.",
    steps=(
        Step(
            "predict",
            "Whose text is it?",
            "A small model drafts; the large one accepts or replaces each word. The two disagree often.",
            Choice(
                "How are the words of the result distributed?",
                (
                    Option(
                        "Like the draft's", "Then the large model would not be needed: it replaces what does not fit."
                    ),
                    Option("Between the two", "The rule is made so that nothing of the draft's distribution is left."),
                    Option("Exactly like the large model's", "Yes: it changes the speed, not the text."),
                ),
                2,
            ),
        ),
        Step(
            "move",
            "Draw more often",
            "Each draw is one step of the rule as this app uses it. Draw more and compare.",
            takeaway="The rule of acceptance leaves the large model's distribution as it is.",
        ),
        Step(
            "see",
            "Accept, or draw from the rest",
            seen,
            takeaway="Accept with min(1, p/q), else draw from max(0, p − q).",
        ),
        Step(
            "check",
            "How often is the draft accepted?",
            check=Number(
                lambda s: (
                    f"The large model: {told(asked(s)[0])}. The draft: {told(asked(s)[1])}. What share of drafted "
                    "words is accepted?"
                ),
                "(a share of 1)",
                lambda s: accepted(*asked(s)),
                (
                    Mistake(
                        lambda s: float((asked(s)[0] * asked(s)[1]).sum()),
                        "That is how often both would say the same word by chance. A word is kept more often "
                        "than that.",
                    ),
                    Mistake(lambda s: 1 - accepted(*asked(s)), "That is the share of words that are replaced."),
                    Mistake(
                        lambda s: float(np.maximum(*asked(s)).sum()),
                        "You summed the larger ones, which is more than 1.",
                    ),
                ),
                lambda s: (
                    f"Sum of the smaller ones: {' + '.join(f'{m:g}' for m in np.minimum(*asked(s)))} = "
                    f"{accepted(*asked(s)):g}."
                ),
            ),
            takeaway="Acceptance is the overlap of the two distributions.",
        ),
        Step(
            "check",
            "What comes out",
            check=Number(
                lambda s: (
                    f"The large model says “{WORDS[0]}” in {asked(s)[0][0]:.0%} of all cases, the draft in "
                    f"{asked(s)[1][0]:.0%}. How often is it the word that comes out?"
                ),
                "(a share)",
                lambda s: float(asked(s)[0][0]),
                (
                    Mistake(lambda s: float(asked(s)[1][0]), "That is the draft's share: it does not change the text."),
                    Mistake(
                        lambda s: float(asked(s)[0][0] + asked(s)[1][0]) / 2,
                        "Nothing is mixed: what the draft says too rarely is drawn afterwards.",
                    ),
                    Mistake(
                        lambda s: accepted(*asked(s)),
                        "That is how often a drafted word is accepted, whichever it is.",
                    ),
                ),
                lambda s: f"As often as the large model says it: {asked(s)[0][0]:.0%}.",
            ),
            takeaway="What comes out has the large model's probabilities, word by word.",
        ),
        Step(
            "do", "Measure it", "The recorded benchmark has a draft model beside its teacher; you can run one yourself."
        ),
    ),
    do=Do(
        "Choose a draft model",
        "pages/measure/run.py",
        lambda s: {"strategy": "speculative", "backend": "llama_cpp"},
        Own(lambda request: generates(request) and request.strategy in GUESSING, own),
        Recorded("benchmark", measured),
    ),
)
