"""Whether a composite metric deserves to be shown, decided on a study's own data against thresholds stated here.

Five questions, each of which has ended the career of some published score: does it fall where quality is known to fall
at equal cost (known groups); does it put a broken model below its baseline, however fast that is; does it rank the
variants alike on either half of the data; does another variant beside them change nothing; does the ranking survive
other weights than ours. A metric that fails one is dropped, and the reason kept.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np

from core.stats.intervals import Floats
from core.studies.composites import Composite
from core.studies.tradeoff import Study, Totals
from core.types import Record

FALLS = 0.6  # least agreement (gamma) of the metric with the order of a known group; its interval must exclude 0
BROKEN = 0.15  # a variant with at most this share of the baseline's quality above chance counts as broken
BELOW = 0.95  # in at least this share of the draws a broken variant must rank below the baseline
STABLE = 0.7  # least median Spearman correlation between the rankings on two halves of the data
WEIGHED = 0.8  # least Kendall's tau between the rankings with our weights and with others, in 95 % of the draws
SPLITS = 100
SEEDS = (0, 1, 2)


class Group(Record, omit_defaults=False):
    """Variants in an order in which quality is known to fall, mildest first.

    cost: whether they are compared as measured ("actual": their costs do not differ by design) or as if all cost the
    same ("equal": of a ladder that also gets faster nobody knows how the whole should fall).
    """

    name: str
    ids: tuple[str, ...]
    cost: Literal["actual", "equal"]


class Check(Record, omit_defaults=False):
    """One question and its answer. passed: None where this study cannot tell."""

    name: str
    threshold: float
    sentence: str
    value: float | None = None
    low: float | None = None
    high: float | None = None
    passed: bool | None = None


class Verdict(Record, omit_defaults=False):
    """kept: no check failed, and known groups and stability were really put to the test."""

    composite: str
    kept: bool
    reason: str
    checks: tuple[Check, ...]


def validate(composite: Composite, study: Study, groups: Sequence[Group], seed: int = 0) -> Verdict:
    """Put a composite to the test on a study. Groups may name variants that are missing; three must be there."""
    whole = study.whole()
    refusals = [composite.refuses(v, whole, i) for i, v in enumerate(study.variants)]
    defined = [i for i, reason in enumerate(refusals) if not reason or composite.last]
    ranked = [i for i in defined if np.isfinite(_oriented(composite, whole)[0, i])]
    if len(ranked) < 3:
        known = [r for r in refusals if r]
        why = max(set(known), key=known.count) if known else "too few variants"
        return Verdict(composite=composite.name, kept=False, reason=f"not testable: of most variants, {why}", checks=())
    drawn = study.bootstrap(seed=seed, decided=False)
    checks = (
        *(_known_group(composite, study, whole, drawn, group) for group in groups),
        _broken(composite, study, whole, drawn),
        _stability(composite, study, ranked),
        _independence(composite, whole, ranked),
        _weights(composite, whole, ranked, seed),
    )
    failed = [c.sentence for c in checks if c.passed is False]
    tested = any(c.passed for c in checks[: len(groups)])
    stable = next(c for c in checks if c.name == "stability").passed
    if failed:
        reason = " ".join(failed)
    elif not tested:
        reason = "No known group could be tested, so nothing shows that it follows quality."
    elif not stable:
        reason = "Its stability could not be tested."
    else:
        reason = "It passed every check that this study allows."
    return Verdict(composite=composite.name, kept=not failed and tested and bool(stable), reason=reason, checks=checks)


def _oriented(composite: Composite, totals: Totals, weights: Sequence[float] | None = None) -> Floats:
    """Values with more being better."""
    found = composite.of(totals, composite.weights if weights is None else weights)
    return found if composite.better == "higher" else -found


def _known_group(composite: Composite, study: Study, whole: Totals, drawn: Totals, group: Group) -> Check:
    names = [v.id for v in study.variants]
    columns = [names.index(i) for i in group.ids if i in names]
    sides = (whole.at_equal_cost(), drawn.at_equal_cost()) if group.cost == "equal" else (whole, drawn)
    point, draws = (_oriented(composite, side)[:, columns] for side in sides)
    name = f"known group: {group.name}"
    if np.isfinite(point).sum() < 3:
        return _untold(name, FALLS, f"Fewer than three variants of the {group.name} have a value.")
    order = -np.arange(len(columns), dtype=float)
    told = float(gamma(order, point)[0])
    spread = gamma(order, draws)
    spread = spread[np.isfinite(spread)]
    if not math.isfinite(told) or not len(spread):
        return Check(
            name=name,
            value=0.0,
            threshold=FALLS,
            passed=False,
            sentence=f"It is the same all along the {group.name}.",
        )
    low, high = (float(x) for x in np.quantile(spread, (0.025, 0.975)))
    ends = point[0, np.isfinite(point[0])]
    passed = bool(told >= FALLS and low > 0 and ends[0] > ends[-1])
    falls = "falls" if passed else "does not reliably fall"
    at = " at equal cost" if group.cost == "equal" else ""
    return Check(
        name=name,
        value=told,
        low=low,
        high=high,
        threshold=FALLS,
        passed=passed,
        sentence=f"It {falls} along the {group.name}{at}: rank agreement {told:.2f} [{low:.2f}, {high:.2f}].",
    )


def _broken(composite: Composite, study: Study, whole: Totals, drawn: Totals) -> Check:
    """A model that hardly answers better than by guessing must not win by being fast or small."""
    base = whole.baseline
    with np.errstate(divide="ignore", invalid="ignore"):
        share = whole.above_chance[0] / max(0.0, whole.above_chance[0, base])
    values = _oriented(composite, drawn)
    known = np.isfinite(values) & np.isfinite(values[:, [base]])
    columns = [c for c in range(len(study.variants)) if share[c] <= BROKEN and known[:, c].any()]
    if not columns:
        return _untold("broken models", BELOW, "No broken variant has a value to set against the baseline's.")
    below = [float(np.mean((values[:, c] < values[:, base])[known[:, c]])) for c in columns]
    worst = min(below)
    name = study.variants[columns[below.index(worst)]].label
    return Check(
        name="broken models",
        value=worst,
        threshold=BELOW,
        passed=worst >= BELOW,
        sentence=f"It ranks {name}, a broken model, below the baseline in {worst:.0%} of the draws.",
    )


def _stability(composite: Composite, study: Study, columns: Sequence[int]) -> Check:
    found: list[float] = []
    for seed in SEEDS:
        one, other = (_oriented(composite, half)[:, columns] for half in study.halves(SPLITS, seed))
        found += [r for a, b in zip(one, other, strict=True) if math.isfinite(r := spearman(a, b))]
    if len(found) < SPLITS:
        return _untold("stability", STABLE, "Too few halves of the data rank the variants at all.")
    middle, low, high = (float(x) for x in np.quantile(found, (0.5, 0.025, 0.975)))
    return Check(
        name="stability",
        value=middle,
        low=low,
        high=high,
        threshold=STABLE,
        passed=middle >= STABLE,
        sentence=f"Its rankings on two halves of the data correlate by {middle:.2f} [{low:.2f}, {high:.2f}], Spearman.",
    )


def _independence(composite: Composite, whole: Totals, columns: Sequence[int]) -> Check:
    """Independence of irrelevant alternatives: each variant is taken away in turn, and the others' order compared."""
    kept = sorted({*columns, whole.baseline})
    full = _oriented(composite, whole.only(kept))[0]
    changed = pairs = 0
    moved: list[int] = []
    for without in kept:
        if without == whole.baseline:
            continue
        rest = [c for c in kept if c != without]
        fewer = _oriented(composite, whole.only(rest))[0]
        before = np.array([full[kept.index(c)] for c in rest])
        swapped = np.nan_to_num(_signs(before)) != np.nan_to_num(_signs(fewer))
        count = int(np.triu(swapped, 1).sum())
        changed += count
        pairs += len(rest) * (len(rest) - 1) // 2
        shifted = np.isfinite(before) & ~np.isclose(before, fewer, rtol=1e-9)
        if shifted.any():
            moved.append(without)
    share = changed / pairs if pairs else 0.0
    passed = not changed and not moved
    if passed:
        sentence = "Another variant beside them changes no value and no rank."
    elif changed:
        sentence = f"Taking one variant away swaps the order of others: {changed} of {pairs} pairs."
    else:
        sentence = f"Taking one variant away changes the values of the others ({len(moved)} of {len(kept) - 1} times)."
    return Check(name="independence", value=share, threshold=0.0, passed=passed, sentence=sentence)


