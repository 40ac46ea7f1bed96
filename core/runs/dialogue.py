"""A dialogue with several configurations at once: each has the same questions and its own answers.

Pure: a turn is a question and one run per configuration; what a configuration said is read from its runs.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from core.types import Generate, Request, Result

READING = "Answer the question from this text.\n\n{text}\n\nQuestion: {question}"


def ask(configuration: Request, question: str, text: str, before: Sequence[tuple[str, Result]]) -> Request:
    """The run that answers `question` after the dialogue so far.

    text: what the answer is to be found in; it stands before the first question. before: earlier questions with
    this configuration's results; an answer that was stopped or failed stands as far as it came.
    """
    task = configuration.task
    assert isinstance(task, Generate)
    asked = [q for q, _ in before] + [question]
    if text.strip():
        asked[0] = READING.format(text=text.strip(), question=asked[0])
    history: list[tuple[str, str]] = []
    for words, (_, result) in zip(asked, before, strict=False):
        history += [("user", words), ("assistant", result.text)]
    return msgspec.structs.replace(
        configuration, task=msgspec.structs.replace(task, prompt=asked[-1], history=tuple(history))
    )
