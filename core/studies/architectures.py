"""Carries out a search for architectures: shapes cut from a trained model, priced, masked, trained and measured.

The funnel. The whole model, its shallowest shape and its narrowest one are timed in every engine, to which the exact
work model is fitted, and every shape of the space is priced by it. A library of what each block and each width alone
costs in quality (KL to the whole model) gives an additive estimate for all of them; the best of each price range are
tried by masking; the best of those, and some drawn at random over all sizes, are cut, distilled for a short while,
judged on texts that nothing was chosen by, and measured in every engine in interleaved rounds, in fresh processes.
Everything is in the ledger: a search that was stopped or killed goes on.
"""

from __future__ import annotations

import dataclasses
import hashlib
import random
import statistics
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from core import plugins
from core.analysis.cuts import WIDTHS, Cut, estimate, extremes, parsed, peeled, shapes, singles, stratified, union
from core.analysis.eta import Eta, remaining
from core.analysis.predict import Figure, predict
from core.analysis.search import Constraint, OutOfTimeError, Range, miss
from core.analysis.work import n_active_params
from core.charts.labels import plain
from core.dtypes import retype
from core.evals._texts import documents
from core.models import catalogue, derived
from core.models.cut_spec import check_cuttable, cut_spec
from core.paths import data_dir
from core.runs.ceilings import kept, measure
from core.runs.foresight import Foresight
from core.runs.measuring import BusyError, measuring
from core.runs.resolve import resolve
from core.runs.runner import Runner
from core.runs.store import Store
from core.studies.architecture_findings import findings
from core.studies.architecture_state import WHOLE, chosen, finishers, influences, whole_of
from core.studies.conduct import make
from core.studies.ledger import Ledger, Say, State, folder_of
from core.studies.measures import MEASURES, limit_words, shape_limits
from core.studies.plan import ENGINES, Architectures, Recipe, catalogue_name
from core.types import Attention, Evaluate, Generate, Linear, ModelSpec, Record, Request, Scalar, to_json
from hardware.catalogue import find as find_device
from hardware.child import Child
from hardware.detect import usable_cores
from hardware.device import Device
from hardware.errors import ExplorerError

TRAINING: dict[str, Scalar] = {
    "texts": 160,
    "length": 48,
    "minutes": 2.0,
    "probe_minutes": 1.0,
    "learning_rate": 3e-4,
}
# Seconds of a step before any is done. first: of a model's first answer in an engine, for which it is converted.
FIRST_S = {"score": 3.0, "cut": 30.0, "train": 200.0, "judge": 60.0, "first": 20.0, "speed": 5.0}
CALIBRATING = 2  # answers of each model that prices are fitted to, in each engine


class Progress(Record, omit_defaults=False):
    """How far a search is, in steps. eta: None when nothing is left."""

    done: int
    total: int
    failed: int
    spent_s: float
    minutes: float
    eta: Eta | None

    @property
    def share(self) -> float:
        return self.done / self.total if self.total else 0.0


def planned(
    model: str,
    engines: Sequence[str] = ENGINES,
    device: str = "",
    at_most: Mapping[str, float] | None = None,
    at_least: Mapping[str, float] | None = None,
    training: Mapping[str, Scalar] | None = None,
    **rest: Any,
) -> Architectures:
    """A search whose name follows from what it asks. Raises ExplorerError for an engine, device, limit or setting that
    is none.

    rest: further fields of the plan.
    """
    constraints = shape_limits(at_most or {}, at_least or {})
    if not engines:
        raise ExplorerError("A search needs an engine to measure in.", "Name llama_cpp, onnxruntime or pytorch.")
    for engine in engines:
        plugins.get("backend", engine)
    if device:
        device = find_device(device, data_dir() / "devices").name
    wanted = Architectures(
        name="",
        title="",
        model=model,
        engines=tuple(dict.fromkeys(engines)),
        device=device,
        constraints=constraints,
        training=TRAINING | dict(training or {}),
        **rest,
    )
    if wanted.checks >= wanted.finished:
        raise ExplorerError(
            f"{wanted.checks} of {wanted.finished} finished shapes are drawn at random, which leaves none to choose.",
            "Finish more shapes, or draw fewer.",
        )
    for name, given in _after_cut(wanted, model, wanted.quantize):
        of = plugins.get("transform", name)
        plugins.settings(of.Params, given, of.label)
    digest = hashlib.sha256(to_json(wanted)).hexdigest()[:8]
    return msgspec.structs.replace(
        wanted,
        name=f"architectures-{catalogue_name(model)}-{digest}",
        title=f"Shapes cut from {model}{f' for {device}' if device else ''}{limit_words(constraints)}",
    )


