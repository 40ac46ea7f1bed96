"""The Session over a transformers model: forward passes, its KV cache, and what is taken back out of it.

Loading is in load, the library's own loop in stream, layer times in trace, forward passes that leave blocks out in
depth, those of trees in tree, the fused step in fused, a cache with room in room.
"""

from __future__ import annotations

import gc
import inspect
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from core.backends.pytorch import fused as fused
from core.backends.pytorch import heads as heads
from core.backends.pytorch import load as load
from core.backends.pytorch import room as room
from core.backends.pytorch import tree as tree
from core.backends.pytorch.count import count
from core.backends.pytorch.depth import Depth, complete, cut, depth_of
from core.backends.pytorch.stream import generate
from core.backends.pytorch.trace import TorchTrace
from core.tokenizers.folder import check_around, check_in_table, end_ids, named
from core.tokenizers.library import special_tokens
from core.types import Count, GenerationConfig, Ids, Ledger, ModelSpec, Progress
from hardware.errors import ExplorerError
from hardware.heap import give_back

Of = Literal["model", "blocks"]
UNLIMITED = 1 << 20  # tokens, for models whose state does not grow
COUNT_NOTE = "Scores behind the causal mask are counted; whether the kernel skips them cannot be seen."


class TorchLogits:
    """Logits on the device, shape (batch, n_kept, vocab)."""

    def __init__(self, tensor: Any) -> None:
        self._tensor = tensor
        self._best: Ids | None = None  # a strategy asks more than once

    def argmax(self) -> Ids:
        if self._best is None:
            on_cpu = self._tensor.device.type == "cpu"  # NumPy takes a tenth of torch's 0.1 ms here
            best = self.numpy().argmax(-1) if on_cpu else self._tensor.argmax(-1).cpu().numpy()
            self._best = np.asarray(best, dtype=np.int64)
        return self._best

    def numpy(self) -> NDArray[np.float32]:
        return np.asarray(self._tensor.float().cpu().numpy(), dtype=np.float32)


