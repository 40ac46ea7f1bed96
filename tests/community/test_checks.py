"""Which rows are believed: by tokens, duration, spread, what they say of themselves, and what their machine can do."""

from __future__ import annotations

import datetime
from typing import Any

import pytest

from core.community.checks import doubts, least_forward_s, of_roof
from core.community.row import Round
from tests.community.rows import GB, honest, rounds

TODAY = datetime.date(2026, 11, 27)


def checks(**changes: Any) -> set[str]:
    return {d.check for d in doubts(honest(**changes), TODAY)}


def test_an_honest_row_is_believed_up_to_its_roof() -> None:
    assert not doubts(honest(), TODAY)
    assert not doubts(honest(tok_per_s=9.7), TODAY), "the roof is 10"
    assert checks(tok_per_s=12.0) == {"bandwidth"}
    # 4 GB, of them 16 MB from a cache of 400 GB/s at best, the rest from memory
    assert least_forward_s(honest()) == pytest.approx(0.016 / 400 + 3.984 / 40)
    assert of_roof(honest()) == pytest.approx(0.797, abs=0.002)


def test_333336_tokens_per_second_are_set_apart_with_the_reason() -> None:
    """One token in three microseconds passed every check of another benchmark (llmfit #1038)."""
    one = honest(
        workload__new_tokens=1,
        n_tokens=1,
        rounds=(Round(ttft_s=3e-6, tpot_s=3e-6, seconds=3e-6),),
        work__prompt_flops=1e3,
    )
    found = doubts(one, TODAY)
    assert [d.check for d in found[:3]] == ["rounds", "tokens", "duration"]
    assert found[0].reason.startswith("1 round; at least 3")
    assert "1 new tokens; at least 16 are needed" in found[1].reason
    # with enough tokens, long enough and steady, physics alone remains
    (doubt,) = (d for d in doubts(honest(tok_per_s=333_336.0), TODAY) if d.check == "bandwidth")
    assert doubt.reason.startswith("340,003 tok/s would read 1.36 PB/s") and "allow 10 tok/s" in doubt.reason
    assert checks(tok_per_s=333_336.0) >= {"bandwidth", "arithmetic"}


def test_guessing_does_not_lend_tokens_that_were_never_computed() -> None:
    """333,336 tok/s as a thousand tokens in each of 333 forwards, that are said to compute as little as one."""
    told: dict[str, Any] = {
        "workload__strategy": "prompt_lookup", "work__tokens_per_forward": 1000.0, "work__bytes_per_forward": 0.5 * GB,
        "rounds": rounds(333_336.0, 400_000, 2.0), "workload__new_tokens": 400_000, "n_tokens": 400_000,
    }  # fmt: skip
    (doubt,) = (d for d in doubts(honest(**told), TODAY) if d.check == "size")
    assert doubt.reason == "A forward is said to take 14 GFLOP, and its tokens need at least 1.4 TFLOP."
    assert "arithmetic" in checks(**told, work__flops_per_forward=14e12), "4.7 PFLOP/s of a machine of 1.5 TFLOP/s"


def test_an_honest_fast_machine_is_not_capped() -> None:
    """801 tok/s of two accelerators were refused by a fixed cap (project-nomad #295)."""
    assert not checks(
        tok_per_s=801.0, rounds=rounds(801.0, 2048, 0.05), workload__new_tokens=2048, n_tokens=2048,
        model__weight_bytes=1.1 * GB, model__n_params=1_700_000_000, model__n_active=1_700_000_000,
        work__bytes_per_forward=1.2 * GB, work__flops_per_forward=4e9, engine__device="cuda",
        machine__accelerator="2 x RTX 5090", peak_memory_bytes=None,
        roofs__reads=((1e9, 1.6e12), (4e9, 1.55e12)), roofs__cache_bytes=None,
        roofs__flop_per_s={"fp16": 2e14, "int8": 4e14},
    )  # fmt: skip


def test_a_model_that_a_cache_holds_may_be_faster_than_memory() -> None:
    small: dict[str, Any] = {
        "model__weight_bytes": 12e6, "model__n_params": 24_000_000, "model__n_active": 24_000_000,
        "work__bytes_per_forward": 13e6, "work__flops_per_forward": 5e7, "peak_memory_bytes": 3e8,
        "rounds": rounds(9_000.0, 16_384, 0.01), "workload__new_tokens": 16_384, "n_tokens": 16_384,
        "work__prompt_flops": 3e9,
    }  # fmt: skip
    assert not checks(**small), "117 GB/s, three times the memory's rate, and the cache gives 400"
    assert checks(**small, roofs__cache_bytes=None) == {"bandwidth"}
    assert "ceilings" in checks(**small, roofs__cache_bytes=1e12), "a cache that its own curve does not show"


@pytest.mark.parametrize(
    ("changes", "check"),
    [
        ({"rounds": rounds(8.0, 32)[:2]}, "rounds"),
        ({"rounds": tuple(Round(ttft_s=1, tpot_s=t, seconds=1 + 31 * t) for t in (0.1, 0.15, 0.2))}, "spread"),
        ({"rounds": tuple(Round(ttft_s=1, tpot_s=0.125, seconds=60) for _ in range(3))}, "duration"),
        ({"n_tokens": 31}, "tokens"),
        ({"work__bytes_per_forward": 1e6}, "size"),  # a row that talks its work down
        ({"work__tokens_per_forward": 8.0}, "size"),
        ({"work__flops_per_forward": 1e6}, "size"),
        ({"work__prompt_flops": 1e6}, "size"),
        ({"rounds": rounds(8.0, 32, ttft_s=0.02)}, "bandwidth"),  # 1.2 GB of weights at 40 GB/s take 29 ms
        ({"model__weight_bytes": 4e7, "peak_memory_bytes": None}, "size"),
        ({"model__n_active": 8_000_000_000}, "size"),
        ({"roofs__reads": ((1e6, 1e14), (5e8, 1e14))}, "ceilings"),
        ({"work__flops_per_forward": 1e15}, "arithmetic"),
        ({"work__prompt_flops": 1e16}, "arithmetic"),
        ({"roofs__flop_per_s": {}}, "arithmetic"),
        ({"peak_memory_bytes": 1e9}, "memory"),
        ({"day": "2027-01-01"}, "date"),
        ({"day": "2026-02-30"}, "date"),
        ({"roofs__day": "2026-10-01"}, "date"),
    ],
)
def test_each_check_speaks(changes: dict[str, Any], check: str) -> None:
    found = doubts(honest(**changes), TODAY)
    assert check in {d.check for d in found}
    assert all(d.reason.endswith(".") for d in found)


def test_integers_that_were_not_measured_are_granted_four_times_the_rest() -> None:
    fast: dict[str, Any] = {"work__prompt_flops": 3e12, "roofs__flop_per_s": {"fp32": 500e9}}
    assert not checks(**fast), "1.5 TFLOP/s of 4 times 0.5"
    assert checks(**fast | {"work__prompt_flops": 6e12}) == {"arithmetic"}
