"""Stored tensors, and the layers they belong to.

Knows safetensors headers and how to lay the bytes of a file's tensors over a network. Reads no values.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from core.dtypes import canonical_dtype, is_quantized
from core.layer_names import block_of, canonical_hf, fit, kind_of, named_hf
from core.models import safetensors_file, weight_files
from core.types import Aside, Elementwise, Embedding, Layer, Linear, ModelSpec, Record
from hardware.errors import ExplorerError

# In a weight's place or beside it: "torch-int", GPTQ and AWQ, compressed-tensors and FP8, bitsandbytes, MLX, HQQ,
# torchao, ExLlamaV2, AQLM.
_BESIDE = re.compile(
    r"\.(weight_(int8|int4|scale|scale_zero|scale_inv|scale_2|packed|shape|zero_point|global_scale|g_idx|format)"
    r"|qweight|qzeros|scales|g_idx|biases|input_(scale|global_scale|zero_point)|SCB|weight_SCB|W_q|zero|scale"
    r"|weight\.(absmax|quant_map|nested_absmax|nested_quant_map|quant_state\.\w+)|compressed|bitmask|row_offsets"
    r"|scale_packed|meta|_weight_\w+|codes|codebooks|q_(weight|scale|scale_max|groups|invperm|perm))$"
)
_EXPERTS_BESIDE = re.compile(r"(_proj)_(blocks|scales|scale|scale_inv)$")  # MXFP4 beside stacked experts
_PACKED = ("int8", "int16", "int32", "int64", "fp8", "fp4")  # what a file calls the words that hold quantized weights
# what a text token never touches, by the modules that transformers puts it in
_ASIDE = {
    "vision": re.compile(
        r"(?:^|\.)(?:vision\w*|visual|video_tower|multi_modal\w*|(?:mm_)?projector|connector|aligner|perceiver\w*|qformer"
        r"|resampler\w*|image_\w+|embed_vision|lora_[AB]\.vision)(?:\.|$)"
    ),
    "audio": re.compile(r"(?:^|\.)(?:audio\w*|embed_audio|lora_[AB]\.speech)\."),
    "mtp": re.compile(r"(?:^|\.)mtp(?:_\w+)?\."),
}
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


class Tensor(Record, frozen=True):
    """One stored tensor. layer: canonical name of its layer, or its own name where none is known.

    aside: what it is for where no text token touches it (vision, audio, mtp).
    """

    layer: str
    dtype: str
    n_elements: int
    n_bytes: int
    aside: str = ""


def measured(spec: ModelSpec, tensors: Iterable[Tensor], *, keep_unknown: bool) -> ModelSpec:
    """The same network with the dtypes and bytes its file really stores.

    A matrix that the file stores fused (gate and up, query, key and value) is shared out by number of
    parameters. keep_unknown: a tensor of no known layer becomes a layer of its own, so that the sum over
    layers is the sum over the file; otherwise it is left out, as a library leaves it unloaded.
    """
    own = {layer.name for layer in spec.layers if layer.n_params}
    names = {layer.name for layer in spec.layers}
    sizes = {layer.name: layer.n_params for layer in spec.layers}
    stored: dict[str, list[Tensor]] = defaultdict(list)
    tensors = tuple(tensors)
    for tensor in (t for t in tensors if not t.aside):
        for part in _shared_out(tensor, sizes):
            stored[part.layer].append(part)
    layers = [_with_bytes(layer, stored[layer.name]) if layer.name in own else layer for layer in spec.layers]
    layers = _by_block(layers, stored, names)
    missing = [layer.name for layer in layers if layer.n_params and not stored[layer.name]]
    if missing:
        n = "1 layer" if len(missing) == 1 else f"{len(missing)} layers"
        raise ExplorerError(
            f"The weights of {n} of {spec.name} are missing, the first is {missing[0]}.",
            "Copy or download the model again; a part of it may be absent.",
        )
    if keep_unknown:
        # a stored copy of a tied table keeps its layer's name out of here: it is never loaded
        layers += [_layer_of(name, stored[name]) for name in stored if name not in names]
    dtype = main_dtype((layer.weight_dtype, layer.n_params) for layer in layers)
    aside = _aside(tensors)
    parts = ", ".join(f"{a.name} ({a.n_params / 1e6:,.1f} M parameters, {a.weight_bytes / 1e6:,.1f} MB)" for a in aside)
    source = f"{spec.source} Not counted, since no text token touches it: {parts}." if aside else spec.source
    return msgspec.structs.replace(spec, layers=tuple(layers), dtype=dtype, aside=aside, source=source)


def check_sizes(spec: ModelSpec, tensors: Iterable[Tensor], says: str = "config.json") -> None:
    """Raises ExplorerError where a matrix has other numbers than the configuration says, biases aside.

    says: where the configuration stands, in the sentence. Beside a config.json, quantized weights are packed in ways
    of their own, and are not counted; a GGUF tells the numbers of all.
    """
    packed = says == "config.json"
    sizes = {layer.name: layer.n_params for layer in spec.layers}
    stored: dict[str, list[Tensor]] = defaultdict(list)
    for tensor in (t for t in tensors if not t.aside):
        for part in _shared_out(tensor, sizes):
            stored[part.layer].append(part)
    for layer in spec.layers:
        op, own = layer.op, stored[layer.name]
        if not own or not isinstance(op, Linear | Embedding) or (packed and any(is_quantized(t.dtype) for t in own)):
            continue
        n, rows, columns = (op.n_experts, op.d_out, op.d_in) if isinstance(op, Linear) else (1, op.rows, op.d)
        wanted, found = n * rows * columns, sum(t.n_elements for t in own)
        if wanted <= layer.n_params and not wanted <= found <= max(layer.n_params, wanted + n * rows):
            raise ExplorerError(
                f"The weights of {spec.name} do not fit its {says}: {layer.name} has {found:,} numbers, and "
                f"{wanted:,} by what that says.",
                f"Use the {says} that came with the weights." if packed else "Download or copy the file again.",
            )


def _aside(tensors: tuple[Tensor, ...]) -> tuple[Aside, ...]:
    kinds = dict.fromkeys(t.aside for t in tensors if t.aside)
    own = {kind: [t for t in tensors if t.aside == kind] for kind in kinds}
    return tuple(
        Aside(name=kind, n_params=sum(t.n_elements for t in ts), weight_bytes=sum(t.n_bytes for t in ts))
        for kind, ts in own.items()
    )


_AGAIN = ".again"  # behind the second of two modules of one name (core.models.architectures.from_modules)


def _by_block(layers: list[Layer], stored: dict[str, list[Tensor]], names: set[str]) -> list[Layer]:
    """In a block, or around them all (None), where a file names parts otherwise than the library, the layers that found
    no tensor share those that found no layer, if these are as many numbers as those want."""
    wanting: dict[int | None, list[Layer]] = defaultdict(list)
    several = {layer.name.removesuffix(_AGAIN) for layer in layers if layer.name.endswith(_AGAIN)}  # two of one name
    for layer in layers:
        block = block_of(layer.name)
        if layer.n_params and (layer.name in several or not stored[layer.name]):
            wanting[block].append(layer)
    if not wanting:
        return layers
    loose: dict[int | None, list[str]] = defaultdict(list)
    for name in [n for n in stored if (n in several or n not in names) and stored[n]]:
        loose[block_of(name)].append(name)
    found: dict[str, Layer] = {}
    for block, own in wanting.items():
        tensors = [tensor for name in loose[block] for tensor in stored[name]]
        total = sum(layer.n_params for layer in own)
        if sum(t.n_elements for t in tensors) != total:
            continue
        dtype = main_dtype((t.dtype, t.n_elements) for t in tensors)
        left = sum(t.n_bytes for t in tensors)
        for layer in own:
            n_bytes = left if layer is own[-1] else sum(t.n_bytes for t in tensors) * layer.n_params // total
            left -= n_bytes
            part = Tensor(layer=layer.name, dtype=dtype, n_elements=layer.n_params, n_bytes=n_bytes)
            stored[layer.name] = [part]
            found[layer.name] = _with_bytes(layer, [part])
        for name in set(loose[block]) - names:
            del stored[name]
    return [found.get(layer.name, layer) for layer in layers]


_PARTS = {
    "gate_up_proj": ("gate_proj", "up_proj"),
    "qkv_proj": ("q_proj", "k_proj", "v_proj"),
}


def _shared_out(tensor: Tensor, sizes: dict[str, int]) -> list[Tensor]:
    """The tensor under the names that the network has: split where the file fuses, or the reverse."""
    at, _, leaf = tensor.layer.rpartition(".")
    if tensor.layer in sizes:
        return [tensor]
    parts = [f"{at}.{p}" for p in _PARTS.get(leaf, ())]
    if not parts or not all(p in sizes for p in parts):
        return [msgspec.structs.replace(tensor, layer=fit(tensor.layer, sizes))]
    total = sum(sizes[p] for p in parts)
    share = [tensor.n_bytes * sizes[p] // total for p in parts]
    share[-1] += tensor.n_bytes - sum(share)
    return [
        msgspec.structs.replace(tensor, layer=p, n_bytes=b, n_elements=tensor.n_elements * sizes[p] // total)
        for p, b in zip(parts, share, strict=True)
    ]


def _with_bytes(layer: Layer, stored: list[Tensor]) -> Layer:
    if not stored:
        return layer
    dtype = main_dtype((t.dtype, t.n_elements) for t in stored)
    if dtype in _PACKED and layer.weight_dtype and is_quantized(layer.weight_dtype):
        dtype = layer.weight_dtype  # as declared: the file tells only the words that it is packed in
    return msgspec.structs.replace(layer, weight_dtype=dtype, weight_bytes=sum(t.n_bytes for t in stored))


def _layer_of(name: str, stored: list[Tensor]) -> Layer:
    n = sum(t.n_elements for t in stored)
    return _with_bytes(
        Layer(name=name, kind=kind_of(name), op=Elementwise(d=0, n_inputs=0, flops_per_element=0), n_params=n), stored
    )


def main_dtype(parts: Iterable[tuple[str | None, int]]) -> str:
    """The dtype that most elements have."""
    sizes = Counter[str]()
    for dtype, n in parts:
        if dtype:
            sizes[dtype] += n
    return sizes.most_common(1)[0][0]


def safetensors_headers(folder: Path, architecture: str) -> list[Tensor]:
    """All tensors of a folder's safetensors files, from the headers alone."""
    weights = weight_files.of(folder)
    if not weights.files:
        if any(next(folder.glob(pattern), None) for pattern in _PICKLES):
            raise ExplorerError(
                f"{folder.name} holds a pickle checkpoint, which can run code when it is opened.",
                "Convert it to safetensors first; only safetensors are read.",
            )
        raise ExplorerError(
            f"{folder.name} holds a config.json but no weights.", "Add the .safetensors files, or use it as a preset."
        )
    found: dict[str, dict[str, Any]] = {}
    for file in weights.files:
        for name, entry in safetensors_file.header(file).items():
            if weights.has(file, name):
                found.setdefault(name, entry)  # each weight counts once, whatever the shards repeat
    words = {name.partition(".quant_state.")[0] for name in found if ".quant_state." in name}  # of any number format
    tables = [n for n in found if n.endswith(".weight") and canonical_hf(n, architecture) == "embed"]
    for name in tables[1:]:  # T5's table has up to three names
        if found[name]["shape"] == found[tables[0]]["shape"]:
            del found[name]
    return [_tensor(name, entry, architecture, name in words) for name, entry in found.items()]


