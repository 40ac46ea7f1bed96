"""What the runs of one variant say: its model, its timed answers, its evaluations; or why there is none."""

from __future__ import annotations

import msgspec

from core.studies.conduct import Answer, answer
from core.studies.ledger import Ledger
from core.studies.plan import Plan, Recipe
from core.types import Record, Result


class Evidence(Record):
    """answers: by round. results: of finished runs, "detail" and the evaluations by their keys. reason: what is
    missing, and why.
    """

    recipe: Recipe
    model: str
    note: str = ""
    reason: str = ""
    bits_per_weight: float | None = None
    size_bytes: int | None = None
    answers: dict[int, Answer] = msgspec.field(default_factory=dict)
    results: dict[str, Result] = msgspec.field(default_factory=dict)
    runs: tuple[str, ...] = ()


def gather(ledger: Ledger[Plan], recipe: Recipe) -> Evidence:
    """All that was done for a recipe so far."""
    plan, failures = ledger.plan, ledger.state.failures
    model, note = plan.model, ""
    size: int | None = None
    bits: float | None = None
    runs: list[str] = []
    for number in range(1, len(recipe.steps) + 1):
        key = f"{recipe.id}/make/{number}"
        run = ledger.done(key)
        made = run.result().made if run is not None else None
        if run is None or made is None:
            return Evidence(recipe=recipe, model=model, reason=failures.get(key, "Not made: the study was stopped."))
        runs.append(run.id)
        model, note, size, bits = made.model, made.note, made.size_bytes, made.bits_per_weight
    reasons: list[str] = []
    results: dict[str, Result] = {}
    answers: dict[int, Answer] = {}
    for number in range(plan.rounds):
        run = ledger.done(f"{recipe.id}/speed/{number}")
        if run is not None and (timed := answer(run.result())) is not None:
            answers[number] = timed
            runs.append(run.id)
    if not answers:
        reasons.append(failures.get(f"{recipe.id}/speed/0", "Not timed: the study was stopped."))
    for name in ("detail", *(evaluation.key for evaluation in plan.evaluations)):
        run = ledger.done(f"{recipe.id}/{name}")
        if run is None:
            reasons.append(failures.get(f"{recipe.id}/{name}", ""))
            continue
        runs.append(run.id)
        results[name] = run.result()
        spec = run.recording().spec
        if spec is not None and spec.weight_bytes and spec.n_params:
            size = spec.weight_bytes  # as opened: a file in 32 bits may run in 16
            bits = 8 * size / spec.n_params
    return Evidence(
        recipe=recipe,
        model=model,
        note=note,
        reason=" ".join(dict.fromkeys(filter(None, reasons))),
        bits_per_weight=bits,
        size_bytes=size,
        answers=answers,
        results=results,
        runs=tuple(runs),
    )
