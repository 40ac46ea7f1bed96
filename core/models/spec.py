"""A model's architecture from what is on disk: config.json, safetensors headers, a GGUF file.

Knows the file formats and which tensor belongs to which layer. Knows nothing of how a family is built
(core.models.architectures) nor of what a forward costs (core.analysis.work). Reads no weights and
imports no model library.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from core.dtypes import bytes_per_element, canonical_dtype, retype
from core.layer_names import block_of, fit
from core.models import (
    architectures,
    defaults,
    formats,
    gguf_file,
    library,
    module_tree,
    onnx_file,
    other_names,
    precision,
    served,
    weight_files,
)
from core.models.architectures import from_modules, from_tensors
from core.models.config import Config, MissingSizeError
from core.models.gguf import gguf_config, gguf_tensors, gguf_values
from core.models.network import Network
from core.models.tensors import (
    Tensor,
    check_sizes,
    heads_apart,
    main_dtype,
    measured,
    safetensors_headers,
    safetensors_shapes,
)
from core.types import Attention, Embedding, ModelSpec
from hardware.errors import ExplorerError

__all__ = ["from_config", "from_gguf", "from_hf_folder", "from_onnx_folder", "read", "retype"]

_FLOATS = ("fp64", "fp32", "fp16", "bf16")
_MAX_CONTEXT = ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len")


def from_config(config: Mapping[str, Any], name: str = "", source: str = "") -> ModelSpec:
    """The architecture that a parsed config.json describes; weight bytes are left open, unless it declares how its
    weights are quantized (core.models.precision).

    Fields that are absent take transformers' defaults for the model_type. A multimodal configuration
    (`text_config` and its relatives) is read as its language model, what that leaves out completed from transformers.
    Raises ExplorerError, one sentence per fault.
    """
    c, network, note, doubts = _built(config)
    spec = _spec(config, c, network, name, f"{source} {note}".strip())
    if spec.causal and defaults.nested(config) is None and module_tree.is_bare(config):
        own_head = [x for x in spec.layers if x.name == "lm_head" and x.n_params]  # weights without it cannot have it
        spec = msgspec.structs.replace(spec, layers=tuple(x for x in spec.layers if x not in own_head))
    return msgspec.structs.replace(spec, doubts=doubts) if doubts else spec


def _spec(config: Mapping[str, Any], c: Config, network: Network, name: str, source: str) -> ModelSpec:
    """The network with the configuration's numbers around it, in the precision that it declares."""
    layers = network.layers
    cores = [x.op for x in layers if isinstance(x.op, Attention) and not x.name.startswith("encoder.")]
    n_blocks = 1 + max(int(layer.name.split(".")[1]) for layer in layers if layer.name.startswith("blocks."))
    found = precision.declared(config)
    main = dtype = plain_dtype(config)
    if found:
        rest_bytes = bytes_per_element(dtype)
        layers = tuple(found.stored(layer, dtype, rest_bytes) for layer in layers)
        main = main_dtype((layer.weight_dtype, layer.n_params) for layer in layers)
        source = f"{source} Declared precision: {found.words}.".strip()
        if found.scheme is None and main == dtype and not found.plain:
            source = f"{source[:-1]}, whose sizes are not known here: counted in {dtype}."
    return ModelSpec(
        name=name or str(config.get("_name_or_path") or c.model_type),
        architecture=c.model_type,
        d_model=c.size(next((k for k in ("hidden_size", "n_embd", "dim") if c.get(k)), "hidden_size")),
        n_blocks=n_blocks,
        vocab_size=c.size("vocab_size"),
        max_context=next((c.optional(k) for k in _MAX_CONTEXT if c.get(k) not in (None, 0, -1)), None),
        layers=layers,
        causal=all(core.causal for core in cores),
        dtype=main,
        source=source,
    )


def _built(config: Mapping[str, Any]) -> tuple[Config, Network, str, str]:
    """The network; what came from the library: sizes that a nested configuration leaves out, or all of it for an
    architecture without a file here; and what is not known."""
    known = _known(config)
    values = _language_model(known)
    model_type = str(values.get("model_type") or "")
    there = model_type in architectures.model_types()
    if not there and library.knows(model_type):
        return _from_library(known, model_type)
    own = defaults.nested(known)
    nameless = own is not None and not there and not own.get("model_type") and _is_known(known)  # its library names it
    if not nameless:
        try:
            return *architectures.build(values), "", ""
        except MissingSizeError:
            if defaults.nested(config) is None:
                raise
    complete, filled = defaults.completed(known)
    note = f"Not in the file, so transformers' defaults: {', '.join(filled)}." if filled else ""
    return *architectures.build(_language_model(known, complete)), note, ""


