"""A sweep, a search or another study with all its runs as one file for others, and back.

Like the bundles of runs in it, it holds no path and no name of user or host, and no prompt or answer where these are
not wanted. A cell is known by its request, so where that loses a path or a prompt, the ledger's keys are written anew.
"""

from __future__ import annotations

import hashlib
import io
import re
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from core.paths import data_dir
from core.report.bundle_for_others import LEFT_OUT, clean, request_for_others, shared_bundle
from core.report.private import scrubbed
from core.runs.store import BROKEN_ZIP, MOST_BUNDLE_BYTES, Run, Store, member
from core.studies import ledger, old_form
from core.studies.findings import Findings
from core.studies.grid import MOST_CELLS, cells
from core.studies.ledger import State
from core.studies.plan import Search, Study, Sweep
from core.studies.search import judged_key
from core.studies.standings import Standings
from core.types import from_json, to_json
from hardware.errors import ExplorerError
from hardware.files import write_whole

FORMAT = "roofscope-study-1"
MOST_STUDY_BYTES = 4_000_000_000  # of all its runs, unpacked; five thousand like the recorded one have half of that
ABOUT, FINDINGS, RUNS = "roofscope.json", "findings.json", "runs/"
_NAME = re.compile(r"[\w][\w.-]{0,99}", re.ASCII)
_BY_CELL = ("refused", "expected_s", "ranges")  # fields of the ledger whose keys are cells
_BY_RUN = ("runs", "failures", "took_s", "machines")  # and those whose keys begin with one


def bundle(name: str, store: Store, texts: bool) -> bytes:
    """The zip of a study on this machine. texts: with prompts and answers.

    Raises ExplorerError for a study that is none or has no ledger here, as those that came with the project.
    """
    folder = data_dir() / "studies" / name
    state = ledger.read(folder)
    if state is None:
        raise ExplorerError(
            f"The study {name} has no runs here that could be sent.", "Take its report: it holds all figures."
        )
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as found:
        named = _without(name, machines_of(state))
        found.writestr(ABOUT, to_json({"format": FORMAT, "name": _plain_name(named)}))
        found.writestr(ledger.FILE, _ledger(state, texts))
        if (folder / FINDINGS).is_file():
            findings = _worded(_json(folder / FINDINGS), texts)
            plan = findings.get("plan", {})
            if "title" in plan:
                findings = {**findings, "plan": {**plan, "title": nameless(state).plan.title}}
            found.writestr(FINDINGS, to_json(clean(findings)))
        for run_id in dict.fromkeys(state.runs.values()):
            try:
                run = store.open(run_id)
                data = shared_bundle(run, texts)
            except ExplorerError:  # deleted, or damaged
                continue
            found.writestr(zipfile.ZipInfo(f"{RUNS}{run_id}.zip"), data, zipfile.ZIP_STORED)
    return out.getvalue()


