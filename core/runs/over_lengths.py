"""Answers of one model behind a server that were measured one at a time, by their lengths: what a line needs."""

from __future__ import annotations

from collections.abc import Sequence

from core.analysis.bottlenecks import Ceiling
from core.analysis.implied import Implied, Part, Timing, implied, network, typical
from core.analysis.work import kv_bytes_per_token, n_active_params, total, work
from core.runs.store import Store
from core.types import ModelSpec, Record, Result
from hardware.errors import ExplorerError

MOST = 400  # runs that are looked at


def timings(store: Store, model: str) -> tuple[Timing, ...]:
    """One for each finished run of this model of the catalogue, newest first; damaged runs are left out.

    TTFT is left out where a part of the prompt was not read again, and both where an answer came in one piece.
    """
    ids = [
        str(row["run_id"])
        for row in store.history()
        if row.get("status") == "done" and row.get("backend") == "endpoint" and row.get("model") == model
    ]
    found = []
    for run_id in ids[:MOST]:
        try:
            timing = of(store.open(run_id).result())
        except (ExplorerError, OSError):
            continue
        if timing is not None:
            found.append(timing)
    return tuple(found)


def of(result: Result) -> Timing | None:
    """The timing of a run; None where it has none, or the length of its prompt is not known."""
    told = result.served
    n_prompt = told.n_prompt if told is not None else None
    if told is None or n_prompt is None or not told.streamed:
        return None
    n_new = told.n_tokens or result.n_new_tokens
    return Timing(
        n_prompt=n_prompt,
        n_context=n_prompt + n_new / 2,
        ttft_s=None if told.cached else result.ttft_s,
        itl_s=result.tpot_s if n_new > 1 else None,
    )


class Behind(Record, omit_defaults=False):
    """What the answers of a model imply on a device. step, prompt: the layers of the configuration that was named, for
    a step at the longest context and for the longest prompt; empty without one. at, of: those lengths, in tokens."""

    implied: Implied
    step: tuple[Part, ...]
    prompt: tuple[Part, ...]
    at: int
    of: int


def behind(
    found: Sequence[Timing],
    ceiling: Ceiling,
    spec: ModelSpec | None = None,
    size_bytes: int | None = None,
    n_params: int | None = None,
) -> Behind:
    """What timings of a model imply. spec: the configuration that it is said to have, which then counts before what
    the server says of its size. Raises ExplorerError where the lengths are too few."""
    if spec is not None:
        known = implied(
            found,
            ceiling,
            kv_bytes_per_token=kv_bytes_per_token(spec) or None,
            active_bytes=total(work(spec, 1)).weight_bytes,
            active_params=n_active_params(spec),
        )
    else:
        known = implied(found, ceiling, active_bytes=size_bytes, active_params=n_params)
    at = round(known.itl.longest) if known.itl else 0
    of_prompt = round(known.ttft.longest) if known.ttft else 0
    itl = typical(t.itl_s for t in found if t.itl_s and round(t.n_context) == at)
    ttft = typical(t.ttft_s for t in found if t.ttft_s and t.n_prompt == of_prompt)
    return Behind(
        implied=known,
        step=() if spec is None or itl is None else network(spec, "decode", at, itl, ceiling),
        prompt=() if spec is None or ttft is None else network(spec, "prefill", of_prompt, ttft, ceiling),
        at=at,
        of=of_prompt,
    )
