"""Work that goes on in a thread of the app's process, so that it survives reruns, pages and reloads."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from hardware.errors import ExplorerError


@dataclass(kw_only=True)
class Background:
    """note: what it does now. error: what ended it. stop: set when it shall end early, and for the work to obey."""

    note: str = "Starting"
    error: ExplorerError | None = None
    stop: threading.Event = field(default_factory=threading.Event)
    thread: threading.Thread | None = None

    @property
    def active(self) -> bool:
        return self.thread is not None and self.thread.is_alive()

    def begin(self, work: Callable[[], None], what: str) -> None:
        """what: comes of the work and is kept on the disk, as a sentence begins with it."""

        def guarded() -> None:
            try:
                work()
            except ExplorerError as error:
                self.error = error
            except OSError as error:
                self.error = ExplorerError(f"{what} could not be kept: {error.strerror}.", "Free some disk space.")

        self.thread = threading.Thread(target=guarded, daemon=True)
        self.thread.start()
