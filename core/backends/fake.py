"""A backend without a library: deterministic bytes out of a checksum. The whole app runs on it.

It opens any model, keeps the Session contract exactly, and takes `delay_s` per forward when asked
to. Its text and its layer times mean nothing; its result says so.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Iterator, Sequence
from typing import Annotated, ClassVar

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from core.backends._reserve import cache_elements, state_bytes
from core.plugins import settings
from core.types import (
    Backend,
    GenerationConfig,
    Ids,
    LayerTime,
    Ledger,
    ModelSpec,
    Progress,
    Record,
    Request,
    Reserve,
    Scalar,
    Setup,
    Words,
)
from hardware.detect import usable_cores
from hardware.errors import ExplorerError

EOS = 256
DEFAULT_CONTEXT = 4096  # tokens, where a model states none
LETTERS = np.frombuffer(b" etaoinshrdlucmf", dtype=np.uint8)


class FakeLogits:
    def __init__(self, checksums: list[list[int]], vocab: int) -> None:
        self._checksums, self._vocab = checksums, vocab

    def argmax(self) -> Ids:
        return np.array([[int(LETTERS[c % len(LETTERS)]) for c in row] for row in self._checksums], dtype=np.int64)

    def numpy(self) -> NDArray[np.float32]:
        out = np.zeros((len(self._checksums), len(self._checksums[0]), self._vocab), dtype=np.float32)
        for b, row in enumerate(self._checksums):
            for i, c in enumerate(row):
                out[b, i, LETTERS] = np.random.default_rng(c).random(len(LETTERS), dtype=np.float32)
                out[b, i, LETTERS[c % len(LETTERS)]] = 2.0
        return out


class FakeTrace:
    """Shares the time of each forward out over the layers by their number of parameters."""

    def __init__(self, session: FakeSession) -> None:
        self._session, self._phase = session, "prefill"
        self._seconds: dict[str, float] = {}
        self._calls: dict[str, int] = {}

    def phase(self, name: str) -> None:
        self._phase = name

    def record(self, seconds: float) -> None:
        self._seconds[self._phase] = self._seconds.get(self._phase, 0.0) + seconds
        self._calls[self._phase] = self._calls.get(self._phase, 0) + 1

    def rows(self) -> dict[str, tuple[LayerTime, ...]]:
        layers = self._session.spec.layers
        weight = [layer.n_params + 1 for layer in layers]
        total = sum(weight)
        return {
            phase: tuple(
                LayerTime(name=layer.name, seconds=seconds * w / total, calls=self._calls[phase], op="Fake")
                for layer, w in zip(layers, weight, strict=True)
            )
            for phase, seconds in self._seconds.items()
        }

    def finish(self) -> dict[str, tuple[LayerTime, ...]]:
        self._session.tracing = None
        return self.rows()


class Options(Record):
    """delay_s: seconds that every forward takes. crash: a signal to die of while opening (for tests)."""

    delay_s: Annotated[float, Meta(ge=0, le=3600)] = 0.0
    crash: Words = ""


class FakeSession:
    capabilities = frozenset({"forward", "cache", "rollback", "rewind", "stream", "batch", "layers", "tree"})
    chat_template: str | None = None
    bos_token = ""
    eos_token = ""
    eos_ids = frozenset({EOS})
    opening: tuple[int, ...] = ()
    closing: tuple[int, ...] = ()

    def __init__(self, spec: ModelSpec, request: Request) -> None:
        self.spec = spec
        self.max_context = spec.max_context or DEFAULT_CONTEXT
        self.setup = Setup(
            weight_dtype=spec.dtype,
            activation_dtype="fp32",
            kv_dtype="fp32",
            threads=request.threads or usable_cores(),
            facts={"library": "none", "delay_s": settings(Options, request.options, "The fake backend").delay_s},
        )
        self.warnings: tuple[str, ...] = ("The fake backend runs no model: its text and its times mean nothing.",)
        self.ran = Ledger()
        self.tracing: FakeTrace | None = None
        self._delay_s = settings(Options, request.options, "The fake backend").delay_s
        self._vocab = max(spec.vocab_size, EOS + 1)
        self._states: list[list[int]] = []
        self._pending: list[list[int]] = []
        self._parents: tuple[int, ...] = ()  # of the pending tokens, where they form a tree
        self._closed = False

    @property
    def n_committed(self) -> int:
        return len(self._states[0]) if self._states else 0

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def decode(self, ids: Sequence[int]) -> str:
        return bytes(i for i in ids if i < EOS).decode(errors="replace")

    def forward(self, ids: Ids, keep: int | None = None) -> FakeLogits:
        chain = range(-1, ids.shape[1] - 1)
        return self._forward(ids, chain, ids.shape[1], keep)

    def forward_tree(self, ids: Ids, parents: Sequence[int]) -> FakeLogits:
        assert ids.shape == (1, len(parents)), "one sequence, with a parent for each token"
        depth: list[int] = []
        for parent in parents:
            depth.append(1 + (depth[parent] if parent >= 0 else 0))
        logits = self._forward(ids, parents, max(depth), None)
        self._parents = tuple(parents)
        return logits

    def commit_path(self, indices: Sequence[int]) -> None:
        steps = zip([-1, *indices], indices, strict=False)
        assert all(self._parents[i] == parent for parent, i in steps), "not a path of the last tree"
        self._pending = [[chain[i] for i in indices] for chain in self._pending]
        self.commit(len(indices))

    def _forward(self, ids: Ids, parents: Sequence[int], depth: int, keep: int | None) -> FakeLogits:
        if self._closed:
            raise ExplorerError("The session is closed.", "Open the model again.")
        if self.n_committed + depth > self.max_context:
            raise ExplorerError(
                f"The context of {self.max_context} tokens is full.", "Use a shorter prompt or fewer new tokens."
            )
        started = time.perf_counter()
        if self._delay_s:
            time.sleep(self._delay_s)
        if not self._states:
            self._states = [[] for _ in ids]
        self._pending, self._parents = [], ()
        for row, state in zip(ids, self._states, strict=True):
            last, chain = (state[-1] if state else 1), list[int]()
            for token, parent in zip(row, parents, strict=True):
                before = chain[parent] if parent >= 0 else last
                chain.append(zlib.crc32(int(token).to_bytes(4, "little"), before))
            self._pending.append(chain)
        if self.tracing:
            self.tracing.record(time.perf_counter() - started)
        n = ids.shape[1]
        self.ran.note(n, n if keep is None else min(keep, n), self.n_committed, len(ids))
        kept = [chain if keep is None else chain[len(chain) - keep :] for chain in self._pending]
        return FakeLogits(kept, self._vocab)

    def commit(self, n: int) -> None:
        assert all(n <= len(chain) for chain in self._pending), "more tokens committed than are pending"
        for state, chain in zip(self._states, self._pending, strict=True):
            state.extend(chain[:n])
        self._pending = []

    def rewind(self, n: int) -> None:
        assert 0 <= n <= self.n_committed, "more tokens taken back than are committed"
        self._states, self._pending = [state[: len(state) - n] for state in self._states], []

    def reset(self) -> None:
        self._states, self._pending = [], []

    def sync(self) -> None:
        pass

    def stream(self, ids: Ids, config: GenerationConfig) -> Iterator[Ids]:
        rng = np.random.default_rng(config.seed)
        self.reset()
        for _ in range(config.limit):
            logits = self.forward(ids, keep=1)
            self.commit(ids.shape[1])
            if config.sampling.temperature > 0:
                ids = rng.choice(LETTERS, size=(len(ids), 1)).astype(np.int64)
            else:
                ids = logits.argmax()
            yield ids
            if config.stop and all(int(token) in config.stop for token in ids[:, 0]):
                return

    def trace(self) -> FakeTrace:
        self.tracing = FakeTrace(self)
        return self.tracing

    def close(self) -> None:
        self._closed = True
        self.reset()


class FakeBackend:
    name = "fake"
    label = "Fake (no model, for trying the app)"
    distributions: tuple[str, ...] = ()
    formats: tuple[str, ...] = ("config", "gguf", "hf", "onnx")
    dtypes: tuple[str, ...] = ()
    capabilities = FakeSession.capabilities
    runtime_bytes = 60_000_000
    Options = Options
    signal_advice: ClassVar[dict[int, tuple[str, str, dict[str, Scalar]]]] = {}

    def unavailable(self) -> str | None:
        return None

    def reserve(self, spec: ModelSpec, request: Request, n_tokens: int) -> Reserve:
        """As if it opened the model, so that the app can be tried with one that does not fit."""
        kv = request.batch * (2 * cache_elements(spec, n_tokens) + state_bytes(spec))
        return Reserve(
            weights_bytes=spec.weight_bytes or 0,
            packed_bytes=0,
            kv_bytes=kv,
            workspace_bytes=0,
            runtime_bytes=self.runtime_bytes,
            max_context=spec.max_context or DEFAULT_CONTEXT,
        )

    def open(self, path: str, spec: ModelSpec, request: Request, progress: Progress) -> FakeSession:
        options = settings(Options, request.options, self.label)
        if options.crash:
            import os
            import signal

            os.kill(os.getpid(), int(signal.Signals[options.crash]))
        progress("Opening nothing")
        return FakeSession(spec, request)


plugin: Backend = FakeBackend()
