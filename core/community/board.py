"""The board: rows that can be believed, side by side, and those that are set apart, each with its reasons.

Beside what a row says of itself (core.community.checks), others speak: arithmetic in fp32 continues the same prompt
with the same text, and rows of one engine reach similar shares of their machines. One contributor counts once on a
class of machine; what is shown is the median over contributors. Pure functions of rows.
"""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Iterable, Sequence
from statistics import median

from core.community.checks import Doubt, doubts, of_roof
from core.community.row import Row
from core.types import Record

LEAST_OTHERS = 3  # contributors, before the many speak against one
APART = 3.0  # times the usual share of the roof, to either side


class Standing(Record, omit_defaults=False):
    """One class of machine under one configuration. rows: that it stands on, the newest of each contributor.

    low, high: of the contributors' figures. of_roof: of what the machine's memory allows. hot: a row was disturbed.
    """

    configuration: str
    label: str
    machine: str
    engine: str
    tok_per_s: float
    low: float
    high: float
    ttft_s: float
    of_roof: float
    memory_bytes_per_s: float
    bytes_per_token: float
    peak_memory_bytes: float | None
    joules_per_token: float | None
    n: int
    own: bool
    hot: bool
    rows: tuple[str, ...]


class Doubtful(Record, omit_defaults=False):
    """A row that is set apart."""

    row: Row
    own: bool
    doubts: tuple[Doubt, ...]


class Board(Record, omit_defaults=False):
    """standings: the fastest first within each configuration. n_doubled: rows that a newer one of the same
    contributor stands for."""

    standings: tuple[Standing, ...]
    doubtful: tuple[Doubtful, ...]
    n_doubled: int

    @property
    def configurations(self) -> dict[str, str]:
        """Id -> label, those with most machines first."""
        n = Counter(s.configuration for s in self.standings)
        labels = {s.configuration: s.label for s in self.standings}
        return dict(sorted(labels.items(), key=lambda c: (-n[c[0]], c[1])))


def board(own: Sequence[Row], others: Sequence[Row], today: datetime.date) -> Board:
    """All rows that are here, judged and ordered."""
    mine = {row.id for row in own}
    every = list({row.id: row for row in (*own, *others)}.values())
    by_itself = {row.id: doubts(row, today) for row in every}
    sound = [row for row in every if not by_itself[row.id]]
    found = {row.id: by_itself[row.id] or _against(row, sound) for row in every}
    kept = [row for row in every if not found[row.id]]
    newest = _newest(kept)
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in newest:
        groups.setdefault((row.configuration, row.machine.label), []).append(row)
    standings = [_standing(rows, mine) for rows in groups.values()]
    standings.sort(key=lambda s: (s.label, s.configuration, -s.tok_per_s))
    apart = [Doubtful(row=row, own=row.id in mine, doubts=found[row.id]) for row in every if found[row.id]]
    return Board(standings=tuple(standings), doubtful=tuple(apart), n_doubled=len(kept) - len(newest))


def _newest(rows: Iterable[Row]) -> list[Row]:
    """Of each contributor on each class of machine the newest row of a configuration."""
    found: dict[tuple[str, str, str, int], Row] = {}
    for row in sorted(rows, key=lambda r: (r.day, r.id)):
        found[(row.contributor, row.machine.label, row.configuration, row.workload.threads)] = row
    best: dict[tuple[str, str, str], Row] = {}  # threads are the contributor's choice: the quickest counts
    for row in found.values():
        key = (row.contributor, row.machine.label, row.configuration)
        if key not in best or row.tok_per_s > best[key].tok_per_s:
            best[key] = row
    return list(best.values())


def _standing(rows: Sequence[Row], mine: set[str]) -> Standing:
    first, speeds = rows[0], [row.tok_per_s for row in rows]
    peaks = [row.peak_memory_bytes for row in rows if row.peak_memory_bytes is not None]
    joules = [row.energy.per_token for row in rows if row.energy is not None]
    return Standing(
        configuration=first.configuration,
        label=first.label,
        machine=first.machine.label,
        engine=first.engine.name,
        tok_per_s=median(speeds),
        low=min(speeds),
        high=max(speeds),
        ttft_s=median(row.ttft_s for row in rows),
        of_roof=median(map(of_roof, rows)),
        memory_bytes_per_s=median(row.roofs.memory_bytes_per_s for row in rows),
        bytes_per_token=first.work.bytes_per_forward / (first.work.tokens_per_forward * first.workload.batch),
        peak_memory_bytes=median(peaks) if peaks else None,
        joules_per_token=median(joules) if joules else None,
        n=len(rows),
        own=any(row.id in mine for row in rows),
        hot=any(row.warnings for row in rows),
        rows=tuple(row.id for row in rows),
    )


def _against(row: Row, sound: Sequence[Row]) -> tuple[Doubt, ...]:
    """What rows of other contributors say against it; nothing while they are too few."""
    others = [o for o in sound if o.contributor != row.contributor]
    return (*_another_text(row, others), *_far_from_usual(row, others), *_other_ceilings(row, others))


def _n_contributors(rows: Iterable[Row]) -> int:
    return len({row.contributor for row in rows})


def _another_text(row: Row, others: Sequence[Row]) -> list[Doubt]:
    if row.text_sha256 is None or row.workload.activation_dtype != "fp32" or row.model.sha256 is None:
        return []
    same = [o for o in others if o.configuration == row.configuration and o.text_sha256 is not None]
    if _n_contributors(same) < LEAST_OTHERS:
        return []
    text, n = Counter(o.text_sha256 for o in same).most_common(1)[0]
    if text == row.text_sha256 or n * 2 <= len(same):
        return []
    words = f"{n} of {len(same)} others continue this prompt with the same text in fp32, and this row with another."
    return [Doubt(check="text", reason=words)]


def _far_from_usual(row: Row, others: Sequence[Row]) -> list[Doubt]:
    """Its share of the roof beside that of other machines, which is what the engine makes of a machine."""
    same = [o for o in others if o.configuration == row.configuration]
    if _n_contributors(same) < LEAST_OTHERS:
        return []
    usual, own = median(map(of_roof, same)), of_roof(row)
    if usual / APART <= own <= usual * APART:
        return []
    words = f"It reaches {own:.0%} of its machine's roof where {len(same)} others reach {usual:.0%}."
    return [Doubt(check="others", reason=words)]


def _other_ceilings(row: Row, others: Sequence[Row]) -> list[Doubt]:
    same = [o for o in others if o.machine.label == row.machine.label and o.roofs.threads == row.roofs.threads]
    if _n_contributors(same) < LEAST_OTHERS:
        return []
    usual, own = median(o.roofs.memory_bytes_per_s for o in same), row.roofs.memory_bytes_per_s
    if usual / APART <= own <= usual * APART:
        return []
    words = f"Its memory is said to give {own / usual:.2g} times what {len(same)} others measured on such machines."
    return [Doubt(check="ceilings", reason=words)]
