"""A small model in a folder, changed to be as what people bring, and what a backend answers of it: whole ways of a run,
catalogue, check, conversion, four tokens."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from core.types import Generate
from tests.support.cases import asked

HELLO = Generate(prompt="hello", max_new_tokens=4)


def answer(backend: str, path: Path | str) -> dict[str, Any]:
    return asked(backend, path, HELLO)


def change(file: Path, drop: tuple[str, ...] = (), **values: Any) -> None:
    """The JSON file with other values, without the keys in drop; made where it is not there."""
    old = json.loads(file.read_text()) if file.is_file() else {}
    file.write_text(json.dumps({key: value for key, value in (old | values).items() if key not in drop}))


def stored(folder: Path, changed: Callable[[dict[str, Any]], dict[str, Any]], metadata: dict[str, str] | None) -> Path:
    """The folder with its weights changed. metadata: of the file."""
    from safetensors.numpy import load_file, save_file

    file = folder / "model.safetensors"
    save_file(changed(load_file(file)), file, metadata=metadata)
    return folder