class TorchSession:
    """core.types.Session over a transformers model.

    Causal models hold a DynamicCache. Those with a recurrent state (Mamba and hybrids) cannot roll
    it back, and transformers starts a forward of several tokens from a zero state, so there they are
    fed one by one after the first forward. Encoders have no cache: each forward stands alone.
    """

    def __init__(self, model: Any, tokenizer: Any, spec: ModelSpec, device: str) -> None:
        import torch
        import transformers
        from transformers.cache_utils import LinearAttentionCacheLayerMixin

        self._torch, self._model, self._tokenizer = torch, model, tokenizer
        self._call = model  # what a forward calls
        self.spec = spec
        self.max_context = spec.max_context or getattr(model.config, "max_position_embeddings", None) or UNLIMITED
        self.chat_templates = named(tokenizer.chat_template)
        self.special_tokens = special_tokens(tokenizer)
        self.chat_template = self.chat_templates.get("default")
        self.bos_token, self.eos_token = tokenizer.bos_token or "", tokenizer.eos_token or ""
        self.eos_ids = end_ids(getattr(model, "generation_config", None), model.config, tokenizer)
        self.opening, self.closing = load.added(tokenizer)
        check_around(self, spec)
        # generate fills what a request leaves open from here: stop tokens, temperature, penalties
        model.generation_config = transformers.GenerationConfig()
        self.setup = load.setup(model, spec, device)
        self.ran = Ledger()
        self.warnings: tuple[str, ...] = ()
        self._device = device
        parameters = inspect.signature(model.forward).parameters
        self._cache_argument = next((a for a in ("past_key_values", "cache_params") if a in parameters), None)
        if not spec.causal:
            self._cache_argument = None
        self._keeps_logits = "logits_to_keep" in parameters
        self._committed = self._pending = 0
        self._cache: Any = None
        self._roomy = False  # whether the cache is one with room, as the fused step wants it
        self._trace: TorchTrace | None = None
        self.reset()
        kinds: Sequence[Any] = self._cache.layers if self._cache is not None else ()
        self._recurrent = any(isinstance(layer, LinearAttentionCacheLayerMixin) for layer in kinds)
        self._windowed = any(hasattr(layer, "activate_past_recording") for layer in kinds) and not self._recurrent
        self.reset()
        can = {"forward", "batch", "layers", "count"}
        if self._cache_argument:
            can |= {"cache", "stream"} if self._recurrent else {"cache", "stream", "rollback"}
        if "rollback" in can and not self._windowed:  # a window has let go of the tokens before it
            can.add("rewind")
        if "rewind" in can and tree.possible(self._cache, parameters):
            can.add("tree")
        self._parents: Sequence[int] = ()  # of the pending tokens, where they form a tree
        self.head_accuracy: tuple[tuple[float, ...], ...] = ()
        self._heads: heads.Heads | None = None
        self._depth_of_modules = self._depth_of_step = depth_of(model) if "rewind" in can else None
        self.exit_heads = self._depth.exit_heads if self._depth else ()
        if self._depth is not None:
            can.add("depth")
        self.capabilities = frozenset(can)

    @property
    def _depth(self) -> Depth | None:
        """Runs some of the blocks; through transformers' modules while their layers are traced."""
        return self._depth_of_step if self._trace is None else self._depth_of_modules

    @property
    def n_committed(self) -> int:
        return self._committed

    def encode(self, text: str) -> list[int]:
        ids = list(self._tokenizer.encode(text, add_special_tokens=False))
        check_in_table(ids, self.spec)
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def forward(self, ids: Ids, keep: int | None = None) -> TorchLogits:
        with load.explained("The forward pass failed", "The run's log says more."):
            return self._forward(ids, keep)

    def _forward(self, ids: Ids, keep: int | None) -> TorchLogits:
        n, x = ids.shape[1], self._next(ids)
        assert self._depth is None or complete(self._cache, self._committed), "a block has missed a token"
        with self._torch.inference_mode():
            if self._recurrent and self._committed and n > 1:
                rows = [self._run(x[:, i : i + 1], 1) for i in range(n)]
                for i in range(n):
                    self.ran.note(1, 1, self._committed + i, len(ids))
                logits = self._torch.cat(rows if keep is None else rows[n - keep :], dim=1)
            else:
                logits = self._run(x, keep)
                self.ran.note(n, self._n_logits(n, keep), self._committed, len(ids))
        self._pending = n
        return TorchLogits(logits)

    def _n_logits(self, n: int, keep: int | None) -> int:
        """Of how many positions the model computes logits where so many are asked for."""
        return min(keep, n) if keep is not None and self._keeps_logits else n

    def _run(self, x: Any, keep: int | None, **arguments: Any) -> Any:
        # No attention mask and no positions but a tree's: all sequences have the same length, the cache knows the rest.
        if self._cache_argument:
            arguments |= {self._cache_argument: self._cache, "use_cache": True}
        call = self._call if self._trace is None else self._model  # a trace sees modules
        if self._keeps_logits:
            return call(x, logits_to_keep=keep or 0, **arguments).logits
        logits = call(x, **arguments).logits
        return logits if keep is None else logits[:, -keep:]

    def forward_to(self, ids: Ids, depth: int, keep: int | None = None) -> TorchLogits:
        return self._forward_through(ids, range(depth), keep, "blocks")

    def forward_through(self, ids: Ids, blocks: Sequence[int], keep: int | None = None) -> TorchLogits:
        return self._forward_through(ids, blocks, keep, "model")

    def _forward_through(self, ids: Ids, blocks: Sequence[int], keep: int | None, of: Of) -> TorchLogits:
        assert self._depth is not None, "the model cannot leave blocks out"
        x = self._next(ids)
        with load.explained("The forward pass failed", "The run's log says more."), self._torch.inference_mode():
            logits = self._depth.through(x, self._cache, self._committed, blocks, keep)
        n = self._pending = ids.shape[1]
        n_logits = n if keep is None else min(keep, n)
        self.ran.note(n, n_logits, self._committed, len(ids), of, blocks)
        self._note_exit(blocks[-1] + 1, n_logits, len(ids))
        return TorchLogits(logits)

    def forward_exit(self, ids: Ids, threshold: float, exits: Sequence[int]) -> tuple[TorchLogits, int]:
        assert self._depth is not None, "the model cannot leave early"
        x = self._next(ids)
        with load.explained("The forward pass failed", "The run's log says more."), self._torch.inference_mode():
            logits, ran = self._depth.until_confident(x, self._cache, self._committed, threshold, exits)
        self._pending, n_blocks = 1, self.spec.n_blocks
        asked = sorted({e for e in exits if e <= ran and e < n_blocks})
        self.ran.note(1, len(asked) + (ran == n_blocks), self._committed, len(ids), "model", range(ran))
        for block in asked:
            self._note_exit(block, 1, len(ids))
        if ran < n_blocks:
            self.ran.note(1, 0, self._committed, len(ids), "fill", range(ran, n_blocks))
        return TorchLogits(logits), ran

    def _note_exit(self, block: int, n_logits: int, n_sequences: int) -> None:
        """Behind this block logits were computed: by a trained head, if it has one."""
        assert self._depth is not None
        if rank := self._depth.exit_ranks.get(block):
            self.ran.note(rank, n_logits, 0, n_sequences, "exits")

    def _next(self, ids: Ids) -> Any:
        """The ids on the device, with what was pending gone and room for them in the context."""
        self._drop(self._pending)
        self._parents = ()
        self._check_context(ids.shape[1])
        return self._torch.from_numpy(np.ascontiguousarray(ids)).to(self._device)

    def forward_tree(self, ids: Ids, parents: Sequence[int]) -> TorchLogits:
        assert "tree" in self.capabilities, "the session cannot run a tree"
        assert ids.shape == (1, len(parents)), "one sequence, with a parent for each token"
        with load.explained("The forward pass failed", "The run's log says more."), self._torch.inference_mode():
            self._drop(self._pending)
            sees, depth = tree.layout(parents)
            self._check_context(int(depth.max()) + 1)
            x, positions = (
                self._torch.from_numpy(np.ascontiguousarray(a)).to(self._device)
                for a in (ids, depth[None] + self._committed)
            )
            mask = tree.attention(sees, self._committed, self._model.dtype, self._device)
            logits = self._run(x, None, attention_mask=mask, position_ids=positions)
        n = self._pending = len(parents)
        self._parents = tuple(parents)
        self.ran.note(n, n, self._committed, 1)
        return TorchLogits(logits)

    def commit_path(self, indices: Sequence[int]) -> None:
        path = [-1, *indices]
        assert len(self._parents) == self._pending and all(
            0 <= i < self._pending and self._parents[i] == before for before, i in zip(path, indices, strict=False)
        ), "not a path of the last tree"
        with self._torch.inference_mode():
            tree.keep(self._cache, self._committed, indices)
        self.commit(len(indices))

    def guesses(self, index: int) -> NDArray[np.float32]:
        assert self._heads is not None, "the model has no heads"
        n_heads = len(self.head_accuracy)
        self.ran.note(n_heads, n_heads, 0, 1, "heads")
        return self._heads.guesses(index)

    def add_heads(self, found: heads.Heads) -> None:
        self._heads, self.head_accuracy = found, found.accuracy
        self.capabilities |= {"heads"}

    def commit(self, n: int) -> None:
        assert 0 <= n <= self._pending, "more tokens committed than are pending"
        if not self._cache_argument:
            raise ExplorerError("An encoder keeps no tokens.", "Choose a model that can generate.")
        self._drop(self._pending - n)
        self._committed += n
        self._pending = 0

    def rewind(self, n: int) -> None:
        assert "rewind" in self.capabilities and 0 <= n <= self._committed, "these tokens cannot be taken back"
        self._drop(self._pending)
        if n:
            with self._torch.inference_mode():
                self._crop(self._committed - n, n)
        self._committed -= n

    def _drop(self, n: int) -> None:
        """Take the last n pending tokens out of the cache."""
        if not self._pending or not self._cache_argument:
            return
        if n and self._recurrent:
            raise ExplorerError(
                "A model with a recurrent state cannot take tokens back.", "Choose a strategy without rollback."
            )
        if n or self._windowed:  # a windowed cache also uses the call to shrink back to its window
            with self._torch.inference_mode():
                self._crop(self._committed + self._pending - n, n)
        self._pending = 0

    def _crop(self, left: int, n: int) -> None:
        """Take the last n tokens out of the cache, which leaves so many in every block that has seen them all."""
        if self._depth is not None:
            cut(self._cache, left)
        else:
            self._cache.crop(-n)

    def reset(self) -> None:
        self._committed = self._pending = 0
        if not self._cache_argument:
            return
        from transformers import DynamicCache

        self._cache = DynamicCache(config=self._open_model().config)
        if self._roomy:
            room.with_room(self._cache)
        if getattr(self, "_windowed", False):
            self._cache.activate_past_recording()

    def sync(self) -> None:
        if self._device.startswith("cuda"):
            self._torch.cuda.synchronize()
        elif self._device == "mps":
            self._torch.mps.synchronize()

    def stream(self, ids: Ids, config: GenerationConfig) -> Iterator[Ids]:
        if "stream" not in self.capabilities:
            raise ExplorerError("This model cannot generate.", "Choose a model with a language modelling head.")
        self.reset()
        self._check_context(ids.shape[1])
        pad = min(config.stop or self.eos_ids or {0})
        x = self._torch.from_numpy(np.ascontiguousarray(ids)).to(self._device)
        try:
            with load.explained("generate failed", "The run's log says more."):
                for tokens in generate(self._open_model(), x, config, pad):
                    n = 1 if self._committed else ids.shape[1]
                    self.ran.note(n, self._n_logits(n, 1), self._committed, len(ids))
                    self._committed = self._committed + 1 if self._committed else ids.shape[1]
                    yield tokens
                    self._check_context(1)
        finally:
            self.reset()

    def trace(self) -> TorchTrace:
        assert "layers" in self.capabilities, "the session cannot trace layers"
        assert self._trace is None, "a trace is already attached"
        self._trace = TorchTrace(self._open_model(), self.spec, self._device, self.sync, self._end_trace)
        return self._trace

    def _end_trace(self) -> None:
        self._trace = None

    def count(self, n_new: int, n_past: int = 0) -> Count:
        """Runs the forward, with a cache of its own and one sequence, and counts what is dispatched."""
        assert self.spec.causal or not n_past, "an encoder has no past"
        held = self._cache, self._committed, self._pending
        self.reset()
        try:
            if n_past:
                self.forward(np.zeros((1, n_past), dtype=np.int64), keep=1)
                self.commit(n_past)
            trace = self.trace()
            ids, keep = np.zeros((1, n_new), dtype=np.int64), 1 if self.spec.causal else None
            try:
                ops = count(lambda: self.forward(ids, keep), trace.layer, self.spec)
            finally:
                trace.finish()
        finally:
            self._cache, self._committed, self._pending = held
        return Count(source="dispatch", n_new=n_new, n_past=n_past, batch=1, ops=ops, note=COUNT_NOTE)

    def device_bytes(self) -> int | None:
        """Accelerator memory held by tensors; None on a CPU."""
        if self._device.startswith("cuda"):
            return int(self._torch.cuda.memory_allocated(self._device))
        return int(self._torch.mps.current_allocated_memory()) if self._device == "mps" else None

    def close(self) -> None:
        if self._trace is not None:
            self._trace.finish()
        self._model = self._call = self._cache = self._heads = None
        self._depth_of_modules = self._depth_of_step = None
        self._committed = self._pending = 0
        gc.collect()
        if self._device.startswith("cuda"):
            self._torch.cuda.empty_cache()
        give_back()  # of freed weights

    def compile(self) -> None:
        """Compile the forward and try it as a prompt and three tokens; layers cannot be traced afterwards.

        Another length may compile once more: the warm-up pass takes that.
        """
        model = self._open_model()
        model.forward = self._torch.compile(model.forward, dynamic=True)
        with load.explained("torch.compile failed", "Open the model without the option compile."):
            for n in (4, 1, 1, 1):
                self._forward(np.zeros((1, n), dtype=np.int64), keep=1)
                if self._cache_argument:
                    self.commit(n)
        self.reset()
        self.setup = msgspec.structs.replace(self.setup, facts={**self.setup.facts, "compile": True})
        self.capabilities -= {"layers", "count"}

    def fuse(self, progress: Progress) -> bool:
        """Run forwards without transformers' modules, wherever that is faster here; whether the model is one for it.

        The library's own loop, and layers while they are traced or counted, still run through the modules.
        """
        model = self._open_model()
        if "rewind" not in self.capabilities or not fused.possible(model, self._cache):
            return False
        progress("Preparing the fused step")
        self._call = body = fused.Fused(model)
        body.tune(self.spec, self.setup.activation_dtype, progress)
        if self._depth_of_modules is not None:
            self._depth_of_step = Depth(model, body)
        self._roomy = True
        self.reset()
        facts = {
            "fused_kernels": "compiled here" if body.compiled else f"PyTorch's: {body.without}",
            "traced_step": "transformers",
        }
        if body.grouped:  # products of our own are not dispatched, so they cannot be counted
            self.capabilities -= {"count"}
        self.setup = msgspec.structs.replace(self.setup, fused=True, facts={**self.setup.facts, **facts})
        return True

    def _open_model(self) -> Any:
        if self._model is None:
            raise ExplorerError("The session is closed.", "Open the model again.")
        return self._model

    def _check_context(self, n: int) -> None:
        self._open_model()
        if self._committed + n > self.max_context:
            raise ExplorerError(
                f"The context of {self.max_context} tokens is full.", "Use a shorter prompt or fewer new tokens."
            )
