"""Writes a Hugging Face folder as a GGUF file: weights in the dtype they have, tokenizer, chat template; and one of
random weights for a bare configuration, in the number format that it names.

The inverse of gguf_to_hf, for the same families: what is fp32 stays fp32 and bf16 stays bf16, so nothing is
lost (vectors become fp32, as llama.cpp wants them). Tensors are read and written one at a time. Every tensor
of the network must find its place; what a family of llama.cpp computes otherwise is refused, never ignored.

Names and layouts: gguf-py's tensor map, and llama.cpp's convert_hf_to_gguf.py for what the map does not say:
query and key rows of the llama family in pairs, Gemma's norms plus one, Llama 3's frequencies as divisors.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.layer_names import OF_ACTIVATIONS
from core.models import formats, random_weights, safetensors_file, weight_files
from core.models.precision import declared
from core.models.tensors import heads_apart
from core.tokenizers import to_gguf
from core.types import Progress
from hardware.errors import ExplorerError

VERSION = 6  # raise it when the output changes: cached files are then made anew

# model_type -> general.architecture. Only families whose logits were compared with PyTorch's.
ARCHITECTURES = {
    "llama": "llama",
    "mistral": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "gemma2": "gemma2",
    "gemma3_text": "gemma3",
}
_RAW = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}  # dtype of safetensors -> NumPy's
_FLOATS = {"fp32": "F32", "fp16": "F16", "bf16": "BF16"}  # our names -> those of safetensors
_N_DRAWN = 4_194_301  # a prime number of values, so that no width of a matrix repeats in it
_GGML = {"F32": "F32", "F16": "F16", "BF16": "BF16"}  # dtype of safetensors -> ggml type
_FILE_TYPES = {"F32": 0, "F16": 1, "BF16": 32}  # llama_ftype
_PATTERNS = {"gemma2": 2, "gemma3": 6}  # every n-th block sees all positions
_ELSEWHERE = "Run the model with PyTorch or ONNX Runtime."


@dataclass(frozen=True)
class _Stored:
    """A tensor of the folder. offset: from the start of its file."""

    path: Path
    dtype: str
    shape: tuple[int, ...]
    offset: int
    n_bytes: int

    def read(self) -> Any:
        """Its values, bf16 as their 16 bits."""
        import numpy as np

        count = math.prod(self.shape)
        return np.fromfile(self.path, dtype=_RAW[self.dtype], count=count, offset=self.offset).reshape(self.shape)


@dataclass(frozen=True)
class _Drawn:
    """A tensor of random weights. source: what is drawn, as it is stored; fill: all its values, where none is drawn."""

    dtype: str
    shape: tuple[int, ...]
    source: Any
    start: int
    fill: float | None = None

    def read(self) -> Any:
        """Its values, bf16 as their 16 bits; drawn ones are the source's, over and over from `start` on."""
        import numpy as np

        n = math.prod(self.shape)
        if self.fill is not None:
            return _as_stored(np.full(self.shape, self.fill, np.float32), self.dtype)
        found = np.empty(n, self.source.dtype)
        at, start = 0, self.start % len(self.source)
        while at < n:
            part = self.source[start : start + n - at]
            found[at : at + len(part)] = part
            at, start = at + len(part), 0
        return found.reshape(self.shape)


_Tensors = dict[str, _Stored | _Drawn]


def output_bytes(folder: Path) -> int:
    """Size of the file that `convert` would write at most, without reading any weights."""
    return sum(t.n_bytes if len(t.shape) > 1 else 4 * math.prod(t.shape) for t in _stored(folder).values()) + (32 << 20)


def convert(folder: Path, path: Path, name: str, progress: Progress) -> None:
    """Write `path`. name: what the file calls the model.

    Raises ExplorerError for a damaged folder, and for a network that llama.cpp would compute differently.
    """
    config, arch = _config(folder)
    _convert(folder, path, name, config, arch, _placed(_stored(folder), arch, config), progress)


def drawn_bytes(folder: Path, dtype: str) -> int:
    """Size of the file that `draw` would write, from the shapes alone. dtype: fp32, fp16 or bf16."""
    shapes = random_weights.shapes(folder).values()
    size = 4 if dtype == "fp32" else 2
    return sum(math.prod(shape) * (size if len(shape) > 1 else 4) for shape in shapes) + (32 << 20)


