"""Carries out a load test: asks once to see that the server answers, then level by level, or as a search goes on.

Holds the machine like a run does, so that two measurements never meet. Every event is in the folder before the next
level begins.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from core.endpoints.client_server import COUNTED
from core.loadtest.drive import LOOK_S, Level, Server, StoppedError
from core.loadtest.events import OURS, Began, Broken, Done, Event, Outcome, Told
from core.loadtest.lengths import Ask, asks, read_rows
from core.loadtest.level import counts
from core.loadtest.load_store import LoadTest
from core.loadtest.plan import Plan, check, expected_s, named, order
from core.loadtest.report import Report, levels
from core.loadtest.search import Answer, Probe, answer, following, saturated
from core.runs import screens
from core.runs.measuring import measuring
from core.types import to_json
from hardware.errors import ExplorerError, of_disk

RESERVE_BYTES = 64 * 1024  # freed at the end, so that a test on a full disk can still say so
FEWEST_FAILURES = 3  # of a level, that all failed
DRAW_EVERY_S = 3.0  # screens, while the server is measured on the machine that draws them
Say = Callable[[str], None]


def conduct(root: Path, test: LoadTest, server: Callable[[Plan], Server], say: Say = lambda _: None) -> Report:
    """Do it, in this process. root: the data folder. server: makes the one that the plan means.

    A failure becomes the test's own end and is raised; what was measured is kept. Ctrl-C is told as a stop, and raised.
    """
    try:
        with (
            _Carrier(root, test, say) as carrier,
            measuring(root, f"the load test {test.id}", test.id, asks_service=test.about.local),
        ):
            carrier.perform(server)
    except OSError as error:
        raise _of_disk(error) from error
    return test.report()


class _Carrier:
    """Writes a test's events, and goes from level to level."""

    def __init__(self, root: Path, test: LoadTest, say: Say) -> None:
        self._root, self._test, self._say = root, test, say
        self._about = test.about
        self._plan = self._about.plan
        self._zero_s = time.perf_counter() - test.elapsed_s()
        self._reserve = test.path / "reserve"
        try:
            self._reserve.write_bytes(bytes(RESERVE_BYTES))
            self._file = (test.path / "events.jsonl").open("ab", buffering=0)
        except OSError as error:
            self._reserve.unlink(missing_ok=True)
            raise _of_disk(error) from error
        self._until = time.perf_counter() + 60 * self._plan.max_minutes
        self._number = 0
        self._ended = False

    def __enter__(self) -> _Carrier:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: object) -> None:
        if self._about.local and (note := screens.rest(self._root)) is not None and note.run == self._test.id:
            screens.end(self._root)
        with contextlib.suppress(OSError):
            self._reserve.unlink(missing_ok=True)
        with contextlib.suppress(OSError), self._file:
            if isinstance(error, OSError):
                told = _of_disk(error)
                self._tell(Broken(t_s=self._t_s(), message=told.message, hint=told.hint))
            elif isinstance(error, ExplorerError):
                self._tell(Broken(t_s=self._t_s(), message=error.message, hint=error.hint))
            elif isinstance(error, KeyboardInterrupt):
                self._tell(Done(t_s=self._t_s(), stopped=True))
            elif error is not None:
                words = f"The load generator failed: {type(error).__name__}."
                self._tell(Broken(t_s=self._t_s(), message=words, hint="Its log has the details."))

    def perform(self, make: Callable[[Plan], Server]) -> None:
        """All levels. A stop that the user asked for is no failure."""
        plan = self._plan
        check(plan)
        drawn = asks(plan.prompt, plan.answer, read_rows(plan.dataset), plan.seed, self._test.id)
        server = make(plan)
        try:
            server = self._try_once(server, drawn)
            if self._about.local:
                with contextlib.suppress(OSError):
                    screens.begin(self._root, self._test.id, expected_s(plan), DRAW_EVERY_S)
            self._search(server, drawn) if plan.find else self._sweep(server, drawn)
        except StoppedError as stop:
            if stop.why == "clock":
                self._words(f"The limit of {plan.max_minutes:g} minutes was reached.")
            self._tell(Done(t_s=self._t_s(), stopped=stop.why != "clock"))
            return
        self._tell(Done(t_s=self._t_s()))

    def _try_once(self, server: Server, drawn: Iterator[Ask]) -> Server:
        """One request before all others: it loads the model, and says in a sentence what is wrong with the server.

        Returns the server to go on with: one that refuses our extra fields is asked without them.
        """
        self._words(server.about)
        found = self._asked(server, next(drawn))
        plainer = server.plainer() if found.failure == "request" else None
        if plainer is not None:
            server, found = plainer, self._asked(plainer, next(drawn))
            self._words("The server refuses fields beside the standard: answers may end early, and caches may help it.")
        if found.failure:
            raise ExplorerError(f"The server did not answer a first request: {found.reason}", "")
        if found.e2e_s is not None:
            counted = f"; tokens are {COUNTED[found.counted_by]}" if found.counted_by else "; nobody counts tokens"
            self._words(f"A first request took {found.e2e_s:.2f} s and does not count{counted}.")
        return server

    def _asked(self, server: Server, ask: Ask) -> Outcome:
        """One request, which a stop drops."""
        self._say("Asking once")
        call, came = server.call(ask), queue.SimpleQueue[Outcome]()
        threading.Thread(target=lambda: came.put(call.perform(None, time.perf_counter())), daemon=True).start()
        try:
            while True:
                if (reason := self._halt()) is not None:
                    raise StoppedError(reason)
                with contextlib.suppress(queue.Empty):
                    return came.get(timeout=LOOK_S)
        finally:
            call.close()

    def _sweep(self, server: Server, drawn: Iterator[Ask]) -> None:
        plan = self._plan
        highest: float | None = None
        for load, repeat in order(plan):
            if highest is not None and load > highest:
                continue
            self._level(server, drawn, load, repeat)
            self._alive()
            if plan.at_saturation == "stop" and repeat == 0 and highest is None and self._saturated(load):
                highest = load
                left = [level for level in plan.levels if level > load]
                if left:
                    names = ", ".join(f"{level:g}" for level in left)
                    self._words(f"{named(load, plan.unit)} brought no more throughput: {names} left out.")

    def _alive(self) -> None:
        """Raises ExplorerError where the last level had nothing but failures: the server is gone, or refuses all."""
        last = levels(self._test.events(), self._plan.mode)[-1]
        where, found = named(last.load, self._plan.unit), counts(last)
        ended = found or [o for o in last.outcomes if o.failure != OURS]
        if len(ended) >= FEWEST_FAILURES and all(o.failure for o in ended):
            raise ExplorerError(f"Every request failed at {where}: {ended[-1].reason}", "Higher loads were left out.")
        if not found:
            self._words(f"{where}: no request ended inside the window. Make it longer.")

    def _saturated(self, load: float) -> bool:
        points = {m.point.load: m.point for m in self._test.report().points}
        lower = [p for p in points if p < load]
        return bool(lower) and load in points and saturated(points[max(lower)], points[load])

    def _search(self, server: Server, drawn: Iterator[Ask]) -> None:
        plan = self._plan
        tried: dict[float, Probe] = {}
        while True:
            probes = tuple(tried.values())
            load = following(probes, plan.levels[0], plan.levels[-1], plan.mode == "closed")
            if load is None:
                return
            for repeat in range(max(2, plan.repeats)):
                self._level(server, drawn, load, repeat, probe=True)
                told = self._answer(load)
                tried[load] = Probe(load, told)
                if told != "unclear" and repeat + 1 >= plan.repeats:
                    break
            self._say(f"{named(load, plan.unit)}: {tried[load].answer}")

    def _answer(self, load: float) -> Answer:
        found = next((m.point for m in self._test.report().points if m.point.load == load), None)
        return "missed" if found is None else answer(found, self._plan.objectives.share)

    def _level(self, server: Server, drawn: Iterator[Ask], load: float, repeat: int, probe: bool = False) -> None:
        plan, number = self._plan, self._number
        self._number += 1
        again = f", repeat {repeat + 1}" if repeat else ""
        self._say(f"{named(load, plan.unit)}{again}")
        self._tell(Began(t_s=self._t_s(), level=number, load=load, repeat=repeat, probe=probe))
        level = Level(plan, number, load, server, drawn, self._tell, self._halt, self._t_s)
        ended = level.run()
        if ended.why == "requests":
            self._words(f"{named(load, plan.unit)}: the limit of {plan.max_requests:,} requests ended the level early.")

    def _halt(self) -> str | None:
        if self._test.cancel_requested:
            return "stopped"
        return "clock" if time.perf_counter() > self._until else None

    def _words(self, words: str) -> None:
        self._say(words)
        self._tell(Told(t_s=self._t_s(), words=words))

    def _tell(self, event: Event) -> None:
        self._file.write(to_json(event) + b"\n")

    def _t_s(self) -> float:
        return time.perf_counter() - self._zero_s


def _of_disk(error: OSError) -> ExplorerError:
    """What was measured so far is kept."""
    return of_disk(error) or ExplorerError(f"A file could not be used: {error}.", "Check the path and its permissions.")
