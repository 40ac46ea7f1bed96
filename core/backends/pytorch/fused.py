"""A forward of Llama-like models in few, large operators: a step of few tokens costs their dispatch.

Through transformers a forward of a 30-block model dispatches some 2,600 operators. Here a block is about twenty: one
product for queries, keys and values, one for gate and up, a norm and both rotations in one operator each, and the
query heads that share a key head as rows of one matrix. On a CPU the weights are laid out once as its matrix kernels
want them. It is the same arithmetic, rounded in another order, over the same DynamicCache. Knows no session.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from core.backends.pytorch.depth import FAMILIES
from core.backends.pytorch.load import give_back


def possible(model: Any, cache: Any) -> bool:
    """Whether the model is built as this file needs it: known blocks of plain matrices, full attention."""
    from transformers.cache_utils import DynamicLayer

    config = model.config
    plain = cache is not None and bool(cache.layers) and all(type(layer) is DynamicLayer for layer in cache.layers)
    known = getattr(config, "model_type", None) in FAMILIES and getattr(config, "hidden_act", None) == "silu"
    return plain and known and getattr(config, "quantization_config", None) is None


class Fused:
    """Called like the model it is made of, whose blocks it takes: their weights are here, and no longer there.

    Also what core.backends.pytorch.depth needs to leave blocks out. All tensors are (batch, n, ...).
    """

    def __init__(self, model: Any) -> None:
        import torch

        body, config = model.model, model.config
        self._embed, self._rope, self.norm, self._head = body.embed_tokens, body.rotary_emb, body.norm, model.lm_head
        self._blocks = []
        for i, block in enumerate(body.layers):
            self._blocks.append(_Block(block, config))
            body.layers[i] = torch.nn.Identity()
            give_back()  # one after the other, so that no more than one is held twice
        self._group = config.num_attention_heads // config.num_key_value_heads
        self._head.forward = _Product([self._head])  # still a module, which tells what it is given
        if self._head.weight is not self._embed.weight:
            self._head.weight = None
        if _packs(self._embed.weight):  # then nothing but these few still lies in the file, which can leave the memory
            for rest in model.parameters():
                rest.data = rest.data.clone()

    def __call__(
        self,
        x: Any,
        *,
        past_key_values: Any,
        use_cache: bool = True,
        logits_to_keep: int = 0,
        attention_mask: Any = None,
        position_ids: Any = None,
    ) -> SimpleNamespace:
        """Logits of the last `logits_to_keep` ids (0: all) as .logits; the cache grows by all ids.

        attention_mask: additive, (1, 1, n, n_past + n), with position_ids (1, n): of a tree. None: a plain text.
        """
        n_past = past_key_values.get_seq_length()
        hidden, around = self.start(x, past_key_values, n_past, attention_mask, position_ids)
        for i in range(len(self._blocks)):
            hidden = self.block(i, hidden, around)
        return SimpleNamespace(logits=self.logits(hidden[:, -logits_to_keep:], self.norm))

    @property
    def n_blocks(self) -> int:
        return len(self._blocks)

    def start(self, x: Any, cache: Any, n_past: int, mask: Any = None, positions: Any = None) -> tuple[Any, Any]:
        """What goes into the first block, and what every block gets beside it."""
        import torch

        n = x.shape[1]
        hidden = self._embed(x)
        if positions is None:
            positions = torch.arange(n_past, n_past + n, device=x.device)[None]
        cos, sin = (t.unsqueeze(2) for t in self._rope(hidden, position_ids=positions))
        half = sin.shape[-1] // 2
        sin = torch.cat((-sin[..., :half], sin[..., half:]), -1)  # the sign that rotating by a half brings
        if mask is None and n > 1 and n_past:
            mask = torch.full((n, n_past + n), -torch.inf, dtype=hidden.dtype, device=x.device).triu(n_past + 1)
        if mask is not None:
            mask = mask.reshape(n, -1).repeat(self._group, 1)
        return hidden, (cos, sin, mask, cache)

    def block(self, i: int, hidden: Any, around: Any) -> Any:
        cos, sin, mask, cache = around
        return self._blocks[i](hidden, cos, sin, mask, cache.layers[i])

    def remember(self, i: int, hidden: Any, around: Any) -> None:
        """Write the keys and values that block i would have made of this hidden state."""
        cos, sin, _, cache = around
        self._blocks[i].projected(hidden, cos, sin, cache.layers[i])

    def logits(self, hidden: Any, norm: Any) -> Any:
        return self._head(norm(hidden))


class _Block:
    """One block: attention and gated MLP, each behind its norm and added to what came in."""

    def __init__(self, block: Any, config: Any) -> None:
        import torch

        attention, mlp = block.self_attn, block.mlp
        self._n_q, self._n_kv = config.num_attention_heads, config.num_key_value_heads
        self._d, self._scale, self._eps = attention.head_dim, attention.scaling, config.rms_norm_eps
        norms = block.input_layernorm, block.post_attention_layernorm
        self._before, self._between = (norm.weight.detach().clone() for norm in norms)
        self._heads = None
        if hasattr(attention, "q_norm"):  # one weight for every query head, another for every key head
            q, k = attention.q_norm.weight, attention.k_norm.weight
            self._heads = torch.cat((q.expand(self._n_q, -1), k.expand(self._n_kv, -1))).detach()
        self._qkv = _Product([attention.q_proj, attention.k_proj, attention.v_proj])
        self._o, self._down = _Product([attention.o_proj]), _Product([mlp.down_proj])
        self._gate_up = _Product([mlp.gate_proj, mlp.up_proj])

    def projected(self, hidden: Any, cos: Any, sin: Any, layer: Any) -> tuple[Any, Any, Any]:
        """Queries of these ids, (batch, n_q, n, d), and keys and values of all ids, which the layer's cache now has."""
        rotated = self._n_q + self._n_kv
        x = self._qkv(self._norm(hidden, self._before)).unflatten(-1, (-1, self._d))
        qk = x[:, :, :rotated]
        if self._heads is not None:
            qk = self._norm(qk, None) * self._heads
        qk = (qk * cos).addcmul_(qk.roll(self._d // 2, -1), sin).transpose(1, 2)
        return qk[:, : self._n_q], *layer.update(qk[:, self._n_q :], x[:, :, rotated:].transpose(1, 2))

    def __call__(self, hidden: Any, cos: Any, sin: Any, mask: Any, layer: Any) -> Any:
        from torch.nn import functional as F

        queries, keys, values = self.projected(hidden, cos, sin, layer)
        batch, _, n, _ = queries.shape
        prompt = mask is None and n > 1
        if not prompt:  # query heads of one key head one under the other: no key is copied for them
            queries = queries.reshape(batch, self._n_kv, -1, self._d)
        seen = F.scaled_dot_product_attention(
            queries, keys, values, attn_mask=mask, is_causal=prompt, scale=self._scale, enable_gqa=prompt
        )
        seen = seen.reshape(batch, self._n_q, n, self._d).transpose(1, 2).reshape(batch, n, -1)
        hidden = hidden + self._o(seen)
        gate, up = self._gate_up(self._norm(hidden, self._between)).chunk(2, -1)
        return hidden + self._down(F.silu(gate).mul_(up))

    def _norm(self, x: Any, weight: Any) -> Any:
        from torch.nn import functional as F

        return F.rms_norm(x, x.shape[-1:], weight, self._eps)


class _Product:
    """x -> x W^T + b for the rows of several linear layers, one under the other."""

    def __init__(self, linears: Sequence[Any]) -> None:
        import torch

        weights, biases = [x.weight for x in linears], [x.bias for x in linears if x.bias is not None]
        self._weight = torch.cat(weights).detach() if len(weights) > 1 else weights[0].detach()
        self._bias = torch.cat(biases).detach() if biases else None
        self._packed = None
        if _packs(self._weight):
            self._packed, self._weight = torch.ops.mkldnn._reorder_linear_weight(self._weight, None), None

    def __call__(self, x: Any) -> Any:
        import torch

        if self._packed is None:
            return torch.nn.functional.linear(x, self._weight, self._bias)
        return torch.ops.mkldnn._linear_pointwise(x, self._packed, self._bias, "none", [], "")


def _packs(weight: Any) -> bool:
    """Whether this processor's kernels have a layout of their own for it; torch.compile uses the same."""
    import torch

    if weight.device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    return weight.dtype == torch.float32 or (
        weight.dtype == torch.bfloat16 and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    )
