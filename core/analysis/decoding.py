"""What several tokens per step are worth: counts from the steps, and the speed-up they predict.

Only decode steps count; the first token belongs to the prefill. Everything is of one sequence. Sources:
Kou et al., "CLLMs: Consistency large language models" (2403.00835, section 4.2) for fast-forwarded and
stationary tokens; Leviathan et al., "Fast inference from transformers via speculative decoding" (2211.17192).
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from core.stats.intervals import Ratio, paired_ratio
from core.types import ForwardCost, Record, Step


class Acceptance(Record, omit_defaults=False):
    """How the guesses of a pass fared. Counts of tokens, but n_forward and n_draft, which count forwards.

    fast_forwarded: guesses accepted, so tokens beyond the one that every forward gives.
    stationary: of these, those that stood there, right and unchanged, already while a token before them was
    wrong. rate: the estimate of alpha, agreeing guesses over guesses decided; None when none was decided.
    histogram: accepted tokens of a step, and how many steps had so many.
    """

    n_tokens: int
    n_forward: int
    n_draft: int
    tokens_per_forward: float
    fast_forwarded: int
    stationary: int
    rate: float | None
    histogram: tuple[tuple[int, int], ...]


def tokens_per_forward(steps: Sequence[Step]) -> float | None:
    """Accepted tokens per decode forward of one sequence; a draft model's forwards are not counted."""
    decode = [s for s in steps if s.phase == "decode"]
    n_forward = sum(s.counts.forwards for s in decode)
    return sum(s.counts.per_sequence for s in decode) / n_forward if n_forward else None


def acceptance(steps: Sequence[Step]) -> Acceptance | None:
    """Of the steps of one pass; None without a decode forward."""
    decode = [s for s in steps if s.phase == "decode"]
    rate = tokens_per_forward(decode)
    if rate is None:
        return None
    right = [agreed(s.guess, s.tokens) for s in decode]
    # a guess behind the first wrong one was not decided: nobody asked whether it was right
    decided = sum(n + (n < len(s.guess) and n < s.counts.tokens) for n, s in zip(right, decode, strict=True))
    return Acceptance(
        n_tokens=sum(s.counts.tokens for s in decode),
        n_forward=sum(s.counts.forwards for s in decode),
        n_draft=sum(s.counts.drafts for s in decode),
        tokens_per_forward=rate,
        fast_forwarded=sum(right),
        stationary=stationary(decode),
        rate=sum(right) / decided if decided else None,
        histogram=tuple(sorted(Counter(s.counts.tokens for s in decode).items())),
    )


def first_divergence(a: Sequence[Step], b: Sequence[Step]) -> int | None:
    """The first generated token, counted from 0, in which two passes differ; None when they are the same.

    In lower precision a forward of many tokens rounds otherwise than a forward of one, and a near tie may tip.
    """
    first, second = ([token for step in steps for token in step.tokens] for steps in (a, b))
    differ = (i for i, (x, y) in enumerate(zip(first, second, strict=False)) if x != y)
    return next(differ, None if len(first) == len(second) else min(len(first), len(second)))


State = Literal["accepted", "fixed", "wrong", "beyond"]


class Frame(Record):
    """One decode step as a picture: what was fed as a guess, how each guess fared, and what was accepted.

    end_s: when it ended, counted from the prompt. pieces: texts of the accepted tokens, in order. guess: text and
    state; fixed: right already, but behind a wrong one, so it must wait; beyond: the text ended before it.
    """

    end_s: float
    pieces: tuple[str, ...]
    guess: tuple[tuple[str, State], ...]
    n_forward: int


