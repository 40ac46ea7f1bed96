"""A run's result as a pure function of its request and its events. Live and finished runs alike."""

from __future__ import annotations

import statistics
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Literal

import msgspec

from core.analysis.energy import of_phase
from core.analysis.work import LayerWork, ran_work, share, total
from core.layer_names import fit
from core.runs import old_form
from core.runs.recording import PhaseKey, Recording, length
from core.runs.stretch import Stretch
from core.stats.quantiles import median
from core.stats.scores import scores
from core.types import (
    EVENTS_FORMAT,
    Account,
    Asked,
    Counted,
    Counts,
    Curve,
    Derive,
    Energy,
    EnergyReading,
    Evaluate,
    Failed,
    ForwardCost,
    Forwards,
    Generate,
    Item,
    Layer,
    LayerResult,
    LayerTime,
    LayerTimes,
    Loaded,
    Made,
    Memory,
    PhasePart,
    PhaseResult,
    ProfilerCost,
    Result,
    RunStatus,
    Step,
    Task,
    Warned,
    together,
)

PHASES: tuple[PhaseKey, ...] = ("prefill", "decode")
OWN = ("model", "fill")  # the forwards that the text comes from
TASKS: dict[type[Task], Literal["generate", "evaluate", "derive"]] = {
    Generate: "generate",
    Evaluate: "evaluate",
    Derive: "derive",
}


def summarize(run_id: str, run: Recording, status: RunStatus) -> Result:
    """Headline numbers come from timing passes only (see passes.headline); layer times from their own pass."""
    request, loaded, timing, shown = run.request, run.loaded, run.timing, run.shown
    memory, failed = run.all_of_all(Memory), run.last_of_all(Failed)
    decoding = [run.stretch(n, "decode") for n in run.counted]
    served, items = _served(run), run.all(Item)
    n_prompt, n_read = _prompt_tokens(loaded, served)
    ttft, tpot = _latencies(timing, decoding, items)
    phases, asked = _phases(run, n_read), _asked(run)
    counts = _decoded(decoding, items)
    return Result(
        run_id=run_id,
        status=status,
        model=request.model,
        backend=request.backend,
        strategy=request.strategy,
        dtype=loaded.spec.dtype if loaded else request.dtype,
        threads=loaded.setup.threads if loaded else request.threads,
        batch=request.batch,
        text=_text(run),
        n_prompt_tokens=n_prompt,
        n_new_tokens=run.length(run.counted[-1]) if timing else length(shown),
        n_forward=_n_forward(run),
        ttft_s=median(ttft),
        tpot_s=median(tpot),
        tok_per_s=_decode_rate(decoding, median(tpot)),
        prefill_tok_per_s=_prefill_rate(run, n_read),
        itl_s=tuple(decoding[-1].seconds_of) if decoding else (),
        load_s=loaded.seconds if loaded else None,
        warm=loaded.warm if loaded else None,
        total_s=run.ended.t_s if run.ended is not None else None,
        peak_memory_bytes=max((m.peak_bytes or m.rss_bytes for m in memory), default=None),
        memory=memory,
        phases=phases,
        layers=_layers(run, phases),
        profiler_costs=_costs(run),
        ttft_samples_s=tuple(ttft),
        tpot_samples_s=tuple(tpot),
        setup=run.setup,
        host=run.host,
        options={**request.options, **(loaded.options if loaded else {})},
        warnings=tuple(dict.fromkeys((*_newer(loaded), *(e.message for e in run.all_of_all(Warned))))),
        error=failed.message if failed else None,
        hint=failed.hint if failed else None,
        counts=run.all(Counted),
        energy=_energy(run, n_read),
        tokens_per_forward=counts.per_sequence / counts.forwards if counts.forwards else None,
        forward_cost=run.last(ForwardCost),
        task=TASKS[type(request.task)],
        curves=run.all_of_all(Curve),
        made=run.last_of_all(Made),
        asked=asked,
        items=items,
        scores=scores(items, asked.metrics) if asked and items else (),
        depth=counts.depth,
        provisional=run.headline.provisional,
        disturbance=run.headline.unrest,
        batch_filled=_filled(request.batch, decoding),
        served=served,
    )


