"""What llama.cpp allocates for a model, each in a process of its own: buffers as its log says, and resident memory.

    python -m tests.support.held '[{"path": ..., "options": {...}, "batch": 1, "n_prompt": 200}, ...]'

prints for each a line of JSON: {"kv", "packed", "compute", "resident"} in bytes, beside {"told": Reserve}.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import msgspec
import numpy as np


def held(path: str, options: dict[str, Any], batch: int, n_prompt: int) -> dict[str, Any]:
    from core import plugins
    from core.models import spec
    from core.types import Generate, Request
    from hardware.process import resident

    found, backend = spec.read(path, "gguf"), plugins.get("backend", "llama_cpp")
    task = Generate(prompt_tokens=n_prompt, max_new_tokens=8)
    request = Request(model=path, backend="llama_cpp", task=task, profilers=(), threads=1, batch=batch, options=options)
    told = backend.reserve(found, request, n_prompt + 8)
    session = backend.open(path, found, request, lambda *_, **__: None)
    buffers: dict[str, int] = session.setup.buffers_bytes
    row = np.random.default_rng(0).integers(0, found.vocab_size, n_prompt)
    session.forward(np.tile(row, (batch, 1)), keep=1)
    kinds = {"kv": ("KV", "RS"), "packed": ("REPACK model", "AMX model"), "compute": ("compute",)}
    sums = {kind: sum(n for name, n in buffers.items() if name.endswith(ends)) for kind, ends in kinds.items()}
    return {**sums, "resident": resident().rss_bytes, "told": msgspec.to_builtins(told)}


def main(asked: str) -> None:
    for one in json.loads(asked):
        child = os.fork()
        if child:
            os.waitpid(child, 0)
            continue
        try:
            print(json.dumps(held(**one)), flush=True)
        finally:
            os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1])
