"""Questions about a configuration that transformers answers, asked of it in a process of its own.

A library of that weight is never imported here (core.engine). Its answers are kept in the cache under the question, the
configuration and the library's version. Knows nothing of what is asked.
"""

from __future__ import annotations

import importlib.util
import json
import math
import time
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from core.models.artifact_cache import key_of
from core.paths import cache_dir
from hardware.child import Child

_LIMIT_S = 120.0  # for a library that never answers; importing it takes seconds


class NoAnswerError(Exception):
    """Why the library gave none: not installed, or what it said of the configuration."""


def release() -> str:
    """The library's version. Raises NoAnswerError where it is not installed."""
    try:
        found = version("transformers")
    except PackageNotFoundError:
        found = ""
    if not found or importlib.util.find_spec("transformers") is None:
        raise NoAnswerError("transformers, which has the defaults, is not installed")
    return found


def knows(model_type: str) -> bool:
    """Whether the installed library has a configuration of this name, read in its table without importing it."""
    return f'("{model_type}", "' in _table()


@lru_cache(maxsize=1)
def _table() -> str:
    spec = importlib.util.find_spec("transformers")
    found = ""
    for place in spec.submodule_search_locations or () if spec else ():
        for file in sorted((Path(place) / "models" / "auto").glob("*auto*.py")):
            found += file.read_text(encoding="utf-8", errors="replace") if file.stem.startswith(_TABLES) else ""
    return found


_TABLES = ("auto_mappings", "configuration_auto")


def answer(values: Any) -> str:
    """The line that a module prints. A number that JSON lacks (infinity) is null: `ask` could not read it."""
    return json.dumps({"values": _finite(json.loads(json.dumps(values, default=str)))})


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(v) for key, v in value.items()}
    if isinstance(value, list):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@lru_cache(maxsize=64)
def ask(module: str, revision: int, config: str) -> dict[str, Any]:
    """What `python -m module FILE` says of a configuration (JSON text): from the cache, or from a process.

    The module prints {"values": ...} or {"reason": ...}. revision: raised when its answer changes.
    """
    kept = cache_dir() / "defaults" / f"{key_of(module, revision, release(), config)}.json"
    try:
        found = json.loads(kept.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = None
    if not isinstance(found, dict):
        found = _from_process(module, config)
        kept.parent.mkdir(parents=True, exist_ok=True)
        part = kept.with_suffix(f".{key_of(time.time_ns())}")
        part.write_text(json.dumps(found), encoding="utf-8")
        part.replace(kept)
    return dict(found)


def _from_process(module: str, config: str) -> dict[str, Any]:
    with TemporaryDirectory() as folder:
        file = Path(folder) / "config.json"
        file.write_text(config, encoding="utf-8")
        deadline = time.monotonic() + _LIMIT_S
        with Child(module, [str(file)], hush=True) as child:
            for line in child.messages():
                if line and isinstance(line.get("values"), dict):
                    return dict(line["values"])
                if line and "reason" in line:
                    raise NoAnswerError(str(line["reason"]))
                if time.monotonic() > deadline:
                    break
        raise NoAnswerError(child.last_error or "transformers gave no answer")
