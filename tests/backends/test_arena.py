"""Where weights lie: side by side, never over each other, and what lies in a file stays there."""

from __future__ import annotations

import mmap
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from core.backends.pytorch import arena as arenas
from core.backends.pytorch import grouped
from core.backends.pytorch.arena import ARENA, LINE, Arena

pytestmark = pytest.mark.engine("pytorch")


def test_matrices_lie_side_by_side_and_never_over_each_other() -> None:
    arena = Arena()
    sizes = (100, LINE, 7_000_000, ARENA + 5, 1, 20_000_000, 20_000_000)
    taken = [arena.take(n) for n in sizes]
    for i, part in enumerate(taken):
        part.fill_(i)
    assert [part.numel() for part in taken] == list(sizes)
    assert all(part.data_ptr() % LINE == 0 for part in taken)
    assert all(bool((part == i).all()) for i, part in enumerate(taken))
    assert taken[1].data_ptr() - taken[0].data_ptr() == 2 * LINE


@pytest.mark.parametrize("kind", tuple(grouped.FORMS))
def test_a_matrix_is_the_same_wherever_it_lies(kind: str) -> None:
    arena, made = Arena(), torch.Generator().manual_seed(1)
    a, b = torch.randn(40, 64, generator=made), torch.randn(24, 70, generator=made)
    packed = [grouped.pack(w, kind, arena) for w in (a, b)]
    assert all(torch.equal(m.data, grouped.pack(w, kind).data) for m, w in zip(packed, (a, b), strict=True))


def model(n_blocks: int, d: int, dtype: Any = torch.bfloat16) -> Any:
    """A table that is also the head, and blocks of matrices with a norm."""
    table = torch.nn.Embedding(100, d, dtype=dtype)
    head = torch.nn.Linear(d, 100, bias=False, dtype=dtype)
    head.weight = table.weight
    blocks = [torch.nn.Sequential(torch.nn.LayerNorm(d), torch.nn.Linear(d, d)).to(dtype) for _ in range(n_blocks)]
    return torch.nn.ModuleList([table, *blocks, head]).requires_grad_(False)


def test_a_models_matrices_move_and_say_what_they_said() -> None:
    made = model(3, 40)
    before = {name: p.clone() for name, p in made.named_parameters()}
    old = {p.data_ptr() for p in made.parameters() if p.dim() == 2}
    arenas.move(made)
    assert all(torch.equal(p, before[name]) for name, p in made.named_parameters())
    assert made[0].weight is made[-1].weight, "the head is the table still"
    places = [p.data_ptr() for p in made.parameters() if p.dim() == 2]
    assert not old & set(places)
    assert [b - a for a, b in pairwise(places)] == [100 * 40 * 2, 3200, 3200]


def test_what_lies_in_a_file_stays_there(tmp_path: Path) -> None:
    file = tmp_path / "weights"
    file.write_bytes(bytes(range(256)) * 16)
    with file.open("r+b") as opened:
        mapped = mmap.mmap(opened.fileno(), 0)
    made = model(1, 8, torch.float32)
    made[1][1].weight.data = torch.frombuffer(mapped, dtype=torch.float32)[:64].view(8, 8)
    at = made[1][1].weight.data_ptr()
    arenas.move(made)
    assert made[1][1].weight.data_ptr() == at
