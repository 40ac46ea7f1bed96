"""The cells of a sweep: how many, which requests, in which order. Runs nothing and loads nothing.

A grid is counted before it is listed. An axis of a plugin's own setting multiplies only that plugin's cells, so
llama.cpp's flash attention is not varied under PyTorch. Cells of one loaded model lie next to each other: what makes
a worker load anew (model, backend, number formats, options, threads, batch) varies slowest. Among the cells of one
load the order is random by the sweep's seed, so that a drift of the machine does not look like an effect.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import random
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from core import labels, plugins
from core.studies.plan import Axis, Sweep
from core.types import Generate, Record, Request, Scalar, to_json
from hardware.errors import ExplorerError

LOADING = ("model", "backend", "dtype", "kv_dtype", "threads", "batch")  # each value is a load of its own
WITHIN = ("strategy", "prompt_tokens", "new_tokens")
COUNTS = ("threads", "batch", "prompt_tokens", "new_tokens")
MOST_CELLS = 5_000
PLUGINS: tuple[plugins.Kind, ...] = ("backend", "strategy")


class Cell(Record):
    """One combination. id: of its request, as ledgers write it. at: value of each axis that it has.

    varied: those with several.
    """

    id: str
    at: dict[str, Scalar]
    request: Request
    varied: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """`smollm2-135m · llama.cpp · threads 2`: what tells it from others, with names where a number needs one."""
        parts = []
        for name in self.varied or self.at:
            if name not in self.at:
                continue
            value = value_words(name, self.at[name])
            parts.append(value if name in ("model", *PLUGINS) else f"{labels.inside(_label(name))} {value}")
        return " · ".join(parts) or "the only cell"


def axis_words(axis: str) -> str:
    """`Prompt tokens` of prompt_tokens; `Jacobi: window` of jacobi.window."""
    owner, dot, _ = axis.rpartition(".")
    if not dot:
        return _label(axis)
    label = next((plugins.label(kind, owner) for kind in PLUGINS if owner in plugins.names(kind)), owner)
    return f"{label}: {labels.inside(_label(axis))}"


def axis_inside(axis: str) -> str:
    """The same within a sentence: `prompt tokens`, `Jacobi window`."""
    return axis_words(axis).replace(": ", " ") if "." in axis else labels.inside(_label(axis))


def _label(axis: str) -> str:
    """Of the setting alone, as the form of a run has it."""
    owner, dot, name = axis.rpartition(".")
    kind = next((kind for kind in PLUGINS if dot and owner in plugins.names(kind)), None)
    return labels.setting(_form(kind, owner).__name__ if kind else Request.__name__, name)


def value_words(axis: str, value: Scalar) -> str:
    """A value of an axis as people read it: a plugin by its label; `own` where the backend chooses."""
    if value is None:
        return "own"
    return next((plugins.label(kind, str(value)) for kind in PLUGINS if kind == axis), str(value))


def size(sweep: Sweep) -> int:
    """How many cells the grid has, counted without listing them; raises ExplorerError for an axis that is none."""
    _check(sweep)
    values = _values(sweep)
    plain = math.prod(len(values[n]) for n in (*LOADING, *WITHIN) if n in values and n not in ("backend", "strategy"))
    return plain * math.prod(
        sum(math.prod(len(axis.values) for axis in _own(sweep, str(name))) for name in _named(sweep, kind))
        for kind in ("backend", "strategy")
    )


def cells(sweep: Sweep) -> tuple[Cell, ...]:
    """All cells in the order in which they are measured; raises ExplorerError for a grid that is too large."""
    n = size(sweep)
    if n > MOST_CELLS:
        largest = max(sweep.axes, key=lambda axis: len(axis.values))
        raise ExplorerError(
            f"The grid has {n:,} cells, and at most {MOST_CELLS:,} are carried out in one sweep.",
            f"Take values away, for instance of {largest.name}, which has {len(largest.values):,}.",
        )
    found: dict[str, Cell] = {}
    for number, load in enumerate(_loads(sweep)):
        same = [_cell(sweep, {**load, **rest}) for rest in _rests(sweep)]
        random.Random(f"{sweep.seed}-{number}").shuffle(same)
        for cell in same:
            found.setdefault(cell.id, cell)
    return tuple(found.values())


def ordered(found: Sequence[Cell], seed: int, number: int) -> tuple[Cell, ...]:
    """The order of a later round: the loads as they are, and within each a new random order."""
    if number == 0:
        return tuple(found)
    order: list[Cell] = []
    for _, same in itertools.groupby(found, key=load_key):
        group = list(same)
        random.Random(f"{seed}-{number}-{group[0].id}").shuffle(group)
        order += group
    return tuple(order)


def known_axes() -> tuple[str, ...]:
    """Every axis that there is, those of plugins with the plugin's name before a dot."""
    own = [f"{name}.{setting}" for kind in PLUGINS for name in plugins.names(kind) for setting in _settings(kind, name)]
    return (*LOADING, *WITHIN, *own)


