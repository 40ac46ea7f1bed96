"""Memory for weights that are read from end to end: side by side, in huge pages. Knows no format and no model."""

from __future__ import annotations

from typing import Any

from hardware.heap import HUGE_PAGE, give_back, huge_pages

LINE = 64  # bytes
ARENA = 1 << 25  # bytes, above which no allocation comes from memory that was used before
MOVED = 1 << 26  # bytes, after which the memory that the old places had is given back


class Arena:
    """Where the matrices of a model lie: side by side in huge pages, as most are smaller than such a page."""

    def __init__(self) -> None:
        self._left: Any = None

    def take(self, n_bytes: int) -> Any:
        """Bytes that nothing was written to yet, from a cache line on. Views keep alive what they are cut from."""
        import torch

        if self._left is None or self._left.numel() < n_bytes:
            whole = torch.empty(max(n_bytes, ARENA) + HUGE_PAGE, dtype=torch.uint8)
            huge_pages(whole.data_ptr(), whole.numel())
            self._left = whole[-whole.data_ptr() % HUGE_PAGE :]
        found = self._left[:n_bytes]
        self._left = self._left[-(-n_bytes // LINE) * LINE :]
        return found


def move(model: Any) -> None:
    """Move a model's matrices, which are nearly all of its weights, into an arena; on the processor.

    Those that are read from their file where they are needed stay there, for the system can drop them and they are
    nobody's own.
    """
    arena, moved = Arena(), 0
    for weight in model.parameters():
        if weight.dim() != 2 or not weight.untyped_storage().resizable():  # which PyTorch did not allocate
            continue
        n_bytes = weight.numel() * weight.element_size()
        place = arena.take(n_bytes).view(weight.dtype).view(weight.shape)
        weight.data = place.copy_(weight.data)
        moved += n_bytes
        if moved >= MOVED:
            give_back()
            moved = 0
    give_back()