def carry_out(plan: Architectures, minutes: float, say: Say, again: bool = False) -> Ledger[Architectures]:
    """Do whatever of the search is not done yet. Interrupting it loses nothing but the run going.

    Raises ExplorerError when the model cannot be cut, and when no shape meets the limits.
    """
    catalogue.find(plan.model)
    runner = Runner(Store(data_dir()))
    ledger = Ledger(folder_of(plan), plan, minutes, runner, say, again)
    try:
        _funnel(ledger)
    except OutOfTimeError:
        say("The time is over. The same search goes on when it is given more minutes.")
    finally:
        runner.close()
        ledger.save()
    return ledger


def _funnel(ledger: Ledger[Architectures]) -> None:
    plan, state = ledger.plan, ledger.state
    whole = make(ledger, Recipe(id=WHOLE, label="whole model", backend=plan.judge, steps=(("cut", {}),)))
    if whole is None:
        reason = state.failures.get(f"{WHOLE}/make/1", "It was stopped.")
        raise ExplorerError(
            f"{plan.model} cannot be cut: {reason}", "Choose another model, or begin anew with --again."
        )
    if not any("@" in key for key in state.ranges):
        _choose(ledger, whole)
    _score(ledger, whole, {name: _ask(cut) for name, cut in chosen(state).items()})
    models = {WHOLE: whole}
    for cut in finishers(state):
        _in_time(ledger)
        if len(models) > 1 and ledger.left_s < rounds_s(state, len(models) + 1):
            ledger.say("What time is left is for the rounds: the other shapes wait for more minutes.")
            break
        if model := make(ledger, recipe(plan, cut, whole)):
            models[cut.id] = model
            ledger.perform(f"{cut.id}/judge", _judging(plan, model, whole), f"judging {cut.label}")
    _rounds(ledger, models)
    _quantized(ledger, whole)


def rounds_s(state: State[Architectures], n: int) -> float:
    """What making one more shape, measuring n models (the whole one among them) and the quantized answer will take.

    Each step as long as this search's own took on average. The whole model was converted when prices were fitted.
    """
    plan = state.plan

    def each(kind: str) -> float:
        took = [seconds for key, seconds in state.took_s.items() if _kind(key) == kind]
        return statistics.mean(took) if took else _first_s(plan, kind)

    seconds = sum(map(each, ("cut", "train", "judge")))
    for engine in plan.engines:
        seconds += (n - 1) * each(f"first {engine}") + (n * (plan.rounds - 1) + 1) * each(f"speed {engine}")
    if plan.quantize:
        seconds += each("judge") + 2 * plan.rounds * each("speed llama_cpp")
    return seconds


def _in_time(ledger: Ledger[Architectures]) -> None:
    if ledger.left_s <= 0:
        raise OutOfTimeError


# ------------------------------------------------------------ what a shape costs


def _choose(ledger: Ledger[Architectures], whole: str) -> None:
    """Price every shape, score the library, and keep which shapes are worth masking, with what was predicted."""
    plan, state = ledger.plan, ledger.state
    _roofs(ledger)
    _calibrate(ledger, whole)
    priced = Priced(plan, whole, ledger.runner.store)
    every = {cut.id: cut for cut in shapes(priced.whole, plan.space)}
    ledger.say(f"{len(every)} shapes are priced in {', '.join(plan.places)}")
    found = {name: priced.figures(cut) for name, cut in every.items()}
    mine = priced.whole.id
    possible = {n: every[n] for n in every if n != mine and not _broken(plan, found[n])}
    state.items |= {"shapes": len(every), "possible": len(possible)}
    if not possible:
        raise ExplorerError(_nearest(plan, {n: found[n] for n in every}, every), "Widen the limits, or cut deeper.")
    asks = {f"block/{i}": {"dropped": (i,)} for i in range(priced.whole.blocks)}
    asks |= {name: _ask(cut) for name, cut in singles(priced.whole, list(possible.values())).items()}
    _score(ledger, whole, asks)
    influence = influences(state)
    losses = {n: estimate(priced.whole, cut, influence, state.scores) for n, cut in possible.items()}
    sizes = {n: found[n][""]["n_params"].likely for n in possible}
    costs = [{n: found[n][place]["tpot_s"].likely for n in possible} for place in plan.places]
    checks = stratified(sizes, plan.checks, plan.seed)
    best = union([peeled(cost, losses, plan.scored) for cost in costs], max(0, plan.scored - plan.checks - 2))
    for name in dict.fromkeys((mine, *contrast(priced.whole, possible, sizes), *checks, *best)):
        for place, figures in found[name].items():
            state.ranges[f"{name}@{place}"] = figures
        state.scores[f"estimate/{name}"] = losses.get(name, 0.0)
    state.scores |= {f"check/{n}": i for i, n in enumerate(checks)}
    state.scores |= {f"whole/{n}": value for n, value in msgspec.structs.asdict(priced.whole).items()}
    ledger.save()


