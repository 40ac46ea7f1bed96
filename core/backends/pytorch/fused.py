"""A forward of Llama-like models without transformers' modules: a step of few tokens costs their dispatch.

Through transformers a forward of a 30-block model dispatches some 2,600 operators. Here it is one call of a compiled
library (compiled, native), or about twenty operators a block (operators). Which way is taken for how many rows is
measured once per machine (ways), transformers' own among them. The weights are the model's own, in huge pages where
they do not lie in their file (arena), so that its modules can run as well: for the library's own loop, and for a trace
of its layers. It is the same arithmetic, rounded in another order. Knows no session.
"""

from __future__ import annotations

import time
from functools import partial
from types import SimpleNamespace
from typing import Any

from core.backends.pytorch import arena, families, native, ways
from core.backends.pytorch.compiled import Compiled, takes
from core.backends.pytorch.depth import Modules, cut
from core.backends.pytorch.grouped import Matrix
from core.backends.pytorch.operators import PAD, Operators, Product
from core.backends.pytorch.room import with_room
from core.backends.pytorch.ways import COMPILED, MODULES, PLAIN, Ways
from core.types import ModelSpec, Progress

TABLE = 1024  # positions by which the table of angles grows


def possible(model: Any, cache: Any) -> bool:
    """Whether the model is built as this file needs it: known blocks of plain matrices, full attention."""
    from transformers.cache_utils import DynamicLayer

    plain = cache is not None and bool(cache.layers) and all(type(layer) is DynamicLayer for layer in cache.layers)
    return plain and families.known(model)


