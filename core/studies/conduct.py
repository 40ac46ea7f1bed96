"""Carries out a plan: makes the variants, times them in interleaved rounds, evaluates them, within a time budget.

Only runs are made here, by the runner that makes all others; what they say is core.studies.findings'.
"""

from __future__ import annotations

import random
from typing import Any

import msgspec

from core import plugins
from core.models import catalogue, derived
from core.paths import data_dir
from core.runs.lineage import is_of
from core.runs.other_machine import LostMachineError, OtherMachine
from core.runs.resolve import resolve
from core.runs.runner import Runner
from core.runs.store import Store
from core.studies.ledger import Ledger, Say, folder_of
from core.studies.plan import Evaluation, Plan, Recipe
from core.types import Derive, Evaluate, Generate, Record, Request, Result
from hardware.errors import ExplorerError

START_S = 8.0  # of an evaluated variant: a process, a model, the first forward
LEAST_ITEMS = 20
OVERRUN = 0.2  # of the study's time, after which no evaluation begins
SPARE = 0.9  # of the time left goes into evaluations; estimates err


class Answer(Record):
    """The standard answer in one fresh process: seconds to the first token, and of all of it.

    disturbed: something else had part of the machine, and its repetitions did not help.
    """

    ttft_s: float
    seconds: float
    tok_per_s: float
    disturbed: bool = False


def conduct(
    plan: Plan, minutes: float, say: Say, again: bool = False, machine: OtherMachine | None = None
) -> Ledger[Plan]:
    """Do whatever of the plan is not done yet; returns the ledger. Interrupting it loses nothing but the run going.

    machine: where the runs are made, and the variants; here without one.
    """
    runner = maker(plan.model, machine)
    ledger = Ledger(folder_of(plan), plan, minutes, runner, say, again)
    try:
        models = {r.id: model for r in plan.recipes if (model := make(ledger, r)) is not None}
        for recipe in plan.recipes:
            if recipe.id in models:
                ledger.perform(f"{recipe.id}/detail", _detail(plan, recipe, models[recipe.id]))
        speed_rounds(ledger, models, range(plan.least_rounds))
        evaluate(ledger, models)
        for number in range(plan.least_rounds, plan.rounds):
            if ledger.left_s < round_s(ledger):
                break
            speed_rounds(ledger, models, range(number, number + 1))
    finally:
        runner.close()
        ledger.save()
    return ledger


# ------------------------------------------------------------ making


def maker(model: str, machine: OtherMachine | None) -> Runner | OtherMachine:
    """Who makes a study's runs. Raises ExplorerError for a model that is not there."""
    if machine is None:
        catalogue.find(model)
        return Runner(Store(data_dir()))
    if model not in machine.models():
        raise ExplorerError(f"{machine.name} has no model called '{model}'.", "Put it there, or name one that it has.")
    return machine


def make(ledger: Ledger[Any], recipe: Recipe) -> str | None:
    """The id of the recipe's model; None when it could not be made, and the ledger says why."""
    model: str = ledger.plan.model
    for number, (name, settings) in enumerate(recipe.steps, 1):
        key = f"{recipe.id}/make/{number}"
        try:
            plugin = plugins.get("transform", name)
            request = Request(
                model=model,
                backend=plugin.backend,
                task=Derive(transform=name, settings=settings),
                profilers=(),
                threads=ledger.plan.threads,
            )
            made = _made(ledger, key, request)
        except LostMachineError:  # it says nothing of this recipe
            raise
        except ExplorerError as error:
            ledger.fail(key, str(error))
            return None
        if made is None:
            return None
        model = made
    return model


def _made(ledger: Ledger[Any], key: str, request: Request) -> str | None:
    """Make the model, unless the same one is there already: of this study, of another recipe, or made by hand."""
    if isinstance(ledger.runner, OtherMachine):
        return _made_there(ledger, ledger.runner, key, request)
    there = [e.id for e in catalogue.entries(refresh=True)]
    wanted = resolve(request)
    for name in there:
        run_id = str(derived.about(name).get("run"))
        if is_of(name, wanted) and ledger.runner.store.finished(run_id) is not None:
            ledger.adopt(key, run_id)
            return name
    if ledger.done(key) is not None:  # its model was deleted since
        ledger.state.runs.pop(key)
    run = ledger.perform(key, request)
    made = run.result().made if run is not None else None
    if made is None:
        return None
    catalogue.entries(refresh=True)
    return made.model


def _made_there(ledger: Ledger[Any], machine: OtherMachine, key: str, request: Request) -> str | None:
    """The same on another machine, whose models are its own: what this study made there, or has made now."""
    run = ledger.done(key)
    made = run.result().made if run is not None else None
    if made is not None and made.model in machine.models():
        return made.model
    ledger.state.runs.pop(key, None)  # its model was deleted since
    run = ledger.perform(key, request)
    made = run.result().made if run is not None else None
    return None if made is None else made.model


# ------------------------------------------------------------ timing


