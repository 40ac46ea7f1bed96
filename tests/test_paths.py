"""Two folders, and the variable that moves both."""

from __future__ import annotations

from pathlib import Path

import platformdirs
import pytest

from core import paths


def test_one_variable_moves_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROOFSCOPE_HOME", str(tmp_path / "own"))
    assert paths.data_dir() == tmp_path / "own" / "data"
    assert paths.cache_dir() == tmp_path / "own" / "cache"
    assert not (tmp_path / "own").exists()


def test_without_it_the_places_are_the_systems(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ROOFSCOPE_HOME", raising=False)
    assert paths.data_dir() == Path(platformdirs.user_data_dir("roofscope", appauthor=False))
    assert paths.cache_dir() == Path(platformdirs.user_cache_dir("roofscope", appauthor=False))
    assert paths.data_dir().name == paths.cache_dir().name == "roofscope"
