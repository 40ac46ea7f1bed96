"""The tables beside the recordings say what the recordings say."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from core.studies import study_store
from tests.bench import recording
from tests.bench.recording import RECORDED, merged
from tests.bench.tables import QUOTED, QUOTING, ROOT, filled, of_recording, tables


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


NOT_MEASURED = {"0.97", "1.0", "2.5"}  # goals of the loops, and minutes of training that a study sets


def test_the_measured_page_quotes_recordings_and_types_no_number_of_its_own() -> None:
    text = QUOTING.read_text(encoding="utf-8")
    names = [found["name"] for found in QUOTED.finditer(text)]
    assert len(names) == len(set(names)) >= 15
    assert {str(f.relative_to(ROOT)) for f in study_store.RECORDED.glob("*/table.md")} <= set(names)
    assert {str(f.relative_to(ROOT).with_suffix(".md")) for f in (RECORDED / "stated").glob("*.json")} <= set(names)
    quoted = "".join(found[0] for found in QUOTED.finditer(text))
    typed = re.findall(r"(?<![\d.])\d+\.\d+(?![\d.])", QUOTED.sub("", text))
    assert typed and not [n for n in typed if n not in quoted and n not in NOT_MEASURED]
    assert "|---" not in QUOTED.sub("", text), "a table that no command has written"


def test_the_headline_of_the_readme_is_that_of_the_recorded_benchmark() -> None:
    """Its numbers, and their intervals, stand in the study's table."""
    line = next(
        x for x in (ROOT / "README.md").read_text(encoding="utf-8").splitlines() if x.startswith("A consistency")
    )
    table = (study_store.RECORDED / "decoding-smollm2-135m" / "table.md").read_text(encoding="utf-8")
    numbers = re.findall(r"(?<![\d.])\d\.\d{2,3}(?![\d.])", line)
    assert len(numbers) >= 9 and not [n for n in numbers if n not in table]


def test_a_recording_is_a_table_with_its_date_machine_and_command() -> None:
    rows = [{"backend": "a", "tok_per_s": [12.3456, 7], "ok": True}, {"backend": "b", "ratio": None}]
    about = {"date": "2026-11-26", "machine": "two cores", "command": "python -m tests.bench loops"}
    text = of_recording(about | {"results": rows})
    assert text.splitlines() == [
        "Measured on 2026-11-26 on two cores by `python -m tests.bench loops`.",
        "",
        "| backend | tok/s | ok | ratio |",
        "|---|---|---|---|",
        "| a | 12.35, 7 | yes | – |",
        "| b | – | – | – |",
    ]
    single = of_recording(about | {"command": None, "results": {"start_s": 0.76, "warm": {"pytorch": [1, 2]}}})
    assert single.startswith("Measured on 2026-11-26 on two cores.\n")
    assert single.splitlines()[-3:] == ["| start_s | 0.76 |", "| warm pytorch 1 | 1 |", "| warm pytorch 2 | 2 |"]


def test_a_recording_keeps_its_date_machine_and_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "RECORDED", tmp_path)
    assert recording.recorded("loops") is None
    recording.record("loops", [{"ratio": 1.0}], "python -m tests.bench loops")
    kept = recording.recorded("loops")
    assert kept is not None and kept.pop("date") and kept.pop("machine")
    assert kept == {"command": "python -m tests.bench loops", "results": [{"ratio": 1.0}]}


def test_what_somebody_wrote_down_by_hand_says_so_and_where() -> None:
    stated = [json.loads(file.read_bytes()) for file in (RECORDED / "stated").glob("*.json")]
    assert stated and all("by hand in docs/measured.md of 2026-11-22." in of_recording(found) for found in stated)
    assert not any("by hand" in of_recording(json.loads(file.read_bytes())) for file in RECORDED.glob("*.json"))


def test_rows_measured_again_take_the_place_of_those_before() -> None:
    keys = ("backend", "tokens")
    old = [{"backend": "a", "tokens": 64, "ratio": 1}, {"backend": "a", "extra_s": 0.6}, {"backend": "b", "tokens": 64}]
    new = [{"backend": "a", "tokens": 64, "ratio": 2}, {"backend": "b", "tokens": 512}]
    assert merged(old, new, keys) == [new[0], *old[1:], new[1]]
