"""The questions that a training learns from: written as steps need them, and kept for a training that goes on.

A domain can be asked for twenty thousand questions, of which a training of some minutes sees some hundreds; writing
all of them first would take longer than many trainings.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from core.domains import Question, Stream
from core.types import Job
from hardware.errors import ExplorerError

FILE = "questions.jsonl"
CHUNK = 32  # questions that are written at a time


class _Chunk(msgspec.Struct):
    """of: whose questions they are. state: of the stream after them."""

    of: str
    questions: list[Question]
    state: list[Any]


class Questions:
    """Up to n questions of a domain to learn from, and beside them `held_out`, up to n_held_out and a fifth of all.

    Kept in job.folder as they are written. Raises ExplorerError for a domain that is none or has nothing to learn from.
    """

    def __init__(self, domain: str, n: int, n_held_out: int, job: Job) -> None:
        self._job, self._of = job, f"{domain} {job.seed}"
        self._file: Path | None = job.folder / FILE
        self._known, self._stream = _kept(job.folder / FILE, domain, job.seed)
        most, size = n + n_held_out, self._stream.size
        self._n = most if size is None else min(most, size)
        self._first = min(n_held_out, self._n // 5)
        if self._n == self._first:
            raise ExplorerError(f"'{domain}' has no prompts to train on.", "Add questions to the file.")
        job.progress("Writing the first questions")
        self._reach(self._first)
        self.held_out = self._known[: self._first]

    def __iter__(self) -> Iterator[Question]:
        """Those to learn from, each written when it is asked for; without what its answer is judged by.

        A prompt that is held out is none of them, however often a file has it.
        """
        held_out = {q.prompt.strip() for q in self.held_out}
        for i in range(self._first, self._n):
            self._reach(i + 1)
            if self._known[i].prompt.strip() not in held_out:
                yield self._known[i]

    def all(self) -> list[Question]:
        """All of them at once, and how far that is."""
        n, found = self._n - self._first, list[Question]()
        for question in self:
            if len(found) % CHUNK == 0:
                self._job.progress("Writing the questions", len(found), n, "questions")
            found.append(question)
        return found

    def _reach(self, n: int) -> None:
        while len(self._known) < n:
            start = len(self._known)
            made = self._stream.take(min(CHUNK, self._n - start))
            assert made, "the stream is shorter than it says"
            made = [
                q if start + i < self._first else msgspec.structs.replace(q, databases=()) for i, q in enumerate(made)
            ]
            self._known += made
            self._keep(made)

    def _keep(self, made: list[Question]) -> None:
        """A full disk costs the time of a second writing, nothing else; half a line is passed over."""
        state = self._stream.state
        if state is None or self._file is None:
            return
        try:
            with self._file.open("ab") as file:
                file.write(msgspec.json.encode(_Chunk(self._of, made, state)) + b"\n")
        except OSError:
            self._file = None


def _kept(file: Path, domain: str, seed: int) -> tuple[list[Question], Stream]:
    """What was written before, and the stream behind it. What cannot be read is written again."""
    known: list[Question] = []
    state: list[Any] | None = None
    stream = Stream(domain, "train", seed)
    if stream.size is not None or not file.is_file():
        return known, stream
    whole = b""
    try:
        for line in file.read_bytes().splitlines(keepends=True):
            chunk = msgspec.json.decode(line, type=_Chunk)
            if chunk.of != f"{domain} {seed}" or not line.endswith(b"\n"):
                break
            whole, state = whole + line, chunk.state
            known += chunk.questions
    except (OSError, msgspec.DecodeError):
        pass
    try:
        stream = Stream(domain, "train", seed, known, state)
    except ValueError:
        known, whole = [], b""
    part = file.with_suffix(".part")
    try:
        part.write_bytes(whole)
        os.replace(part, file)
    except OSError:
        part.unlink(missing_ok=True)
    return known, stream
