"""Weights in fewer bits for PyTorch on the processor, with the kernels that PyTorch has for them.

bf16: half the bytes, an ordinary folder that every backend reads.
int8_dynamic: int8 weights with a scale per row, and int8 activations with a scale per token, rounded as they come
(Dettmers et al., "LLM.int8()", arXiv 2208.07339, section 2, without the outlier decomposition).
int8, int4: weights alone; activations stay bf16. int4 has a scale and a zero per group of columns.

Everything between the matrices runs in fp32 (int8_dynamic) or bf16. The head is quantized too: where it shares
the token table, table and head share one int8 matrix, or the table stays bf16 and the head gets a copy of its own.
Of the kernels in torch 2.13 for this, `_scaled_mm` in fp8 is emulated on a CPU and far slower than bf16, and the
others named here beat bf16 for one token; what they cost on a prompt is in the note.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from core.layer_names import canonical_hf
from core.transforms import _hf_folder
from core.transforms import _torch_model as torch_model
from core.transforms._integers import int4_groups, int8_rows
from core.types import Job, ModelSpec, Outcome, Record, Source, Transform
from hardware.errors import ExplorerError

ROWS = 16  # the int4 kernel takes so many output rows at a time

NOTES = {
    "bf16": "Weights in bf16.",
    "int8_dynamic": (
        "Weights in int8 per row, activations rounded to int8 per token; the integer kernel is faster than bf16 "
        "for one token and for a prompt where the processor has int8 dot products."
    ),
    "int8": (
        "Weights in int8 per row, activations in bf16; the kernel is faster than bf16 for one token and slower for "
        "two to thirty-two at once, and a longer prompt runs in bf16 after unpacking."
    ),
    "int4": (
        "Weights in 4 bits with a scale and a zero per group, activations in bf16; the kernel is faster than bf16 "
        "for one token and slower for a prompt."
    ),
}


class Quantization(Record):
    """How weights are stored.

    method: of the matrices; int8_dynamic rounds activations too. group: columns that share a scale (int4).
    table: of the token table; int8 also serves the head where the two are tied.
    """

    method: Literal["bf16", "int8_dynamic", "int8", "int4"] = "int8"
    group: Literal[32, 64, 128] = 32
    table: Literal["int8", "bf16"] = "int8"


class TorchQuantize:
    name = "torch_quantize"
    label = "Quantize for PyTorch"
    backend = "pytorch"
    formats: tuple[str, ...] = ("hf",)
    trains = False
    Params = Quantization

    def unavailable(self) -> str | None:
        return torch_model.unavailable()

    def check(self, spec: ModelSpec, params: Quantization) -> None:
        if params.method != "bf16":
            torch_model.check_dense(spec, self.label)
            if not spec.causal:
                raise ExplorerError("Only models that write text are quantized here.", "Choose bf16, or such a model.")

    def suffix(self, params: Quantization) -> str:
        group = f"-g{params.group}" if params.method == "int4" else ""
        table = "-table-bf16" if params.method != "bf16" and params.table == "bf16" else ""
        return f"torch-{params.method.replace('_', '-')}{group}{table}"

    def run(self, source: Source, params: Quantization, out: Path, job: Job) -> Outcome:
        model = torch_model.load(source, job)
        if params.method == "bf16":
            torch_model.save(model, source, out, job, dtype="bfloat16")
            return Outcome(note=NOTES["bf16"])
        torch_model.matrices(model, source.spec)  # raises where there are none
        tensors, chosen = quantized(model, params, job)
        dynamic = params.method == "int8_dynamic"
        config = torch_model.config_of(source) | {
            "tie_word_embeddings": shares_table(model, params),
            "dtype": "float32" if dynamic else "bfloat16",
            "quantization_config": {
                "quant_method": "roofscope",
                "activations": "int8" if dynamic else "bf16",
                "compute_dtype": "float32" if dynamic else "bfloat16",
                "group": params.group,
                "int8": [path for path, kind in chosen.items() if kind == "int8"],
                "int4": [path for path, kind in chosen.items() if kind == "int4"],
            },
        }
        _hf_folder.write(out, Path(source.path), config, tensors, job)
        if params.method != "int4":
            return Outcome(note=NOTES[params.method])
        others = [canonical_hf(path, source.spec.architecture) for path, kind in chosen.items() if kind == "int8"]
        return Outcome(note=NOTES["int4"], facts={"in_int8": others})


def quantized(model: Any, params: Quantization, job: Job) -> tuple[dict[str, Any], dict[str, str]]:
    """(all tensors of the folder by name, module -> "int8" or "int4")."""
    import torch
    from torch import nn

    table, head = model.get_input_embeddings(), model.get_output_embeddings()
    one_table = shares_table(model, params)
    stored = model.state_dict()
    tensors: dict[str, Any] = {}
    chosen: dict[str, str] = {}
    for done, (name, tensor) in enumerate(stored.items()):
        job.progress("Quantizing", done, len(stored), "tensors")
        job.check()
        path, _, leaf = name.rpartition(".")
        module = model.get_submodule(path)
        if leaf == "weight" and isinstance(module, nn.Linear):
            if module is head and one_table:
                continue
            fits = module.in_features % params.group == 0 and module.out_features % ROWS == 0
            chosen[path] = "int4" if params.method == "int4" and fits else "int8"
        elif leaf == "weight" and module is table and params.table == "int8":
            chosen[path] = "int8"
        else:
            tensors[name] = tensor.to(torch.bfloat16) if module is table else tensor
            continue
        parts = int4_groups(tensor, params.group) if chosen[path] == "int4" else int8_rows(tensor)
        tensors |= {f"{path}.{part}": values for part, values in parts.items()}
    return tensors, chosen


def shares_table(model: Any, params: Quantization) -> bool:
    """Whether one int8 matrix serves both the token table and the head."""
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    return tied and params.table == "int8" and params.method != "int4"


plugin: Transform = TorchQuantize()
