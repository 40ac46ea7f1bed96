"""Ceilings: the record's arithmetic, keeping and comparing, and the measuring process itself."""

from __future__ import annotations

import math
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import psutil
import pytest

from hardware import ceilings, measure_ceilings
from hardware.ceilings import Ceilings, Gemm, ReadPoint
from hardware.errors import ExplorerError
from hardware.measure_ceilings import Meter, parse_paths, products

KB, MB = 2**10, 2**20
CURVE = ((64 * KB, 400), (512 * KB, 390), (1 * MB, 385), (2 * MB, 230), (16 * MB, 228), (64 * MB, 80), (256 * MB, 78))


def made(**changes: object) -> Ceilings:
    fields: dict[str, object] = {
        "machine_id": "abc",
        "device": "cpu",
        "threads": 2,
        "date": "2026-11-21T10:00:00Z",
        "quick": True,
        "seconds": 20.0,
        "gemms": (
            Gemm("fp32", 256, 256, 256, 200e9, "torch.matmul: MKL sgemm"),
            Gemm("fp32", 512, 512, 512, 220e9, "torch.matmul: MKL sgemm"),
            Gemm("fp32", 512, 512, 512, 480e9, "mkldnn._linear_pointwise: oneDNN brg_matmul:avx512_core"),
            Gemm("bf16", 512, 512, 512, 900e9, "torch.matmul: oneDNN brg_matmul:avx512_core_bf16"),
        ),
        "reads": tuple(ReadPoint(size, rate * 1e9, rate * 0.9e9) for size, rate in CURVE),
        "mem_bytes": 16 * 2**30,
    }
    return Ceilings(**{**fields, **changes})  # type: ignore[arg-type]


def test_a_peak_is_the_best_of_the_medians() -> None:
    assert made().flop_per_s == {"fp32": 480e9, "bf16": 900e9}
    assert "oneDNN" in made().peaks["fp32"].kernel


def test_bandwidth_follows_the_working_set() -> None:
    c = made()
    assert c.bandwidth(1) == 400e9
    assert c.bandwidth(2 * MB) == pytest.approx(230e9)
    assert c.bandwidth(32 * MB) == pytest.approx(math.sqrt(228e9 * 80e9))
    assert c.bandwidth(10**12) == 78e9 == c.dram_read_bytes_per_s
    assert made(reads=()).bandwidth(5) is None


def test_knees_are_where_plateaus_end() -> None:
    assert made().knees == (1 * MB, 16 * MB)
    slow_start = tuple(ReadPoint(size, rate, rate) for size, rate in ((1, 50.0), (2, 100.0), (4, 99.0), (8, 40.0)))
    assert ceilings.knees(slow_start) == (4,), "a slow small set is not a cache"
    assert ceilings.knees(()) == ()
    assert ceilings.knees(tuple(ReadPoint(2**i, 100 - i, 90) for i in range(8))) == ()


def test_as_device() -> None:
    device = made().as_device()
    assert device.provenance == "measured" and "2 threads" in device.sources[0]
    assert device.mem_bandwidth_bytes_per_s == 78e9 and device.peak_flop_per_s["bf16"] == 900e9
    with pytest.raises(ExplorerError, match="no memory bandwidth"):
        made(reads=()).as_device()


def test_kept_per_machine_device_and_threads(tmp_path: Path) -> None:
    path = ceilings.save(made(), tmp_path)
    ceilings.save(made(threads=1, device="cpu"), tmp_path)
    ceilings.save(made(device="NVIDIA H200"), tmp_path)
    assert len(list(tmp_path.glob("*.*"))) == 3
    assert ceilings.load(tmp_path, "abc", 2) == made()
    assert ceilings.load(tmp_path, "abc", 2, "cuda") == made(device="NVIDIA H200")
    assert ceilings.load(tmp_path, "other", 2) is None
    path.write_text('{"machine_id":')
    assert ceilings.load(tmp_path, "abc", 2) is None


def test_drift_compares_like_with_like() -> None:
    old = made()
    probe = made(
        gemms=(Gemm("fp32", 512, 512, 512, 400e9, "x"), Gemm("bf16", 64, 64, 64, 1e9, "x")),
        reads=(ReadPoint(256 * MB, 79e9, 79e9),),
    )
    assert ceilings.drift(old, old) == ()
    (sentence,) = ceilings.drift(old, probe)
    assert sentence == "The fp32 arithmetic is now 17% lower than on 2026-11-21."
    (sentence,) = ceilings.drift(old, made(gemms=(), reads=(ReadPoint(256 * MB, 100e9, 90e9),)))
    assert "bandwidth is now 28% higher" in sentence


def test_kernel_paths_are_read_from_the_libraries_own_words() -> None:
    text = """@
onednn_verbose,v1,primitive,exec,cpu,matmul,brg_matmul:warm_up,undef,src,,,1x1,1
@fp32 torch.matmul
MKL_VERBOSE oneMKL 2024.0 Update 2 Product build
MKL_VERBOSE SGEMM(N,N,128,128,128,0x7ffc) 19.87ms CNR:OFF Dyn:1
@bf16 torch.matmul
onednn_verbose,v1,info,cpu,isa:Intel AVX-512
onednn_verbose,v1,primitive,exec,cpu,reorder,jit:uni,undef,src,,,1x1,1
onednn_verbose,v1,primitive,exec,cpu,matmul,brg_matmul:avx10_1_512_amx,undef,src:bf16,,,1x1,10.7
@fp16 torch.matmul
@int8 torch._int_mm
onednn_verbose,v1,primitive,exec,cpu,gemm_api,,undef,src_s8,,,1x1,22.8
"""
    assert parse_paths(text) == {
        "fp32 torch.matmul": "MKL sgemm",
        "bf16 torch.matmul": "oneDNN brg_matmul:avx10_1_512_amx",
        "fp16 torch.matmul": "native code, no library kernel",
        "int8 torch._int_mm": "oneDNN gemm_api",
    }