def _roofs(ledger: Ledger[Architectures]) -> None:
    """Measure this machine's ceilings, on which prices stand, unless they are known."""
    threads = ledger.plan.threads or usable_cores()
    if kept(data_dir(), threads) is not None:
        return
    ledger.say(f"this machine's ceilings with {threads} threads are measured")
    try:
        _when_free(ledger, lambda: measure(data_dir(), threads))
    except ExplorerError as error:
        ledger.say(f"Prices stand on round numbers: {error}")


def _calibrate(ledger: Ledger[Architectures], whole: str) -> None:
    """Time the whole model and its extreme shapes in every engine, so that prices are fitted to each of them.

    The shapes are cut and no more: how long a forward takes does not depend on what it says.
    """
    plan = ledger.plan
    models = {WHOLE: whole}
    for cut in extremes(cut_of(resolve(_timing(plan, whole, plan.engines[0], 0)).spec), plan.space):
        _in_time(ledger)
        if model := make(ledger, _cutting(plan, cut)):
            models[cut.id] = model
    for engine in plan.engines:
        for number in range(CALIBRATING):
            for name, model in models.items():
                _in_time(ledger)
                label = f"fitting prices in {plugins.label('backend', engine)}: {name}"
                ledger.perform(f"{name}/calibrate/{engine}/{number}", _timing(plan, model, engine, number + 1), label)


class Priced:
    """What any shape of one model would cost in every place of a plan."""

    def __init__(self, plan: Architectures, whole: str, store: Store) -> None:
        self._plan, self._foresight = plan, Foresight(store)
        self._wanted = {engine: resolve(_timing(plan, whole, engine, 0)) for engine in plan.engines}
        self._device: Device | None = find_device(plan.device, data_dir() / "devices") if plan.device else None
        self._spec = self._wanted[plan.engines[0]].spec
        self.whole = cut_of(self._spec)

    def figures(self, cut: Cut) -> dict[str, dict[str, Range]]:
        """Place -> measure -> range; "" -> what is the same everywhere."""
        plan, found = self._plan, dict[str, dict[str, Range]]()
        spec = _spec(self._spec, cut)
        for engine, wanted in self._wanted.items():
            here = retype(spec, wanted.spec.dtype)
            found[engine] = self._foresight.ranges(dataclasses.replace(wanted, spec=here))
        if self._device is not None:
            told = predict(spec, self._device, prompt_tokens=plan.prompt_tokens, new_tokens=plan.new_tokens)
            assert told.tpot_s is not None and told.decode_tok_per_s is not None, "a decoder"
            figures = {"ttft_s": told.ttft_s, "tpot_s": told.tpot_s, "tok_per_s": told.decode_tok_per_s}
            found[plan.device] = {name: _range(figure) for name, figure in figures.items()}
            found[plan.device]["peak_memory_bytes"] = _range(told.peak_memory_bytes)
            first, step, n = _range(told.ttft_s), _range(told.tpot_s), plan.new_tokens - 1
            ends = {end: getattr(first, end) + n * getattr(step, end) for end in ("low", "likely", "high")}
            found[plan.device]["latency_s"] = Range(**ends)
        for figures_ in found.values():
            figures_["n_params"] = _sure(spec.n_params)
        body = sum(layer.n_params for layer in spec.layers if layer.kind not in ("embedding", "head"))
        found[""] = {
            "n_params": _sure(spec.n_params),
            "body_params": _sure(body),
            "weight_bytes": _sure(spec.weight_bytes or 0),
            "active_params": _sure(n_active_params(spec)),
        }
        return found


