"""The worker's process itself."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from core.types import ModelEntry
from core.worker import sessions
from core.worker.journal import Cancelled
from hardware import child
from hardware.child import Child


def test_no_library_of_a_measuring_worker_finds_scipy_or_scikit_learn(tmp_path: Path) -> None:
    assert find_spec("scipy") is not None and find_spec("sklearn") is not None
    code = "import sys; from importlib.util import find_spec; from core.worker.worker import main; main(sys.argv[1]); "
    code += "print(find_spec('scipy'), find_spec('sklearn')); from core import engine; engine.show_besides(); "
    code += "import sklearn.metrics; print('found')"
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, input="", capture_output=True, text=True, check=True, start_new_session=True)
    assert done.stdout.split("\n")[:2] == ["None None", "found"]


class Stopped:
    """A journal whose user asks for a stop at once."""

    def phase(self, *_: Any, **__: Any) -> None:
        """Nobody looks."""

    def stop_if_asked(self) -> None:
        raise Cancelled


def test_a_stop_is_heard_while_a_conversion_says_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Child] = []

    def start(*_: Any) -> Child:
        started.append(Child("silent", []))
        return started[0]

    (tmp_path / "silent.py").write_text("import time; time.sleep(60)")
    monkeypatch.setattr(child, "ROOT", tmp_path)
    monkeypatch.setattr(sessions, "Child", start)
    entry = ModelEntry(id="m", label="m", family="local", files={"gguf": "m.gguf"})
    with pytest.raises(Cancelled):
        sessions.provide(entry, ("onnx",), Stopped())
    assert started[0].status is not None and started[0].status < 0, "it was ended"
