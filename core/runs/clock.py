"""How long something has been going on, whatever steps the clock makes meanwhile.

Processes that follow each other have only the wall clock in common, and that is set right by the network, by hand, or
at the start of a machine without a clock of its own.
"""

from __future__ import annotations

import time

MOST_S = 86_400.0  # that nothing is written about what is going on


def since_s(created_s: float, last_s: float) -> float:
    """Seconds since created_s (wall clock), not before last_s, the latest moment that is known of it.

    A clock that went back, or more than a day ahead, tells nothing: then it is that latest moment.
    """
    found_s = time.time() - created_s
    return found_s if last_s <= found_s <= last_s + MOST_S else last_s
