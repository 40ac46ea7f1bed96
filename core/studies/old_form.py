"""Studies as earlier versions wrote them, as today's records. The only place that knows what they looked like.

Until November 2026 an evaluation was an exam, and a benchmark a contest of contenders with a champion; labels said
"one by one" for autoregressive decoding; the machine lay in a dictionary called `environment`, or was an empty one.
"""

from __future__ import annotations

from typing import Any

import msgspec

from core.types import from_json

NAMES = {
    "exam": "evaluation",
    "exams": "evaluations",
    "contenders": "configurations",
    "champion": "candidate",
    "over_own": "over_autoregressive",
}
KINDS = {"contest": "benchmark"}


def read(data: bytes, kind: Any) -> Any:
    """A ledger's state or findings, of today's form or an earlier one. Raises msgspec.DecodeError for anything else."""
    try:
        return from_json(data, kind)
    except msgspec.ValidationError as error:
        raw = from_json(data, Any)
        try:
            found = msgspec.json.encode(_today(raw))
        except (AttributeError, KeyError, TypeError, RecursionError):
            raise error from None
        return from_json(found, kind)


def _today(raw: Any) -> dict[str, Any]:
    told = raw.pop("environment", raw)
    found: dict[str, Any] = _named(raw)
    plan = found["plan"]
    plan["type"] = KINDS.get(plan["type"], plan["type"])
    return found | {"type": plan["type"], "machine": told.get("machine") or None}


def _named(part: Any) -> Any:
    """The same with today's names; those of runs in a ledger are keys, too: "teacher/exam/choice"."""
    if isinstance(part, dict):
        return {NAMES.get(k, k.replace("/exam/", "/evaluation/")): _named(value) for k, value in part.items()}
    if isinstance(part, list):
        return [_named(value) for value in part]
    return part.replace(", one by one", ", autoregressive") if isinstance(part, str) else part
