"""How far an answer agrees with a gold one: the measures of SQuAD (Rajpurkar et al., arXiv 1606.05250, section 6.1)."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Iterator, Sequence

_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalise(text: str) -> str:
    """Lower case, without punctuation, English articles and extra white space."""
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", _with_articles(text)).split())


def exact(output: str, answers: Sequence[str]) -> float:
    """1 if the output equals one of the answers, both normalised."""
    return float(any(said == wanted for said, wanted in _alike(output, answers)))


def f1(output: str, answers: Sequence[str]) -> float:
    """The largest F1 of the words in common with one of the answers."""
    return max(_f1(said.split(), wanted.split()) for said, wanted in _alike(output, answers))


def contains(output: str, answers: Sequence[str]) -> float:
    """1 if one of the answers stands in the output as whole words."""
    return float(any(f" {wanted} " in f" {said} " for said, wanted in _alike(output, answers)))


def _alike(output: str, answers: Sequence[str]) -> Iterator[tuple[str, str]]:
    """The output and an answer, both normalised; no further than something is left of the answer ("A", "+"), for what
    has nothing left would equal an output that says nothing."""
    for answer in answers:
        forms = (form for form in (normalise, _with_articles, _as_it_is) if form(answer))
        form = next(forms, normalise)
        yield form(output), form(answer)


def _with_articles(text: str) -> str:
    return _as_it_is(text.translate(_PUNCTUATION))


def _as_it_is(text: str) -> str:
    return " ".join(text.lower().split())


def _f1(output: Sequence[str], answer: Sequence[str]) -> float:
    if not output or not answer:
        return float(output == answer)
    common = (Counter(output) & Counter(answer)).total()
    return 2 * common / (len(output) + len(answer))
