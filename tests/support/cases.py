"""Where the small files lie that broke other programs, `../shared/data/cases`; its README is the table of answers. And
what a backend answers to a prompt, opened as a run opens it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core import plugins
from core.models import artifacts, spec
from core.runs.check import check
from core.types import Generate, Request, Session, raw
from core.worker.generate import dialogue, template_of
from hardware.errors import ExplorerError
from tests.support import elsewhere
from tests.support.progress import silent
from tests.support.traced import once_each

_PLACES = [folder / "shared" / "data" / "cases" for folder in Path(__file__).resolve().parents]
CASES = next((place for place in _PLACES if place.is_dir()), _PLACES[-1])

needed = pytest.mark.skipif(not CASES.is_dir(), reason="the cases are not here")


def asked(backend: str, path: str | Path, task: Generate) -> dict[str, Any]:
    """What a run of the model at `path` would answer: checked and converted as there, in the process of PyTorch."""
    try:
        wanted = check(Request(model=str(path), backend=backend, task=task, threads=1, options=small(backend)))
        with once_each():
            fmt, place = artifacts.provide(wanted.entry, wanted.backend.formats, silent, alone=True)
    except ExplorerError as error:
        return refused(error)
    return elsewhere.call(backend, answered, backend, place, fmt, wanted.request)


def answered(backend: str, place: str, fmt: str, request: Request) -> dict[str, Any]:
    """A greedy answer, a token at a time: the prompt as it is read, its ids, the new ids; or what refused it."""
    task = request.task
    assert isinstance(task, Generate)
    try:
        session: Session = plugins.get("backend", backend).open(place, spec.read(place, fmt), request, silent)
    except ExplorerError as error:
        return refused(error)
    try:
        text = dialogue(session, task)
        ids = session.encode(text) if template_of(session, task) else raw(session, text)
        new: list[int] = []
        fed = ids
        while len(new) < task.max_new_tokens and not (new and new[-1] in session.eos_ids):
            new.append(int(session.forward(np.array([fed]), keep=1).argmax()[0, 0]))
            session.commit(len(fed))
            fed = new[-1:]
        return {"text": text, "ids": ids, "new": new, "ends": sorted(session.eos_ids), "warnings": session.warnings}
    except ExplorerError as error:
        return refused(error)
    finally:
        session.close()


def refused(error: ExplorerError) -> dict[str, Any]:
    return {"refused": f"{error.message} {error.hint}", "message": error.message, "hint": error.hint}


def small(backend: str) -> dict[str, Any]:
    """Options with a context that needs little memory."""
    return {"n_ctx": 256} if backend == "llama_cpp" else {}
