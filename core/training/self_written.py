"""Text that a model writes itself, to be learned from: made in chunks and kept, so that a stopped run has it again."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import Any

from core.training import greedy
from core.training.examples import Example
from core.types import Job
from hardware.errors import ExplorerError

CHUNK = 128  # prompts between two lines of the file


def written(
    model: Any,
    prompts: Sequence[Sequence[int]],
    end: frozenset[int],
    limit: int,
    job: Job,
    temperature: float = 0.0,
) -> list[Example]:
    """The model's continuation of every prompt, without those that only repeat a token.

    Kept in job.folder, a line for each chunk. Raises ExplorerError when the disk is full and when nothing is left.
    """
    path = job.folder / "written.jsonl"
    answers = _kept(path)
    while len(answers) < len(prompts):
        job.progress("The model writes", len(answers), len(prompts), "texts")
        job.check()
        part = prompts[len(answers) : len(answers) + CHUNK]
        seed = job.seed * 1_000_003 + len(answers)
        made = greedy.answers(model, part, end, limit, temperature=temperature, seed=seed)
        _keep(path, made)
        answers += made
    found = [Example(tuple(p), a) for p, a in zip(prompts, answers, strict=False) if a and not repeats(a)]
    if not found:
        raise ExplorerError(
            "The model's texts only repeat themselves.", "Tune the model on the domain before, with finetune."
        )
    return found


def repeats(ids: Sequence[int]) -> bool:
    """Whether one token stands ten times in a row: Consistency LLMs' reference code drops such texts."""
    return any(len(set(ids[i : i + 10])) == 1 for i in range(len(ids) - 9))


def _kept(path: Any) -> list[tuple[int, ...]]:
    """Whole lines only: a kill may have cut the last one."""
    found: list[tuple[int, ...]] = []
    if path.is_file():
        whole = path.read_text("utf-8").rpartition("\n")
        for line in whole[0].splitlines():
            found += [tuple(ids) for ids in json.loads(line)]
        path.write_text(whole[0] + whole[1], encoding="utf-8")
    return found


def _keep(path: Any, answers: Sequence[tuple[int, ...]]) -> None:
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(answers) + "\n")
    except OSError as error:
        raise ExplorerError(
            f"The texts for the training could not be kept: {os.strerror(error.errno or 0)}.",
            "Make room on the disk and start the same training again.",
        ) from error
