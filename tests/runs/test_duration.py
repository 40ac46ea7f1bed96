"""How long a run will take, worked out by hand."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from core.runs.duration import expected_s, passes
from core.types import Evaluate, Generate, Request

REQUEST = Request(
    model="m", backend="b", task=Generate(prompt="x", max_new_tokens=101), repeats=1000, warmup=1, live=True
)
ROW: dict[str, Any] = {
    "model": "m", "backend": "b", "strategy": "autoregressive", "status": "done", "machine_id": "here",
    "tok_per_s": 50.0, "ttft_s": 0.5, "batch": 1,
}  # fmt: skip


def test_a_thousand_passes_of_two_and_a_half_seconds() -> None:
    assert passes(REQUEST) == 1 + 1 + 1000 + 2, "memory and layers have a pass each"
    assert expected_s(REQUEST, [ROW], "here") == pytest.approx(1004 * (0.5 + 100 / 50))


def test_the_newest_like_it_counts_and_a_batch_shares_its_rate() -> None:
    rows = [{**ROW, "tok_per_s": 100.0, "batch": 4}, ROW]
    assert expected_s(REQUEST, rows, "here") == pytest.approx(1004 * (0.5 + 100 * 4 / 100))


@pytest.mark.parametrize(
    "change",
    [{"model": "n"}, {"backend": "c"}, {"strategy": "jacobi"}, {"status": "failed"}, {"machine_id": "there"},
     {"tok_per_s": None}, {"ttft_s": None}],
)  # fmt: skip
def test_nothing_like_it_tells_nothing(change: dict[str, Any]) -> None:
    assert expected_s(REQUEST, [{**ROW, **change}], "here") is None


def test_only_a_generation_has_a_length() -> None:
    assert expected_s(msgspec.structs.replace(REQUEST, task=Evaluate(eval="qa")), [ROW], "here") is None
