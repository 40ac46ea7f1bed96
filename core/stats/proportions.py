"""Two rates over the same items, of which only the flips tell: `lost` items turned wrong and `gained` ones right.

McNemar's test is SciPy's binomial one. Tango's interval is our own: neither SciPy nor statsmodels has it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist

from core.stats.quantiles import LEVEL


def mcnemar(lost: int, gained: int) -> float:
    """Two-sided exact p of as uneven flips as these when either direction is as likely: a binomial sign test.

    McNemar (1947) in its exact conditional form (Fagerland, Lydersen and Laake, BMC Med. Res. Methodol. 13:91, 2013).
    """
    from scipy.stats import binomtest

    return float(binomtest(lost, lost + gained).pvalue) if lost + gained else 1.0


def tango(lost: int, gained: int, n: int) -> tuple[float, float]:
    """The interval of the rate after minus the rate before: Tango's score interval (Stat. Med. 17, 1998).

    Unlike a bootstrap's it has a width where nothing flipped: z^2 / (n + z^2) to either side.
    """
    if n < 1 or lost < 0 or gained < 0 or lost + gained > n:
        raise ValueError("flips are items: none below 0, and together no more than there are")
    z = NormalDist().inv_cdf((1 + LEVEL) / 2)

    def score(delta: float) -> float:
        """(gained - lost - n delta) over its standard error under that delta; falls as delta grows."""
        b = -gained - lost + (2 * n - gained + lost) * delta
        c = -lost * delta * (1 - delta)
        q = (math.sqrt(max(0.0, b * b - 8 * n * c)) - b) / (4 * n)
        variance = n * (2 * q + delta * (1 - delta))
        away = gained - lost - n * delta
        return away / math.sqrt(variance) if variance > 1e-300 else math.copysign(math.inf, away) if away else 0.0

    middle = (gained - lost) / n
    return _root(lambda d: score(d) - z, -1.0, middle), _root(lambda d: score(d) + z, middle, 1.0)


def _root(falling: Callable[[float], float], low: float, high: float) -> float:
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if falling(middle) > 0 else (low, middle)
    return (low + high) / 2
