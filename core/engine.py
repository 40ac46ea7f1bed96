"""One native engine per process: PyTorch, ONNX Runtime and llama.cpp never meet in one.

Each sets up the processor for itself. On one with AMX a thread's tile registers keep the form that the last library
gave them, and the next library's product then dies of an illegal instruction, or is wrong without a word. So a process
claims its engine before it loads one, and a second one lives in a process of its own.

Knows the libraries' names; loads none of them. It also hides what they would load beside themselves for nothing.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
import threading
from collections.abc import Callable, Iterable, Mapping

from hardware.errors import ExplorerError

# backend -> its label and the modules that hold its native code. transformers is none: it computes in torch, which it
# loads; onnx is none either: it reads and writes files.
ENGINES: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "pytorch": ("PyTorch", ("torch",)),
    "onnxruntime": ("ONNX Runtime", ("onnxruntime",)),
    "llama_cpp": ("llama.cpp", ("llama_cpp",)),
}

# transformers imports them wherever it finds them, for losses and plots that no run has: 130 MB and a second of every
# process of PyTorch.
BESIDES = ("scipy", "sklearn")

# What must be imported before a backend can open a model, where that takes seconds.
AHEAD: Mapping[str, tuple[str, ...]] = {
    "pytorch": ("torch", "transformers.modeling_utils", "transformers.models.auto.modeling_auto"),
}

_claimed: str | None = None


def claim(engine: str) -> None:
    """This process is this engine's from now on; a backend that has none (the fake) claims nothing.

    Raises ExplorerError when it is another's already, or when another's library is loaded, whoever loaded it.
    """
    global _claimed
    if engine not in ENGINES:
        return
    others = [name for name in ENGINES if name != engine and (name == _claimed or name in loaded())]
    if others:
        raise ExplorerError(
            f"This process runs {ENGINES[others[0]][0]} already, and {ENGINES[engine][0]} beside it could crash or "
            "compute wrong numbers.",
            "Run the two one after the other: each run has a process of its own.",
        )
    _claimed = engine


def import_ahead(engine: str) -> Callable[[], None]:
    """Begin to import what a backend of the claimed engine needs, while this process waits for something else.

    The function that comes back waits for the end. What cannot be imported is said where it is imported in earnest.
    """

    names = AHEAD.get(engine, ())

    def work() -> None:
        with contextlib.suppress(Exception):
            for name in names:
                importlib.import_module(name)

    if not names:
        return lambda: None
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread.join


def strangers() -> tuple[str, ...]:
    """Labels of the engines that another library brought into this process beside its own engine."""
    there = loaded()
    own = _claimed or (min(there) if there else None)
    return tuple(ENGINES[name][0] for name in sorted(there) if name != own)


def loaded() -> frozenset[str]:
    """The engines whose native code is in this process."""
    return frozenset(name for name, (_, modules) in ENGINES.items() if any(map(sys.modules.get, modules)))


def hide_besides() -> None:
    """In this process, libraries do not find what they import beside themselves for nothing."""
    _hide(BESIDES)


def hide_all() -> None:
    """Nor do they find an engine: transformers then reads configurations and tokenizers, as it does with PyTorch, and
    is there in a third of the time."""
    _hide((*BESIDES, *(module for _, modules in ENGINES.values() for module in modules)))


def _hide(names: Iterable[str]) -> None:
    for name in names:
        if name not in sys.modules:
            sys.modules[name] = None  # type: ignore[assignment]


def show_besides() -> None:
    """They are found again: lm-evaluation-harness needs them for F1 and correlations."""
    for name in BESIDES:
        if name in sys.modules and sys.modules[name] is None:
            del sys.modules[name]
