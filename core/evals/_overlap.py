"""How far an answer agrees with a gold one: the measures of SQuAD (Rajpurkar et al., arXiv 1606.05250, section 6.1)."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalise(text: str) -> str:
    """Lower case, without punctuation, English articles and extra white space."""
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text.lower().translate(_PUNCTUATION)).split())


def exact(output: str, answers: Sequence[str]) -> float:
    """1 if the output equals one of the answers, both normalised."""
    return float(normalise(output) in map(normalise, answers))


def f1(output: str, answers: Sequence[str]) -> float:
    """The largest F1 of the words in common with one of the answers."""
    return max(_f1(normalise(output).split(), normalise(answer).split()) for answer in answers)


def contains(output: str, answers: Sequence[str]) -> float:
    """1 if one of the answers stands in the output as whole words."""
    found = f" {normalise(output)} "
    return float(any(f" {normalise(answer)} " in found for answer in answers))


def _f1(output: Sequence[str], answer: Sequence[str]) -> float:
    if not output or not answer:
        return float(output == answer)
    common = (Counter(output) & Counter(answer)).total()
    return 2 * common / (len(output) + len(answer))