def frames(steps: Sequence[Step]) -> tuple[Frame, ...]:
    """The steps of one pass, the prefill as the first frame. A step without texts of its own (one token) has its text.

    Which guess was right is known only from the tokens that came out in the end, so of a pass that is still going the
    last guesses are "beyond".
    """
    final = [token for step in steps for token in step.tokens]
    found: list[Frame] = []
    end_s, base = 0.0, 0
    for step in steps:
        end_s += step.seconds
        right = agreed(step.guess, step.tokens)
        states: list[State] = []
        for i, token in enumerate(step.guess):
            place = base + i
            if i < right:
                states.append("accepted")
            elif place >= len(final):
                states.append("beyond")
            else:
                states.append("fixed" if token == final[place] else "wrong")
        base += len(step.tokens) or step.counts.tokens
        found.append(
            Frame(
                end_s=end_s,
                pieces=step.pieces or (step.text,) * bool(step.counts.tokens),
                guess=tuple(zip(step.guessed, states, strict=False)),
                n_forward=step.counts.forwards,
            )
        )
    return tuple(found)


def stationary(steps: Sequence[Step]) -> int:
    """Accepted guesses that were right one step earlier already, behind a token that was wrong."""
    found = 0
    before: Step | None = None
    for step in (s for s in steps if s.phase == "decode"):
        if before is not None:
            # guess[i] stood at this place in the step before, which has moved on by what it accepted
            old = before.guess[before.counts.tokens :]
            found += sum(a == b for a, b in zip(old, step.guess[: agreed(step.guess, step.tokens)], strict=False))
        before = step
    return found


def agreed(guess: Sequence[int], tokens: Sequence[int]) -> int:
    """How many of a step's guesses were accepted, which gave these tokens."""
    pairs = zip(guess, tokens, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(guess), len(tokens)))


# ---------------------------------------------------------------- prediction


def expected_tokens_per_forward(alpha: float, gamma: int) -> float:
    """Mean tokens of a step that drafts gamma, each accepted with probability alpha independently.

    Leviathan, equation 1: (1 - alpha^(gamma+1)) / (1 - alpha).
    """
    return float(gamma + 1) if alpha >= 1 else (1 - alpha ** (gamma + 1)) / (1 - alpha)


def expected_speedup(tokens: float, v: float, draft: float = 0.0) -> float:
    """Speed over one token per forward: tokens per forward / (cost of drafting + v(k)).

    v: seconds of the forward that verifies, draft: of all drafting of a step; both in forwards of one token.
    With draft = gamma c and v = 1 it is Leviathan's theorem 3.8.
    """
    return tokens / (draft + v)


def relative_cost(cost: ForwardCost, n: int) -> float | None:
    """v(n), the cost of a forward of n tokens over that of one; between measured sizes a straight line in logarithms.

    None beyond what was measured: kernels change with the size, so nothing is extended.
    """
    return relative({t.n: t.seconds for t in cost.times}, n)


def relative(seconds: Mapping[int, float], n: int) -> float | None:
    """As relative_cost, of seconds by the tokens of a forward."""
    if not seconds.get(1) or not min(seconds) <= n <= max(seconds):
        return None
    below, above = max(k for k in seconds if k <= n), min(k for k in seconds if k >= n)
    share = 0.0 if below == above else math.log(n / below) / math.log(above / below)
    return math.exp((1 - share) * math.log(seconds[below]) + share * math.log(seconds[above])) / seconds[1]


LATE = 1.5  # times the roof's v(n), from which on it is the engine that makes a forward of several tokens dear


def roof_left_unused(cost: ForwardCost, roof: Mapping[int, float], n: int) -> float | None:
    """v(n) as the machine's roof would allow it, where the engine's is far above it; None where it is not.

    roof: n -> v(n), as work and ceilings give it.
    """
    measured, allowed = relative_cost(cost, n), roof.get(n)
    return allowed if measured is not None and allowed is not None and measured > LATE * allowed else None


class Prospect(Record):
    """What guessing with forwards of n tokens would bring, when each guess is right with probability alpha."""

    n: int
    tokens_per_forward: float
    v: float
    speedup: float


