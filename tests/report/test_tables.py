"""Tables for other programs, read back as these would."""

from __future__ import annotations

import csv
import io
import json

from core.report.tables import as_csv, as_markdown


def test_csv_reads_back_and_holds_no_formula() -> None:
    rows = [
        {"text": "=HYPERLINK(1)", "x": -1.5, "none": None},
        {"text": 'two\nlines, "quoted"', "x": 2, "none": None},
        {"text": "-3 is an answer", "x": 0, "none": None},
    ]
    back = list(csv.DictReader(io.StringIO(as_csv(rows))))
    assert [row["text"] for row in back] == ["'=HYPERLINK(1)", 'two\nlines, "quoted"', "'-3 is an answer"]
    assert [row["x"] for row in back] == ["-1.5", "2", "0"] and {row["none"] for row in back} == {""}
    assert as_csv([]) == ""


def test_a_list_in_a_cell_is_json() -> None:
    rows = [{"tokens": (504, 7), "pieces": ["a", ' "b"'], "none": ()}]
    (back,) = csv.DictReader(io.StringIO(as_csv(rows)))
    assert {name: json.loads(cell) for name, cell in back.items()} == {
        "tokens": [504, 7],
        "pieces": ["a", ' "b"'],
        "none": [],
    }


def test_a_bar_ends_no_cell() -> None:
    assert as_markdown(("a", "b"), [("1|2", "–")]) == "| a | b |\n|---|---|\n| 1/2 | – |"
