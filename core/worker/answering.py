"""The process that answers the service's questions: one model, kept open, one answer at a time, told step by step.

    python -m core.worker.answering DATA_FOLDER

Frames on stdin: ("ask", number, Question) and ("leave", number) when nobody waits for that answer any more. Frames on
stdout: (number, Said), as it happens: a step's text leaves when the step has ended, so that its time is the client's,
too. An answer holds the machine as a run does (core.runs.measuring). Leaves when its stdin ends.
"""

from __future__ import annotations

import os
import queue
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Literal

import msgspec
import numpy as np
from msgspec import Meta

from core import engine, plugins
from core.analysis.decoding import agreed
from core.models.identity import stamp
from core.runs.companions import same_tokenizer
from core.runs.measuring import BusyError, answering
from core.types import (
    Counts,
    Generate,
    GenerationConfig,
    PhaseName,
    Record,
    Request,
    Session,
    chat_templates,
    counted,
    opened,
    raw,
    to_json,
    together,
)
from core.worker import frames
from core.worker.drive import drive
from core.worker.ends import Ends
from core.worker.generate import TooLongError, check_opened, dialogue, template_of
from core.worker.journal import Cancelled
from core.worker.sessions import Opened, Sessions
from core.worker.stop_texts import StopTexts
from core.worker.subject import ModelUnderTest
from core.worker.text import TextStream
from hardware.errors import ExplorerError

WHAT = "an answer of the service"
Int64 = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]  # what crosses a pipe


class Question(Record):
    """request: what opens the model and decodes; its task is a Generate with the dialogue or the text.

    ids: the prompt as token ids, in place of the task's text. limit: new tokens; None: as many as there is room for.
    seed: of the sampling; the request's own is the model's (random weights). top: log-probabilities of the answer's
    tokens, with so many alternatives for each; None: none. echo: those of the prompt's tokens as well.
    do: "encode" asks for the ids of the task's prompt (opening: with what the tokenizer puts before a text), "decode"
    for the text of ids, "about" for what the model's tokenizer says of itself.
    """

    request: Request
    ids: tuple[Int64, ...] | None = None
    limit: Int64 | None = None
    stop: tuple[str, ...] = ()
    seed: Annotated[int, Meta(ge=0, le=2**63 - 1)] = 0
    top: Int64 | None = None
    echo: bool = False
    do: Literal["answer", "encode", "decode", "about"] = "answer"
    opening: bool = True


class Told(Record, tag="told"):
    """The model is being opened."""

    note: str


class Began(Record, tag="began"):
    """The prompt is known and fits; reading it begins. load_s: seconds that the library took; 0 when it was open."""

    n_prompt: int
    load_s: float


class Piece(Record, tag="piece"):
    """A step has ended. text: new, may be empty; ids: its tokens; n_tokens, n_forward: of the answer so far."""

    text: str
    ids: tuple[int, ...]
    n_tokens: int
    n_forward: int


class Likely(Record, array_like=True):
    """A token of prompt or answer, its text, its log-probability (nats; None for the first of a text), the likeliest
    tokens in its place, and how many characters stand before it; parts of one character all begin where it does."""

    id: int
    text: str
    logprob: float | None
    top: tuple[tuple[str, float], ...]
    at: int = 0


class Ended(Record, tag="ended"):
    """The answer is whole. text: what was held back. ttft_s: of the steps to the first token; seconds: of those after.

    counts: of all steps, the prompt's too. n_guessed, n_right: tokens that were guessed, and that were right.
    likely: of the prompt's tokens (echo) and the answer's, where they were asked for. prompt: its text, for an echo.
    """

    finish: Literal["stop", "length"]
    text: str
    n_prompt: int
    n_tokens: int
    ttft_s: float
    seconds: float
    counts: Counts
    n_guessed: int
    n_right: int
    likely: tuple[Likely, ...] | None = None
    prompt: str = ""


class Value(Record, tag="value"):
    """What was asked for beside answers."""

    value: Any


class Refused(Record, tag="refused"):
    """There will be no answer. why: the request cannot be answered; the machine is taken; nobody waits; it failed."""

    message: str
    hint: str
    why: Literal["request", "context", "busy", "left", "failed"] = "request"


Said = Told | Began | Piece | Ended | Value | Refused
LAST = (Ended, Value, Refused)


class Relay:
    """core.worker.journal.Witness for one question: what is said goes to whoever asked it."""

    def __init__(self, say: Callable[[Said], None], gone: Callable[[], bool]) -> None:
        self._say, self._gone = say, gone
        self.processes: tuple[int, ...] = ()

    def phase(
        self, name: PhaseName, note: str = "", done: float | None = None, total: float | None = None, unit: str = ""
    ) -> None:
        self.stop_if_asked()
        self._say(Told(note=note))

    def warn(self, message: str) -> None:
        print(message, file=sys.stderr)

    def stop_if_asked(self) -> None:
        if self._gone():
            raise Cancelled


