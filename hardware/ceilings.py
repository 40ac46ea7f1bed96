"""What this machine really reaches: arithmetic per dtype, bandwidth per working set; measured, stored, compared.

The measuring itself needs torch, which must not load in the app's process: `measure` starts
`python -m hardware.measure_ceilings` and reads its progress. This module imports no model library.
"""

from __future__ import annotations

import itertools
import math
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from hardware.child import Child
from hardware.device import Device
from hardware.errors import ExplorerError
from hardware.files import UNREADABLE, write_whole
from hardware.process import patient

PLAIN = r"\A[0-9A-Za-z-]{1,64}\Z"  # an id that can be part of a file's name
WAYS = "2"  # the set of ways to multiply that competed (hardware.measure_ceilings.products), kept among the versions
OLD_INT8 = "The int8 ceiling may be much too low: it was measured without packed weights. Measure the ceilings again."


Rate = Annotated[float, Meta(gt=0, le=1e24)]
Size = Annotated[int, Meta(ge=1, le=2**62)]


class Gemm(msgspec.Struct, frozen=True):
    """One matrix product (m, k) x (k, n): the median rate of its runs and the code that ran."""

    dtype: str
    m: Size
    k: Size
    n: Size
    flop_per_s: Rate
    kernel: str


class ReadPoint(msgspec.Struct, frozen=True):
    """Reading `working_set_bytes` over and over: the best rate (as STREAM reports) and the median one."""

    working_set_bytes: Size
    bytes_per_s: Rate
    median_bytes_per_s: Rate


class Ceilings(msgspec.Struct, frozen=True, kw_only=True):
    """The measured ceilings of one device of this machine at one thread count.

    machine_id: names the file in which they are kept, and may come from elsewhere: letters, digits and dashes.
    gemms: every product measured; a dtype's peak is the best of their medians.
    copy, triad: STREAM's counting (2 and 3 arrays); where stores allocate their cache line first
    the real traffic is 3/2 and 4/3 of it. None: not measured (a short probe leaves things out).
    steal_ratio: share of the processor time that the host took meanwhile. load: before it began.
    """

    machine_id: Annotated[str, Meta(pattern=PLAIN)]
    device: str  # "cpu" or an accelerator's name
    threads: Annotated[int, Meta(ge=1, le=1_000_000)]
    date: str  # ISO 8601, UTC
    quick: bool
    seconds: float
    gemms: tuple[Gemm, ...]
    reads: tuple[ReadPoint, ...]
    copy_bytes_per_s: Rate | None = None
    triad_bytes_per_s: Rate | None = None
    mem_bytes: Size | None = None
    load: float | None = None
    steal_ratio: float | None = None
    versions: dict[str, str] = {}
    warnings: tuple[str, ...] = ()

    @property
    def doubts(self) -> tuple[str, ...]:
        """Its warnings, and what was learned since it was measured."""
        old = self.device == "cpu" and "int8" in self.peaks and self.versions.get("ways") != WAYS
        return (*self.warnings, *((OLD_INT8,) if old else ()))

    @property
    def peaks(self) -> dict[str, Gemm]:
        """The best product of each dtype."""
        best: dict[str, Gemm] = {}
        for gemm in self.gemms:
            if gemm.dtype not in best or gemm.flop_per_s > best[gemm.dtype].flop_per_s:
                best[gemm.dtype] = gemm
        return best

    @property
    def flop_per_s(self) -> dict[str, float]:
        """Peak rate by dtype."""
        return {dtype: gemm.flop_per_s for dtype, gemm in self.peaks.items()}

    @property
    def dram_read_bytes_per_s(self) -> float | None:
        """The best of the largest octave of working sets: memory, if nothing larger fits a cache."""
        if not self.reads:
            return None
        largest = max(point.working_set_bytes for point in self.reads)
        return max(point.bytes_per_s for point in self.reads if point.working_set_bytes * 2 >= largest)

    def bandwidth(self, working_set_bytes: float) -> float | None:
        """Read bandwidth for a working set, interpolated over the logarithms; constant beyond both ends."""
        if not self.reads:
            return None
        points = sorted(self.reads, key=lambda point: point.working_set_bytes)
        if working_set_bytes <= points[0].working_set_bytes:
            return points[0].bytes_per_s
        for low, high in itertools.pairwise(points):
            if working_set_bytes <= high.working_set_bytes:
                span = math.log(high.working_set_bytes / low.working_set_bytes)
                share = math.log(working_set_bytes / low.working_set_bytes) / span
                return low.bytes_per_s * math.exp(share * math.log(high.bytes_per_s / low.bytes_per_s))
        return self.dram_read_bytes_per_s

    @property
    def knees(self) -> tuple[int, ...]:
        """Working sets beyond which the bandwidth falls: the caches, as this process really gets them."""
        return knees(self.reads)

    def as_device(self, name: str = "This machine") -> Device:
        """The same figures as a Device, so that rooflines and predictions need only one kind of input."""
        bandwidth = self.dram_read_bytes_per_s
        if bandwidth is None or self.mem_bytes is None:
            raise ExplorerError("These ceilings hold no memory bandwidth.", "Measure the ceilings again.")
        return Device(
            name=name,
            kind="cpu" if self.device == "cpu" else "gpu",
            mem_bandwidth_bytes_per_s=bandwidth,
            mem_bytes=self.mem_bytes,
            peak_flop_per_s=self.flop_per_s,
            sources=(f"measured on {self.date[:10]} with {self.threads} threads",),
            provenance="measured",
        )


