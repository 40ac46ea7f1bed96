"""Quantize a GGUF by llama.cpp's own quantizer.

A type is a recipe: the K types mix formats, and a row that is no whole number of blocks falls back to another
format, so a result is labelled by the bits per weight that the file really has. Types that need an importance
matrix are left out. A model that is there as a Hugging Face folder comes as the GGUF written from it.
"""

from __future__ import annotations

import importlib.util
import shutil
import signal
from collections import Counter
from pathlib import Path
from typing import Any, Literal

from core.models import gguf_file
from core.transforms import _child
from core.types import Job, ModelSpec, Outcome, Record, Source, Transform
from hardware.errors import ExplorerError

K_BLOCK = 256  # weights in a block of the K types and of IQ4_XS
FLOATS = ("F32", "F16", "BF16")

Type = Literal[
    "F32",
    "F16",
    "BF16",
    "Q8_0",
    "Q6_K",
    "Q5_K_M",
    "Q5_K_S",
    "Q5_1",
    "Q5_0",
    "Q4_K_M",
    "Q4_K_S",
    "Q4_1",
    "Q4_0",
    "IQ4_NL",
    "IQ4_XS",
    "Q3_K_L",
    "Q3_K_M",
    "Q3_K_S",
    "Q2_K",
]


Table = Literal["recipe", "F16", "Q8_0", "Q6_K", "Q5_1", "Q5_0", "Q4_1", "Q4_0"]


class Recipe(Record):
    """type: llama.cpp's recipe; what it makes of this model's widths is in the result's facts.

    table: type of the token table and the head, which recipes keep in 6 or 8 bits.
    """

    type: Type = "Q4_K_M"
    table: Table = "recipe"


class GgufQuantize:
    name = "gguf_quantize"
    label = "Quantize (GGUF)"
    backend = "llama_cpp"
    formats: tuple[str, ...] = ("gguf",)
    trains = False
    Params = Recipe

    def unavailable(self) -> str | None:
        if importlib.util.find_spec("llama_cpp") is None:
            return "llama-cpp-python is not installed: run `pip install -r requirements.txt`."
        return None

    def check(self, spec: ModelSpec, params: Recipe) -> None:
        if not spec.causal:
            raise ExplorerError(
                f"{spec.name} is an encoder, which llama.cpp does not run here.", "Choose a model that generates text."
            )

    def suffix(self, params: Recipe) -> str:
        return params.type.lower() + ("" if params.table == "recipe" else f"-table-{params.table.lower()}")

    def run(self, source: Source, params: Recipe, out: Path, job: Job) -> Outcome:
        """Writes out/model.gguf. Raises ExplorerError for a full disk and for what llama.cpp refuses."""
        target = out / "model.gguf"
        _quantize(Path(source.path), target, params, job)
        before, after = gguf_file.read(Path(source.path)), gguf_file.read(target)
        facts = facts_of(before, after, params.type)
        return Outcome(note=_note(facts), facts=facts)


# ---------------------------------------------------------------- the child process


def _quantize(source: Path, target: Path, params: Recipe, job: Job) -> None:
    expected: int | None = None
    error = ""

    def tell(line: dict[str, Any] | None) -> None:
        nonlocal expected, error
        if line and (expected := line.get("expected", expected)):
            _check_room(target, expected)
        error = (line or {}).get("error", error)
        written = target.stat().st_size if target.is_file() else 0
        job.progress(f"Quantizing to {params.type}", min(written, expected or written), expected, "bytes")
        job.check()

    arguments = [str(source), str(target), params.type, params.table, str(job.threads)]
    try:
        status = _child.run("core.transforms._llama_quantize", arguments, tell)
        if status:
            raise _failure(status, error, target, expected)
    except BaseException:
        target.unlink(missing_ok=True)
        raise


def _check_room(target: Path, expected: int) -> None:
    if not target.exists() and expected > shutil.disk_usage(target.parent).free:
        raise _child.disk_full(target.parent, expected)


def _failure(status: int, error: str, target: Path, expected: int | None) -> ExplorerError:
    # llama.cpp writes through a C++ stream, which reports any failed write as "iostream error"
    if "iostream" in error or "No space left" in error:
        return _child.disk_full(target.parent, expected or 0)
    if status == -signal.SIGKILL:
        return ExplorerError(
            "The quantizer was killed, most likely because memory ran out.", "Close other programs, then try again."
        )
    cause = error or f"it ended with status {status}"
    return ExplorerError(f"llama.cpp could not quantize the model: {cause}.", "Choose another type or another model.")


# ---------------------------------------------------------------- what came out


def facts_of(before: gguf_file.GgufFile, after: gguf_file.GgufFile, kind: str) -> dict[str, Any]:
    """What the file holds: bits per weight of all, tensors and share of the weights by type, and what fell back.

    fell_back: tensors whose rows are no whole number of the recipe's blocks; widths: of those rows.
    source_type: of most of the source's matrices.
    """
    n_params = sum(t.n_elements for t in after.tensors)
    tensors, weights = Counter[str](), Counter[str]()
    for t in after.tensors:
        tensors[t.type_name] += 1
        weights[t.type_name] += t.n_elements
    blocked = "_K" in kind or kind == "IQ4_XS"
    matrices = [t for t in after.tensors if len(t.shape) > 1]
    fallen = [t for t in matrices if blocked and t.type_name not in FLOATS and t.shape[-1] % K_BLOCK]
    return {
        "type": kind,
        "bits_per_weight": 8 * sum(t.n_bytes for t in after.tensors) / n_params,
        "tensors": dict(tensors.most_common()),
        "share_of_weights": {name: n / n_params for name, n in weights.most_common()},
        "fell_back": len(fallen),
        "fell_back_share": sum(t.n_elements for t in fallen) / n_params,
        "fell_back_widths": sorted({t.shape[-1] for t in fallen}),
        "source_type": _main_type(before),
    }


def _main_type(file: gguf_file.GgufFile) -> str:
    weights = Counter[str]()
    for t in file.tensors:
        if len(t.shape) > 1:
            weights[t.type_name] += t.n_elements
    return weights.most_common(1)[0][0]


def _note(facts: dict[str, Any]) -> str:
    mix = ", ".join(f"{share:.0%} {name}" for name, share in facts["share_of_weights"].items() if share > 0.005)
    note = f"Quantized as {facts['type']}: {facts['bits_per_weight']:.2f} bits per weight ({mix})"
    if facts["fell_back"]:
        widths = " and ".join(map(str, facts["fell_back_widths"]))
        note += (
            f"; {facts['fell_back']} tensors fell back to other formats, because rows of {widths} weights do not "
            f"divide by {K_BLOCK}"
        )
    if facts["source_type"] not in FLOATS:
        note += f"; made from {facts['source_type']}, dequantized, so it can be no better than that"
    return note + "."


plugin: Transform = GgufQuantize()
