"""How fast, how large and bound by what: any model on any device, before anything runs.

Every figure is an interval: `ideal` is the roofline (Williams et al. 2009; nothing can be faster, were the
device's figures right), `calibrated` is what llama.cpp reaches on published machines (core.analysis.device_time),
`low` and `high` hold nine in ten measured values. A prompt runs in chunks, each of which takes the larger of its
reading and its arithmetic. This module knows no file and no clock.
"""

from __future__ import annotations

from typing import Any, Literal

from core.analysis.capacity import usable_bytes
from core.analysis.device_time import PUBLISHED, Calibration, Spread, compute_peak, ideal_peak
from core.analysis.memory import Shape, Split, split
from core.analysis.time_parts import OVERHEAD, Load, Timed, load_of, moved_bytes, prompt_time, step_time
from core.analysis.work import LayerWork, total
from core.dtypes import mix_note
from core.types import Linear, ModelSpec, Record
from hardware.device import Device

Bound = Literal["memory", "compute"]


class Figure(Record, omit_defaults=False):
    """One predicted figure. low and high hold about nine in ten measured values."""

    ideal: float
    calibrated: float
    low: float
    high: float


class Expected(Record, omit_defaults=False):
    """What to expect of one request. Times in seconds; None for an encoder, which does not decode.

    memory: the parts of the calibrated peak. usable_memory_bytes, fits: None where the memory is not known.
    bound_by: of decode (of the only forward for an encoder), by the ridge point. starting, prefill_starting: the share
    of the calibrated time of decode and prefill that is starting kernels, which the ridge does not count.
    """

    ttft_s: Figure
    tpot_s: Figure | None
    prefill_tok_per_s: Figure
    decode_tok_per_s: Figure | None
    peak_memory_bytes: Figure
    memory: Split
    usable_memory_bytes: float | None
    fits: bool | None
    bound_by: Bound
    prefill_bound_by: Bound
    starting: float
    prefill_starting: float
    assumptions: tuple[str, ...]


class Times(Record):
    """Of one request's phases, what bounds each by the ridge, and the share that is starting kernels. tpot: None for an
    encoder, whose only forward bounds both."""

    ttft: Figure
    prefill_bound: Bound
    prefill_starting: float
    tpot: Figure | None
    decode_bound: Bound
    decode_starting: float


class Prediction(Expected, omit_defaults=False):
    """On a device of the catalogue, whose memory is known.

    doubts: doubtful figures of the device. inputs: everything needed to compute the figures again.
    """

    device: str
    usable_memory_bytes: float
    fits: bool
    doubts: str
    inputs: dict[str, Any]


# ---------------------------------------------------------------- a prediction


def predict(
    spec: ModelSpec,
    device: Device,
    *,
    prompt_tokens: int,
    new_tokens: int,
    batch: int = 1,
    weights: str | None = None,
    kv_dtype: str = "fp16",
    micro_batch: int = 512,
    thread_share: float = 1.0,
    calibration: Calibration = PUBLISHED,
) -> Prediction:
    """What `spec` would do on `device`; raises ExplorerError for sizes that make no sense.

    weights: as if the weights were stored so; None: as they are. micro_batch: prompt tokens per forward.
    thread_share: threads over cores of a processor.
    """
    load = load_of(
        spec,
        prompt_tokens=prompt_tokens,
        new_tokens=new_tokens,
        batch=batch,
        weights=weights,
        kv_dtype=kv_dtype,
        micro_batch=micro_batch,
    )
    times = _times(load, device, calibration, thread_share)
    shape = shape_of(load.spec, prompt_tokens, new_tokens, batch, micro_batch, "fp16", kv_dtype)
    parts = split(load.spec, shape, _RUNTIME_BYTES.get(device.kind, 0.5e9))
    peak_memory = memory_figure(parts)
    usable = usable_bytes(device.kind, device.mem_bytes)
    fits = peak_memory.calibrated <= usable
    lines = _assumptions(load, device, weights, kv_dtype, prompt_tokens + new_tokens, micro_batch)
    too_large = () if fits else ("It does not fit: the times are those of a device that could hold it.",)
    return Prediction(
        device=device.name,
        ttft_s=times.ttft,
        tpot_s=times.tpot,
        prefill_tok_per_s=as_rate(batch * prompt_tokens, times.ttft),
        decode_tok_per_s=None if times.tpot is None else as_rate(batch, times.tpot),
        peak_memory_bytes=peak_memory,
        memory=parts,
        usable_memory_bytes=usable,
        fits=fits,
        bound_by=times.decode_bound,
        prefill_bound_by=times.prefill_bound,
        starting=times.decode_starting,
        prefill_starting=times.prefill_starting,
        assumptions=(*lines, *too_large),
        doubts=device.doubts(),
        inputs=_inputs(
            load,
            device,
            kv_dtype=kv_dtype,
            prompt_tokens=prompt_tokens,
            new_tokens=new_tokens,
            batch=batch,
            micro_batch=micro_batch,
            thread_share=thread_share,
        ),
    )


