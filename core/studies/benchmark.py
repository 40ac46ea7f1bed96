"""Carries out a benchmark: makes the models, looks at each configuration once closely, then lets them answer in rounds.

Only runs are made here; what they say is core.studies.standings'.
"""

from __future__ import annotations

import random

import msgspec

from core.runs.other_machine import OtherMachine
from core.studies.conduct import make, maker
from core.studies.ledger import Ledger, Say, folder_of
from core.studies.plan import Benchmark, Configuration
from core.types import Evaluate, Generate, Request, Scalar, Task

NEW_TOKENS = 96  # of the close look, at most


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
            order = list(there)
            random.Random(number).shuffle(order)
            for configuration in order:
                model = models[configuration.recipe]
                if number < configuration.rounds:
                    settings: dict[str, Scalar] = {**plan.settings, "n": plan.questions, "seed": number}
                    request = _asking(plan, configuration, model, plan.eval, settings)
                    ledger.perform(f"{configuration.id}/round/{number}", request)
                if number < plan.looks and configuration.is_autoregressive:
                    ledger.perform(f"{configuration.id}/cost/{number}", _costing(plan, configuration, model))
        if plan.away is not None:
            for configuration in there:
                if configuration.id in (plan.baseline, plan.candidate):
                    request = _asking(
                        plan, configuration, models[configuration.recipe], plan.away.eval, plan.away.settings
                    )
                    ledger.perform(f"{configuration.id}/away", request)
    finally:
        runner.close()
        ledger.save()
    return ledger


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


def _asking(
    plan: Benchmark, configuration: Configuration, model: str, name: str, settings: dict[str, Scalar]
) -> Request:
    return _request(plan, configuration, model, Evaluate(eval=name, settings=settings))


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
