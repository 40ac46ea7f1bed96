"""Where an answer ends: stop texts across the borders of steps, and nothing of them said."""

from __future__ import annotations

import pytest

from core.worker.stop_texts import StopTexts

TEXT = "One, two, three.\n\nFour <end> five"


@pytest.mark.parametrize(
    ("stops", "answer", "found"),
    [
        (["\n\n"], "One, two, three.", True),
        (["five", "two"], "One, ", True),
        (["two, three", "two"], "One, ", True),
        (["<end>"], "One, two, three.\n\nFour ", True),
        (["<end>!", "five?", ""], TEXT, False),
        ([], TEXT, False),
        (["O"], "", True),
    ],
)
@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
def test_an_answer_is_cut_alike_whatever_the_steps(stops: list[str], answer: str, found: bool, size: int) -> None:
    ends = StopTexts(stops)
    said = [ends.add(TEXT[i : i + size]) for i in range(0, len(TEXT), size)]
    assert "".join(said) + ends.rest() == answer and ends.found is found


def test_only_what_may_become_a_stop_text_is_held_back() -> None:
    ends = StopTexts(["<end>", "\n"])
    assert [ends.add(part) for part in ("a<", "e", "x", "b<en", "d")] == ["a", "", "<ex", "b", ""]
    assert ends.rest() == "<end" and not ends.found
    assert StopTexts(["aab"]).add("aaa") == "a", "the longest beginning stays"
