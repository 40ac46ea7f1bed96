"""Likeness of a text to a reference by sacrebleu, the reference implementation of these scores (Post, WMT 2018)."""

from __future__ import annotations

from typing import Any

from core.types import Metric

CHRF = Metric(name="chrf", label="chrF2, mean over texts", value="chrf", most=100.0)


def chrf(output: str, reference: str) -> float:
    """Sentence chrF2 from 0 to 100 (Popovic, WMT 2015), sacrebleu's default settings (nc:6, nw:0, eps:no)."""
    from sacrebleu.metrics import chrf as metric

    score: Any = metric.CHRF()
    return float(score.sentence_score(output, [reference]).score)


def bleu(output: str, reference: str) -> float:
    """Sentence BLEU from 0 to 100 with effective order, for sentences too short for 4-grams (13a, smooth:exp)."""
    from sacrebleu.metrics import bleu as metric

    score: Any = metric.BLEU(effective_order=True)
    return float(score.sentence_score(output, [reference]).score)
