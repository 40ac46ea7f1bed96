"""The rules: from a run's evidence to an advice, or to the reason why there is none. Pure functions.

Each rule has a sign, with the thresholds of core.analysis.bottlenecks and of the sources in its docstring, a changed
request that a trial can run, and a prediction with its basis. What a trace cannot tell is not guessed: a rule that
lacks its evidence says what is missing. A gap to the roof is an upper bound and no advice; the action is predicted.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Literal

from core import plugins
from core.advice.evidence import Evidence
from core.advice.record import Advice, Bottleneck, Gain, Lack, Metric, Silence, advice_id, as_trial
from core.analysis.bottlenecks import NEAR_ROOF
from core.analysis.decoding import relative_cost
from core.analysis.designs import Case as Asked
from core.analysis.designs import this_machine
from core.analysis.what_if import knees
from core.analysis.work import total
from core.types import Request
from hardware.errors import ExplorerError

Found = Advice | Silence
Rule = Callable[[Evidence], Found]
_label = partial(plugins.label, "backend")

HEAVY_BITS = 8.5  # from here on a lighter format is worth its conversion
SHARE = 0.20  # of a step: a part that large is worth attacking
CHEAP_V8, DEAR_V4 = 3.0, 2.5  # cost of a forward of 8 or 4 tokens over that of one
FULL = 0.85  # of the memory that a process may take
GUESS = 8  # tokens of a verifying forward
SAME = 0.03
MOST_BATCH = 64


def advise(evidence: Evidence) -> tuple[tuple[Advice, ...], tuple[Silence, ...]]:
    """Every rule's advice, the largest likely effect first, and why the others say nothing.

    On a disturbed run no change is advised: the only advice is to measure again.
    """
    again = repeat(evidence)
    if isinstance(again, Advice):
        held = "The run was disturbed or never timed, so no change is advised on it."
        return (again,), tuple(Silence(rule=name, reason=held, short=True) for name in RULES if name != "repeat")
    found = [rule(evidence) for rule in RULES.values()]
    advices = sorted((f for f in found if isinstance(f, Advice)), key=lambda a: -abs(math.log(a.gain.likely)))
    return tuple(advices), tuple(f for f in found if isinstance(f, Silence))


# ---------------------------------------------------------------- decode


def lighter_weights(e: Evidence) -> Found:
    """Decode is memory-bound at six tenths of the roof or more, with 8.5 bits per weight or more: fewer bits."""
    rule = "lighter_weights"
    if quiet := _decode_quiet(e, rule):
        return quiet
    of_roof, bits = e.of_roof("decode"), e.bits_per_weight
    assert of_roof is not None
    if e.bound("decode") != "memory" or of_roof < NEAR_ROOF:
        return _no(rule, f"Decode is not near the memory's roof ({of_roof:.0%} of it).")
    if bits is None or bits < HEAVY_BITS:
        return _no(
            rule, f"The weights have {bits:.3g} bits already." if bits else "The size of the weights is unknown."
        )
    if not e.lighter:
        return _short(rule, "No lighter form of this model with kernels in this engine is here: make one on Transform.")
    if (overhead := e.overhead) is None:
        return _unfitted(e, rule)
    lighter = e.lighter[0]
    now, then = e.predicted(), e.predicted(lighter.spec)
    if now is None or then is None or now.tpot_s is None or then.tpot_s is None:
        return _unfitted(e, rule)
    gain = e.fitted(now.tpot_s.calibrated / then.tpot_s.calibrated, overhead, ", with the lighter weights' bytes")
    if overhead.weights != lighter.spec.dtype:
        gain = _wider(gain)
    return _advice(
        e,
        rule,
        Bottleneck(phase="decode", group="weights", share=_weights_share(e), bound="memory", of_roof=of_roof),
        f"Decode reads {_gb(total(e.step).weight_bytes)} of weights a token, at {of_roof:.0%} of the memory's roof.",
        f"Run it with {lighter.words}.",
        lighter.request,
        "tpot_s",
        gain,
        "unknown",
    )


def other_engine(e: Evidence) -> Found:
    """Decode is memory-bound and below six tenths of the roof: another engine, if its runs here say it is faster."""
    rule = "other_engine"
    if quiet := _decode_quiet(e, rule):
        return quiet
    of_roof = e.of_roof("decode")
    assert of_roof is not None
    if e.bound("decode") != "memory" or of_roof >= NEAR_ROOF:
        return _no(rule, f"Decode is {e.bound('decode')}-bound at {of_roof:.0%} of the roof: no fault of the engine.")
    own = e.result.tpot_s
    assert own
    found = []
    for name, (overhead, spec) in e.overheads.items():
        if name == e.request.backend or not overhead.n_runs or name not in e.engines:
            continue
        predicted = e.predicted(spec, overhead, kv_dtype=overhead.kv_dtype)
        if predicted is not None and predicted.tpot_s is not None:
            found.append((predicted.tpot_s.calibrated, name, overhead))
    if not found:
        return _short(rule, "No other engine has runs on this machine yet: run a model once in each.")
    seconds, name, overhead = min(found, key=lambda f: f[0])
    if own / seconds < 1 + SAME:
        return _no(rule, f"By its own runs here, {_label(name)} would not be faster.")
    return _advice(
        e,
        rule,
        Bottleneck(phase="decode", group="engine", bound="memory", of_roof=of_roof),
        f"Decode reaches {of_roof:.0%} of the memory's roof: the kernels leave bandwidth unused.",
        f"Run it in {_label(name)}.",
        e.changed(backend=name, dtype=None, options={}),
        "tpot_s",
        e.fitted(own / seconds, overhead),
        "unknown",
    )


def more_threads(e: Evidence) -> Found:
    """Decode is memory-bound and below six tenths of the roof, and another thread count was measured to read faster."""
    rule = "more_threads"
    if quiet := _decode_quiet(e, rule):
        return quiet
    of_roof, threads = e.of_roof("decode"), e.result.threads
    assert of_roof is not None and e.ceilings is not None
    if e.bound("decode") != "memory":
        return _no(rule, "Decode is not memory-bound.")
    others = {n: found for n, found in e.by_threads.items() if n != threads}
    if not others:
        return _short(rule, "The ceilings were measured with this thread count alone: measure them with another one.")
    needed = e.step_bytes
    here = e.ceilings.bandwidth(needed)
    rates = {n: rate for n, found in others.items() if (rate := found.bandwidth(needed))}
    if not here or not rates:
        return _short(rule, "No bandwidth was measured for this working set.")
    best = max(rates, key=lambda n: rates[n])
    ratio = rates[best] / here
    if ratio < 1 + SAME:
        return _no(rule, f"No other thread count that was measured reads faster than {threads}.")
    gain = Gain(likely=1 + (ratio - 1) / 2, low=1.0, high=ratio, basis=(
        f"The measured bandwidth with {best} threads over that with {threads}: all of it at best, none at worst."
    ))  # fmt: skip
    return _advice(
        e,
        rule,
        Bottleneck(phase="decode", group="threads", bound="memory", of_roof=of_roof),
        f"With {threads} threads this working set is read at {here / 1e9:.3g} GB/s, with {best} at "
        f"{rates[best] / 1e9:.3g} GB/s.",
        f"Use {best} threads.",
        e.changed(threads=best),
        "tpot_s",
        gain,
        "unchanged",
    )


def fewer_calls(e: Evidence) -> Found:
    """Calling layers and the model takes more than a fifth of a token's time: a step of few, large operators."""
    rule = "fewer_calls"
    overhead, own = e.overhead, e.result.tpot_s
    if quiet := _untimed(e, rule):
        return quiet
    if overhead is None or own is None:
        return _unfitted(e, rule)
    calls = overhead.layer_s * len(e.spec.layers)
    share = min(1.0, (overhead.forward_s + calls) / own)
    if share <= SHARE:
        return _no(rule, f"Calling takes {share:.0%} of a token's time.")
    if e.fused is None:
        return _no(rule, "There is no step of fewer operators here that is not in use already.")
    most = own / max(own - calls, 0.1 * own)
    gain = Gain(
        likely=math.sqrt(most),
        low=1.0,
        high=most,
        basis=f"The fitted cost of calling {len(e.spec.layers)} layers, {overhead.n_runs} forward passes behind it: "
        "at best it vanishes, at worst it stays.",
        n_runs=overhead.n_runs,
        models=e.fitted_models.get(overhead.backend, ()),
    )
    return _advice(
        e,
        rule,
        Bottleneck(phase="decode", group="calls", share=share),
        f"Calling {len(e.spec.layers)} layers takes about {share:.0%} of every token's time.",
        "Use the fused step."
        if e.fused.strategy == e.request.strategy
        else "Decode autoregressively with the fused step: the library's own loop does not take it.",
        e.fused,
        "tpot_s",
        gain,
        "unknown",
    )


