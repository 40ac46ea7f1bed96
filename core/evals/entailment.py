"""Entailment by log-likelihood: does a text imply a sentence, contradict it, or neither? 57 pairs on 19 texts.

Two models that differ on one pair in five are told apart (accuracy, 80 % power) when one is better by about 16
points. Guessing gives 0.33, and models of the embedded one's size are little better.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from core.evals._by_loglikelihood import ByLogLikelihood
from core.types import Eval, Record

SHOWN = 3


class Settings(Record, omit_defaults=False):
    """What is asked.

    n: pairs to judge; 0 for all.
    shots: judged pairs to show first, one of each kind.
    """

    n: Annotated[int, Meta(ge=0, le=1_000_000)] = 0
    shots: Annotated[int, Meta(ge=0, le=SHOWN, multiple_of=3)] = SHOWN


plugin: Eval = ByLogLikelihood(
    name="entailment",
    label="Entailment",
    Params=Settings,
    n_shown=SHOWN,
    prompt=lambda e: f"{e.text}\nQuestion: {e.question} True, False, or Neither?\nAnswer:",
    labels=("True", "False", "Neither"),
    kept=lambda e: f"{e.text} / {e.question}",
)
