"""A Hugging Face folder becomes an ONNX file: one graph for prefill and decode, fp32.

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
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from core.errors import ExplorerError
from core.types import Progress

OPSET = 23
SCOPES = "pkg.torch.onnx.name_scopes"
SOURCE = "pkg.torch.onnx.stack_trace"

# torch.export fixes a dimension of 0 or 1 for ever, so the sample has none.
BATCH, PAST, NEW, KEPT = 2, 3, 5, 4

VERSION = 1  # part of the cache key: raise it when the same folder gives another file


def export(hf_folder: str, out_dir: str, progress: Progress) -> None:
    """Write model.onnx and model.onnx.data (the weights) into `out_dir`, with the folder's other small files.

    Raises ExplorerError when the architecture
    cannot be traced. Needs about five times the weights' bytes of memory.
    """
    source, target = Path(hf_folder), Path(out_dir)
    target.mkdir(parents=True, exist_ok=True)
    # Tracing prints to stdout, which belongs to the result of a headless run.
    with contextlib.redirect_stdout(sys.stderr):
        progress("Loading the weights for the ONNX export")
        model = _load(source)
        progress("Tracing the network (about a minute)")
        program = _trace(model)
        del model
        _strip(program)
        progress("Writing the ONNX export")
        # Weights in a file of their own are mapped, not parsed: a third of the loading time, and
        # their memory can be given back.
        program.save(target / "model.onnx", external_data=True)
    for file in source.iterdir():
        if file.suffix in (".json", ".jinja", ".txt") and not file.name.endswith(".index.json"):
            shutil.copyfile(file, target / file.name)


def _load(source: Path) -> Any:
    """The model in fp32 on the CPU, with fused attention where its code allows it."""
    import torch
    from transformers import AutoConfig
    from transformers.models.auto import modeling_auto as auto

    try:
        config = AutoConfig.from_pretrained(source, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise ExplorerError(
            f"{source.name} has no config.json that transformers can read.",
            "Choose a folder with config.json and safetensors of a known architecture.",
        ) from error
    tables = [auto.MODEL_FOR_CAUSAL_LM_MAPPING, auto.MODEL_FOR_MASKED_LM_MAPPING]
    if _is_encoder(config):
        tables.reverse()
    for table in tables:
        if type(config) in table:
            cls = table[type(config)]
            attention = "sdpa" if cls._supports_sdpa else "eager"
            model = cls.from_pretrained(
                source,
                config=config,
                dtype=torch.float32,
                attn_implementation=attention,
                local_files_only=True,
                use_safetensors=True,
            )
            return model.eval()
    raise ExplorerError(
        f"The ONNX export does not know the architecture '{config.model_type}'.",
        "Choose the PyTorch backend for this model.",
    )


def _is_encoder(config: Any) -> bool:
    """Models such as BERT can be loaded both ways; without `is_decoder` they see both directions."""
    from transformers.models.auto import modeling_auto as auto

    return type(config) in auto.MODEL_FOR_MASKED_LM_MAPPING and not getattr(config, "is_decoder", False)


def _trace(model: Any) -> Any:
    """torch.onnx.ONNXProgram of the model with dynamic batch, new and past lengths."""
    import torch
    from transformers import DynamicCache
    from transformers.exporters.exporter_onnx import OnnxConfig, OnnxExporter

    generator = torch.Generator().manual_seed(0)
    limit = min(model.config.get_text_config().vocab_size, 1000)

    def ids(n: int) -> Any:
        return torch.randint(0, limit, (BATCH, n), generator=generator)

    inputs: dict[str, Any] = {"input_ids": ids(NEW)}
    try:
        if not _is_encoder(model.config):
            cache = DynamicCache()  # without the config: every layer keeps all positions
            with torch.no_grad():
                model(ids(PAST), past_key_values=cache)
            inputs |= {
                # left out, the model would make positions for a batch of one, which ONNX does not broadcast
                "position_ids": torch.arange(PAST, PAST + NEW).repeat(BATCH, 1),
                "past_key_values": cache,
                "logits_to_keep": torch.arange(NEW - KEPT, NEW),
            }
        with torch.no_grad(), _grouped_attention():
            return OnnxExporter().export(
                model, inputs, OnnxConfig(dynamic=True, dynamic_shapes=_free_axes(inputs), opset_version=OPSET)
            )
    except ExplorerError:
        raise
    except Exception as error:  # the exporter raises what its many layers raise
        raise ExplorerError(
            f"The ONNX export of '{model.config.model_type}' failed: {_first_line(error)}",
            "Choose the PyTorch backend for this model.",
        ) from error


def _free_axes(inputs: dict[str, Any]) -> dict[str, Any]:
    """Which axes of the sample inputs may vary: those with the sample's own sizes, no others."""
    from torch.export import Dim

    sizes = {BATCH: Dim("batch"), PAST: Dim("past", min=0), NEW: Dim("new"), KEPT: Dim("kept")}

    def axes(tensor: Any, which: tuple[int, ...]) -> dict[int, Any]:
        return {axis: sizes[tensor.shape[axis]] for axis in which}

    free: dict[str, Any] = {"input_ids": axes(inputs["input_ids"], (0, 1))}
    if "past_key_values" in inputs:
        layers = inputs["past_key_values"].layers
        free["position_ids"] = axes(inputs["position_ids"], (0, 1))
        free["past_key_values"] = [axes(t, (0, 2)) for layer in layers for t in (layer.keys, layer.values)]
        free["logits_to_keep"] = axes(inputs["logits_to_keep"], (0,))
    return free


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
        kept = {key: node.metadata_props[key] for key in (SCOPES, SOURCE) if key in node.metadata_props}
        if SOURCE in kept:
            kept[SOURCE] = kept[SOURCE].strip().rsplit("\n", 1)[-1].strip()
        node.metadata_props.clear()
        node.metadata_props.update(kept)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
