"""Acceptance counted by hand, and the published values of the formulas."""

from __future__ import annotations

import msgspec
import pytest

from core.analysis.decoding import (
    acceptance,
    beside,
    expected_speedup,
    expected_tokens_per_forward,
    fastest_autoregressive,
    first_divergence,
    frames,
    mean_input,
    over_run,
    predicted_speedup,
    prediction_error,
    prospects,
    relative,
    relative_cost,
    roof_left_unused,
    stationary,
    tokens_per_forward,
)
from core.types import Counts, ForwardCost, ForwardTime, Step


def step(guess: tuple[int, ...], tokens: tuple[int, ...], n_draft: int = 0) -> Step:
    return Step(
        t_s=0, pass_no=0, phase="decode", seconds=0.1, n_context=0, tokens=tokens, guess=guess,
        counts=Counts(tokens=len(tokens), forwards=1, inputs=1 + len(guess), drafts=n_draft),
    )  # fmt: skip


PREFILL = Step(
    t_s=0, pass_no=0, phase="prefill", seconds=1.0, counts=Counts(tokens=1, forwards=1, inputs=9), n_context=9
)
# the text is 1 2 3 4 5 6 7; 3 stands right behind a wrong 9 and is then accepted, 5 stands right and is lost again
STEPS = [
    PREFILL,
    step(guess=(9, 3, 9, 5), tokens=(1,)),  # the places of 1 2 3 4: 3 is at the place of 2
    step(guess=(9, 3, 9, 5), tokens=(2,)),  # 2 3 4 5: 3 and 5 are right, behind a wrong one
    step(guess=(3, 4, 8, 6), tokens=(3, 4, 5)),  # 3 4 5 6: 3 stayed, 4 is new, 5 was lost, 6 is right
    step(guess=(6, 9), tokens=(6, 7)),  # 6 7: 6 stayed
]


def test_counts_by_hand() -> None:
    found = acceptance(STEPS)
    assert found is not None
    assert (found.n_tokens, found.n_forward, found.fast_forwarded, found.stationary) == (7, 4, 3, 2)
    assert found.tokens_per_forward == 7 / 4 == tokens_per_forward(STEPS)
    assert found.histogram == ((1, 2), (2, 1), (3, 1))
    # decided: 9, 9, then 3 4 and the wrong 8, then 6 and the wrong 9
    assert found.rate == 3 / 7


def test_a_whole_guess_accepted_leaves_none_wrong() -> None:
    found = acceptance([step((1, 2), (1, 2, 3), n_draft=2)])
    assert found and found.rate == 1.0 and found.fast_forwarded == 2 and found.n_draft == 2
    stopped = acceptance([step((1, 2, 9), (1, 2))])  # a stop token among the guesses: what follows was not decided
    assert stopped and stopped.rate == 1.0 and stopped.fast_forwarded == 2


def test_the_first_divergence_is_a_token_not_a_step() -> None:
    one = [step((), (t,)) for t in (5, 6, 7, 8)]
    assert first_divergence(one, [step((6,), (5, 6)), step((7,), (7, 8))]) is None
    assert first_divergence(one, [step((6,), (5, 6)), step((9,), (9,))]) == 2
    assert first_divergence(one, one[:3]) == 3, "one of them is shorter"


def test_without_guesses_there_is_no_rate() -> None:
    found = acceptance([step((), (1,)), step((), (2,))])
    assert found and found.tokens_per_forward == 1.0 and found.rate is None and stationary([PREFILL]) == 0
    assert acceptance([PREFILL]) is None and tokens_per_forward([]) is None


@pytest.mark.parametrize(
    ("alpha", "gamma", "speed"),
    [(0.6, 2, 1.96), (0.7, 3, 2.53), (0.8, 2, 2.44), (0.8, 5, 3.69), (0.9, 2, 2.71), (0.9, 10, 6.86)],
)
def test_leviathans_table_of_speeds(alpha: float, gamma: int, speed: float) -> None:
    """2211.17192, table 1: walltime improvement with a draft that costs nothing."""
    assert expected_tokens_per_forward(alpha, gamma) == pytest.approx(speed, abs=0.006)
    assert expected_speedup(expected_tokens_per_forward(alpha, gamma), v=1.0) == pytest.approx(speed, abs=0.006)


