"""A user's own questions: one JSON object per line, with "prompt" and, as far as known, "answer", "choices", "id"
and "cluster". Reads line by line, and refuses what is too large before it is in memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import msgspec

from core.domains.questions import Question
from hardware.errors import ExplorerError
from hardware.files import UNREADABLE

MAX_LINE_BYTES = 1 << 20
MAX_QUESTIONS = 200_000
EXAMPLE = '{"prompt": "What is 2 + 2?", "answer": "4"}'


class Line(msgspec.Struct):
    prompt: Annotated[str, msgspec.Meta(min_length=1)]
    answer: str | int | float | None = None
    choices: tuple[str, ...] = ()
    id: str | int | None = None
    cluster: str | int | None = None


def read(path: str, limit: int | None = None) -> list[Question]:
    """The first `limit` questions of a file. Unnamed ones are called by their line.

    Where no cluster is given, all with one prompt are one: asked twice is no further evidence, nor is what was trained
    a test. Raises ExplorerError for a file that cannot be read, has no prompts, a malformed line, an id that comes
    twice, or an answer that is not among the choices.
    """
    questions: list[Question] = []
    seen: set[str] = set()
    first: dict[str, str] = {}  # cluster of each prompt
    for n, line in _lines(path):
        if limit is not None and len(questions) >= limit:
            break
        if len(questions) >= MAX_QUESTIONS:
            raise ExplorerError(f"'{path}' has more than {MAX_QUESTIONS} questions.", "Split the file.")
        question = _question(path, n, line, first)
        if question.id in seen:
            raise ExplorerError(f"Line {n} of '{path}' has the id '{question.id}' again.", "Make every id different.")
        seen.add(question.id)
        questions.append(question)
    if not questions:
        raise ExplorerError(f"'{path}' has no prompts.", f"Write one JSON object per line, such as {EXAMPLE}")
    return questions


def _lines(path: str) -> Iterator[tuple[int, bytes]]:
    """Numbered lines that are not blank."""
    file_path = Path(path).expanduser()
    if not file_path.is_file():
        raise ExplorerError(f"There is no file '{path}'.", "Give the path of a .jsonl file.")
    try:
        with file_path.open("rb") as file:
            n = 0
            while line := file.readline(MAX_LINE_BYTES + 1):
                n += 1
                if len(line) > MAX_LINE_BYTES:
                    raise ExplorerError(f"Line {n} of '{path}' is longer than 1 MiB.", "Shorten the prompt.")
                if line.removeprefix(b"\xef\xbb\xbf").strip():
                    yield n, line.removeprefix(b"\xef\xbb\xbf")
    except OSError as error:
        raise ExplorerError(f"'{path}' cannot be read: {error.strerror}.", "Check its permissions.") from None


def _question(path: str, n: int, text: bytes, first: dict[str, str]) -> Question:
    try:
        line = msgspec.json.decode(text, type=Line)
    except UNREADABLE as error:
        message = f"Line {n} of '{path}' is malformed: {error}."
        raise ExplorerError(message, f"Write one JSON object per line, such as {EXAMPLE}") from None
    if not line.prompt.strip():
        raise ExplorerError(f"The prompt in line {n} of '{path}' is empty.", "Write a prompt or remove the line.")
    answer = None if line.answer is None else str(line.answer)
    if not all(choice.strip() for choice in line.choices):
        raise ExplorerError(f"A choice in line {n} of '{path}' is empty.", "Write it or leave it out.")
    if line.choices and (len(set(line.choices)) < 2 or answer not in line.choices):
        raise ExplorerError(
            f"The answer in line {n} of '{path}' is not one of at least two choices.",
            "Repeat the right choice as the answer, word for word.",
        )
    identity = str(n) if line.id is None else str(line.id)
    cluster = first.setdefault(line.prompt.strip(), identity) if line.cluster is None else str(line.cluster)
    return Question(id=identity, cluster=cluster, prompt=line.prompt, answer=answer, choices=line.choices)