def load(data: bytes, store: Store) -> str:
    """Import a study's bundle with its runs; gives the name under which it is here. One that is here already stays.

    Raises ExplorerError for what is none, for one that is damaged or too large, and for a run that cannot be read.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as found:
            about = msgspec.json.decode(_part(found, ABOUT), type=dict[str, Any])
            if about.get("format") != FORMAT or not _NAME.fullmatch(str(about.get("name"))):
                raise KeyError("format")
            state: State[Any] = old_form.read(_part(found, ledger.FILE), State)
            names = [n for n in found.namelist() if n.startswith(RUNS)]
            if len(names) > 2 * MOST_CELLS:
                raise ExplorerError(f"This bundle holds {len(names):,} runs, and no study does.", "Export it again.")
            name = f"{about['name'][:80]}-from-{hashlib.sha256(data).hexdigest()[:6]}"
            findings = _part(found, FINDINGS) if FINDINGS in found.namelist() else None
            if findings is not None:
                _check(findings)
            _load_runs((_part(found, run) for run in names), store)
    except (KeyError, TypeError, msgspec.DecodeError) as error:
        raise ExplorerError(
            "This file is not a bundle of a study.", "Export one from the page of the study."
        ) from error
    except BROKEN_ZIP as error:
        raise ExplorerError(
            "This file is not a bundle, or it is damaged.", "Copy it again, or export it anew."
        ) from error
    folder = data_dir() / "studies" / name
    if (folder / ledger.FILE).exists():
        return name
    state.plan = msgspec.structs.replace(state.plan, name=name, title=f"{state.plan.title}, imported")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if findings is not None:
            write_whole(folder / FINDINGS, findings)
        write_whole(folder / ledger.FILE, to_json(state))
    except OSError as error:
        raise ExplorerError(f"The study could not be stored: {error.strerror or error}.", "Free some space.") from error
    return name


def _check(findings: bytes) -> None:
    """Raises ExplorerError for findings that no page can show, as those from elsewhere may be."""
    from core.report import benchmark, ladder  # they bring the charts, which other bundles do without

    try:
        found: Findings | Standings = old_form.read(findings, Findings | Standings)
        if isinstance(found, Findings):
            ladder.sections(found)
        else:
            benchmark.sections(found)
    except Exception as error:  # each part is well formed, and they can say anything together
        why = str(error) if isinstance(error, msgspec.DecodeError) else type(error).__name__
        raise ExplorerError(
            f"This study is damaged: its findings contradict each other ({why}).", "Export it again."
        ) from error


def _load_runs(bundles: Iterable[bytes], store: Store) -> None:
    """All of them, or where one cannot be taken in, none. Raises ExplorerError, and what reading the bundle raises."""
    before, made, left = set(store.ids()), list[Run](), MOST_STUDY_BYTES
    try:
        for data in bundles:
            run = store.load(data)
            if run.id not in before:
                made.append(run)
                left -= sum(file.stat().st_size for file in run.path.iterdir())
            if left < 0:
                raise ExplorerError(
                    f"The runs of this bundle hold more than {MOST_STUDY_BYTES / 1e9:.0f} GB, and no study does.",
                    "Export it again.",
                )
    except BaseException:
        store.delete_all({run.id for run in made})
        raise


def load_any(data: bytes, store: Store) -> Run | str:
    """Import a bundle of a run, or of a study, whose name comes back. Raises ExplorerError as these do."""
    return load(data, store) if _is_study(data) else store.load(data)


def _plain_name(name: str) -> str:
    """The name of a folder without a name of user or host in it."""
    return re.sub(r"[^\w.-]", "-", scrubbed(name), flags=re.ASCII).lstrip(".-") or "study"


def _is_study(data: bytes) -> bool:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as found:
            return ledger.FILE in found.namelist()
    except BROKEN_ZIP:
        return False


def _part(found: zipfile.ZipFile, name: str) -> bytes:
    data = member(found, name, MOST_BUNDLE_BYTES + 1)
    if len(data) > MOST_BUNDLE_BYTES:
        raise ExplorerError(
            f"{name} in this bundle is larger than {MOST_BUNDLE_BYTES / 1e6:.0f} MB.", "Export it again."
        )
    return data


def _json(file: Path) -> Any:
    try:
        return msgspec.json.decode(file.read_bytes())
    except (OSError, msgspec.DecodeError) as error:
        raise ExplorerError(
            f"{file.name} cannot be read.", "Run the study again: it goes on where it stopped."
        ) from error


def _ledger(state: State[Any], texts: bool) -> bytes:
    """The ledger for others, its keys those of the cells as they are there."""
    found = msgspec.json.decode(to_json(nameless(state)))
    found["plan"] = _worded(found["plan"], texts)
    found = clean(found)
    new = _new_ids(state.plan, from_json(to_json(found), State).plan)
    for field in _BY_CELL:
        found[field] = {new.get(key, key): value for key, value in found.get(field, {}).items()}
    for field in _BY_RUN:
        found[field] = {_renamed(key, new): value for key, value in found.get(field, {}).items()}
    return to_json(found)


def nameless(state: State[Any]) -> State[Any]:
    """The same with `machine-1` in place of the first machine's name, and so on: they say whose machines it were."""

    def plain(words: str) -> str:
        return _without(words, machines)

    machines = machines_of(state)
    return msgspec.structs.replace(
        state,
        plan=msgspec.structs.replace(state.plan, name=plain(state.plan.name), title=plain(state.plan.title)),
        runs={plain(key): run_id for key, run_id in state.runs.items()},
        took_s={plain(key): seconds for key, seconds in state.took_s.items()},
        failures={plain(key): plain(reason) for key, reason in state.failures.items()},
        refused={cell: plain(reason) for cell, reason in state.refused.items()},
        machines={plain(key): plain(name) for key, name in state.machines.items()},
        kinds={plain(name): kind for name, kind in state.kinds.items()},
    )


def machines_of(state: State[Any]) -> tuple[str, ...]:
    """The names of the machines of a study, as they are called at home."""
    return tuple(dict.fromkeys((*state.machines.values(), *state.kinds)))


def _without(words: str, machines: Sequence[str]) -> str:
    for number, name in enumerate(machines, 1):
        host, dash, port = name.rpartition("-")
        either = f"{re.escape(name)}|{re.escape(host)}:{port}" if dash and port.isdecimal() else re.escape(name)
        words = re.sub(rf"(?<![\w.])(?:{either})(?!\w)", f"machine-{number}", words, flags=re.IGNORECASE)
    return words


def _worded(plan: dict[str, Any], texts: bool) -> dict[str, Any]:
    """A plan, or findings with theirs, without a prompt where these are not wanted."""
    if texts:
        return plan
    found = dict(plan)
    if isinstance(found.get("plan"), dict):
        found["plan"] = _worded(found["plan"], texts)
    if isinstance(found.get("base"), dict):
        found["base"] = request_for_others(found["base"], texts)
    if found.get("question"):
        found["question"] = LEFT_OUT
    return found


def _new_ids(before: Study, after: Study) -> dict[str, str]:
    """Cell -> the same cell under the plan as others get it; both grids list their cells in the same order."""
    if not isinstance(before, Sweep | Search) or not isinstance(after, Sweep | Search):
        return {}
    old = cells(before.grid if isinstance(before, Search) else before)
    try:
        new = cells(after.grid if isinstance(after, Search) else after)
    except ExplorerError:  # a value is there twice
        new = ()
    if len(old) != len(new):
        raise ExplorerError(
            "Two models of this study have the same file name, and would be one without their paths.",
            "Send its report, or rename one of the files and measure again.",
        )
    found = {a.id: b.id for a, b in zip(old, new, strict=True)}
    if isinstance(before, Search) and isinstance(after, Search):  # the keys of what tells a cell's quality
        pairs = ((judged_key(before, a.request), judged_key(after, b.request)) for a, b in zip(old, new, strict=True))
        found |= {a: b for a, b in pairs if a is not None and b is not None}
    return found


def _renamed(key: str, new: dict[str, str]) -> str:
    cell, slash, rest = key.partition("/")
    final = "final-" if cell.startswith("final-") else ""
    cell = cell.removeprefix("final-")
    return f"{final}{new.get(cell, cell)}{slash}{rest}"
