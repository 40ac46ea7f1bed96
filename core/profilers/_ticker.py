"""A function called at intervals from a thread of its own, while something else runs."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Ticker:
    """Calls `tick` every `every_s` seconds, the first time after that long, until it is stopped."""

    def __init__(self, tick: Callable[[], object], every_s: float) -> None:
        self._tick, self._every_s = tick, every_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.wait(self._every_s):
            self._tick()

    def stop(self) -> bool:
        """No call comes after this. Whether it was still going."""
        if self._stop.is_set():
            return False
        self._stop.set()
        self._thread.join()
        return True