def safetensors_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """The shape of every weight of a folder that a text token touches, without the scales beside quantized ones."""
    found: dict[str, tuple[int, ...]] = {}
    for file in weight_files.of(folder).files:
        for name, entry in safetensors_file.header(file).items():
            if not any(pattern.search(name) for pattern in _ASIDE.values()) and not _BESIDE.search(name):
                found.setdefault(name, tuple(entry["shape"]))
    return found


_SAMPLES, _SAMPLE = 64, 4096  # places of two tensors that are compared, and bytes at each


def heads_apart(folder: Path) -> bool:
    """Whether a folder stores a head with other values than its table of tokens: then they are two, and transformers
    loads both, whatever the configuration says of tying them. By samples."""
    found: dict[str, tuple[Path, dict[str, Any], int]] = {}
    for file in weight_files.of(folder).files:
        for name, entry in safetensors_file.header(file).items():
            if (layer := canonical_hf(name)) in ("embed", "lm_head") and name.endswith(".weight"):
                found[layer] = (file, entry, safetensors_file.data_start(file))
    if len(found) < 2:
        return False
    (_, table, _), (_, head, _) = found["embed"], found["lm_head"]
    if (table["dtype"], table["shape"]) != (head["dtype"], head["shape"]):
        return True
    with found["embed"][0].open("rb") as one, found["lm_head"][0].open("rb") as other:
        n_bytes = table["data_offsets"][1] - table["data_offsets"][0]
        for i in range(_SAMPLES):
            at = max(n_bytes - _SAMPLE, 0) * i // (_SAMPLES - 1)
            one.seek(found["embed"][2] + table["data_offsets"][0] + at)
            other.seek(found["lm_head"][2] + head["data_offsets"][0] + at)
            size = min(_SAMPLE, n_bytes)
            if one.read(size) != other.read(size):
                return True
    return False


def _tensor(name: str, entry: dict[str, Any], architecture: str, words: bool) -> Tensor:
    """words: its numbers are but words that quantized weights are packed in."""
    n_elements = 1
    for n in entry["shape"]:
        n_elements *= n
    start, end = entry["data_offsets"]
    halves = name.endswith(".weight_int4")  # two in a byte
    aside = next((what for what, pattern in _ASIDE.items() if pattern.search(name)), "")
    try:
        dtype = "int4" if halves else "int8" if words else canonical_dtype(str(entry["dtype"]))
    except ExplorerError as error:
        raise ExplorerError(
            f"The tensor {name} is stored as '{entry['dtype']}', a number format that is not known here.",
            "Choose the model in another precision, or its GGUF.",
        ) from error
    return Tensor(
        layer=name if aside else named_hf(_EXPERTS_BESIDE.sub(r"\1", _BESIDE.sub("", name)), architecture),
        dtype=dtype,
        n_elements=n_elements * (2 if halves else 1),
        n_bytes=end - start,
        aside=aside,
    )
