"""The modules of a model as transformers builds them, without any weights: names, classes, shapes, whole numbers.

    python -m core.models.module_tree FILE     prints {"values": ...} or {"reason": ...}

Built on the meta device, where a tensor has a shape and no memory, in a process of its own (core.models.library).
Knows how to open any configuration that the library knows; knows nothing of what a module computes.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from core import engine
from core.models import defaults, library
from core.types import Record
from hardware.errors import ExplorerError

REVISION = 4  # raise it when `dump` says something else of the same model
_MAX_BLOCKS = 1_000  # a configuration with more of them is a slip, and would take minutes to build


class Module(Record, frozen=True):
    """One module. parameters: its own, with their shapes. tied: of these, those that are another's too, and whose.

    numbers: whole numbers, flags and words among its attributes, such as `head_dim` or `is_causal`.
    """

    path: str
    kind: str
    parameters: dict[str, list[int]] = msgspec.field(default_factory=dict)
    numbers: dict[str, int | bool | str | None] = msgspec.field(default_factory=dict)
    tied: dict[str, str] = msgspec.field(default_factory=dict)


class Tree(Record, frozen=True):
    """All modules that own parameters or numbers, in the order in which the library defines them.

    config: the configuration completed with the library's defaults. n_params: tied ones counted once. kind: the class.
    fills_gaps: it reads to both sides. n_image: tokens of the largest picture that its cross-attention is given.
    """

    kind: str
    config: dict[str, Any]
    n_params: int
    modules: tuple[Module, ...]
    release: str = ""
    fills_gaps: bool = False
    n_image: int = 0


def of(config: Mapping[str, Any]) -> Tree:
    """The tree of a configuration's language model. Raises ExplorerError where transformers does not know it."""
    sent = {key: value for key, value in config.items() if key not in defaults.NOT_SENT}
    try:
        found = library.ask("core.models.module_tree", REVISION, json.dumps(sent, sort_keys=True))
    except library.NoAnswerError as error:
        raise ExplorerError(
            f"The architecture '{config.get('model_type', '')}' is not known here, and transformers cannot build it "
            f"({str(error).rstrip('.')}).",
            "Use the complete config.json that came with the model, or its GGUF.",
        ) from None
    return msgspec.convert({**found, "release": library.release()}, Tree)


def dump(config: Mapping[str, Any]) -> dict[str, Any]:
    """What `of` tells, built in this process, which must be PyTorch's. Raises what the library raises."""
    import torch

    torch.set_num_threads(1)
    text, whole = _configurations(config)
    with torch.device("meta"):
        model = _model(text, whole, bare=defaults.nested(config) is None and is_bare(config))
    if config.get("tie_word_embeddings") is False and getattr(whole, "is_encoder_decoder", False):
        _untie(model)
    seen = _table(model)
    unsaved = re.compile("|".join(getattr(model, "_keys_to_ignore_on_save", None) or ()) or "(?!)")  # computed, Marian
    rows, n_params = [], 0
    for path, module in model.named_modules():
        own, tied = {}, {}
        for name, parameter in module._parameters.items():
            if parameter is None or unsaved.search(f"{path}.{name}"):
                continue
            own[name] = list(parameter.shape)
            first = seen.setdefault(id(parameter), f"{path}.{name}")
            if first != f"{path}.{name}":
                tied[name] = first
            else:
                n_params += parameter.numel()
        numbers = {key: value for key, value in vars(module).items() if _telling(key, value)}
        if own or numbers or "Rotary" in type(module).__name__:
            row: dict[str, Any] = {"path": path, "kind": type(module).__name__}
            row |= {k: v for k, v in (("parameters", own), ("numbers", numbers), ("tied", tied)) if v}
            rows.append(row)
    values = json.loads(json.dumps(text.to_dict(), default=str))
    for key in ("hidden_size", "vocab_size", "num_attention_heads", "num_hidden_layers", "max_position_embeddings"):
        if values.get(key) is None and isinstance(number := getattr(text, key, None), int):
            values[key] = number  # some families have names of their own for them
    if isinstance(decoder := config.get("decoder"), Mapping):  # beside its encoder, in T5Gemma
        own = json.loads(json.dumps(whole.get_text_config(decoder=True).to_dict(), default=str))
        values |= {key: value for key, value in own.items() if values.get(key) is None or key in decoder}
        values["model_type"] = whole.model_type
    values["is_encoder_decoder"] = bool(getattr(model.config, "is_encoder_decoder", False))
    return {
        "kind": type(model).__name__,
        "config": values,
        "n_params": n_params,
        "modules": rows,
        "fills_gaps": _fills_gaps(model),
        "n_image": _n_image(config.get("vision_config")),
    }


