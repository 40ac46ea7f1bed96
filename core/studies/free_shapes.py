"""Searches for decoders from scratch for a device: Optuna asks for sizes, the analytic cost answers.

Optuna keeps nothing: its study lives in memory and is built again from the ledger each time, by asking it for the same
shapes in the same order, so that a search that was killed goes on as if it had not been. A shape that cannot be, or
that misses a limit, is told as a constraint and not as a failure: failures are forgotten and asked for again. Beside
it the same number of shapes is drawn at random, and both fronts are compared by the volume they cover.
"""

from __future__ import annotations

import hashlib
import math
import random
import warnings
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any

import msgspec

from core.analysis.free_shapes import Sizes, config, excess, figures, refused
from core.analysis.search import miss
from core.charts.labels import plain
from core.dtypes import canonical_dtype
from core.models.spec import from_config
from core.paths import data_dir
from core.runs.runner import Runner
from core.runs.store import Store
from core.stats.pareto import front, hypervolume
from core.studies.ledger import Ledger, Say, State, Trial, folder_of
from core.studies.measures import MEASURES, limit_words, shape_limits
from core.studies.plan import FreeShapes
from core.types import Record, Scalar, to_json
from hardware.catalogue import find as find_device
from hardware.device import Device
from hardware.errors import ExplorerError

POPULATION = 32
SAVE_EVERY = 50
NOTHING = {"body_params": 1.0, "tpot_s": 1e6}  # of sizes that are no model's
CHOICES = ("width", "head_dim", "group", "ratio", "vocabulary")


class Row(Record, omit_defaults=False):
    """A shape. figures: of core.analysis.free_shapes; empty for one that cannot be. missed: limits that it misses."""

    sizes: Sizes
    figures: dict[str, float]
    missed: tuple[str, ...]
    on_front: bool


class Found(Record, omit_defaults=False):
    """A search as it stands. rows: every different shape that was asked for, the front first, quickest first.

    volume, random_volume: what the front covers in log parameters and log time, and that of as many random shapes,
    against one reference: the least parameters and the longest time of all of them.
    """

    plan: FreeShapes
    rows: tuple[Row, ...]
    asked: int
    impossible: int
    volume: float | None
    random_volume: float | None
    complete: bool
    words: tuple[str, ...]


def unavailable() -> str | None:
    """Why no search can be made here; None where it can."""
    return None if find_spec("optuna") else "Optuna is missing: pip install optuna"


def planned(
    device: str,
    at_most: Mapping[str, float] | None = None,
    at_least: Mapping[str, float] | None = None,
    **rest: Any,
) -> FreeShapes:
    """A search whose name follows from what it asks. Raises ExplorerError for a device, limit or number format that is
    none, and for sizes of which there are none. rest: further fields of the plan."""
    found = find_device(device, data_dir() / "devices")
    constraints = shape_limits(at_most or {}, at_least or {})
    plan = FreeShapes(name="", title="", device=found.name, constraints=constraints, **rest)
    canonical_dtype(plan.weights)
    for name in ("widths", "head_dims", "groups", "ratios", "vocabularies"):
        values = getattr(plan, name)
        if not values or min(values) <= 0:
            raise ExplorerError(
                f"The {name.replace('_', ' ')} to choose from are not all positive.", "Give positive numbers."
            )
    if not 1 <= plan.blocks[0] <= plan.blocks[1] <= 1000:
        raise ExplorerError("These numbers of blocks are not a range.", "Give a least and a most between 1 and 1000.")
    digest = hashlib.sha256(to_json(plan)).hexdigest()[:8]
    slug = "".join(c if c.isalnum() else "-" for c in found.name.lower())[:40].strip("-")
    title = f"Decoders from scratch for {found.name}{limit_words(constraints)}"
    return msgspec.structs.replace(plan, name=f"free-shapes-{slug}-{digest}", title=title)


