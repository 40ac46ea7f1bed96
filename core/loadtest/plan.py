"""What a load test is asked to do: which server, which load, which lengths, for how long, and what counts as good.

A plan holds everything that determines what is sent and when: the same plan sends the same requests at the same times.
Its bounds are its own: `check` refuses what would not end or could not be judged, before anything is sent.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

from msgspec import Meta

from core.bounds import checked
from core.endpoints.address import address
from core.loadtest.lengths import Lengths
from core.loadtest.objectives import Objectives
from core.types import Record
from hardware.errors import ExplorerError

Mode = Literal["closed", "open"]
MOST_LOAD = 1024.0  # users, or requests per second: one process of ours cannot do more honestly
MOST_LEVELS = 24
MOST_REPEATS = 20
MOST_MINUTES = 24 * 60.0
MOST_REQUESTS = 1_000_000
LOADS = {"closed": "users", "open": "requests per second"}


class Plan(Record):
    """model: as the server calls it; empty: the only or first one that it lists.

    mode: closed (`levels` are users, each asking again after its answer) or open (`levels` are requests per second,
    sent when they are due, whatever is still unanswered). burstiness: the shape of the gamma distribution of the gaps
    in open loop; 1: Poisson, less: in bursts, more: even. dataset: a JSONL file with prompts or lengths of one's own.
    warmup_s: load before the window, on every level; window_s: what is counted; grace_s: how long a request of the
    window may still take after it (open loop). timeout_s: of one request. max_requests: on one level;
    max_minutes: of all. find: instead of all levels, search between the first and the last one for the largest load
    that meets the objectives. at_saturation: whether higher levels are left out once more load brings no throughput.
    key: the name under which the key is known, never the key itself.
    """

    address: str
    model: str = ""
    mode: Mode = "closed"
    levels: tuple[float, ...] = (1.0, 2.0, 4.0)
    burstiness: Annotated[float, Meta(gt=0, le=1000)] = 1.0
    prompt: Lengths = Lengths(low=128)
    answer: Lengths = Lengths(low=64)
    dataset: str = ""
    warmup_s: float = 5.0
    window_s: float = 30.0
    grace_s: float = 60.0
    timeout_s: float = 300.0
    repeats: int = 1
    max_requests: int = 5000
    max_minutes: float = 30.0
    objectives: Objectives = Objectives()
    find: bool = False
    at_saturation: Literal["stop", "go on"] = "stop"
    seed: int = 0
    key: str = ""

    @property
    def unit(self) -> str:
        """What a level counts."""
        return LOADS[self.mode]


def check(plan: Plan) -> None:
    """Raises ExplorerError for a plan that cannot be carried out, or could not be judged."""
    checked(plan, "the load test", "Correct it.")
    address(plan.address)
    _check_levels(plan)
    for name, value, most in (
        ("warm-up", plan.warmup_s, 3600.0),
        ("window", plan.window_s, 7200.0),
        ("grace", plan.grace_s, 3600.0),
        ("timeout", plan.timeout_s, 7200.0),
    ):
        if not 0 <= value <= most or (value < 1 and name in ("window", "timeout")):
            raise ExplorerError(f"A {name} of {value:g} s is out of range.", f"Choose at most {most:g} s.")
    if not 1 <= plan.repeats <= MOST_REPEATS:
        raise ExplorerError(f"{plan.repeats} repeats are out of range.", f"Choose between 1 and {MOST_REPEATS}.")
    if not 1 <= plan.max_requests <= MOST_REQUESTS:
        raise ExplorerError(
            f"A limit of {plan.max_requests} requests is out of range.", f"Choose between 1 and {MOST_REQUESTS:,}."
        )
    if not 0 < plan.max_minutes <= MOST_MINUTES:
        raise ExplorerError(
            f"A limit of {plan.max_minutes:g} minutes is out of range.", f"Choose at most {MOST_MINUTES:g}."
        )
    if plan.mode == "open" and (n := math.ceil(max(plan.levels) * (plan.warmup_s + plan.window_s))) > plan.max_requests:
        raise ExplorerError(
            f"{max(plan.levels):g} requests per second are {n:,} requests in warm-up and window, and "
            f"{plan.max_requests:,} are allowed.",
            "Allow more requests, or choose a lower rate or a shorter window.",
        )
    if plan.find and not plan.objectives.stated:
        raise ExplorerError(
            "The largest load that meets the objectives cannot be found without objectives.",
            "State at least one: ttft, tpot or e2el in milliseconds, or a preset.",
        )


def _check_levels(plan: Plan) -> None:
    if not 1 <= len(plan.levels) <= MOST_LEVELS:
        raise ExplorerError(f"{len(plan.levels)} levels are out of range.", f"Name between 1 and {MOST_LEVELS}.")
    for level in plan.levels:
        if not 0 < level <= MOST_LOAD:
            raise ExplorerError(f"A level of {level:g} {plan.unit} is out of range.", f"Stay below {MOST_LOAD:g}.")
        if plan.mode == "closed" and level != int(level):
            raise ExplorerError(f"{level:g} users cannot be.", "Users are whole; for fractions choose the open loop.")
    if list(plan.levels) != sorted(set(plan.levels)):
        raise ExplorerError("The levels do not rise.", "Name each one once, the lowest first.")
    if plan.find and len(plan.levels) < 2:
        raise ExplorerError(
            "A search needs to know where to begin and where to end.", "Name at least two levels, the lowest first."
        )


def named(load: float, unit: str) -> str:
    """`4 users`, `1 user`, `0.5 requests per second`."""
    return f"{load:g} {unit}" if load != 1 else f"1 {unit.replace('users', 'user').replace('requests', 'request')}"


def levels_of(words: str) -> tuple[float, ...]:
    """`1, 2, 4`. Raises ExplorerError."""
    try:
        return tuple(float(word) for word in words.split(",") if word.strip())
    except ValueError:
        raise ExplorerError(f"'{words}' are not loads.", "Write numbers with commas: 1, 2, 4.") from None


def order(plan: Plan) -> list[tuple[float, int]]:
    """Levels and repeats in the order in which they are measured: repeats interleaved, so that drift hits all alike."""
    return [(level, repeat) for repeat in range(plan.repeats) for level in plan.levels]


def expected_s(plan: Plan) -> float:
    """How long the plan takes at least, without the waiting for last answers; of a search, at most six probes."""
    n = 6 if plan.find else len(plan.levels) * plan.repeats
    return min(60 * plan.max_minutes, n * (plan.warmup_s + plan.window_s))