def guess(e: Evidence) -> Found:
    """A forward of 8 tokens costs less than three of one: guess the next tokens from the prompt, for nothing."""
    rule = "guess"
    if quiet := _guess_quiet(e, rule):
        return quiet
    cost = e.result.forward_cost
    v = relative_cost(cost, GUESS) if cost else None
    if v is None:
        return _short(rule, "What a forward of several tokens costs was not measured.", "forward_cost")
    if v >= CHEAP_V8:
        return _no(rule, f"A forward of 8 tokens costs {v:.3g} of one.")
    if e.guessed:
        tokens = [g.tokens_per_forward for g in e.guessed]
        low, high, basis = min(tokens), max(tokens), f"{len(tokens)} earlier runs that guessed with this model"
        likely = statistics.median_high(tokens)
    else:
        low, high, basis = 1.0, 1 + (GUESS - 1) / 2, "no earlier run: from no guess accepted to half of them"
        likely = math.sqrt(low * high)
    gain = Gain(likely=likely / v, low=low / v, high=high / v, basis=(
        f"Tokens per forward over v({GUESS}) = {v:.3g}; {basis}. Such predictions were 6 to 27 % too high elsewhere."
    ))  # fmt: skip
    return _advice(
        e,
        rule,
        Bottleneck(phase="decode", group="one token per forward", bound="memory"),
        f"A forward of {GUESS} tokens costs only {v:.3g} of one, so wrong guesses are cheap.",
        "Guess from the prompt (prompt lookup).",
        e.changed(strategy="prompt_lookup", params={"draft_length": GUESS - 1}),
        "tpot_s",
        gain,
        "unchanged",
        evidence=tuple(g.run_id for g in e.guessed),
    )


