"""What the literature reports on test-time compute, and where this app does the same.

Reads one data file, literature.json. A work's figure is its authors' and says where it was seen; figures that nobody
here has seen are not in it, and neither are identifiers that were not checked. Independent rows are of one public
bench in one setting. Knows which page shows a plugin, and draws nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec

from core import plugins
from core.charts.literature import Beside, Range, Reported
from core.types import Record

Seen = Literal["abstract", "paper", "code", "independent", "secondary"]
Status = Literal["have", "part", "not"]
SEEN: dict[Seen, str] = {
    "abstract": "in the abstract",
    "paper": "in the paper or on an official page",
    "code": "in the project's own README or code",
    "independent": "in an independent run",
    "secondary": "in a second source",
}
STATUS: dict[Status, str] = {"have": "Roofscope has it", "part": "A part or a relative", "not": "Not here"}
_BACKENDS = ("llama_cpp", "pytorch", "onnxruntime")
_RUN, _TRANSFORM, _TRAIN = "pages/measure/run.py", "pages/measure/transform.py", "pages/measure/train.py"


class Place(Record, omit_defaults=False):
    """Where the app does it: a plugin by kind and name, an architecture preset, or a page."""

    kind: Literal["strategy", "transform", "backend", "preset", "page"]
    name: str


class Work(Record, omit_defaults=False):
    """One work. figure: as reported, "" where none was seen; setting: what it holds for.

    times: speed-up as (lowest, highest) of what is reported; None in front: "up to"; None behind: "more than".
    """

    id: str
    title: str
    year: int
    family: str
    idea: str
    figure: str = ""
    setting: str = ""
    arxiv: tuple[str, ...] = ()
    venue: str = ""
    seen: tuple[Seen, ...] = ()
    status: Status = "not"
    where: tuple[Place, ...] = ()
    note: str = ""
    times: tuple[float | None, float | None] | None = None


class Independent(Record, omit_defaults=False):
    """One method on one card of the independent bench: speed-up, and tokens accepted per step."""

    method: str
    work: str
    card: str
    speedup: float
    accepted: float


class Bench(Record, omit_defaults=False):
    """All independent rows, and the one setting in which they were taken."""

    setting: str
    source: str
    rows: tuple[Independent, ...]


class Sentence(Record, omit_defaults=False):
    """What several works say together. works: ids of the rows that it rests on."""

    text: str
    works: tuple[str, ...]


class Literature(Record, omit_defaults=False):
    works: tuple[Work, ...]
    independent: Bench
    sentences: tuple[Sentence, ...]


class Way(NamedTuple):
    """A link: the page, what to choose there, and what is done there."""

    page: str
    query: dict[str, str]
    label: str


@cache
def literature() -> Literature:
    """All of it, read once."""
    return msgspec.json.decode(Path(__file__).with_name("literature.json").read_bytes(), type=Literature)


def works() -> tuple[Work, ...]:
    return literature().works


def families() -> tuple[str, ...]:
    return tuple(dict.fromkeys(w.family for w in works()))


def chosen(
    family: str | None = None, status: str | None = None, seen: str | None = None, sentence: int | None = None
) -> tuple[Work, ...]:
    """The works that pass every filter that is set; sentence: counted from 1. The oldest come first."""
    rows = literature().sentences[sentence - 1].works if sentence else None
    found = (
        w
        for w in works()
        if (family is None or w.family == family)
        and (status is None or w.status == status)
        and (seen is None or seen in w.seen)
        and (rows is None or w.id in rows)
    )
    return tuple(sorted(found, key=lambda w: (w.year, w.title)))


def reported(found: Sequence[Work]) -> tuple[Reported, ...]:
    """Those of the works that report a speed-up, with it."""
    return tuple(
        Reported(w.id, w.title, w.family, w.year, w.seen[0], SEEN[w.seen[0]], Range(*w.times), w.setting)
        for w in found
        if w.times is not None
    )


def reported_beside_independent() -> tuple[Beside, ...]:
    """Every method of the bench whose own speed-up is known from elsewhere, the largest independent one first."""
    by_id = {w.id: w for w in works()}
    found = []
    for name in dict.fromkeys(r.work for r in literature().independent.rows):
        rows = [r for r in literature().independent.rows if r.work == name]
        work = by_id[name]
        if work.times is not None and set(work.seen) != {"independent"}:
            speeds = [r.speedup for r in rows]
            found.append((max(speeds), Beside(rows[0].method, Range(*work.times), Range(min(speeds), max(speeds)))))
    return tuple(beside for _, beside in sorted(found, key=lambda f: -f[0]))


def way(place: Place) -> Way:
    """The link that leads to it; raises ExplorerError for a plugin that does not exist."""
    match place.kind:
        case "strategy":
            strategy = plugins.get("strategy", place.name)
            able = [b for b in _BACKENDS if strategy.needs <= plugins.get("backend", b).capabilities]
            query = {"strategy": place.name} | ({"backend": able[0]} if able else {})
            return Way(_RUN, query, f"Decode with {plugins.label('strategy', place.name)}")
        case "transform":
            transform = plugins.get("transform", place.name)
            page = _TRAIN if transform.trains else _TRANSFORM
            return Way(page, {"transform": place.name}, plugins.label("transform", place.name))
        case "backend":
            return Way(_RUN, {"backend": place.name}, f"Run in {plugins.get('backend', place.name).label}")
        case "preset":
            return Way(_RUN, {"model": place.name}, f"Run {place.name}")
        case "page":
            return Way(place.name, {}, Path(place.name).stem.replace("_", " ").capitalize())
