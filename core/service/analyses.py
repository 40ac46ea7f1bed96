"""What can be said of a model without running it, as one answer: the verb `run_analysis`.

Computed from the architecture: parameters, FLOPs and bytes of a prefill and of one step of decoding, layer by layer,
and memory at the full length. Estimated: time and throughput on a device of the catalogue.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from core.analysis.memory import Shape, Split, split
from core.analysis.predict import Prediction, predict
from core.analysis.work import LayerWork, kv_bytes_per_token, n_active_params, total, work
from core.dtypes import canonical_dtype, retype
from core.models import catalogue, spec
from core.paths import data_dir
from core.types import ModelSpec, Record, Words
from hardware.catalogue import find as find_device

Count = Annotated[int, Meta(ge=1, le=10_000_000)]


class Analysis(Record):
    """What is asked: a model of the catalogue, or a path to its files or its config.json.

    weights: as if they were stored so (q4_0, fp16); without it as they are. device: of the catalogue, for an estimate
    of time; without it nothing is estimated.
    """

    model: Words
    prompt_tokens: Count = 512
    new_tokens: Count = 128
    batch: Annotated[int, Meta(ge=1, le=1024)] = 1
    weights: Words | None = None
    kv_dtype: Words = "fp16"
    activation_dtype: Words = "fp16"
    device: Words | None = None


class Work(Record, omit_defaults=False):
    """One forward, computed. layers: in the order in which they run."""

    n_new: int
    n_past: int
    flops: float
    flops_executed: float
    weight_bytes: float
    activation_bytes: float
    kv_read_bytes: float
    kv_write_bytes: float
    flops_per_byte: float
    layers: tuple[LayerWork, ...]


class Analysed(Record, omit_defaults=False):
    """The answer. decode: the last step, which reads most; None for an encoder. prediction: None without a device.

    provenance: how each part was come by.
    """

    model: str
    architecture: str
    dtype: str
    n_params: int
    n_active_params: int
    n_blocks: int
    max_context: int | None
    kv_bytes_per_token: float
    memory: Split
    prefill: Work
    decode: Work | None
    prediction: Prediction | None
    doubts: str
    provenance: dict[str, str]


def analyse(asked: Analysis) -> Analysed:
    """Raises ExplorerError for a model, a device or a number format that is not known."""
    found = _architecture(asked)
    length = asked.prompt_tokens + asked.new_tokens
    shape = Shape(
        n_context=length,
        n_forward=asked.prompt_tokens,
        batch=asked.batch,
        activation_dtype=asked.activation_dtype,
        kv_dtype=asked.kv_dtype,
    )
    prediction = None
    if asked.device is not None:
        prediction = predict(
            found,
            find_device(asked.device, data_dir() / "devices"),
            prompt_tokens=asked.prompt_tokens,
            new_tokens=asked.new_tokens,
            batch=asked.batch,
            weights=asked.weights,
            kv_dtype=asked.kv_dtype,
        )
    return Analysed(
        model=asked.model,
        architecture=found.architecture,
        dtype=found.dtype,
        n_params=found.n_params,
        n_active_params=n_active_params(found),
        n_blocks=found.n_blocks,
        max_context=found.max_context,
        kv_bytes_per_token=kv_bytes_per_token(found, asked.kv_dtype) if found.causal else 0.0,
        memory=split(found, shape),
        prefill=_work(found, asked, asked.prompt_tokens, 0),
        decode=_work(found, asked, 1, length - 1) if found.causal else None,
        prediction=prediction,
        doubts=found.doubts,
        provenance={
            "memory": "computed",
            "prefill": "computed",
            "decode": "computed",
            "prediction": "estimated",
        },
    )


def _architecture(asked: Analysis) -> ModelSpec:
    entry = catalogue.find(asked.model)
    kind, path = next(iter(entry.files.items()))
    found = msgspec.structs.replace(spec.read(path, kind), name=entry.id)
    if asked.weights is not None:
        return retype(found, canonical_dtype(asked.weights))
    return retype(found, found.dtype) if found.weight_bytes is None else found


def _work(found: ModelSpec, asked: Analysis, n_new: int, n_past: int) -> Work:
    layers = work(found, n_new, n_past, asked.batch, activation_dtype=asked.activation_dtype, kv_dtype=asked.kv_dtype)
    everything = total(layers)
    return Work(
        n_new=n_new,
        n_past=n_past,
        flops=everything.flops,
        flops_executed=everything.flops_executed,
        weight_bytes=everything.weight_bytes,
        activation_bytes=everything.activation_bytes,
        kv_read_bytes=everything.kv_read_bytes,
        kv_write_bytes=everything.kv_write_bytes,
        flops_per_byte=everything.flops / everything.bytes if everything.bytes else 0.0,
        layers=layers,
    )
