"""A hub download in a process of its own, started and stopped from the app.

The hub's library never enters the app's process. Knows core.models.hub's lines of JSON, not the hub.
"""

from __future__ import annotations

import threading
import time
from typing import Any

import msgspec

from core.models.hub import DownloadPlan
from hardware.child import Child
from hardware.errors import ExplorerError

_PLAN_TIMEOUT_S = 45.0
_NO_ANSWER = ("The hub's answer did not come.", "Check the connection and try again.")


def plan(repo_id: str, gguf: str | None = None) -> DownloadPlan:
    """What a download would fetch; raises ExplorerError (offline, unknown, gated ...)."""
    answer: dict[str, Any] = {}
    asked_s = time.monotonic()
    with _child("plan", repo_id, gguf) as child:
        for message in child.messages():
            answer = message or answer
            if time.monotonic() - asked_s > _PLAN_TIMEOUT_S:
                raise ExplorerError(*_NO_ANSWER)
    if "repo_id" not in answer:
        raise ExplorerError(*(_failure(answer) or _NO_ANSWER))
    return msgspec.convert(answer, DownloadPlan)


class Download:
    """One download as it goes. done_bytes of the plan's to_download_bytes; path once it is complete."""

    def __init__(self, wanted: DownloadPlan) -> None:
        self.wanted = wanted
        self.done_bytes = 0.0
        self.path: str | None = None
        self.failure: tuple[str, str] | None = None
        self.stopped = False
        self._child = _child("download", wanted.repo_id, wanted.gguf)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def active(self) -> bool:
        return self._reader.is_alive()

    def stop(self) -> None:
        """End it. Files that are complete stay; the one in the middle starts again from zero next time."""
        self.stopped = True
        self._child.end()

    def _read(self) -> None:
        for message in self._child.messages():
            answer = message or {}
            self.done_bytes = float(answer.get("done") or self.done_bytes)
            self.path = answer.get("path", self.path)
            self.failure = _failure(answer) or self.failure
        if self.path is None and self.failure is None and not self.stopped:
            self.failure = ("The download ended early.", "Start it again; complete files are kept.")


def _child(verb: str, repo_id: str, gguf: str | None) -> Child:
    chosen = ["--gguf", gguf] if gguf else []
    quiet = {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_UPDATE_CHECK": "1"}
    return Child("core.models.hub", [verb, *chosen, "--", repo_id], quiet, hush=True)


def _failure(answer: dict[str, Any]) -> tuple[str, str] | None:
    return (str(answer["message"]), str(answer.get("hint", ""))) if "message" in answer else None