def do_not_guess(e: Evidence) -> Found:
    """A forward of 4 tokens costs more than 2.5 of one: guessing would make it slower."""
    rule = "do_not_guess"
    if quiet := _guess_quiet(e, rule):
        return quiet
    cost = e.result.forward_cost
    v = relative_cost(cost, 4) if cost else None
    if v is None:
        return _short(rule, "What a forward of several tokens costs was not measured.", "forward_cost")
    if v <= DEAR_V4:
        return _no(rule, f"A forward of 4 tokens costs {v:.3g} of one.")
    tokens = [g.tokens_per_forward for g in e.guessed] or [1.0, v]
    low, high = min(tokens) / v, min(1.0, max(tokens) / v)
    return _advice(
        e,
        rule,
        Bottleneck(phase="decode", group="one token per forward"),
        f"A forward of 4 tokens costs {v:.3g} of one: the guesses that fail cost more than those that hold bring.",
        "Do not guess tokens here; the trial shows what prompt lookup would cost.",
        e.changed(strategy="prompt_lookup", params={"draft_length": 3}),
        "tpot_s",
        Gain(likely=math.sqrt(low * high), low=low, high=high, basis=f"Tokens per forward over v(4) = {v:.3g}."),
        "unchanged",
        against=True,
        evidence=tuple(g.run_id for g in e.guessed),
    )


def lighter_cache(e: Evidence) -> Found:
    """The KV cache is more than a fifth of what a step reads: keep it in 8 bits."""
    rule = "lighter_cache"
    if quiet := _untimed(e, rule):
        return quiet
    if not e.spec.causal:
        return _no(rule, "An encoder has no cache.")
    whole = total(e.step)
    share = (whole.kv_read_bytes + whole.kv_write_bytes) / e.step_bytes
    if share <= SHARE:
        return _no(rule, f"The KV cache is {share:.0%} of what a step reads.")
    if e.request.backend != "llama_cpp" or "q" in str(e.request.options.get("kv_dtype", "f16")):
        return _no(rule, "This engine has no lighter cache than the one in use; a shorter context is left to you.")
    if (overhead := e.overhead) is None:
        return _unfitted(e, rule)
    now, then = e.predicted(), e.predicted(kv_dtype="q8_0")
    if now is None or then is None or now.tpot_s is None or then.tpot_s is None:
        return _unfitted(e, rule)
    return _advice(
        e,
        rule,
        Bottleneck(phase="decode", group="KV cache", share=share, bound="memory"),
        f"The KV cache is {share:.0%} of what a step reads at {e.past:,} tokens.",
        "Keep the cache in q8_0.",
        e.with_options(kv_dtype="q8_0"),
        "tpot_s",
        e.fitted(now.tpot_s.calibrated / then.tpot_s.calibrated, overhead, ", with the cache's bytes in 8 bits"),
        "unknown",
    )


