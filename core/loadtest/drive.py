"""Puts load on a server, one level at a time: threads that ask, and one that keeps the time and writes down what came.

Warming up never drains: the same users go on, the same arrivals keep coming, and from one moment on it counts. What is
still under way when a level is over is dropped, by closing its connection, so that the server stops too.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Protocol

from core.loadtest.arrivals import arrivals, starts
from core.loadtest.events import CLIENT, Answered, Ended, Event, Opened, Outcome
from core.loadtest.lengths import Ask
from core.loadtest.plan import Plan

LOOK_S = 0.05  # between two looks at the clock
PAUSE_S = 0.25  # of a user after a failure: a server that refuses at once is not to be asked a thousand times a second
MOST_UNDER_WAY = 1024
LEAVE_S = 5.0  # for threads to notice that their connection was dropped
_FULL = f"{MOST_UNDER_WAY} requests were under way, and this client sends no more at once."
_log = logging.getLogger(__name__)


class Call(Protocol):
    """One request to a server."""

    def perform(self, due_s: float | None, zero_s: float) -> Outcome:
        """From its beginning to its end, in this thread. due_s: since zero_s, when the level began."""

    def close(self) -> None:
        """Drop it, from any thread."""


class Server(Protocol):
    """Where requests go."""

    @property
    def about(self) -> str:
        """What it is, in words."""

    def call(self, ask: Ask) -> Call:
        """The request, which goes out when it is performed."""

    def plainer(self) -> Server | None:
        """The same one, asked without what it may refuse; None where that is no way out."""


class StoppedError(Exception):
    """The user wants no more of it, or its time is over. why: "stopped" or "clock"."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