def _text(run: Recording) -> str:
    """That is shown."""
    if run.counted:
        return "".join(run.stretch(run.counted[-1], phase).text for phase in PHASES)
    return "".join(s.text for s in run.shown)


def _n_forward(run: Recording) -> int:
    """Of the text that is shown."""
    if run.counted:
        return sum(run.stretch(run.counted[-1], phase).forwards for phase in PHASES)
    return sum(s.counts.forwards for s in run.shown)


def _asked(run: Recording) -> Asked | None:
    """Of the last evaluation, in today's form."""
    last = run.last_of_all(Asked)
    return old_form.asked(last) if last else None


def _served(run: Recording) -> Account | None:
    """What a server told of the last pass that counts; of any, where none does yet."""
    told = run.all(Account)
    counted = [a for a in told if a.pass_no in run.headline.numbers]
    return next(reversed(counted or told), None)


def _newer(loaded: Loaded | None) -> tuple[str, ...]:
    words = "A newer version of Roofscope has written this run: what is new in it is left out here."
    return (words,) if loaded is not None and loaded.format > EVENTS_FORMAT else ()


def _prompt_tokens(loaded: Loaded | None, served: Account | None) -> tuple[int | None, int | None]:
    """Of each sequence, and those of them that were read anew; None where nobody told."""
    n_prompt = loaded.n_prompt_tokens if loaded else None
    if loaded and "remote" in loaded.capabilities:  # what we sent may be one id for the whole text
        n_prompt = served.n_prompt if served else None
    return n_prompt, None if n_prompt is None else n_prompt - ((served and served.cached) or 0)


def _latencies(
    timing: Sequence[Sequence[Step]], decoding: Sequence[Stretch], items: Sequence[Item]
) -> tuple[list[float], list[float]]:
    """TTFT and TPOT in seconds: of each timing pass, or of an evaluation's answers."""
    tpot = [d.seconds / d.n for d in decoding if d.n]  # (latency - TTFT) / (n - 1) of the longest sequence, n >= 2
    if items and not tpot:
        return [i.ttft_s for i in items if i.ttft_s is not None], _item_tpot(items)
    return [t for t in map(_ttft, timing) if t is not None], tpot


def _ttft(steps: Sequence[Step]) -> float | None:
    """Seconds until the first token, or until the forward ended where none is generated."""
    seconds = 0.0
    for step in steps:
        seconds += step.seconds
        if step.counts.tokens:
            return seconds
    return seconds if steps and all(s.phase == "prefill" for s in steps) and steps[-1].counts.forwards else None


def _prefill_rate(run: Recording, n_read: int | None) -> float | None:
    """Prompt tokens per second of the whole batch. n_read: those of each sequence that were read anew."""
    seconds = [run.stretch(n, "prefill").seconds for n in run.counted if _ttft(run.steps[n]) is not None]
    if not n_read or not seconds or min(seconds) <= 0:
        return None
    return run.request.batch * n_read / statistics.median(seconds)


def _decode_rate(decoding: Sequence[Stretch], tpot_s: float | None) -> float | None:
    """Tokens per second, of as many sequences as had not ended: a token's time gave a token to each of them."""
    n = sum(d.n for d in decoding)
    width = sum(d.tokens for d in decoding) / n if n else 1.0
    return width / tpot_s if tpot_s else None


def _filled(batch: int, decoding: Sequence[Stretch]) -> float | None:
    """The mean share of the batch that had not ended yet, over the decode steps; None for one sequence."""
    steps = sum(len(d.steps) for d in decoding)
    return sum(d.sequences for d in decoding) / (batch * steps) if batch > 1 and steps else None


def _item_tpot(items: Sequence[Item]) -> list[float]:
    """Seconds per token after the first, over all answers together."""
    timed = [i for i in items if i.seconds is not None and i.counts is not None]
    n = sum(i.counts.tokens for i in timed if i.counts)
    return [sum(i.seconds or 0.0 for i in timed) / n] if n else []


def _decoded(decoding: Sequence[Stretch], items: Sequence[Item]) -> Counts:
    """The decoding of all timing passes, or of all answers, as of one sequence."""
    answers = [i.counts for i in items if i.counts is not None]
    if answers:
        return together(answers)
    made = together(d.counts for d in decoding)
    return msgspec.structs.replace(made, tokens=round(sum(d.n for d in decoding)), sequences=1)