def draw(folder: Path, dtype: str, path: Path, name: str, progress: Progress) -> None:
    """Write `path` with random weights for the config.json in `folder`, a tensor at a time.

    A few million normal values are drawn once, and every matrix takes them from a place of its own on: speed and
    memory are those of the architecture, text is noise. Raises as `convert` does.
    """
    import numpy as np

    config, arch = _config(folder)
    progress("Drawing random weights")
    kind = _FLOATS[dtype]
    scale = float(getattr(config, "initializer_range", None) or 0.02)
    source = _as_stored(np.random.default_rng(0).standard_normal(_N_DRAWN, np.float32) * scale, kind)
    shapes = random_weights.shapes(folder)
    norms = 0.0 if arch in _PATTERNS else 1.0  # Gemma adds one to its norms' weights
    tensors: _Tensors = {}
    for i, (key, shape) in enumerate(shapes.items()):
        fill = None if len(shape) > 1 else norms if "norm" in key and key.endswith("weight") else 0.0
        tensors[key] = _Drawn(kind, shape, source, i * 1_299_709, fill)
    _convert(folder, path, name, config, arch, _placed(tensors, arch, config), progress)


def _as_stored(values: Any, dtype: str) -> Any:
    """fp32 values as the file has them, bf16 rounded to its 16 bits."""
    import numpy as np

    if dtype == "BF16":
        bits = values.view("<u4")
        return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")
    return values.astype(np.dtype(_RAW[dtype]))


def _convert(
    folder: Path, path: Path, name: str, config: Any, arch: str, tensors: _Tensors, progress: Progress
) -> None:
    import gguf

    writer = gguf.GGUFWriter(None, arch)
    writer.add_name(name)
    matrices = [t.dtype for t in tensors.values() if len(t.shape) > 1]
    writer.add_file_type(_FILE_TYPES[max(sorted(set(matrices)), key=matrices.count)])
    divisors = _add_network(writer, arch, config)
    progress("Converting the tokenizer")
    to_gguf.add(writer, folder, tensors["token_embd.weight"].shape[0])
    _write(writer, path, tensors, _changes(arch, config), divisors, progress)


# ---------------------------------------------------------------- the network


def _config(folder: Path) -> tuple[Any, str]:
    """The configuration with its family's defaults filled in, and llama.cpp's name of the family."""
    numbers = formats.read_config(folder / "config.json")
    kind = numbers["model_type"]
    if kind not in ARCHITECTURES:
        raise ExplorerError(
            f"A model of architecture '{kind}' cannot be written as a GGUF here.",
            f"{_ELSEWHERE} Known here: {', '.join(ARCHITECTURES)}.",
        )
    if declared(numbers) is not None:
        raise ExplorerError("Weights that are quantized already cannot be written as a GGUF.", _ELSEWHERE)
    from transformers import AutoConfig

    if heads_apart(folder):
        numbers["tie_word_embeddings"] = False
    try:
        return AutoConfig.for_model(**numbers), ARCHITECTURES[kind]
    except Exception as error:  # transformers raises what its own classes do
        cause = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        cause = cause.strip("\"'").split(". ")[0].rstrip(".")
        raise ExplorerError(
            f"transformers cannot read config.json in {folder.name}: {cause}.", "Correct it, or download it again."
        ) from error


def _add_network(writer: Any, arch: str, c: Any) -> Any:
    """The numbers of the network. Returns the divisors of the rotary frequencies where it has any, else None."""
    head_dim = _head_dim(c)
    window = getattr(c, "sliding_window", None)
    if arch in _PATTERNS:
        _check_gemma(arch, c, head_dim)
        writer.add_sliding_window(window)
    elif c.model_type.startswith("qwen") and getattr(c, "use_sliding_window", False):
        raise _different("a sliding window")
    activation = getattr(c, "hidden_activation", None) or c.hidden_act
    if activation != ("gelu_pytorch_tanh" if arch in _PATTERNS else "silu"):
        raise _different(f"the activation '{activation}'")
    n_context = c.max_position_embeddings
    if c.model_type == "mistral" and window:
        n_context = min(n_context, window)  # llama.cpp sees all positions, which is the same up to here
    writer.add_vocab_size(c.vocab_size)
    writer.add_context_length(n_context)
    writer.add_embedding_length(c.hidden_size)
    writer.add_block_count(c.num_hidden_layers)
    writer.add_feed_forward_length(c.intermediate_size)
    writer.add_head_count(c.num_attention_heads)
    writer.add_head_count_kv(c.num_key_value_heads)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_layer_norm_rms_eps(c.rms_norm_eps)
    writer.add_rope_dimension_count(head_dim)
    if getattr(c, "attn_logit_softcapping", None):
        writer.add_attn_logit_softcapping(c.attn_logit_softcapping)
    if getattr(c, "final_logit_softcapping", None):
        writer.add_final_logit_softcapping(c.final_logit_softcapping)
    rope = dict(c.rope_parameters)
    if "full_attention" in rope:
        local = rope["sliding_attention"]
        if local.get("rope_type", "default") != "default":
            raise _different("scaled positions in its local blocks")
        writer.add_float32(f"{arch}.rope.freq_base_swa", local["rope_theta"])
        rope = dict(rope["full_attention"])
    return _add_rope(writer, arch, rope, head_dim)


