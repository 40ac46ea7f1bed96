"""Sends rows to a data set on the Hugging Face hub as a pull request, once somebody has seen what is sent.

`payload` gives the files to the byte; `send` puts exactly these into a pull request, in a process of its own, since
the hub's library reads its settings when it is imported:

    python -m core.community.hub OWNER/NAME FOLDER

It prints {"url"} of the pull request, or {"message", "hint"} with exit status 2. The hub shows the account whose token
is used beside the pull request; the token is the library's own (HF_TOKEN, or that of its login) and is never seen here.
"""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from core.community.row import Row, encoded
from core.types import to_json
from hardware.child import Child
from hardware.errors import ExplorerError

TIMEOUT_S = 120.0
_REPO = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}", re.ASCII)
_NO_ANSWER = ("The hub's answer did not come.", "Check the connection and try again.")


def payload(rows: Sequence[Row]) -> dict[str, bytes]:
    """Path in the data set -> content: a file for each row, in a folder of its class of machine."""
    return {f"data/{_folder(row)}/{row.id}.json": encoded(row) for row in rows}


def send(repo_id: str, files: Mapping[str, bytes]) -> str:
    """Open a pull request with these files; gives its address. Raises ExplorerError with what kept it from that."""
    checked(repo_id)
    if not files:
        raise ExplorerError("There is no row to send.", "Choose one.")
    quiet = {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_UPDATE_CHECK": "1", "HF_HUB_DISABLE_XET": "1"}
    with tempfile.TemporaryDirectory(prefix="roofscope-rows-") as folder:
        for name, data in files.items():
            path = Path(folder) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        answer: dict[str, Any] = {}
        waited_s = 0.0
        with Child("core.community.hub", ["--", repo_id, folder], quiet, hush=True) as child:
            for message in child.messages():
                answer = message or answer
                waited_s += 0.2 if message is None else 0.0
                if waited_s > TIMEOUT_S:
                    raise ExplorerError(*_NO_ANSWER)
    if "url" not in answer:
        raise ExplorerError(*((str(answer["message"]), str(answer["hint"])) if "message" in answer else _NO_ANSWER))
    return str(answer["url"])


def checked(repo_id: str) -> str:
    """The same name; raises ExplorerError for what no data set can be called."""
    if not _REPO.fullmatch(repo_id):
        raise ExplorerError(f"'{repo_id[:100]}' is not the name of a data set.", "Write it as owner/name.")
    return repo_id


def _folder(row: Row) -> str:
    return re.sub(r"[^a-z0-9]+", "-", row.machine.label.lower()).strip("-")[:80] or "machine"


# ---------------------------------------------------------------- a process of its own


def main(arguments: list[str] | None = None) -> int:
    repo_id, folder = [a for a in (sys.argv[1:] if arguments is None else arguments) if a != "--"]
    try:
        print(to_json({"url": _commit(repo_id, Path(folder))}).decode(), flush=True)
    except ExplorerError as error:
        print(to_json({"message": error.message, "hint": error.hint}).decode(), flush=True)
        return 2
    return 0


def _commit(repo_id: str, folder: Path) -> str:
    from huggingface_hub import CommitOperationAdd, HfApi

    found = sorted(path for path in folder.rglob("*.json"))
    n = f"{len(found)} row{'s' * (len(found) != 1)}"
    with _explained(repo_id):
        done = HfApi().create_commit(
            repo_id,
            [
                CommitOperationAdd(path_in_repo=path.relative_to(folder).as_posix(), path_or_fileobj=path)
                for path in found
            ],
            commit_message=f"Add {n} measured by Roofscope",
            repo_type="dataset",
            create_pr=True,
        )
    if not done.pr_url:
        raise ExplorerError("The hub made no pull request: these rows are there already.", "Nothing needs to be sent.")
    return str(done.pr_url)


@contextmanager
def _explained(repo_id: str) -> Iterator[None]:
    """Turn the library's exceptions into sentences."""
    import httpx
    from huggingface_hub import errors

    account = "Set HF_TOKEN to a token of your account that may write."
    try:
        yield
    except errors.LocalTokenNotFoundError as error:
        raise ExplorerError("The hub was given no token.", account) from error
    except errors.RepositoryNotFoundError as error:
        raise ExplorerError(
            f"The hub has no data set '{repo_id}' that this account may see.", f"Check the spelling. {account}"
        ) from error
    except errors.OfflineModeIsEnabled as error:
        raise ExplorerError("The hub is switched off by HF_HUB_OFFLINE.", "Unset it to send rows.") from error
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        if status in (401, 403):
            raise ExplorerError(f"The hub refused to take rows into {repo_id}.", account) from error
        raise ExplorerError(f"The hub answered with error {status} for {repo_id}.", "Try again later.") from error
    except (httpx.HTTPError, ConnectionError, TimeoutError, OSError) as error:
        raise ExplorerError(
            "The Hugging Face hub cannot be reached.", "Check the connection; the rows are kept here."
        ) from error


if __name__ == "__main__":
    sys.exit(main())
