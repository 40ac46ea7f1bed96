"""The suite's own processes: which lane a file is in, and that a crash in native code costs one test."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from core.engine import ENGINES
from tests.support.engines import PLAIN, lanes_of

ROOT = Path(__file__).parents[1]
INI = "[pytest]\naddopts = -n auto -p no:cacheprovider\nmarkers = engine(name): a native engine\n"
MARK = "mark.engine"  # apart from its bracket, so that this file's own text names no engine


@pytest.mark.parametrize(
    ("text", "lanes"),
    [
        ("def test_a(): pass", {PLAIN}),
        (f'pytestmark = pytest.{MARK}("pytorch")\n@pytest.{MARK}("llama_cpp")\n', {"pytorch"}),
        (f'pytestmark = [\n    pytest.mark.model,\n    pytest.{MARK}("pytorch"),\n]\n', {"pytorch"}),
        (f'@pytest.{MARK}("llama_cpp")\ndef test_a(): pass', {PLAIN, "llama_cpp"}),
        ("params=[engines." + "param(name) for name in BACKENDS]", {PLAIN, *ENGINES}),
    ],
)
def test_a_files_lanes_are_in_its_text(text: str, lanes: set[str], tmp_path: Path) -> None:
    (tmp_path / "test_a.py").write_text(text)
    assert lanes_of(tmp_path / "test_a.py") == lanes


def suite(folder: Path, *args: str, **files: str) -> str:
    """What pytest prints about these files."""
    (folder / "pytest.ini").write_text(INI)
    (folder / "conftest.py").write_text('pytest_plugins = ("tests.support.lanes",)\n')
    for name, text in files.items():
        (folder / f"test_{name}.py").write_text(f"import os, pytest\n{text}")
    command = [sys.executable, "-m", "pytest", *args, str(folder)]
    env = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")} | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False).stdout


def test_a_crash_costs_one_test_and_a_foreign_engine_is_named(tmp_path: Path) -> None:
    (tmp_path / "onnxruntime.py").touch()  # stands in for the library
    said = suite(
        tmp_path,
        crash=f'pytestmark = pytest.{MARK}("llama_cpp")\ndef test_1(): pass\ndef test_2(): os.abort()\n'
        "def test_3(): pass\ndef test_4(): pass\n",
        plain="def test_clean(): pass\ndef test_foreign(): import onnxruntime\n",
    )
    failed = re.findall(r"^FAILED (\S+) - (.*)$", said, re.M)
    assert re.search(r"2 failed, 4 passed", said), said
    assert sorted(name for name, _ in failed) == ["test_crash.py::test_2", "test_plain.py::test_foreign"]
    assert "loaded onnxruntime" in said


def test_two_engines_in_one_process_are_refused(tmp_path: Path) -> None:
    both = f'@pytest.{MARK}("pytorch")\ndef test_a(): pass\n@pytest.{MARK}("llama_cpp")\ndef test_b(): pass\n'
    said = suite(tmp_path, "-n", "0", both=both)
    assert "no tests ran" in said
