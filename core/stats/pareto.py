"""What is worth choosing when several things count: fronts, how sure their members are, and the volume they cover.

A point is a row of figures, one per objective, each with the direction that is better. Nothing here knows what the
figures mean. NaN is "not measured": such a point is on no front and beats none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from core.stats.intervals import Floats

Direction = Literal["higher", "lower"]


def front(points: ArrayLike, better: Sequence[Direction]) -> tuple[bool, ...]:
    """Which points no other one beats: at least as good in everything and better in something. points: shape (n, d)."""
    return tuple(bool(x) for x in _front(_lower_is_better(points, better)[None])[0])


def membership(samples: ArrayLike, better: Sequence[Direction]) -> tuple[float, ...]:
    """How often each point is on the front. samples: shape (draws, n, d), one row of all points per draw."""
    return tuple(float(x) for x in _front(_lower_is_better(samples, better)).mean(axis=0))


def hypervolume(points: ArrayLike, reference: Sequence[float], better: Sequence[Direction]) -> float:
    """The volume between the front and a fixed reference point that is worse in everything (Zitzler and Thiele 1999).

    Exact, by slicing along one objective after the other (While et al., IEEE Trans. Evol. Comput. 10, 2006); meant
    for two or three objectives and tens of points. Points beyond the reference add nothing. The reference must stay
    the same wherever volumes are compared. In units of the objectives multiplied.
    """
    rows = _lower_is_better(points, better)
    corner = _lower_is_better([reference], better)[0]
    kept = [tuple(row.tolist()) for row in rows if np.isfinite(row).all() and (row < corner).all()]
    return _volume(kept, tuple(corner.tolist()))


def _volume(points: Sequence[tuple[float, ...]], corner: tuple[float, ...]) -> float:
    if not points:
        return 0.0
    if len(corner) == 1:
        return corner[0] - min(p[0] for p in points)
    heights = sorted({p[-1] for p in points})
    total = 0.0
    for height, above in zip(heights, [*heights[1:], corner[-1]], strict=True):
        total += (above - height) * _volume([p[:-1] for p in points if p[-1] <= height], corner[:-1])
    return total


def _lower_is_better(points: ArrayLike, better: Sequence[Direction]) -> Floats:
    rows = np.asarray(points, dtype=np.float64)
    if rows.ndim < 2 or rows.shape[-1] != len(better) or not better:
        raise ValueError("every point needs one figure per objective")
    return np.asarray(rows * np.array([-1.0 if b == "higher" else 1.0 for b in better]))


def _front(costs: Floats) -> NDArray[np.bool_]:
    """costs: (draws, n, d), less is better. Compared in blocks, because every pair of points is."""
    draws, n, d = costs.shape
    block = max(1, (1 << 22) // max(1, n * n * d))
    rows = []
    with np.errstate(invalid="ignore"):
        for first in range(0, draws, block):
            part = costs[first : first + block]
            one, other = part[:, :, None, :], part[:, None, :, :]
            beaten = ((other <= one).all(axis=-1) & (other < one).any(axis=-1)).any(axis=-1)
            rows.append(~beaten & np.isfinite(part).all(axis=-1))
    return np.concatenate(rows) if rows else np.zeros((0, n), dtype=bool)