def lighter_head(e: Evidence) -> Found:
    """The head is more than a fifth of what a step reads and heavier than the rest: a form with a lighter head."""
    rule = "lighter_head"
    if quiet := _untimed(e, rule):
        return quiet
    if not e.spec.causal:
        return _no(rule, "An encoder has no head that is read for every token.")
    head = sum(row.weight_bytes for row in e.step if row.kind == "head")
    share = head / e.step_bytes
    if share <= SHARE:
        return _no(rule, f"The head is {share:.0%} of what a step reads.")
    lighter = next((x for x in e.lighter if _head_bytes(x.spec) < 0.9 * _head_bytes(e.spec)), None)
    if lighter is None:
        return _short(
            rule,
            f"The head is {share:.0%} of what a step reads, and no form of this model with a lighter head is here.",
        )
    if (overhead := e.overhead) is None:
        return _unfitted(e, rule)
    now, then = e.predicted(), e.predicted(lighter.spec)
    if now is None or then is None or now.tpot_s is None or then.tpot_s is None:
        return _unfitted(e, rule)
    gain = e.fitted(now.tpot_s.calibrated / then.tpot_s.calibrated, overhead, ", with the head's bytes")
    return _advice(
        e,
        rule,
        Bottleneck(phase="decode", group="head", share=share, bound="memory"),
        f"The head is {share:.0%} of what a step reads.",
        f"Run it with {lighter.words}, whose head has fewer bytes.",
        lighter.request,
        "tpot_s",
        _wider(gain),
        "unknown",
    )


# ---------------------------------------------------------------- prefill, throughput, memory


def bf16_prefill(e: Evidence) -> Found:
    """The prompt is compute-bound in fp32 and this machine multiplies faster in bf16."""
    rule = "bf16_prefill"
    if quiet := _untimed(e, rule):
        return quiet
    if e.ceilings is None or e.bound("prefill") is None:
        return _unroofed(rule)
    if e.bound("prefill") != "compute":
        return _no(rule, "The prompt is not compute-bound.")
    if e.arithmetic != "fp32" or e.request.backend != "pytorch":
        return _no(rule, f"Its matrices are multiplied in {e.arithmetic}, in {_label(e.request.backend)}.")
    peaks = e.ceilings.flop_per_s
    if "bf16" not in peaks:
        return _short(rule, "The bf16 ceiling of this machine was not measured.")
    ratio = peaks["bf16"] / peaks["fp32"]
    if ratio < 1.2:
        return _no(rule, f"bf16 is multiplied {ratio:.3g} times as fast as fp32 here: there are no units for it.")
    gain = Gain(likely=math.sqrt(ratio), low=1.0, high=ratio, basis=(
        f"The measured peaks: bf16 {ratio:.3g} times fp32. All of it at best; the kernels may not reach any."
    ))  # fmt: skip
    return _advice(
        e,
        rule,
        Bottleneck(phase="prefill", group="arithmetic", bound="compute", of_roof=e.of_roof("prefill")),
        "The prompt is compute-bound in fp32, and bf16 is multiplied faster here.",
        "Load the weights in bf16.",
        e.changed(dtype="bf16"),
        "ttft_s",
        gain,
        "unknown",
    )


def larger_batch(e: Evidence) -> Found:
    """Several sequences are decoded, so throughput is wanted, and the batch is below the knee of a decode step."""
    rule = "larger_batch"
    if quiet := _untimed(e, rule):
        return quiet
    if e.result.batch < 2:
        return _no(rule, "One sequence is decoded: nothing says that throughput is wanted.")
    if not e.plain:
        return _no(rule, "Guessing strategies decode one sequence.")
    if (overhead := e.overhead) is None or e.ceilings is None:
        return _unfitted(e, rule)
    asked = Asked(
        prompt_tokens=e.result.n_prompt_tokens or 1, new_tokens=max(1, e.result.n_new_tokens), batch=e.result.batch
    )
    try:
        knee = knees(e.spec, asked, this_machine(e.ceilings, overhead, "This machine")).batch or MOST_BATCH
    except ExplorerError:
        return _unroofed(rule)
    batch = min(knee, 4 * e.result.batch, MOST_BATCH)
    if batch <= e.result.batch:
        return _no(rule, f"The batch is at the knee of {knee} sequences already.")
    now, then = e.predicted(), e.predicted(batch=batch)
    if now is None or then is None or now.decode_tok_per_s is None or then.decode_tok_per_s is None:
        return _unfitted(e, rule)
    ratio = then.decode_tok_per_s.calibrated / now.decode_tok_per_s.calibrated
    if ratio < 1 + SAME:
        return _no(rule, f"By the fitted equation a batch of {batch} decodes no more tokens per second.")
    return _advice(
        e,
        rule,
        Bottleneck(phase="decode", group="batch", bound="memory"),
        f"A step reads the weights for {e.result.batch} sequences; they would serve up to {knee} for little more.",
        f"Decode {batch} sequences at once.",
        e.changed(batch=batch),
        "tok_per_s",
        e.fitted(ratio, overhead),
        "unchanged",
    )


