"""The answer of a search for architectures, and in words what it rests on."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from core import plugins
from core.analysis.cuts import parsed
from core.stats.intervals import in_words
from core.studies.architecture_found import Quantized, Shaped
from core.studies.plan import Architectures

_label = partial(plugins.label, "backend")  # of an engine; a device's name stays


def best_of(plan: Architectures, rows: Sequence[Shaped]) -> Shaped | None:
    """Of the trained shapes that meet the limits and are fast enough in the first engine the one that loses least; the
    fastest where none is fast enough."""
    ready = [r for r in rows if r.finished and r.speeds and r.speeds[0].ratio is not None and _meets(plan, r)]
    fast = [r for r in ready if r.speeds[0].gain >= plan.speedup]
    if fast:
        return min(fast, key=lambda r: (r.lost, -r.speeds[0].gain))
    return max(ready, key=lambda r: r.speeds[0].gain, default=None)


def _meets(plan: Architectures, row: Shaped) -> bool:
    """By what was measured where limits are for an engine, by what is likely on a device."""
    speed, told = row.speeds[0], row.predicted.get(plan.target, {})
    seen: dict[str, float | None] = {"n_params": row.n_params}
    if not plan.device:
        seen |= {"tok_per_s": speed.tok_per_s, "peak_memory_bytes": speed.peak_memory_bytes}
        seen |= {"tpot_s": 1 / speed.tok_per_s if speed.tok_per_s else None}
    for c in plan.constraints:
        value = seen.get(c.measure)
        if value is None:
            value = told[c.measure].likely if c.measure in told else None
        if value is None or not c.met(value):
            return False
    return True


def words_of(
    plan: Architectures, rows: Sequence[Shaped], best: Shaped | None, quantized: Quantized | None
) -> tuple[str, ...]:
    """The answer, what it costs, who is on the front in each engine, depth against width, and the answer quantized.

    Without an answer: why there is none.
    """
    if not rows:
        return ("Nothing is priced yet.",)
    done = [r for r in rows if r.finished]
    if best is None:
        why = "no finished shape meets the limits" if done else "no shape is finished yet"
        if done and not any(r.speeds[0].ratio for r in done):
            why = "no finished shape is measured yet"
        return (f"There is no answer: {why}.",)
    engine, ratio = plan.engines[0], best.speeds[0].ratio
    assert ratio is not None, "the answer was measured"
    words = [
        f"{best.label}: {in_words(ratio)} times the whole model's decode speed in {_label(engine)}, with "
        f"{best.n_params / 1e6:.1f} M of {rows[0].n_params / 1e6:.1f} M parameters.",
        f"What it costs after training: {in_words(best.kl)} nat per token to the whole model"
        + (f", {in_words(best.perplexity)} times its perplexity" if best.perplexity else "")
        + (f", the same first choice at {best.agreement:.0%} of tokens" if best.agreement is not None else "")
        + f", on {plan.texts} texts that nothing was chosen by.",
    ]
    if ratio.value < plan.speedup:
        words.append(f"No finished shape reaches {plan.speedup:g} times the speed; this is the fastest.")
    if best.speeds[0].disturbed:
        words.append(f"{best.speeds[0].disturbed} of its rounds in {_label(engine)} were disturbed by other work.")
    for i, name in enumerate(plan.engines):
        on = [r for r in done if r.speeds and r.speeds[i].on_front]
        if on:
            words.append(f"On the front in {_label(name)}: {len(on)} of {len(done)} finished shapes.")
    words += _contrast_words(plan, rows)
    if quantized is not None and quantized.kl is not None and quantized.ratio is not None:
        words.append(
            f"As {quantized.type} in llama.cpp it loses {in_words(quantized.kl)} nat per token and decodes "
            f"{in_words(quantized.ratio)} times as fast as the whole model in plain numbers."
        )
    return tuple(words)


def _contrast_words(plan: Architectures, rows: Sequence[Shaped]) -> list[str]:
    """Depth against width at nearly the same size, in each engine."""
    whole = parsed(rows[0].id)
    cuts = {r.id: parsed(r.id) for r in rows[1:]}
    same = {n: c for n, c in cuts.items() if (c.kv_heads, c.queries) == (whole.kv_heads, whole.queries)}
    deep = [n for n, c in same.items() if c.d_ff == whole.d_ff]
    wide = [n for n, c in same.items() if c.blocks == whole.blocks]
    by_id = {r.id: r for r in rows}
    pairs = [(abs(by_id[a].n_params - by_id[b].n_params), a, b) for a in deep for b in wide]
    if not pairs:
        return []
    _, a, b = min(pairs)

    def gain(name: str, place: str) -> float | None:
        mine, base = by_id[name].predicted[place].get("tpot_s"), rows[0].predicted[place].get("tpot_s")
        return base.likely / mine.likely if mine and base and mine.likely > 0 else None

    told = []
    for place in plan.places:
        one, other = gain(a, place), gain(b, place)
        if one is not None and other is not None:
            told.append(f"{_label(place)} {one:.2f} and {other:.2f}")
    if not told:
        return []
    return [
        f"Depth against width: {by_id[a].label} ({by_id[a].n_params / 1e6:.1f} M) and {by_id[b].label} "
        f"({by_id[b].n_params / 1e6:.1f} M) are expected to decode faster than the whole model by: {'; '.join(told)}. "
        f"Masked, they lose {by_id[a].masked or 0:.3f} and {by_id[b].masked or 0:.3f} nat per token."
    ]
