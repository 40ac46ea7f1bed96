"""The sizes that a nested configuration leaves to transformers' defaults, asked of the library itself.

    python -m core.models.defaults FILE     prints {"values": ...} of the language model, or {"reason": ...}

The library is asked in a process of its own (core.models.library). Knows where a configuration keeps its language
model, and nothing of what its numbers mean.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from core import engine
from core.models import library
from core.models.config import QUANTIZATION
from hardware.errors import ExplorerError

NESTS = ("text_config", "llm_config", "llm_cfg", "language_config", "language_model_config")
_OUTER = ("thinker_config",)  # holds one of the above
NOT_SENT = (*QUANTIZATION, "auto_map")  # to the process that knows transformers
_SIZES = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
          "head_dim", "vocab_size")  # fmt: skip


def nested(config: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The part of a configuration that is its language model's; None where it is a language model's altogether."""
    for key in NESTS:
        if isinstance(found := config.get(key), Mapping):
            return found
    outer = next((config[key] for key in _OUTER if isinstance(config.get(key), Mapping)), None)
    return nested(outer) if outer is not None else None


def parts(config: Mapping[str, Any]) -> tuple[Mapping[str, Any], ...]:
    """A configuration and what lies around its language model, down to that: what an outer one leaves out an inner one
    may say."""
    outer = (config[key] for key in _OUTER if isinstance(config.get(key), Mapping))
    return (config, *outer, *filter(None, (nested(config),)))


def class_of(config: Mapping[str, Any]) -> str:
    """The class that the weights are said to be of, "" where none is."""
    named = config.get("architectures")
    return str(named[0]) if isinstance(named, list) and named else ""


def completed(config: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The language model's values with transformers' defaults for those it leaves out, and the sizes among these.

    Raises ExplorerError when the library does not know the model or is not installed.
    """
    text = nested(config) or config
    values = _asked(json.dumps(sent(config), sort_keys=True))
    found = {**values, **{key: value for key, value in text.items() if value is not None}}
    return found, tuple(key for key in _SIZES if text.get(key) is None and values.get(key) is not None)


def sent(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration without what has no bearing on the language model, and could only fail."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        if key in _OUTER and isinstance(value, Mapping):
            found[key] = sent(value)
        elif key not in NOT_SENT and (key in NESTS or not key.endswith("_config")):
            found[key] = value
    return found


def decoded(value: Any) -> Any:
    """With the numbers that JSON lacks, which the library writes as {"__float__": "Infinity"}."""
    if isinstance(value, Mapping):
        return float(value["__float__"]) if value.keys() == {"__float__"} else {k: decoded(v) for k, v in value.items()}
    return [decoded(v) for v in value] if isinstance(value, list) else value


def _asked(config: str) -> dict[str, Any]:
    """What transformers makes of it. Raises ExplorerError where it makes nothing of it."""
    try:
        return library.ask(__name__, 1, config)
    except library.NoAnswerError as error:
        raise _unknown(config, str(error)) from None


def _unknown(config: str, reason: str) -> ExplorerError:
    kind = json.loads(config).get("model_type", "")
    return ExplorerError(
        f"The configuration of this {kind} model leaves sizes to defaults that could not be found ({reason}).",
        "Add the sizes to its text_config, or use the complete config.json.",
    )


def main(file: str) -> int:
    """Exit status 0, or 2 after a reason."""
    config = json.loads(Path(file).read_text(encoding="utf-8"))
    engine.hide_all()
    try:
        from transformers import AutoConfig

        whole = AutoConfig.for_model(**{"model_type": "", **decoded(config)})
        print(library.answer(whole.get_text_config(decoder=True).to_dict()), flush=True)
    except Exception as error:  # whatever the library makes of a stranger's numbers
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        print(json.dumps({"reason": reason[:200]}), flush=True)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