def _head_dim(c: Any) -> int:
    return int(getattr(c, "head_dim", None) or c.hidden_size // c.num_attention_heads)


def _add_rope(writer: Any, arch: str, rope: dict[str, Any], head_dim: int) -> Any:
    import numpy as np

    kind, theta = rope.pop("rope_type", "default"), float(rope.pop("rope_theta"))
    rope.pop("type", None)  # its older name
    known = {
        "default": (),
        "linear": ("factor",),
        "yarn": ("factor", "original_max_position_embeddings"),
        "llama3": ("factor", "original_max_position_embeddings", "low_freq_factor", "high_freq_factor"),
    }
    strange = [key for key, value in rope.items() if key not in known.get(kind, ()) and value not in (None, 1.0)]
    if kind not in known or strange:
        raise _different(f"positions scaled by '{strange[0] if kind in known else kind}'")
    writer.add_rope_freq_base(theta)
    if kind == "default":
        return None
    if kind in ("linear", "yarn"):
        writer.add_rope_scaling_type(_scaling(kind))
        writer.add_rope_scaling_factor(float(rope["factor"]))
    if kind != "linear":
        writer.add_rope_scaling_orig_ctx_len(int(rope["original_max_position_embeddings"]))
    if kind != "llama3":
        return None
    # Llama 3.1: long wavelengths are divided by `factor`, short ones stay, those between are mixed
    wavelength = 2 * np.pi * theta ** (np.arange(0, head_dim, 2) / head_dim)
    low, high = float(rope["low_freq_factor"]), float(rope["high_freq_factor"])
    smooth = (float(rope["original_max_position_embeddings"]) / wavelength - low) / (high - low)
    smooth = smooth.clip(0, 1)
    return (1 / ((1 - smooth) / float(rope["factor"]) + smooth)).astype(np.float32)


def _scaling(kind: str) -> Any:
    from gguf import RopeScalingType

    return RopeScalingType(kind)


def _check_gemma(arch: str, c: Any, head_dim: int) -> None:
    """llama.cpp has Gemma's pattern of windows and its scale of the scores in its code, not in the file."""
    if getattr(c, "use_bidirectional_attention", False):
        raise _different("attention to what follows a token")
    large = c.num_hidden_layers == {"gemma2": 46, "gemma3": 62}[arch]
    scale = c.hidden_size // c.num_attention_heads if large else head_dim
    if c.query_pre_attn_scalar != scale:
        raise _different(f"scores scaled by 1/sqrt({c.query_pre_attn_scalar})")
    wanted = [
        "full_attention" if (i + 1) % _PATTERNS[arch] == 0 else "sliding_attention" for i in range(len(c.layer_types))
    ]
    if list(c.layer_types) != wanted:
        raise _different("another order of local and global blocks")


def _different(what: str) -> ExplorerError:
    return ExplorerError(f"The model has {what}, which llama.cpp computes differently or not at all.", _ELSEWHERE)


# ---------------------------------------------------------------- the weights


def _stored(folder: Path) -> dict[str, _Stored]:
    """The folder's tensors by name. Raises ExplorerError when a file is cut off."""
    found: dict[str, _Stored] = {}
    weights = weight_files.of(folder)
    for file in weights.files:
        header = safetensors_file.header(file)
        with file.open("rb") as f:
            start = 8 + int.from_bytes(f.read(8), "little")
        for name, entry in header.items():
            begin, end = entry["data_offsets"]
            if weights.has(file, name):
                found[name] = _Stored(file, entry["dtype"], tuple(entry["shape"]), start + begin, end - begin)
    if not found:
        raise ExplorerError(f"{folder.name} holds no safetensors.", "Choose a folder with the model's weights.")
    return found


def _placed(stored: Mapping[str, _Stored | _Drawn], arch: str, c: Any) -> _Tensors:
    """GGUF name -> tensor, each block complete and like every other, in the order of the blocks."""
    import gguf

    kind = next(key for key, value in gguf.MODEL_ARCH_NAMES.items() if value == arch)
    names = gguf.get_tensor_name_map(kind, c.num_hidden_layers)
    placed: _Tensors = {}
    for name, tensor in stored.items():
        if name.endswith("rotary_emb.inv_freq") or (name == "lm_head.weight" and c.tie_word_embeddings):
            continue
        if OF_ACTIVATIONS.search(name):
            continue
        target = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if target is None and not name.startswith(("model.", "lm_head.")):
            continue  # heads trained beside the network, which it runs without
        if target is None or tensor.dtype not in _GGML:
            why = "has no place in" if target is None else f"is stored as {tensor.dtype}, which cannot be written into"
            raise ExplorerError(f"The tensor {name} {why} a GGUF of architecture '{arch}'.", _ELSEWHERE)
        placed[target] = tensor
    blocks: list[dict[str, tuple[int, ...]]] = [{} for _ in range(c.num_hidden_layers)]
    for name, tensor in placed.items():
        if name.startswith("blk."):
            _, index, part = name.split(".", 2)
            blocks[int(index)][part] = tensor.shape
    outside = {"token_embd.weight", "output_norm.weight"} | (set() if c.tie_word_embeddings else {"output.weight"})
    missing = sorted(outside - placed.keys()) or [
        f"blk.{i}.{part}"
        for i, block in enumerate(blocks)
        for part in sorted(blocks[0].keys() | block.keys())
        if block.get(part) != blocks[0].get(part)
    ]
    if missing or not blocks[0]:
        raise ExplorerError(
            f"The weights do not match config.json: {missing[0] if missing else 'every block'} is missing or has "
            "another shape than in the other blocks.",
            "Copy or make the model again.",
        )
    return dict(sorted(placed.items(), key=lambda item: _order(item[0])))


def _order(name: str) -> tuple[int, int, str]:
    """token_embd, then the blocks, then the rest: the order in which a forward reads them."""
    if name.startswith("blk."):
        _, index, part = name.split(".", 2)
        return 1, int(index), part
    return (0 if name.startswith("token_embd") else 2), 0, name


def _changes(arch: str, c: Any) -> dict[str, Any]:
    """What to do with a tensor's values, by the end of its GGUF name."""
    if arch == "llama":

        def paired(n_heads: int) -> Any:
            """transformers rotates the halves of a head, llama.cpp's llama rotates neighbours."""
            return lambda x: x.reshape(n_heads, 2, -1, *x.shape[1:]).swapaxes(1, 2).reshape(x.shape)

        heads = {"attn_q": c.num_attention_heads, "attn_k": c.num_key_value_heads}
        return {f".{name}.{end}": paired(n) for name, n in heads.items() for end in ("weight", "bias")}
    if arch in _PATTERNS:
        return {"norm.weight": lambda x: x + 1}
    return {}


def _write(
    writer: Any, path: Path, tensors: _Tensors, changes: dict[str, Any], divisors: Any, progress: Progress
) -> None:
    import gguf
    import numpy as np

    kinds = {name: _GGML[t.dtype] if len(t.shape) > 1 else "F32" for name, t in tensors.items()}
    sizes = {name: math.prod(t.shape) * (4 if kinds[name] == "F32" else 2) for name, t in tensors.items()}
    if divisors is not None:
        writer.add_tensor_info("rope_freqs.weight", divisors.shape, divisors.dtype, divisors.nbytes)
    for name, t in tensors.items():
        kind = gguf.GGMLQuantizationType[kinds[name]]
        writer.add_tensor_info(name, t.shape, np.dtype(np.float32), sizes[name], raw_dtype=kind)

    def arrays() -> Iterator[Any]:
        if divisors is not None:
            yield divisors
        for name, t in tensors.items():
            change = next((f for end, f in changes.items() if name.endswith(end)), None)
            yield _values(t, kinds[name], change)

    writer.write_header_to_file(path)
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    (file,) = writer.fout
    note, total, written = "Writing a GGUF file", sum(sizes.values()), 0
    progress(note, 0, total, "bytes")
    try:
        file.write(bytes(-file.tell() % writer.data_alignment))
        for array in arrays():
            file.write(array.data)
            file.write(bytes(-array.nbytes % writer.data_alignment))
            written += array.nbytes
            progress(note, min(written, total), total, "bytes")
    finally:
        writer.close()


def _values(tensor: _Stored | _Drawn, kind: str, change: Any) -> Any:
    """The tensor as it goes into the file, C-contiguous; bf16 as its 16 bits unless its values must change."""
    import numpy as np

    x = tensor.read()
    if kind == "F32" and tensor.dtype == "BF16":
        x = (x.astype("<u4") << 16).view("<f4")
    elif kind == "F32":
        x = x.astype("<f4", copy=False)
    return np.ascontiguousarray(change(x) if change else x)
