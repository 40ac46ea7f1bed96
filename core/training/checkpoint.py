"""Where training stands, written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hardware.errors import ExplorerError

NAME = "checkpoint.pt"


def save(folder: Path, state: Mapping[str, Any], name: str = NAME) -> None:
    """Write beside, then rename: a kill at any moment leaves the last whole one.

    Raises ExplorerError when the disk is full; nothing half-written stays.
    """
    import torch

    part = folder / f"{name}.part"
    try:
        with part.open("wb") as file:
            torch.save(dict(state), file)
            file.flush()
            os.fsync(file.fileno())
        part.replace(folder / name)
    except (OSError, RuntimeError) as error:  # torch wraps the error of a write in one of its own
        part.unlink(missing_ok=True)
        cause = _os_error(error)
        if cause is None:
            raise
        raise ExplorerError(
            f"A checkpoint of the training could not be written: {os.strerror(cause.errno or 0)}.",
            "Make room on the disk and start the same training again: it goes on from its last checkpoint.",
        ) from error


def load(folder: Path, name: str = NAME) -> dict[str, Any] | None:
    """What was saved last; None without a checkpoint or with one that cannot be read."""
    import torch

    path = folder / name
    if not path.is_file():
        return None
    try:
        found: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # a damaged file raises many kinds
        return None
    return found


def _os_error(error: BaseException | None) -> OSError | None:
    while error is not None:
        if isinstance(error, OSError):
            return error
        error = error.__cause__ or error.__context__
    return None
