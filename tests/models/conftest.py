from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.tiny import hf_folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The small model in a folder called own."""
    return hf_folder(tmp_path).rename(tmp_path / "own")
