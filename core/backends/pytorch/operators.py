"""A block in about twenty of PyTorch's operators; transformers' modules dispatch some eighty for the same.

One norm and both rotations are one operator each, and the query heads that share a key head are rows of one matrix.
Knows families.Parts and the cache's layers; the matrix products have several ways, see Product.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from core.backends.pytorch.families import Common, Linear, Parts
from core.backends.pytorch.grouped import Matrix

PAD = 16  # rows from which a packed kernel has its full speed


class Product:
    """x -> x W^T + b for the rows of several matrices, one under the other.

    way: "plain" is PyTorch's linear, "own" our compiled one, "packed" over a copy in the layout of oneDNN's kernels,
    "padded" that with rows of zeros up to 16. Matrices in groups have our own way only.
    """

    def __init__(self, linears: Sequence[Linear], compiled: Any) -> None:
        self._linears, self._compiled = tuple(linears), compiled
        self._packed: Any = None

    @property
    def n_bytes(self) -> int:
        return sum(weight.numel() * weight.element_size() for weight, _ in self._linears)

    @property
    def packed(self) -> bool:
        return self._packed is not None

    def pack(self) -> None:
        import torch

        if self._packed is None:
            weights = [weight for weight, _ in self._linears]
            whole = torch.cat(weights) if len(weights) > 1 else weights[0]
            biases = [bias for _, bias in self._linears if bias is not None]
            bias = torch.cat(biases) if biases else None
            self._packed = torch.ops.mkldnn._reorder_linear_weight(whole.contiguous(), None), bias

    def unpack(self) -> None:
        self._packed = None

    def __call__(self, x: Any, way: str) -> Any:
        import torch

        if way == "own" or isinstance(self._linears[0][0], Matrix):
            return self._compiled.product(x, self._linears).to(x.dtype)
        if way in ("packed", "padded") and self._packed is not None:
            weight, bias = self._packed
            rows = x.reshape(-1, x.shape[-1])
            n = rows.shape[0]
            if way == "padded" and n < PAD:
                rows = torch.nn.functional.pad(rows, (0, 0, 0, PAD - n))
            y = torch.ops.mkldnn._linear_pointwise(rows, weight, bias, "none", [], "")
            return y[:n].view(*x.shape[:-1], -1)
        parts = [torch.nn.functional.linear(x, weight, bias) for weight, bias in self._linears]
        return parts[0] if len(parts) == 1 else torch.cat(parts, -1)


class Operators:
    """One block over hidden states (batch, n, d) in the model's dtype."""

    def __init__(self, parts: Parts, common: Common, compiled: Any) -> None:
        self._c, self._rope = common, parts.rope
        self._dtype = parts.o[0].dtype
        device = parts.o[0].device
        self._norms: dict[str, Any] = {
            n: None if w is None else w.to(device, self._dtype) for n, w in parts.norms.items()
        }
        self._heads = None
        if "q_norm" in self._norms and common.per_head:  # one weight for every query head, another for every key head
            import torch

            q, k = self._norms["q_norm"], self._norms["k_norm"]
            self._heads = torch.cat((q.expand(common.n_q, -1), k.expand(common.n_kv, -1)))
        self._qkv, self._o = Product(parts.qkv, compiled), Product([parts.o], compiled)
        self._gate_up, self._down = Product(parts.gate_up, compiled), Product([parts.down], compiled)

    @property
    def products(self) -> tuple[Product, ...]:
        return self._qkv, self._o, self._gate_up, self._down

    def projected(self, hidden: Any, cos: Any, sin: Any, layer: Any, way: str) -> tuple[Any, Any, Any]:
        """Queries of these ids, (batch, n_q, n, d), and keys and values of all ids, which the layer's cache now has."""
        c, rotated = self._c, self._c.n_q + self._c.n_kv
        x = self._qkv(self._normed("before", hidden), way)
        if "q_norm" in self._norms and not c.per_head:
            q, k, v = x.split((c.n_q * c.d_head, c.n_kv * c.d_head, c.n_kv * c.d_head), -1)
            qk = self._norm(q, self._norms["q_norm"]), self._norm(k, self._norms["k_norm"])
            x = self._cat((*qk, v))
        x = x.unflatten(-1, (-1, c.d_head))
        qk = x[:, :, :rotated]
        if self._heads is not None:
            qk = self._norm(qk, None) * self._heads
        if self._rope:
            width = cos.shape[-1]
            turned = qk[..., :width]
            turned = (turned * cos).addcmul_(turned.roll(width // 2, -1), sin)
            qk = turned if width == c.d_head else self._cat((turned, qk[..., width:]))
        qk = qk.transpose(1, 2)
        return qk[:, : c.n_q], *layer.update(qk[:, c.n_q :], x[:, :, rotated:].transpose(1, 2))

    def __call__(self, hidden: Any, cos: Any, sin: Any, mask: Any, layer: Any, way: str) -> Any:
        from torch.nn import functional as F

        c = self._c
        queries, keys, values = self.projected(hidden, cos, sin, layer, way)
        batch, _, n, _ = queries.shape
        prompt = mask is None and n > 1
        if not prompt:  # query heads of one key head one under the other: no key is copied for them
            queries = queries.reshape(batch, c.n_kv, -1, c.d_head)
        seen = F.scaled_dot_product_attention(
            queries, keys, values, attn_mask=mask, is_causal=prompt, scale=c.scale, enable_gqa=prompt
        )
        seen = seen.reshape(batch, c.n_q, n, c.d_head).transpose(1, 2).reshape(batch, n, -1)
        hidden = hidden + self._normed("after_attention", self._o(seen, way))
        gate, up = self._gate_up(self._normed("between", hidden), way).chunk(2, -1)
        gate = F.gelu(gate, approximate="tanh") if c.gelu else F.silu(gate)
        return hidden + self._normed("after_mlp", self._down(gate.mul_(up), way))

    def _normed(self, name: str, x: Any) -> Any:
        return self._norm(x, self._norms[name]) if name in self._norms else x

    def _norm(self, x: Any, weight: Any) -> Any:
        from torch.nn import functional as F

        norm = F.layer_norm if self._c.centred else F.rms_norm
        return norm(x, x.shape[-1:], weight, eps=self._c.eps)

    @staticmethod
    def _cat(tensors: Sequence[Any]) -> Any:
        import torch

        return torch.cat(list(tensors), -1)
