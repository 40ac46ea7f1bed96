"""v(k): what a forward pass of k tokens costs after the prompt. It decides whether guessing several tokens pays.

A forward is timed as a decoder uses it: the best token of every row is read, one token is kept and the others are
dropped, which in some engines copies the cache, and the next forward is of the same size. The first of such a series
is not counted: after another size it takes longer, in a forward of one token most of all. The forwards are run when
the pass's steps are over, on the cache they left, and every one is taken back. Series are interleaved, so that what
the machine does meanwhile falls on all sizes.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np

from core.types import ForwardCost, ForwardTime, Phase, Profiler, Session, Step, Warned
from hardware.errors import ExplorerError

SIZES = (1, 2, 4, 8, 16, 32, 64)
SERIES, LENGTH = 6, 4  # of each size; forwards after each other, without the first
BUDGET_S = 30.0  # no further round is begun after it


class ForwardCostAttachment:
    def __init__(self, session: Session, pass_no: int) -> None:
        self._session, self._pass_no = session, pass_no
        self._closed = False
        self._rng = np.random.default_rng(0)

    def phase(self, name: Literal["prefill", "decode"]) -> None:
        pass

    def step(self, step: Step) -> None:
        pass

    def events(self) -> Iterator[Any]:
        """How far it is, before every round; then what it found."""
        if not self._closed:
            return
        n_past = self._session.n_committed
        if not n_past:
            yield _warned("this strategy keeps no cache to measure on")
            return
        try:
            yield from self._measure(n_past, [n for n in SIZES if n_past + LENGTH + n <= self._session.max_context])
        except ExplorerError as error:
            yield _warned(error.message.rstrip("."))

    def _measure(self, n_past: int, sizes: list[int]) -> Iterator[Phase | ForwardCost | Warned]:
        if not sizes:
            yield _warned("the context is full")
            return
        seconds: dict[int, list[float]] = {n: [] for n in sizes}
        began = time.perf_counter()
        note = f"forward passes of {sizes[0]} to {sizes[-1]} tokens"
        for number in range(SERIES):
            now_s = time.perf_counter()
            yield Phase(t_s=now_s, name="profiling", note=note, done=number, total=SERIES, unit="rounds")
            for n in sizes:
                seconds[n] += self._series(n)
            if time.perf_counter() - began > BUDGET_S:
                break
        times = []
        for n, found in seconds.items():
            low, median, high = (float(x) for x in np.quantile(found, (0.25, 0.5, 0.75)))
            times.append(ForwardTime(n=n, seconds=median, low_s=low, high_s=high))
        yield ForwardCost(
            t_s=time.perf_counter(), pass_no=self._pass_no, n_past=n_past, repeats=len(found), times=tuple(times)
        )

    def _series(self, n: int) -> list[float]:
        """Seconds of forwards of n tokens, one behind the other; the session is then as before."""
        kept = int("rewind" in self._session.capabilities)
        seconds = []
        for ids in self._rng.integers(0, self._session.spec.vocab_size, (1 + LENGTH, 1, n)):
            started = time.perf_counter()
            self._session.forward(ids).argmax()
            self._session.commit(kept)
            self._session.sync()
            seconds.append(time.perf_counter() - started)
        if kept:
            self._session.rewind(kept * len(seconds))
        return seconds[1:]

    def close(self) -> None:
        self._closed = True


def _warned(why: str) -> Warned:
    return Warned(t_s=time.perf_counter(), message=f"The cost of a forward pass was not measured: {why}.")


class ForwardCosts:
    name = "forward_cost"
    label = "Cost of a forward pass"
    needs = frozenset({"forward", "cache", "rollback"})
    single = True
    limit: int | None = 2  # the prompt and one step; the rest is run here

    def unavailable(self) -> str | None:
        return None

    def attach(self, session: Session, pass_no: int) -> ForwardCostAttachment:
        return ForwardCostAttachment(session, pass_no)


plugin: Profiler = ForwardCosts()
