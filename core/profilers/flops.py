"""FLOPs of one forward pass of each phase, counted by the library's own operators instead of the architecture.

Its pass only learns the shapes: the counting runs afterwards, forwards of its own outside every step.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, Literal

from core.types import Counted, Phase, Profiler, Session, Step, Warned, counting
from hardware.errors import ExplorerError


class FlopsAttachment:
    def __init__(self, session: Session, pass_no: int) -> None:
        self._session, self._pass_no = session, pass_no
        self._n_prompt = 0  # without the guesses that a strategy puts behind it, which do not stay
        self._fed = 0
        self._step: tuple[int, int] | None = None  # (new, past) tokens of the first forward that decodes
        self._closed = False

    def phase(self, name: Literal["prefill", "decode"]) -> None:
        pass

    def step(self, step: Step) -> None:
        if step.phase == "prefill":
            self._fed += step.counts.inputs
            self._n_prompt = min(self._fed, step.n_context or self._fed)  # 0: a model without a cache
        elif self._step is None and step.counts.forwards:
            self._step = max(1, step.counts.inputs // step.counts.forwards), self._n_prompt

    def events(self) -> Iterator[Any]:
        """What is counted, before it is; then the count."""
        if not self._closed or not self._n_prompt:
            return
        forwards: dict[Literal["prefill", "decode"], tuple[int, int]] = {"prefill": (self._n_prompt, 0)}
        if self._step:
            forwards["decode"] = self._step
        for i, (phase, (n_new, n_past)) in enumerate(forwards.items()):
            note, now_s = f"counting the operators of {phase}", time.perf_counter()
            yield Phase(t_s=now_s, name="profiling", note=note, done=i, total=len(forwards), unit="phases")
            try:
                count = counting(self._session).count(n_new, n_past)
            except ExplorerError as error:
                yield Warned(t_s=time.perf_counter(), message=f"FLOPs of {phase} not counted: {error.message}")
            else:
                yield Counted(t_s=time.perf_counter(), pass_no=self._pass_no, phase=phase, count=count)

    def close(self) -> None:
        self._closed = True


class Flops:
    name = "flops"
    label = "FLOP check"
    needs = frozenset({"count"})
    single = False
    limit: int | None = 2  # the prompt, and one step of decoding

    def unavailable(self) -> str | None:
        return None

    def attach(self, session: Session, pass_no: int) -> FlopsAttachment:
        return FlopsAttachment(session, pass_no)


plugin: Profiler = Flops()
