"""Whether a row can be believed: its tokens, its duration, its spread, and what its own machine's ceilings allow.

A doubtful row is set apart with its reasons and never deleted: the reason may be wrong, and the row right. A fixed cap
of tokens per second would refuse an honest fast machine and pass a dishonest slow one; physics does neither: what a
forward reads takes at least as long as the machine needs to read it. Pure functions.
"""

from __future__ import annotations

import datetime
from statistics import median

from core.charts.labels import si
from core.community.row import Roofs, Row
from core.types import Record

LEAST_ROUNDS = 3
LEAST_TOKENS = 16
LEAST_S = 1.0
MOST_SPREAD = 0.10  # median distance from the median, as a share of it
MARGIN = 1.10  # over a ceiling: its own error, and that of a timer
MOST_DAYS = 7  # between a run and the ceilings
READ_SHARE = 0.3  # at least, of the weights that a token uses: an embedding table is not read whole
PROMPT_SHARE = 0.1  # the same of a prompt's tokens, of which only the last goes through the head
PLAIN = ("autoregressive", "native")
MOST_CPU, MOST_ACCELERATOR = 3e12, 5e13  # bytes per second of memory, generously
INT8 = 4  # times the rate of fp32: what integer kernels can reach where their ceiling was not measured


class Doubt(Record, omit_defaults=False):
    """check: "rounds", "tokens", "duration", "spread", "size", "ceilings", "bandwidth", "arithmetic", "memory",
    "date", "text" or "others". reason: a sentence with the figures."""

    check: str
    reason: str


def doubts(row: Row, today: datetime.date) -> tuple[Doubt, ...]:
    """Why the row is doubtful by itself, the plainest reason first; nothing where nothing speaks against it."""
    return (
        *_measured(row),
        *_consistent(row),
        *_ceilings(row),
        *_bandwidth(row),
        *_arithmetic(row),
        *_memory(row),
        *_dates(row, today),
    )


def least_forward_s(row: Row) -> float:
    """The least time in which the row's machine can read what a forward reads.

    As much as its largest cache holds may come from there, at the best rate it ever reached; the rest comes from
    memory. Real engines reuse less, so a row that is faster than this is wrong, or its ceilings are.
    """
    return _least_read_s(row.work.bytes_per_forward, row.roofs)


def _least_read_s(n_bytes: float, roofs: Roofs) -> float:
    cached = min(n_bytes, roofs.cache_bytes or 0.0)
    return cached / roofs.best_bytes_per_s + (n_bytes - cached) / roofs.memory_bytes_per_s


def of_roof(row: Row) -> float:
    """The share of what its machine's memory allows that the row reaches, its cache counted."""
    return least_forward_s(row) / _forward_s(row)


def _forward_s(row: Row, tpot_s: float | None = None) -> float:
    return (row.tpot_s if tpot_s is None else tpot_s) * row.work.tokens_per_forward


def _measured(row: Row) -> list[Doubt]:
    found = []
    n, tokens, shortest = len(row.rounds), row.workload.new_tokens, min(r.seconds for r in row.rounds)
    if n < LEAST_ROUNDS:
        counted = f"{n} round{'' if n == 1 else 's'}"
        found.append(Doubt(check="rounds", reason=f"{counted}; at least {LEAST_ROUNDS} are needed to see a spread."))
    if tokens < LEAST_TOKENS:
        found.append(Doubt(check="tokens", reason=f"{tokens} new tokens; at least {LEAST_TOKENS} are needed."))
    if row.n_tokens != tokens:
        found.append(Doubt(check="tokens", reason=f"{tokens} new tokens were asked for and {row.n_tokens} came."))
    if shortest < LEAST_S:
        words = f"A round took {si(shortest, 's')}; at least {LEAST_S:g} s is needed."
        found.append(Doubt(check="duration", reason=words))
    middle = row.tpot_s
    spread = median(abs(r.tpot_s - middle) for r in row.rounds) / middle
    if spread > MOST_SPREAD:
        words = f"The rounds lie {spread:.0%} from their median; at most {MOST_SPREAD:.0%} is steady."
        found.append(Doubt(check="spread", reason=words))
    return found


def _consistent(row: Row) -> list[Doubt]:
    """Figures of the row that others of it contradict: a row may not talk its work down."""
    found = []
    model, work = row.model, row.work
    for r in row.rounds:
        told = r.ttft_s + r.tpot_s * (row.workload.new_tokens - 1)
        if not 0.9 < r.seconds / told < 1.5:
            words = f"A round of {si(r.seconds, 's')} is said, and its tokens make {si(told, 's')}."
            found.append(Doubt(check="duration", reason=words))
            break
    if not 0.5 <= model.bits_per_weight <= 40:
        found.append(Doubt(check="size", reason=f"{model.bits_per_weight:.3g} bits per weight is not a number format."))
    if model.n_active > model.n_params:
        found.append(Doubt(check="size", reason="A token uses more parameters than the model has."))
    least = _least_weights(row)
    if work.bytes_per_forward < least:
        words = f"A forward is said to read {si(work.bytes_per_forward, 'B')}, of weights of at least {si(least, 'B')}."
        found.append(Doubt(check="size", reason=words))
    tokens = row.workload.batch * work.tokens_per_forward
    for what, said, computed in (
        ("A forward", work.flops_per_forward, 2 * _share(row) * model.n_active * tokens),
        (
            "The prompt",
            work.prompt_flops,
            2 * PROMPT_SHARE * model.n_active * row.workload.batch * row.workload.prompt_tokens,
        ),
    ):
        if said < computed:
            words = f"{what} is said to take {si(said, 'FLOP')}, and its tokens need at least {si(computed, 'FLOP')}."
            found.append(Doubt(check="size", reason=words))
    if row.workload.strategy in PLAIN and work.tokens_per_forward > 1.001:
        words = f"{work.tokens_per_forward:.3g} tokens per forward cannot be, one token at a time."
        found.append(Doubt(check="size", reason=words))
    return found


