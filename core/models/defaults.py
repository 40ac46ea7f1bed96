"""The sizes that a nested configuration leaves to transformers' defaults, asked of the library itself.

    python -m core.models.defaults FILE     prints {"values": ...} of the language model, or {"reason": ...}

A library of that weight is imported in a process of its own (core.engine), and its answer is kept in the cache under
the configuration and the library's version. Knows where a configuration keeps its language model, and nothing of what
its numbers mean.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import time
from collections.abc import Mapping
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from core import engine
from core.errors import ExplorerError
from core.models.artifact_cache import key_of
from core.paths import cache_dir
from hardware.child import Child

NESTS = ("text_config", "llm_config", "language_config", "language_model_config")
_OUTER = ("thinker_config",)  # holds one of the above
_LIMIT_S = 120.0  # for a library that never answers; importing it takes seconds
_NOT_SENT = ("quantization_config", "compression_config", "quantization", "auto_map")
_SIZES = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
          "head_dim", "vocab_size")  # fmt: skip


def nested(config: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The part of a configuration that is its language model's; None where it is a language model's altogether."""
    for key in NESTS:
        if isinstance(found := config.get(key), Mapping):
            return found
    outer = next((config[key] for key in _OUTER if isinstance(config.get(key), Mapping)), None)
    return nested(outer) if outer is not None else None


def completed(config: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The language model's values with transformers' defaults for those it leaves out, and the sizes among these.

    Raises ExplorerError when the library does not know the model or is not installed.
    """
    text = nested(config) or {}
    values = _asked(json.dumps(_sent(config), sort_keys=True))
    found = {**values, **{key: value for key, value in text.items() if value is not None}}
    return found, tuple(key for key in _SIZES if text.get(key) is None and values.get(key) is not None)


def _sent(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration without what has no bearing on the language model, and could only fail."""
    sent = {}
    for key, value in config.items():
        if key in _OUTER and isinstance(value, Mapping):
            sent[key] = _sent(value)
        elif key not in _NOT_SENT and (key in NESTS or not key.endswith("_config")):
            sent[key] = value
    return sent


@lru_cache(maxsize=64)
def _asked(config: str) -> dict[str, Any]:
    """What transformers makes of it: from the cache, or from a process."""
    try:
        library = version("transformers")
    except PackageNotFoundError:
        library = ""
    if not library or importlib.util.find_spec("transformers") is None:
        raise _unknown(config, "transformers, which has the defaults, is not installed")
    kept = cache_dir() / "defaults" / f"{key_of('defaults', 1, library, config)}.json"
    try:
        found = json.loads(kept.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = None
    if not isinstance(found, dict):
        found = _from_process(config)
        kept.parent.mkdir(parents=True, exist_ok=True)
        part = kept.with_suffix(f".{key_of(time.time_ns())}")
        part.write_text(json.dumps(found), encoding="utf-8")
        part.replace(kept)
    return dict(found)


def _from_process(config: str) -> dict[str, Any]:
    with TemporaryDirectory() as folder:
        file = Path(folder) / "config.json"
        file.write_text(config, encoding="utf-8")
        deadline = time.monotonic() + _LIMIT_S
        with Child("core.models.defaults", [str(file)], hush=True) as child:
            for line in child.messages():
                if line and isinstance(line.get("values"), dict):
                    return dict(line["values"])
                if line and "reason" in line:
                    raise _unknown(config, str(line["reason"]))
                if time.monotonic() > deadline:
                    break
        raise _unknown(config, child.last_error or "transformers gave no answer")


def _unknown(config: str, reason: str) -> ExplorerError:
    kind = json.loads(config).get("model_type", "")
    return ExplorerError(
        f"The configuration of this {kind} model leaves sizes to defaults that could not be found ({reason}).",
        "Add the sizes to its text_config, or use the complete config.json.",
    )


def main(file: str) -> int:
    """Exit status 0, or 2 after a reason."""
    config = json.loads(Path(file).read_text(encoding="utf-8"))
    engine.claim("pytorch")
    try:
        from transformers import AutoConfig

        whole = AutoConfig.for_model(**{"model_type": "", **config})
        print(json.dumps({"values": whole.get_text_config(decoder=True).to_dict()}, default=str), flush=True)
    except Exception as error:  # whatever the library makes of a stranger's numbers
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        print(json.dumps({"reason": reason[:200]}), flush=True)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
