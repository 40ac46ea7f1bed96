"""How one matrix is stored: bits, scales, and what both come to."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil


@dataclass(frozen=True)
class Scheme:
    """How one matrix is stored.

    dtype: of its numbers, "" for the model's. tile: rows and columns that share a scale, 0 for all of them: (1, 128)
    is groups of 128 in a row, (0, 0) the whole matrix. scale_bits: of a scale and what stands beside it. column_bits:
    per column of the whole matrix.
    """

    dtype: str
    bits: float
    tile: tuple[int, int] = (0, 0)
    scale_bits: float = 0.0
    column_bits: int = 0

    def bytes(self, rows: int, columns: int) -> float:
        """Of a matrix and its scales."""
        n_scales = ceil(rows / (self.tile[0] or rows)) * ceil(columns / (self.tile[1] or columns))
        return (rows * columns * self.bits + n_scales * self.scale_bits + columns * self.column_bits) / 8

    @property
    def words(self) -> str:
        """ "4 bits in groups of 128"."""
        if not self.scale_bits:
            return f"{self.bits:g} bits a weight"
        shared = {(0, 0): "with one scale per matrix", (1, 0): "with one scale per row"}
        if self.tile in shared:
            return f"{self.bits:g} bits {shared[self.tile]}"
        if self.tile[0] == 1:
            return f"{self.bits:g} bits in groups of {self.tile[1]}"
        return f"{self.bits:g} bits in tiles of {self.tile[0]} × {self.tile[1]}"


MICROSCALED = {
    "mxfp4": Scheme("mxfp4", 4, (1, 32), 8),
    "mxfp8": Scheme("mxfp8", 8, (1, 32), 8),
    "nvfp4": Scheme("nvfp4", 4, (1, 16), 8),
}


def integer(bits: int) -> str:
    """The dtype of integers of so many bits."""
    return f"int{bits}" if bits in (2, 3, 4, 5, 6, 8, 16) else "int4" if bits < 4 else "int8"
