"""The fitted numbers of a prediction, and how wrong it is on devices that were left out.

Few numbers, each with a physical meaning, non-negative, fitted to relative errors with little weight for
outliers. Errors are always those of a device (or a whole family of devices) that the fit has not seen;
the form of the formulas was chosen with all rows in view, so a test also holds them against rows never used.
Pure: measurements come in, numbers go out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from core.analysis import device_time
from core.analysis.device_time import PUBLISHED, Calibration, Spread
from core.types import Record

if TYPE_CHECKING:
    from hardware.published import PublishedRun

Phase = Literal["decode", "prefill"]
Group = Literal["device", "family", "maker"]
Floats = NDArray[np.float64]
PHASES: tuple[Phase, ...] = ("decode", "prefill")
GROUPS: tuple[Group, ...] = ("device", "family", "maker")
KV_SHARES = ("gpu_kv_share", "soc_kv_share")
MISSED = 0.1  # share of values that an interval leaves out


class MethodError(Record, omit_defaults=False):
    """Relative errors of a method over measured values.

    coverage: share inside [low, high]; interval_score: mean of the width of ln [low, high] and 20 times the distance of
    a value that lies outside (Gneiting and Raftery 2007, equation 43, for 90 %); both None without an interval.
    """

    phase: str
    method: str
    left_out: str
    n: int
    median_error: float
    p90_error: float
    coverage: float | None = None
    interval_score: float | None = None


def relative_fit(
    terms: Sequence[dict[str, float]], seconds: Sequence[float], weights: Sequence[float] | None = None
) -> dict[str, float]:
    """Coefficients >= 0 that minimise the absolute relative error of sum(coefficient * term).

    Iteratively reweighted least squares; errors below 3 % count as one. A term that no row has is left out.
    weights: how much each row counts.
    """
    names = sorted({name for row in terms for name in row})
    times = np.asarray(seconds, dtype=np.float64)
    design = np.array([[row.get(name, 0.0) for name in names] for row in terms], dtype=np.float64) / times[:, None]
    scale = design.max(axis=0)
    design /= scale
    own = np.ones(len(times)) if weights is None else np.asarray(weights, dtype=np.float64)
    weight = own
    found = np.zeros(len(names))
    for _ in range(40):
        root = np.sqrt(weight)
        found = _non_negative(design * root[:, None], root)
        weight = own / np.maximum(np.abs(design @ found - 1), 0.03)
    return {name: float(value) for name, value in zip(names, found / scale, strict=True)}


def _non_negative(design: Floats, target: Floats) -> Floats:
    """Least squares with coefficients >= 0: drops the most negative one until none is left."""
    active = list(range(design.shape[1]))
    while True:
        found = np.zeros(design.shape[1])
        if active:
            found[active] = np.linalg.lstsq(design[:, active], target, rcond=None)[0]
        negative = [i for i in active if found[i] < 0]
        if not negative:
            return found
        active.remove(min(negative, key=lambda i: float(found[i])))


# ---------------------------------------------------------------- fitting the published runs


def fit(runs: Sequence[PublishedRun]) -> Calibration:
    """All fitted numbers, and the spread of measured over predicted time on devices and makers that were left out."""
    spreads: dict[str, Spread] = {}
    for phase in PHASES:
        spreads[phase] = _spread([row for row in leave_out(runs, phase) if row.familiar])
        spreads[f"{phase}_unfamiliar"] = _spread(leave_out(runs, phase, by="maker"))
    return msgspec.structs.replace(_fit(runs), **spreads)


def _fit(runs: Sequence[PublishedRun]) -> Calibration:
    shares = _kv_shares(runs)
    other = float(np.median(list(shares.values()) or [1.0]))  # of a kind that was left out entirely
    kv = msgspec.structs.replace(PUBLISHED, **{name: shares.get(name, other) for name in KV_SHARES})
    decoded = [run for run in runs if run.use != "depth"]
    prefilled = [run for run in decoded if run.prefill_s is not None]
    found = relative_fit([_decode_terms(run) for run in decoded], [run.decode_s - _rest(run, kv) for run in decoded])
    found |= relative_fit([_prefill_terms(run) for run in prefilled], [run.prefill_s or 0.0 for run in prefilled])
    # A kind of device that is left out entirely starts its layers as the other kind does.
    layer = max(value for name, value in found.items() if name.endswith("_layer_s"))
    for name in ("gpu_layer_s", "gpu_layer_2024_s", "soc_layer_s"):
        found.setdefault(name, layer)
    found.setdefault("soc_unpack_k", 0.0)
    return msgspec.structs.replace(kv, **found)


def _kv_shares(runs: Sequence[PublishedRun]) -> dict[str, float]:
    """Median share of the bandwidth that reading a longer context reaches, by kind of device."""
    shares: dict[str, list[float]] = {}
    for deep in (run for run in runs if run.use == "depth"):
        for flat in runs:
            same = (flat.device.name, flat.model, flat.quant) == (deep.device.name, deep.model, deep.quant)
            if same and flat.use != "depth" and flat.n_past == 256 and deep.decode_s > flat.decode_s:
                more = (deep.n_past - flat.n_past) * deep.kv_bytes_per_token * deep.heads_per_kv_head
                more /= deep.device.mem_bandwidth_bytes_per_s
                shares.setdefault(deep.device.kind, []).append(more / (deep.decode_s - flat.decode_s))
    return {f"{kind}_kv_share": float(np.median(found)) for kind, found in shares.items()}


def _decode_terms(run: PublishedRun) -> dict[str, float]:
    return device_time.decode_terms(run.device, run.weight_bytes, run.n_layers, _dtype(run), run.launch_graphs)


def _rest(run: PublishedRun, calibration: Calibration) -> float:
    kv_bytes = run.n_past * run.kv_bytes_per_token * run.heads_per_kv_head
    return device_time.decode_rest(run.device, kv_bytes, 2 * run.n_matrix_params, run.thread_share, calibration)


def _prefill_terms(run: PublishedRun) -> dict[str, float]:
    flops = 2 * run.n_matrix_params * run.prefill_tokens
    return device_time.prefill_terms(run.device, flops, _dtype(run), run.prefill_thread_share)


def _dtype(run: PublishedRun) -> str:
    return {"F16": "fp16"}.get(run.quant, run.quant.lower().removesuffix("_m"))


def _predicted(run: PublishedRun, phase: str, calibration: Calibration) -> float:
    if phase == "prefill":
        return device_time.weighted(_prefill_terms(run), calibration)
    return device_time.weighted(_decode_terms(run), calibration) + _rest(run, calibration)


# ---------------------------------------------------------------- errors on what was left out


class LeftOut(Record):
    """A measured time beside what was predicted without its device, its family, or all of its maker.

    familiar: several devices of its maker and kind are known.
    """

    group: str
    maker: str
    familiar: bool
    measured_s: float
    predicted_s: float
    ideal_s: float
    rule_s: float
    added: bool

    @property
    def ratio(self) -> float:
        return self.measured_s / self.predicted_s


def leave_out(runs: Sequence[PublishedRun], phase: Phase, by: Group = "device") -> tuple[LeftOut, ...]:
    """Every measured value of the phase, predicted by a fit without its device, family or maker.

    rule_s: file size over 0.55 times the bandwidth.
    """

    def group(run: PublishedRun) -> str:
        return {"device": run.device.name, "family": run.family, "maker": run.device.vendor}[by]

    found = []
    for name in sorted({group(run) for run in runs}):
        training = [run for run in runs if group(run) != name]
        calibration = _fit(training)
        for run in runs:
            measured = run.decode_s if phase == "decode" else run.prefill_s
            if group(run) != name or run.use == "depth" or measured is None:
                continue
            predicted = _predicted(run, phase, calibration)
            found.append(LeftOut(
                group=name, maker=run.device.vendor, familiar=device_time.familiar(run.device), measured_s=measured,
                predicted_s=predicted, ideal_s=_ideal(run, phase),
                rule_s=run.file_bytes / (0.55 * run.device.mem_bandwidth_bytes_per_s), added=run.added,
            ))  # fmt: skip
    return tuple(found)


def _ideal(run: PublishedRun, phase: str) -> float:
    """LLM-Viewer's time: bytes over the stated bandwidth or FLOPs over the fp16 peak (a processor: fp32)."""
    n_tokens = run.prefill_tokens if phase == "prefill" else 1
    bytes_moved = run.weight_bytes + (run.n_past * run.kv_bytes_per_token if phase == "decode" else 0)
    peaks = run.device.peak_flop_per_s
    peak = peaks.get("fp16", peaks["fp32"])
    return max(bytes_moved / run.device.mem_bandwidth_bytes_per_s, 2 * run.n_matrix_params * n_tokens / peak)


