"""llama.cpp's quantizer in a process of its own, where it can be stopped and where a crash harms nobody.

    python -m core.transforms._llama_quantize SOURCE TARGET TYPE TABLE THREADS

TABLE: type of the token table and the head, or "recipe". Prints lines of JSON: first {"expected": bytes of the
result}, at the end {"error": what llama.cpp said} if it failed. Knows nothing of runs or of what the types mean.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import sys
from typing import Any

from core import engine

ERROR = 4  # ggml_log_level
SIZE = re.compile(r"quant size\s*=\s*([\d.]+) MiB")


def main(source: str, target: str, kind: str, table: str, threads: str) -> int:
    engine.claim("llama_cpp")
    import llama_cpp

    said: list[tuple[int, str]] = []

    def keep(level: int, text: bytes, _: Any) -> None:
        said.append((level, text.decode(errors="replace").strip()))

    callback = llama_cpp.llama_log_callback(keep)
    llama_cpp.llama_log_set(callback, None)
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_{'ALL' if kind == 'F32' else 'MOSTLY'}_{kind}")
    if table != "recipe":
        params.output_tensor_type = params.token_embedding_type = getattr(llama_cpp, f"GGML_TYPE_{table}")
    params.nthread = int(threads)
    # a quantized source is dequantized first; whether that is wise is the caller's to say
    params.allow_requantize = True
    status = 0
    for params.dry_run in (True, False):
        status = llama_cpp.llama_model_quantize(os.fsencode(source), os.fsencode(target), ctypes.byref(params))
        if status:
            break
        if params.dry_run:
            sizes = [float(found[1]) for _, text in said if (found := SIZE.search(text))]
            _print(expected=round(sizes[-1] * 2**20) if sizes else None)
    if status:
        errors = "; ".join(text.rstrip(".") for level, text in said if level == ERROR and text)
        _print(error=re.sub(r"\b\w+: ", "", errors) or "it gave no reason")
    return int(status)


def _print(**line: Any) -> None:
    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