def carry_out(plan: FreeShapes, minutes: float, say: Say, again: bool = False) -> Ledger[FreeShapes]:
    """Ask for whatever shapes are missing. Interrupting it loses less than SAVE_EVERY shapes.

    Raises ExplorerError where Optuna is not installed.
    """
    if reason := unavailable():
        raise ExplorerError(reason.partition(": pip")[0] + ".", "Install it: pip install optuna.")
    runner = Runner(Store(data_dir()))
    ledger = Ledger(folder_of(plan), plan, minutes, runner, say, again)
    try:
        device = find_device(plan.device, data_dir() / "devices")
        _ask(ledger, device)
    finally:
        runner.close()
        ledger.save()
    return ledger


def _ask(ledger: Ledger[FreeShapes], device: Device) -> None:
    import optuna

    plan, trials = ledger.plan, ledger.state.trials
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        study = _rebuilt(plan, trials, enqueue=False) or _rebuilt(plan, trials, enqueue=True)
        while len(trials) < plan.trials:
            if ledger.left_s <= 0:
                ledger.say("The time is over. The same search goes on when it is given more minutes.")
                return
            trial = study.ask(_space(plan))
            trials.append(answered(plan, device, trial.params))
            _tell(study, trial, plan, trials[-1])
            if len(trials) % SAVE_EVERY == 0:
                ledger.say(f"{len(trials)} of {plan.trials} shapes")
                ledger.save()
    for params in _random(plan, plan.trials)[len(trials) - plan.trials :]:
        trials.append(answered(plan, device, params))


def _rebuilt(plan: FreeShapes, trials: Sequence[Trial], enqueue: bool) -> Any:
    """Optuna's study as it was after these trials. enqueue: make it ask for them; else it asks for the same by itself,
    its seed being the same, and None comes back where it does not, of another version."""
    import optuna

    sampler = optuna.samplers.NSGAIISampler(population_size=POPULATION, seed=plan.seed)
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
    for known in trials[: plan.trials]:
        if enqueue:
            study.enqueue_trial(known.params)
        trial = study.ask(_space(plan))
        if trial.params != known.params:
            return None
        _tell(study, trial, plan, known)
    return study


def _space(plan: FreeShapes) -> dict[str, Any]:
    from optuna.distributions import CategoricalDistribution, IntDistribution

    named = zip(CHOICES, choices(plan), strict=True)
    return {"blocks": IntDistribution(*plan.blocks), **{name: CategoricalDistribution(v) for name, v in named}}


def _tell(study: Any, trial: Any, plan: FreeShapes, known: Trial) -> None:
    for name, over in _constraints(plan, known).items():
        trial.set_constraint(name, over)
    told = known.figures or NOTHING
    study.tell(trial, [told["body_params"], told["tpot_s"]])


def choices(plan: FreeShapes) -> tuple[tuple[Scalar, ...], ...]:
    """The values of CHOICES."""
    return plan.widths, plan.head_dims, plan.groups, plan.ratios, plan.vocabularies


def answered(plan: FreeShapes, device: Device, params: Mapping[str, Scalar]) -> Trial:
    """A shape with its figures; without any where the sizes fit no model."""
    sizes = sizes_of(params)
    found: dict[str, float] = {}
    if not refused(sizes):
        spec = from_config(config(sizes, plan.prompt_tokens + plan.new_tokens), sizes.label)
        found = figures(spec, device, plan.weights, plan.prompt_tokens, plan.new_tokens, plan.batch)
    return Trial(params=dict(params), figures=found)


def sizes_of(params: Mapping[str, Scalar]) -> Sizes:
    return msgspec.convert(dict(params), Sizes)


def _constraints(plan: FreeShapes, trial: Trial) -> dict[str, float]:
    """By name how far each is missed; at most 0 where it is met."""
    found = {"model": refused(sizes_of(trial.params))}
    for c in plan.constraints:
        found[f"{c.measure} {c.better}"] = excess(trial.figures, c) if trial.figures else 1.0
    return found


# ------------------------------------------------------------ what came of it


