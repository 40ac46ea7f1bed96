"""Quantize an ONNX export by ONNX Runtime's own quantizers.

Two kinds: weights in 4 or 8 bits by blocks, multiplied by MatMulNBits; and weights and activations in 8 bits,
where the activations get one scale per matrix and forward, so that the result depends on how many tokens run
together. A head that shares the token table gets a matrix of its own first, else both pass over it.
"""

from __future__ import annotations

import errno
import importlib.util
import json
import shutil
import signal
import time
from pathlib import Path
from typing import Any, Literal

from core.models import formats
from core.transforms import _child
from core.types import Job, ModelSpec, Outcome, Record, Source, Transform
from hardware.errors import ExplorerError

_SUFFIXES = {"weights_8bit": "w8", "weights_4bit": "w4", "dynamic_int8": "dynamic-int8"}


class Quantization(Record):
    """method: what is quantized, and how (dynamic_int8: weights per output channel, activations per forward).

    block_size: weights that share a scale. symmetric: no zero point, smaller and coarser. accuracy_level: 4
    multiplies in int8, 0 unpacks the weights to fp32. These three are for weights_4bit and weights_8bit.
    head: the head too, also where it shares the token table. table: the token table too, in 8 bits.
    """

    method: Literal["weights_8bit", "weights_4bit", "dynamic_int8"] = "weights_8bit"
    block_size: Literal[16, 32, 64, 128, 256] = 32
    symmetric: bool = False
    accuracy_level: Literal[0, 4] = 4
    head: bool = True
    table: bool = True


class OnnxQuantize:
    name = "onnx_quantize"
    label = "Quantize (ONNX)"
    backend = "onnxruntime"
    formats: tuple[str, ...] = ("onnx",)
    trains = False
    Params = Quantization

    def unavailable(self) -> str | None:
        for library in ("onnxruntime", "onnx"):
            if importlib.util.find_spec(library) is None:
                return f"{library} is not installed: run `pip install -r requirements.txt`."
        return None

    def check(self, spec: ModelSpec, params: Quantization) -> None:
        if spec.dtype in ("int8", "int4"):
            raise ExplorerError(f"{spec.name} is quantized already.", "Choose the model that it was made from.")

    def suffix(self, params: Quantization) -> str:
        parts = [_SUFFIXES[params.method]]
        if params.method != "dynamic_int8":
            parts += [f"b{params.block_size}"] * (params.block_size != 32)
            parts += ["sym"] * params.symmetric + ["fp32-product"] * (params.accuracy_level == 0)
        parts += ["no-head"] * (not params.head) + ["no-table"] * (not params.table)
        return "-".join(parts)

    def run(self, source: Source, params: Quantization, out: Path, job: Job) -> Outcome:
        """Writes model.onnx, model.onnx.data, config.json and the tokenizer's files.

        Raises ExplorerError for a full disk and for a graph without matrices that could be quantized.
        """
        given = Path(source.path)
        folder = given if given.is_dir() else given.parent
        facts = _rewrite(folder / "model.onnx", out, params, job)
        if not facts["quantized"]:
            raise ExplorerError(
                f"{source.entry.label} has no matrix that ONNX Runtime's quantizer takes.", "Choose another model."
            )
        for file in folder.iterdir():
            if file.suffix in (".json", ".jinja", ".txt") and file.name != "artifact.json":
                shutil.copyfile(file, out / file.name)
        if params.head:
            config = formats.read_config(out / "config.json") | {"tie_word_embeddings": False}
            (out / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
        return Outcome(note=_note(facts, params), facts=facts)


def _rewrite(file: Path, out: Path, params: Quantization, job: Job) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    note, started, needed, problem = "Starting ONNX Runtime's quantizer", time.monotonic(), 0, {}

    def tell(line: dict[str, Any] | None) -> None:
        nonlocal note, started, needed, problem
        line = line or {}
        if "note" in line:
            note, started = line["note"], time.monotonic()
        if needed := line.get("needed", needed):
            _check_room(out, needed)
        if "error" in line:
            problem = line
        facts.update(line.get("facts", {}))
        job.progress(note, round(time.monotonic() - started), unit="s")
        job.check()

    settings = {name: getattr(params, name) for name in params.__struct_fields__}
    try:
        status = _child.run("core.transforms._onnx_rewrite", [str(file), str(out), json.dumps(settings)], tell)
        if status or not facts:
            raise _failure(status, problem, out, needed)
    except BaseException:
        for left in out.iterdir():
            left.unlink()
        raise
    return facts


def _failure(status: int, problem: dict[str, Any], out: Path, needed: int) -> ExplorerError:
    if problem.get("errno") in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT):
        return _child.disk_full(out, needed)
    if status == -signal.SIGKILL:
        return ExplorerError(
            "The quantizer was killed, most likely because memory ran out.",
            "It needs about five times the model's fp32 weights: close other programs, or choose a smaller model.",
        )
    return ExplorerError(
        f"ONNX Runtime's quantizer failed: {problem.get('error') or f'it ended with status {status}'}.",
        "Choose another method or another model; the run's log has the details.",
    )


def _check_room(out: Path, needed: int) -> None:
    if not (out / "model.onnx.data").exists() and needed > shutil.disk_usage(out).free:
        raise _child.disk_full(out, needed)


def _note(facts: dict[str, Any], params: Quantization) -> str:
    what = {
        "weights_8bit": f"weights in 8 bits by blocks of {params.block_size}",
        "weights_4bit": f"weights in 4 bits by blocks of {params.block_size}",
        "dynamic_int8": "weights in int8 by channel and activations in int8 by forward, which differ with the number "
        "of tokens run together",
    }[params.method]
    left = [row["node"] for row in facts["left_out"] if row["why"] != "neither side is a stored weight"]
    note = f"{facts['quantized']} matrices quantized by ONNX Runtime: {what}; the token table {facts['table']}"
    return f"{note}; left out: {', '.join(left)}." if left else f"{note}."


plugin: Transform = OnnxQuantize()
