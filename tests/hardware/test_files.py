"""Files that are there whole, whoever writes them at the same time, and what is said of a disk that refuses."""

from __future__ import annotations

import errno
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hardware.errors import ExplorerError, of_disk
from hardware.files import parts, removed, write_whole, written_s


def test_tabs_that_write_the_same_file_at_once_each_write_it_whole(tmp_path: Path) -> None:
    file = tmp_path / "settings.json"

    def tab(letter: str) -> None:
        for _ in range(12):
            write_whole(file, letter.encode() * 5000)

    with ThreadPoolExecutor(4) as tabs:
        list(tabs.map(tab, "abcd"))
    assert len(set(file.read_bytes())) == 1 and file.stat().st_size == 5000 and not list(parts(tmp_path))


def test_a_folder_is_removed_once_and_what_cannot_be_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    (folder / "deep").mkdir(parents=True)
    removed(folder)
    removed(folder)
    assert not folder.exists() and written_s(folder) == 0.0
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ExplorerError, match="could not be deleted"):
        removed(tmp_path / "file")


@pytest.mark.parametrize(
    ("number", "words"), [(errno.ENOSPC, "disk is full"), (errno.EROFS, "only be read"), (errno.EACCES, "permissions")]
)
def test_what_the_disk_refuses_is_a_sentence_with_its_file(number: int, words: str) -> None:
    told = of_disk(OSError(number, "as C says it", "/data/x"))
    assert told is not None and words in str(told) and "/data/x" in told.message and told.hint


def test_other_errors_of_the_system_are_no_matter_of_the_disk() -> None:
    assert of_disk(ConnectionResetError(errno.ECONNRESET, "reset")) is None
    assert of_disk(OSError("without a number")) is None
