"""A parsed config.json, read through transformers' defaults for its model_type.

Knows which values make sense; each thing wrong with a configuration is one sentence. Knows nothing
of what the values are used for.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from typing import Any

from hardware.errors import ExplorerError


class MissingSizeError(ExplorerError):
    """A size that a configuration should have and does not."""


_LIMIT = 10_000_000  # no width, vocabulary or head count in use is beyond this; a larger one is a slip
_MAX_BLOCKS = 10_000

# where a configuration declares how its weights are quantized
QUANTIZATION = ("quantization_config", "compression_config", "quantization")

# fields that may list a value for each block
_PER_BLOCK = ("num_attention_heads", "num_key_value_heads", "intermediate_size", "head_dim")


class Config:
    """values: the file's own fields. defaults: what transformers assumes where a field is absent."""

    def __init__(self, values: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
        self.model_type = str(values.get("model_type", ""))
        self._values = {**defaults, **values}

    def at(self, block: int) -> Config:
        """The configuration of one block: what is listed for each block has the value of this one."""
        lists = {k: v for k in _PER_BLOCK if isinstance(v := self._values.get(k), list)}
        if not lists:
            return self
        for key in lists:
            self.for_each_block(key)
        return Config({**self._values, **{key: listed[block] for key, listed in lists.items()}}, {})

    def for_each_block(self, key: str) -> list[Any] | None:
        """A list with an entry for each block; None where the field is absent or null."""
        listed, n_blocks = self.sequence(key), self.size("num_hidden_layers")
        if listed is not None and len(listed) != n_blocks:
            raise ExplorerError(
                f"'{key}' has {len(listed)} entries in the configuration, but the model has {n_blocks} blocks.",
                f"Correct '{key}' or the number of layers.",
            )
        return listed

    def get(self, key: str, default: Any = None) -> Any:
        return self._values.get(key, default)

    def flag(self, key: str) -> bool:
        value = self._values.get(key, False)
        if isinstance(value, str):  # "false" is as good as true to Python
            raise ExplorerError(f"'{key}' is the text {value!r}, but must be true or false.", f"Correct '{key}'.")
        return bool(value)

    def size(self, key: str, default: int | None = None) -> int:
        """A positive whole number. An absent or null field takes `default`; without one it is an error."""
        value = self._values.get(key)
        if value is None and default is not None:
            return default
        return self._checked(key, value, _MAX_BLOCKS if "layer" in key and key.startswith("n") else _LIMIT)

    def optional(self, key: str) -> int | None:
        """A positive whole number, or None where the field is absent, null or zero."""
        value = self._values.get(key)
        return self._checked(key, value, 1_000 * _LIMIT) if value else None

    def whole(self, key: str, default: int = 0) -> int:
        """A whole number, zero included. An absent or null field takes `default`."""
        value = self._values.get(key)
        return default if value is None else self._checked(key, value, _LIMIT, least=0)

    def number(self, key: str) -> float:
        """A positive number, whole or not."""
        value = self._values.get(key)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= _LIMIT:
            raise ExplorerError(f"'{key}' is {value!r}, but must be a positive number.", f"Correct '{key}'.")
        return float(value)

    def sequence(self, key: str) -> list[Any] | None:
        """A list; None where the field is absent or null."""
        value = self._values.get(key)
        if value is not None and not isinstance(value, list | tuple):
            raise ExplorerError(f"'{key}' must be a list, but is {value!r}.", f"Correct '{key}'.")
        return None if value is None else list(value)

    def _checked(self, key: str, value: Any, limit: int, least: int = 1) -> int:
        if value is None:
            raise MissingSizeError(
                f"The configuration has no '{key}', which a {self.model_type} model needs.",
                "Use the complete config.json that came with the model.",
            )
        if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value) or value % 1:
            raise ExplorerError(
                f"'{key}' is {value!r} in the configuration, but must be a whole number.", f"Correct '{key}'."
            )
        if not least <= value <= limit:
            raise ExplorerError(
                f"'{key}' is {int(value):,} in the configuration, outside {least} to {limit:,}.", f"Correct '{key}'."
            )
        return int(value)

    def heads(
        self, *, hidden: str = "hidden_size", heads: str = "num_attention_heads", kv_heads: str = "num_key_value_heads"
    ) -> tuple[int, int, int]:
        """(query heads, key/value heads, width of a head), checked against one another."""
        d, n_heads = self.size(hidden), self.size(heads)
        n_kv_heads = self.size(kv_heads, default=n_heads)
        if n_heads % n_kv_heads:
            raise ExplorerError(
                f"'{kv_heads}' ({n_kv_heads}) does not divide '{heads}' ({n_heads}), so heads cannot be grouped.",
                f"Correct '{kv_heads}' or '{heads}'.",
            )
        if self.get("head_dim") is None and d % n_heads:
            raise ExplorerError(
                f"'{hidden}' ({d}) is not divisible by '{heads}' ({n_heads}) and there is no 'head_dim'.",
                f"Correct '{hidden}' or '{heads}', or add 'head_dim'.",
            )
        return n_heads, n_kv_heads, self.size("head_dim", default=d // n_heads)

    def active_experts(self, n_experts: int) -> int:
        """Experts per token, checked against their number."""
        n_active = self.size("num_experts_per_tok")
        if n_active > n_experts:
            raise ExplorerError(
                f"'num_experts_per_tok' ({n_active}) exceeds the number of experts ({n_experts}).",
                "Correct 'num_experts_per_tok'.",
            )
        return n_active

    def rotary_share(self, default: float) -> float:
        """The part of each head that is rotated."""
        rope = self.get("rope_parameters")
        nested = rope.get("partial_rotary_factor") if isinstance(rope, Mapping) else None
        share = self.get("partial_rotary_factor") or nested or self.get("rotary_pct") or default
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= 1:
            raise ExplorerError(
                f"The rotated part of each head is {share!r}, but must lie between 0 and 1.",
                "Correct 'partial_rotary_factor' or 'rotary_pct'.",
            )
        return float(share)

    def windows(self, n_blocks: int, default_pattern: int | None = None) -> list[int | None]:
        """Sliding window of each block, from `layer_types` or a pattern (every n-th block is global)."""
        window = self.optional("sliding_window")
        types = self.sequence("layer_types")
        if types is None:
            if default_pattern is None:
                return [window] * n_blocks
            return [window if (i + 1) % default_pattern else None for i in range(n_blocks)]
        if len(types) != n_blocks:
            raise ExplorerError(
                f"'layer_types' has {len(types)} entries in the configuration, but the model has {n_blocks} blocks.",
                "Correct 'layer_types' or the number of layers.",
            )
        return [window if t == "sliding_attention" else None for t in types]
