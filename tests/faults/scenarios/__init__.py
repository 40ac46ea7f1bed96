"""Faults that need whole processes, by what is provoked."""

from __future__ import annotations

from tests.faults.scenarios import clients, clock, interrupted, killed, memory, stopped, together

SCENARIOS = (
    *killed.ROWS,
    *stopped.ROWS,
    *clients.ROWS,
    *interrupted.ROWS,
    *clock.ROWS,
    *memory.ROWS,
    *together.ROWS,
)
