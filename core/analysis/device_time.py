"""How long llama.cpp takes on a device that was never measured: a few terms with a physical meaning each.

A decode step takes

    memory * W / bandwidth  +  unpack * W / fp32 peak  +  layer * n_layers  +  KV / (kv_share * bandwidth)

W: bytes of weights that the step reads. KV: bytes of the cache, read once per query head, as attention that
is not fused does. `memory` is the inverse of the share of the stated bandwidth that kernels reach; `unpack` is
arithmetic on the weights that reading does not hide (it holds back cards with much bandwidth and little
arithmetic); `layer` is the time to start a layer's kernels. K-quants, whose scales are packed as well, take
soc_unpack_k * W / fp32 peak more on a system on a chip. A processor has 2 FLOPs per weight instead of
`unpack` and `layer`. The arithmetic of a prompt takes

    flops * F / peak  (+  flops_k * F / peak for K-quants)  +  joules_per_flop * F / thermal design power

whose last part is a card that its power limit slows down. The factors are fitted by core.analysis.calibrate,
which also tells their errors on left-out devices. This module knows no model, no file and no clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from core.dtypes import canonical_dtype, is_quantized
from core.types import Record
from hardware.device import Device


class Spread(Record):
    """Measured over calibrated time where it was not fitted: the 5 % and the 95 % quantile, a little widened."""

    low: float
    high: float


class Calibration(Record):
    """The fitted numbers of the formulas above, in SI units.

    decode, prefill: of a familiar device, from devices that were left out; *_unfamiliar: of one by another maker, from
    makers all of whose devices were left out.
    """

    memory: float
    unpack: float
    soc_unpack_k: float
    gpu_layer_s: float
    gpu_layer_2024_s: float  # builds without launch graphs: to compare with old measurements only
    soc_layer_s: float
    gpu_kv_share: float
    soc_kv_share: float
    flops: float
    flops_k: float
    joules_per_flop: float
    decode: Spread
    prefill: Spread
    decode_unfamiliar: Spread
    prefill_unfamiliar: Spread

    def spread(self, device: Device, phase: Literal["decode", "prefill"]) -> Spread:
        """How far measured values lie from the calibrated one on such a device."""
        known = "" if familiar(device) else "_unfamiliar"
        found: Spread = getattr(self, phase + known)
        return found


# core.analysis.calibrate.fit over hardware/llama_bench_published.csv; a test keeps the two equal.
PUBLISHED = Calibration(
    memory=0.924,
    unpack=7.74,
    soc_unpack_k=8.90,
    gpu_layer_s=46.6e-6,
    gpu_layer_2024_s=98.4e-6,
    soc_layer_s=117.6e-6,
    gpu_kv_share=0.904,
    soc_kv_share=0.502,
    flops=1.43,
    flops_k=0.420,
    joules_per_flop=1.706e-12,
    decode=Spread(low=0.821, high=1.33),
    prefill=Spread(low=0.756, high=1.35),
    decode_unfamiliar=Spread(low=0.768, high=1.52),
    prefill_unfamiliar=Spread(low=0.548, high=1.49),
)
FAMILIAR = {("NVIDIA", "gpu"), ("Apple", "soc")}  # of which at least three devices were measured; a test counts them


def familiar(device: Device) -> bool:
    """Whether several devices of its maker and kind are among those that were fitted to."""
    return (device.vendor, device.kind) in FAMILIAR


def decode_terms(
    device: Device, weight_bytes: float, n_layers: int, weight_dtype: str, launch_graphs: bool = True
) -> dict[str, float]:
    """What the fitted numbers are multiplied with, by their names in Calibration."""
    terms = {"memory": weight_bytes / device.mem_bandwidth_bytes_per_s}
    if device.kind == "cpu":
        return terms
    fp32 = device.peak_flop_per_s.get("fp32")
    if fp32 is not None:
        terms["unpack"] = weight_bytes / fp32
        if device.kind == "soc" and _is_k_quant(weight_dtype):
            terms["soc_unpack_k"] = weight_bytes / fp32
    started = "soc_layer_s" if device.kind == "soc" else "gpu_layer_s" if launch_graphs else "gpu_layer_2024_s"
    return {**terms, started: n_layers}


def decode_rest(device: Device, kv_bytes: float, flops: float, thread_share: float, calibration: Calibration) -> float:
    """Seconds of a decode step that are not fitted: reading the KV cache, and a processor's arithmetic."""
    bandwidth = device.mem_bandwidth_bytes_per_s
    if device.kind == "cpu":
        return kv_bytes * calibration.memory / bandwidth + flops / (device.peak_flop_per_s["fp32"] * thread_share)
    share = calibration.soc_kv_share if device.kind == "soc" else calibration.gpu_kv_share
    return kv_bytes / (share * bandwidth)


def launch_seconds(device: Device, n_layers: int, calibration: Calibration) -> float:
    """Time to start the kernels of one forward; none on a processor."""
    if device.kind == "cpu":
        return 0.0
    return n_layers * (calibration.soc_layer_s if device.kind == "soc" else calibration.gpu_layer_s)


def prefill_terms(device: Device, flops: float, weight_dtype: str, thread_share: float) -> dict[str, float]:
    """As decode_terms, for the arithmetic of a prompt."""
    terms = {"flops": flops / (compute_peak(device, weight_dtype)[1] * thread_share)}
    if _is_k_quant(weight_dtype):
        terms["flops_k"] = terms["flops"]
    if device.kind not in ("cpu", "soc") and device.tdp_w is not None:
        terms["joules_per_flop"] = flops / device.tdp_w
    return terms


def _is_k_quant(dtype: str) -> bool:
    return "_k" in canonical_dtype(dtype)


def weighted(terms: dict[str, float], calibration: Calibration) -> float:
    """Sum of the terms times the fitted numbers."""
    return float(sum(getattr(calibration, name) * value for name, value in terms.items()))


def compute_peak(device: Device, weight_dtype: str) -> tuple[str, float]:
    """(dtype, FLOP/s) in which llama.cpp and PyTorch multiply matrices of weights stored so.

    fp16 and quantized weights: fp16 with fp16 accumulation where a device has it (llama.cpp's choice,
    which is why GeForce cards exceed the fp32-accumulating peak); on a processor fp32.
    """
    dtype = canonical_dtype(weight_dtype)
    if device.kind == "cpu":
        order = ["bf16", "fp32"] if dtype == "bf16" else ["fp32"]
    elif dtype in ("fp32", "fp64"):
        order = ["fp32"]
    elif dtype in ("bf16", "fp8"):
        order = [dtype, "bf16", "fp16"]
    else:
        order = ["fp16_acc16", "fp16"]
    return _first_peak(device, [*order, "fp32", "bf16", "fp16", "int8", "fp8"])


def ideal_peak(device: Device, weight_dtype: str) -> tuple[str, float]:
    """The highest roof that kernels for such weights could use: int8 for quantized ones, where there is one."""
    dtype, peak = compute_peak(device, weight_dtype)
    int8 = device.peak_flop_per_s.get("int8")
    return ("int8", int8) if is_quantized(weight_dtype) and int8 is not None and int8 > peak else (dtype, peak)


def _first_peak(device: Device, order: Sequence[str]) -> tuple[str, float]:
    dtype = next(dtype for dtype in order if dtype in device.peak_flop_per_s)
    return dtype, device.peak_flop_per_s[dtype]