def parsed_axis(text: str) -> Axis:
    """`threads=1,2` as an axis; "own" is the backend's own choice. Raises ExplorerError for other forms."""
    name, equals, listed = text.partition("=")
    words = [word.strip() for word in listed.split(",")]
    if not equals or not name.strip() or not all(words):
        raise ExplorerError(
            f"'{text}' is not an axis.", "Write for example --axis threads=1,2 or --axis jacobi.window=4,8."
        )
    return Axis(name=name.strip(), values=tuple(dict.fromkeys(_scalar(name.strip(), word) for word in words)))


def _scalar(name: str, word: str) -> Scalar:
    if word == "own":
        return None
    if name in COUNTS:
        try:
            return int(word)
        except ValueError:
            raise ExplorerError(
                f"'{word}' is not a number of {name.replace('_', ' ')}.", "Use whole numbers."
            ) from None
    if "." not in name:
        return word
    if word.lower() in ("true", "false"):
        return word.lower() == "true"
    for kind in (int, float):
        try:
            return kind(word)
        except ValueError:
            continue
    return word


def _check(sweep: Sweep) -> None:
    if not isinstance(sweep.base.task, Generate):
        raise ExplorerError("A sweep measures generation.", "Use a study for evaluations.")
    known = known_axes()
    for axis in sweep.axes:
        if axis.name not in known:
            plugin = axis.name.partition(".")[0]
            near = [n for n in known if n.startswith(f"{plugin}.")] or [*LOADING, *WITHIN]
            raise ExplorerError(f"No backend and no strategy has an axis '{axis.name}'.", f"Known: {', '.join(near)}.")
        if not axis.values:
            raise ExplorerError(f"The axis {axis.name} has no value.", "Give it one, or leave it out.")
        if len(set(map(repr, axis.values))) < len(axis.values):
            raise ExplorerError(f"The axis {axis.name} has a value twice.", "Give every value once.")
    names = [axis.name for axis in sweep.axes]
    if twice := next((n for n in names if names.count(n) > 1), None):
        raise ExplorerError(f"The axis {twice} is there twice.", "Put its values into one.")
    used = {"backend": _named(sweep, "backend"), "strategy": _named(sweep, "strategy")}
    for axis in sweep.axes:
        plugin, dot, _ = axis.name.partition(".")
        if dot and plugin not in used["backend"] and plugin not in used["strategy"]:
            raise ExplorerError(
                f"The axis {axis.name} belongs to {plugin}, which this sweep does not use.",
                "Add it to the backends or strategies, or leave the axis out.",
            )


def _settings(kind: plugins.Kind, name: str) -> tuple[str, ...]:
    return _form(kind, name).__struct_fields__


def _form(kind: plugins.Kind, name: str) -> type[Record]:
    """The class of a plugin's settings."""
    plugin: Any = plugins.get(kind, name)
    found: type[Record] = plugin.Options if kind == "backend" else plugin.Params
    return found


