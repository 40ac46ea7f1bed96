"""What says who made something: the home folder, the user, the host, and paths. `scrubbed` takes them out of any text.

Of a run from another machine only what a path gives away can be taken out, for its names are not known here.
"""

from __future__ import annotations

import contextlib
import getpass
import platform
import re
from pathlib import Path

GENERIC = frozenset({"root", "user", "admin", "ubuntu", "debian", "runner", "localhost", "app", "home"})
_PATH = re.compile(r"(?<![\w:/.<\\])(?:/|[A-Za-z]:[\\/])(?:[\w.+@~-]+[\\/])+([\w.+@~-]+)")
_PROJECT = re.compile(  # of Vertex AI: in an address, in a model's id, in the name of an endpoint
    r"(?<=/projects/)[\w.:-]+|(?<=\bvertex/)[\w.:-]+|\b\d+\.[a-z0-9-]+-\d+(?=\.prediction\.vertexai\.goog)"
)
_FOLDER = re.compile(r"(?<![\w:.<])/(?:home|Users)/[\w.+@-]+")


def names() -> tuple[str, ...]:
    """The names of this user and this host that tell somebody something."""
    found = [platform.node(), platform.node().split(".")[0]]
    with contextlib.suppress(KeyError, OSError):  # a user without a name
        found.append(getpass.getuser())
    return tuple(dict.fromkeys(n for n in found if len(n) > 2 and n.casefold() not in GENERIC))


def scrubbed(text: str) -> str:
    """The text without home folder, user and host name, and with paths cut to their last part."""
    home = str(Path.home())
    if len(home) > 1:
        text = re.sub(re.escape(home) + r"(?![\w-])", "~", text)
    text = _PATH.sub(r"…/\1", text)
    text = _FOLDER.sub("~", text)
    text = _PROJECT.sub("…", text)
    for name in names():
        text = re.sub(rf"(?<![\w-]){re.escape(name)}(?![\w-])", "…", text, flags=re.IGNORECASE)
    return text
