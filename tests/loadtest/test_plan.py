"""What is asked for: arrivals from a seed, lengths, prompts without a shared beginning, objectives, refusals."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import msgspec
import numpy as np
import pytest

from core.loadtest.arrivals import arrivals, starts
from core.loadtest.lengths import Lengths, Row, asks, lengths, read_rows, text
from core.loadtest.objectives import PRESETS, Objectives, judged, objectives
from core.loadtest.plan import Plan, check, order
from hardware.errors import ExplorerError

GOOD = Plan(address="http://127.0.0.1:8080")


def test_arrivals_are_absolute_and_follow_from_the_seed() -> None:
    first = arrivals(20, 50, seed=3)
    assert len(first) == 1000 and first == tuple(sorted(first)) and first[0] > 0 and first[-1] < 50
    assert first == arrivals(20, 50, seed=3) != arrivals(20, 50, seed=4)
    assert arrivals(0.01, 10) == ()


@pytest.mark.parametrize("burstiness", [0.25, 1.0, 16.0])
def test_the_gaps_vary_as_the_gamma_says(burstiness: float) -> None:
    gaps = np.diff(arrivals(100, 400, burstiness, seed=1))
    assert gaps.mean() == pytest.approx(0.01, rel=0.01)
    assert (gaps.std() / gaps.mean()) ** 2 == pytest.approx(1 / burstiness, rel=0.06)  # of a gamma: 1 / shape


def test_users_do_not_start_together() -> None:
    assert starts(4, 2.0) == (0.0, 0.5, 1.0, 1.5)


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("128", Lengths(low=128)),
        (" 64 - 256", Lengths(kind="uniform", low=64, high=256)),
        ("100~0.5", Lengths(kind="lognormal", low=100, high=449, sigma=0.5)),  # 100 e^1.5 = 448.2
    ],
)
def test_lengths_in_words(words: str, found: Lengths) -> None:
    assert lengths(words) == found


@pytest.mark.parametrize("words", ["", "0", "-3", "9-3", "1e3", "12~9", "2000000", "1-9999999", "many"])
def test_no_lengths(words: str) -> None:
    with pytest.raises(ExplorerError):
        lengths(words)


def test_drawn_lengths_keep_their_bounds() -> None:
    rng = np.random.default_rng(0)
    uniform = [Lengths(kind="uniform", low=3, high=5).draw(rng) for _ in range(200)]
    assert set(uniform) == {3, 4, 5}
    drawn = [lengths("100~0.5").draw(rng) for _ in range(4000)]
    assert np.median(drawn) == pytest.approx(100, rel=0.05) and max(drawn) <= 449
    assert np.log(drawn).std() == pytest.approx(0.5, rel=0.05)


def test_prompts_differ_from_their_first_word_on() -> None:
    ours = list(itertools.islice(asks(Lengths(low=40), Lengths(low=8), (), 0, "a"), 300))
    others = list(itertools.islice(asks(Lengths(low=40), Lengths(low=8), (), 0, "b"), 300))
    first = [ask.prompt.split()[0] for ask in (*ours, *others)]
    assert len(set(first)) > 590  # 160,000 beginnings: one or two may meet
    assert len({ask.prompt for ask in (*ours, *others)}) == 600
    assert {ask.answer_tokens for ask in ours} == {8} and [ask.number for ask in ours] == list(range(300))
    assert text(40, "x") == text(40, "x") and len(text(40, "x").split()) == 38


def test_lengths_follow_from_the_seed_alone() -> None:
    def lens(salt: str, seed: int) -> list[int]:
        drawn = asks(lengths("8-64"), lengths("4-64"), (), seed, salt)
        return [len(a.prompt.split()) + 1000 * a.answer_tokens for a in itertools.islice(drawn, 20)]

    assert lens("a", 1) == lens("b", 1) != lens("a", 2)


def test_a_data_set_of_ones_own(tmp_path: Path) -> None:
    file = tmp_path / "own.jsonl"
    lines = [{"prompt": "Hello", "max_tokens": 5}, {"input_length": 30, "output_length": 7}, {"prompt_tokens": 12}]
    file.write_text("\n".join(json.dumps(line) for line in lines) + "\n\n")
    rows = read_rows(str(file))
    assert rows == (Row("Hello", None, 5), Row(None, 30, 7), Row(None, 12, None))
    found = list(itertools.islice(asks(Lengths(low=9), Lengths(low=4), rows, 0, "s"), 6))
    assert sorted(a.answer_tokens for a in found) == [4, 4, 5, 5, 7, 7], "each row once, then anew"
    assert [a.prompt for a in found].count("Hello") == 2
    assert read_rows("") == ()


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("[1]", "object"),
        ("{}", "neither"),
        ('{"prompt": 3}', "not text"),
        ('{"prompt": "a", "max_tokens": 0}', "max_tokens"),
        ('{"prompt": "a", "max_tokens": true}', "max_tokens"),
        ("{", "not a request"),
        ("\xff", "not a request"),
        ('{"prompt": "a", "odd": ' + "[" * 100_000, "not a request"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, word: str) -> None:
    file = tmp_path / "own.jsonl"
    file.write_bytes(b'{"prompt": "a"}\n' + line.encode("latin-1") + b"\n")
    with pytest.raises(ExplorerError, match="Line 2") as told:
        read_rows(str(file))
    assert word in str(told.value) and "JSON object per line" in told.value.hint


def test_a_data_set_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("\n")
    for name in ("none.jsonl", "empty.jsonl", ""):
        with pytest.raises(ExplorerError):
            read_rows(str(tmp_path / name))


def test_objectives_have_vllms_names() -> None:
    assert objectives(["ttft:200 tpot:50", "e2el:5000"]) == Objectives(ttft=200, tpot=50, e2el=5000)
    preset = objectives(["mlperf-llama2-70b-interactive"])
    assert (preset.ttft, preset.tpot, preset.share) == (450, 40, 0.99)
    changed = objectives(["mlperf-llama2-70b-interactive", "ttft:900"], 0.95)
    assert (changed.ttft, changed.tpot, changed.share) == (900, 40, 0.95)
    assert str(changed) == "ttft:900 tpot:40"
    assert all("MLPerf" in p.source and p.objectives.share == 0.99 for p in PRESETS.values())


@pytest.mark.parametrize("words", ["ttft", "ttft:-1", "ttft:x", "itl:3", "ttft:nan", "ttft:inf", "mlperf"])
def test_no_objectives(words: str) -> None:
    with pytest.raises(ExplorerError, match="not an objective"):
        objectives([words])
    with pytest.raises(ExplorerError, match="share"):
        objectives(["ttft:5"], 1.0)


def test_what_counts_as_good() -> None:
    limits = Objectives(ttft=200, tpot=50)
    assert judged(limits, 0.2, 0.05, 9.0, failed=False) == "good"
    assert judged(limits, 0.201, 0.05, 9.0, failed=False) == "bad"
    assert judged(limits, 0.1, None, 9.0, failed=False) == "undetermined", "one token: vLLM would let it pass"
    assert judged(limits, 0.3, None, 9.0, failed=False) == "bad", "one limit missed is enough"
    assert judged(limits, 0.1, 0.01, 1.0, failed=True) == "bad"
    assert judged(Objectives(), None, None, None, failed=False) == "good"


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"burstiness": float("nan")}, "burstiness"),
        ({"address": "ftp://x"}, "address"),
        ({"levels": ()}, "levels"),
        ({"levels": (1.5,)}, "users"),
        ({"levels": (2.0, 1.0)}, "rise"),
        ({"levels": (0.0,)}, "range"),
        ({"levels": (float("nan"),)}, "range"),
        ({"levels": (1e9,), "mode": "open"}, "range"),
        ({"window_s": 0.0}, "window"),
        ({"window_s": float("nan")}, "window"),
        ({"warmup_s": -1.0}, "warm-up"),
        ({"repeats": 0}, "repeats"),
        ({"max_requests": 0}, "limit"),
        ({"max_minutes": float("inf")}, "minutes"),
        ({"mode": "open", "levels": (100.0,), "max_requests": 100}, "allowed"),
        ({"find": True}, "objectives"),
        ({"find": True, "objectives": Objectives(ttft=5), "levels": (1.0,)}, "two levels"),
    ],
)
def test_a_plan_that_cannot_be_carried_out(change: dict[str, object], word: str) -> None:
    check(GOOD)
    with pytest.raises(ExplorerError, match=word) as told:
        check(msgspec.structs.replace(GOOD, **change))
    assert told.value.hint


def test_repeats_are_interleaved() -> None:
    plan = msgspec.structs.replace(GOOD, levels=(1.0, 2.0), repeats=2)
    assert order(plan) == [(1.0, 0), (2.0, 0), (1.0, 1), (2.0, 1)]
