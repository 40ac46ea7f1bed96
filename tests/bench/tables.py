"""python -m tests.bench.tables: the measured tables as Markdown, from what was recorded, so that no number is typed.

Recorded are the studies that come with the project and the measurements that were run with --record. Each table lies
beside its recording. docs/measured.md quotes them, and the errors on published machines, between comments with their
names. tests/studies/test_tables.py holds all to account.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from core.analysis.calibrate import calibration_table
from core.report import architectures, benchmark, ladder
from core.report.tables import as_markdown
from core.studies import architecture_found, study_store
from core.studies.findings import Findings
from hardware.published import runs
from tests.bench.recording import RECORDED

ROOT = Path(__file__).parents[2]
QUOTING = ROOT / "docs" / "measured.md"
QUOTED = re.compile(r"^<!-- (?P<name>\S+) -->\n.*?^<!-- end -->$", re.M | re.S)


def tables() -> Iterator[tuple[Path, str]]:
    """Every generated file and what it holds."""
    quoted = {"published": published()}
    for file in sorted(study_store.RECORDED.glob("*/findings.json")):
        found = study_store.read(str(file.parent))
        text = ladder.markdown(found) if isinstance(found, Findings) else benchmark.markdown(found)
        quoted[str(file.with_name("table.md").relative_to(ROOT))] = text
        yield file.with_name("table.md"), f"# {found.plan.title}\n\n{text}"
    for file in sorted(study_store.RECORDED.glob(f"*/{architecture_found.FILE}")):
        shapes = architecture_found.read(file.read_bytes())
        text = architectures.markdown(shapes)
        quoted[str(file.with_name("table.md").relative_to(ROOT))] = text
        yield file.with_name("table.md"), f"# {shapes.plan.title}\n\n{text}"
    for file in sorted(RECORDED.rglob("*.json")):
        text = of_recording(json.loads(file.read_bytes()))
        quoted[str(file.with_suffix(".md").relative_to(ROOT))] = text
        yield file.with_suffix(".md"), f"# {file.stem}\n\n{text}"
    yield QUOTING, filled(QUOTING.read_text(encoding="utf-8"), quoted)


def filled(text: str, quoted: Mapping[str, str]) -> str:
    """The text with what it quotes between `<!-- name -->` and `<!-- end -->`. Raises KeyError for an unknown name."""
    return QUOTED.sub(lambda m: f"<!-- {m['name']} -->\n\n{quoted[m['name']].strip()}\n\n<!-- end -->", text)


def published() -> str:
    """The errors of prediction on published machines that were left out of the fit; computed, nothing is timed."""
    return _table(
        [
            {
                "Phase": row.phase,
                "Method": f"{row.method}, {row.left_out} left out" if row.left_out else row.method,
                "Rows": row.n,
                "Median error": f"{row.median_error:.1%}",
                "90th percentile": f"{row.p90_error:.1%}",
                "Inside the interval": None if row.coverage is None else f"{row.coverage:.0%}",
                "Interval score": None if row.interval_score is None else f"{row.interval_score:.2f}",
            }
            for row in calibration_table(runs())
        ]
    )


def of_recording(recorded: Mapping[str, Any]) -> str:
    """Where, when and how it was measured, or which note states it; then its rows, or single figures by name."""
    results = recorded["results"]
    rows = results if isinstance(results, list) else [{"figure": k, "value": v} for k, v in _flat(results)]
    how = f" by `{recorded['command']}`" if recorded.get("command") else ""
    origin = f"Measured on {recorded['date']} on {recorded['machine']}{how}."
    if note := recorded.get("stated_in"):
        origin += f" No recording was kept: the figures were written by hand in {note}."
    return f"{origin}\n\n{_table(rows)}"


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    names = list(dict.fromkeys(name for row in rows for name in row))
    head = [n.replace("_per_s", "/s").replace("_", " ") for n in names]
    return as_markdown(head, [[_cell(row.get(name)) for name in names] for row in rows]) + "\n"


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """The figures of nested mappings and lists, each under the names and places on the way to it."""
    if not isinstance(value, dict | list):
        yield name, value
        return
    for key, part in value.items() if isinstance(value, dict) else enumerate(value, 1):
        yield from _flat(part, f"{name} {key}".strip())


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, list):
        return ", ".join(map(_cell, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def main() -> None:
    for path, text in tables():
        path.write_text(text, encoding="utf-8")
        print(path)


if __name__ == "__main__":
    main()
