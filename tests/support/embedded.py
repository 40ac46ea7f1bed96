"""The model that is installed with Roofscope, in the format that a test needs; converted once per session."""

from __future__ import annotations

import os
from pathlib import Path

from core.models import artifacts, catalogue
from tests.support import elsewhere


def embedded(*formats: str) -> tuple[str, str]:
    """(format, path): the first of `formats` that it has or that can be converted."""
    entry = catalogue.find(catalogue.EMBEDDED)
    if formats[0] in entry.files:
        return formats[0], entry.files[formats[0]]
    kind, path = elsewhere.call("pytorch", provided, os.environ["ROOFSCOPE_HOME"], formats)
    return kind, str(Path(path).resolve())


def provided(home: str, formats: tuple[str, ...]) -> tuple[str, str]:
    os.environ["ROOFSCOPE_HOME"] = home
    return artifacts.provide(catalogue.find(catalogue.EMBEDDED), formats, lambda *_, **__: None, alone=True)
