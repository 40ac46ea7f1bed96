"""Carries out a contest: makes the models, looks at each contender once closely, then lets them answer in rounds.

Only runs are made here; what they say is core.studies.standings'.
"""

from __future__ import annotations

import random

import msgspec

from core.models import catalogue
from core.paths import data_dir
from core.runs.runner import Runner
from core.runs.store import Store
from core.studies.conduct import make
from core.studies.ledger import Ledger, Say
from core.studies.plan import Contender, Contest
from core.types import Evaluate, Generate, Request, Scalar, Task

NEW_TOKENS = 96  # of the close look, at most


def hold(plan: Contest, minutes: float, say: Say, again: bool = False) -> Ledger[Contest]:
    """Do whatever of the plan is not done yet; returns the ledger. Interrupting it loses nothing but the run going."""
    catalogue.find(plan.model)
    runner = Runner(Store(data_dir()))
    ledger = Ledger(data_dir() / "studies" / plan.name, plan, minutes, runner, say, again)
    try:
        models = {r.id: model for r in plan.recipes if (model := make(ledger, r)) is not None}
        there = [_cast(c, models) for c in plan.contenders if {c.recipe, c.drafts or c.recipe} <= models.keys()]
        for contender in there:
            ledger.perform(f"{contender.id}/detail", _closely(plan, contender, models[contender.recipe]))
        for number in range(max((plan.looks, *(c.rounds for c in there)))):
            order = list(there)
            random.Random(number).shuffle(order)
            for contender in order:
                model = models[contender.recipe]
                if number < contender.rounds:
                    settings: dict[str, Scalar] = {**plan.settings, "n": plan.questions, "seed": number}
                    request = _asking(plan, contender, model, plan.eval, settings)
                    ledger.perform(f"{contender.id}/round/{number}", request)
                if number < plan.looks and contender.one_by_one:
                    ledger.perform(f"{contender.id}/cost/{number}", _costing(plan, contender, model))
        if plan.away is not None:
            for contender in there:
                if contender.id in (plan.baseline, plan.champion):
                    request = _asking(plan, contender, models[contender.recipe], plan.away.eval, plan.away.settings)
                    ledger.perform(f"{contender.id}/away", request)
    finally:
        runner.close()
        ledger.save()
    return ledger


def _cast(contender: Contender, models: dict[str, str]) -> Contender:
    """The contender with the id of the model that drafts for it, where one does."""
    if not contender.drafts:
        return contender
    return msgspec.structs.replace(contender, params={**contender.params, "draft": models[contender.drafts]})


def _closely(plan: Contest, contender: Contender, model: str) -> Request:
    """Memory and energy; no speed is taken from it."""
    task = Generate(prompt=plan.question, max_new_tokens=NEW_TOKENS)
    return _request(plan, contender, model, task, ("memory", "energy"))


def _costing(plan: Contest, contender: Contender, model: str) -> Request:
    """What a forward of n tokens costs behind the question. Processes differ in it, so several are asked."""
    task = Generate(prompt=plan.question, max_new_tokens=2)
    return _request(plan, contender, model, task, ("forward_cost",))


def _asking(plan: Contest, contender: Contender, model: str, name: str, settings: dict[str, Scalar]) -> Request:
    return _request(plan, contender, model, Evaluate(eval=name, settings=settings))


def _request(plan: Contest, c: Contender, model: str, task: Task, profilers: tuple[str, ...] = ()) -> Request:
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