def _share(row: Row) -> float:
    """Of the weights that a token uses, what a forward surely reads; less where guesses come from a part of them."""
    return READ_SHARE if row.workload.strategy in PLAIN else READ_SHARE / 3


def _least_weights(row: Row) -> float:
    """Bytes of weights that any forward reads at least."""
    model = row.model
    return _share(row) * model.weight_bytes * model.n_active / model.n_params


def _ceilings(row: Row) -> list[Doubt]:
    """Ceilings that no machine of the kind has, or a cache that its own curve does not show."""
    roofs, most = row.roofs, MOST_CPU if row.engine.device == "cpu" else MOST_ACCELERATOR
    if roofs.memory_bytes_per_s > most:
        words = f"Memory that is read with {si(roofs.memory_bytes_per_s, 'B/s')} is not known to exist."
        return [Doubt(check="ceilings", reason=words)]
    if (roofs.cache_bytes or 0.0) * 2 > max(size for size, _ in roofs.reads):
        words = f"A cache of {si(roofs.cache_bytes, 'B')} is said, and reading was not measured well beyond it."
        return [Doubt(check="ceilings", reason=words)]
    return []


def _bandwidth(row: Row) -> list[Doubt]:
    """What decoding, and the prompt, read against what the machine can read."""
    found = []
    own = f"this machine's own ceilings ({si(row.roofs.memory_bytes_per_s, 'B/s')} from memory)"
    fastest = min(r.tpot_s for r in row.rounds)
    least, took = least_forward_s(row), _forward_s(row, fastest)
    if took * MARGIN < least:
        rate = row.work.bytes_per_forward / took
        per_s = row.workload.batch / fastest
        words = f"{per_s:,.0f} tok/s would read {si(rate, 'B/s')}; {own} allow {per_s * took / least:,.3g} tok/s."
        found.append(Doubt(check="bandwidth", reason=words))
    first, weights = min(r.ttft_s for r in row.rounds), _least_weights(row)
    if first * MARGIN < (least_s := _least_read_s(weights, row.roofs)):
        rate = weights / first
        words = f"A first token after {si(first, 's')} would read {si(rate, 'B/s')}; {own} need {si(least_s, 's')}."
        found.append(Doubt(check="bandwidth", reason=words))
    return found


def _arithmetic(row: Row) -> list[Doubt]:
    """Against the best rate of any number format; integers, where they were not measured, with four times that."""
    known = row.roofs.flop_per_s
    if not known:
        return [Doubt(check="arithmetic", reason="The machine's rate of arithmetic was not measured.")]
    peak = max(known.values()) * (1 if "int8" in known else INT8)
    decode = row.work.flops_per_forward / _forward_s(row, min(r.tpot_s for r in row.rounds))
    prompt = row.work.prompt_flops / min(r.ttft_s for r in row.rounds)
    found = []
    for what, rate in (("Decoding", decode), ("Reading the prompt", prompt)):
        if rate > MARGIN * peak:
            words = f"{what} would compute {si(rate, 'FLOP/s')}, and this machine reaches {si(peak, 'FLOP/s')}."
            found.append(Doubt(check="arithmetic", reason=words))
    return found


def _memory(row: Row) -> list[Doubt]:
    peak, weights = row.peak_memory_bytes, row.model.weight_bytes
    if peak is None or row.engine.device != "cpu" or peak >= 0.9 * weights:
        return []
    words = f"At most {si(peak, 'B')} of memory for weights of {si(weights, 'B')}."
    return [Doubt(check="memory", reason=words)]


def _dates(row: Row, today: datetime.date) -> list[Doubt]:
    try:
        day, roofs = (datetime.date.fromisoformat(d) for d in (row.day, row.roofs.day))
    except ValueError:
        return [Doubt(check="date", reason="A day of this row is not in the calendar.")]
    if max(day, roofs) > today + datetime.timedelta(days=1):
        return [Doubt(check="date", reason=f"It is from {max(day, roofs)}, which is yet to come.")]
    if abs((day - roofs).days) > MOST_DAYS:
        words = f"The ceilings are of {roofs} and the run of {day}; at most {MOST_DAYS} days may lie between."
        return [Doubt(check="date", reason=words)]
    return []
