"""A file is known by its size and date, a folder by all of its files."""

from __future__ import annotations

import os
from pathlib import Path

from core.models.identity import identity


def test_of_a_file_with_its_weights_beside_it(tmp_path: Path) -> None:
    model, data, other = (tmp_path / name for name in ("model.onnx", "model.onnx.data", "model2.onnx"))
    for path, size, when in ((model, 3, 100), (data, 40, 90), (other, 500, 200)):
        path.write_bytes(bytes(size))
        os.utime(path, (when, when))
    found = identity(str(model))
    assert (found.name, found.size_bytes, found.modified_s) == ("model.onnx", 43, 100.0)


def test_of_a_folder_and_what_changes_it(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    (folder / "deep").mkdir(parents=True)
    (folder / "config.json").write_bytes(bytes(5))
    (folder / "deep" / "weights").write_bytes(bytes(7))
    before = identity(str(folder))
    assert (before.name, before.size_bytes) == ("model", 12) and identity(str(folder)) == before
    os.utime(folder / "deep" / "weights", (1, 2**40))
    assert identity(str(folder)) != before
