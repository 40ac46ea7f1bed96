"""Two results side by side: what differs in what was asked, and by how much in what came out.

Pure functions; "b over a" everywhere, so the first run is the reference.
"""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal

import msgspec

from core import labels, plugins
from core.types import Evaluate, Generate, Record, Request, Result

_HEADLINES: tuple[tuple[str, str, str, Literal["higher", "lower"]], ...] = (
    ("tok_per_s", "Decode speed", "tok/s", "higher"),
    ("tpot_s", "Time per token", "s", "lower"),
    ("ttft_s", "Time to first token", "s", "lower"),
    ("prefill_tok_per_s", "Prefill speed", "tok/s", "higher"),
    ("peak_memory_bytes", "Peak memory", "B", "lower"),
    ("load_s", "Loading time", "s", "lower"),
)

MOST_PAIRS = 3_000_000  # of equal words in two texts, which the comparison looks at one by one: about a second
_TIMED = ("tok_per_s", "tpot_s", "ttft_s", "prefill_tok_per_s")


class Difference(Record):
    """A setting that is not the same in both runs. label: as the app calls it."""

    name: str
    label: str
    a: str
    b: str


class Ratio(Record):
    """One headline number of both runs. ratio: b over a, None unless both were measured.

    doubt: why the ratio tells little: a speed of one of them, or of both, is not the machine's own. Else empty.
    """

    name: str
    label: str
    unit: str
    better: Literal["higher", "lower"]
    a: float | None
    b: float | None
    doubt: str = ""

    @property
    def ratio(self) -> float | None:
        """b over a; None without both, and for an a of zero."""
        return self.b / self.a if self.a and self.b is not None else None

    @property
    def improves(self) -> bool | None:
        """Whether b is the better one; None without both or when they are equal."""
        if self.ratio is None or self.ratio == 1:
            return None
        return (self.ratio > 1) == (self.better == "higher")


def differences(a: Request, b: Request, result_a: Result, result_b: Result) -> tuple[Difference, ...]:
    """What was asked or found differently: settings first, then machine and library versions."""
    left, right = settings(a, result_a), settings(b, result_b)
    found = []
    for name in dict.fromkeys([*left, *right]):
        label, _ = left.get(name) or right[name]
        one, other = (side[name][1] if name in side else "–" for side in (left, right))
        if one != other:
            found.append(Difference(name=name, label=label, a=one, b=other))
    return tuple(found)


def unlike(
    a: Request, b: Request, result_a: Result, result_b: Result, origins: tuple[str, str] = ("", "")
) -> tuple[str, ...]:
    """What keeps two runs from being comparable at all: "machine", "model", "prompt". origins: see Run.origin."""
    hosts = result_a.host, result_b.host
    known = [h.machine.machine_id for h in hosts if h is not None]
    asked = [(r.task.prompt, r.task.prompt_tokens) if isinstance(r.task, Generate) else None for r in (a, b)]
    found = {
        "machine": len(set(known)) > 1 or len(set(origins)) > 1,
        "model": a.model != b.model,
        "prompt": None not in asked and asked[0] != asked[1],
    }
    return tuple(name for name, differs in found.items() if differs)


def ratios(a: Result, b: Result) -> tuple[Ratio, ...]:
    """Headline numbers that at least one of the runs measured."""
    found = (
        Ratio(
            name=name,
            label=label,
            unit=unit,
            better=better,
            a=getattr(a, name),
            b=getattr(b, name),
            doubt=_doubt(a, b) if name in _TIMED else "",
        )
        for name, label, unit, better in _HEADLINES
    )
    return tuple(r for r in found if r.a is not None or r.b is not None)


def _doubt(a: Result, b: Result) -> str:
    """In one sentence which of the two was disturbed, or only watched."""
    marks = [
        f"the {name} run was {'only watched' if result.provisional else 'disturbed'}"
        for name, result in (("first", a), ("second", b))
        if result.provisional or result.disturbed
    ]
    told = " and ".join(marks)
    return f"{told[0].upper()}{told[1:]}, so their ratio tells little." if told else ""


def headlines() -> tuple[tuple[str, str, Literal["higher", "lower"]], ...]:
    """(field of a result, label, which direction is better) of every headline number, in order."""
    return tuple((name, label, better) for name, label, _, better in _HEADLINES)


