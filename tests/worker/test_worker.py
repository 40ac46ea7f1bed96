"""The worker's process itself."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path


def test_no_library_of_a_measuring_worker_finds_scipy_or_scikit_learn(tmp_path: Path) -> None:
    assert find_spec("scipy") is not None and find_spec("sklearn") is not None
    code = "import sys; from importlib.util import find_spec; from core.worker.worker import main; main(sys.argv[1]); "
    code += "print(find_spec('scipy'), find_spec('sklearn')); from core import engine; engine.show_besides(); "
    code += "import sklearn.metrics; print('found')"
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, input="", capture_output=True, text=True, check=True, start_new_session=True)
    assert done.stdout.split("\n")[:2] == ["None None", "found"]