def less_memory(e: Evidence) -> Found:
    """The peak is more than 85 % of what a process may take: without second copies of the weights."""
    rule = "less_memory"
    peak = e.result.peak_memory_bytes
    if peak is None:
        return _short(rule, "Memory was not measured.", "memory")
    if not e.limit_bytes:
        return _short(rule, "How much memory a process may take here is not known.")
    share = peak / e.limit_bytes
    if share <= FULL:
        return _no(rule, f"The peak is {share:.0%} of the memory.")
    if e.request.backend != "llama_cpp" or not e.packed_bytes or e.request.options.get("use_extra_bufts") is False:
        return _no(rule, f"The peak is {share:.0%} of the memory; this engine keeps no copy that could be left out.")
    ratio = peak / (peak - min(e.packed_bytes, 0.9 * peak))
    gain = Gain(likely=ratio, low=1.0, high=ratio * 1.1, basis=(
        f"The repacked copy of the weights has {_gb(e.packed_bytes)}, computed from the file."
    ))  # fmt: skip
    return _advice(
        e,
        rule,
        Bottleneck(phase="memory", group="repacked weights", share=share),
        f"The peak of {_gb(peak)} is {share:.0%} of the memory; {_gb(e.packed_bytes)} are a second copy of weights.",
        "Do not repack the weights: it costs speed.",
        e.with_options(use_extra_bufts=False),
        "peak_memory_bytes",
        gain,
        "unchanged",
    )


def zeros_are_not_faster(e: Evidence) -> Found:
    """Weights pruned without structure are stored and multiplied like others: cut structure instead."""
    rule = "zeros_are_not_faster"
    if not e.zeros:
        return _no(rule, "The model was not pruned without structure.")
    if quiet := _untimed(e, rule):
        return quiet
    if not e.parent:
        return _short(rule, "The model that it was pruned from is gone.")
    gain = Gain(likely=1.0, low=1 / (1 + SAME), high=1 + SAME, basis=(
        "Zeros are read and multiplied like any other value, so the model before pruning is as fast."
    ))  # fmt: skip
    return _advice(
        e,
        rule,
        Bottleneck(phase="decode", group="zeros", share=e.zeros),
        f"{e.zeros:.0%} of the weights in the blocks are zero, and bring no speed.",
        f"Shrink {e.parent} instead; the trial shows that it is as fast without any zeros.",
        e.changed(model=e.parent),
        "tpot_s",
        gain,
        "unknown",
    )


def repeat(e: Evidence) -> Found:
    """Something disturbed the run, or its passes drift apart: measure it again, and change nothing on its word."""
    rule = "repeat"
    result = e.result
    if not result.disturbed and not result.provisional:
        return _no(rule, "Nothing disturbed the run.")
    why = result.disturbance.sentence if result.disturbed and result.disturbance else "It was only watched."
    gain = Gain(likely=1.0, low=0.5, high=2.0, basis="The same request twice: the ratio tells how far runs lie apart.")
    return _advice(
        e,
        rule,
        Bottleneck(phase="decode", group="disturbance"),
        why,
        "Measure the same again, when nothing else runs.",
        e.request,
        "tpot_s" if result.tpot_s else "ttft_s",
        gain,
        "unchanged",
    )