def _phases(run: Recording, n_read: int | None) -> tuple[PhaseResult, ...]:
    if run.loaded is None:
        return ()
    found = []
    for phase in PHASES:
        numbers = [n for n in run.counted if run.stretch(n, phase).steps]
        if not numbers:
            continue
        last, forwards = run.stretch(numbers[-1], phase), run.ran(numbers[-1], phase)
        seconds = statistics.median(run.stretch(n, phase).seconds for n in numbers)
        n_tokens = _n_tokens(run, phase, last, n_read)
        own, parts = total(_worked(run.loaded, forwards, OWN)), _parts(run.loaded, forwards)
        found.append(
            PhaseResult(
                name=phase,
                seconds=seconds,
                n_tokens=n_tokens,
                n_forward=last.forwards,
                tok_per_s=n_tokens / seconds if seconds > 0 else None,
                flops=own.flops + sum(p.flops for p in parts),
                bytes=own.bytes + sum(p.bytes for p in parts),
                parts=parts,
            )
        )
    return tuple(found)


def _n_tokens(run: Recording, phase: PhaseKey, steps: Stretch, n_read: int | None) -> int:
    """Of all sequences: made in decode, and in prefill those of the prompt that were read anew.

    n_read: of each sequence, of the whole prompt. What was fed is more where guesses stand behind the prompt, less in
    a pass that was stopped, and nothing where a server did it.
    """
    if phase == "decode":
        return steps.tokens
    fed = steps.inputs or n_read or 0
    return run.request.batch * min(fed, n_read or fed)


def _worked(loaded: Loaded, forwards: Iterable[Forwards], of: Collection[str]) -> tuple[LayerWork, ...]:
    """Computed work of the forwards of these kinds, by the model that ran them; none of a model without layers."""
    spec, setup = loaded.spec, loaded.setup
    if not spec.layers:
        return ()
    if "draft" in of:
        spec, setup = loaded.draft or spec, loaded.draft_setup or setup
    return ran_work(
        spec,
        (f for f in forwards if f.of in of),
        activation_dtype=setup.activation_dtype,
        kv_dtype=setup.kv_dtype,
        prunes_last_block=setup.prunes_last_block,
    )


def _parts(loaded: Loaded, forwards: Sequence[Forwards]) -> tuple[PhasePart, ...]:
    """What helped the model in a phase, each apart; not a draft model that an earlier version did not record."""
    found, helped = [], {f.of for f in forwards}
    for of in ("blocks", "heads", "exits", "draft"):
        if of not in helped:
            continue
        n = sum(f.times for f in forwards if f.of == of)
        if n and (of != "draft" or loaded.draft is not None):
            work_done = total(_worked(loaded, forwards, (of,)))
            found.append(PhasePart(of=of, n_forward=n, flops=work_done.flops, bytes=work_done.bytes))
    return tuple(found)


def phase_work(run: Recording, phase: PhaseKey, pass_no: int) -> tuple[LayerWork, ...]:
    """Computed work of the whole prefill, or of one mean decode forward, of a pass.

    What a layer did for the model's own drafts and for its heads is in it, as it is in the layer's measured time.
    """
    if run.loaded is None:
        return ()
    works = _worked(run.loaded, run.ran(pass_no, phase), (*OWN, "blocks", "heads", "exits"))
    return share(works, max(1, run.stretch(pass_no, phase).forwards)) if phase == "decode" else works


def _layers(run: Recording, phases: Sequence[PhaseResult]) -> tuple[LayerResult, ...]:
    """Every layer of the model in every phase that ran; seconds where the profiler saw it."""
    if run.loaded is None:
        return ()
    latest: dict[str, LayerTimes] = {e.phase: e for e in run.all(LayerTimes)}
    names = set(latest) | {p.name for p in phases}
    found: list[LayerResult] = []
    for phase in PHASES:
        if phase not in names:
            continue
        times = latest.get(phase)
        pass_no = times.pass_no if times else next(reversed(run.counted), -1)
        steps = run.stretch(pass_no, phase)
        if not steps.steps:
            continue
        forwards = 1 if phase == "prefill" else max(1, steps.forwards)
        works = phase_work(run, phase, pass_no)
        found += _aligned(run.loaded, works, times.rows if times else (), phase, forwards)
    return tuple(found)


