"""A cache layer with room: new keys and values are written behind the old ones, and dropped ones are only forgotten.

transformers' DynamicLayer copies all it holds at every step. Knows one layer's memory; knows no session and no model.
"""

from __future__ import annotations

from functools import cache
from typing import Any

STEP = 128  # tokens by which a layer grows at least


class Room:
    """Keys and values of shape (batch, heads, n, width), each the front of a tensor with room for more.

    Stands in front of transformers' DynamicLayer (`layer_class`), which adds what is not here. pointers: addresses of
    both tensors, and for how many tokens they have room; for kernels of our own.
    """

    is_initialized = False

    def __init__(self) -> None:
        self._keys: Any = None
        self._values: Any = None
        self._n = 0
        self.pointers = (0, 0, 0)
        super().__init__()

    @property
    def keys(self) -> Any:
        return None if self._keys is None else self._keys[:, :, : self._n]

    @keys.setter
    def keys(self, new: Any) -> None:  # transformers' own code puts other tensors here, the keys first
        self._keys = None if new is None or new.dim() < 4 else new.contiguous()
        self._n = 0 if self._keys is None else new.shape[-2]

    @property
    def values(self) -> Any:
        return None if self._values is None else self._values[:, :, : self._n]

    @values.setter
    def values(self, new: Any) -> None:
        self._values = None if new is None or new.dim() < 4 else new.contiguous()
        if self._values is not None:
            self._point()

    def get_seq_length(self) -> int:
        return self._n

    def crop(self, tokens_to_remove: int) -> None:
        assert tokens_to_remove <= 0, "a number of tokens to remove is given, negative"
        self._n = max(0, self._n + tokens_to_remove)

    def make_room(self, n: int, like: Any) -> None:
        """Room for n more tokens. like: (batch, heads, any, width) of the dtype and on the device."""
        if self._keys is not None and self._n + n <= self._keys.shape[2]:
            return
        batch, heads, _, width = like.shape
        capacity = -(-max(self._n + n, self._n + STEP) // STEP) * STEP
        for name in ("_keys", "_values"):
            old, new = getattr(self, name), like.new_empty(batch, heads, capacity, width)
            if old is not None:
                new[:, :, : self._n] = old[:, :, : self._n]
            setattr(self, name, new)
        self.dtype, self.device, self.is_initialized = like.dtype, like.device, True
        self._point()

    def written(self, n: int) -> None:
        """Somebody has written the next n tokens."""
        self._n += n

    def update(self, key_states: Any, value_states: Any, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        n = key_states.shape[2]
        self.make_room(n, key_states)
        self._keys[:, :, self._n : self._n + n] = key_states
        self._values[:, :, self._n : self._n + n] = value_states
        self._n += n
        return self.keys, self.values

    def _point(self) -> None:
        self.pointers = (self._keys.data_ptr(), self._values.data_ptr(), self._keys.shape[2])


@cache
def layer_class() -> type:
    """Room as one of transformers' layers, made once transformers is imported."""
    from transformers.cache_utils import DynamicLayer

    return type("Room", (Room, DynamicLayer), {})


def with_room(dynamic: Any) -> Any:
    """The same cache with such layers."""
    dynamic.layers = [layer_class()() for _ in dynamic.layers]
    return dynamic