def words(a: str, b: str) -> tuple[tuple[Literal["same", "a", "b"], str], ...]:
    """The two texts as one sequence of stretches: in both, only in the first, only in the second."""
    left, right = _tokens(a), _tokens(b)
    often = Counter(right)
    if sum(often[token] for token in left) > MOST_PAIRS:
        return _around(left, right)
    found: list[tuple[Literal["same", "a", "b"], str]] = []
    for tag, i1, i2, j1, j2 in difflib.SequenceMatcher(None, left, right, autojunk=False).get_opcodes():
        if tag == "equal":
            found.append(("same", "".join(left[i1:i2])))
            continue
        if i2 > i1:
            found.append(("a", "".join(left[i1:i2])))
        if j2 > j1:
            found.append(("b", "".join(right[j1:j2])))
    return tuple(found)


def _around(left: Sequence[str], right: Sequence[str]) -> tuple[tuple[Literal["same", "a", "b"], str], ...]:
    """What two texts begin and end with together, and all between as different: quick, however long they are."""
    most = min(len(left), len(right))
    begin = next((i for i in range(most) if left[i] != right[i]), most)
    end = next((i for i in range(most - begin) if left[-1 - i] != right[-1 - i]), most - begin)
    parts: tuple[tuple[Literal["same", "a", "b"], Sequence[str]], ...] = (
        ("same", left[:begin]),
        ("a", left[begin : len(left) - end]),
        ("b", right[begin : len(right) - end]),
        ("same", left[len(left) - end :]),
    )
    return tuple((kind, "".join(tokens)) for kind, tokens in parts if tokens)


def _tokens(text: str) -> list[str]:
    return re.findall(r"\S+\s*|\s+", text)


def settings(request: Request, result: Result) -> dict[str, tuple[str, str]]:
    """Label and value of every setting, by its name. What the worker found replaces what was left open in the
    request."""
    asked: dict[str, Any] = msgspec.structs.asdict(request)
    task = msgspec.structs.asdict(asked.pop("task"))
    if history := task.pop("history", ()):
        task["history"] = f"{len(history)} messages before the prompt"
    parts: list[tuple[str, dict[str, Any]]] = []
    if isinstance(request.task, Generate):
        parts.append(("Sampling", msgspec.structs.asdict(task.pop("sampling"))))
    else:
        kind: plugins.Kind = "eval" if isinstance(request.task, Evaluate) else "transform"
        parts.append((_owner(kind, request.plugin, "Params"), task.pop("settings")))
    params, options = asked.pop("params"), {**asked.pop("options"), **result.options}
    del asked["live"], asked["retries"]  # how it was watched over is told by its disturbance
    asked |= {"dtype": result.dtype, "threads": result.threads}
    named: tuple[plugins.Kind, ...] = ("backend", "strategy", "eval", "transform")
    for given in (asked, task):
        given |= {kind: plugins.label(kind, given[kind]) for kind in named if kind in given}
    asked["profilers"] = [plugins.label("profiler", name) for name in request.profilers]
    found: dict[str, Any] = {}
    if result.host is not None:
        found |= {"machine": result.host.machine.cpu, "python_version": result.host.python}
    if result.setup is not None:
        found |= {f"{name}_version": version for name, version in result.setup.versions.items()}
    every = (
        ("Request", asked),
        (type(request.task).__name__, task),
        *parts,
        (_owner("strategy", request.strategy, "Params"), params),
        (_owner("backend", request.backend, "Options"), options),
        ("", found),
    )
    flat = {name: (labels.setting(owner, name), value) for owner, values in every for name, value in values.items()}
    return {name.replace("_", " "): (label, _plain(value)) for name, (label, value) in flat.items()}


def _owner(kind: plugins.Kind, name: str, field: str) -> str:
    """The name of the class of a plugin's settings; empty for one that is not here."""
    return str(getattr(plugins.get(kind, name), field).__name__) if name in plugins.names(kind) else ""


def _plain(value: Any) -> str:
    if value is None or value == "":
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple | list):
        return ", ".join(map(str, value)) or "none"
    return str(value)