def test_further_values() -> None:
    assert expected_tokens_per_forward(0.7, 8) == pytest.approx(3.199, abs=5e-4)
    assert expected_tokens_per_forward(0.0, 8) == 1.0 and expected_tokens_per_forward(1.0, 8) == 9.0
    # theorem 3.8: (1 - a^(g+1)) / ((1 - a)(g c + 1))
    assert expected_speedup(expected_tokens_per_forward(0.8, 4), 1.0, draft=4 * 0.05) == pytest.approx(2.8013, abs=1e-4)
    # tokens per forward of the trial in 16 tokens that cost 1.25 forwards of one
    assert expected_speedup(4.52, v=1.25) == pytest.approx(3.616)


def test_relative_cost_between_and_beyond_what_was_measured() -> None:
    times = tuple(ForwardTime(n=n, seconds=s, low_s=s, high_s=s) for n, s in ((1, 0.01), (4, 0.02), (16, 0.08)))
    cost = ForwardCost(t_s=0, pass_no=0, n_past=8, repeats=5, times=times)
    assert relative_cost(cost, 1) == pytest.approx(1.0) and relative_cost(cost, 4) == pytest.approx(2.0)
    assert relative_cost(cost, 8) == pytest.approx(4.0), "halfway in both logarithms"
    assert relative_cost(cost, 17) is None and relative_cost(cost, 0) is None


def test_frames_say_how_every_guess_fared() -> None:
    def shown(guess: str, tokens: str, seconds: float) -> Step:
        ids, right = tuple(map(ord, guess)), tuple(map(ord, tokens))
        return Step(
            t_s=0, pass_no=0, phase="decode", seconds=seconds, n_context=0,
            counts=Counts(tokens=len(right), forwards=1, inputs=1 + len(ids)), tokens=right, guess=ids,
            pieces=tuple(tokens), guessed=tuple(guess),
        )  # fmt: skip

    prefill = Step(
        t_s=0, pass_no=0, phase="prefill", seconds=1.0, n_context=9, text="a",
        counts=Counts(tokens=1, forwards=1, inputs=9),
        tokens=(ord("a"),),
    )  # fmt: skip
    # the text is "abcde": of the guess "bxd?" b is accepted, d waits behind the wrong x, ? stands where e will be
    found = frames([prefill, shown("bxd?", "bc", 0.5), shown("dezz", "de", 0.25)])
    assert [f.end_s for f in found] == [1.0, 1.5, 1.75]
    assert found[0].pieces == ("a",) and found[0].guess == ()
    assert found[1].guess == (("b", "accepted"), ("x", "wrong"), ("d", "fixed"), ("?", "wrong"))
    assert found[2].guess == (("d", "accepted"), ("e", "accepted"), ("z", "beyond"), ("z", "beyond"))
    assert "".join(p for f in found for p in f.pieces) == "abcde"


COST = ForwardCost(
    t_s=0,
    pass_no=0,
    n_past=10,
    repeats=3,
    times=tuple(ForwardTime(n=n, seconds=s, low_s=s, high_s=s) for n, s in ((1, 1.0), (2, 1.2), (4, 2.0))),
)


def test_a_roof_far_below_what_was_measured_is_the_engines_doing() -> None:
    assert roof_left_unused(COST, {1: 1.0, 4: 1.1}, 4) == 1.1, "2.0 measured"
    assert roof_left_unused(COST, {4: 1.9}, 4) is None, "the machine itself is at its end"
    assert roof_left_unused(COST, {}, 4) is None and roof_left_unused(COST, {64: 1.0}, 64) is None, "not known"


def test_a_prospect_is_leviathans_formula_over_the_cost() -> None:
    found = {p.n: p for p in prospects(COST, alpha=0.5, draft=0.1)}
    assert found[1].speedup == 1.0
    assert found[4].tokens_per_forward == pytest.approx(1 + 0.5 + 0.25 + 0.125)
    assert found[4].speedup == pytest.approx(1.875 / (2.0 + 0.3))