def test_an_int8_ceiling_without_packed_weights_is_doubted() -> None:
    old = made()
    int8 = ceilings.Gemm("int8", 512, 512, 512, 1e9, "torch._int_mm: oneDNN gemm_api")
    assert ceilings.OLD_INT8 not in old.doubts, "it has no int8"
    with_int8 = msgspec.structs.replace(old, gemms=(*old.gemms, int8), warnings=("Busy.",))
    assert with_int8.doubts == ("Busy.", ceilings.OLD_INT8)
    new = msgspec.structs.replace(with_int8, versions={"ways": ceilings.WAYS})
    assert new.doubts == ("Busy.",)


@pytest.mark.engine("pytorch")
def test_every_way_to_multiply_gives_the_product() -> None:
    """The integers with packed weights, too, whose ceiling is the one that counts."""
    torch = pytest.importorskip("torch")
    for dtype in ("int8", "fp32", "bf16"):
        calls = products(torch, "cpu", dtype, (16, 64, 32))
        assert len(calls) >= (1 if dtype == "bf16" else 2), f"{dtype}: {list(calls)}"
        assert all(tuple(call().shape) == (16, 32) for call in calls.values())
    x = torch.randint(0, 8, (16, 64), dtype=torch.int8)
    weight = torch.randint(-8, 8, (32, 64), dtype=torch.int8)
    packed = torch.ops.onednn.qlinear_prepack(weight, [16, 64])
    ones, zeros = torch.ones(32), torch.zeros(32, dtype=torch.int32)
    y = torch.ops.onednn.qlinear_pointwise(x, 1.0, 0, packed, ones, zeros, None, 1.0, 0, torch.float32, "none", [], "")
    assert torch.equal(y.int(), x.int() @ weight.int().t()), "it is the integer product"


@pytest.mark.engine("pytorch")
def test_all_of_it_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """The quick form with two calls of each, as on a machine with little memory: else it takes half a minute."""
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(measure_ceilings, "available_bytes", lambda: 256 * MB)
    monkeypatch.setattr(measure_ceilings, "SHAPES", ((64, 64, 64), (128, 96, 256)))
    times = Meter.times
    monkeypatch.setattr(Meter, "times", lambda self, call, seconds: times(self, call, 0.0))
    notes: list[tuple[str, float]] = []
    with torch.enable_grad():  # it is off in there, and on again behind it
        found = measure_ceilings.run(
            1, True, False, "cpu", lambda note, done, total: notes.append((note, done / total))
        )
    assert {"fp32", "bf16", "int8"} <= set(found.flop_per_s) and all(rate > 1e6 for rate in found.flop_per_s.values())
    assert {(g.m, g.k, g.n) for g in found.gemms if g.dtype == "fp32"} == set(measure_ceilings.SHAPES)
    assert not [g for g in found.gemms if "unknown" in g.kernel], "the library says what ran"
    sizes = [point.working_set_bytes for point in found.reads]
    assert sizes == sorted(sizes) and (sizes[0], sizes[-1]) == (64 * KB, 64 * MB) and len(sizes) == 21
    assert all(point.bytes_per_s >= point.median_bytes_per_s > 1e6 for point in found.reads)
    assert found.copy_bytes_per_s and found.triad_bytes_per_s and found.quick and found.threads == 1
    assert any("Memory was too short" in line for line in found.warnings)
    assert [share for _, share in notes] == sorted(share for _, share in notes) and notes[-1][0] == "copy and triad"
    assert found.versions["ways"] == ceilings.WAYS and ceilings.OLD_INT8 not in found.doubts


def test_a_short_probe_measures_this_machine() -> None:
    notes: list[str] = []
    probe = ceilings.measure(1, probe=True, on_progress=lambda note, done, total: notes.append(note))
    assert probe.threads == 1 and probe.flop_per_s["fp32"] > 1e8
    assert probe.dram_read_bytes_per_s is not None and probe.dram_read_bytes_per_s > 1e8
    assert notes[0] == "loading torch" and notes[-1] == "done"


def test_measuring_can_be_stopped_and_leaves_no_process() -> None:
    notes: list[str] = []

    def note(words: str, done: int, total: int) -> None:
        notes.append(words)

    before = {child.pid for child in psutil.Process().children(recursive=True)}
    start = time.monotonic()
    with pytest.raises(ExplorerError, match="stopped"):
        ceilings.measure(1, on_progress=note, should_stop=lambda: time.monotonic() - start > 0.5)
    left = {child.pid for child in psutil.Process().children(recursive=True)} - before
    assert not left and "done" not in notes


def test_a_failed_measurement_says_why() -> None:
    with pytest.raises(ExplorerError, match="could not be measured"):
        ceilings.measure(1, probe=True, device="cuda:99")
    with pytest.raises(ExplorerError, match="0 threads"):
        ceilings.measure(0)


def test_the_client_loads_no_torch() -> None:
    code = "import sys, hardware.ceilings, hardware.detect; hardware.detect.machine(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.gpu
@pytest.mark.engine("pytorch")
def test_an_accelerators_ceilings() -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    found = ceilings.measure(1, quick=True, device="cuda")
    assert found.device != "cpu" and {"fp32", "bf16", "fp16"} <= set(found.flop_per_s)
    assert found.flop_per_s["bf16"] > 2 * found.flop_per_s["fp32"]
    assert found.dram_read_bytes_per_s is not None and found.dram_read_bytes_per_s > 50e9
