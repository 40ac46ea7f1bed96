"""Multiple choice by log-likelihood: 98 questions of common knowledge and common sense, four choices each.

Two models that differ on one question in five are told apart (accuracy, 80 % power) when one is better by about
13 points; the probability of the right choice shows less. Guessing gives 0.25.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from core.evals._by_loglikelihood import ByLogLikelihood
from core.types import Eval, Record

SHOWN = 4


class Settings(Record, omit_defaults=False):
    """What is asked.

    n: questions to ask; 0 for all.
    shots: answered questions to show first.
    """

    n: Annotated[int, Meta(ge=0, le=1_000_000)] = 0
    shots: Annotated[int, Meta(ge=0, le=SHOWN)] = 0


plugin: Eval = ByLogLikelihood(
    name="choice",
    label="Multiple choice",
    Params=Settings,
    n_shown=SHOWN,
    prompt=lambda e: f"Question: {e.text}\nAnswer:",
)
