"""The tables beside the recordings say what the recordings say."""

from __future__ import annotations

import re

import pytest

from core.studies import study_store
from tests.bench.__main__ import merged
from tests.bench.tables import QUOTED, QUOTING, ROOT, filled, of_part, tables


def test_every_recording_has_its_table_and_no_number_in_it_is_typed() -> None:
    found = dict(tables())
    assert len(found) >= len(list(study_store.RECORDED.glob("*/findings.json"))) >= 3
    for path, text in found.items():
        assert path.exists(), f"{path} is missing: run `make tables`"
        assert path.read_text(encoding="utf-8") == text, f"{path} is not its recording: run `make tables`"


def test_what_is_quoted_is_between_comments_with_its_name() -> None:
    text = "before\n<!-- a -->\nold\n\n| 1 |\n<!-- end -->\nafter\n<!-- b -->\n<!-- end -->\n"
    whole = "before\n<!-- a -->\n\n| 2 |\n\n<!-- end -->\nafter\n<!-- b -->\n\n3\n\n<!-- end -->\n"
    assert filled(text, {"a": "| 2 |\n", "b": "3"}) == whole == filled(whole, {"a": "| 2 |\n", "b": "3"})
    with pytest.raises(KeyError):
        filled(text, {"a": ""})
    names = [found["name"] for found in QUOTED.finditer(QUOTING.read_text(encoding="utf-8"))]
    assert len(names) == 1 + len(list(study_store.RECORDED.glob("*/findings.json")))


def test_the_headline_of_the_readme_is_that_of_the_recorded_benchmark() -> None:
    """Its numbers, and their intervals, stand in the study's table."""
    line = next(
        x for x in (ROOT / "README.md").read_text(encoding="utf-8").splitlines() if x.startswith("A consistency")
    )
    table = (study_store.RECORDED / "decoding-smollm2-135m" / "table.md").read_text(encoding="utf-8")
    numbers = re.findall(r"(?<![\d.])\d\.\d{2,3}(?![\d.])", line)
    assert len(numbers) >= 9 and not [n for n in numbers if n not in table]


def test_a_part_of_the_bench_is_a_table_with_its_date_and_machine() -> None:
    rows = [{"backend": "a", "tok_per_s": [12.3456, 7], "ok": True}, {"backend": "b", "ratio": None}]
    text = of_part("loops", {"date": "2026-11-26", "machine": "two cores", "results": rows})
    assert text.splitlines() == [
        "# loops",
        "",
        "Measured on 2026-11-26 on two cores.",
        "",
        "| backend | tok per s | ok | ratio |",
        "|---|---|---|---|",
        "| a | 12.35, 7 | yes | – |",
        "| b | – | – | – |",
    ]
    single = of_part("app", {"date": "d", "machine": "m", "results": {"start_s": 0.76, "warm": {"pytorch": [1, 2]}}})
    assert single.splitlines()[-3:] == ["| start_s | 0.76 |", "| warm pytorch 1 | 1 |", "| warm pytorch 2 | 2 |"]


def test_rows_measured_again_take_the_place_of_those_before() -> None:
    keys = ("backend", "tokens")
    old = [{"backend": "a", "tokens": 64, "ratio": 1}, {"backend": "a", "extra_s": 0.6}, {"backend": "b", "tokens": 64}]
    new = [{"backend": "a", "tokens": 64, "ratio": 2}, {"backend": "b", "tokens": 512}]
    assert merged(old, new, keys) == [new[0], *old[1:], new[1]]
