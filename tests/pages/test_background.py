"""Work in a thread: every end of it is told in a sentence, and none of them ends the app's process."""

import errno
import os

import pytest

from hardware.errors import ExplorerError
from pages.ui.background import Background


@pytest.mark.parametrize(
    ("fails", "sentence"),
    [
        (None, None),
        (ExplorerError("The machine is busy.", "Wait."), "The machine is busy. Wait."),
        (
            OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
            "The trial could not be kept: No space left on device. Free some disk space.",
        ),
    ],
)
def test_every_end_is_told(fails: Exception | None, sentence: str | None) -> None:
    job, seen = Background(), list[str]()

    def work() -> None:
        assert job.stop.wait(10), "it goes on until it is told to stop"
        seen.append(job.note)
        if fails is not None:
            raise fails

    job.begin(work, "The trial")
    assert job.active and job.error is None
    job.stop.set()
    assert job.thread is not None
    job.thread.join(10)
    assert not job.active and seen == ["Starting"]
    assert (None if job.error is None else str(job.error)) == sentence
