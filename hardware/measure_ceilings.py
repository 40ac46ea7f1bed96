"""The measuring process: `python -m hardware.measure_ceilings --threads N [--quick | --probe] [--device cuda]`.

Prints one JSON line per step and at last the Ceilings. It is the only module here that loads torch,
and it runs as a process of its own.

Arithmetic is the best over shapes of the median rate (MAMF, stas00/ml-engineering). On a processor
several ways compete, and the best one that a backend could take is the ceiling: torch.matmul uses MKL
for fp32, which holds back on AMD, where oneDNN was 2.2 times faster; and with weights in an order of
its own oneDNN multiplies 8-bit integers faster than torch._int_mm (1.3 times with AMX, some sixty
times on a processor without dot products of bytes).

The read test is torch.sum over rows that repeat the working set (a stride of zero), so that small sets
are not hidden by the cost of a call. It was the fastest of the kernels tried from a size of 64 KB to
memory: GEMV and dot products reached half to three quarters of it, one thread, and NumPy's sum is held
back by its arithmetic even in a cache.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from hardware import detect
from hardware.ceilings import WAYS, Ceilings, Gemm, ReadPoint, utc_now
from hardware.memory import available_bytes

MB = 2**20
SHAPES = ((256, 256, 256), (512, 576, 1536), (512, 512, 512), (1024, 1024, 1024), (512, 2048, 8192), (2048, 2048, 2048))
LARGE_SHAPES = ((4096, 4096, 4096), (2048, 4096, 14336), (8192, 8192, 8192))
PROBE_SHAPE = (512, 512, 512)
Call = Callable[[], object]


class Meter:
    """Times calls on one device: wall clock on a processor, CUDA events on an accelerator."""

    def __init__(self, device: str) -> None:
        import torch

        self.torch, self.device, self.cuda = torch, device, device != "cpu"

    def times(self, call: Call, seconds: float) -> list[float]:
        """Seconds of each call for about `seconds`, at least three calls, after two that warm up."""
        first = self.once(call)
        if first < seconds:
            self.once(call)
        samples: list[float] = [] if first < seconds else [first]
        spent = sum(samples)
        while len(samples) < 3 or spent < seconds:
            samples.append(self.once(call))
            spent += samples[-1]
            if spent > 4 * seconds:
                break
        return samples

    def once(self, call: Call) -> float:
        if not self.cuda:
            start = time.perf_counter()
            call()
            return time.perf_counter() - start
        begin, end = (self.torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        call()
        end.record()
        end.synchronize()
        return float(begin.elapsed_time(end)) / 1e3


def products(torch: Any, device: str, dtype: str, shape: tuple[int, int, int]) -> dict[str, Call]:
    """Kernel name -> a call that multiplies (m, k) by (k, n) in that dtype. Raises what torch raises."""
    m, k, n = shape
    if dtype == "int8":
        a = torch.randint(-8, 8, (m, k), dtype=torch.int8, device=device)
        # cuBLASLt takes int8 and fp8 only with the second matrix in column order.
        b = torch.randint(-8, 8, (n, k), dtype=torch.int8, device=device).t()
        out = torch.empty(m, n, dtype=torch.int32, device=device)
        return {"torch._int_mm": lambda: torch._int_mm(a, b, out=out), **_packed_int8(torch, device, shape)}
    if dtype == "fp8":
        a = torch.rand(m, k, device=device).to(torch.float8_e4m3fn)
        b = torch.rand(n, k, device=device).to(torch.float8_e4m3fn).t()
        one = torch.ones((), device=device)
        return {"torch._scaled_mm": lambda: torch._scaled_mm(a, b, one, one, out_dtype=torch.bfloat16)}
    torch.set_float32_matmul_precision("high" if dtype == "tf32" else "highest")
    kind = {"fp32": torch.float32, "tf32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[dtype]
    a, b = torch.rand(m, k, device=device).to(kind), torch.rand(k, n, device=device).to(kind)
    out = torch.empty(m, n, dtype=kind, device=device)
    calls: dict[str, Call] = {"torch.matmul": lambda: torch.matmul(a, b, out=out)}
    return calls | _packed_floats(torch, device, a, b.t().contiguous())


def _packed_floats(torch: Any, device: str, x: Any, weight: Any) -> dict[str, Call]:
    """oneDNN's product with weights in its own order, as the fused step runs it; empty where there is none."""
    if device != "cpu" or not torch.backends.mkldnn.is_available() or x.dtype not in (torch.float32, torch.bfloat16):
        return {}
    try:
        packed = torch.ops.mkldnn._reorder_linear_weight(weight, None)
    except (RuntimeError, AttributeError):  # bf16 without the instructions for it
        return {}
    return {"mkldnn._linear_pointwise": lambda: torch.ops.mkldnn._linear_pointwise(x, packed, None, "none", [], "")}


