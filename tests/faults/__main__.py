"""python -m tests.faults [GROUP ...] [--like WORDS] [--record]: provoke every fault of the table, and say what came.

Groups: writes, runs, workers, models, input, pages, killed, stopped, clock, memory, together, browsers; without any
all of them, which takes half an hour. --like takes only the rows with these words. With --record the rows are kept in
tests/bench/recorded/faults.json, each with its day and machine, out of which `make tables` makes the table. Exit status
1 where a row is not green. `python -m tests.faults soak`, `... tabs`, `... left`: see tests.faults.soak, tabs and left.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hardware.detect import machine
from tests.bench.recording import record, recorded
from tests.faults import campaign, left, soak, tabs
from tests.faults.browsers import VISITS
from tests.faults.operations import OPERATIONS
from tests.faults.scenario import performed
from tests.faults.scenarios import SCENARIOS
from tests.faults.table import GROUPS, TABLE, Fault

GREEN = "green"


def of_writes(faults: Sequence[Fault]) -> Iterator[tuple[Fault, int, str]]:
    """Every operation of these rows, with how many writes were disturbed and what came of it."""
    by_check = {fault.check: fault for fault in faults}
    if reason := campaign.unavailable():
        yield from ((fault, 0, f"not tried: {reason}") for fault in faults)
        return
    names = [op.name for op in OPERATIONS if any(check.startswith(f"{op.name}:") for check in by_check)]
    for row in campaign.disturbed(names):
        fault = by_check[f"{row['operation']}:{row['way']}"]
        yield fault, row["points"], row["wrong"][0] if row["wrong"] else GREEN


def of_tests(faults: Sequence[Fault]) -> Iterator[tuple[Fault, int, str]]:
    """Every test of these rows, in a process for each file."""
    files: dict[str, list[Fault]] = defaultdict(list)
    for fault in faults:
        files[fault.check.split("::")[0]].append(fault)
    for file, rows in files.items():
        cases = junit([f"tests/{row.check}" for row in rows])
        for row in rows:
            own = [said for name, said in cases if name.split("[")[0] == row.check.split("::")[1]]
            wrong = [said for said in own if said != GREEN]
            yield row, len(own), wrong[0] if wrong else GREEN if own else f"no such test in {file}"


def of_scenarios(faults: Sequence[Fault]) -> Iterator[tuple[Fault, int, str]]:
    """Every scenario of these rows, each in a home of its own."""
    by_check = {f"scenario:{s.name}": s for s in (*SCENARIOS, *VISITS)}
    for fault in faults:
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as home:
            wrong = performed(by_check[fault.check], Path(home))
        yield fault, 1, wrong.replace("\n", " ") or GREEN


def junit(tests: list[str]) -> list[tuple[str, str]]:
    """Name and outcome of every case of these tests."""
    with tempfile.NamedTemporaryFile(suffix=".xml") as report:
        command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", *tests]
        subprocess.run([*command, f"--junitxml={report.name}"], cwd=campaign.ROOT, check=False, capture_output=True)
        try:
            cases = list(ElementTree.parse(report.name).iter("testcase"))
        except ElementTree.ParseError:
            return []
    return [(str(case.get("name")), _outcome(case)) for case in cases]


def _outcome(case: ElementTree.Element) -> str:
    for child in case:
        if child.tag in ("failure", "error", "skipped"):
            return f"{child.tag}: {str(child.get('message'))[:150]}".replace("\n", " ")
    return GREEN


def keep(rows: Sequence[dict[str, Any]]) -> None:
    """Rows of the table in its order; those that were not tried now stay as they were."""
    before = recorded("faults") or {"machine": "", "results": []}
    old = [{**row, "machine": row.get("machine", before["machine"])} for row in before["results"]]
    known = {row["what is done"]: row for row in old}
    known |= {row["what is done"]: row for row in rows}
    results = [known[fault.done] for fault in TABLE if fault.done in known]
    record("faults", results, "python -m tests.faults")


def main(arguments: list[str]) -> int:
    if arguments and arguments[0] in (others := {"soak": soak, "tabs": tabs, "left": left}):
        return others[arguments[0]].main(arguments[1:])
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("groups", nargs="*", metavar="group", choices=[*GROUPS, []], help=", ".join(GROUPS))
    parser.add_argument("--like", default="", help="only the rows with these words")
    parser.add_argument("--record", action="store_true", help="keep the rows with the project")
    given = parser.parse_args(arguments)
    wanted = [f for f in TABLE if (not given.groups or f.group in given.groups) and given.like in f.done]
    writes = [fault for fault in wanted if fault.group == "writes"]
    tests = [fault for fault in wanted if "::" in fault.check]
    staged = [fault for fault in wanted if fault.check.startswith("scenario:")]
    rows = []
    for found in (of_writes(writes), of_tests(tests), of_scenarios(staged)):
        for fault, times, result in found:
            print(f"{result if result == GREEN else 'RED':6} {times:4}  {fault.done}", flush=True)
            if result != GREEN:
                print(f"       {result}", flush=True)
            rows.append(
                {
                    "what is done": fault.done,
                    "times": times,
                    "what must be seen": fault.seen,
                    "what must be left": fault.left,
                    "result": result,
                    "day": time.strftime("%Y-%m-%d"),
                    "machine": machine().cpu,
                }
            )
            if given.record:
                keep(rows[-1:])
    red = sum(row["result"] != GREEN for row in rows)
    print(f"\n{len(rows)} rows, {red} of them not green.")
    return 1 if red else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