def knees(reads: Sequence[ReadPoint], fall: float = 0.20, step: float = 0.07) -> tuple[int, ...]:
    """Last working set of each plateau that ends in a fall of at least `fall`.

    A fall is a run of neighbouring drops of at least `step` each. The curve is first made to fall
    only (each point at least as fast as every larger one): a slower small set is call overhead or noise.
    """
    points = sorted(reads, key=lambda point: point.working_set_bytes)
    rates = [point.bytes_per_s for point in points]
    for i in reversed(range(len(rates) - 1)):
        rates[i] = max(rates[i], rates[i + 1])
    found, start = [], None
    for i in range(len(rates)):
        drops = i + 1 < len(rates) and rates[i + 1] < (1 - step) * rates[i]
        if drops and start is None:
            start = i
        if not drops and start is not None:
            if rates[i] < (1 - fall) * rates[start]:
                found.append(points[start].working_set_bytes)
            start = None
    return tuple(found)


# ---------------------------------------------------------------- measuring, in a process of its own


def measure(
    threads: int,
    quick: bool = True,
    on_progress: Callable[[str, float, float], None] = lambda note, done, total: None,
    should_stop: Callable[[], bool] = lambda: False,
    device: str = "cpu",
    probe: bool = False,
) -> Ceilings:
    """Measure now, at `threads` threads. Quick: about half a minute; probe: a few seconds, for `drift`.

    on_progress(note, done, total) is called in this thread. Raises ExplorerError when it was stopped
    or when the measuring process failed; the process never outlives the call.
    """
    if threads < 1:
        raise ExplorerError(f"{threads} threads cannot measure anything.", "Give one thread or more.")
    chosen = ["--threads", str(threads), "--device", device]
    chosen += ["--probe"] if probe else ["--quick"] if quick else []
    environ = {**patient(), "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    result: Ceilings | None = None
    with Child("hardware.measure_ceilings", chosen, environ, hush=True, group=True) as child:
        for line in child.messages(0.1):
            if should_stop():
                raise ExplorerError("Measuring the ceilings was stopped.", "Start it again whenever it suits.")
            if line is not None:
                message = msgspec.convert(line, _Message)
                on_progress(message.note, message.done, message.total)
                result = message.result or result
    if result is None:
        last = child.last_error or f"exit status {child.status}"
        raise ExplorerError(f"The ceilings could not be measured: {last}.", "PyTorch is needed for it.")
    return result


class _Message(msgspec.Struct):
    """A line that the measuring process prints."""

    note: str = ""
    done: float = 0.0
    total: float = 1.0
    result: Ceilings | None = None


# ---------------------------------------------------------------- keeping and comparing


def save(ceilings: Ceilings, folder: Path) -> Path:
    """Keep the ceilings in `folder`, one file per machine, device and thread count; the latest replaces the former."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / _file_name(ceilings.machine_id, ceilings.threads, ceilings.device)
    write_whole(path, msgspec.json.format(msgspec.json.encode(ceilings, order="sorted"), indent=1))
    return path


def load(folder: Path, machine_id: str, threads: int, device: str = "cpu") -> Ceilings | None:
    """The ceilings kept for this machine and thread count; None when there are none or the file is damaged."""
    if not re.search(PLAIN, machine_id):  # as a run from elsewhere tells it
        return None
    try:
        data = (folder / _file_name(machine_id, threads, device)).read_bytes()
        return msgspec.json.decode(data, type=Ceilings)
    except (OSError, *UNREADABLE):
        return None


def _file_name(machine_id: str, threads: int, device: str) -> str:
    kind = "cpu" if device == "cpu" else "gpu"
    return f"{machine_id}-{kind}-{threads}.json"


def drift(old: Ceilings, new: Ceilings, tolerance: float = 0.05) -> tuple[str, ...]:
    """One sentence for each ceiling that moved by more than `tolerance`; empty when they agree.

    Only like is compared: the same product by the same dtype and shape, the bandwidth at the same working
    set. `new` may be a short probe.
    """
    pairs: list[tuple[str, float, float]] = []
    for dtype in sorted({gemm.dtype for gemm in old.gemms} & {gemm.dtype for gemm in new.gemms}):
        before, after = _by_shape(old, dtype), _by_shape(new, dtype)
        shared = before.keys() & after.keys()
        if shared:
            shape = max(shared, key=lambda s: before[s])
            pairs.append((f"{dtype} arithmetic", before[shape], after[shape]))
    if old.reads and new.reads:
        size = max(point.working_set_bytes for point in new.reads)
        was, now = old.bandwidth(size), new.bandwidth(size)
        assert was is not None and now is not None
        pairs.append(("memory bandwidth", was, now))
    return tuple(
        f"The {name} is now {abs(now / was - 1):.0%} {'lower' if now < was else 'higher'} than on {old.date[:10]}."
        for name, was, now in pairs
        if abs(now / was - 1) > tolerance
    )


def _by_shape(ceilings: Ceilings, dtype: str) -> dict[tuple[int, int, int], float]:
    """Shape -> best rate over the kernels that ran it."""
    best: dict[tuple[int, int, int], float] = {}
    for gemm in ceilings.gemms:
        if gemm.dtype == dtype:
            shape = (gemm.m, gemm.k, gemm.n)
            best[shape] = max(best.get(shape, 0.0), gemm.flop_per_s)
    return best


def utc_now() -> str:
    """ISO 8601 to the second."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
