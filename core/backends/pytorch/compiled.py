"""Blocks of a model run by step.cpp: one call for a range of them, over the weights as PyTorch has them.

Knows how families.Parts and a cache with room become the structures of native.py. Hidden states are fp32.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

from core.backends.pytorch import native
from core.backends.pytorch.families import Common, Linear, Parts
from core.backends.pytorch.grouped import Matrix
from core.backends.pytorch.native import address


def takes(model: Any) -> bool:
    """Whether the library reads such weights: on the processor, in groups, or row by row in fp32 or bf16."""
    import torch

    if isinstance(model.lm_head.weight, Matrix):
        return True
    rows = [p for p in model.parameters() if p.dim() == 2]
    dtypes = {p.dtype for p in rows}
    return (
        len(dtypes) == 1
        and dtypes <= {torch.float32, torch.bfloat16}
        and all(p.device.type == "cpu" and p.is_contiguous() for p in rows)
    )


class Compiled:
    """library: as native.library loads it. Raises nothing of its own."""

    def __init__(self, library: Any, blocks: Sequence[Parts], common: Common, rotated: int) -> None:
        import torch

        self._torch, self._library, self._common = torch, library, common
        self._dtype = blocks[0].o[0].dtype
        weight = blocks[0].o[0]
        self._form = weight.form if isinstance(weight, Matrix) else int(self._dtype == torch.bfloat16)
        self._shape = native.Shape(
            d=common.d,
            n_q=common.n_q,
            n_kv=common.n_kv,
            d_head=common.d_head,
            d_ff=common.d_ff,
            rotated=rotated,
            form=self._form,
            centred=common.centred,
            gelu=common.gelu,
            per_head=common.per_head,
            eps=common.eps,
            scale=common.scale,
        )
        self._held: list[Any] = []  # what the structures point to
        self._blocks = (native.Block * len(blocks))()
        for own, parts in zip(self._blocks, blocks, strict=True):
            self._describe(own, parts)
        self._scratch: Any = None
        self._like: dict[int, Any] = {}  # by batch: the shape of a cache layer

    def run(self, first: int, n: int, hidden: Any, n_past: int, cos: Any, sin: Any, mask: Any, layers: Any) -> None:
        """Run n blocks from the first on hidden states (batch, n, d), fp32, in place; the layers' caches grow.

        cos and sin: (n, rotated), fp32. mask: (n, n_past + n), fp32, added; None: a plain text.
        """
        batch, n_new, _ = hidden.shape
        if batch not in self._like:
            shape = (batch, self._common.n_kv, 0, self._common.d_head)
            self._like[batch] = self._torch.empty(shape, dtype=self._dtype)
        like, kept = self._like[batch], (native.Kept * n)()
        chosen = layers[first : first + n]
        for i, layer in enumerate(chosen):
            layer.make_room(n_new, like)
            kept[i] = layer.pointers
        threads = self._torch.get_num_threads()
        common = ctypes.byref(self._shape)
        n_floats = self._library.scratch_floats(common, batch, n_new, n_past, threads)
        if self._scratch is None or self._scratch.numel() < n_floats:
            self._scratch = self._torch.empty(n_floats + n_floats // 4)  # a cache that grows asks for more each step
        call = native.Call(
            batch=batch,
            n=n_new,
            n_past=n_past,
            threads=threads,
            hidden=hidden.data_ptr(),
            cos=cos.data_ptr(),
            sin=sin.data_ptr(),
            mask=address(mask),
            scratch=self._scratch.data_ptr(),
        )
        blocks = ctypes.byref(self._blocks, first * ctypes.sizeof(native.Block))
        self._library.run_blocks(common, blocks, kept, n, ctypes.byref(call))
        for layer in chosen:
            layer.written(n_new)

    def product(self, x: Any, linears: Sequence[Linear]) -> Any:
        """x W^T + b, fp32, of x (..., d_in) for the rows of several matrices, one under the other."""
        weight = linears[0][0]  # a head may be in another format than the blocks
        return native.product(x, linears, weight.form if isinstance(weight, Matrix) else self._form)

    def _describe(self, own: Any, parts: Parts) -> None:
        c = self._common
        sizes = {"q": c.n_q * c.d_head, "k": c.n_kv * c.d_head, "v": c.n_kv * c.d_head, "gate": c.d_ff, "up": c.d_ff}
        named: dict[str, Linear] = {"o": parts.o, "down": parts.down}
        for names, stacked in ((("q", "k", "v"), parts.qkv), (("gate", "up"), parts.gate_up)):
            if len(stacked) == len(names):
                named |= dict(zip(names, stacked, strict=True))
                continue
            ((weight, bias),), begins = stacked, 0
            for name in names:
                ends = begins + sizes[name]
                named[name] = weight[begins:ends], None if bias is None else bias[begins:ends]
                begins = ends
        for name, (weight, bias) in named.items():
            setattr(own, name, self._hold(weight))
            setattr(own, f"{name}_bias", self._hold(None if bias is None else bias.float()))
        for name, weight in parts.norms.items():
            setattr(own, name, self._hold(weight))
            own.norms |= native.BITS[name]
        own.rope = parts.rope

    def _hold(self, tensor: Any) -> int | None:
        if tensor is not None:
            self._held.append(tensor)
        return address(tensor)
