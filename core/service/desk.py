"""The queue before the model: one answer at a time, so many may wait, the rest is sent away with a time to come back.

The model's process is started with the first question, kept while questions want the same model, and replaced when
they want another one or when it has died. Whoever asked may leave at any time: an answer that nobody waits for ends
between two steps.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections import deque
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec

from core import plugins
from core.bounds import checked
from core.runs.check import check
from core.runs.exit_reason import explained
from core.service.answerer import Answerer
from core.service.problems import ProblemError
from core.service.tally import Tally
from core.types import Generate, Request, Scalar, to_json
from core.worker.answering import LAST, Began, Ended, Piece, Question, Refused, Said, Value
from hardware.errors import ExplorerError

INSIST_S = 10.0  # after which a process that does not notice that nobody waits is killed
FIRST_GUESS_S = 5.0  # how long an answer takes, before there was one
MOST_RETRY_S = 600
BUSY_RETRY_S = 5
_log = logging.getLogger(__name__)


class Asking:
    """A question that was asked. Its times are seconds of time.perf_counter; None: not yet."""

    def __init__(self, question: Question, number: int, desk: Desk) -> None:
        self.question, self.number = question, number
        self.is_left = False
        self.asked_s = time.perf_counter()
        self.begun_s: float | None = None
        self.first_s: float | None = None
        self.last_s: float | None = None
        self.n_first = 0  # tokens of the first step
        self.n_prompt = 0
        self._desk = desk
        self._said: asyncio.Queue[Said] = asyncio.Queue()

    def hear(self, said: Said) -> None:
        """What the process has said of it."""
        now = time.perf_counter()
        if isinstance(said, Began):
            self.begun_s, self.n_prompt = now, said.n_prompt
        elif isinstance(said, Piece):
            if self.first_s is None:
                self.first_s, self.n_first = now, said.n_tokens
            self.last_s = now
        self._said.put_nowait(said)

    async def begun(self) -> Began | Value:
        """Waits for its turn and for the model. Raises ProblemError when it is refused."""
        while True:
            said = await self._next()
            if isinstance(said, Began | Value):
                return said

    async def rest(self) -> AsyncIterator[Piece | Ended]:
        """The answer step by step, then its end. Raises ProblemError when it breaks off."""
        while True:
            said = await self._next()
            if isinstance(said, Piece | Ended):
                yield said
            if isinstance(said, Ended):
                return

    async def _next(self) -> Said:
        said = await self._said.get()
        if isinstance(said, Refused):
            raise _problem(said)
        return said

    def leave(self) -> None:
        """Nobody waits for it any more. May be called at any time, behind its end too."""
        if not self.is_left:
            self.is_left = True
            self._desk.left(self)


class Desk:
    """Over a data folder. depth: how many may wait beside the one that is being answered."""

    def __init__(self, root: Path, depth: int) -> None:
        self.tally = Tally()
        self._root, self._depth = root, depth
        self._waiting: deque[Asking] = deque()
        self._wake = asyncio.Event()
        self._going: Asking | None = None
        self._number = 0
        self._answerer: Answerer | None = None
        self._key = b""
        self._advised: dict[bytes, dict[str, Scalar]] = {}  # options without which a model's process died
        self._work: asyncio.Task[None] | None = None

    @property
    def running(self) -> int:
        return int(self._going is not None)

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def pid(self) -> int | None:
        """Of the model's process, if there is one."""
        return self._answerer.pid if self._answerer is not None else None

    def start(self) -> None:
        """Begin to answer; in a running event loop."""
        self._work = asyncio.create_task(self._answer_all())

    async def close(self) -> None:
        """End the process and whatever it is doing."""
        if self._work is not None:
            self._work.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._work
        await self._end_process()

    def ask(self, question: Question) -> Asking:
        """Put a question into the queue.

        Raises ProblemError for one with a figure out of its bounds, and, with when to come back, when it is full.
        """
        try:
            checked(question, "the question", "Change it, or leave it out.")
        except ExplorerError as error:
            raise ProblemError(400, error.message, error.hint) from None
        ahead = self.waiting + self.running
        if ahead > self._depth:
            self.tally.sent_away += 1
            seconds = math.ceil(ahead * self.tally.answered_s(FIRST_GUESS_S))
            raise ProblemError(
                503,
                f"{ahead} questions are in the queue already.",
                "Ask again later; the header Retry-After says when.",
                retry_after_s=max(1, min(MOST_RETRY_S, seconds)),
            )
        self._number += 1
        asking = Asking(question, self._number, self)
        self._waiting.append(asking)
        self._wake.set()
        return asking

    def left(self, asking: Asking) -> None:
        """Nobody waits for this one any more."""
        with contextlib.suppress(ValueError):
            self._waiting.remove(asking)
        if self._going is asking and self._answerer is not None:
            self._answerer.leave(asking.number)
            asyncio.get_running_loop().call_later(INSIST_S, self._insist, asking)

    # ------------------------------------------------------------ one after the other

    async def _answer_all(self) -> None:
        while True:
            while not self._waiting:
                self._wake.clear()
                await self._wake.wait()
            self._going = self._waiting.popleft()
            try:
                await self._answer(self._going)
            except ExplorerError as error:
                self._going.hear(Refused(message=error.message, hint=error.hint))
            except OSError as error:
                self._going.hear(
                    Refused(message=f"No process could be started: {error}.", hint="Ask again.", why="failed")
                )
            except Exception as error:  # a fault of ours ends this answer, and not all that come after it
                _log.exception("An answer failed in an unknown way")
                message = f"The service failed: {type(error).__name__}."
                self._going.hear(Refused(message=message, hint="Its own output has the details.", why="failed"))
            finally:
                self._going = None

    async def _answer(self, asking: Asking) -> None:
        request, retried = asking.question.request, False
        while True:
            key = _key(request)
            options = {**request.options, **self._advised.get(key, {})}
            asked = msgspec.structs.replace(request, options=options)
            answerer = await self._process_for(key, asked)
            if asking.is_left:
                return
            answerer.ask(asking.number, msgspec.structs.replace(asking.question, request=asked))
            if await self._hear(answerer, asking):
                return
            code = await self._end_process()
            advice = plugins.get("backend", request.backend).signal_advice.get(-code)
            if advice is None or retried or asking.begun_s is not None:
                message, hint = explained(code, request.backend, "The model's process")
                left = asking.is_left
                asking.hear(Refused(message=message, hint=hint, why="left" if left else "failed"))
                self.tally.ended["abort" if left else "error"] += 1
                return
            self._advised[key], retried = advice[2], True

    async def _hear(self, answerer: Answerer, asking: Asking) -> bool:
        """Pass on what the process says of a question, to its end; False when the process is gone before."""
        while (frame := await answerer.said.get()) is not None:
            number, said = frame
            if number != asking.number:
                continue
            asking.hear(said)
            if isinstance(said, LAST):
                self._count(asking, said)
                return True
        return False

    def _count(self, asking: Asking, said: Said) -> None:
        tally = self.tally
        if isinstance(said, Refused) and said.why in ("left", "failed"):
            tally.ended["abort" if said.why == "left" else "error"] += 1
        if not isinstance(said, Ended):
            return
        tally.ended[said.finish] += 1
        tally.prompt_tokens += said.n_prompt
        tally.generation_tokens += said.n_tokens
        tally.forwards += said.counts.forwards
        tally.guessed += said.n_guessed
        tally.right += said.n_right
        begun_s, first_s, last_s = asking.begun_s, asking.first_s, asking.last_s
        if begun_s is None or first_s is None or last_s is None:
            return
        tally.times["request_queue_time_seconds"].add(begun_s - asking.asked_s)
        tally.times["time_to_first_token_seconds"].add(first_s - asking.asked_s)
        tally.times["e2e_request_latency_seconds"].add(last_s - asking.asked_s)
        if said.n_tokens > asking.n_first:
            per_token_s = (last_s - first_s) / (said.n_tokens - asking.n_first)
            tally.times["request_time_per_output_token_seconds"].add(per_token_s)

    async def _process_for(self, key: bytes, request: Request) -> Answerer:
        """The process that has this model open, or will. Raises ExplorerError when it cannot run here."""
        if self._answerer is not None and self._answerer.alive and self._key == key:
            return self._answerer
        await asyncio.to_thread(check, msgspec.structs.replace(request, task=Generate(prompt="x")))
        await self._end_process()
        self._answerer, self._key = Answerer(self._root, request.threads), key
        return self._answerer

    async def _end_process(self) -> int:
        """Its exit status; 0 when there was none."""
        answerer, self._answerer = self._answerer, None
        return await asyncio.to_thread(answerer.close) if answerer is not None else 0

    def _insist(self, asking: Asking) -> None:
        if self._going is asking and self._answerer is not None:
            self._answerer.kill()


def _key(request: Request) -> bytes:
    """Of what a process has open: strategies of one model share it."""
    return to_json(msgspec.structs.replace(request, task=Generate(), strategy="autoregressive", params={}))


def _problem(refused: Refused) -> ProblemError:
    message, hint = refused.message, refused.hint
    match refused.why:
        case "busy":
            return ProblemError(503, message, hint, retry_after_s=BUSY_RETRY_S)
        case "context":
            return ProblemError(400, message, hint, param="max_tokens", code="context_length_exceeded")
        case "failed":
            return ProblemError(500, message, hint)
        case "left":
            return ProblemError(499, message, hint)
    return ProblemError(400, message, hint)
