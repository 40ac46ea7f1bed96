"""The Session over a loaded GGUF model: vocabulary, contexts, llama.cpp's own loop, and tracing.

It knows nothing of files or of why a model cannot be loaded.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from core.backends.llama_cpp.context import Context, Logits
from core.backends.llama_cpp.count import Counter
from core.backends.llama_cpp.trace import Trace
from core.backends.llama_cpp.vocabulary import Vocabulary
from core.types import Count, GenerationConfig, Ids, ModelSpec, Sampling, Setup
from hardware.errors import ExplorerError

RANDOM_SEED = 0xFFFFFFFF  # llama.cpp's "draw a seed": must not be reached by ours
COUNT_NOTE = (
    "Computed as it is counted: attention over every place of the KV cache that ggml reads, its padding included; the "
    "last block, behind its attention, for positions whose logits are wanted."
)

TEMPLATE = "tokenizer.chat_template."  # what stands before the name of a chat template that is not the default
WARMUP_TOKENS = 64


class LlamaSession:
    """core.types.Session over a loaded llama_model, which `close` frees.

    new_context: makes a context on the model, with an eval callback or None. setup: what runs, once there is one.
    """

    capabilities: frozenset[str] = frozenset()
    warnings: tuple[str, ...] = ()

    def __init__(
        self, model: Any, spec: ModelSpec, new_context: Callable[[Any], Context], setup: Callable[[], Setup]
    ) -> None:
        import llama_cpp

        self._lib, self._model, self._new_context = llama_cpp, model, new_context
        self._vocabulary = Vocabulary(model, spec.name)
        self._context = new_context(None)
        self.ran = self._context.ran
        self._trace: Trace | None = None
        self.chat_templates = _templates(llama_cpp, model)
        self.spec = spec
        self.setup = setup()
        self.max_context = self._context.max_context
        self.chat_template = self.chat_templates.get("default")
        self.special_tokens = self._vocabulary.special_tokens
        self.bos_token, self.eos_token = self._vocabulary.bos_token, self._vocabulary.eos_token
        self.eos_ids = self._vocabulary.eos_ids
        self.opening, self.closing = self._vocabulary.opening, self._vocabulary.closing

    @property
    def n_committed(self) -> int:
        return self._context.n_committed

    def encode(self, text: str) -> list[int]:
        return self._vocabulary.encode(text)

    def decode(self, ids: Sequence[int]) -> str:
        return self._vocabulary.decode(ids)

    def forward(self, ids: Ids, keep: int | None = None) -> Logits:
        return self._context.forward(ids, keep)

    def commit(self, n: int) -> None:
        self._context.commit(n)

    def rewind(self, n: int) -> None:
        self._context.rewind(n)

    def reset(self) -> None:
        self._context.reset()

    def sync(self) -> None:
        self._context.sync()

    def stream(self, ids: Ids, config: GenerationConfig) -> Iterator[Ids]:
        """llama_decode and llama.cpp's own sampler chain, as its examples run them."""
        context, n_rows = self._context, len(ids)
        sampler = self._sampler(config.sampling, config.seed)
        finished = np.zeros(n_rows, dtype=bool)
        try:
            context.reset()
            for left in range(config.limit, 0, -1):
                context.forward(ids, keep=1)
                context.commit(ids.shape[1])
                rows = [
                    self._lib.llama_sampler_sample(sampler, context.pointer, row - n_rows) for row in range(n_rows)
                ]  # row - n_rows: outputs counted from the end, one per sequence
                ids = np.array(rows, dtype=np.int64)[:, None]
                finished |= [token in config.stop for token in rows]
                yield ids
                if left == 1 or finished.all():
                    return
        finally:
            self._lib.llama_sampler_free(sampler)

    def _sampler(self, sampling: Sampling, seed: int) -> Any:
        """Temperature, then top-k, then top-p, as in our own strategies: equal settings, equal distribution."""
        lib = self._lib
        chain = lib.llama_sampler_chain_init(lib.llama_sampler_chain_default_params())
        if sampling.temperature <= 0:
            links = [lib.llama_sampler_init_greedy()]
        else:
            links = [lib.llama_sampler_init_temp(sampling.temperature)]
            if sampling.top_k:
                links.append(lib.llama_sampler_init_top_k(sampling.top_k))
            if sampling.top_p is not None and sampling.top_p < 1:
                links.append(lib.llama_sampler_init_top_p(sampling.top_p, 1))
            links.append(lib.llama_sampler_init_dist(seed % RANDOM_SEED))
        for link in links:
            lib.llama_sampler_chain_add(chain, link)
        return chain

    def trace(self) -> Trace:
        """A second context on the same weights runs the forwards until finish(); the first one then returns."""
        assert self._trace is None, "this session is being traced already"
        plain = self._context

        def finish() -> None:
            self._context.close()
            self._context, self._trace = plain, None

        self._trace = Trace(finish)
        self._context = self._new_context(self._trace.callback)
        self._context.ran = self.ran
        # the first forward of a context touches its buffers for the first time, which is not the layers' time
        n = min(WARMUP_TOKENS, self.max_context)
        self._context.forward(np.zeros((self._context.n_sequences, n), dtype=np.int64), keep=1)
        self._context.reset()
        self._trace.forget()
        self._context.copy_from(plain)
        return self._trace

    def count(self, n_new: int, n_past: int = 0) -> Count:
        """Runs the forward on a second context and counts the nodes of its graph, all sequences together."""
        counter = Counter()
        context = self._new_context(counter.callback)
        try:
            if n_past:
                context.forward(np.zeros((context.n_sequences, n_past), np.int64), keep=1)
                context.commit(n_past)
            counter.on = True
            context.forward(np.zeros((context.n_sequences, n_new), np.int64), keep=1)
            context.sync()
        finally:
            context.close()
        if not counter.readable:
            raise ExplorerError(
                "This version of llama.cpp lays its tensors out in a way not known here.",
                "Install the version in requirements.txt.",
            )
        ops = counter.rows()
        return Count(
            source="ggml graph",
            n_new=n_new,
            n_past=n_past,
            batch=context.n_sequences,
            ops=ops,
            note=COUNT_NOTE,
            cells=counter.cells,
            prunes_last_block=self.setup.prunes_last_block,
        )

    def close(self) -> None:
        if self._trace:
            self._trace.finish()
        self._context.close()
        if self._model:
            self._lib.llama_model_free(self._model)
            self._model = None


def _templates(lib: Any, model: Any) -> dict[str, str]:
    """Name -> chat template, as the file's keys name them; the one without a name is the default."""
    default = lib.llama_model_chat_template(model, None)
    found = {"default": default.decode(errors="replace")} if default else {}
    buffer = ctypes.create_string_buffer(256)
    for i in range(lib.llama_model_meta_count(model)):
        n = lib.llama_model_meta_key_by_index(model, i, buffer, len(buffer))
        key = buffer.value.decode(errors="replace")
        if 0 < n < len(buffer) and key.startswith(TEMPLATE):
            name = key.removeprefix(TEMPLATE)
            if template := lib.llama_model_chat_template(model, name.encode()):
                found.setdefault(name, template.decode(errors="replace"))
    return found
