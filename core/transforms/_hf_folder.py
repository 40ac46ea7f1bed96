"""Writes a Hugging Face folder: tensors in shards, config.json, and the parent's tokenizer and templates."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from core.types import Work

SHARD_BYTES = 2 << 30
_OWN = ("config.json", "roofscope.json", "artifact.json")  # written anew, or the parent's story
_TRAINED_FOR = ("medusa_heads",)  # fields of a config.json that name files trained for the parent's very weights
_COPIED = (".json", ".jinja", ".txt", ".model")


def write(out: Path, source: Path, config: dict[str, Any], tensors: dict[str, Any], work: Work) -> None:
    """Fill the folder `out`. tensors: by the names under which transformers knows them; tied ones once.

    Raises OSError when the disk is full, and what `work` raises when the user asks for a stop.
    """
    shards = list(_shards(tensors))
    n_bytes = sum(t.nbytes for t in tensors.values())
    names = [_shard_name(i, len(shards)) for i in range(len(shards))]
    done = 0
    for name, shard in zip(names, shards, strict=True):
        work.progress("Writing the model", done, n_bytes, "bytes")
        work.check()
        _save(shard, out / name)
        done += sum(t.nbytes for t in shard.values())
    if len(shards) > 1:
        index = {
            "metadata": {"total_size": n_bytes},
            "weight_map": {tensor: name for name, shard in zip(names, shards, strict=True) for tensor in shard},
        }
        (out / "model.safetensors.index.json").write_text(json.dumps(index, indent=2), encoding="utf-8")
    kept = {key: value for key, value in config.items() if key not in _TRAINED_FOR}
    (out / "config.json").write_text(json.dumps(kept, indent=2), encoding="utf-8")
    for file in sorted(source.iterdir()):
        if file.suffix in _COPIED and file.name not in _OWN and not file.name.endswith(".index.json"):
            shutil.copyfile(file, out / file.name)
    if (named := source / "additional_chat_templates").is_dir():
        shutil.copytree(named, out / named.name, dirs_exist_ok=True)


def _shards(tensors: dict[str, Any]) -> Iterator[dict[str, Any]]:
    shard: dict[str, Any] = {}
    size = 0
    for name, tensor in tensors.items():
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
