"""The Session over one Engine: which tokens are committed, which are pending, and what it found in its files.

The cache of the last forward is kept whole: a commit of all its tokens hands it on without a copy,
a commit of fewer cuts its end off, where it lies.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from core.backends.onnxruntime.reserve import DEFAULT_CONTEXT
from core.types import Count, GenerationConfig, Ids, Ledger, ModelSpec, Sampling
from hardware.errors import ExplorerError

if TYPE_CHECKING:
    from core.backends.onnxruntime.engine import Engine
    from core.backends.onnxruntime.room import Cache
    from core.backends.onnxruntime.text import Text
    from core.backends.onnxruntime.trace import OnnxTrace

COUNT_NOTE = "The nodes of the file are counted, as they are before ONNX Runtime fuses them."


class OnnxLogits:
    """A view of the run's own output: shape (batch, kept, vocab)."""

    def __init__(self, value: Any, kept: int) -> None:
        self._value, self._kept = value, kept

    def argmax(self) -> Ids:
        found: Ids = self._rows().argmax(axis=-1)
        return found

    def numpy(self) -> NDArray[np.float32]:
        return self._rows().astype(np.float32)

    def _rows(self) -> NDArray[Any]:
        rows: NDArray[Any] = self._value.numpy()
        # exports without `logits_to_keep` return every position
        return rows[:, -self._kept :]


class OnnxSession:
    """engine: opened; freed by `close`."""

    def __init__(self, engine: Engine, text: Text, spec: ModelSpec) -> None:
        self._engine, self._text = engine, text
        self.spec = spec
        self.capabilities = _capabilities(engine)
        self.max_context = spec.max_context or DEFAULT_CONTEXT
        self.chat_template, self.eos_ids = text.chat_template, text.eos_ids
        self.chat_templates, self.special_tokens = text.chat_templates, text.special_tokens
        self.bos_token, self.eos_token = text.bos_token, text.eos_token
        self.opening, self.closing = text.opening, text.closing
        self.setup = engine.setup(spec.dtype)
        self.warnings = text.warnings
        self.ran = Ledger()
        self._past: Cache | None = None
        self._pending: tuple[int, Cache] | None = None
        self._n_committed = 0
        self._trace: OnnxTrace | None = None

    @property
    def n_committed(self) -> int:
        return self._n_committed

    def encode(self, text: str) -> list[int]:
        return self._text.encode(text)

    def decode(self, ids: Sequence[int]) -> str:
        return self._text.decode(ids)

    def forward(self, ids: Ids, keep: int | None = None) -> OnnxLogits:
        batch, n = ids.shape
        if self._n_committed + n > self.max_context:
            raise ExplorerError(
                f"{self._n_committed + n} tokens do not fit into this model's context of {self.max_context}.",
                "Use a shorter prompt or fewer new tokens.",
            )
        if self._past is None:
            self._past = self._engine.empty(batch)
        kept = n if keep is None else min(keep, n)
        logits, present = self._engine.run(ids, self._past, self._n_committed, kept)
        self._pending = (n, present)
        self.ran.note(n, kept if self._engine.keeps_logits else n, self._n_committed, batch)
        if self._trace is not None:
            self._trace.count()
        return OnnxLogits(logits, kept)

    def commit(self, n: int) -> None:
        assert "cache" in self.capabilities, "this model has no cache to commit to"
        assert self._pending is not None, "commit without a forward"
        n_pending, present = self._pending
        assert 0 <= n <= n_pending, f"{n} of {n_pending} pending tokens cannot be committed"
        assert n in (0, n_pending) or "rollback" in self.capabilities, "this cache cannot be cut"
        self._pending = None
        if n == 0:
            return
        self._n_committed += n
        self._past = present if n == n_pending else self._engine.cut(present, self._n_committed)

    def rewind(self, n: int) -> None:
        assert 0 <= n <= self._n_committed, "more tokens taken back than are committed"
        self._pending = None
        self._n_committed -= n
        if n and self._past is not None:
            self._past = self._engine.cut(self._past, self._n_committed)

    def reset(self) -> None:
        self._past, self._pending, self._n_committed = None, None, 0

    def sync(self) -> None:
        """Nothing to wait for: a run returns when its outputs are there."""

    def stream(self, ids: Ids, config: GenerationConfig) -> Iterator[Ids]:
        """A bare loop of runs and argmax; ONNX Runtime has none of its own. Sampling is done in NumPy."""
        assert "stream" in self.capabilities, "an encoder does not generate"
        rng = np.random.default_rng(config.seed)
        finished = np.zeros(len(ids), dtype=bool)
        self.reset()
        for left in range(config.limit, 0, -1):
            logits = self.forward(ids, keep=1)
            self.commit(ids.shape[1])
            ids = (
                _sample(logits.numpy()[:, -1], config.sampling, rng)
                if config.sampling.temperature > 0
                else logits.argmax()
            )
            finished |= [int(token) in config.stop for token in ids[:, 0]]
            yield ids
            if left == 1 or finished.all():
                return

    def trace(self) -> OnnxTrace:
        """The file is opened again with ONNX Runtime's profiler on, in place of the session without it."""
        from core.backends.onnxruntime.trace import OnnxTrace

        assert self._trace is None, "this session is being traced already"
        # the old session's memory must go first, and its cache lies in that
        past = None if self._past is None else self._engine.copied(self._past, self._n_committed)
        self._past, self._pending = None, None

        def on_finish() -> None:
            self._trace = None

        self._trace = OnnxTrace(self._engine, self.spec, on_finish)
        self._past = past
        return self._trace

    def count(self, n_new: int, n_past: int = 0) -> Count:
        """Reads the file's graph for a forward of one sequence; runs nothing."""
        from core.backends.onnxruntime.count import count

        ops = count(self._engine.file, self.spec, n_new, n_past)
        return Count(source="ONNX graph", n_new=n_new, n_past=n_past, batch=1, ops=ops, note=COUNT_NOTE)

    def close(self) -> None:
        if self._trace is not None:
            self._trace.finish()
        self.reset()
        self._engine.close()


def _capabilities(engine: Engine) -> frozenset[str]:
    found = {"forward", "batch", "layers", "count"}
    if engine.past_names:
        found |= {"cache", "stream"}
        if engine.can_slice:
            found |= {"rollback", "rewind"}
    return frozenset(found)


def _sample(logits: NDArray[np.float32], sampling: Sampling, rng: np.random.Generator) -> Ids:
    """One token per row: temperature, then top-k, then the smallest set with probability top-p (nucleus)."""
    rows = []
    for row in logits.astype(np.float64) / sampling.temperature:
        order = np.argsort(-row)[: sampling.top_k or None]
        p = np.exp(row[order] - row[order[0]])
        p /= p.sum()
        if sampling.top_p is not None:
            p[np.cumsum(p) - p >= sampling.top_p] = 0.0
            p /= p.sum()
        rows.append([rng.choice(order, p=p)])
    return np.array(rows, dtype=np.int64)
