"""The board: medians over contributors, what many say against one, doubles; and files taken in."""

from __future__ import annotations

import datetime
from pathlib import Path

import msgspec
import pytest

from core.community.board import board
from core.community.picture import picture
from core.community.row import Row, encoded, identified
from core.community.row_store import RowStore
from hardware.errors import ExplorerError
from tests.community.rows import GB, ME, YOU, honest

TODAY = datetime.date(2026, 11, 27)
THREE = ("1" * 12, "2" * 12, "3" * 12)


def test_the_median_over_contributors_each_of_whom_counts_once() -> None:
    others = [honest(contributor=c, tok_per_s=v) for c, v in zip(THREE, (7.0, 8.0, 9.0), strict=True)]
    again = honest(contributor=THREE[0], tok_per_s=7.4, day="2026-11-21")
    slower = honest(contributor=THREE[1], tok_per_s=5.0, workload__threads=2)
    mine = honest(contributor=ME, tok_per_s=8.5)
    found = board([mine], [*others, again, slower, others[0]], TODAY)
    (one,) = found.standings
    assert (one.n, one.own, found.n_doubled) == (4, True, 2) and not found.doubtful
    assert one.tok_per_s == pytest.approx((8.0 + 8.5) / 2) and one.low == pytest.approx(7.4), "the newer one counts"
    elsewhere = honest(contributor=ME, machine__cpu="A laptop", tok_per_s=9.5)
    found = board([mine, elsewhere], others, TODAY)
    assert [s.machine.split(",")[0] for s in found.standings] == ["A laptop", "A desktop"], "the quickest first"
    assert list(found.configurations) == [one.configuration]


def test_the_same_model_by_another_name_stands_beside_it_and_another_workload_does_not() -> None:
    a, b = honest(), honest(model__name="…/copy.gguf", contributor=ME)
    assert a.configuration == b.configuration != honest(workload__new_tokens=64).configuration


def test_many_speak_against_one() -> None:
    others = [honest(contributor=c, tok_per_s=8.0 + n / 100) for n, c in enumerate(THREE)]
    text = honest(contributor=YOU, text_sha256="f" * 16)
    slow = honest(contributor=YOU, tok_per_s=1.0)
    memory = honest(contributor=YOU, tok_per_s=8.0, roofs__reads=((1e6, 800 * GB), (5e8, 200 * GB)))
    for row, checks in ((text, {"text"}), (slow, {"others"}), (memory, {"others", "ceilings"})):
        (apart,) = board([], [*others, row], TODAY).doubtful
        assert apart.row == row and {d.check for d in apart.doubts} == checks
        assert not board([], [*others[:2], row], TODAY).doubtful, "two are too few to speak"
    bf16 = [msgspec.structs.replace(r, workload=msgspec.structs.replace(r.workload, activation_dtype="bf16"))
            for r in (*others, text)]  # fmt: skip
    assert not board([], bf16, TODAY).doubtful, "rounding differs by machine"


def test_the_picture_has_mine_others_and_what_is_set_apart() -> None:
    rows = [honest(), honest(tok_per_s=333_336.0, contributor=ME)]
    found = board([honest(contributor=ME, machine__cpu="Mine")], rows, TODAY)
    chart = picture(found, rows[0].configuration)
    assert chart is not None and {m["whose"] for m in chart.spec["datasets"]["marks"]} == {
        "mine",
        "others",
        "set apart",
    }
    assert all(p["limit"] == pytest.approx(p["bandwidth"] / (4 * GB)) for p in chart.spec["datasets"]["limit"])
    far = next(m for m in chart.spec["datasets"]["marks"] if m["whose"] == "set apart")
    assert far["tok_per_s"] == pytest.approx(3 * 40 / 4) and far["text"].startswith("333,3")
    assert picture(found, "nothing") is None


# ---------------------------------------------------------------- files


def lines(*rows: Row) -> bytes:
    return b"\n".join(msgspec.json.encode(row) for row in rows)


def test_files_of_others_are_taken_in_once_each_row_with_its_reason(tmp_path: Path) -> None:
    row_store = RowStore(tmp_path)
    a, b = honest(), honest(tok_per_s=7.0)
    changed = msgspec.json.decode(msgspec.json.encode(a)) | {"n_tokens": 33}
    bad = [{**changed, "extra": 1}, changed, {"schema": "another"}, {**changed, "rounds": [{"ttft_s": -1}]}]
    taken = row_store.take_in("rows.json", msgspec.json.encode([a, *bad]))
    assert (taken.n_new, taken.n_known, len(taken.refused)) == (1, 0, 4)
    assert "extra" in taken.refused[0] and "id does not fit" in taken.refused[1] and "$.rounds[0]" in taken.refused[3]
    assert row_store.take_in("rows.jsonl", lines(a, b)) == (1, 1, ())
    assert row_store.take_in("one.json", encoded(b)) == (0, 1, ())
    own, others = row_store.rows()
    assert not own and {row.id for row in others} == {a.id, b.id}
    row_store.keep(a)
    assert [len(rows) for rows in row_store.rows()] == [1, 1] and row_store.own(a.id) == a
    (row_store.folder / "others" / "torn.json").write_text('{"schema":')
    row_store.forget(b.id)
    assert [len(rows) for rows in row_store.rows()] == [1, 0]
    for wrong in (row_store.own, row_store.forget):
        with pytest.raises(ExplorerError, match="There is no row"):
            wrong("x")


@pytest.mark.parametrize("data", [b"", b"[]", b"3", b"[3]", b"{", b"\xff\xfe", b"[" * 100_000, b'"a"\n"b"'])
def test_what_is_no_file_of_rows_is_said(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(ExplorerError) as caught:
        RowStore(tmp_path).take_in("odd.json", data)
    assert "odd.json" in caught.value.message and "recursion" not in caught.value.message and caught.value.hint


def test_a_row_that_is_too_large_is_refused(tmp_path: Path) -> None:
    row = msgspec.json.decode(msgspec.json.encode(honest())) | {"warnings": ["w" * 70_000]}
    assert "larger than 64 KiB" in RowStore(tmp_path).take_in("big.json", msgspec.json.encode(row)).refused[0]


def test_the_id_is_of_the_content_alone() -> None:
    row = honest()
    assert identified(msgspec.structs.replace(row, day="2026-11-01", contributor=ME)).id == row.id
    assert identified(msgspec.structs.replace(row, n_tokens=31)).id != row.id


def test_the_contributor_is_a_random_name_that_stays(tmp_path: Path) -> None:
    one = RowStore(tmp_path).contributor
    assert RowStore(tmp_path).contributor == one != RowStore(tmp_path / "other").contributor and len(one) == 12
