"""Clocks for nested spans: each counts its own time, without that of the spans inside it.

Knows CPU time stamps and device events. Knows nothing of layers or hooks.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from time import perf_counter_ns
from typing import Any, Protocol

MAX_OPEN_EVENTS = 20_000  # resolve device events before they pile up


class Total(Protocol):
    """What a span's own time is added to."""

    seconds: float


class HostClock:
    """For a CPU, where a call returns when the work is done.

    call_ns: what PyTorch spends to call a hooked module, outside its hooks. It would count as work
    of the module around it and is taken off there.
    """

    def __init__(self, call_ns: int = 0) -> None:
        self._call_ns = call_ns
        self._frames: list[list[int]] = []  # [entered, started, nanoseconds not its own]

    def enter(self) -> None:
        entered = perf_counter_ns()
        self._frames.append([entered, 0, 0])
        self._frames[-1][1] = perf_counter_ns()

    def mark(self) -> int:
        return perf_counter_ns()

    def leave(self, total: Total, ended: int) -> None:
        entered, started, not_own = self._frames.pop()
        total.seconds += max(0, ended - started - not_own) * 1e-9
        if self._frames:  # neither the child nor our own work inside the parent is the parent's
            self._frames[-1][2] += perf_counter_ns() - entered + self._call_ns

    def clear(self) -> None:
        self._frames.clear()

    def resolve(self) -> None:
        pass


class DeviceClock:
    """For an accelerator, which runs behind: events in its queue, read when somebody asks."""

    def __init__(self, event: Callable[[], Any], sync: Callable[[], None]) -> None:
        self._event, self._sync = event, sync
        self._frames: list[tuple[Any, list[int]]] = []  # start event, indices of the named children
        self._spans: list[tuple[Any, Any, Total, list[int]]] = []

    def enter(self) -> None:
        self._frames.append((self.mark(), []))

    def mark(self) -> Any:
        event = self._event()
        event.record()
        return event

    def leave(self, total: Total, ended: Any) -> None:
        started, children = self._frames.pop()
        if self._frames:
            self._frames[-1][1].append(len(self._spans))
        self._spans.append((started, ended, total, children))
        if not self._frames and len(self._spans) > MAX_OPEN_EVENTS:
            self.resolve()

    def clear(self) -> None:
        self._frames.clear()

    def resolve(self) -> None:
        self._sync()
        seconds = [started.elapsed_time(ended) * 1e-3 for started, ended, _, _ in self._spans]
        for whole, (_, _, total, children) in zip(seconds, self._spans, strict=True):
            total.seconds += max(0.0, whole - sum(seconds[i] for i in children))
        self._spans.clear()


def clock_for(device: str, sync: Callable[[], None]) -> HostClock | DeviceClock:
    """The clock of a PyTorch device."""
    import torch

    if device.startswith("cuda"):
        return DeviceClock(partial(torch.cuda.Event, enable_timing=True), sync)
    if device.startswith("mps"):
        return DeviceClock(partial(torch.mps.Event, enable_timing=True), sync)
    return HostClock(_call_ns())


class _Sample:
    def __init__(self) -> None:
        self.seconds = 0.0


def _call_ns() -> int:
    """Time of a module around one that does nothing: PyTorch's cost of calling a hooked module; the median."""
    from torch import empty, nn

    samples: list[_Sample] = []
    clock = HostClock()

    def leave(*_: Any) -> None:
        ended = clock.mark()
        samples.append(_Sample())
        clock.leave(samples[-1], ended)

    around = nn.Sequential(nn.Identity())
    for module in around.modules():
        module.register_forward_pre_hook(lambda *_: clock.enter())
        module.register_forward_hook(leave)
    for _ in range(100):
        around(empty(1))
    return int(sorted(sample.seconds for sample in samples[1::2])[50] * 1e9)