def test_a_prediction_lies_between_the_measured_sizes_and_not_beyond() -> None:
    assert predicted_speedup(3.0, 2.0, COST) == pytest.approx(3.0 / 1.2)
    between = relative_cost(COST, 3)
    assert between is not None
    assert predicted_speedup(3.0, 2.5, COST) == pytest.approx(3.0 / ((1.2 + between) / 2))
    assert predicted_speedup(3.0, 4.5, COST) is None
    assert mean_input(STEPS) == pytest.approx((5 + 5 + 5 + 3) / 4)


def test_a_cost_over_that_of_one_token_from_any_seconds() -> None:
    assert relative({1: 2.0, 4: 3.0}, 4) == pytest.approx(1.5)
    assert relative({1: 1.0, 4: 4.0}, 2) == pytest.approx(2.0), "a straight line in logarithms"
    assert relative({1: 2.0}, 4) is relative({4: 3.0}, 4) is relative({}, 1) is None


def test_how_far_a_prediction_is_off() -> None:
    assert prediction_error(1.5, 1.2) == pytest.approx(0.25) and prediction_error(0.9, 1.2) == pytest.approx(-0.25)
    assert prediction_error(None, 1.2) is prediction_error(1.5, None) is None


def test_a_rival_beside_autoregressive_decoding() -> None:
    """Five pairs, each 0.2 s a token against 0.1 s: the ratio is 2 and nothing is uncertain about it."""
    own = [PREFILL, *(step((), (token,)) for token in (1, 2, 3, 4, 5, 6, 8))]
    guessing = [PREFILL, step((1,), (1, 2)), step((3,), (3, 4)), step((9,), (5,)), step((6,), (6, 7))]
    found = beside([(0.2, 0.1)] * 5, own, guessing, COST)
    assert (found.speedup.value, found.speedup.low, found.speedup.high) == pytest.approx((2.0, 2.0, 2.0))
    assert found.guesses is not None and found.guesses.rate == 3 / 4 and found.differs == 6
    assert found.predicted == pytest.approx((7 / 4) / 1.2), "7 tokens in 4 forwards of 2 tokens, which cost 1.2"
    assert beside([(0.2, 0.1)], own, own, None).predicted is None, "v(n) was not measured"
    drafted = [step((1,), (1, 2), n_draft=3)]
    assert beside([(0.2, 0.1)], own, drafted, COST).predicted is None, "the draft's forwards are not in v(n)"
    shallow = [msgspec.structs.replace(s, counts=msgspec.structs.replace(s.counts, depth=0.5)) for s in own]
    assert beside([(0.2, 0.1)], own, own, COST).predicted == 1.0
    assert beside([(0.2, 0.1)], own, shallow, COST).predicted is None, "v(n) is of all blocks"
    assert beside([(0.2, 0.1)], own, [PREFILL], COST).guesses is None


def test_the_fastest_autoregressive_run_is_of_the_model_whole_and_of_one_sequence() -> None:
    row = {"model": "m", "status": "done", "task": "generate", "strategy": "native", "batch": 1, "tok_per_s": 10.0}
    row["machine_id"] = "here"
    others: list[dict[str, object]] = [
        {"machine_id": "elsewhere"},
        {"model": "other"},
        {"status": "cancelled"},
        {"task": "evaluate"},
        {"strategy": "jacobi"},
        {"batch": 8},
    ]
    rows = [row, *({**row, "tok_per_s": 99.0, **other} for other in others), {**row, "tok_per_s": None}]
    faster = {**row, "tok_per_s": 12.0, "backend": "llama_cpp"}
    assert fastest_autoregressive([*rows, faster], "m", "here") == faster
    assert over_run([6.0, 24.0, 9.0], faster) == pytest.approx(0.75)
    assert fastest_autoregressive(rows, "m", "here") == row
    assert fastest_autoregressive(rows, "nobody", "here") is None
