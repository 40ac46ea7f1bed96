"""The tables beside the recordings say what the recordings say."""

from __future__ import annotations

from core.studies import study_store
from tests.bench.__main__ import merged
from tests.bench.tables import of_part, tables


def test_every_recording_has_its_table_and_no_number_in_it_is_typed() -> None:
    found = dict(tables())
    assert len(found) >= len(list(study_store.RECORDED.glob("*/findings.json"))) >= 3
    for path, text in found.items():
        assert path.exists(), f"{path} is missing: run `make tables`"
        assert path.read_text(encoding="utf-8") == text, f"{path} is not its recording: run `make tables`"


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
