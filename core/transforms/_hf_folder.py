"""Writes a Hugging Face folder: tensors in shards, config.json, and the parent's tokenizer and templates."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from core.models.formats import BESIDE
from core.models.precision import FILES
from core.types import Job

SHARD_BYTES = 2 << 30
# written anew, the parent's story, or of the parent's very weights
_OWN = ("config.json", "roofscope.json", "artifact.json", *FILES)
_TRAINED_FOR = ("medusa_heads",)  # fields of a config.json that name files trained for the parent's very weights


def write(out: Path, source: Path, config: dict[str, Any], tensors: dict[str, Any], job: Job) -> None:
    """Fill the folder `out`. tensors: by the names under which transformers knows them; tied ones once.

    Raises OSError when the disk is full, and what `job` raises when the user asks for a stop.
    """
    write_one_by_one(out, source, config, tensors.items(), sum(t.nbytes for t in tensors.values()), job)


def write_one_by_one(
    out: Path, source: Path, config: dict[str, Any], tensors: Iterable[tuple[str, Any]], n_bytes: int, job: Job
) -> None:
    """The same from tensors that are made one at a time: no more than a shard of them is held.

    n_bytes: how many there will be, as far as it is known.
    """
    weight_map: dict[str, int] = {}
    done = n_shards = 0
    for shard in _shards(tensors):
        job.progress("Writing the model", min(done, n_bytes), n_bytes, "bytes")
        job.check()
        _save(shard, out / f"part-{n_shards}")
        weight_map |= dict.fromkeys(shard, n_shards)
        done += sum(t.nbytes for t in shard.values())
        n_shards += 1
    for i in range(n_shards):
        (out / f"part-{i}").rename(out / _shard_name(i, n_shards))
    if n_shards > 1:
        index = {
            "metadata": {"total_size": done},
            "weight_map": {tensor: _shard_name(i, n_shards) for tensor, i in weight_map.items()},
        }
        (out / "model.safetensors.index.json").write_text(json.dumps(index, indent=2), encoding="utf-8")
    kept = {key: value for key, value in config.items() if key not in _TRAINED_FOR}
    (out / "config.json").write_text(json.dumps(kept, indent=2), encoding="utf-8")
    for file in sorted(source.iterdir()):
        if file.suffix in BESIDE and file.name not in _OWN and not file.name.endswith(".index.json"):
            shutil.copyfile(file, out / file.name)
    if (named := source / "additional_chat_templates").is_dir():
        shutil.copytree(named, out / named.name, dirs_exist_ok=True)


def _shards(tensors: Iterable[tuple[str, Any]]) -> Iterator[dict[str, Any]]:
    shard: dict[str, Any] = {}
    size = 0
    for name, tensor in tensors:
        if shard and size + tensor.nbytes > SHARD_BYTES:
            yield shard
            shard, size = {}, 0
        shard[name] = tensor
        size += tensor.nbytes
    yield shard


def _shard_name(i: int, n: int) -> str:
    return "model.safetensors" if n == 1 else f"model-{i + 1:05}-of-{n:05}.safetensors"


def _save(tensors: dict[str, Any], path: Path) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        save_file(tensors, path, metadata={"format": "pt"})
    except SafetensorError as error:  # a full disk is told in its message only
        if os.strerror(errno.ENOSPC) in str(error):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error
        raise
