"""Dialogues as files: their configurations, their questions, and the runs that answered; a reload finds them again.

What was said lies in the runs; a chat whose runs were deleted still has its questions.
"""

from __future__ import annotations

import os
import re
import secrets
import time
from pathlib import Path
from typing import Annotated

import msgspec

from core.types import Record, Request, Words, from_json, to_json
from hardware.errors import ExplorerError
from hardware.files import contents

FOLDER = "chats"
MOST_BYTES = 50_000_000  # of a file that can be one
_ID = re.compile(r"\d{8}-\d{6}-[0-9a-f]{6}", re.ASCII)


class Turn(Record):
    """A question and the runs that answered it, one per configuration as far as they have begun.

    total: how many there are to be; fewer than configurations where it was stopped. attempt: how often the answers
    were asked for anew.
    """

    question: Annotated[str, msgspec.Meta(max_length=10_000_000)]
    runs: tuple[Words, ...] = ()
    total: Annotated[int, msgspec.Meta(ge=0, le=16)] = 0
    attempt: Annotated[int, msgspec.Meta(ge=0, le=1_000_000)] = 0


class Chat(Record):
    """sides: the configurations, requests without a question. text: what answers are to be found in."""

    sides: Annotated[tuple[Request, ...], msgspec.Meta(max_length=16)] = ()
    text: Annotated[str, msgspec.Meta(max_length=10_000_000)] = ""
    turns: tuple[Turn, ...] = ()

    @property
    def title(self) -> str:
        """Its first question."""
        return self.turns[0].question if self.turns else ""


def new_id() -> str:
    """An id that sorts by time."""
    return f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}"


def path(root: Path, chat_id: str) -> Path:
    """Where a chat lies; raises ExplorerError for what is no id."""
    if not _ID.fullmatch(chat_id):
        raise ExplorerError("This address names no chat.", "Open one of the earlier chats, or ask something.")
    return root / FOLDER / f"{chat_id}.json"


def ids(root: Path) -> list[str]:
    """Newest first."""
    folder = root / FOLDER
    found = (file.stem for file in folder.glob("*.json")) if folder.is_dir() else ()
    return sorted(filter(_ID.fullmatch, found), reverse=True)


def load(root: Path, chat_id: str) -> Chat:
    """Raises ExplorerError for one that is not there or cannot be read."""
    file = path(root, chat_id)
    try:
        if file.stat().st_size > MOST_BYTES:
            raise ExplorerError(f"The chat {chat_id} is damaged: it is too large.", "Free it on the page Storage.")
        found = from_json(contents(file), Chat)
        if found.turns and not found.sides:
            raise msgspec.ValidationError("questions to nobody")
        return found
    except FileNotFoundError as error:
        raise ExplorerError(f"There is no chat {chat_id}.", "It may have been freed on the page Storage.") from error
    except (OSError, msgspec.DecodeError, RecursionError) as error:
        raise ExplorerError(f"The chat {chat_id} cannot be read.", "Free it on the page Storage.") from error


def save(root: Path, chat_id: str, chat: Chat) -> None:
    """Keep it, at once or not at all. Raises ExplorerError (a full disk)."""
    file = path(root, chat_id)
    part = file.with_suffix(".part")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(to_json(chat))
        os.replace(part, file)
    except OSError as error:
        raise ExplorerError(
            f"The chat could not be kept: {error.strerror or error}.", "Free some space; its answers are kept as runs."
        ) from error


def again(configuration: Request, attempt: int) -> Request:
    """The configuration for another answer to the same question: drawn anew where it draws, else the same."""
    task = configuration.task
    if attempt == 0 or getattr(getattr(task, "sampling", None), "temperature", 0.0) <= 0:
        return configuration
    return msgspec.structs.replace(configuration, seed=(configuration.seed + attempt) % 2**32)
