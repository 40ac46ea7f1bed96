"""Why a process that ran a model ended, in words. Knows exit statuses and signals; nothing of runs."""

from __future__ import annotations

import signal

from core import plugins

LOG_LINES = 20  # of what the process printed last, which go with the reason


def explained(code: int, backend: str, who: str = "The worker") -> tuple[str, str]:
    """Message and hint for a process that ended with `code` (negative: a signal). who: the process, for the message."""
    label = plugins.label("backend", backend)
    reasons: dict[int, tuple[str, str]] = {
        signal.SIGKILL: (
            f"{who} was killed, most likely because the memory ran out.",
            "Choose a smaller model, dtype, batch or context; what was measured so far is kept.",
        ),
        signal.SIGILL: (
            f"{label} used an instruction that this processor does not have.",
            "Install the library anew from requirements.txt so that it is built for this machine.",
        ),
        signal.SIGABRT: (
            f"{label} ended itself, because something in the model or in the options breaks one of its own rules.",
            "The last lines of the run's log name the rule; try another backend, other options or another file.",
        ),
        signal.SIGSEGV: (
            f"{label} crashed inside its native code.",
            "Try other options or another backend; the run's log has the last lines.",
        ),
    }
    if code < 0 and -code in reasons:
        return reasons[-code]
    if code < 0:
        return f"{who} ended by {signal.Signals(-code).name}.", "Run again; what was measured is kept."
    return f"{who} ended early with status {code}.", "The run's log has the last lines."
