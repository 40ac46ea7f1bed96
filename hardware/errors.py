"""The one exception a user may see."""

from __future__ import annotations

import errno
import re

_DISK = {
    errno.ENOSPC: ("The disk is full", "Free some space, for example on the page Storage."),
    errno.EDQUOT: ("The disk quota is used up", "Free some space, for example on the page Storage."),
    errno.EROFS: ("The disk can only be read", "Set ROOFSCOPE_HOME to a folder that can be written."),
    errno.EACCES: ("A file may not be used", "Look at its permissions, or set ROOFSCOPE_HOME to another folder."),
    errno.EPERM: ("A file may not be used", "Look at its permissions, or set ROOFSCOPE_HOME to another folder."),
    errno.EIO: ("The disk cannot be read or written", "Look at the system's log: a disk or its connection fails."),
    errno.ENAMETOOLONG: ("A name is too long for this disk", "Use a shorter one."),
    errno.EMFILE: ("Too many files are open", "Close some tabs and runs, or raise the limit (ulimit -n)."),
    errno.ENFILE: ("Too many files are open on this machine", "End some processes."),
    errno.EISDIR: ("A folder lies where a file belongs", "Move it away."),
    errno.ENOTDIR: ("A file lies where a folder belongs", "Move it away."),
    errno.EEXIST: ("A file lies where a folder belongs", "Move it away."),
}
_ENDLESS = re.compile(r"\S{401,}")  # no path that somebody has typed


def _ends(word: re.Match[str]) -> str:
    return f"{word[0][:150]}…{word[0][-50:]}"


class ExplorerError(Exception):
    """A request, a file or an environment that cannot work.

    message: one sentence with the cause. hint: one sentence with the next step. Both may quote what came from outside;
    of a word that nobody can read to its end, the middle is left out.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message, self.hint = _ENDLESS.sub(_ends, message), _ENDLESS.sub(_ends, hint)

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".strip()


def of_disk(error: OSError) -> ExplorerError | None:
    """What to say of an error that the disk, or whoever manages it, is the cause of; None for any other."""
    if error.errno not in _DISK:
        return None
    message, hint = _DISK[error.errno]
    where = f": {error.filename}" if isinstance(error.filename, str) else ""
    return ExplorerError(f"{message}{where}.", hint)
