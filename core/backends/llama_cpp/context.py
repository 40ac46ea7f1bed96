"""One llama_context: a KV cache and the forwards that run on it.

It knows nothing of text, strategies or layers. All sequences of a batch have equal length.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.backends.llama_cpp.log import listen
from core.types import Ids, Ledger
from hardware.errors import ExplorerError

NO_ROOM = 1  # llama_decode: no KV slot for the batch


class Logits:
    """A view of llama.cpp's own output buffer, shape (batch, n_kept, vocab); valid until the next forward."""

    def __init__(self, values: NDArray[np.float32]) -> None:
        self._values = values

    def argmax(self) -> Ids:
        best: Ids = self._values.argmax(axis=-1)
        return best

    def numpy(self) -> NDArray[np.float32]:
        return self._values


class Context:
    """params: a filled llama_context_params. Raises ExplorerError where llama.cpp refuses them."""

    def __init__(self, model: Any, params: Any, max_context: int, rollback: bool) -> None:
        import llama_cpp

        self._lib, self._log = llama_cpp, listen()
        self._params = params  # holds the callbacks that C code points to
        self.pointer = llama_cpp.llama_init_from_model(model, params)
        if not self.pointer:
            raise ExplorerError(
                f"llama.cpp could not make a context: {self._log.errors() or 'not enough memory'}.",
                "Lower the option n_ctx, or leave the options at their defaults.",
            )
        self._memory = llama_cpp.llama_get_memory(self.pointer)
        self._vocab_size: int = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
        self._rollback = rollback
        self.max_context = max_context
        self.n_sequences: int = llama_cpp.llama_n_seq_max(self.pointer)
        self.n_committed = self._n_pending = 0
        self.ran = Ledger()
        self._make_batch(llama_cpp.llama_n_batch(self.pointer))

    def _make_batch(self, n: int) -> None:
        """A llama_batch over arrays of our own, so that filling it takes no loop."""
        lib = self._lib
        self._token, self._pos = np.zeros(n, np.int32), np.zeros(n, np.int32)
        self._seq, self._wanted = np.zeros(n, np.int32), np.zeros(n, np.int8)
        self._one = np.ones(n, np.int32)
        self._seq_pointers = self._seq.ctypes.data + np.arange(n, dtype=np.uintp) * self._seq.itemsize
        self._batch = lib.llama_batch()
        for name, array in (
            ("token", self._token),
            ("pos", self._pos),
            ("n_seq_id", self._one),
            ("seq_id", self._seq_pointers),
            ("logits", self._wanted),
        ):
            kind = dict(lib.llama_batch._fields_)[name]
            setattr(self._batch, name, ctypes.cast(array.ctypes.data, kind))
        self._n_batch = n

    def forward(self, ids: Ids, keep: int | None) -> Logits:
        """Run `ids` (batch, n) after what is committed; they stay pending."""
        if not self.pointer:
            raise ExplorerError("The session is closed.", "Open the model again.")
        n_rows, n = ids.shape
        assert n_rows == self.n_sequences, f"opened for {self.n_sequences} sequences, not {n_rows}"
        if self._n_pending:
            self._drop(self.n_committed)
        if self.n_committed + n > self.max_context:
            raise ExplorerError(
                f"The context of {self.max_context} tokens is full.",
                "Use a shorter prompt or fewer new tokens, or raise the option n_ctx.",
            )
        first_kept = 0 if keep is None else max(n - keep, 0)
        width = self._n_batch // n_rows
        parts: list[NDArray[np.float32]] = []
        for start in range(0, n, width):
            chunk = ids[:, start : start + width]
            view = self._run(chunk, max(0, first_kept - start))
            last = start + width >= n
            if view.shape[1] and not (last and not parts):
                view = view.copy()  # the next chunk overwrites llama.cpp's buffer
            if view.shape[1] or (last and not parts):
                parts.append(view)
        return Logits(parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1))

    def _run(self, chunk: Ids, first_kept: int) -> NDArray[np.float32]:
        """One llama_decode. Logits from `first_kept` on, shape (batch, n_kept, vocab), as a view."""
        n_rows, m = chunk.shape
        total = n_rows * m
        start = self.n_committed + self._n_pending
        self._token[:total] = chunk.ravel()
        self._pos[:total].reshape(n_rows, m)[:] = np.arange(start, start + m)
        self._seq[:total].reshape(n_rows, m)[:] = np.arange(n_rows)[:, None]
        self._wanted[:total].reshape(n_rows, m)[:] = np.arange(m) >= first_kept
        self._batch.n_tokens = total
        status = self._lib.llama_decode(self.pointer, self._batch)
        if status:
            self._n_pending += m  # what was done of it must be dropped
            raise self._failure(status)
        self._n_pending += m
        n_kept = max(m - first_kept, 0)
        self.ran.note(m, n_kept, start, n_rows)
        if not n_kept:
            return np.empty((n_rows, 0, self._vocab_size), np.float32)
        address = ctypes.cast(self._lib.llama_get_logits(self.pointer), ctypes.c_void_p).value
        assert address, "llama_decode succeeded without logits"
        buffer = (ctypes.c_float * (n_rows * n_kept * self._vocab_size)).from_address(address)
        return np.frombuffer(buffer, np.float32).reshape(n_rows, n_kept, self._vocab_size)

    def _failure(self, status: int) -> ExplorerError:
        if status == NO_ROOM:
            return ExplorerError("llama.cpp found no room in its KV cache.", "Raise the option n_ctx.")
        return ExplorerError(
            f"llama.cpp could not run the model (status {status}): {self._log.errors() or 'it gave no reason'}.",
            "Try fewer tokens at once, or another backend.",
        )

    def commit(self, n: int) -> None:
        assert 0 <= n <= self._n_pending, f"{n} tokens committed where {self._n_pending} are pending"
        kept, dropped = self.n_committed + n, self._n_pending - n
        if dropped:
            self._drop(kept)
        self.n_committed, self._n_pending = kept, 0

    def rewind(self, n: int) -> None:
        assert 0 <= n <= self.n_committed, f"{n} tokens taken back where {self.n_committed} are committed"
        if n or self._n_pending:
            self._drop(self.n_committed - n)
        self.n_committed -= n

    def _drop(self, start: int) -> None:
        """Forget what lies at positions from `start` on, in all sequences."""
        if start == 0:
            self._lib.llama_memory_clear(self._memory, False)
        else:
            assert self._rollback, "this model's state cannot be rolled back"
            done = self._lib.llama_memory_seq_rm(self._memory, -1, start, -1)
            assert done, "llama.cpp could not remove the rejected tokens"
        self._n_pending = 0

    def reset(self) -> None:
        self._drop(0)
        self.n_committed = 0

    def copy_from(self, other: Context) -> None:
        """Take over the other's committed tokens; both must belong to one model."""
        if other._n_pending:
            other._drop(other.n_committed)
        for sequence in range(self.n_sequences) if other.n_committed else ():
            size = self._lib.llama_state_seq_get_size(other.pointer, sequence)
            state = (ctypes.c_uint8 * size)()
            self._lib.llama_state_seq_get_data(other.pointer, state, size, sequence)
            read = self._lib.llama_state_seq_set_data(self.pointer, state, size, sequence)
            assert read, "llama.cpp could not copy the state of a sequence"
        self.n_committed = other.n_committed

    def sync(self) -> None:
        self._lib.llama_synchronize(self.pointer)

    def close(self) -> None:
        if self.pointer:
            self._lib.llama_free(self.pointer)
            self.pointer = None