def findings(state: State[FreeShapes]) -> Found:
    """Everything that came of a search so far, and the same number of random shapes beside it."""
    plan = state.plan
    asked = {to_json(t.params): t for t in state.trials[: plan.trials]}
    rows = _with_front(plan, [_row(plan, t) for t in asked.values()])
    drawn = [_row(plan, t) for t in state.trials[plan.trials :]]
    reference = _reference([*rows, *drawn])
    return Found(
        plan=plan,
        rows=rows,
        asked=min(len(state.trials), plan.trials),
        impossible=sum(not row.figures for row in rows),
        volume=_volume(rows, reference),
        random_volume=_volume(drawn, reference) if drawn else None,
        complete=len(state.trials) >= 2 * plan.trials,
        words=_words(plan, rows),
    )


def _row(plan: FreeShapes, trial: Trial) -> Row:
    missed = tuple(name for name, over in _constraints(plan, trial).items() if over > 0)
    return Row(sizes=sizes_of(trial.params), figures=trial.figures, missed=missed, on_front=False)


def _with_front(plan: FreeShapes, rows: Sequence[Row]) -> tuple[Row, ...]:
    met = [i for i, row in enumerate(rows) if not row.missed]
    points = [(rows[i].figures["body_params"], rows[i].figures["tpot_s"]) for i in met]
    on = {i for i, is_on in zip(met, front(points, ("higher", "lower")) if points else (), strict=True) if is_on}
    marked = [msgspec.structs.replace(row, on_front=i in on) for i, row in enumerate(rows)]
    return tuple(sorted(marked, key=lambda r: (not r.on_front, bool(r.missed), r.figures.get("tpot_s", 0.0))))


def _random(plan: FreeShapes, n: int) -> list[dict[str, Scalar]]:
    rng = random.Random(f"{plan.seed}-random")
    return [
        {"blocks": rng.randint(*plan.blocks)}
        | {name: rng.choice(values) for name, values in zip(CHOICES, choices(plan), strict=True)}
        for _ in range(n)
    ]


def _reference(rows: Sequence[Row]) -> tuple[float, float] | None:
    known = [row.figures for row in rows if not row.missed]
    if not known:
        return None
    return min(f["body_params"] for f in known) / 2, max(f["tpot_s"] for f in known) * 2


def _volume(rows: Sequence[Row], reference: tuple[float, float] | None) -> float | None:
    """In the plane of the two logarithms."""
    if reference is None:
        return None
    points = [(math.log(r.figures["body_params"]), math.log(r.figures["tpot_s"])) for r in rows if not r.missed]
    corner = (math.log(reference[0]), math.log(reference[1]))
    return hypervolume(points, corner, ("higher", "lower")) if points else 0.0


def _words(plan: FreeShapes, rows: Sequence[Row]) -> tuple[str, ...]:
    on = [row for row in rows if row.on_front]
    if not rows:
        return ("No shape was asked for yet.",)
    if not on:
        near = [row for row in rows if row.figures]
        if not near:
            return ("None of the sizes asked for fit a model: heads must divide the width, groups the heads.",)
        row = min(near, key=lambda r: miss((c, r.figures.get(c.measure)) for c in plan.constraints))
        missed = [c for c in plan.constraints if not c.met(row.figures[c.measure])]
        told = "; ".join(
            f"{MEASURES[c.measure].label.lower()} of {plain(row.figures[c.measure])} where {plain(c.limit)} is asked"
            for c in missed
        )
        return (f"No shape meets the limits on {plan.device}. Nearest is {row.sizes.label}: {told}.",)
    first, last = on[0], on[-1]
    return (
        f"{len(on)} shapes are on the front for {plan.device}: from {first.sizes.label} "
        f"({first.figures['body_params'] / 1e6:,.1f} M parameters without embedding, "
        f"{plain(first.figures['tok_per_s'])} tok/s) to {last.sizes.label} "
        f"({last.figures['body_params'] / 1e6:,.1f} M, {plain(last.figures['tok_per_s'])} tok/s).",
        "None was trained: parameters without embedding stand for quality, which ranks models of unlike sizes and says "
        "nothing of depth against width at one size.",
    )
