"""The table of faults names what exists; a few operations are disturbed at some of their writes (make faults: all)."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.faults import campaign
from tests.faults.disk import Disk, Op
from tests.faults.operations import OPERATIONS
from tests.faults.table import TABLE, TESTS

TESTS_FOLDER = Path(__file__).parents[1]
SHORT = ["add a folder", "save a ledger", "make a model", "forget a model"]


def test_there_are_rows_enough_and_each_is_its_own() -> None:
    assert len(TABLE) >= 80
    assert len({fault.done for fault in TABLE}) == len({fault.check for fault in TABLE}) == len(TABLE)


@pytest.mark.parametrize("file", sorted({fault.check.split("::")[0] for fault in TESTS}))
def test_the_tests_that_the_table_names_are_there(file: str) -> None:
    tree = ast.parse((TESTS_FOLDER / file).read_text())
    there = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    assert {f.check.split("::")[1] for f in TESTS if f.check.split("::")[0] == file} <= there


def test_a_power_cut_leaves_names_and_what_was_forced_to_the_disk(tmp_path: Path) -> None:
    base, place = tmp_path / "base", tmp_path / "place"
    base.mkdir()
    (base / "old").write_bytes(b"first")
    (base / "emptied").write_bytes(b"there")

    def name(path: str) -> str:
        return str(place / path)

    disk = Disk(base, place)
    for op in (
        Op(0, name("new"), "", 0, b""),
        Op(1, name("new"), "", 0, b"lost"),
        Op(2, name("new"), name("old"), 0, b""),
        Op(0, name("kept"), "", 0, b""),
        Op(1, name("kept"), "", 0, b"kept"),
        Op(7, name("kept"), "", 0, b""),
        Op(1, name("kept"), "", 4, b" and lost"),
        Op(0, name("emptied"), "", 1, b""),
        Op(4, name("folder"), "", 0, b""),
        Op(2, name("kept"), name("folder/kept"), 0, b""),
        Op(2, name("folder"), name("other"), 0, b""),
    ):
        disk.apply(op)
    disk.write()
    left = {str(p.relative_to(place)): p.read_bytes() for p in place.rglob("*") if p.is_file()}
    assert left == {"old": b"", "emptied": b"", "other/kept": b"kept"}


@pytest.mark.skipif(campaign.unavailable() is not None, reason=str(campaign.unavailable()))
def test_operations_disturbed_at_their_writes() -> None:
    assert set(SHORT) <= {operation.name for operation in OPERATIONS}
    rows = list(campaign.disturbed([*SHORT, "careless"], most=3))
    assert len(rows) == 3 * (len(SHORT) + 1) and all(row["points"] >= 2 for row in rows)
    found = {(row["operation"], row["way"]): row["wrong"] for row in rows}
    careless = {way: found.pop(("careless", way)) for way in ("kill", "full", "power")}
    assert not any(found.values()), found
    assert all(careless.values()), "a file that is written in place is neither the old nor the new one"