def cut_of(spec: ModelSpec) -> Cut:
    """A whole model as a shape; raises ExplorerError for one without blocks of Llama's kind."""
    check_cuttable(spec)
    ops = {layer.name: layer.op for layer in spec.layers}
    core, down = ops["blocks.0.attn.core"], ops["blocks.0.mlp.down_proj"]
    assert isinstance(core, Attention) and isinstance(down, Linear), "as was checked"
    return Cut(blocks=spec.n_blocks, d_ff=down.d_in, kv_heads=core.n_kv_heads, queries=core.n_heads // core.n_kv_heads)


def _spec(parent: ModelSpec, cut: Cut) -> ModelSpec:
    return cut_spec(parent, cut.blocks, cut.d_ff, cut.kv_heads, cut.queries)


def _range(of: Figure) -> Range:
    return Range(low=of.low, likely=of.calibrated, high=of.high)


def _sure(value: float) -> Range:
    return Range(low=float(value), likely=float(value), high=float(value))


def _broken(plan: Architectures, found: Mapping[str, Mapping[str, Range]]) -> Constraint | None:
    """The first limit that a shape certainly misses where limits are for."""
    figures = found[plan.target]
    for c in plan.constraints:
        told = figures.get(c.measure)
        if told is None or not c.met(told.low if c.better == "lower" else told.high):
            return c
    return None


def _nearest(
    plan: Architectures, found: Mapping[str, Mapping[str, Mapping[str, Range]]], every: Mapping[str, Cut]
) -> str:
    """Who comes nearest where no shape meets the limits, by the better ends of what is predicted."""

    def ends(name: str) -> list[tuple[Constraint, float | None]]:
        figures = found[name][plan.target]
        told = [(c, figures.get(c.measure)) for c in plan.constraints]
        return [(c, None if r is None else r.low if c.better == "lower" else r.high) for c, r in told]

    name = min(every, key=lambda n: miss(ends(n)))
    missed = []
    for c, end in ends(name):
        what, told = MEASURES[c.measure], found[name][plan.target].get(c.measure)
        if told is None:
            missed.append(f"no prediction of {what.label.lower()}")
        elif end is None or not c.met(end):
            span = f"between {plain(told.low)} and {plain(told.high)} {what.unit}".strip()
            missed.append(f"{what.label.lower()} {span}, where {plain(c.limit)} is asked")
    return f"No shape can meet the limits on {plan.target}: nearest is {every[name].label} with {'; '.join(missed)}."


def contrast(whole: Cut, possible: Mapping[str, Cut], sizes: Mapping[str, float]) -> tuple[str, ...]:
    """A shape that lost nothing but blocks and one that lost nothing but MLP channels, of nearly the same size."""
    rest = ("kv_heads", "queries")
    same = {n: c for n, c in possible.items() if all(getattr(c, r) == getattr(whole, r) for r in rest)}
    deep = [n for n, c in same.items() if c.d_ff == whole.d_ff and c.blocks < whole.blocks]
    wide = [n for n, c in same.items() if c.blocks == whole.blocks and c.d_ff < whole.d_ff]
    pairs = [(abs(sizes[a] - sizes[b]), sizes[a], a, b) for a in deep for b in wide]
    near = [p for p in pairs if p[0] < 0.05 * p[1]]
    if not pairs:
        return ()
    _, _, a, b = min(near, key=lambda p: p[1]) if near else min(pairs)
    return a, b


# ------------------------------------------------------------ scores by masking


def _ask(cut: Cut) -> dict[str, Any]:
    return {"widths": msgspec.structs.asdict(cut)}


def _score(ledger: Ledger[Architectures], whole: str, asks: Mapping[str, dict[str, Any]]) -> None:
    """KL to the whole model of every shape that has none yet, in one process; each is kept as it is known."""
    plan, state = ledger.plan, ledger.state
    n_blocks = resolve(_timing(plan, whole, plan.engines[0], 0)).spec.n_blocks
    open_ = [
        {"key": key, "dropped": n_blocks - ask["widths"]["blocks"] if "widths" in ask else ask["dropped"], **ask}
        for key, ask in asks.items()
        if key not in state.scores
    ]
    if not open_:
        return
    found = documents("")
    asked = {
        "path": str(derived.folder() / whole),
        "label": plan.model,
        "texts": [d.text for d in (found[plan.texts :] or found)],
        "tokens": plan.score_tokens,
        "threads": plan.threads or usable_cores(),
        "asks": open_,
    }
    file = ledger.folder / "asked.json"
    file.write_bytes(to_json(asked))

    def listen() -> None:
        with measuring(data_dir(), f"how much {len(open_)} shapes lose"):
            _listen(ledger, file, len(open_))

    _when_free(ledger, listen)


def _when_free(ledger: Ledger[Architectures], act: Callable[[], object]) -> None:
    """Do what takes the machine for itself, as soon as nobody else measures."""
    while True:
        ledger.runner.free(lambda: ledger.say("waiting for another run to end"))
        try:
            act()
            return
        except BusyError:
            time.sleep(0.5)


def _listen(ledger: Ledger[Architectures], file: Path, n: int) -> None:
    state, done, last = ledger.state, 0, dict[str, Any]()
    with Child("core.transforms._cut_scores", [str(file)], hush=True) as child:
        for message in child.messages():
            if ledger.left_s <= 0:
                raise OutOfTimeError
            if message is None:
                continue
            last = message
            if "influence" in message:
                state.scores |= {f"influence/{i}": float(v) for i, v in enumerate(message["influence"])}
            if "kl" in message:
                done += 1
                state.scores[message["key"]] = float(message["kl"])
                state.took_s[f"score/{message['key']}"] = float(message["seconds"])
                ledger.say(f"masked {done} of {n}: {message['key']} loses {message['kl']:.4f} nat/token")
            ledger.save()
    if "message" in last:
        raise ExplorerError(last["message"], last["hint"])
    if done < n:
        raise ExplorerError(
            f"Masking shapes ended early with status {child.status}: {child.last_error or 'no word'}.",
            "The memory may have run out: read fewer tokens, or choose a smaller model. The search goes on from here.",
        )


def _cutting(plan: Architectures, cut: Cut) -> Recipe:
    """How a shape is cut."""
    return Recipe(id=cut.id, label=cut.label, backend=plan.judge, steps=(("cut", msgspec.structs.asdict(cut)),))


def recipe(plan: Architectures, cut: Cut, whole: str, quantize: str = "") -> Recipe:
    """How a shape is made: cut, taught by the whole model, and quantized where that is asked."""
    bare = _cutting(plan, cut)
    return msgspec.structs.replace(bare, steps=(*bare.steps, *_after_cut(plan, whole, quantize)))


def _after_cut(plan: Architectures, whole: str, quantize: str) -> tuple[tuple[str, dict[str, Scalar]], ...]:
    """The transforms that follow on cutting, each with its settings."""
    taught: tuple[str, dict[str, Scalar]] = ("distill", {"teacher": whole, **plan.training})
    return (taught, ("gguf_quantize", {"type": quantize})) if quantize else (taught,)


# ------------------------------------------------------------ runs


def _judging(plan: Architectures, model: str, whole: str, backend: str = "") -> Request:
    settings: dict[str, Scalar] = {"reference": whole, "n": plan.texts}
    if backend and backend != plan.judge:
        settings["reference_backend"] = plan.judge
    return Request(
        model=model,
        backend=backend or plan.judge,
        task=Evaluate(eval="divergence", settings=settings),
        threads=plan.threads,
        profilers=(),
    )


def _timing(plan: Architectures, model: str, engine: str, number: int) -> Request:
    return Request(
        model=model,
        backend=engine,
        task=Generate(prompt_tokens=plan.prompt_tokens, max_new_tokens=plan.new_tokens),
        threads=plan.threads,
        profilers=() if number else ("memory",),
        warmup=1,
        repeats=plan.repeats,
        seed=number,
        fresh_process=True,
    )


def _rounds(ledger: Ledger[Architectures], models: Mapping[str, str]) -> None:
    """In each round every model answers once in every engine, in a fresh process, in a new random order."""
    plan = ledger.plan
    for number in range(plan.rounds):
        pairs = [(name, engine) for name in models for engine in plan.engines]
        for name, engine in random.Random(f"{plan.seed}-{number}").sample(pairs, len(pairs)):
            _in_time(ledger)
            label = f"round {number + 1}: {name} in {plugins.label('backend', engine)}"
            ledger.perform(f"{name}/speed/{engine}/{number}", _timing(plan, models[name], engine, number), label)


def _quantized(ledger: Ledger[Architectures], whole: str) -> None:
    """The answer's shape once more in the number format that was asked for: judged again, measured again."""
    plan = ledger.plan
    name = findings(ledger.state, ledger.runner.store).best if plan.quantize else ""
    if not name:
        return
    of = recipe(plan, parsed(name), whole, plan.quantize)
    model = make(ledger, msgspec.structs.replace(of, backend="llama_cpp"))
    if model is None:
        return
    ledger.perform("quantized/judge", _judging(plan, model, whole, "llama_cpp"), f"judging {name} as {plan.quantize}")
    for number in range(plan.rounds):
        _in_time(ledger)
        for key, answerer in ((f"quantized/speed/{number}", model), (f"beside/speed/{number}", whole)):
            request = _timing(plan, answerer, "llama_cpp", number)
            ledger.perform(key, request, f"round {number + 1}: {key.partition('/')[0]}")


# ------------------------------------------------------------ how far it is


def progress(state: State[Architectures]) -> Progress:
    """From the ledger alone; before shapes are chosen, of as many as the plan says."""
    plan = state.plan
    whole = whole_of(state)
    every = tuple(chosen(state))
    finals = [cut.id for cut in finishers(state)]
    library = sum(1 for k in state.scores if k.split("/")[0] in ("block", *WIDTHS))
    n_library = library if whole else max(library, 40)
    n_masked, n_final = (len(every) if whole else plan.scored), (len(finals) or plan.finished)
    masked = sum(name in state.scores for name in every)
    over = {key for key in state.runs if key in state.took_s} | set(state.failures)
    kinds = Counter(map(_kind, over))
    fitted = {key.partition("/")[0] for key in over if "/calibrate/" in key}
    n_fitted = len(fitted) if whole else max(len(fitted), 3)
    n_cut = len({WHOLE, *fitted, *finals}) if whole else n_final + n_fitted
    steps: list[tuple[str, int, int]] = [
        ("score", library + masked, n_library + n_masked),
        ("cut", kinds["cut"], n_cut),
    ]
    steps += [(kind, kinds[kind], n_final) for kind in ("train", "judge")]
    for engine in plan.engines:
        first, speed = f"first {engine}", f"speed {engine}"
        steps.append((first, kinds[first], n_fitted + n_final))
        n_speed = n_fitted * (CALIBRATING - 1) + (n_final + 1) * plan.rounds - n_final
        steps.append((speed, kinds[speed], n_speed))
    open_ = [(kind, _first_s(plan, kind)) for kind, n, total in steps for _ in range(max(0, total - n))]
    done = [(kind, _first_s(plan, kind), took) for key, took in state.took_s.items() if (kind := _kind(key))]
    return Progress(
        done=sum(min(n, total) for _, n, total in steps),
        total=sum(total for *_, total in steps),
        failed=len(state.failures),
        spent_s=state.spent_s,
        minutes=state.minutes,
        eta=remaining(open_, done) if open_ else None,
    )


def _kind(key: str) -> str:
    """Of what kind a step is; "" for those of the quantized answer.

    A model's first answer in an engine is a kind of its own, because the model is converted for it.
    """
    name, *parts = key.split("/")
    match parts:
        case _ if name == "score":
            return "score"
        case ["make", "1" | "2" as number]:
            return "cut" if number == "1" else "train"
        case ["calibrate" | "speed" as step, engine, number]:
            first = number == "0" and (step == "calibrate" or name != WHOLE)
            return f"{'first' if first else 'speed'} {engine}"
        case ["judge"] if name != "quantized":
            return "judge"
    return ""


def _first_s(plan: Architectures, kind: str) -> float:
    """A first estimate, which only the finished ones make useful."""
    minutes = plan.training.get("minutes")
    more = 60 * float(minutes) if kind == "train" and isinstance(minutes, int | float) else 0.0
    return (80.0 if kind == "train" and more else FIRST_S[kind.split()[0]]) + more