class Open:
    """The model that is open, found again without a look at the catalogue while the same one is asked for."""

    def __init__(self) -> None:
        self._sessions = Sessions()
        self._last: tuple[bytes, Opened] | None = None

    def __call__(self, request: Request, relay: Relay) -> tuple[Opened, float]:
        """The open model, and the seconds that the library took; 0 when it was open."""
        key = to_json(msgspec.structs.replace(request, task=Generate()))
        if self._last is not None:
            known, found = self._last
            if known == key and stamp(found.wanted.entry.files) == found.wanted.files:
                return found, 0.0
        self._last = None
        found = self._sessions.open(request, relay)
        for draft in found.companions.values():
            same_tokenizer(found.session, draft, "")
        self._last = key, found
        return found, found.seconds

    def close(self) -> None:
        self._last = None
        self._sessions.close()


# ---------------------------------------------------------------- an answer


def answer(question: Question, there: Opened, load_s: float, say: Callable[[Said], None], relay: Relay) -> Ended:
    """Answer step by step. Raises ExplorerError for what cannot be answered, Cancelled when nobody waits any more."""
    request, task, session = question.request, question.request.task, there.session
    assert isinstance(task, Generate)
    drafts = tuple(there.companions.values())
    ids = _prompt(question, task, session)
    limit = max(1, session.max_context - len(ids)) if question.limit is None else question.limit
    task = msgspec.structs.replace(task, max_new_tokens=limit)
    check_opened(request, task, there.wanted.strategy, session, np.array([ids], dtype=np.int64))
    if question.top is not None and "forward" not in session.capabilities:
        raise ExplorerError("This model gives no log-probabilities here.", "Ask without logprobs and echo.")
    say(Began(n_prompt=len(ids), load_s=load_s))
    told = _Telling(session, question.stop, say)
    scored = question.top is not None and question.echo
    alone = scored and limit == 1 and task.sampling.temperature <= 0  # scoring the prompt tells that token, too
    ended = False
    if limit and not alone:
        stop = frozenset[int]() if task.ignore_eos else frozenset(session.eos_ids)
        config = GenerationConfig(limit=limit, sampling=task.sampling, seed=question.seed, stop=stop)
        prompt = np.array([ids], dtype=np.int64)
        steps: Any = there.wanted.strategy.decode(session, prompt, config, there.wanted.params, *drafts)
        ends = Ends(1, stop)
        try:
            for advance, seconds, ran in drive(steps, session, *drafts):
                rows = ends.up_to_end(advance.tokens)
                told.step(rows[0] if rows else (), advance.guess, seconds, counted(ran, session.spec.n_blocks))
                if told.stops.found:
                    break
                relay.stop_if_asked()
        finally:
            steps.close()
        ended = told.stops.found or not ends.going
    likely = None
    if question.top is not None:
        likely = _likely(there, ids, None if alone else told.ids, question, relay)
        if alone:
            told.step((likely[-1].id,), (), 0.0, Counts())
            ended = told.stops.found or (likely[-1].id in session.eos_ids and not task.ignore_eos)
    return told.end(ended, ids, likely, question.echo)


class _Telling:
    """What has been said of an answer."""

    def __init__(self, session: Session, stop: Sequence[str], say: Callable[[Said], None]) -> None:
        self._session, self._say = session, say
        self._text, self.stops = TextStream(session), StopTexts(stop)
        self.ids: list[int] = []
        self._ttft_s = self._seconds = 0.0
        self._counts: list[Counts] = []
        self._guessed = self._right = 0

    def step(self, tokens: Sequence[int], guess: Sequence[int], seconds: float, counts: Counts) -> None:
        """A step's tokens, one by one up to a stop text: what a step of many tokens said behind it is no answer."""
        known, text = len(self.ids), ""
        for token in tokens:
            self.ids.append(token)
            text += self.stops.add(self._text.add((token,)))
            if self.stops.found:
                break
        if known:
            self._seconds += seconds
        else:
            self._ttft_s += seconds
        self._counts.append(counts)
        self._guessed += len(guess)
        new = tuple(self.ids[known:])
        self._right += agreed(guess, new)
        if new:
            n_forward = sum(c.forwards for c in self._counts)
            self._say(Piece(text=text, ids=new, n_tokens=len(self.ids), n_forward=n_forward))

    def end(self, ended: bool, prompt: Sequence[int], likely: tuple[Likely, ...] | None, echo: bool) -> Ended:
        return Ended(
            finish="stop" if ended else "length",
            text=self.stops.rest(),
            n_prompt=len(prompt),
            n_tokens=len(self.ids),
            ttft_s=self._ttft_s,
            seconds=self._seconds,
            counts=msgspec.structs.replace(together(self._counts), tokens=len(self.ids)),
            n_guessed=self._guessed,
            n_right=self._right,
            likely=likely,
            prompt=self._session.decode(prompt) if echo else "",
        )


