"""The tiny model opened in a backend, for contract tests."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from core import plugins
from core.models import spec as specs
from core.types import Request, Session
from tests.support.engines import param
from tests.support.progress import silent

BACKENDS = [  # with a forward of their own; a server's answers are held in tests/endpoints
    param(name)
    for name in plugins.names("backend")
    if plugins.get("backend", name).unavailable() is None and "forward" in plugins.get("backend", name).capabilities
]


def module_of(backend: str) -> Any:
    """What tests/support/tiny knows of a backend: `make`, and maybe `TOLERANCE`."""
    return importlib.import_module(f"tests.support.tiny.{backend}")


def opened(backend: str, folder: Path, **request: Any) -> Session:
    path, fmt = module_of(backend).make(folder)
    wanted = Request(model="tiny", backend=backend, threads=1, **request)
    session: Session = plugins.get("backend", backend).open(path, specs.read(path, fmt), wanted, silent)
    return session