def _weights(composite: Composite, whole: Totals, columns: Sequence[int], seed: int) -> Check:
    """Each weight drawn between half and twice its value."""
    if not composite.weights:
        return _untold("weights", WEIGHED, "It has no weights.")
    rng = np.random.default_rng(seed)
    ours = _oriented(composite, whole)[0, columns]
    taus = []
    for _ in range(SPLITS):
        other = np.array(composite.weights) * 2 ** rng.uniform(-1, 1, len(composite.weights))
        taus.append(float(kendall(ours, _oriented(composite, whole, list(other))[:, columns])[0]))
    low, middle = (float(x) for x in np.quantile(taus, (0.05, 0.5)))
    return Check(
        name="weights",
        value=low,
        threshold=WEIGHED,
        passed=low >= WEIGHED,
        sentence=(
            f"With weights between half and twice ours its rankings agree by {middle:.2f} (Kendall's tau), "
            f"by {low:.2f} or more in 95 % of the draws."
        ),
    )


def _untold(name: str, threshold: float, sentence: str) -> Check:
    return Check(name=name, threshold=threshold, sentence=sentence)


def kendall(one: Floats, others: Floats) -> Floats:
    """Kendall's tau-b of `one`, shape (n,), with every row of `others`, shape (rows, n); pairs with a NaN left out.

    NaN where either side has no two different values.
    """
    left, right = _signs(one)[None], _signs(others)
    known = np.isfinite(left) & np.isfinite(right)
    left, right = np.where(known, left, 0.0), np.where(known, right, 0.0)
    both = (left * right).sum(axis=(1, 2))
    size = np.sqrt((left**2).sum(axis=(1, 2)) * (right**2).sum(axis=(1, 2)))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(both / size)


def gamma(one: Floats, others: Floats) -> Floats:
    """Kendall's tau over the pairs that both sides tell apart (Goodman and Kruskal's gamma), as `kendall` otherwise.

    A metric of steps ties much of what it is shown, which says nothing against the order of the rest.
    """
    products = _signs(one)[None] * _signs(others)
    agree, differ = (products > 0).sum(axis=(1, 2)), (products < 0).sum(axis=(1, 2))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((agree - differ) / (agree + differ))


def _signs(values: Floats) -> Floats:
    """Of every pair which is larger, shape (..., n, n); NaN with a NaN."""
    return np.asarray(np.sign(values[..., :, None] - values[..., None, :]))


def spearman(one: Floats, other: Floats) -> float:
    """Correlation of the ranks of two rows, ties sharing theirs; places with a NaN left out. NaN below three places."""
    known = np.isfinite(one) & np.isfinite(other)
    if known.sum() < 3:
        return math.nan
    a, b = (_signs(side[known]).sum(axis=1) for side in (one, other))
    size = math.sqrt(float((a**2).sum() * (b**2).sum()))
    return float((a * b).sum()) / size if size else math.nan