def _aligned(
    loaded: Loaded, works: Sequence[LayerWork], rows: Sequence[LayerTime], phase: PhaseKey, forwards: int
) -> list[LayerResult]:
    """Measured rows beside the model's layers, in the model's order.

    A library may run several layers as one (all experts in one kernel): such a row, named as their
    common parent, stands for them with the sum of their work. Work and rows that belong to no layer, such as those of
    trained heads, come last.
    """
    measured = _fitted(rows, frozenset(layer.name for layer in loaded.spec.layers))
    by_name = {w.name: w for w in works}
    stands_for = {
        layer.name: parent
        for layer in loaded.spec.layers
        if layer.name not in measured and (parent := next((p for p in _parents(layer.name) if p in measured), None))
    }
    groups: dict[str, list[Layer]] = {}
    for layer in loaded.spec.layers:
        groups.setdefault(stands_for.get(layer.name, layer.name), []).append(layer)
    known = {layer.name for layer in loaded.spec.layers}
    for name in (*(w.name for w in works if w.name not in known), *measured):
        groups.setdefault(name, [])

    found = []
    for name, layers in groups.items():
        row = measured.get(name)
        work_done = [by_name[n] for n in ([layer.name for layer in layers] or [name]) if n in by_name]
        found.append(
            LayerResult(
                name=name,
                kind=layers[0].kind if layers else work_done[0].kind if work_done else "other",
                phase=phase,
                seconds=row.seconds / forwards if row else None,
                calls=row.calls if row else None,
                flops=sum(w.flops for w in work_done) if work_done else None,
                bytes=sum(w.bytes for w in work_done) if work_done else None,
                weight_bytes=sum(w.weight_bytes for w in work_done),
                n_params=sum(layer.n_params for layer in layers),
                op=row.op if row else "",
                output_bytes=row.output_bytes if row else None,
            )
        )
    return found


def _parents(name: str) -> Iterator[str]:
    """`blocks.3.mlp`, `blocks.3`, `blocks` of `blocks.3.mlp.up_proj`."""
    while (cut := name.rfind(".")) > 0:
        name = name[:cut]
        yield name


def _fitted(rows: Sequence[LayerTime], names: frozenset[str]) -> dict[str, LayerTime]:
    """Rows under the names that this network has (a fused gate and up projection), joined where they meet."""
    found: dict[str, LayerTime] = {}
    for row in rows:
        name = fit(row.name, names)
        there = found.get(name)
        seconds = row.seconds + (there.seconds if there else 0.0)
        longer = row if there is None or row.seconds >= there.seconds else there
        found[name] = msgspec.structs.replace(longer, name=name, seconds=seconds)
    return found


def _energy(run: Recording, n_read: int | None) -> tuple[Energy, ...]:
    """Per phase, of the pass that counted it, from what that pass itself produced."""
    if run.loaded is None:
        return ()
    latest = {e.phase: e for e in run.all(EnergyReading)}
    found = []
    for phase in PHASES:
        if phase not in latest:
            continue
        reading = latest[phase]
        n_tokens = _n_tokens(run, phase, run.stretch(reading.pass_no, phase), n_read)
        energy = of_phase(reading, n_tokens, run.loaded.setup, run.loaded.host)
        if energy is not None:
            found.append(energy)
    return tuple(found)


def _costs(run: Recording) -> tuple[ProfilerCost, ...]:
    """Seconds per step of each instrumented pass over those of the timing passes, same phase."""

    def per_step(number: int) -> float | None:
        decode = run.stretch(number, "decode").seconds_of
        chosen = decode or [s.seconds for s in run.steps.get(number, ()) if s.counts.forwards]
        return median(chosen)

    profiled = [p for p in run.passes.values() if p.kind == "profile" and p.profiler]
    plain = [t for t in map(per_step, run.counted) if t] if profiled else []
    costs = []
    for p in profiled:
        number, seconds = p.number, per_step(p.number)
        if p.profiler and seconds and plain:
            whole = sum(s.seconds for s in run.steps[number])
            costs.append(ProfilerCost(profiler=p.profiler, ratio=seconds / statistics.median(plain), seconds=whole))
    return tuple(costs)