def _packed_int8(torch: Any, device: str, shape: tuple[int, int, int]) -> dict[str, Call]:
    """oneDNN's product of 8-bit rows with packed weights, for either sign of the rows; empty where there is none."""
    if device != "cpu" or not torch.backends.mkldnn.is_available():
        return {}
    m, k, n = shape
    weight = torch.randint(-8, 8, (n, k), dtype=torch.int8)
    scales, zeros = torch.ones(n), torch.zeros(n, dtype=torch.int32)
    calls: dict[str, Call] = {}
    for sign, kind in (("s8", torch.int8), ("u8", torch.uint8)):
        try:
            packed = torch.ops.onednn.qlinear_prepack(weight, [m, k])
        except (RuntimeError, AttributeError):
            return {}
        x = torch.randint(0, 8, (m, k), dtype=kind)

        def call(x: Any = x, packed: Any = packed) -> object:
            return torch.ops.onednn.qlinear_pointwise(
                x, 1.0, 0, packed, scales, zeros, None, 1.0, 0, torch.float32, "none", [], ""
            )

        calls[f"onednn.qlinear_pointwise {sign}"] = call
    return calls


def kernel_paths(torch: Any, device: str, dtypes: tuple[str, ...]) -> dict[str, str]:
    """`dtype call` -> the library code that really ran, as the library itself reports it."""
    if device != "cpu":
        return {f"{d} {name}": path for d in dtypes for name, path in _cuda_paths(torch, device, d).items()}
    env = {**os.environ, "ONEDNN_VERBOSE": "1", "MKL_VERBOSE": "1"}
    command = [sys.executable, "-m", "hardware.measure_ceilings", "--paths", ",".join(dtypes)]
    try:
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
    except subprocess.TimeoutExpired:
        return {}
    return parse_paths(done.stdout)


def parse_paths(verbose: str) -> dict[str, str]:
    """Read the verbose output of oneDNN and MKL, in which '@dtype call' lines mark what comes next."""
    paths: dict[str, str] = {}
    mark = ""
    for line in verbose.splitlines():
        fields = line.split(",")
        mkl = re.match(r"MKL_VERBOSE (\w+)\(", line)
        if line.startswith("@"):
            mark = line[1:]
            if mark:
                paths[mark] = "native code, no library kernel"
        elif mark and line.startswith("onednn_verbose") and "exec" in fields[:5] and fields[5] != "reorder":
            paths[mark] = f"oneDNN {fields[6] or fields[5]}"
        elif mark and mkl:
            paths[mark] = f"MKL {mkl[1].lower()}"
    return paths


def _cuda_paths(torch: Any, device: str, dtype: str) -> dict[str, str]:
    paths = {}
    for name, call in _available(torch, device, dtype, (2048, 2048, 2048)).items():
        call()
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
            call()
            torch.cuda.synchronize()
        kernels = sorted(profile.key_averages(), key=lambda event: -event.device_time_total)
        paths[name] = kernels[0].key[:80] if kernels else "unknown"
    return paths


def _available(torch: Any, device: str, dtype: str, shape: tuple[int, int, int]) -> dict[str, Call]:
    """The products that run here: a dtype without a kernel gives none."""
    try:
        calls = products(torch, device, dtype, shape)
        for call in calls.values():
            call()
    except (RuntimeError, NotImplementedError, AttributeError):
        return {}
    return calls


