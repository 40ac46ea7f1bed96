"""Carries out a benchmark: makes the models, looks at each configuration once closely, then lets them answer in rounds.

Only runs are made here; what they say is core.studies.standings'.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

import msgspec

from core.runs.other_machine import OtherMachine
from core.studies.conduct import make, maker
from core.studies.ledger import Ledger, Say, folder_of
from core.studies.plan import Benchmark, Configuration
from core.types import Evaluate, Generate, Request, Scalar, Task

NEW_TOKENS = 96  # of the close look, at most
QUESTIONS = 250  # in a run that is about accuracy alone; it takes minutes, and is what a stop can cost
CLOSE_SEED = 1000  # of the first such run's questions, which no round asks


def hold(
    plan: Benchmark, minutes: float, say: Say, again: bool = False, machine: OtherMachine | None = None
) -> Ledger[Benchmark]:
    """Do whatever of the plan is not done yet; returns the ledger. Interrupting it loses nothing but the run going.

    machine: where the runs are made, and the models; here without one.
    """
    runner = maker(plan.model, machine)
    ledger = Ledger(folder_of(plan), plan, minutes, runner, say, again)
    try:
        models = {r.id: model for r in plan.recipes if (model := make(ledger, r)) is not None}
        there = [_cast(c, models) for c in plan.configurations if {c.recipe, c.drafts or c.recipe} <= models.keys()]
        for configuration in there:
            ledger.perform(f"{configuration.id}/detail", _closely(plan, configuration, models[configuration.recipe]))
        for number in range(max((plan.looks, *(c.rounds for c in there)))):
            _round(ledger, number, there, models)
        for configuration in there:
            _accuracy(ledger, configuration, models[configuration.recipe])
        for configuration in there:
            _out_of_domain(ledger, configuration, models[configuration.recipe])
    finally:
        runner.close()
        ledger.save()
    return ledger


def _round(ledger: Ledger[Benchmark], number: int, there: Sequence[Configuration], models: Mapping[str, str]) -> None:
    """Every configuration that takes part answers, and is looked at for what a forward costs."""
    plan, order = ledger.plan, list(there)
    random.Random(number).shuffle(order)
    for configuration in order:
        model = models[configuration.recipe]
        if number < configuration.rounds:
            request = _asking(plan, configuration, model, plan.questions, number)
            ledger.perform(f"{configuration.id}/round/{number}", request)
        if number < plan.looks and configuration.is_autoregressive:
            ledger.perform(f"{configuration.id}/cost/{number}", _costing(plan, configuration, model))


def _accuracy(ledger: Ledger[Benchmark], configuration: Configuration, model: str) -> None:
    plan = ledger.plan
    if plan.quality is None or configuration.id not in (plan.quality.baseline, plan.quality.candidate):
        return
    for number, questions in enumerate(quality_runs(plan)):
        request = _asking(plan, configuration, model, questions, CLOSE_SEED + number)
        ledger.perform(f"{configuration.id}/quality/{number}", request)


def _out_of_domain(ledger: Ledger[Benchmark], configuration: Configuration, model: str) -> None:
    plan = ledger.plan
    if plan.away is None or configuration.id not in (plan.baseline, plan.candidate):
        return
    task = Evaluate(eval=plan.away.eval, settings=plan.away.settings)
    ledger.perform(f"{configuration.id}/away", _request(plan, configuration, model, task))


def quality_runs(plan: Benchmark) -> list[int]:
    """How many questions each of the runs asks that are about accuracy alone."""
    n = 0 if plan.quality is None else plan.quality.questions
    return [min(QUESTIONS, n - start) for start in range(0, n, QUESTIONS)]


def _cast(configuration: Configuration, models: dict[str, str]) -> Configuration:
    """The configuration with the id of the model that drafts for it, where one does."""
    if not configuration.drafts:
        return configuration
    return msgspec.structs.replace(
        configuration, params={**configuration.params, "draft": models[configuration.drafts]}
    )


def _closely(plan: Benchmark, configuration: Configuration, model: str) -> Request:
    """Memory and energy; no speed is taken from it."""
    task = Generate(prompt=plan.question, max_new_tokens=NEW_TOKENS)
    return _request(plan, configuration, model, task, ("memory", "energy"))


def _costing(plan: Benchmark, configuration: Configuration, model: str) -> Request:
    """What a forward of n tokens costs behind the question. Processes differ in it, so several are asked."""
    task = Generate(prompt=plan.question, max_new_tokens=2)
    return _request(plan, configuration, model, task, ("forward_cost",))


def _asking(plan: Benchmark, configuration: Configuration, model: str, questions: int, seed: int) -> Request:
    settings: dict[str, Scalar] = {**plan.settings, "n": questions, "seed": seed}
    return _request(plan, configuration, model, Evaluate(eval=plan.eval, settings=settings))


def _request(plan: Benchmark, c: Configuration, model: str, task: Task, profilers: tuple[str, ...] = ()) -> Request:
    return Request(
        model=model,
        backend=c.backend,
        task=task,
        strategy=c.strategy,
        params=c.params,
        dtype=c.dtype,
        options=c.options,
        threads=plan.threads,
        profilers=profilers,
        fresh_process=True,
    )
