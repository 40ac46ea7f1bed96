"""A Hugging Face folder becomes an ONNX file: one graph for prefill and decode, fp32.

    python -m core.models.torch_to_onnx FOLDER OUT SAMPLES     prints progress as JSON lines

Knows how the network is traced and what the graph's inputs are called. Does not know the cache it is
written into (core.models.artifacts makes the folder atomic) nor who runs it (core.backends.onnxruntime).

Inputs of a decoder: `input_ids` and `position_ids` (batch, n), `logits_to_keep` (k,) - which of the n
positions want logits, so that a prefill need not compute all n rows of the vocabulary - and the cache,
`input.past_key_values.layers.I.keys` and `.values` (batch, heads, past, width), past may be 0.
Outputs: `logits` (batch, k, vocab) and `output.past_key_values...` with n more positions. All
sequences of a batch have equal length, so there is no attention mask. An encoder has `input_ids`
alone and gives `logits` (batch, n, vocab).

Opset 23, because it has RMSNormalization, RotaryEmbedding and a grouped-query Attention: a third of
the nodes of the older opset, and no copy of the keys for every query head. Each node keeps the
module it came from (`pkg.torch.onnx.name_scopes`) and the line of source that made it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from core import engine
from core.models import onnx_blocks, weight_files
from core.tokenizers.folder import read_json, tokenizer_file
from core.tokenizers.library import save
from hardware.errors import ExplorerError

OPSET = 23
SOURCE = "pkg.torch.onnx.stack_trace"

# torch.export fixes a dimension of 0 or 1 for ever, so the sample has none.
BATCH, PAST, NEW, KEPT = 2, 3, 5, 4
WANTED = "logits"  # in a file of samples, beside the inputs' names


class Message(msgspec.Struct, omit_defaults=True):
    """A line of output: what is being done or, with a hint, why it failed."""

    text: str
    hint: str = ""


def main(source: str, target: str, samples: str) -> int:
    def work(tell: Callable[[str], None]) -> None:
        engine.claim("pytorch")
        engine.hide_besides()
        convert(Path(source), Path(target), tell, Path(samples))

    return telling(work)


def telling(work: Callable[[Callable[[str], None]], None]) -> int:
    """Do the work of a process whose stdout belongs to our messages: exit status 0, or 2 after a refusal."""
    out = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # libraries print, too

    def tell(text: str, hint: str = "") -> None:
        out.write(msgspec.json.encode(Message(text, hint)) + b"\n")

    try:
        work(tell)
    except ExplorerError as error:
        tell(error.message, error.hint)
        return 2
    return 0


def convert(source: Path, target: Path, tell: Callable[[str], None], samples: Path | None = None) -> None:
    """Write model.onnx and model.onnx.data (the weights) into `target`, with the source's other small files.

    samples: a file for what the graph must answer, to be compared where ONNX Runtime is.
    Raises ExplorerError when the architecture cannot be traced. Needs about three times the weights'
    bytes of memory, and seconds for each block that is traced.
    """
    target.mkdir(parents=True, exist_ok=True)
    tokenizer = tokenizer_file(source)
    tell("Loading the weights for the ONNX export")
    model = _load(source)
    program = _program(model, tell)
    _strip(program)
    tell("Writing the ONNX export")
    # Weights in a file of their own are mapped, not parsed: a third of the loading time, and their
    # memory can be given back.
    program.save(target / "model.onnx", external_data=True)
    del program
    if samples is not None:
        tell("Computing what the ONNX export must answer")
        write_samples(model, samples)
    for file in source.iterdir():
        if file.suffix in (".json", ".jinja", ".txt") and not file.name.endswith(".index.json"):
            shutil.copyfile(file, target / file.name)
    if (named := source / "additional_chat_templates").is_dir():
        shutil.copytree(named, target / named.name, dirs_exist_ok=True)
    if tokenizer is not None:
        save(source, target)


def _load(source: Path) -> Any:
    """The model in fp32 on the CPU, with fused attention where its code allows it."""
    if not read_json(source / "config.json"):  # what is wrong with it is told better, and before seconds of imports
        raise _unread(source)
    import torch
    from transformers import AutoConfig
    from transformers.models.auto import modeling_auto as auto

    try:
        config = weight_files.told(
            AutoConfig.from_pretrained(source, local_files_only=True, trust_remote_code=False), source
        )
    except (OSError, ValueError, KeyError) as error:
        raise _unread(source) from error
    tables = [auto.MODEL_FOR_CAUSAL_LM_MAPPING, auto.MODEL_FOR_MASKED_LM_MAPPING]
    if _is_encoder(config):
        tables.reverse()
    kind = next((table[type(config)] for table in tables if type(config) in table), None)
    if kind is None:
        raise ExplorerError(
            f"The ONNX export does not know the architecture '{config.model_type}'.",
            "Choose the PyTorch backend for this model.",
        )
    attention = "sdpa" if kind._supports_sdpa else "eager"
    options = {"local_files_only": True, "use_safetensors": True, "attn_implementation": attention}
    try:
        return kind.from_pretrained(source, config=config, dtype=torch.float32, **options).eval()
    except Exception as error:  # safetensors and transformers raise their own
        raise ExplorerError(
            f"The weights in {source.name} cannot be loaded: {_first_line(error)}.",
            "Complete the download; weights must be safetensors.",
        ) from error


def _unread(source: Path) -> ExplorerError:
    return ExplorerError(
        f"{source.name} has no config.json that transformers can read.",
        "Choose a folder with config.json and safetensors of a known architecture.",
    )


def _is_encoder(config: Any) -> bool:
    """Models such as BERT can be loaded both ways; without `is_decoder` they see both directions."""
    from transformers.models.auto import modeling_auto as auto

    return type(config) in auto.MODEL_FOR_MASKED_LM_MAPPING and not getattr(config, "is_decoder", False)


def _refuse_states(config: Any) -> None:
    """One graph for any number of new tokens exists only where the cache is keys and values."""
    from transformers import DynamicCache
    from transformers.cache_utils import LinearAttentionCacheLayerMixin

    if any(isinstance(layer, LinearAttentionCacheLayerMixin) for layer in DynamicCache(config=config).layers):
        raise ExplorerError(
            f"The architecture '{config.model_type}' keeps a recurrent state, which the ONNX export cannot do.",
            "Choose the PyTorch backend for this model.",
        )


def _program(model: Any, tell: Callable[[str], None]) -> Any:
    """torch.onnx.ONNXProgram of the model with dynamic batch, new and past lengths."""
    plan = onnx_blocks.choose(model)
    if plan is not None:
        tell(f"Tracing {len(plan.traced)} of {len(plan.kinds)} blocks for the ONNX export")
        try:
            with onnx_blocks.shortened(model, plan):
                program = _trace(model, optimize=False)
            tell("Repeating the graph of a block")
            _repeat(program, plan, model)
            return program
        except (onnx_blocks.UnequalError, ExplorerError) as error:
            print(f"All blocks are traced, since a few do not tell the others: {error}", file=sys.stderr)
    tell("Tracing the network for the ONNX export (seconds for each block)")
    return _trace(model)


def _repeat(program: Any, plan: onnx_blocks.Plan, model: Any) -> None:
    """Make the program of a shortened model the optimized one of the whole model.

    Optimizing takes nearly as long for each block as tracing, so it comes first, unless it has taken weights away.
    """
    from transformers.exporters.exporter_onnx import apply_onnx_ir_fixes

    traced = program.model.clone()
    weights = onnx_blocks.weights_read(traced.graph, plan, model)
    program.optimize()
    try:
        onnx_blocks.repeat(program.model.graph, plan, model, weights)
    except onnx_blocks.UnequalError:
        program.model = traced
        onnx_blocks.repeat(program.model.graph, plan, model, weights)
        program.optimize()
    apply_onnx_ir_fixes(program)


def _trace(model: Any, optimize: bool = True) -> Any:
    """torch.onnx.ONNXProgram of the model as it is."""
    import torch
    from transformers.exporters.exporter_onnx import OnnxConfig, OnnxExporter

    config = model.config.get_text_config()
    causal = not _is_encoder(model.config)
    if causal:
        _refuse_states(config)
    try:
        inputs = _sample(model, causal, BATCH, PAST, NEW, KEPT)
        options = OnnxConfig(
            dynamic=True,
            dynamic_shapes=_free_axes(inputs, config),
            opset_version=OPSET,
            optimize=optimize,
            prefer_deferred_runtime_asserts_over_guards=True,  # MobileBERT has a case of its own for two tokens
        )
        with torch.no_grad(), _grouped_attention():
            return OnnxExporter().export(model, inputs, options)
    except Exception as error:  # the exporter raises what its many layers raise
        raise ExplorerError(
            f"The ONNX export of '{config.model_type}' failed: {_first_line(error)}.",
            "Choose the PyTorch backend for this model.",
        ) from error


def _sample(model: Any, causal: bool, batch: int, past: int, new: int, kept: int) -> dict[str, Any]:
    """Arguments of the model's forward, with random tokens, the past already in the cache."""
    import torch
    from transformers import DynamicCache

    vocab_size = model.config.get_text_config().vocab_size
    generator = torch.Generator().manual_seed(0)
    before = torch.randint(0, vocab_size, (batch, past), generator=generator)
    ids = torch.randint(0, vocab_size, (batch, new), generator=generator)
    if not causal:
        return {"input_ids": ids}
    cache = DynamicCache()  # without the config: every layer keeps all positions, sliding windows too
    with torch.no_grad():
        model(before, past_key_values=cache)
    return {
        "input_ids": ids,
        # left out, the model would make positions for a batch of one, which ONNX does not broadcast
        "position_ids": torch.arange(past, past + new).repeat(batch, 1),
        "past_key_values": cache,
        "logits_to_keep": torch.arange(new - kept, new),
    }


