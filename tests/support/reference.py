"""What the libraries and our backends say of a model: each is asked in a process that may load it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from core import plugins
from core.models import spec as specs
from core.types import Request
from tests.support import elsewhere
from tests.support.progress import silent


class Vocabulary(NamedTuple):
    """ids: of every text, special tokens recognised, none added."""

    ids: list[list[int]]
    bos: int
    eos: int
    n: int
    metadata: dict[str, str]


def logits_in(backend: str, path: Path, fmt: str, ids: np.ndarray) -> np.ndarray:
    """From a session of ours, in one forward."""
    return elsewhere.call(backend, _logits_in, backend, str(path), fmt, ids)


def logits_of_folder(folder: Path, ids: list[int]) -> np.ndarray:
    """From transformers, in fp32 and with plain attention."""
    return elsewhere.call("pytorch", _logits_of_folder, folder, ids)


def logits_of_gguf(path: Path, ids: list[int]) -> np.ndarray:
    """From llama.cpp, with an fp32 cache and without flash attention."""
    return elsewhere.call("llama_cpp", _logits_of_gguf, path, ids)


def vocabulary_of_gguf(path: Path, texts: tuple[str, ...]) -> Vocabulary:
    """From llama.cpp."""
    return elsewhere.call("llama_cpp", _vocabulary_of_gguf, path, texts)


def _logits_in(backend: str, path: str, fmt: str, ids: np.ndarray) -> np.ndarray:
    request = Request(model="x", backend=backend, threads=1)
    session = plugins.get("backend", backend).open(path, specs.read(path, fmt), request, silent)
    found = session.forward(ids).numpy().copy()
    session.close()
    return found


def _logits_of_folder(folder: Path, ids: list[int]) -> np.ndarray:
    import torch
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0].numpy()


def _logits_of_gguf(path: Path, ids: list[int]) -> np.ndarray:
    import llama_cpp

    llama = llama_cpp.Llama(
        str(path), n_ctx=128, n_threads=1, n_threads_batch=1, logits_all=True, type_k=0, type_v=0, verbose=False
    )
    llama.eval(ids)
    scores = np.array(llama.scores[: len(ids)])
    llama.close()
    return scores


def _vocabulary_of_gguf(path: Path, texts: tuple[str, ...]) -> Vocabulary:
    import llama_cpp

    llama = llama_cpp.Llama(str(path), vocab_only=True, verbose=False)
    ids = [llama.tokenize(text.encode(), add_bos=False, special=True) for text in texts]
    found = Vocabulary(ids, llama.token_bos(), llama.token_eos(), llama.n_vocab(), dict(llama.metadata))
    llama.close()
    return found