def _times(load: Load, device: Device, calibration: Calibration, thread_share: float) -> Times:
    bandwidth, (_, peak) = device.mem_bandwidth_bytes_per_s, compute_peak(device, load.weights)
    first = prompt_time(load, device, calibration, thread_share)
    step = step_time(load, device, calibration, thread_share)
    prefill_bound = bound(total(load.prompt), peak, bandwidth)
    return Times(
        ttft=as_figure(first.ideal, first.seconds, calibration.spread(device, "prefill")),
        prefill_bound=prefill_bound,
        prefill_starting=_starting(first),
        tpot=None if step is None else as_figure(step.ideal, step.seconds, calibration.spread(device, "decode")),
        decode_bound=prefill_bound if load.step is None else bound(load.step, peak, bandwidth),
        decode_starting=_starting(step or first),
    )


def _starting(found: Timed) -> float:
    return found.parts.get(OVERHEAD, 0.0) / found.seconds


def bounds_in_words(of: Expected) -> str:
    """What bounds each phase by the ridge, and how much of its time the ridge does not count, where that is much."""
    phases = [("decode", of.bound_by, of.starting)] if of.tpot_s is not None else []
    phases.append(("prefill", of.prefill_bound_by, of.prefill_starting))
    words = "By the ridge, " + " and ".join(f"{name} is {bound}-bound" for name, bound, _ in phases)
    shares = [f"{share:.0%} of {name}" for name, _, share in phases if share >= 0.05]
    beside = f"; starting kernels, which the ridge does not count, takes {' and '.join(shares)}" if shares else ""
    return f"{words}{beside}."


def _inputs(load: Load, device: Device, **asked: Any) -> dict[str, Any]:
    (roof_dtype, roof), (peak_dtype, peak) = ideal_peak(device, load.weights), compute_peak(device, load.weights)
    return {
        "model": load.spec.name,
        "weights": load.weights,
        "weight_bytes": load.spec.weight_bytes,
        **asked,
        "mem_bandwidth_bytes_per_s": device.mem_bandwidth_bytes_per_s,
        "ideal_peak_flop_per_s": roof,
        "ideal_peak_dtype": roof_dtype,
        "compute_peak_flop_per_s": peak,
        "compute_peak_dtype": peak_dtype,
        "mem_bytes": device.mem_bytes,
    }


def bound(forward: LayerWork, peak_flop_per_s: float, bandwidth_bytes_per_s: float) -> Bound:
    """By intensity against the ridge only (Williams et al. 2009), never by the distance from a roof."""
    memory_bound = forward.flops / moved_bytes(forward) < peak_flop_per_s / bandwidth_bytes_per_s
    return "memory" if memory_bound else "compute"


