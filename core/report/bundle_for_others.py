"""A run's bundle for others: without paths and names, and if wanted without anybody's words.

It can be imported and redraws every chart, for what the charts need is times and counts. Token ids tell the words as
well as the words themselves, so without texts they are renumbered by their first appearance. The log is left out.
"""

from __future__ import annotations

import contextlib
import io
import zipfile
from typing import Any

import msgspec

from core.report.private import scrubbed
from core.runs import about
from core.runs.store import PLATFORM, Run
from core.types import to_json
from hardware.files import UNREADABLE

LEFT_OUT = "(left out)"
DROPPED = ("log.txt", "result.json", PLATFORM)  # the result follows from the events; replicas have names
_WORDS = frozenset({"text", "prompt_text", "prompt", "output", "expected", "log"})
_EACH = frozenset({"pieces", "guessed"})
_IDS = frozenset({"tokens", "guess"})
_NAMES = frozenset(
    {"type", "phase", "kind", "of", "backend", "strategy", "eval", "transform"}
)  # the format's own words


def shared_bundle(run: Run, texts: bool) -> bytes:
    """The bundle as a zip. texts: with prompts and answers."""
    out = io.BytesIO()
    numbers: dict[int, int] = {}
    with zipfile.ZipFile(io.BytesIO(run.bundle())) as whole, zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as shared:
        for name in whole.namelist():
            if name in DROPPED or (name == about.FILE and not texts):
                continue
            data = whole.read(name)
            if name.endswith(".jsonl"):
                lines = [_line(line, texts, numbers) for line in data.splitlines()]
                shared.writestr(name, b"".join(line + b"\n" for line in lines if line))
            elif name == "request.json":
                shared.writestr(name, to_json(request_for_others(msgspec.json.decode(data), texts)))
            else:
                with contextlib.suppress(*UNREADABLE):  # it is passed over wherever it is read
                    shared.writestr(name, to_json(clean(msgspec.json.decode(data))))
    return out.getvalue()


def _line(line: bytes, texts: bool, numbers: dict[int, int]) -> bytes:
    """Empty for one that is no event: half-written or odd, it says nothing to anybody."""
    try:
        event = msgspec.json.decode(line)
        return to_json(clean(event if texts else _wordless(event, numbers))) if isinstance(event, dict) else b""
    except (TypeError, *UNREADABLE):
        return b""


def request_for_others(request: dict[str, Any], texts: bool) -> Any:
    """A request, as decoded from JSON, without paths and names, and without words where these are not wanted."""
    task = request.get("task", {})
    if not texts:
        for name in {"prompt", "system"} & task.keys():
            task[name] = LEFT_OUT if task[name] else task[name]
        task.pop("template_values", None)
        if "history" in task:
            task["history"] = [[role, LEFT_OUT] for role, _ in task["history"]]
    return clean(request)


def _wordless(event: dict[str, Any], numbers: dict[int, int]) -> dict[str, Any]:
    """An event without words. numbers: the new number of each token id."""
    found = dict(event)
    for name in event.keys() & _WORDS:
        if isinstance(event[name], str):
            found[name] = ""
    for name in event.keys() & _EACH:
        found[name] = ["·"] * len(event[name])
    if event.get("type") == "step":
        for name in event.keys() & _IDS:
            found[name] = [numbers.setdefault(token, len(numbers)) for token in event[name]]
    return found


def clean(value: Any) -> Any:
    """The same with every string scrubbed; keys and the format's own words stay."""
    if isinstance(value, str):
        return scrubbed(value)
    if isinstance(value, dict):
        return {k: v if k in _NAMES else clean(v) for k, v in value.items()}
    return [clean(v) for v in value] if isinstance(value, list) else value
