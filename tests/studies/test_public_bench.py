"""The bench of public benchmarks: pieces that are kept and joined, and what two sides agree on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.bench import public, recording

LINES = [f"a sentence {i}\t{i % 2}\n" for i in range(5)]


def item(text: str, right: bool, likelihood: float | None = None) -> dict[str, Any]:
    answer = text if likelihood is None else f"{text}: {likelihood:.2f}"
    likelihoods = [] if likelihood is None else [likelihood]
    return {"values": {"sst2/acc": float(right)}, "answer": answer, "likelihoods": likelihoods}


def test_pieces_are_judged_once_and_joined_by_the_places_of_their_documents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "sst2_dev.tsv").write_text("".join(LINES))
    asked: list[tuple[str, list[str]]] = []

    def judge(module: str, folder: str, task: str, *more: str) -> dict[str, Any]:
        texts = (Path(folder) / "sst2_dev.tsv").read_text().splitlines()
        asked.append((more[-1], texts))
        return {f"{task}/{i}": item(text, True, -1.0) for i, text in enumerate(texts)}

    monkeypatch.setattr(public, "alone", judge)
    monkeypatch.setattr(public, "FILES", {"sst2": ("sst2_dev.tsv", 2)})
    monkeypatch.setattr(recording, "RECORDED", tmp_path / "recorded")
    call = [str(tmp_path), "sst2=0", "--kept", str(tmp_path / "kept"), "--record"]
    public.main([*call, "--minutes", "-1"])
    assert not asked and recording.recorded("public") is None, "no time for any piece"
    public.main(call)
    assert [len(texts) for _, texts in asked] == [2, 2, 2, 2, 1, 1]
    assert [side for side, _ in asked] == ["ours", "harness"] * 3
    public.main(call)
    assert len(asked) == 6, "what is kept is not judged again"
    (row,) = (recording.recorded("public") or {})["results"]
    known = {"metric": "sst2/acc", "backend": "pytorch", "documents": "5 of 5", "equal scores": 5, "equal answers": 5}
    assert known.items() <= row.items() and (row["ours"], row["harness"]) == (1.0, 1.0)
    public.main([*call, "--backend", "llama_cpp"])
    rows = (recording.recorded("public") or {})["results"]
    assert [r["backend"] for r in rows] == ["pytorch", "llama_cpp"] and len(asked) == 9
    assert "5 documents" in capsys.readouterr().out


def test_what_two_sides_agree_on() -> None:
    one = {"sst2/0": item("no", True, -1.004), "sst2/1": item("yes", False, -2.0)}
    other = {"sst2/0": item("no", True, -1.001), "sst2/1": item("yes", True, -2.5)}
    found = public.compared(one, other)
    assert (found["documents"], found["equal_values"], found["equal_answers"]) == (2, 1, 1)
    assert (found["ours"], found["harness"]) == ({"sst2/acc": 0.5}, {"sst2/acc": 1.0})
    assert found["largest_difference_of_a_log_likelihood"] == pytest.approx(0.5)
    with pytest.raises(AssertionError, match="the same documents"):
        public.compared(one, {"sst2/0": other["sst2/0"]})
