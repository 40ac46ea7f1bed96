"""What a run tells of its memory: parts of the resident memory, buffers that its library reports, its own shape.

Resident memory cannot be taken apart by purpose; it is known before the model is opened, after, and at its peaks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from core.analysis.memory import Shape
from core.types import Loaded, Memory, Record, Result, Setup


class Measured(Record, omit_defaults=False):
    """Resident memory of the worker at the points that tell its parts. None: not measured.

    loading_bytes: growth while the model was opened (None when it was open already).
    growth_bytes: from the opened model to the highest point: KV cache, activations and workspace,
    as far as they were not reserved while opening.
    """

    runtime_bytes: int | None
    loading_bytes: int | None
    growth_bytes: int | None
    peak_bytes: int | None
    peaks: dict[str, int]  # phase -> highest
    true_peaks: bool  # the kernel's high-water mark, not the highest sample


def measured(loaded: Loaded | None, seen: Sequence[Memory]) -> Measured:
    """What a run tells of the worker. seen: since the model was open."""
    true = [m for m in seen if m.peak_bytes is not None]
    peaks: dict[str, int] = {}
    for m in seen:
        highest = max(m.rss_bytes, m.peak_bytes or 0)
        peaks[m.phase] = max(peaks.get(m.phase, 0), highest)
    peak = max(peaks.values(), default=None)
    before = loaded.rss_before_bytes if loaded else None
    after = loaded.rss_after_bytes if loaded else None
    cold = loaded is not None and not loaded.warm
    return Measured(
        runtime_bytes=before if cold else None,
        loading_bytes=after - before if cold and after is not None and before is not None else None,
        growth_bytes=max(0, peak - after) if peak is not None and after is not None else None,
        peak_bytes=peak,
        peaks=peaks,
        true_peaks=bool(true),
    )


def reported(setup: Setup) -> dict[str, int]:
    """Buffers that the library itself reports (llama.cpp does), by purpose; empty where it reports none."""
    return by_purpose(setup.buffers_bytes)


def by_purpose(buffers: Mapping[str, int]) -> dict[str, int]:
    """Buffers by purpose, whose names end with llama.cpp's words for their use; a recurrent state is its cache."""
    found: dict[str, int] = {}
    for name, size in buffers.items():
        words = name.lower().split()
        part = "KV cache" if {"kv", "rs"} & {*words} else "weights" if "model" in words else "workspace"
        found[part] = found.get(part, 0) + size
    return {part: size for part, size in found.items() if size}


def shape_of_run(result: Result, setup: Setup) -> Shape:
    """What a run asked of the memory, from its result and what its backend ran.

    A library that reserves its whole context (n_context) needs it whether it is filled or not, and whether or not a
    window looks so far back; one that runs a prompt in pieces (n_batch) has no larger forward than a piece.
    """
    used = max(1, (result.n_prompt_tokens or 0) + result.n_new_tokens)
    forward = max(1, result.n_prompt_tokens or 1)
    return Shape(
        n_context=setup.n_context or used,
        n_forward=min(forward, setup.n_batch or forward),
        batch=result.batch,
        activation_dtype=setup.activation_dtype,
        kv_dtype=setup.kv_dtype,
        windowed=setup.n_context is None,
    )
