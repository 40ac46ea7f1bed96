"""All advice ever given and what came of it: a file each under the data folder, written whole or not at all."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path

import msgspec

from core.advice.record import Advice, Case
from core.types import from_json, to_json
from hardware.errors import ExplorerError
from hardware.files import contents, write_whole

FOLDER = "advice"


class Book:
    """The cases of one data folder."""

    def __init__(self, root: Path) -> None:
        self.folder = root / FOLDER

    def offer(self, advices: Iterable[Advice]) -> tuple[Case, ...]:
        """Note what is shown to somebody; an advice that was given before keeps its first promise and its trials.

        What is known of its quality is brought up to date.
        """
        return tuple(self._offered(a) for a in advices)

    def _offered(self, given: Advice) -> Case:
        if (known := self.find(given.id)) is None:
            return self.save(Case(advice=given))
        if given.quality == "unknown" or given.quality == known.advice.quality:
            return known
        advice = msgspec.structs.replace(known.advice, quality=given.quality)
        return self.save(msgspec.structs.replace(known, advice=advice))

    def find(self, advice_id: str) -> Case | None:
        """The case of an advice; None where there is none or its file is damaged."""
        with contextlib.suppress(OSError, msgspec.DecodeError):
            return from_json(contents(self.folder / f"{advice_id}.json"), Case)
        return None

    def case(self, advice_id: str) -> Case:
        """As `find`; raises ExplorerError where there is none."""
        if (found := self.find(advice_id)) is None:
            raise ExplorerError(f"There is no advice '{advice_id}'.", "Ask for advice on a run first.")
        return found

    def save(self, case: Case) -> Case:
        """Raises OSError (a full disk), and then what was kept before is untouched."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_whole(self.folder / f"{case.advice.id}.json", to_json(case))
        return case

    def cases(self) -> tuple[Case, ...]:
        """All that can be read, the oldest first."""
        if not self.folder.is_dir():
            return ()
        found = [self.find(path.stem) for path in sorted(self.folder.glob("[!.]*.json"))]
        return tuple(sorted((c for c in found if c is not None), key=lambda c: c.advice.made_at))