def _values(sweep: Sweep) -> dict[str, tuple[Scalar, ...]]:
    return {axis.name: axis.values for axis in sweep.axes}


def _named(sweep: Sweep, kind: str) -> tuple[Scalar, ...]:
    """The backends or strategies that take part."""
    return _values(sweep).get(kind, (getattr(sweep.base, kind),))


def _own(sweep: Sweep, plugin: str) -> list[Axis]:
    return [axis for axis in sweep.axes if axis.name.startswith(f"{plugin}.")]


def _points(axes: Sequence[Axis]) -> Iterator[dict[str, Scalar]]:
    for point in itertools.product(*(axis.values for axis in axes)):
        yield {axis.name: value for axis, value in zip(axes, point, strict=True)}


def _loads(sweep: Sweep) -> Iterator[dict[str, Scalar]]:
    """Every combination that is a load of its own: model, backend, its number formats and options, threads, batch."""
    values = _values(sweep)
    before = [Axis(name=n, values=values[n]) for n in ("model",) if n in values]
    after = [Axis(name=n, values=values[n]) for n in LOADING[2:] if n in values]
    for outer in _points(before):
        for backend in _named(sweep, "backend"):
            named: dict[str, Scalar] = {"backend": backend} if "backend" in values else {}
            for inner in _points([*after[:2], *_own(sweep, str(backend)), *after[2:]]):
                yield {**outer, **named, **inner}


def _rests(sweep: Sweep) -> Iterator[dict[str, Scalar]]:
    values = _values(sweep)
    lengths = [Axis(name=n, values=values[n]) for n in WITHIN[1:] if n in values]
    for strategy in _named(sweep, "strategy"):
        named: dict[str, Scalar] = {"strategy": strategy} if "strategy" in values else {}
        for inner in _points([*_own(sweep, str(strategy)), *lengths]):
            yield {**named, **inner}


def _cell(sweep: Sweep, at: dict[str, Scalar]) -> Cell:
    base, task = sweep.base, sweep.base.task
    assert isinstance(task, Generate)
    if at.get("prompt_tokens") is not None:
        task = msgspec.structs.replace(task, prompt=None, prompt_tokens=at["prompt_tokens"])
    if at.get("new_tokens") is not None:
        task = msgspec.structs.replace(task, max_new_tokens=at["new_tokens"])
    named = {n: at[n] for n in ("model", "backend", "strategy", "dtype", "threads", "batch") if n in at}
    backend, strategy = named.get("backend", base.backend), named.get("strategy", base.strategy)
    options = _set(at, str(backend), base.options if backend == base.backend else {})
    if at.get("kv_dtype") is not None:
        options["kv_dtype"] = at["kv_dtype"]
    params = _set(at, str(strategy), base.params if strategy == base.strategy else {})
    request = msgspec.structs.replace(base, task=task, **named, options=options, params=params)
    varied = tuple(axis.name for axis in sweep.axes if len(axis.values) > 1)
    return Cell(id=written_id(request), at=at, request=request, varied=varied)


def written_id(request: Request) -> str:
    """What a ledger calls a request: a hash of its JSON. Unlike its key it depends on the form that it was given in."""
    return hashlib.sha256(to_json(request)).hexdigest()[:16]


def _set(at: dict[str, Scalar], plugin: str, base: dict[str, Scalar]) -> dict[str, Scalar]:
    """A plugin's settings in this cell; None leaves its default."""
    own = {n.partition(".")[2]: v for n, v in at.items() if n.startswith(f"{plugin}.")}
    return {n: v for n, v in {**base, **own}.items() if v is not None}


def load_key(cell: Cell) -> tuple[Any, ...]:
    r = cell.request
    return (r.model, r.backend, r.dtype, tuple(sorted(r.options.items(), key=str)), r.threads, r.batch)