def _spread(rows: Sequence[LeftOut]) -> Spread:
    """The 5 % and 95 % quantile, two more values of the sample wide on each side as few were measured."""
    ratios = np.array([row.ratio for row in rows])
    margin = 2 / (len(ratios) + 1)
    low, high = np.quantile(ratios, [max(0.0, 0.05 - margin), min(1.0, 0.95 + margin)])
    return Spread(low=float(low), high=float(high))


def _held(rows: Sequence[LeftOut], strangers: Sequence[LeftOut]) -> tuple[float, float]:
    """Coverage and interval score of intervals whose width comes from other groups only; strangers: by maker."""
    inside, score = 0, 0.0
    for row in rows:
        if row.familiar:
            spread = _spread([other for other in rows if other.familiar and other.group != row.group])
        else:
            spread = _spread([other for other in strangers if other.maker != row.maker])
        inside += spread.low <= row.ratio <= spread.high
        outside = max(0.0, math.log(spread.low / row.ratio), math.log(row.ratio / spread.high))
        score += math.log(spread.high / spread.low) + 2 / MISSED * outside
    return inside / len(rows), score / len(rows)


def calibration_table(runs: Sequence[PublishedRun]) -> tuple[MethodError, ...]:
    """Ours and the two rules of thumb on the same rows, for decode and prefill."""
    table = []
    for phase in PHASES:
        devices, families, makers = (leave_out(runs, phase, by) for by in GROUPS)
        table += [
            _errors(phase, "Roofscope", "device", devices, lambda row: row.predicted_s, _held(devices, makers)),
            _errors(phase, "Roofscope", "family", families, lambda row: row.predicted_s, _held(families, makers)),
            _errors(phase, "ideal roofline (LLM-Viewer)", "", devices, lambda row: row.ideal_s),
        ]
        if phase == "decode":
            table.append(_errors(phase, "bandwidth over size, times 0.55", "", devices, lambda row: row.rule_s))
    return tuple(table)


def _errors(
    phase: str,
    method: str,
    left_out: str,
    rows: Sequence[LeftOut],
    seconds: Callable[[LeftOut], float],
    held: tuple[float, float] | tuple[None, None] = (None, None),
) -> MethodError:
    # of the rate, as users read tokens per second: |predicted/measured - 1| = |measured_s/predicted_s - 1|
    errors = np.array([abs(row.measured_s / seconds(row) - 1) for row in rows])
    return MethodError(
        phase=phase,
        method=method,
        left_out=left_out,
        n=len(rows),
        median_error=float(np.median(errors)),
        p90_error=float(np.quantile(errors, 0.9)),
        coverage=held[0],
        interval_score=held[1],
    )
