"""What a comparison could show at all, stated before it runs: the smallest difference that a sample would detect.

Functions of the number of items and of what is assumed about them; nothing here looks at results. Sample sizes are
statsmodels', solved for the difference.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from core.stats.paired import ALPHA
from core.stats.proportions import mcnemar

POWER = 0.8


def detectable_paired(n: int, discordance: float, alpha: float = ALPHA) -> float | None:
    """The smallest difference of two rates over the same n items that McNemar's test would find with a power of 80 %.

    discordance: the share of items on which the two are expected to differ, in either direction. Solves Connor's
    n = (z_a sqrt(D) + z_b sqrt(D - d^2))^2 / d^2 for d (Biometrics 43, 1987, equation 4). None: not even if all
    discordant items went one way.
    """
    _sensible(n, alpha)
    if not 0 < discordance <= 1:
        raise ValueError("discordance is a share above 0 and up to 1")
    if mcnemar(0, math.floor(discordance * n + 1e-9)) > alpha:
        return None
    from statsmodels.stats.power import normal_sample_size_one_tail as sample_size

    def needed(d: float) -> float:
        changed = math.sqrt(max(0.0, discordance - d * d))
        return float(sample_size(d, POWER, alpha / 2, math.sqrt(discordance), changed))

    return _smallest(needed, n, discordance)


def _smallest(needed: Callable[[float], float], n: int, largest: float) -> float | None:
    """The d up to `largest` at which needed(d), which falls, comes down to n."""
    from scipy.optimize import brentq

    if needed(largest) > n:
        return None
    return float(brentq(lambda d: needed(d) - n, 1e-6 * largest, largest))


def _sensible(n: int, alpha: float) -> None:
    if n < 1 or not 0 < alpha < 1:
        raise ValueError("a power calculation needs items, and shares between 0 and 1")
