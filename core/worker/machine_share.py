"""What is written down of how a pass, or an evaluation, shared the machine."""

from __future__ import annotations

import os

from core.types import Disturbance, Request
from core.worker.journal import Journal
from hardware.detect import usable_cores
from hardware.load import Load


def disturbance(shared: Load, request: Request, journal: Journal, pass_no: int | None = None) -> Disturbance:
    """The event; pass_no None: of an evaluation."""
    return Disturbance(
        t_s=journal.now(),
        pass_no=pass_no,
        seconds=shared.seconds,
        n_cores=os.cpu_count() or usable_cores(),
        n_threads=n_threads(request),
        cpu_s=shared.cpu_s,
        waited_s=shared.waited_s,
        others_s=shared.others_s,
        stolen_s=shared.stolen_s,
        stops=shared.stops,
    )


def n_threads(request: Request) -> int:
    """How many threads compute."""
    return request.threads or usable_cores()