def prospects(cost: ForwardCost, alpha: float, draft: float) -> tuple[Prospect, ...]:
    """For every size that was measured: Leviathan's tokens per forward over v(n) and the cost of drafting.

    draft: of one guess, in forwards of one token; 0 where guesses come for free (Jacobi, lookahead, prompt lookup).
    """
    found = []
    for t in cost.times:
        v = relative_cost(cost, t.n)
        if v is None:
            continue
        tokens = expected_tokens_per_forward(alpha, t.n - 1)
        found.append(
            Prospect(n=t.n, tokens_per_forward=tokens, v=v, speedup=expected_speedup(tokens, v, draft * (t.n - 1)))
        )
    return tuple(found)


def mean_input(steps: Sequence[Step]) -> float | None:
    """Tokens fed to a decode forward of one sequence, on average."""
    decode = [s for s in steps if s.phase == "decode"]
    n_forward = sum(s.counts.forwards for s in decode)
    return sum(s.counts.inputs for s in decode) / n_forward if n_forward else None


def predicted_speedup(tokens: float, n_input: float, cost: ForwardCost, draft: float = 0.0) -> float | None:
    """Over one token per forward, from what a forward of `n_input` tokens costs; None beyond what was measured.

    draft: as in expected_speedup.
    """
    low, high = relative_cost(cost, math.floor(n_input)), relative_cost(cost, math.ceil(n_input))
    if low is None or high is None:
        return None
    share = n_input - math.floor(n_input)
    return expected_speedup(tokens, (1 - share) * low + share * high, draft)


class Beside(Record, omit_defaults=False):
    """A way to decode beside autoregressive decoding of the same model and prompt, measured in interleaved pairs.

    speedup: its tokens per second over the other's. guesses: how its guesses fared; None where it decoded nothing.
    predicted: the speed-up by v(n); None where that is not known, or does not tell what a step costs: of a draft
    model's forwards, and of forwards that leave blocks out. differs: as first_divergence.
    """

    speedup: Ratio
    guesses: Acceptance | None
    predicted: float | None
    differs: int | None


def prediction_error(predicted: float | None, measured: float | None) -> float | None:
    """By which share of what was measured a prediction is above it; None where one is unknown."""
    return predicted / measured - 1 if predicted and measured else None


def beside(
    tpot_s: Sequence[tuple[float, float]], own: Sequence[Step], rival: Sequence[Step], cost: ForwardCost | None
) -> Beside:
    """tpot_s: seconds per token of each pair, at least one, the autoregressive run's first. own, rival: the steps of
    one pair in that order. cost: of a forward of n tokens, where it was measured."""
    guesses, fed = acceptance(rival), mean_input(rival)
    predicted = None
    whole = all(s.counts.depth is None for s in rival)
    if guesses and fed and cost and whole and not guesses.n_draft:
        predicted = predicted_speedup(guesses.tokens_per_forward, fed, cost)
    return Beside(
        speedup=paired_ratio([a for a, _ in tpot_s], [b for _, b in tpot_s]),
        guesses=guesses,
        predicted=predicted,
        differs=first_divergence(own, rival),
    )


def over_run(speeds: Sequence[float], row: Mapping[str, Any]) -> float:
    """The median of tokens per second, at least one, over those of a history row."""
    return statistics.median(speeds) / float(row["tok_per_s"])


def fastest_autoregressive(rows: Iterable[Mapping[str, Any]], model: str, machine_id: str) -> Mapping[str, Any] | None:
    """Of history rows the one with the most tokens per second among a model's whole runs of one sequence.

    Any backend and precision, on this machine; only strategies that take one token per forward.
    """
    able = [
        r
        for r in rows
        if r.get("model") == model
        and r.get("machine_id") == machine_id
        and r.get("status") == "done"
        and r.get("task") == "generate"
        and r.get("strategy") in ("autoregressive", "native")
        and r.get("batch") == 1
        and r.get("tok_per_s")
    ]
    return max(able, key=lambda r: float(r["tok_per_s"]), default=None)