def measure_gemms(
    meter: Meter, dtype: str, shapes: tuple[tuple[int, int, int], ...], seconds: float, paths: dict[str, str]
) -> list[Gemm]:
    """Every shape, smallest first; larger ones are left out where they would take too long."""
    found: list[Gemm] = []
    slow: set[str] = set()
    if not _available(meter.torch, meter.device, dtype, (64, 64, 64)):
        return found
    rate: dict[str, float] = {}
    for shape in sorted(shapes, key=lambda s: s[0] * s[1] * s[2]):
        flops = 2 * shape[0] * shape[1] * shape[2]
        if rate and all(flops / r > 3 * seconds for r in rate.values()):
            break
        for name, call in products(meter.torch, meter.device, dtype, shape).items():
            if name in slow or (name in rate and flops / rate[name] > 3 * seconds):
                slow.add(name)
                continue
            rate[name] = flops / statistics.median(meter.times(call, seconds))
            kernel = paths.get(f"{dtype} {name}") or paths.get(name) or "unknown"
            found.append(Gemm(dtype, *shape, rate[name], f"{name}: {kernel}"))
    return found


def read_point(meter: Meter, size: int, threads: int, seconds: float) -> ReadPoint:
    """Read `size` bytes: each row of the view is one chunk, and every thread keeps to its own chunk."""
    chunks = threads if not meter.cuda else max(1, size // (64 * 1024))
    width = size // 4 // chunks
    least = 8 * MB if not meter.cuda else 256 * MB
    repeats = max(1, least // size)
    data = meter.torch.empty(chunks, 1, width, device=meter.device).fill_(1.0)
    rows = data.expand(chunks, repeats, width)
    out = meter.torch.empty(chunks, repeats, device=meter.device)
    samples = meter.times(lambda: meter.torch.sum(rows, -1, out=out), seconds)
    moved = chunks * width * 4 * repeats
    return ReadPoint(chunks * width * 4, moved / min(samples), moved / statistics.median(samples))


def stream(meter: Meter, size: int, seconds: float) -> tuple[float, float]:
    """Copy and triad of arrays of `size` bytes, in STREAM's counting, best of the runs."""
    torch, n = meter.torch, size // 4
    a, b, c = (torch.empty(n, device=meter.device).fill_(1.0) for _ in range(3))
    copy = min(meter.times(lambda: a.copy_(b), seconds))
    triad = min(meter.times(lambda: torch.add(b, c, alpha=3.0, out=a), seconds))
    return 2 * 4 * n / copy, 3 * 4 * n / triad


@dataclass(frozen=True)
class Plan:
    """What is measured: products of these dtypes and shapes, reads of these sizes in bytes, each for `seconds`.

    warnings: why the figures may not be the machine's. whole: also copy, triad and the names of the kernels.
    """

    dtypes: tuple[str, ...]
    shapes: tuple[tuple[int, int, int], ...]
    sizes: list[int]
    seconds: float
    warnings: tuple[str, ...]
    whole: bool


def plan(meter: Meter, llc_bytes: int, free_bytes: int, quick: bool, probe: bool) -> Plan:
    """llc_bytes: of the last cache. probe: only enough to see whether kept ceilings still hold."""
    cuda = meter.cuda
    dtypes: tuple[str, ...] = ("fp32", "bf16", "fp16", "int8") + (("tf32", "fp8") if cuda else ())
    wanted = max(4 * llc_bytes, 1024 * MB if cuda else 256 * MB)
    largest = min(wanted, 2048 * MB, free_bytes // 4)
    per_octave, first = 2 if quick else 4, MB if cuda else 64 * 1024
    sizes = [int(first * 2 ** (i / per_octave)) // 4096 * 4096 for i in range(200)]
    short = "Memory was too short for a working set of four times the last cache: bandwidth may be a cache's."
    return Plan(
        dtypes=("fp32", "bf16") if probe else dtypes,
        shapes=(PROBE_SHAPE,) if probe else SHAPES if quick and not cuda else SHAPES + LARGE_SHAPES,
        sizes=[largest] if probe else [size for size in sizes if size < largest * 0.9] + [largest],
        seconds=0.15 if quick or probe else 0.6,
        warnings=(short,) if largest < wanted else (),
        whole=not probe,
    )


def run(threads: int, quick: bool, probe: bool, device: str, say: Callable[[str, float, float], None]) -> Ceilings:
    """All of it, in order, telling progress through `say(note, done, total)`."""
    began, load, steal = time.time(), _load(), detect.steal_seconds()
    say("loading torch", 0, 1)
    import torch

    torch.set_num_threads(threads)
    torch.set_grad_enabled(False)
    meter = Meter(device)
    machine = detect.machine()
    cuda = device != "cpu"
    name = torch.cuda.get_device_name(device) if cuda else "cpu"
    free = torch.cuda.mem_get_info(device)[0] if cuda else available_bytes()
    llc = (torch.cuda.get_device_properties(device).L2_cache_size if cuda else machine.llc_bytes) or 32 * MB

    planned = plan(meter, llc, free, quick, probe)
    dtypes, sizes, seconds = planned.dtypes, planned.sizes, planned.seconds

    total = len(dtypes) + len(sizes) / 4 + 2.0
    paths = kernel_paths(torch, device, dtypes) if planned.whole else {}
    gemms: list[Gemm] = []
    for i, dtype in enumerate(dtypes):
        say(f"matrix products in {dtype}", 1.0 + i, total)
        gemms += measure_gemms(meter, dtype, planned.shapes, 2 * seconds, paths)
    reads = []
    for i, size in enumerate(sizes):
        say(f"reading {size / MB:.3g} MB", 1.0 + len(dtypes) + i / 4, total)
        reads.append(read_point(meter, size, threads, seconds))
    copy = triad = None
    if planned.whole:
        say("copy and triad", total - 1, total)
        copy, triad = stream(meter, min(sizes[-1], free // 8), 2 * seconds)

    took, later = time.time() - began, detect.steal_seconds()
    stolen = None if steal is None or later is None else (later - steal) / (took * machine.logical_cores)
    return Ceilings(
        machine_id=machine.machine_id,
        device=name,
        threads=threads,
        date=utc_now(),
        quick=quick,
        seconds=took,
        gemms=tuple(gemms),
        reads=tuple(reads),
        copy_bytes_per_s=copy,
        triad_bytes_per_s=triad,
        mem_bytes=torch.cuda.mem_get_info(device)[1] if cuda else machine.mem_bytes,
        load=load,
        steal_ratio=stolen,
        versions={"torch": str(torch.__version__), "python": machine.python, "ways": WAYS},
        warnings=(() if cuda else _busy(load, machine.logical_cores)) + planned.warnings,
    )


def _load() -> float | None:
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def _busy(load: float | None, cores: int) -> tuple[str, ...]:
    if load is None or load <= 0.5 * cores:
        return ()
    return (f"The machine was busy (load {load:.1f}), so these ceilings may be too low: measure again when idle.",)


def _show_paths(dtypes: str) -> None:
    """Run each product once after its mark; with the libraries' verbose output on, `parse_paths` reads it."""
    import torch

    for dtype in dtypes.split(","):
        os.write(1, b"@\n")  # what follows only warms up
        for name, call in _available(torch, "cpu", dtype, (128, 128, 128)).items():
            os.write(1, f"@{dtype} {name}\n".encode())
            call()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, default=detect.usable_cores())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--probe", action="store_true")
    parser.add_argument("--paths", default="")
    args = parser.parse_args()
    if args.paths:
        return _show_paths(args.paths)

    def say(note: str, done: float, total: float) -> None:
        print(msgspec.json.encode({"note": note, "done": done, "total": total}).decode(), flush=True)

    result = run(args.threads, args.quick, args.probe, args.device, say)
    final = {"note": "done", "done": 1.0, "total": 1.0, "result": result}
    print(msgspec.json.encode(final).decode(), flush=True)
    return None


if __name__ == "__main__":
    main()
