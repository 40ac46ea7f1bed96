"""A sweep, a search or another study in forms that others can use, by its name and the name of the form.

Forms called `notexts` hold nobody's prompt or answer; no form but JSON and CSV holds a path or a name of user or host.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from core.errors import ExplorerError
from core.paths import data_dir
from core.report import searches as search_report
from core.report import sweeps as sweep_report
from core.report.study_bundle import bundle
from core.runs.store import Store
from core.studies import benchmark_report, ledger, study_store
from core.studies import report as ladder_report
from core.studies import search as searching
from core.studies import sweep as sweeping
from core.studies.findings import Findings
from core.studies.plan import Search, Sweep
from core.types import to_json

FORMATS = ("html", "notexts.html", "zip", "notexts.zip", "json", "csv")


def names() -> tuple[str, ...]:
    """Every study that there is something to show of: sweeps, searches, and those with findings."""
    found = (*ledger.names(Sweep), *ledger.names(Search), *(s.name for s in study_store.studies()))
    return tuple(dict.fromkeys(found))


def export_study(name: str, fmt: str, store: Store) -> bytes:
    """The study in one of FORMATS. Raises ExplorerError for one that is not there, and a form that it does not have."""
    if name not in names():
        raise ExplorerError(
            f"There is no study '{name[:100]}'.", "Sweep, Search and Trade-offs list those that are here."
        )
    if fmt.endswith("zip"):
        return bundle(name, store, texts="notexts" not in fmt)
    texts, found = "notexts" not in fmt, _found(name, store)
    if fmt == "json":
        return to_json(found)
    if fmt == "csv":
        if not isinstance(found, sweeping.Report):
            raise ExplorerError(f"{name} has no table as CSV.", "Only sweeps have; take json or html.")
        return sweeping.csv_of(sweeping.flat(found)).encode()
    if fmt not in FORMATS:
        raise ExplorerError(f"A study cannot be exported as {fmt}.", f"Take one of {', '.join(FORMATS)}.")
    if isinstance(found, sweeping.Report):
        return sweep_report.report(found, texts)
    if isinstance(found, searching.SearchReport):
        return search_report.report(found, texts)
    return ladder_report.html(found) if isinstance(found, Findings) else benchmark_report.html(found)


def _found(name: str, store: Store) -> Any:
    """What came of it: a sweep's or a search's report, or the findings of another study."""
    folder = data_dir() / "studies" / name
    state = ledger.read(folder)
    if state is not None and isinstance(state.plan, Sweep):
        return sweeping.report(state, store)
    if state is not None and isinstance(state.plan, Search):
        return searching.report(state, store)
    here = next((Path(s.path) for s in study_store.studies() if s.name == name), folder)
    return study_store.read(str(here))
