"""Where things live. Knows two folders and the variable that moves them; creates nothing by itself.

ROOFSCOPE_HOME, when set, holds both: its `data` and its `cache`.
"""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs


def data_dir() -> Path:
    """What cannot be made again: runs, models of one's own, devices, settings."""
    return _under_home("data") or Path(platformdirs.user_data_dir("roofscope", appauthor=False))


def cache_dir() -> Path:
    """What can be made again: files converted from models. Deleting it loses only time."""
    return _under_home("cache") or Path(platformdirs.user_cache_dir("roofscope", appauthor=False))


def _under_home(name: str) -> Path | None:
    home = os.environ.get("ROOFSCOPE_HOME")
    return Path(home).expanduser() / name if home else None
