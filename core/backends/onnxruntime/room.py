"""Memory for a cache that is used again: two places for every tensor, of which a run reads one and writes the other.

ONNX Runtime joins what was kept and what is new into tensors of both, (batch, heads, positions, width) without gaps. So
the end of a cache is cut off by moving the heads together where they lie. Knows no graph and no tokens.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

STEP = 128  # positions by which a place grows at least


@dataclass(frozen=True)
class Cache:
    """values: an OrtValue for every tensor. place: where in a Room they lie; None: in memory of ONNX Runtime's own."""

    values: Sequence[Any]
    place: int | None = None


@dataclass
class _Place:
    """Flat arrays and their addresses, with room for so many positions of all sequences together."""

    positions: int = 0
    arrays: list[Any] = field(default_factory=list)
    addresses: list[int] = field(default_factory=list)


class Room:
    """Of tensors whose (heads, width) are `sizes`, on the processor."""

    def __init__(self, sizes: Sequence[tuple[int, int]], dtypes: Sequence[Any]) -> None:
        self._sizes, self._dtypes = sizes, dtypes
        self._places = (_Place(), _Place())

    def beside(self, cache: Cache, batch: int, n: int) -> Cache:
        """Where n positions of `batch` sequences can be written while this cache is read; it says nothing yet."""
        place = 1 if cache.place == 0 else 0
        own = self._places[place]
        if own.positions < batch * n:
            own.positions = batch * (-(-n // STEP) + 1) * STEP
            own.arrays = [
                np.empty(own.positions * heads * width, dtype)
                for (heads, width), dtype in zip(self._sizes, self._dtypes, strict=True)
            ]
            own.addresses = [array.ctypes.data for array in own.arrays]
        return self._cache(place, batch, n)

    def cut(self, cache: Cache, n: int) -> Cache:
        """The first n positions of a cache that lies here, in the same memory: the longer one is gone."""
        assert cache.place is not None, "it lies elsewhere"
        batch, _, before, _ = cache.values[0].shape()
        own = self._places[cache.place]
        for (heads, width), array, address in zip(self._sizes, own.arrays, own.addresses, strict=True):
            kept, step = n * width * array.itemsize, before * width * array.itemsize
            for i in range(1, batch * heads):
                ctypes.memmove(address + i * kept, address + i * step, kept)
        return self._cache(cache.place, batch, n)

    def _cache(self, place: int, batch: int, n: int) -> Cache:
        from onnxruntime import OrtValue

        values = [
            OrtValue.ortvalue_from_numpy(array[: batch * heads * n * width].reshape(batch, heads, n, width))
            for (heads, width), array in zip(self._sizes, self._places[place].arrays, strict=True)
        ]
        return Cache(values, place)
