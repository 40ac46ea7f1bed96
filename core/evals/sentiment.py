"""Sentiment by log-likelihood: 74 sentences of reviews, half of them pleased, in pairs on the same subject.

Two models that differ on one sentence in five are told apart (accuracy, 80 % power) when one is better by about 14
points; the probability of the right label shows less. Guessing gives 0.5, and models of the embedded one's size are
right nearly always, so that what it shows is damage.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from core.evals._by_loglikelihood import ByLogLikelihood
from core.types import Eval, Record

SHOWN = 4


class Settings(Record, omit_defaults=False):
    """What is asked.

    n: sentences to judge; 0 for all.
    shots: judged sentences to show first, as many pleased as displeased.
    """

    n: Annotated[int, Meta(ge=0, le=1_000_000)] = 0
    shots: Annotated[int, Meta(ge=0, le=SHOWN, multiple_of=2)] = SHOWN


plugin: Eval = ByLogLikelihood(
    name="sentiment",
    label="Sentiment",
    Params=Settings,
    n_shown=SHOWN,
    prompt=lambda e: f"Review: {e.text}\nSentiment:",
    labels=("positive", "negative"),
)