def _prompt(question: Question, task: Generate, session: Session) -> list[int]:
    if question.ids is not None:
        wrong = [i for i in question.ids if not 0 <= i < session.spec.vocab_size]
        if wrong:
            raise ExplorerError(
                f"{wrong[0]} is not a token of this model, which has {session.spec.vocab_size}.",
                "Send ids of its own tokenizer, or text.",
            )
        return list(question.ids)
    if not task.chat:
        return opened(session, task.prompt or "")
    text = dialogue(session, task)
    return session.encode(text) if template_of(session, task) else raw(session, text)


def _likely(
    there: Opened, prompt: Sequence[int], answered: Sequence[int] | None, question: Question, relay: Relay
) -> tuple[Likely, ...]:
    """Log-probabilities by one more reading of prompt and answer. answered: None for the greedy token behind both."""
    session, top = there.session, question.top or 0
    whole = [*prompt, *([0] if answered is None else answered)]  # the last token is never fed
    first = 1 if question.echo else len(prompt)
    subject = ModelUnderTest(session, None, there.wanted.strategy, there.wanted.params, check=relay.stop_if_asked)
    found = [Likely(id=prompt[0], text=session.decode(prompt[:1]), logprob=None, top=())] if question.echo else []
    place, stream = first, TextStream(session)
    at = sum(len(stream.add((row.id,))) for row in found)
    for rows in subject.logprobs(session, whole, first) if first < len(whole) else ():
        for row in rows:
            best = np.argpartition(row, -max(1, top))[-max(1, top) :]
            best = best[np.argsort(-row[best], kind="stable")]
            token = int(best[0]) if answered is None and place == len(prompt) else whole[place]
            likeliest = tuple((session.decode([int(i)]), float(row[i])) for i in best[:top])
            text = session.decode([token])
            found.append(Likely(id=token, text=text, logprob=float(row[token]), top=likeliest, at=at))
            at += len(stream.add((token,)))
            place += 1
    session.ran.clear()
    return tuple(found)


def beside(question: Question, there: Opened) -> Value:
    """What is asked for beside answers."""
    session, task = there.session, question.request.task
    assert isinstance(task, Generate)
    if question.do == "decode":
        return Value(value=session.decode(_prompt(question, task, session)))
    if question.do == "encode":
        plain = not task.chat and not question.opening
        ids = session.encode(task.prompt or "") if plain else _prompt(question, task, session)
        return Value(value={"tokens": ids, "max_context": session.max_context})
    return Value(
        value={
            "bos_token": session.bos_token or None,
            "eos_token": session.eos_token or None,
            "eos_ids": sorted(session.eos_ids),
            "chat_template": session.chat_template,
            "chat_templates": sorted(chat_templates(session)),
            "max_context": session.max_context,
            "vocab_size": session.spec.vocab_size,
        }
    )


# ---------------------------------------------------------------- the process


def serve(root: Path, inbox: Iterator[tuple[int, Any]], left: set[int], out: BinaryIO) -> None:
    """Answer one question after the other. inbox: each as plain values."""
    there = Open()
    for number, told in inbox:

        def say(said: Said, number: int = number) -> None:
            frames.send(out, (number, said))

        relay = Relay(say, lambda number=number: number in left)  # type: ignore[misc]
        try:
            question = msgspec.convert(told, type=Question)
        except msgspec.ValidationError as error:
            say(Refused(message=f"The question cannot be understood: {error}.", hint="Ask otherwise."))
            continue
        try:
            with answering(root, WHAT):
                model, load_s = there(question.request, relay)
                last = (
                    answer(question, model, load_s, say, relay) if question.do == "answer" else beside(question, model)
                )
            say(last)  # the machine is free before anybody hears of the end
        except Cancelled:
            say(Refused(message="Nobody waits for it.", hint="", why="left"))
        except BusyError as error:
            say(Refused(message=error.message, hint=error.hint, why="busy"))
        except TooLongError as error:
            say(Refused(message=error.message, hint=error.hint, why="context"))
        except ExplorerError as error:
            say(Refused(message=error.message, hint=error.hint))
        except BrokenPipeError:
            return
        except Exception as error:
            traceback.print_exc()
            there.close()  # its state is unknown now
            first = (str(error).strip().splitlines() or ["no message"])[0][:300].rstrip(".")
            message = (
                f"{plugins.label('backend', question.request.backend)} stopped with {type(error).__name__}: {first}."
            )
            say(Refused(message=message, hint="Try another dtype, option or backend.", why="failed"))
        left.discard(number)


def main(root: str) -> None:
    engine.hide_besides()
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print goes with what they complain
    questions: queue.Queue[tuple[int, Any]] = queue.Queue()
    left: set[int] = set()

    def listen() -> None:
        while (frame := frames.receive(sys.stdin.buffer)) is not None:
            kind, number, *rest = frame[0]
            if kind == "leave":
                left.add(number)
            else:
                questions.put((number, rest[0]))
        os._exit(0)

    threading.Thread(target=listen, daemon=True).start()
    serve(Path(root), iter(questions.get, None), left, out)


if __name__ == "__main__":
    main(sys.argv[1])