class Level:
    """One level under way. tell: takes its events. halt: gives a reason to stop, or None.

    t_s: seconds since the test was asked for. asks: where requests come from; they go on from one level to the
    next, so that no prompt comes twice.
    """

    def __init__(
        self,
        plan: Plan,
        number: int,
        load: float,
        server: Server,
        asks: Iterator[Ask],
        tell: Callable[[Event], None],
        halt: Callable[[], str | None],
        t_s: Callable[[], float],
    ) -> None:
        self._plan, self._number, self._load, self._server = plan, number, load, server
        self._asks, self._tell, self._halt, self._t_s = asks, tell, halt, t_s
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._done: queue.SimpleQueue[Outcome] = queue.SimpleQueue()
        self._running: set[Call] = set()
        self._left = plan.max_requests
        self._used_up_s: float | None = None  # when the last request that is allowed went out
        self._owed = 0  # requests that are due in the window and have not ended, sent or not (open loop)
        self._without = set(range(int(load))) if plan.mode == "closed" else set()  # users without an answer yet
        self._user_of: dict[int, int] = {}
        self._zero_s = time.perf_counter()

    def run(self) -> Ended:
        """Blocks until the level is over. Raises StoppedError, and what interrupts it, after having told its end."""
        plan = self._plan
        makers = self._open_loop() if plan.mode == "open" else self._closed_loop()
        open_s: float | None = None
        close_s: float | None = None
        cpu_s, cpu_used_s = 0.0, None
        why, waiting = "time", 0
        try:
            while True:
                self._drain()
                now = self._now()
                if (reason := self._halt()) is not None:
                    raise StoppedError(reason)
                if open_s is None and self._warm(now):
                    open_s = plan.warmup_s if plan.mode == "open" else now
                    cpu_s, waiting = time.process_time(), len(self._without)
                    self._tell(Opened(t_s=self._t_s(), level=self._number, at_s=open_s))
                used_up = self._used_up_s
                if open_s is not None and close_s is None and now >= open_s + plan.window_s:
                    close_s, cpu_used_s = open_s + plan.window_s, time.process_time() - cpu_s
                elif close_s is None and used_up is not None:
                    why = "requests"
                    close_s, cpu_used_s = used_up, None if open_s is None else time.process_time() - cpu_s
                if close_s is not None and self._settled(open_s, close_s, now):
                    break
                if close_s is None and not any(m.is_alive() for m in makers) and not self._running:
                    why, close_s = "requests", now
                    break
                time.sleep(LOOK_S)
        except BaseException as stop:
            why = stop.why if isinstance(stop, StoppedError) else "stopped"
            if open_s is not None and close_s is None:
                close_s, cpu_used_s = self._now(), time.process_time() - cpu_s
            raise
        finally:
            self._leave(makers)
            ended = Ended(
                t_s=self._t_s(),
                level=self._number,
                close_s=close_s if close_s is not None else self._now(),
                cpu_s=cpu_used_s,
                why=why,
                waiting=waiting,
            )
            self._tell(ended)
        return ended

    # ------------------------------------------------------------ the two kinds of load

    def _closed_loop(self) -> list[threading.Thread]:
        delays = starts(int(self._load), min(self._plan.warmup_s, 10.0) / 2)
        return [self._thread(self._user, n, delay) for n, delay in enumerate(delays)]

    def _user(self, number: int, delay_s: float) -> None:
        """Ask, wait for the answer, ask again."""
        if self._over.wait(delay_s):
            return
        while not self._over.is_set() and (ask := self._next()) is not None:
            with self._lock:
                self._user_of[ask.number] = number
            if self._one(ask, None).failure:
                self._over.wait(PAUSE_S)

    def _open_loop(self) -> list[threading.Thread]:
        plan = self._plan
        seconds = plan.warmup_s + plan.window_s + plan.grace_s
        due = arrivals(self._load, seconds, plan.burstiness, plan.seed)
        self._owed = sum(map(self._in_window, due))
        return [self._thread(self._send_when_due, due)]

    def _send_when_due(self, due: tuple[float, ...]) -> None:
        """Each at its absolute time, whatever is still unanswered."""
        for due_s in due:
            if self._over.wait(max(0.0, due_s - self._now())):
                return
            if (ask := self._next()) is None:
                return
            if len(self._running) >= MOST_UNDER_WAY:
                self._done.put(_ours(ask, due_s, self._now(), self._now(), _FULL))
            else:
                self._thread(self._one, ask, due_s)

    # ------------------------------------------------------------ one request

    def _next(self) -> Ask | None:
        """The next request; None when no more are allowed."""
        with self._lock:
            if self._left <= 0:
                return None
            self._left -= 1
            if not self._left:
                self._used_up_s = self._now()
            return next(self._asks)

    def _one(self, ask: Ask, due_s: float | None) -> Outcome:
        began_s = self._now()
        call = self._server.call(ask)
        with self._lock:
            self._running.add(call)
            dropped = self._over.is_set()
        if dropped:
            call.close()
        try:
            outcome = call.perform(due_s, self._zero_s)
        except Exception as error:  # a fault of ours must not silence a user
            _log.exception("A request failed in an unknown way")
            outcome = _ours(ask, due_s, began_s, self._now(), f"This client failed: {type(error).__name__}.")
        finally:
            with self._lock:
                self._running.discard(call)
        self._done.put(outcome)
        return outcome

    # ------------------------------------------------------------ the clock

    def _warm(self, now: float) -> bool:
        """Whether the window may open: in closed loop every user has had an answer, or that takes far too long."""
        plan = self._plan
        if now < plan.warmup_s:
            return False
        return not self._without or now >= plan.warmup_s + plan.window_s

    def _settled(self, open_s: float | None, close_s: float, now: float) -> bool:
        """Whether nothing is waited for any more: in open loop for what was due in the window, while load goes on."""
        if self._plan.mode == "closed" or open_s is None:
            return True
        with self._lock:
            left = self._owed > 0 and (self._used_up_s is None or bool(self._running))
        return not left or now >= close_s + self._plan.grace_s

    def _in_window(self, due_s: float) -> bool:
        return self._plan.warmup_s <= due_s < self._plan.warmup_s + self._plan.window_s

    def _drain(self) -> None:
        while True:
            try:
                outcome = self._done.get_nowait()
            except queue.Empty:
                return
            with self._lock:
                self._owed -= outcome.scheduled_s is not None and self._in_window(outcome.scheduled_s)
                user = self._user_of.pop(outcome.index, None)
                if user is not None and not outcome.failure:
                    self._without.discard(user)
            self._tell(Answered(t_s=self._t_s(), level=self._number, outcome=outcome))

    def _leave(self, makers: list[threading.Thread]) -> None:
        """Drop every connection, wait for the threads to notice, and write down what they had."""
        self._over.set()
        until = time.perf_counter() + LEAVE_S
        while time.perf_counter() < until:
            with self._lock:
                running = tuple(self._running)
            for one in running:
                one.close()
            if not running and not any(m.is_alive() for m in makers):
                break
            time.sleep(LOOK_S / 5)
        self._drain()

    def _now(self) -> float:
        return time.perf_counter() - self._zero_s

    def _thread(self, work: Callable[..., object], *given: object) -> threading.Thread:
        """Daemons: a server that keeps silent does not keep this process from ending."""
        thread = threading.Thread(target=work, args=given, daemon=True)
        thread.start()
        return thread


def _ours(ask: Ask, due_s: float | None, began_s: float, now: float, words: str) -> Outcome:
    """A request that failed for a reason of this client's own."""
    return Outcome(
        index=ask.number,
        begun_s=began_s,
        ended_s=now,
        scheduled_s=due_s,
        asked_tokens=ask.answer_tokens,
        failure=CLIENT,
        reason=words,
    )