RULES: dict[str, Rule] = {
    rule.__name__: rule
    for rule in (
        repeat, lighter_weights, other_engine, more_threads, fewer_calls, guess, do_not_guess, lighter_cache,
        lighter_head, bf16_prefill, larger_batch, less_memory, zeros_are_not_faster,
    )
}  # fmt: skip
LABELS = {
    "repeat": "Measure again",
    "lighter_weights": "Lighter weights",
    "other_engine": "Another engine",
    "more_threads": "Other threads",
    "fewer_calls": "Fewer calls",
    "guess": "Guess tokens",
    "do_not_guess": "Do not guess tokens",
    "lighter_cache": "Lighter cache",
    "lighter_head": "Lighter head",
    "bf16_prefill": "bf16 arithmetic",
    "larger_batch": "Larger batch",
    "less_memory": "Less memory",
    "zeros_are_not_faster": "Zeros bring no speed",
}


# ---------------------------------------------------------------- what the rules share


def _advice(
    e: Evidence,
    rule: str,
    bottleneck: Bottleneck,
    finding: str,
    change: str,
    request: Request,
    metric: Metric,
    gain: Gain,
    quality: Literal["unknown", "unchanged"],
    against: bool = False,
    evidence: tuple[str, ...] = (),
) -> Advice:
    """quality: "unknown" is looked up among the evaluations made here."""
    baseline, changed = as_trial(e.request, metric), as_trial(request, metric)
    return Advice(
        id=advice_id(rule, baseline, changed),
        rule=rule,
        evidence=(e.run_id, *evidence),
        bottleneck=bottleneck,
        finding=finding,
        change=change,
        baseline=baseline,
        changed=changed,
        metric=metric,
        gain=gain,
        quality=e.quality(request) if quality == "unknown" else quality,
        against=against,
        made_at=time.time(),
    )


def _no(rule: str, reason: str) -> Silence:
    return Silence(rule=rule, reason=reason, short=False)


def _short(rule: str, reason: str, lacks: Lack | None = None) -> Silence:
    return Silence(rule=rule, reason=reason, short=True, lacks=lacks)


def _untimed(e: Evidence, rule: str) -> Silence | None:
    return None if e.result.ttft_s else _short(rule, "The run was not timed.")


def _unroofed(rule: str) -> Silence:
    return _short(rule, "The ceilings of the machine that ran it were not measured.", "ceilings")


def _unfitted(e: Evidence, rule: str) -> Silence:
    if e.ceilings is None:
        return _unroofed(rule)
    return _short(rule, f"{_label(e.request.backend)} has too few runs here with such weights to predict from.")


def _decode_quiet(e: Evidence, rule: str) -> Silence | None:
    """Why a rule about decode that needs the roof cannot judge; None when it can."""
    if quiet := _untimed(e, rule):
        return quiet
    if not e.spec.causal:
        return _no(rule, "An encoder does not decode.")
    if not e.plain:
        return _no(rule, "The run guesses tokens, so that its forward passes are not of one token.")
    if e.result.tpot_s is None or e.phase("decode") is None:
        return _short(rule, "Decode was not timed: let it write more than one token.")
    return None if e.of_roof("decode") is not None else _unroofed(rule)


def _guess_quiet(e: Evidence, rule: str) -> Silence | None:
    if quiet := _untimed(e, rule):
        return quiet
    if not e.spec.causal:
        return _no(rule, "An encoder does not decode.")
    if not e.plain:
        return _no(rule, "The run guesses tokens already.")
    if e.result.batch > 1:
        return _no(rule, "Guessing strategies decode one sequence.")
    return None


def _wider(gain: Gain) -> Gain:
    """Other kernels than those the equation was fitted to: half as much again to either side."""
    return Gain(
        likely=gain.likely,
        low=gain.low / 1.5,
        high=gain.high * 1.5,
        basis=f"{gain.basis[:-1]}; other kernels than those it was fitted to, so the range is wide.",
        n_runs=gain.n_runs,
        models=gain.models,
    )


def _weights_share(e: Evidence) -> float:
    return total(e.step).weight_bytes / e.step_bytes


def _head_bytes(spec: object) -> float:
    layers = getattr(spec, "layers", ())
    by_name = {layer.name: layer for layer in layers}
    found = 0.0
    for layer in layers:
        if layer.kind == "head":
            tied = by_name.get(getattr(layer.op, "tied_to", None) or "")
            found += (layer.weight_bytes or 0) + ((tied.weight_bytes or 0) if tied else 0)
    return found


def _gb(n_bytes: float) -> str:
    return f"{n_bytes / 1e9:.3g} GB" if n_bytes >= 1e9 else f"{n_bytes / 1e6:.3g} MB"
