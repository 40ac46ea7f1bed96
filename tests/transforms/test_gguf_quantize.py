"""llama.cpp's quantizer as a transform: what the file holds, what fell back, and that a failure leaves nothing."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import numpy as np
import psutil
import pytest

from core.models import catalogue, gguf_file, gguf_to_hf
from core.models import spec as specs
from core.transforms import gguf_quantize
from core.transforms.gguf_quantize import Recipe, plugin
from core.types import ModelEntry, Outcome, Source
from hardware.errors import ExplorerError
from tests.support.gguf_models import tiny_gguf
from tests.support.reference import logits_of_gguf

pytestmark = pytest.mark.engine("llama_cpp")


class Job:
    """core.types.Job that remembers; `stop` is asked at every progress."""

    seed, threads = 0, 1

    def __init__(self, folder: Path, stop: Any = None) -> None:
        self.folder, self._stop = folder, stop
        self.seen: list[tuple[float | None, float | None]] = []

    def progress(self, note: str, done: float | None = None, total: float | None = None, unit: str = "") -> None:
        self.seen.append((done, total))
        if self._stop:
            self._stop(done)

    def curve(self, step: int, total: int, **values: float) -> None: ...

    def warn(self, message: str) -> None: ...

    def check(self) -> None: ...


def source_of(path: Path) -> Source:
    entry = ModelEntry(id="tiny", label="Tiny", family="local", files={"gguf": str(path)})
    return Source(entry=entry, format="gguf", path=str(path), spec=specs.read(path, "gguf"))


def quantized(path: Path, out: Path, job: Job | None = None, **recipe: Any) -> tuple[gguf_file.GgufFile, Outcome]:
    out.mkdir()
    outcome = plugin.run(source_of(path), Recipe(**recipe), out, job or Job(out))
    assert os.listdir(out) == ["model.gguf"]
    return gguf_file.read(out / "model.gguf"), outcome


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return tiny_gguf(tmp_path / "tiny.gguf", "llama")


IDS = [int(i) for i in np.random.default_rng(0).integers(0, 256, 40)]
# of tiny_gguf: token table 261 x 64; per block q, o 128 x 64, k, v 64 x 64, gate, up, down 96 x 64; norms of 64
N_MATRIX = 261 * 64 + 2 * (2 * 128 * 64 + 2 * 64 * 64 + 3 * 96 * 64)
N_NORM = 64 * 5


@pytest.mark.parametrize(("kind", "bits"), [("F32", 32), ("F16", 16), ("BF16", 16), ("Q8_0", 8.5), ("Q4_0", None)])
@pytest.mark.usefixtures("kept")
def test_the_bits_are_those_of_the_file(kind: str, bits: float | None, tiny: Path, tmp_path: Path) -> None:
    file, outcome = quantized(tiny, tmp_path / "out", type=kind)
    if bits is None:  # the recipe keeps the table, which is the head too, in 8 bits
        bits = (4.5 * (N_MATRIX - 261 * 64) + 8.5 * 261 * 64) / N_MATRIX
    expected = (bits * N_MATRIX + 32 * N_NORM) / (N_MATRIX + N_NORM)
    assert outcome.facts["bits_per_weight"] == pytest.approx(expected)
    spec = specs.read(tmp_path / "out" / "model.gguf", "gguf")
    assert spec.weight_bytes is not None and spec.n_params == N_MATRIX + N_NORM
    assert 8 * spec.weight_bytes / spec.n_params == pytest.approx(expected)
    assert f"{expected:.2f} bits" in outcome.note and "dequantized" not in outcome.note
    assert {t.name for t in file.tensors} == {t.name for t in gguf_file.read(tiny).tensors}


@pytest.mark.usefixtures("kept")
def test_eight_bits_round_to_the_nearest_step(tiny: Path, tmp_path: Path) -> None:
    after, _ = quantized(tiny, tmp_path / "out", type="Q8_0")
    before = {t.name: gguf_to_hf._dequantized(t) for t in gguf_file.read(tiny).tensors}
    for tensor in after.tensors:
        x = before[tensor.name].reshape(-1, 32)
        step = np.abs(x).max(axis=1, keepdims=True) / 127  # a block's largest is 127 steps
        error = np.abs(gguf_to_hf._dequantized(tensor).reshape(-1, 32) - x)
        assert (error <= step * (0.0 if len(tensor.shape) == 1 else 0.57)).all()  # fp16 scale: half a step and a bit


@pytest.mark.parametrize("kind", get_args(gguf_quantize.Type))
@pytest.mark.usefixtures("kept")
def test_every_type_makes_a_model_that_runs(kind: str, tiny: Path, tmp_path: Path) -> None:
    file, outcome = quantized(tiny, tmp_path / "out", type=kind)
    assert np.isfinite(logits_of_gguf(tmp_path / "out" / "model.gguf", IDS)).all()
    assert sum(outcome.facts["share_of_weights"].values()) == pytest.approx(1)
    assert sum(outcome.facts["tensors"].values()) == len(file.tensors)
    assert plugin.suffix(Recipe(type=kind)) == kind.lower()


@pytest.mark.usefixtures("kept")
def test_narrow_rows_fall_back_and_the_note_says_so(tiny: Path, tmp_path: Path) -> None:
    """No row of 64 or 96 weights is a whole number of blocks of 256."""
    file, outcome = quantized(tiny, tmp_path / "out", type="Q4_K_M")
    matrices = [t for t in file.tensors if len(t.shape) > 1]
    assert not any("_K" in t.type_name for t in matrices)
    assert outcome.facts["fell_back"] == len(matrices) == 15
    assert outcome.facts["fell_back_widths"] == [64, 96, 128]
    assert "64 and 96 and 128 weights do not divide by 256" in outcome.note
    assert quantized(tiny, tmp_path / "plain", type="Q4_0")[1].facts["fell_back"] == 0


@pytest.mark.usefixtures("kept")
def test_a_quantized_parent_is_dequantized_first_and_named(tmp_path: Path) -> None:
    """The same bits as by way of an F32 file."""
    parent = tiny_gguf(tmp_path / "q.gguf", "llama", quantized=True)
    direct, outcome = quantized(parent, tmp_path / "direct", type="Q5_0")
    plain, _ = quantized(parent, tmp_path / "plain", type="F32")
    around, other = quantized(plain.paths[0], tmp_path / "around", type="Q5_0")
    for a, b in zip(direct.tensors, around.tensors, strict=True):
        assert (a.name, a.type_name) == (b.name, b.type_name)
        np.testing.assert_array_equal(gguf_to_hf._dequantized(a), gguf_to_hf._dequantized(b))
    assert outcome.facts["source_type"] == "Q8_0" and "made from Q8_0, dequantized" in outcome.note
    assert "dequantized" not in other.note


@pytest.mark.usefixtures("kept")
def test_the_table_can_be_pressed_further(tiny: Path, tmp_path: Path) -> None:
    kept, _ = quantized(tiny, tmp_path / "kept", type="Q4_0")
    pressed, outcome = quantized(tiny, tmp_path / "pressed", type="Q4_0", table="Q4_0")
    types = [{t.name: t.type_name for t in f.tensors}["token_embd.weight"] for f in (kept, pressed)]
    assert types == ["Q8_0", "Q4_0"]
    assert outcome.facts["bits_per_weight"] == pytest.approx((4.5 * N_MATRIX + 32 * N_NORM) / (N_MATRIX + N_NORM))
    assert plugin.suffix(Recipe(type="Q4_0", table="Q4_0")) == "q4_0-table-q4_0"


# ---------------------------------------------------------------- what goes wrong


def converters() -> list[psutil.Process]:
    """Children of this process that convert a model; other tests may have left children of theirs (a browser)."""
    alive = [c for c in psutil.Process().children() if c.status() != psutil.STATUS_ZOMBIE]
    return [c for c in alive if any(a.startswith("core.transforms.") for a in c.cmdline())]


def nothing_left(out: Path) -> bool:
    return not os.listdir(out) and not converters()


def test_a_stop_kills_the_quantizer(tiny: Path, tmp_path: Path) -> None:
    class StoppedError(Exception):
        pass

    def stop(done: float | None) -> None:
        raise StoppedError

    with pytest.raises(StoppedError):
        quantized(tiny, tmp_path / "out", Job(tmp_path, stop))
    assert nothing_left(tmp_path / "out")


def test_a_killed_quantizer_is_explained(tiny: Path, tmp_path: Path) -> None:
    def kill(done: float | None) -> None:
        for child in converters():
            child.send_signal(signal.SIGKILL)

    with pytest.raises(ExplorerError, match="was killed"):
        quantized(tiny, tmp_path / "out", Job(tmp_path, kill))
    assert nothing_left(tmp_path / "out")


def test_a_damaged_source_is_explained(tiny: Path, tmp_path: Path) -> None:
    source = source_of(tiny)
    tiny.write_bytes(tiny.read_bytes()[:-200])
    (tmp_path / "out").mkdir()
    with pytest.raises(ExplorerError, match=r"llama\.cpp could not quantize the model: ") as caught:
        plugin.run(source, Recipe(), tmp_path / "out", Job(tmp_path))
    assert caught.value.hint and nothing_left(tmp_path / "out")


def disk_full(caught: Any, out: Path) -> None:
    assert str(out) in caught.value.hint and nothing_left(out)


def test_a_file_that_cannot_grow_is_a_full_disk(tiny: Path, tmp_path: Path) -> None:
    """The system refuses to write beyond 40 kB, in the middle of the file."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, limits[1]))
    try:
        with pytest.raises(ExplorerError, match=r"could not be written: it needs .* GB, and the disk has") as caught:
            quantized(tiny, tmp_path / "out", type="F16")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    disk_full(caught, tmp_path / "out")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "small"
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(path)]
    if os.geteuid() or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("only root may mount a disk of 64 kB")
    yield path
    subprocess.run(["umount", str(path)], check=True)