def is_bare(config: Mapping[str, Any]) -> bool:
    """Whether its weights are a model without a head, as of those that embed."""
    kind = defaults.class_of(config)
    return kind.endswith("Model") and not kind.endswith("LMHeadModel")


def _table(model: Any) -> dict[int, str]:
    """The table of tokens: its identity -> its name, so that a head which is built before it is tied to it. Two sides
    share one that is built before both."""
    try:
        table = None if getattr(model.config, "is_encoder_decoder", False) else model.get_input_embeddings()
    except NotImplementedError:
        return {}
    weight = getattr(table, "weight", None)
    return {
        id(weight): f"{path}.weight" for path, module in model.named_modules() if weight is not None and module is table
    }


def _untie(model: Any) -> None:
    """A head of its own, as the file has it, where the library ties all models of a family (T5)."""
    import torch

    head, table = model.get_output_embeddings(), model.get_input_embeddings()
    if head is not None and table is not None and head.weight is getattr(table, "weight", None):
        head.weight = torch.nn.Parameter(head.weight.detach().clone())  # type: ignore[union-attr]


def _fills_gaps(model: Any) -> bool:
    """Whether the library has a model with the words that are missing for this configuration, and this is it or its
    part without a head."""
    import transformers

    kind, bare = type(model).__name__, type(model.config) in transformers.AutoModel._model_mapping
    bare = bare and type(model) is transformers.AutoModel._model_mapping[type(model.config)]
    return "MaskedLM" in kind or (bare and type(model.config) in transformers.AutoModelForMaskedLM._model_mapping)


def _n_image(vision: Any) -> int:
    """Tokens of the largest picture: every tile is cut into patches, and has one token more (Mllama)."""
    keys = ("max_num_tiles", "image_size", "patch_size")
    found = [vision.get(key) if isinstance(vision, Mapping) else None for key in keys]
    whole = [n for n in found if isinstance(n, int) and n > 0]
    return whole[0] * ((whole[1] // whole[2]) ** 2 + 1) if len(whole) == len(keys) else 0


def _telling(key: str, value: Any) -> bool:
    if key.startswith("_") or key == "training":
        return False
    return isinstance(value, int | str) or (value is None and key == "sliding_window")


def _configurations(config: Mapping[str, Any]) -> tuple[Any, Any]:
    """(the language model's configuration, the whole one's)."""
    from transformers import AutoConfig

    values = {key: value for key, value in config.items() if value is not None or key not in ("dtype", "torch_dtype")}
    whole = AutoConfig.for_model(**{"model_type": "", **defaults.decoded(values)})
    nested = defaults.nested(config)
    text = whole.get_text_config(decoder=True) if nested is not None else whole
    tied = config.get("tie_word_embeddings")
    if nested is not None and (tied is True or (tied is not None and "tie_word_embeddings" not in nested)):
        text.tie_word_embeddings = tied
    n_blocks = getattr(text, "num_hidden_layers", 0)
    if isinstance(n_blocks, int) and n_blocks > _MAX_BLOCKS:
        raise ValueError(f"{n_blocks:,} blocks are more than can be built")
    return text, whole


def _model(text: Any, whole: Any, bare: bool) -> Any:
    """The model of the first kind that the library has for it: one that answers, one that fills gaps, a bare one.

    bare: of those that fill gaps the latter.
    """
    import transformers

    autos = [
        (transformers.AutoModelForSeq2SeqLM, whole),
        (transformers.AutoModelForSpeechSeq2Seq, whole),
        (transformers.AutoModelForCausalLM, text),
        (transformers.AutoModelForMaskedLM, text),
        (transformers.AutoModelForImageTextToText, whole),
        (transformers.AutoModel, text),
    ]
    if type(text) in transformers.AutoModelForMaskedLM._model_mapping:
        if getattr(text, "is_decoder", True) is False:  # whose answering class is for one turned into a decoder
            autos.insert(2, autos.pop(3))
        if bare:
            autos.insert(0, autos.pop())
    for auto, config in autos:
        sides = auto in (transformers.AutoModelForSeq2SeqLM, transformers.AutoModelForSpeechSeq2Seq)
        if sides and not getattr(config, "is_encoder_decoder", False):
            continue
        if type(config) in auto._model_mapping:
            return auto.from_config(config)
    raise ValueError(f"transformers has no language model for '{text.model_type}'")


def main(file: str) -> int:
    """Exit status 0, or 2 after a reason."""
    config = json.loads(Path(file).read_text(encoding="utf-8"))
    engine.claim("pytorch")
    engine.hide_besides()
    try:
        print(library.answer(dump(config)), flush=True)
    except Exception as error:  # whatever the library makes of a stranger's numbers
        print(json.dumps({"reason": (" ".join(str(error).split()) or type(error).__name__)[:200]}), flush=True)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
