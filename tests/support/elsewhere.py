"""Calls a function in a child process, where an engine may be loaded that is not this process's own.

    elsewhere.call("pytorch", logits, folder, ids)

The function stands at the top level of a module, imports its library inside, and takes and gives what can be
pickled. A child has the name of its engine or of its work; it is started once and kept, so that a second call costs
nothing. In a test which is marked with that engine the call is made at once, in the test's own process.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import ParamSpec, TypeVar

from tests.support.engines import become, own

WAIT_S = 540  # an ONNX export of the embedded model on a busy machine
P = ParamSpec("P")
T = TypeVar("T")

_children: dict[str, ProcessPoolExecutor] = {}


def call(child: str, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """function(*args, **kwargs) in that child. What it raises is raised here."""
    if child == own():
        return function(*args, **kwargs)
    if child not in _children:
        _children[child] = ProcessPoolExecutor(
            1, mp_context=multiprocessing.get_context("spawn"), initializer=become, initargs=(child,)
        )
    try:
        return _children[child].submit(function, *args, **kwargs).result(timeout=WAIT_S)
    except BrokenProcessPool:
        del _children[child]
        raise