def speed_rounds(ledger: Ledger[Plan], models: dict[str, str], numbers: range) -> None:
    """In each round every variant answers once, in a fresh process, in a random order of the round's own."""
    plan = ledger.plan
    for number in numbers:
        order = [r for r in plan.recipes if r.id in models]
        random.Random(number).shuffle(order)
        for recipe in order:
            request = _answering(plan, recipe, models[recipe.id], number)
            ledger.perform(f"{recipe.id}/speed/{number}", request)


def round_s(ledger: Ledger[Plan]) -> float:
    """How long a round takes, from the first one."""
    runs = [ledger.done(f"{r.id}/speed/0") for r in ledger.plan.recipes]
    return sum((run.result().total_s or 0.0) + 1.0 for run in runs if run is not None)


def answer(result: Result) -> Answer | None:
    """The standard answer of a run; None when it was not timed."""
    if result.ttft_s is None or result.tpot_s is None or not result.tok_per_s:
        return None
    seconds = result.ttft_s + result.tpot_s * (result.n_new_tokens - 1)
    return Answer(ttft_s=result.ttft_s, seconds=seconds, tok_per_s=result.tok_per_s, disturbed=result.disturbed)


def _answering(plan: Plan, recipe: Recipe, model: str, seed: int) -> Request:
    return Request(
        model=model,
        backend=recipe.backend,
        task=Generate(prompt_tokens=plan.prompt_tokens, max_new_tokens=plan.new_tokens),
        dtype=recipe.dtype,
        options=recipe.options,
        threads=plan.threads,
        profilers=(),
        warmup=1,
        repeats=plan.repeats,
        seed=seed,
        fresh_process=True,
    )


def _detail(plan: Plan, recipe: Recipe, model: str) -> Request:
    """Memory and energy of the standard answer, in a run that no speed is taken from."""
    once = _answering(plan, recipe, model, seed=0)
    return msgspec.structs.replace(once, profilers=("memory", "energy"), repeats=1)


# ------------------------------------------------------------ evaluating


def evaluate(ledger: Ledger[Plan], models: dict[str, str]) -> None:
    """Every evaluation of every variant; the baseline in full first, which tells what the others can afford."""
    plan = ledger.plan
    if plan.baseline not in models:
        return
    order = sorted((r for r in plan.recipes if r.id in models), key=lambda r: r.id != plan.baseline)
    for recipe in order:
        if recipe.id != plan.baseline and not ledger.state.items:
            ledger.state.items = affordable(ledger, [r for r in order if r.id != plan.baseline])
            ledger.save()
        if recipe.id != plan.baseline and ledger.left_s < -OVERRUN * 60 * ledger.state.minutes:
            break
        for evaluation in plan.evaluations:
            n = ledger.state.items.get(evaluation.eval, 0)
            ledger.perform(f"{recipe.id}/{evaluation.key}", _evaluating(plan, recipe, models[recipe.id], evaluation, n))


def affordable(ledger: Ledger[Plan], recipes: list[Recipe]) -> dict[str, int]:
    """Eval -> items that everyone can be asked in the time left; 0 for all of them.

    A variant is expected to need the baseline's time, longer by as much as its first token (of evaluations that only
    read) or its whole standard answer (of those that write) takes longer. All evaluations shrink by the same share.
    """
    plan = ledger.plan
    base = _typical(ledger, plan.baseline)
    needed = 0.0
    sizes: dict[str, int] = {}
    for evaluation in plan.evaluations:
        run = ledger.done(f"{plan.baseline}/{evaluation.key}")
        if run is None or base is None:
            continue
        result = run.result()
        sizes[evaluation.eval] = len(result.items)
        took = result.items[-1].t_s - result.asked.t_s if result.items and result.asked else 0.0
        for recipe in recipes:
            own = _typical(ledger, recipe.id)
            if own is not None:
                slower = own.seconds / base.seconds if evaluation.generates else own.ttft_s / base.ttft_s
                needed += took * slower
    room = SPARE * ledger.left_s - START_S * len(recipes)
    share = 1.0 if not needed else max(0.0, room / needed)
    ledger.say(
        f"evaluations need about {needed / 60:.1f} min, {room / 60:.1f} min are there: "
        f"{min(1.0, share):.0%} of the items"
    )
    if share >= 1:
        return dict.fromkeys(sizes, 0)
    return {name: min(size, max(LEAST_ITEMS, int(share * size))) for name, size in sizes.items()}


def _typical(ledger: Ledger[Plan], recipe_id: str) -> Answer | None:
    """Of the rounds done so far the quickest."""
    found = []
    for number in range(ledger.plan.rounds):
        run = ledger.done(f"{recipe_id}/speed/{number}")
        if run is not None and (timed := answer(run.result())) is not None:
            found.append(timed)
    return min(found, key=lambda a: a.seconds, default=None)


def _evaluating(plan: Plan, recipe: Recipe, model: str, evaluation: Evaluation, n: int) -> Request:
    return Request(
        model=model,
        backend=recipe.backend,
        task=Evaluate(eval=evaluation.eval, settings={**evaluation.settings, **({"n": n} if n else {})}),
        dtype=recipe.dtype,
        options=recipe.options,
        threads=plan.threads,
        profilers=(),
    )