@pytest.mark.parametrize("fills", ["before", "meanwhile"])
def test_a_full_disk_is_one_sentence(
    fills: str, small_disk: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if fills == "meanwhile":  # there was room when it began
        monkeypatch.setattr(gguf_quantize, "_check_room", lambda *_: None)
    with pytest.raises(ExplorerError, match=r"it needs 0\.00 GB, and the disk has 0\.00 GB free") as caught:
        quantized(tiny, small_disk / "out", type="F16")
    disk_full(caught, small_disk / "out")


def test_an_encoder_is_refused(tiny: Path) -> None:
    import msgspec

    plugin.check(source_of(tiny).spec, Recipe())
    with pytest.raises(ExplorerError, match="encoder"):
        plugin.check(msgspec.structs.replace(source_of(tiny).spec, causal=False), Recipe())


# ---------------------------------------------------------------- the real model


@pytest.mark.model
def test_the_embedded_model_on_two_rungs(tmp_path: Path) -> None:
    import llama_cpp

    parent = Path(catalogue.find(catalogue.EMBEDDED).files["gguf"])
    job = Job(tmp_path)
    _, high = quantized(parent, tmp_path / "high", job, type="Q8_0")
    _, low = quantized(parent, tmp_path / "low", type="Q4_K_M")
    # 134,479,872 weights of 8.5 bits and 35,136 of norms; 180 narrow tensors and the table fell back in the other
    assert high.facts["bits_per_weight"] == pytest.approx((8.5 * 134_479_872 + 32 * 35_136) / 134_515_008)
    assert (high.facts["fell_back"], low.facts["fell_back"]) == (0, 181)
    assert low.facts["fell_back_widths"] == [576] and 6.1 < low.facts["bits_per_weight"] < 6.2
    done = [seen for seen in job.seen if seen[1]]
    assert done and all(0 <= a <= b for a, b in done)

    llama = llama_cpp.Llama(str(parent), vocab_only=True, verbose=False)
    ids = llama.tokenize(b"The capital of France is Paris, and the capital of Italy is Rome..")
    llama.close()
    logits = [logits_of_gguf(p, ids) for p in (parent, tmp_path / "high/model.gguf", tmp_path / "low/model.gguf")]
    p = [np.exp(x - x.max(-1, keepdims=True)) for x in logits]
    p = [x / x.sum(-1, keepdims=True) for x in p]
    kl = [float((p[0] * np.log(p[0] / q)).sum(-1).mean()) for q in p[1:]]
    assert 0 < kl[0] < 0.01 and kl[0] < kl[1] < 0.2
