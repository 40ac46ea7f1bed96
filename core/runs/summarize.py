"""A run's result as a pure function of its request and its events. Live and finished runs alike."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from typing import Literal

import msgspec

from core.analysis.decoding import tokens_per_forward
from core.analysis.energy import of_phase
from core.analysis.work import LayerWork, total, work
from core.layer_names import fit
from core.runs import old_form
from core.runs.passes import headline
from core.stats.scores import scores
from core.types import (
    Asked,
    Counted,
    Curve,
    Derive,
    Done,
    Energy,
    EnergyReading,
    Evaluate,
    Event,
    Failed,
    ForwardCost,
    Generate,
    Item,
    Layer,
    LayerResult,
    LayerTime,
    LayerTimes,
    Loaded,
    Made,
    Memory,
    Pass,
    PhaseResult,
    ProfilerCost,
    Request,
    Result,
    RunStatus,
    Step,
    Task,
    Warned,
)

PhaseKey = Literal["prefill", "decode"]
PHASES: tuple[PhaseKey, ...] = ("prefill", "decode")
TASKS: dict[type[Task], Literal["generate", "evaluate", "derive"]] = {
    Generate: "generate",
    Evaluate: "evaluate",
    Derive: "derive",
}


def summarize(run_id: str, request: Request, events: Sequence[Event], status: RunStatus) -> Result:
    """Headline numbers come from timing passes only (see passes.headline); layer times from their own pass.

    After a retry (a worker that crashed and was started anew) only what follows the last Loaded counts.
    """
    loaded, since = _last_loaded(events)
    passes = {e.number: e for e in since if isinstance(e, Pass)}
    steps = [e for e in since if isinstance(e, Step)]
    by_pass: dict[int, list[Step]] = {n: [] for n in passes}
    for step in steps:
        by_pass.setdefault(step.pass_no, []).append(step)
    told = headline(since)
    timing = [by_pass[n] for n in told.numbers if by_pass.get(n)]
    begun = any(p.kind in ("live", "timing") for p in passes.values())
    shown = timing[-1] if timing else [] if begun else steps  # until the first timing pass, the warm-up's text
    memory = tuple(e for e in events if isinstance(e, Memory))
    failed = next((e for e in reversed(events) if isinstance(e, Failed)), None)

    ttft = [t for t in map(_ttft, timing) if t is not None]
    tpot = [t for t in map(_tpot, timing) if t is not None]
    n_prompt = loaded.n_prompt_tokens if loaded else None
    tpot_s = statistics.median(tpot) if tpot else None
    prefill_s = [sum(s.seconds for s in p if s.phase == "prefill") for p in timing if _ttft(p) is not None]
    phases = _phases(request, loaded, timing)
    asked = next((old_form.asked(e) for e in reversed(events) if isinstance(e, Asked)), None)
    items = tuple(e for e in since if isinstance(e, Item))
    if items and not tpot:
        tpot, ttft = _item_tpot(items), [i.ttft_s for i in items if i.ttft_s is not None]
        tpot_s = tpot[0] if tpot else None
    peaks = [m.peak_bytes or m.rss_bytes for m in memory]
    return Result(
        run_id=run_id,
        status=status,
        model=request.model,
        backend=request.backend,
        strategy=request.strategy,
        dtype=loaded.spec.dtype if loaded else request.dtype,
        threads=loaded.setup.threads if loaded else request.threads,
        batch=request.batch,
        text="".join(s.text for s in shown),
        n_prompt_tokens=n_prompt,
        n_new_tokens=sum(s.n_tokens for s in shown),
        n_forward=sum(s.n_forward for s in shown),
        ttft_s=statistics.median(ttft) if ttft else None,
        tpot_s=tpot_s,
        tok_per_s=request.batch / tpot_s if tpot_s else None,
        prefill_tok_per_s=(
            request.batch * n_prompt / statistics.median(prefill_s)
            if prefill_s and n_prompt and min(prefill_s) > 0
            else None
        ),
        itl_s=tuple(s.seconds for p in timing[-1:] for s in p if s.phase == "decode"),
        load_s=loaded.seconds if loaded else None,
        warm=loaded.warm if loaded else None,
        total_s=next((e.t_s for e in reversed(events) if isinstance(e, Done | Failed)), None),
        peak_memory_bytes=max(peaks) if peaks else None,
        memory=memory,
        phases=phases,
        layers=_layers(request, loaded, since, by_pass, timing, phases),
        profiler_costs=_costs(passes, by_pass, timing),
        ttft_samples_s=tuple(ttft),
        tpot_samples_s=tuple(tpot),
        setup=loaded.setup if loaded else None,
        host=loaded.host if loaded else None,
        options={**request.options, **(loaded.options if loaded else {})},
        warnings=tuple(dict.fromkeys(e.message for e in events if isinstance(e, Warned))),
        error=failed.message if failed else None,
        hint=failed.hint if failed else None,
        counts=tuple(e for e in since if isinstance(e, Counted)),
        energy=_energy(request, loaded, since, by_pass),
        tokens_per_forward=_item_tokens_per_forward(items) or tokens_per_forward([s for p in timing for s in p]),
        forward_cost=next((e for e in reversed(since) if isinstance(e, ForwardCost)), None),
        task=TASKS[type(request.task)],
        curves=tuple(e for e in events if isinstance(e, Curve)),
        made=next((e for e in reversed(events) if isinstance(e, Made)), None),
        asked=asked,
        items=items,
        scores=scores(items, asked.metrics) if asked and items else (),
        depth=_depth([s for p in timing for s in p], items),
        provisional=told.provisional,
        disturbance=told.unrest,
    )


def _last_loaded(events: Sequence[Event]) -> tuple[Loaded | None, Sequence[Event]]:
    for i in range(len(events) - 1, -1, -1):
        event = events[i]
        if isinstance(event, Loaded):
            return event, events[i:]
    return None, []


def _ttft(steps: Sequence[Step]) -> float | None:
    """Seconds until the first token, or until the forward ended where none is generated."""
    seconds = 0.0
    for step in steps:
        seconds += step.seconds
        if step.n_tokens:
            return seconds
    return seconds if steps and all(s.phase == "prefill" for s in steps) and steps[-1].n_input else None


def _tpot(steps: Sequence[Step]) -> float | None:
    """(latency - TTFT) / (n - 1), n >= 2."""
    decode = [s for s in steps if s.phase == "decode"]
    n = sum(s.n_tokens for s in decode)
    return sum(s.seconds for s in decode) / n if n else None


def _item_tpot(items: Sequence[Item]) -> list[float]:
    """Seconds per token after the first, over all answers together."""
    timed = [i for i in items if i.seconds is not None and i.n_tokens]
    n = sum((i.n_tokens or 1) - 1 for i in timed)
    return [sum(i.seconds or 0.0 for i in timed) / n] if n else []


def _item_tokens_per_forward(items: Sequence[Item]) -> float | None:
    n_forward = sum(i.n_forward or 0 for i in items)
    return sum(max(0, (i.n_tokens or 0) - 1) for i in items if i.n_forward) / n_forward if n_forward else None


def _depth(steps: Sequence[Step], items: Sequence[Item]) -> float | None:
    """Mean share of the blocks that ran, per decode forward."""
    pairs = [(s.depth, s.n_forward) for s in steps if s.phase == "decode" and s.depth is not None]
    pairs += [(i.depth, i.n_forward or 1) for i in items if i.depth is not None]
    return sum(d * n for d, n in pairs) / sum(n for _, n in pairs) if pairs else None


def _phases(request: Request, loaded: Loaded | None, timing: Sequence[Sequence[Step]]) -> tuple[PhaseResult, ...]:
    if loaded is None:
        return ()
    found = []
    for phase in PHASES:
        samples = [[s for s in p if s.phase == phase] for p in timing]
        samples = [s for s in samples if s]
        if not samples:
            continue
        last = samples[-1]
        seconds = statistics.median(sum(s.seconds for s in p) for p in samples)
        n_forward = sum(s.n_forward for s in last)
        works = phase_work(request, loaded, phase, last)
        times = n_forward if phase == "decode" else 1
        n_tokens = request.batch * (
            sum(s.n_tokens for s in last) if phase == "decode" else sum(s.n_input for s in last)
        )
        everything = total(works)
        found.append(
            PhaseResult(
                name=phase,
                seconds=seconds,
                n_tokens=n_tokens,
                n_forward=n_forward,
                tok_per_s=n_tokens / seconds if seconds > 0 else None,
                flops=everything.flops * times,
                bytes=everything.bytes * times,
            )
        )
    return tuple(found)


def phase_work(request: Request, loaded: Loaded, phase: PhaseKey, steps: Sequence[Step]) -> tuple[LayerWork, ...]:
    """Computed work of the whole prefill, or of one mean decode forward, of these steps."""
    n_input = sum(s.n_input for s in steps)
    n_forward = max(1, sum(s.n_forward for s in steps))
    if phase == "prefill":
        n_new, n_past = max(1, n_input), 0
    else:
        n_new = max(1, round(n_input / n_forward))
        n_past = max(0, round(statistics.mean(s.n_context for s in steps)) - n_new)
    return work(
        loaded.spec,
        n_new=n_new,
        n_past=n_past,
        batch=request.batch,
        activation_dtype=loaded.setup.activation_dtype,
        kv_dtype=loaded.setup.kv_dtype,
    )


def _layers(
    request: Request,
    loaded: Loaded | None,
    events: Sequence[Event],
    by_pass: dict[int, list[Step]],
    timing: Sequence[Sequence[Step]],
    phases: Sequence[PhaseResult],
) -> tuple[LayerResult, ...]:
    """Every layer of the model in every phase that ran; seconds where the profiler saw it."""
    if loaded is None:
        return ()
    latest: dict[str, LayerTimes] = {e.phase: e for e in events if isinstance(e, LayerTimes)}
    names = set(latest) | {p.name for p in phases}
    found: list[LayerResult] = []
    for phase in PHASES:
        if phase not in names:
            continue
        times = latest.get(phase)
        chosen = by_pass.get(times.pass_no, []) if times else (timing or [[]])[-1]
        steps = [s for s in chosen if s.phase == phase]
        if not steps:
            continue
        forwards = 1 if phase == "prefill" else max(1, sum(s.n_forward for s in steps))
        works = phase_work(request, loaded, phase, steps)
        found += _aligned(loaded, works, times.rows if times else (), phase, forwards)
    return tuple(found)


def _aligned(
    loaded: Loaded, works: Sequence[LayerWork], rows: Sequence[LayerTime], phase: PhaseKey, forwards: int
) -> list[LayerResult]:
    """Measured rows beside the model's layers, in the model's order.

    A library may run several layers as one (all experts in one kernel): such a row, named as their
    common parent, stands for them with the sum of their work. Rows that belong to no layer come last.
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
    for name in measured:
        groups.setdefault(name, [])

    found = []
    for name, layers in groups.items():
        row = measured.get(name)
        work_done = [by_name[layer.name] for layer in layers if layer.name in by_name]
        found.append(
            LayerResult(
                name=name,
                kind=layers[0].kind if layers else "other",
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


def _energy(
    request: Request, loaded: Loaded | None, events: Sequence[Event], by_pass: dict[int, list[Step]]
) -> tuple[Energy, ...]:
    """Per phase, of the pass that counted it, from what that pass itself produced."""
    if loaded is None:
        return ()
    latest = {e.phase: e for e in events if isinstance(e, EnergyReading)}
    found = []
    for phase in PHASES:
        if phase not in latest:
            continue
        reading = latest[phase]
        steps = [s for s in by_pass.get(reading.pass_no, []) if s.phase == phase]
        n_tokens = request.batch * sum(s.n_tokens if phase == "decode" else s.n_input for s in steps)
        energy = of_phase(reading, n_tokens, loaded.setup, loaded.host)
        if energy is not None:
            found.append(energy)
    return tuple(found)


def _costs(
    passes: dict[int, Pass], by_pass: dict[int, list[Step]], timing: Sequence[Sequence[Step]]
) -> tuple[ProfilerCost, ...]:
    """Seconds per step of each instrumented pass over those of the timing passes, same phase."""

    def per_step(steps: Sequence[Step]) -> float | None:
        chosen = [s.seconds for s in steps if s.phase == "decode"] or [s.seconds for s in steps if s.n_forward]
        return statistics.median(chosen) if chosen else None

    plain = [t for t in map(per_step, timing) if t]
    costs = []
    for number, p in passes.items():
        seconds = per_step(by_pass.get(number, []))
        if p.kind == "profile" and p.profiler and seconds and plain:
            whole = sum(s.seconds for s in by_pass[number])
            costs.append(ProfilerCost(profiler=p.profiler, ratio=seconds / statistics.median(plain), seconds=whole))
    return tuple(costs)
