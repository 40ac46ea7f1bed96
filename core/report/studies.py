"""A sweep, a search of either kind or another study in forms that others can use, by its name and that of the form.

Forms called `notexts` hold nobody's prompt or answer; no form but JSON and CSV holds a path or a name of user or host.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from core.paths import data_dir
from core.report import architectures, benchmark, ladder, searches, sweeps
from core.report.study_bundle import bundle, nameless
from core.report.tables import as_csv
from core.runs.store import Store
from core.studies import architecture_findings, architecture_found, free_shapes, ledger, study_store
from core.studies import search as searching
from core.studies import sweep as sweeping
from core.studies.findings import Findings
from core.studies.plan import Architectures, FreeShapes, Search, Sweep
from core.types import to_json
from hardware.errors import ExplorerError

FORMATS = ("html", "notexts.html", "zip", "notexts.zip", "json", "csv")


def names() -> tuple[str, ...]:
    """Every study that there is something to show of: sweeps, searches, and those with findings."""
    own = (name for kind in (Sweep, Search, Architectures, FreeShapes) for name in ledger.names(kind))
    return tuple(dict.fromkeys((*own, *(s.name for s in study_store.studies()), *study_store.recorded_architectures())))


def export_study(name: str, fmt: str, store: Store) -> bytes:
    """The study in one of FORMATS. Raises ExplorerError for one that is not there, and a form that it does not have."""
    if name not in names():
        raise ExplorerError(
            f"There is no study '{name[:100]}'.", "Sweep, Architectures and Trade-offs list those that are here."
        )
    if fmt.endswith("zip"):
        return bundle(name, store, texts="notexts" not in fmt)
    texts, found = "notexts" not in fmt, _found(name, store, plain=fmt.endswith("html"))
    if fmt == "json":
        return to_json(found)
    if fmt == "csv":
        if not isinstance(found, sweeping.Report):
            raise ExplorerError(f"{name} has no table as CSV.", "Only sweeps have; take json or html.")
        return as_csv(sweeping.flat(found)).encode()
    if fmt not in FORMATS:
        raise ExplorerError(f"A study cannot be exported as {fmt}.", f"Take one of {', '.join(FORMATS)}.")
    if isinstance(found, sweeping.Report):
        return sweeps.report(found, texts)
    if isinstance(found, searching.SearchReport):
        return searches.report(found, texts)
    if isinstance(found, architecture_found.Found):
        return architectures.html(found)
    if isinstance(found, free_shapes.Found):
        return architectures.free_html(found)
    return ladder.html(found) if isinstance(found, Findings) else benchmark.html(found)


def _found(name: str, store: Store, plain: bool) -> Any:
    """What came of it: a sweep's or a search's report, or the findings of another study. plain: names no machine."""
    folder = data_dir() / "studies" / name
    state = ledger.read(folder)
    if state is not None and plain:
        state = nameless(state)
    if state is not None and isinstance(state.plan, Sweep):
        return sweeping.report(state, store)
    if state is not None and isinstance(state.plan, Search):
        return searching.report(state, store)
    if state is not None and isinstance(state.plan, Architectures):
        return architecture_findings.findings(state, store)
    if state is not None and isinstance(state.plan, FreeShapes):
        return free_shapes.findings(state)
    if name in (shipped := study_store.recorded_architectures()):
        return architecture_found.read((shipped[name] / architecture_found.FILE).read_bytes())
    here = next((Path(s.path) for s in study_store.studies() if s.name == name), folder)
    found = study_store.read(str(here))
    if state is None or not plain:
        return found
    return msgspec.structs.replace(found, plan=msgspec.structs.replace(found.plan, title=state.plan.title))