class Fused:
    """Called like the model it is made of.

    Also what core.backends.pytorch.depth needs to leave blocks out. All tensors are (batch, n, ...), caches have room
    (core.backends.pytorch.room). ways: which way for how many rows. without: why there is no compiled library; empty
    where there is. grouped: weights are integers in groups, for which there is nothing to choose.
    """

    def __init__(self, model: Any) -> None:
        import torch

        body, self.common = model.model, families.common(model)
        self._model = model
        self.grouped = isinstance(model.lm_head.weight, Matrix)
        self.without, library = "", None
        if not takes(model):
            self.without = "its kernels are for fp32 and bf16 on the processor"
        else:
            try:
                library = native.library(self.grouped)
            except native.UnbuiltError as error:
                self.without = str(error)
        if library is not None and not self.grouped:
            arena.move(model)
        parts = families.parts(model)
        self._embed, self.norm, self._head = body.embed_tokens, body.norm, model.lm_head
        self._angles = _Angles(body.rotary_emb)
        self._modules = Modules(model)
        self.dtype = self._head.weight.dtype
        rotated = self._angles.rows(0, 1)[0].shape[-1]
        self._compiled = None if library is None else Compiled(library, parts, self.common, rotated)
        self._blocks = [Operators(p, self.common, self._compiled) for p in parts]
        self._unembed = Product([(self._head.weight.detach(), None)], self._compiled)
        emulated = self.dtype != torch.float32 and not _packs(self._head.weight)
        ours = self.grouped or (emulated and self.dtype == torch.bfloat16)
        self._likely = Ways.unmeasured(self.compiled, ours)
        self.ways = self._likely

    @property
    def compiled(self) -> bool:
        return self._compiled is not None

    def __call__(
        self,
        x: Any,
        *,
        past_key_values: Any,
        use_cache: bool = True,
        logits_to_keep: int = 0,
        attention_mask: Any = None,
        position_ids: Any = None,
    ) -> Any:
        """Logits of the last `logits_to_keep` ids (0: all) as .logits; the cache grows by all ids.

        attention_mask: additive, (1, 1, n, n_past + n), with position_ids (1, n): of a tree. None: a plain text.
        """
        if self.ways.blocks(x.numel()) == MODULES:
            tree = {} if attention_mask is None else {"attention_mask": attention_mask, "position_ids": position_ids}
            return self._model(
                x, past_key_values=past_key_values, use_cache=use_cache, logits_to_keep=logits_to_keep, **tree
            )
        n_past = past_key_values.get_seq_length()
        hidden, around = self.start(x, past_key_values, n_past, attention_mask, position_ids)
        if around.way == COMPILED:
            self._run(0, len(self._blocks), hidden, around)
        else:
            for i in range(len(self._blocks)):
                hidden = self.block(i, hidden, around)
        return SimpleNamespace(logits=self.logits(hidden[:, -logits_to_keep:], self.norm))

    @property
    def n_blocks(self) -> int:
        return len(self._blocks)

    def start(
        self, x: Any, cache: Any, n_past: int, mask: Any = None, positions: Any = None
    ) -> tuple[Any, SimpleNamespace]:
        """What goes into the first block, and what every block gets beside it."""
        n, way = x.shape[1], self.ways.blocks(x.numel())
        if way == MODULES and mask is None:
            hidden, own = self._modules.start(x, cache, n_past)
            return hidden, SimpleNamespace(way=way, cache=cache, n_past=n_past, mask=None, own=own, positions=None)
        way = PLAIN if way == MODULES else way
        hidden = self._embed(x)
        around = SimpleNamespace(way=way, cache=cache, n_past=n_past, positions=positions, mask=mask)
        if way == COMPILED:
            hidden = hidden.float().contiguous()
            around.cos, around.sin = self._angles.of(n_past, n, positions)
            around.mask = None if mask is None else mask.reshape(n, -1).float().contiguous()
        else:
            self._lay_out(around, n)
        return hidden, around

    def block(self, i: int, hidden: Any, around: SimpleNamespace) -> Any:
        if around.way == COMPILED:
            self._run(i, 1, hidden, around)
            return hidden
        if around.way == MODULES:
            return self._modules.block(i, hidden, around.own)
        return self._blocks[i](hidden, around.cos, around.sin, around.mask, around.cache.layers[i], around.way)

    def remember(self, i: int, hidden: Any, around: SimpleNamespace) -> None:
        """Write the keys and values that block i would have made of this hidden state."""
        laid = SimpleNamespace(n_past=around.n_past, positions=around.positions, mask=None)
        self._lay_out(laid, hidden.shape[1])
        way = PLAIN if around.way in (COMPILED, MODULES) else around.way
        self._blocks[i].projected(hidden.to(self.dtype), laid.cos, laid.sin, around.cache.layers[i], way)

    def logits(self, hidden: Any, norm: Any) -> Any:
        x = norm(hidden.to(self.dtype))
        for hook in self._head._forward_pre_hooks.values():  # Medusa heads read what the unembedding is given
            hook(self._head, (x,))
        return self._head_by(self.ways.head(x.shape[0] * x.shape[1]), x)

    def _head_by(self, way: str, x: Any) -> Any:
        if way == COMPILED and self._compiled is not None:
            return self._compiled.product(x, [(self._head.weight, None)])
        return self._unembed(x, way)

    def _run(self, first: int, n: int, hidden: Any, around: SimpleNamespace) -> None:
        assert self._compiled is not None, "there is no library"
        layers = around.cache.layers
        self._compiled.run(first, n, hidden, around.n_past, around.cos, around.sin, around.mask, layers)

    def _lay_out(self, around: SimpleNamespace, n: int) -> None:
        """Angles and mask as the operators want them."""
        import torch

        cos, sin = (t.to(self.dtype)[None, :, None] for t in self._angles.of(around.n_past, n, around.positions))
        half = sin.shape[-1] // 2
        around.cos = cos
        around.sin = torch.cat((-sin[..., :half], sin[..., half:]), -1)  # the sign that rotating by a half brings
        mask = around.mask
        if mask is None and n > 1 and around.n_past:
            width = around.n_past + n
            mask = torch.full((n, width), -torch.inf, dtype=self.dtype, device=cos.device).triu(around.n_past + 1)
        if mask is not None:
            mask = mask.reshape(n, -1).repeat(self.common.n_q // self.common.n_kv, 1)
        around.mask = mask

    # ------------------------------------------------------------ which way

    def tune(self, spec: ModelSpec, dtype: str, progress: Progress) -> None:
        """Take the ways that are the fastest here for such a model, which are measured if they never were."""
        import torch

        if self.grouped:
            return
        total = sum(p.n_bytes for block in self._blocks for p in block.products)
        if total < ways.SMALL_BYTES:
            return
        threads = torch.get_num_threads()
        known = found = ways.kept(spec, dtype, threads) or Ways()
        if set(known.ms) != set(ways.ROWS):
            progress("Measuring which kernels are the fastest here")
            found = ways.undisturbed(lambda: self._measured(total, known), known)
            if found is not known:
                ways.keep(spec, dtype, threads, found)
        self.take(found.over(self._likely))

    def take(self, found: Ways) -> None:
        """Use these ways; second copies of weights are made where one wants them."""
        for needed, products in ((found.packs, self._in_blocks(self.n_blocks)), (found.packs_head, [self._unembed])):
            for product in products:
                product.pack() if needed else product.unpack()
        self.ways = found

    @property
    def packed_bytes(self) -> int:
        """Of second copies of weights."""
        return sum(p.n_bytes for p in (*self._in_blocks(self.n_blocks), self._unembed) if p.packed)

    def _in_blocks(self, n: int) -> list[Product]:
        return [product for block in self._blocks[:n] for product in block.products]

    def _measured(self, total: int, found: Ways) -> Ways:
        """What was found, and what a short while can add. total: bytes of the blocks' matrices."""
        import torch
        from transformers import DynamicCache

        begun = time.perf_counter()
        many = min(self.n_blocks, -(-ways.STREAM_BYTES // (total // self.n_blocks)))
        packed = _packs(self._head.weight) and ways.packable(total + self._unembed.n_bytes)
        absent = set() if self._compiled else {COMPILED, ways.OWN}
        absent |= set() if packed else {ways.PACKED, ways.PADDED}
        cache = with_room(DynamicCache(config=self._model.config))
        of_blocks, of_head, ms = dict(found.of_blocks), dict(found.of_head), dict(found.ms)
        before = self.ways
        try:
            with torch.inference_mode():
                for product in (*self._in_blocks(many), self._unembed) if packed else ():
                    product.pack()
                self._time_blocks(self._likely.blocks(1), torch.zeros(1, ways.PAST, dtype=torch.long), cache, 0, many)
                for rows in (n for n in ways.FIRST if n not in found.ms):
                    if len(ms) > len(found.ms) and time.perf_counter() - begun > ways.BUDGET_S:
                        break
                    few = rows <= ways.FEW
                    # padding is for kernels that take many rows at a time; our own product alone is for prompts
                    far = absent | (set() if rows < PAD and self.dtype != torch.float32 else {ways.PADDED})
                    far |= {ways.OWN} if few and self._compiled else set()
                    n = many if rows <= 8 else max(1, many * 8 // rows)  # more rows compute more than they read
                    ids = torch.zeros(1, rows, dtype=torch.long)
                    runs = {
                        way: partial(self._time_blocks, way, ids, cache, ways.PAST, n)
                        for way in ways.BLOCK_WAYS
                        if way not in far
                    }
                    timed = ways.race(runs)
                    of_blocks[rows] = ways.choose(timed, ways.BLOCK_WAYS)
                    ms[rows] = {way: 1000 * seconds for way, seconds in timed.items()}
                    if few:
                        x = torch.zeros(1, rows, self.common.d, dtype=self.dtype)
                        heads = {w: partial(self._head_by, w, x) for w in ways.HEAD_WAYS if w not in far}
                        of_head[rows] = ways.choose(ways.race(heads), ways.HEAD_WAYS)
        finally:
            self.ways = before
            for product in (*self._in_blocks(many), self._unembed):
                product.unpack()
        return Ways(of_blocks=of_blocks, of_head=of_head, ms=ms)

    def _time_blocks(self, way: str, ids: Any, cache: Any, n_past: int, n: int) -> None:
        """The first n blocks; what the cache held behind n_past is dropped before."""
        cut(cache, n_past)
        self.ways = Ways.always(way)
        hidden, around = self.start(ids, cache, n_past)
        if way == COMPILED:
            self._run(0, n, hidden, around)
            return
        for i in range(n):
            hidden = self.block(i, hidden, around)


def _packs(weight: Any) -> bool:
    """Whether this processor's kernels have a layout of their own for it; torch.compile uses the same."""
    import torch

    if weight.device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    return weight.dtype == torch.float32 or (
        weight.dtype == torch.bfloat16 and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    )


class _Angles:
    """cos and sin of every position in fp32, (n, rotated); a table where they do not depend on the text's length."""

    def __init__(self, rope: Any) -> None:
        self._rope = rope
        self._fixed = getattr(rope, "rope_type", "") in ("default", "linear", "llama3", "yarn")
        self._table: Any = None

    def of(self, n_past: int, n: int, positions: Any) -> tuple[Any, Any]:
        """positions: (1, n), of a tree; None: the n after n_past."""
        if positions is not None:
            return self._made(positions)
        return self.rows(n_past, n)

    def rows(self, n_past: int, n: int) -> tuple[Any, Any]:
        import torch

        device = self._rope.inv_freq.device
        if not self._fixed:
            return self._made(torch.arange(n_past, n_past + n, device=device)[None])
        if self._table is None or self._table[0].shape[0] < n_past + n:
            size = -(-(n_past + n) // TABLE) * TABLE
            self._table = self._made(torch.arange(size, device=device)[None])
        return tuple(t[n_past : n_past + n] for t in self._table)

    def _made(self, positions: Any) -> tuple[Any, Any]:
        import torch

        like = torch.empty(1, dtype=torch.float32, device=positions.device)
        cos, sin = self._rope(like, position_ids=positions)
        return cos[0].contiguous(), sin[0].contiguous()