def _is_known(config: Mapping[str, Any]) -> bool:
    return library.knows(str(config.get("model_type") or ""))


def _known(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The configuration in transformers' names; of a multimodal one that it does not know, the language model's."""
    own = defaults.nested(config)
    if own is not None and own.get("model_type") and not _is_known(config):
        config = {**{key: config[key] for key in ("tie_word_embeddings",) if key in config}, **own}
    return other_names.in_usual_names(config)


def _from_library(config: Mapping[str, Any], model_type: str) -> tuple[Config, Network, str, str]:
    tree = module_tree.of(config)
    network, doubts = from_modules.network(tree)
    note = f"Layers as transformers {tree.release} builds them ({tree.kind})."
    return Config({**tree.config, "model_type": model_type}, {}), network, note, doubts


def plain_dtype(config: Mapping[str, Any]) -> str:
    """The number format of the weights that are not quantized: the one that the configuration names, else the usual."""
    return stored_dtype(config) or ("bf16" if precision.declared(config) else "fp32")


def stored_dtype(config: Mapping[str, Any]) -> str | None:
    """The number format that a configuration names for its weights, by the new key or the old; None: it names none."""
    for values in defaults.parts(config):
        for key in ("dtype", "torch_dtype"):
            name = values.get(key)
            if isinstance(name, Mapping):  # by part of a multimodal model, "" for the rest
                name = name.get("text_config") or name.get("")
            if name and name != "auto":
                return canonical_dtype(str(name))
    return None


# Language models of multimodal ones that are built as another family's: rotation over three axes, the same weights.
_SAME = {
    "qwen2_vl": "qwen2",
    "qwen2_vl_text": "qwen2",
    "qwen2_5_vl": "qwen2",
    "qwen2_5_vl_text": "qwen2",
    "qwen2_5_omni_text": "qwen2",
    "qwen3_vl_text": "qwen3",
    "qwen3_vl_moe_text": "qwen3_moe",
    "qwen3_omni_moe_text": "qwen3_moe",
    "kimi_k2": other_names.usual("kimi_k2"),
}


def _language_model(config: Mapping[str, Any], complete: Mapping[str, Any] | None = None) -> Mapping[str, Any]:
    """The values of the language model in a configuration. complete: the same with the library's defaults."""
    own = defaults.nested(config)
    text = complete or (config if own is None else own)
    values = dict(text)
    tied = config.get("tie_word_embeddings")
    if own is not None and tied is not None:  # transformers 5 ties by the outer one, and writes its default to both
        values["tie_word_embeddings"] = tied is True or own.get("tie_word_embeddings", tied)
    # multimodal files name the whole "gemma3" and may leave the part without a name of its own
    model_type = text.get("model_type") or (f"{config.get('model_type', '')}_text" if own is not None else "")
    return {**values, "model_type": _SAME.get(str(model_type), model_type)}


def read(path: str | Path, fmt: str) -> ModelSpec:
    """The architecture of a model on disk. fmt: "hf", "torch-int", "onnx" (folders), "config" (config.json), "gguf",
    "endpoint" (what a server says of a model, which has no layers)."""
    path = Path(path)
    if fmt == "gguf":
        return from_gguf(path)
    if fmt in ("hf", "torch-int"):
        return from_hf_folder(path)
    if fmt == "config":
        spec = from_config(read_config(path), name=_stem(path), source=f"Architecture from {path.name}, no weights.")
        return msgspec.structs.replace(spec, random_weights=True)
    if fmt == "onnx":
        return from_onnx_folder(path)
    if fmt == "endpoint":
        return served.read(path)
    raise ExplorerError(
        f"Models in the format '{fmt}' are not known here.", "Known: hf, torch-int, config, gguf, onnx, endpoint."
    )


def _stem(path: Path) -> str:
    return path.parent.name if path.name == "config.json" else path.stem if path.is_file() else path.name


def read_config(path: str | Path) -> dict[str, Any]:
    """The parsed configuration at `path`, a file or a folder that holds config.json."""
    path = Path(path)
    file = path / "config.json" if os.path.isdir(path) else path
    if file.name.endswith(".onnx"):
        file = file.with_name("config.json")
    try:
        content = file.read_bytes()
    except OSError as error:
        if not formats.is_there(file):
            name = file.name if len(file.name) <= 200 else f"{file.name[:200]}..."
            raise ExplorerError(
                f"There is no {name} in {file.parent}.", "Choose a folder that holds the model's config.json."
            ) from None
        raise ExplorerError(f"{file} cannot be read ({error.strerror}).", "Check its permissions.") from None
    config = parsed_config(content, str(file))
    if not config.get("quantization_config"):
        for beside in (file.with_name(name) for name in precision.FILES):
            if os.path.isfile(beside) and (found := precision.of_file(parsed_config(beside.read_bytes(), str(beside)))):
                return config | {"quantization_config": found}
    return config


def parsed_config(content: bytes, name: str) -> dict[str, Any]:
    """A configuration from the content of a file of this name. Raises ExplorerError."""
    try:
        config = formats.outside_json(content)
    except ValueError as error:
        where = f" (line {error.lineno}: {error.msg})" if isinstance(error, json.JSONDecodeError) else ""
        raise ExplorerError(f"{name} is not JSON{where}.", "Choose the config.json that came with the model.") from None
    if not isinstance(config, dict):
        raise ExplorerError(f"{name} does not hold a JSON object.", "Choose the config.json that came with the model.")
    return config


def from_hf_folder(path: str | Path) -> ModelSpec:
    """Architecture from config.json; exact dtypes and bytes per layer from the safetensors headers."""
    path = Path(path)
    config = read_config(path)
    weights = weight_files.of(path)
    name = "/".join(path.parents[1].name.split("--")[1:]) if path.parent.name == "snapshots" else ""  # not its hash
    source = f"Weights in {name or path.name} (safetensors). {weights.note}".rstrip()
    if not isinstance(config.get("tie_word_embeddings"), str) and heads_apart(path):
        config = _untied(config)
    config = _as_stored(config, path)
    if _is_foreign(config):
        spec = _from_tensors(config, path, name or path.name, source)
    else:
        spec = from_config(config, name=name or path.name, source=source)
    tensors = safetensors_headers(path, spec.architecture)
    if any(c.get("num_nextn_predict_layers") for c in (config, defaults.nested(config) or {})):
        # blocks behind the last one foretell further tokens (GLM-4.5, DeepSeek-V3)
        behind = [(block_of(tensor.layer) or 0) >= spec.n_blocks for tensor in tensors]
        tensors = [
            msgspec.structs.replace(tensor, aside="mtp") if extra else tensor
            for tensor, extra in zip(tensors, behind, strict=True)
        ]
    _check_table(spec, tensors)
    _check_head(spec, tensors, config)
    check_sizes(spec, tensors)
    return measured(spec, tensors, keep_unknown=False)


def _untied(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of weights whose head is not the table of tokens, whatever it says."""
    parts = {
        key: {**config[key], "tie_word_embeddings": False}
        for key in defaults.NESTS
        if isinstance(config.get(key), Mapping)
    }
    return {**config, **parts, "tie_word_embeddings": False}


def _check_table(spec: ModelSpec, tensors: Iterable[Tensor]) -> None:
    """Raises ExplorerError where the table of tokens has other rows than the configuration says: tokens were added."""
    for layer in spec.layers:
        if layer.kind != "embedding" or not isinstance(layer.op, Embedding) or layer.op.rows != spec.vocab_size:
            continue
        own = [t for t in tensors if t.layer == layer.name and not t.aside]
        n = sum(t.n_elements for t in own) if all(t.dtype in _FLOATS for t in own) else 0  # integers come with scales
        if n and n != layer.op.rows * layer.op.d and n % layer.op.d == 0:
            raise ExplorerError(
                f"The weights of {spec.name} have a table of {n // layer.op.d:,} tokens, and config.json says "
                f"{spec.vocab_size:,}.",
                "Correct 'vocab_size' in config.json, or use the one that came with the weights.",
            )


def _as_stored(config: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The configuration of an encoder by its weights: one that embeds keeps the class of what it was made from, whose
    head it lacks."""
    kind = defaults.class_of(config)
    if not kind.endswith(_FILLS) or any(_HEAD.search(name) for name in safetensors_shapes(folder)):
        return config
    return {**config, "architectures": [f"{kind.removesuffix(_FILLS)}Model"]}


_FILLS = "ForMaskedLM"
_HEAD = re.compile(r"(?:^|\.)(?:\w*head|cls|decoder|vocab_\w+|\w*predictions)\.")  # modules of one that fills gaps
_WRITES = ("ForCausalLM", "ForConditionalGeneration", "LMHeadModel", "ForMaskedLM")  # ends of classes with such a head


def _check_head(spec: ModelSpec, tensors: Iterable[Tensor], config: Mapping[str, Any]) -> None:
    """Raises ExplorerError for weights of a class that has no head over the vocabulary: it embeds, or it judges."""
    kind = defaults.class_of(config)
    heads = [layer for layer in spec.layers if layer.name == "lm_head"]
    wanted = any(layer.n_params for layer in heads) or (spec.causal and not heads)
    if wanted and kind and not kind.endswith(_WRITES) and not any(t.layer == "lm_head" for t in tensors):
        raise ExplorerError(
            f"The weights of {spec.name} are a {kind}, which has no head that writes text.",
            "Choose the model that it was made from.",
        )


def _is_foreign(config: Mapping[str, Any]) -> bool:
    """Whether neither we nor transformers know the architecture, nor a multimodal one around it."""
    own = str(_language_model(_known(config)).get("model_type") or "")
    kinds = (own, str(config.get("model_type") or ""))
    return bool(own) and not any(kind in architectures.model_types() or library.knows(kind) for kind in kinds)


def _from_tensors(config: Mapping[str, Any], folder: Path, name: str, source: str) -> ModelSpec:
    """The network that a folder's tensors tell, of an architecture that nobody here knows."""
    values = dict(_language_model(config))
    shapes = safetensors_shapes(folder)
    network, doubts = from_tensors.of_folder(shapes, values)
    for key in ("hidden_size", "vocab_size"):
        values.setdefault(key, from_tensors.table(shapes)[key == "hidden_size"])
    spec = _spec(config, Config(values, {}), network, name, f"{source} Layers as its tensors tell them.")
    return msgspec.structs.replace(spec, doubts=doubts)


def from_onnx_folder(path: str | Path) -> ModelSpec:
    """Architecture from config.json; exact dtypes and bytes per layer from model.onnx where its nodes tell them."""
    path = Path(path)
    spec = from_config(read_config(path), name=_stem(path), source=f"ONNX export in {path.name}.")
    file = path / "model.onnx" if path.is_dir() else path
    stored = onnx_file.tensors(file, spec.architecture) if file.is_file() else []
    owned = {layer.name for layer in spec.layers if layer.n_params}
    names = {layer.name for layer in spec.layers}
    if not owned <= {fit(t.layer, names) for t in stored}:
        return retype(spec, "fp32")  # an export that keeps no names
    return measured(spec, stored, keep_unknown=False)


def from_gguf(path: str | Path) -> ModelSpec:
    """Architecture from the file's metadata; exact tensor types and bytes per layer, scales included."""
    path = Path(path)
    file = gguf_file.read(path)
    gguf_file.check_says(path, str(file.metadata.get("general.type", "")), file.architecture)
    if not file.tensors:
        raise ExplorerError(f"{path.name} holds a vocabulary and no weights.", "Choose a file with weights.")
    config, name = gguf_config(file)
    source = f"Weights in {path.name} (GGUF)."
    if str(config["model_type"]) in architectures.model_types():
        spec = from_config(config, name=name or path.stem, source=source)
    else:
        tensors = zip(gguf_tensors(file), file.tensors, strict=True)
        shapes = {t.name: t.shape for known, t in tensors if not known.aside}
        network, doubts = from_tensors.network(shapes, config, gguf_values(file))
        source = f"{source} Layers as its tensors tell them."
        spec = msgspec.structs.replace(
            _spec(config, Config(config, {}), network, name or path.stem, source), doubts=doubts
        )
    stored = gguf_tensors(file)
    check_sizes(spec, stored, "header")
    return measured(spec, stored, keep_unknown=True)
