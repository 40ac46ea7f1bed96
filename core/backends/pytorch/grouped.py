"""Matrices of integers in groups of 32 along a row, as the compiled step reads them, and modules over them.

In `q8_0` (as GGUF's) w = scale * q with q from -127 to 127, in `q4_1` w = scale * q + least with q from 0 to 15; scales
and least values are fp16. A model in `q4_1` has its token table and its head in `q8_0`. Sixteen rows lie side by side
in a panel, so that one load of integers serves as many outputs; rows and columns that fill the last sixteen or 32 up
are zero. A row of inputs becomes integers of 8 bits when it is multiplied, with a scale for each group. The products
and the structures are in step.cpp. Knows torch's modules. Knows no family of models and no session.
"""

from __future__ import annotations

from functools import cache
from types import SimpleNamespace
from typing import Any

from core.backends.pytorch import native
from core.backends.pytorch.arena import Arena
from core.types import Progress

FORMS = {"q8_0": 2, "q4_1": 3}  # in Shape of step.cpp
TABLES = {"q4_1": "q8_0"}  # of the token table and the head, where not as the other matrices: as in core.dtypes
GROUP, PANEL = 32, 16
CHUNK = 1 << 20  # weights that are packed at a time: what is made of them on the way stays in the cache


class Matrix:
    """A matrix (out, in) in groups. data: (panels, bytes), uint8. Stands where a weight tensor does."""

    def __init__(self, kind: str, data: Any, n_out: int, n_in: int) -> None:
        import torch

        self.kind, self.form, self.data = kind, FORMS[kind], data
        self.shape, self.dtype, self.device = (n_out, n_in), torch.float32, data.device

    def __getitem__(self, rows: slice) -> Matrix:
        """Rows from where a panel begins."""
        begin, end, _ = rows.indices(self.shape[0])
        assert begin % PANEL == 0, "rows are cut where a panel begins"
        return Matrix(self.kind, self.data[begin // PANEL : -(-end // PANEL)], end - begin, self.shape[1])

    def detach(self) -> Matrix:
        return self

    def data_ptr(self) -> int:
        return int(self.data.data_ptr())

    @property
    def n_bytes(self) -> int:
        return int(self.data.numel())

    def rows(self, ids: Any) -> Any:
        """Rows `ids` (any shape) as fp32, (..., in)."""
        import torch

        flat = ids.reshape(-1).long().contiguous()
        found = torch.empty(flat.numel(), self.shape[1])
        native.library(in_groups=True).run_rows(
            self.form, self.data_ptr(), self.shape[1], flat.data_ptr(), flat.numel(), found.data_ptr()
        )
        return found.view(*ids.shape, -1)


def pack(weight: Any, kind: str, arena: Arena | None = None) -> Matrix:
    """weight: (out, in), of any floating dtype. arena: shared by the matrices of a model."""
    n_out, n_in = weight.shape
    step, data, done = max(PANEL, CHUNK // n_in // PANEL * PANEL), None, 0
    for i in range(0, n_out, step):
        part = _packed(weight[i : i + step].float(), kind)
        if data is None:
            n_panels, width = -(-n_out // PANEL), part.shape[1]
            data = (arena or Arena()).take(n_panels * width).view(n_panels, width)
        data[done : done + len(part)] = part
        done += len(part)
    return Matrix(kind, data, n_out, n_in)


def _packed(weight: Any, kind: str) -> Any:
    import torch

    n_out, n_in = weight.shape
    padded = torch.nn.functional.pad(weight, (0, -n_in % GROUP, 0, -n_out % PANEL))
    groups = padded.view(padded.shape[0], -1, GROUP)
    if kind == "q8_0":
        scale = (groups.abs().amax(-1) / 127).half()
        q = _steps(groups, scale).clamp_(-127, 127).add_(128).to(torch.uint8)
        # (panel, row, groups, steps, 4) -> (panel, groups, steps, row, 4)
        q = q.view(-1, PANEL, q.shape[1], GROUP // 4, 4).permute(0, 2, 3, 1, 4)
        return torch.cat([_of_panel(scale), q.flatten(1)], -1)
    scale, least = _fitted(groups)
    q = _steps(groups - least.float().unsqueeze(-1), scale).clamp_(0, 15).to(torch.uint8)
    # (panel, row, groups, eights, half, 4) -> (panel, groups, eights, row, 4), two halves in a byte
    q = q.view(-1, PANEL, q.shape[1], GROUP // 8, 2, 4).permute(4, 0, 2, 3, 1, 5)
    return torch.cat([_of_panel(scale, least), (q[0] | q[1] << 4).flatten(1)], -1)


def _steps(groups: Any, scale: Any) -> Any:
    """Whole numbers of steps; 0 where a step is 0."""
    import torch

    steps = scale.float().unsqueeze(-1)
    return torch.where(steps > 0, groups / steps, 0).round_()


def _fitted(groups: Any) -> tuple[Any, Any]:
    """Scale and least value of each group for four bits, fp16, (rows, groups)."""
    import torch

    groups = groups.contiguous()
    scale, least = torch.empty(groups.shape[:2]), torch.empty(groups.shape[:2])
    native.library(in_groups=True).run_fit(
        groups.data_ptr(), scale.numel(), scale.data_ptr(), least.data_ptr(), torch.get_num_threads()
    )
    return scale.half(), least.half()


def _of_panel(*of_groups: Any) -> Any:
    """Factors of each group, fp16 (rows, groups) -> bytes (panel, groups * factors * rows * 2)."""
    import torch

    panels = [x.view(-1, PANEL, x.shape[1]).transpose(1, 2) for x in of_groups]
    return torch.stack(panels, 2).flatten(1).view(torch.uint8)


@cache
def modules() -> SimpleNamespace:
    """The module classes, made once torch is imported. `weight` is a Matrix."""
    from torch import nn

    class GroupedLinear(nn.Module):  # type: ignore[misc]
        """y = x W^T (+ b)."""

        def __init__(self, weight: Matrix, bias: Any) -> None:
            super().__init__()
            self.weight, self.bias = weight, bias
            self.out_features, self.in_features = weight.shape

        def forward(self, x: Any) -> Any:
            return native.product(x, [(self.weight, self.bias)], self.weight.form).to(x.dtype)

    class GroupedEmbedding(nn.Module):  # type: ignore[misc]
        """Rows of a table, times a constant where the family has one."""

        def __init__(self, weight: Matrix, factor: float) -> None:
            super().__init__()
            self.weight, self._factor = weight, factor

        def forward(self, ids: Any) -> Any:
            found = self.weight.rows(ids)
            return found if self._factor == 1.0 else found * self._factor

    return SimpleNamespace(linear=GroupedLinear, embedding=GroupedEmbedding)


def replace(model: Any, kind: str, progress: Progress) -> None:
    """Put grouped modules in the places of all linear ones and of token tables; a tied head shares its table's.

    The table and the head are in the better format of TABLES, if there is one.
    """
    from torch import nn

    kinds = modules()
    old = [(path, m) for path, m in model.named_modules() if isinstance(m, nn.Linear | nn.Embedding)]
    head, of_tables = model.get_output_embeddings(), TABLES.get(kind, kind)
    packed: dict[int, Matrix] = {}  # by the address of the weights
    arena = Arena()
    for i, (path, module) in enumerate(old):
        progress(f"Weights to {kind}", i, len(old), "tensors")
        key = module.weight.data_ptr()
        if key not in packed:
            table = module is head or isinstance(module, nn.Embedding)
            packed[key] = pack(module.weight.detach(), of_tables if table else kind, arena)
        if isinstance(module, nn.Embedding):
            new = kinds.embedding(packed[key], float(getattr(module, "scalar_embed_scale", 1.0)))
        else:
            new = kinds.linear(packed[key], module.bias)
        model.set_submodule(path, new)
        old[i] = ("", None)  # the plain weights can go
    model.all_tied_weights_keys = {}