def shape_of(
    spec: ModelSpec,
    prompt_tokens: int,
    new_tokens: int,
    batch: int,
    micro_batch: int,
    activation_dtype: str,
    kv_dtype: str,
) -> Shape:
    """What a run holds at its fullest: the whole context, and its largest forward with attention's scores written out.

    micro_batch: prompt tokens per forward; an encoder reads all of them in one.
    """
    return Shape(
        n_context=prompt_tokens + new_tokens,
        n_forward=min(prompt_tokens, micro_batch) if spec.causal else prompt_tokens,
        batch=batch,
        activation_dtype=activation_dtype,
        kv_dtype=kv_dtype,
        fused_attention=False,
    )


# The library and its context: about what llama.cpp and CUDA take before a model is loaded.
_RUNTIME_BYTES = {"cpu": 0.2e9, "soc": 0.3e9}


def memory_figure(parts: Split) -> Figure:
    """From what must be there, weights and KV cache, to twice the rest, which libraries handle differently."""
    needed, everything = parts.weights_bytes + parts.kv_bytes, parts.total_bytes
    return Figure(ideal=needed, calibrated=everything, low=needed, high=2 * everything - needed)


def as_figure(ideal: float, calibrated: float, spread: Spread) -> Figure:
    """The interval of a time: calibrated seconds never undercut the ideal ones."""
    calibrated = max(ideal, calibrated)
    return Figure(
        ideal=ideal, calibrated=calibrated, low=max(ideal, spread.low * calibrated), high=spread.high * calibrated
    )


def as_rate(n: float, seconds: Figure) -> Figure:
    """Per second; the slow end of the time is the low end of the rate."""
    return Figure(
        ideal=n / seconds.ideal, calibrated=n / seconds.calibrated, low=n / seconds.high, high=n / seconds.low
    )


def _assumptions(
    load: Load, device: Device, weights: str | None, kv_dtype: str, n_context: int, micro_batch: int
) -> tuple[str, ...]:
    reserve = 1 - usable_bytes(device.kind, device.mem_bytes) / device.mem_bytes
    spec, (roof, _), (compute, _) = load.spec, ideal_peak(device, load.weights), compute_peak(device, load.weights)
    lines = [
        "Every weight is read once per forward, the embedding table one row per token; activations stay in a cache.",
        f"The KV cache is {kv_dtype}; decode is taken at the mean context of the answer.",
        f"The ideal roof is {roof} arithmetic and the stated bandwidth; matrices are multiplied in {compute}.",
        f"A prompt is run {micro_batch} tokens at a time.",
        "The calibration is llama.cpp without flash attention on published machines; other libraries differ.",
        f"{reserve:.0%} of the memory is left to the system.",
    ]
    if not spec.causal:
        lines[1:4] = ["An encoder runs its whole input in one forward and has no KV cache."]
    if device.kind == "cpu":
        lines.append("A processor's stated figures are upper bounds: memory modules and threads decide the rest.")
    elif device.kind in ("tpu", "accelerator"):
        lines.append("No run on this kind of device was used to calibrate: take the calibrated figure as a guess.")
    if device.kind != "cpu" and "fp32" not in device.peak_flop_per_s:
        lines.append("No fp32 peak is published, so the time to unpack weights is left out.")
    if device.provenance == "stated" and device.doubts():
        lines.append(device.doubts())
    if any(isinstance(layer.op, Linear) and layer.op.n_experts > 1 for layer in spec.layers):
        lines.append("Tokens choose their experts at random; a forward reads the experts that it is expected to touch.")
    if spec.n_params < 3e9:
        lines.append("The published runs are of 7 to 70 billion parameters; a smaller model is extrapolated.")
    if spec.max_context is not None and n_context > spec.max_context:
        lines.append(f"The model was made for {spec.max_context} tokens of context, and {n_context} are asked for.")
    return (*lines, *filter(None, (mix_note(weights) if weights else "", spec.doubts)))
