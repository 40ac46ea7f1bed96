"""Time per layer and operator, through the session's own trace, in a pass of its own."""

from __future__ import annotations

import time
from typing import Any, Literal

from core.types import LayerTimes, Profiler, Session, Step

EVERY_S = 0.4  # how often the live bars get new rows


class LayersAttachment:
    def __init__(self, session: Session, pass_no: int) -> None:
        self._trace, self._pass_no = session.trace(), pass_no
        self._seconds: dict[str, float] = {}
        self._steps: dict[str, int] = {}
        self._phase: Literal["prefill", "decode"] = "prefill"
        self._since_s = 0.0
        self._closed = False

    def phase(self, name: Literal["prefill", "decode"]) -> None:
        self._phase = name
        self._trace.phase(name)

    def step(self, step: Step) -> None:
        self._seconds[self._phase] = self._seconds.get(self._phase, 0.0) + step.seconds
        self._steps[self._phase] = self._steps.get(self._phase, 0) + 1
        self._since_s += step.seconds

    def events(self) -> list[Any]:
        if self._since_s < EVERY_S and not self._closed:
            return []
        self._since_s = 0.0
        rows = self._trace.finish() if self._closed else self._trace.rows()
        return [
            LayerTimes(
                t_s=time.perf_counter(),
                pass_no=self._pass_no,
                phase=phase,  # type: ignore[arg-type]
                n_steps=self._steps.get(phase, 0),
                seconds_total=self._seconds.get(phase, 0.0),
                rows=found,
            )
            for phase, found in rows.items()
            if found
        ]

    def close(self) -> None:
        self._trace.finish()
        self._closed = True


class Layers:
    name = "layers"
    label = "Layer times"
    needs = frozenset({"layers"})
    single = False
    limit: int | None = None

    def unavailable(self) -> str | None:
        return None

    def attach(self, session: Session, pass_no: int) -> LayersAttachment:
        return LayersAttachment(session, pass_no)


plugin: Profiler = Layers()
