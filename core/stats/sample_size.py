"""What a comparison could show at all, stated before it runs: the smallest difference that a sample would detect.

Functions of the number of items and of what is assumed about them; nothing here looks at results.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist

from core.stats.paired import ALPHA
from core.stats.proportions import mcnemar

POWER = 0.8


def detectable_paired(n: int, discordance: float, alpha: float = ALPHA, power: float = POWER) -> float | None:
    """The smallest difference of two rates over the same n items that McNemar's test would find with this power.

    discordance: the share of items on which the two are expected to differ, in either direction. Solves Connor's
    n = (z_a sqrt(D) + z_b sqrt(D - d^2))^2 / d^2 for d (Biometrics 43, 1987, equation 4). None: not even if all
    discordant items went one way.
    """
    _sensible(n, alpha, power)
    if not 0 < discordance <= 1:
        raise ValueError("discordance is a share above 0 and up to 1")
    if mcnemar(0, math.floor(discordance * n + 1e-9)) > alpha:
        return None
    z_a, z_b = _z(1 - alpha / 2), _z(power)

    def needed(d: float) -> float:
        return ((z_a * math.sqrt(discordance) + z_b * math.sqrt(max(0.0, discordance - d * d))) / d) ** 2

    return _smallest(needed, n, discordance)


def detectable_unpaired(n: int, rate: float, alpha: float = ALPHA, power: float = POWER) -> float | None:
    """The smallest fall of a rate that two samples of n different items each would show with this power.

    Fleiss, "Statistical Methods for Rates and Proportions", equation 4.14 without continuity correction. None: not
    even a fall to 0.
    """
    _sensible(n, alpha, power)
    if not 0 < rate <= 1:
        raise ValueError("the rate of the baseline is a share above 0 and up to 1")
    z_a, z_b = _z(1 - alpha / 2), _z(power)

    def needed(d: float) -> float:
        other = rate - d
        middle = (rate + other) / 2
        both = math.sqrt(2 * middle * (1 - middle))
        each = math.sqrt(rate * (1 - rate) + max(0.0, other * (1 - other)))
        return ((z_a * both + z_b * each) / d) ** 2

    return _smallest(needed, n, rate)


def detectable_mean(n: int, deviation: float, alpha: float = ALPHA, power: float = POWER) -> float:
    """The smallest mean difference over n clusters whose differences have this standard deviation.

    Miller, arXiv 2411.00640, equation 9, solved for the effect.
    """
    _sensible(n, alpha, power)
    return (_z(1 - alpha / 2) + _z(power)) * deviation / math.sqrt(n)


def fewest_flips(alpha: float = ALPHA) -> int:
    """So many items must change, all in one direction, before the exact test can call it significant."""
    flips = 1
    while mcnemar(0, flips) > alpha:
        flips += 1
    return flips


def _smallest(needed: Callable[[float], float], n: int, largest: float) -> float | None:
    """The d up to `largest` at which needed(d), which falls, comes down to n."""
    if needed(largest) > n:
        return None
    low, high = 0.0, largest
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if needed(middle) > n else (low, middle)
    return high


def _sensible(n: int, alpha: float, power: float) -> None:
    if n < 1 or not 0 < alpha < 1 or not 0 < power < 1:
        raise ValueError("a power calculation needs items, and shares between 0 and 1")


def _z(share: float) -> float:
    return NormalDist().inv_cdf(share)
