"""When requests are sent in open loop: absolute times, known before the first one goes out.

A generator that sleeps by difference sends late after every hiccup and thereby asks for less than it says.
"""

from __future__ import annotations

import numpy as np


def arrivals(rate: float, seconds: float, burstiness: float = 1.0, seed: int = 0) -> tuple[float, ...]:
    """Times in [0, seconds) of `rate * seconds` requests, rounded, whose gaps are gamma-distributed.

    rate: requests per second. burstiness: the gamma's shape; 1 gives a Poisson process of that many arrivals, below 1
    they come in bursts, above they are even. Scaled so that exactly that many fall into the time, as vLLM's bench does.
    """
    n = round(rate * seconds)
    if n < 1:
        return ()
    # one gap more than arrivals: given their number, a Poisson process's arrivals are then uniform in the time
    gaps = np.random.default_rng(seed).gamma(burstiness, size=n + 1)
    times = np.cumsum(gaps)
    return tuple(float(t) for t in times[:-1] / times[-1] * seconds)


def starts(users: int, seconds: float) -> tuple[float, ...]:
    """When each user of a closed loop asks first: spread over `seconds`, for all at once would be a burst of prefills
    that no steady load ever has."""
    return tuple(seconds * i / users for i in range(users))