def _free_axes(inputs: dict[str, Any], config: Any) -> dict[str, Any]:
    """Which axes of the sample inputs may vary, by their name."""
    from torch.export import Dim

    # an encoder's table of positions ends somewhere; a decoder's past has a length of its own
    longest = None if "past_key_values" in inputs else getattr(config, "max_position_embeddings", None)
    batch, new = Dim("batch"), Dim("new", max=longest)
    free: dict[str, Any] = {"input_ids": {0: batch, 1: new}}
    if "past_key_values" in inputs:
        past = Dim("past", min=0)
        free["position_ids"] = {0: batch, 1: new}
        free["past_key_values"] = [{0: batch, 2: past} for layer in inputs["past_key_values"].layers for _ in "kv"]
        free["logits_to_keep"] = {0: Dim("kept")}
    return free


def write_samples(model: Any, file: Path) -> None:
    """What the graph gets and PyTorch answers, for shapes other than the traced ones; onnx_check reads it."""
    import numpy as np
    import torch

    arrays: dict[str, Any] = {"architecture": np.array(model.config.model_type)}
    causal = not _is_encoder(model.config)
    for number, shape in enumerate(((1, 1, 4, 4), (3, 6, 1, 1))):
        inputs = _sample(model, causal, *shape)
        feeds = {name: value.numpy() for name, value in inputs.items() if isinstance(value, torch.Tensor)}
        for i, layer in enumerate(inputs["past_key_values"].layers if causal else ()):
            feeds[f"input.past_key_values.layers.{i}.keys"] = layer.keys.numpy().copy()  # the forward writes into it
            feeds[f"input.past_key_values.layers.{i}.values"] = layer.values.numpy().copy()
        with torch.no_grad():
            arrays[f"{number}/{WANTED}"] = model(**inputs).logits.numpy()
        arrays |= {f"{number}/{name}": value for name, value in feeds.items()}
    np.savez(file, **arrays)


@contextlib.contextmanager
def _grouped_attention() -> Iterator[None]:
    """Keep the few key and value heads as they are, instead of repeating them for every query head.

    transformers repeats them where PyTorch's own CPU kernel would; ONNX's Attention need not.
    """
    from transformers.integrations import sdpa_attention

    original = sdpa_attention.use_gqa_in_sdpa
    sdpa_attention.use_gqa_in_sdpa = lambda *_: True
    try:
        yield
    finally:
        sdpa_attention.use_gqa_in_sdpa = original


def _strip(program: Any) -> None:
    """Drop all metadata but a node's module and its last source line.

    The rest repeats the source tree's paths hundreds of times.
    """
    for node in program.model.graph.all_nodes():
        kept = {key: node.metadata_props[key] for key in (onnx_blocks.SCOPES, SOURCE) if key in node.metadata_props}
        if SOURCE in kept:
            kept[SOURCE] = kept[SOURCE].strip().rsplit("\n", 1)[-1].strip()
        node.metadata_props.clear()
        node.metadata_props.update(kept)


def _first_line(error: BaseException) -> str:
    """Its first line without the exporter's advice, which is for the authors of models."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].split("! For more")[0][:200].rstrip(". ")


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
