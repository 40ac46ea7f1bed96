"""Tries an advice: its two requests in interleaved pairs, and the verdict over what they measured.

In every pair the order is turned round, so that neither side always follows the other. Fewer than five pairs have no
interval (core.stats.intervals), so five are run at first, and five more where they leave it open. A pair that
something disturbed does not count. Killed, a trial loses the run that was going, and goes on where it stood.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec

from core.advice.book import Book
from core.advice.record import METRICS, Advice, Case, Outcome, Verdict, gain_of
from core.runs.asked import unlike
from core.runs.check import check
from core.runs.runner import Runner
from core.runs.store import Run, Store
from core.stats.intervals import PAIRS, Ratio, paired_ratio
from core.types import Request, Result
from hardware.errors import ExplorerError

SAME = 0.03  # to either side: no effect
ROUNDS = 5
Say = Callable[[str, int, int], None]  # words, runs done, runs in all


def attempt(
    case: Case,
    runner: Runner,
    book: Book,
    rounds: int = ROUNDS,
    say: Say = lambda words, done, total: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Case:
    """Run `rounds` more pairs and judge; returns the case as it was kept. Stopped, it keeps what it has.

    Raises ExplorerError when the machine is taken, and nothing has begun then.
    """
    wanted = (len(case.changed_runs) + rounds) * 2
    while (done := len(case.baseline_runs) + len(case.changed_runs)) < wanted and not should_stop():
        change = _change_next(case)
        say("the change" if change else "the baseline", done, wanted)
        request = case.advice.changed if change else case.advice.baseline
        try:
            run = _measured(runner, request)
        except ExplorerError as error:
            if not _refused(error, request):
                raise
            return book.save(judged(case, f"{error.message} {error.hint}".strip()))
        if should_stop() or run.status() == "cancelled":
            break
        if why := _failure(run, request):
            return book.save(judged(case, why))
        name = "changed_runs" if change else "baseline_runs"
        case = book.save(msgspec.structs.replace(case, **{name: (*getattr(case, name), run.id)}))
    made = list(zip(case.baseline_runs, case.changed_runs, strict=False))
    if not made:
        return case
    pairs = [pair for a, b in made if (pair := _kept(runner.store, a, b)) is not None]
    return book.save(msgspec.structs.replace(case, verdict=verdict(case.advice, pairs, len(made) - len(pairs))))


def _kept(store: Store, baseline: str, changed: str) -> tuple[Result, Result] | None:
    """The results of a pair; None where a run of it was deleted or is damaged."""
    try:
        return store.open(baseline).result(), store.open(changed).result()
    except (ExplorerError, OSError):
        return None


def _change_next(case: Case) -> bool:
    """Whether the change runs next: in every other pair it is the first."""
    before, after = len(case.baseline_runs), len(case.changed_runs)
    return after < before if before != after else before % 2 == 1


def _measured(runner: Runner, request: Request) -> Run:
    return runner.wait(runner.start(request, keep=2))


def _refused(error: ExplorerError, request: Request) -> bool:
    """Whether the request itself cannot run, and not the machine is taken."""
    try:
        check(request)
    except ExplorerError as again:
        return again.message == error.message
    return False


def _failure(run: Run, request: Request) -> str:
    """Why a run does not count, in a sentence; empty when it does."""
    if run.status() != "done":
        result = run.result()
        return f"{result.error or f'The run ended as {run.status()}.'} {result.hint or ''}".strip()
    return " ".join(unlike(request, run.recording()))


def judged(case: Case, why: str) -> Case:
    """The case of a change, or a baseline, that could not run."""
    found = Verdict(outcome="could not run", sentence=why, ratio=None, n_disturbed=0, same_text=None, at=time.time())
    return msgspec.structs.replace(case, verdict=found)


def verdict(advice: Advice, pairs: list[tuple[Result, Result]], n_gone: int = 0) -> Verdict:
    """What the pairs of (baseline, changed) say of the promise. n_gone: pairs whose runs were deleted since."""
    clean = [(a, b) for a, b in pairs if not a.disturbed and not b.disturbed]
    gains = [gain for a, b in clean if (gain := gain_of(advice.metric, a, b)) is not None]
    texts = {(a.text, b.text) for a, b in pairs if a.text and b.text}
    same = all(a == b for a, b in texts) if texts else None
    ratio = paired_ratio([g[0] for g in gains], [g[1] for g in gains]) if gains else None
    outcome = judge(advice, ratio)
    return Verdict(
        outcome=outcome,
        sentence=_sentence(advice, ratio, outcome, len(pairs) - len(clean)) + _gone(n_gone),
        ratio=ratio,
        n_disturbed=len(pairs) - len(clean),
        same_text=same,
        at=time.time(),
    )


def judge(advice: Advice, ratio: Ratio | None) -> Outcome:
    """The measured interval beside the promise. An advice against something keeps its word where the change is slower,
    one that promises nothing where there is none."""
    if ratio is None or ratio.low is None or ratio.high is None:
        return "undecided"
    promised = advice.gain
    nothing = ratio.low > 1 / (1 + SAME) and ratio.high < 1 + SAME
    if 1 / (1 + SAME) < promised.likely < 1 + SAME:
        if nothing:
            return "kept"
        if ratio.high < 1 / (1 + SAME):
            return "harmful"
        return "less than promised" if ratio.low > 1 + SAME else "undecided"
    if nothing:
        return "none"
    if advice.against:
        if ratio.high < 1:
            return "kept" if ratio.low <= promised.high else "less than promised"
        return "harmful" if ratio.low > 1 else "undecided"
    if ratio.low > 1:
        return "kept" if ratio.high >= promised.low else "less than promised"
    return "harmful" if ratio.high < 1 else "undecided"


def _gone(n: int) -> str:
    return f" The runs of {_pairs(n)} were deleted since and do not count." if n else ""


def _pairs(n: int) -> str:
    return "1 pair" if n == 1 else f"{n} pairs"


def _sentence(advice: Advice, ratio: Ratio | None, outcome: Outcome, n_disturbed: int) -> str:
    what, promise = METRICS[advice.metric], advice.gain
    promised = f"×{promise.likely:.3g} ({promise.low:.3g} to {promise.high:.3g})"
    if ratio is None:
        return "No pair could be compared: every one was disturbed or is gone, or the metric was not measured."
    between = f" ({ratio.low:.3g} to {ratio.high:.3g})" if ratio.low is not None and ratio.high is not None else ""
    words = f"Gain in {what}: promised {promised}, measured ×{ratio.value:.3g}{between} over {_pairs(ratio.n)}."
    if n_disturbed:
        words += f" {_pairs(n_disturbed)} {'was' if n_disturbed == 1 else 'were'} disturbed and "
        words += f"{'does' if n_disturbed == 1 else 'do'} not count."
    if outcome == "undecided":
        more = "Fewer than five pairs have no interval" if ratio.n < PAIRS else "The interval leaves it open"
        words += f" {more}: five more may decide."
    return words
