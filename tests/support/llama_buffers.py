"""What llama.cpp says that it reserves for a model, without reading a weight, and files for it that hold none.

A file's tensors need only their places: it is as long as its header says, and takes no room on the disk. llama.cpp's
`no_alloc` then lays its graph out without allocating it, so that a model of 70 billion parameters takes milliseconds.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

from core.backends.llama_cpp.options import Options

MIB = 2**20
SIZE = re.compile(r"(llama_kv_cache|llama_memory_recurrent): size =\s*([\d.]+) MiB")
COMPUTE = re.compile(r"compute buffer size =\s*([\d.]+) MiB")


def sparse(
    path: Path, architecture: str, values: Mapping[str, Any], tensors: Mapping[str, tuple[int, ...]], vocab_size: int
) -> Path:
    """A GGUF with all its tensors' places and none of their values: fp16, vectors fp32.

    values: without the architecture before them; tensors: shapes, slowest axis first.
    """
    import gguf
    import numpy as np

    from tests.models.test_spec import _is_vector

    writer = gguf.GGUFWriter(path, architecture)
    for key, value in {**values, "vocab_size": vocab_size}.items():
        if isinstance(value, list):
            writer.add_array(f"{architecture}.{key}", value)
        elif isinstance(value, bool):
            writer.add_bool(f"{architecture}.{key}", value)
        elif isinstance(value, float):
            writer.add_float32(f"{architecture}.{key}", value)
        else:
            writer.add_uint32(f"{architecture}.{key}", value)
    for key in ("attention.layer_norm_rms_epsilon", "attention.layer_norm_epsilon"):
        writer.add_float32(f"{architecture}.{key}", 1e-5)
    writer.add_tokenizer_model("no_vocab")
    n_bytes = 0
    for name, shape in tensors.items():
        dtype = np.dtype(np.float32 if _is_vector(name, shape) else np.float16)
        writer.add_tensor_info(name, shape, dtype, prod(shape) * dtype.itemsize)
        n_bytes += -(-prod(shape) * dtype.itemsize // 32) * 32
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    with path.open("r+b") as file:
        file.truncate(-(-path.stat().st_size // 32) * 32 + n_bytes)
    return path


def of_preset(preset: str, config_file: Path, folder: Path) -> Path:
    """A sparse GGUF of a preset at its full size, as llama.cpp's converter would name its parts."""
    from core.models.spec import from_config
    from tests.models import test_gguf_of_presets as small

    config = json.loads(config_file.read_text())
    spec = from_config(config)
    kind = config["model_type"]
    values, tensors = small._metadata(config, spec), small._tensors(config, spec)
    if kind == "gpt_neox":
        values["use_parallel_residual"] = True
    return sparse(folder / f"{preset}.gguf", small.ARCHITECTURES.get(kind, kind), values, tensors, spec.vocab_size)


def reserved(path: Path, options: Options, batch: int) -> dict[str, float]:
    """MiB by use, with two digits: KV, RS, compute. This process must be llama.cpp's."""
    import llama_cpp

    from core.backends.llama_cpp.log import listen
    from core.backends.llama_cpp.options import context_params, model_params

    log = listen()
    log.clear()
    wanted = model_params(options)
    wanted.no_alloc, wanted.load_mode, wanted.n_gpu_layers = True, 0, 0
    model = llama_cpp.llama_model_load_from_file(str(path).encode(), wanted)
    assert model, log.errors()
    log.clear()
    try:
        assert options.n_ctx is not None
        context = llama_cpp.llama_init_from_model(model, context_params(options, options.n_ctx, batch, 1))
        assert context, log.errors()
        llama_cpp.llama_free(context)
    finally:
        llama_cpp.llama_model_free(model)
    said = log.text()
    found = {"KV": 0.0, "RS": 0.0, "compute": sum(float(n) for n in COMPUTE.findall(said))}
    for of, n in SIZE.findall(said):
        found["RS" if of == "llama_memory_recurrent" else "KV"] += float(n)
    return found
