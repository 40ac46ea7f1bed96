"""Calls a function in a child process, where an engine may be loaded that is not this process's own.

    elsewhere.call("pytorch", logits, folder, ids)

The function stands at the top level of a module, imports its library inside, and takes and gives what can be
pickled. A child has the name of its engine or of its work; it is started once and kept, so that a second call costs
nothing. In a test which is marked with that engine the call is made at once, in the test's own process.
"""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from types import ModuleType
from typing import ParamSpec, TypeVar

from core.engine import hide_besides
from tests.support.engines import become, own

WAIT_S = 540  # an ONNX export of the embedded model on a busy machine
P = ParamSpec("P")
T = TypeVar("T")

_children: dict[str, ProcessPoolExecutor] = {}

# Its processes are forks of one that has loaded PyTorch, which is started when the first of them is.
torch_loaded = multiprocessing.get_context("forkserver")
torch_loaded.set_forkserver_preload(["tests.support.torch_loaded"])


def call(child: str, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """function(*args, **kwargs) in that child. What it raises is raised here."""
    if child == own():
        return function(*args, **kwargs)
    if child not in _children:
        context = torch_loaded if child == "pytorch" else multiprocessing.get_context("spawn")
        _children[child] = ProcessPoolExecutor(1, mp_context=context, initializer=_begin, initargs=(child,))
    try:
        with no_main():
            future = _children[child].submit(function, *args, **kwargs)
        return future.result(timeout=WAIT_S)
    except BrokenProcessPool:
        del _children[child]
        raise


def _begin(child: str) -> None:
    """In a new child: as in the product's processes of PyTorch, nothing is imported that no run has use for."""
    become(child)
    hide_besides()


@contextmanager
def no_main() -> Iterator[None]:
    """A child that is started meanwhile does not run this process's main file, which may be a page of the app."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
