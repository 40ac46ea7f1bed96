"""A model in memory for a transform to change: loaded in fp32 on the processor, calibrated, saved.

Knows transformers' loading and where a model keeps its blocks and matrices. Knows nothing of what is changed.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from core.layer_names import block_of, canonical_hf
from core.models import weight_files
from core.models.spec import read_config
from core.transforms import _hf_folder
from core.transforms._calibration import sequences
from core.types import Job, Linear, ModelSpec, Source
from hardware.errors import ExplorerError

DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


def unavailable() -> str | None:
    missing = [name for name in ("torch", "transformers") if find_spec(name) is None]
    return f"{' and '.join(missing)} missing: pip install {' '.join(missing)}" if missing else None


def check_dense(spec: ModelSpec, what: str) -> None:
    """Raises ExplorerError for experts: transformers stacks their matrices, and they would be left out unseen."""
    if any(isinstance(layer.op, Linear) and layer.op.n_experts > 1 for layer in spec.layers):
        raise ExplorerError(f"{what} does not know models with experts.", "Choose a dense model.")


def load(source: Source, job: Job) -> Any:
    """The model in fp32, for inference. Raises ExplorerError when transformers cannot open the folder."""
    import torch
    import transformers

    job.progress("Loading the model")
    torch.set_num_threads(job.threads)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    if "text_config" in config_of(source):
        raise ExplorerError(
            f"{source.entry.label} is multimodal, and its language model alone cannot be written back.",
            "Choose a model for text.",
        )
    auto = transformers.AutoModelForCausalLM if source.spec.causal else transformers.AutoModelForMaskedLM
    local = {"trust_remote_code": False, "local_files_only": True}
    try:
        config = weight_files.told(transformers.AutoConfig.from_pretrained(source.path, **local), Path(source.path))
        model = auto.from_pretrained(source.path, config=config, dtype=torch.float32, use_safetensors=True, **local)
    except Exception as error:  # transformers and safetensors raise their own
        cause = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ExplorerError(
            f"{source.entry.label} cannot be loaded: {cause.split('. ')[0].rstrip('.')}.",
            "Check that the folder is complete and that its config.json matches its weights.",
        ) from error
    return model.eval().requires_grad_(False)


def config_of(source: Source) -> dict[str, Any]:
    return read_config(source.path)


def matrices(model: Any, spec: ModelSpec) -> dict[str, Any]:
    """Canonical name -> module of every matrix in a block, in the order of the blocks.

    Raises ExplorerError when there is none (a family whose matrices are not modules of their own).
    """
    found = {
        name: module
        for path, module in model.named_modules()
        if type(module).__name__ in ("Linear", "Conv1D")
        and (name := canonical_hf(path, spec.architecture)) is not None
        and block_of(name) is not None
    }
    if not found:
        raise ExplorerError(f"The blocks of '{spec.architecture}' have no plain matrices.", "Choose another model.")
    return found


def weight_of(module: Any) -> Any:
    """Its weights as (out, in), a view; GPT-2's Conv1D keeps them the other way round."""
    return module.weight.T if type(module).__name__ == "Conv1D" else module.weight.data


def blocks(model: Any, spec: ModelSpec) -> tuple[Any, str]:
    """(the module that holds the list of blocks, the list's name in it)."""
    for path, module in model.named_modules():
        if type(module).__name__ == "ModuleList" and len(module) == spec.n_blocks:
            at, _, name = path.rpartition(".")
            return model.get_submodule(at), name
    raise ExplorerError(f"The blocks of '{spec.architecture}' could not be found.", "Choose another model.")


def calibrate(model: Any, source: Source, job: Job, note: str) -> int:
    """Run the app's calibration text through the blocks, without the head; returns its number of tokens.

    All sequences go in one forward, so that a hook on a module sees all there is to see before the module runs,
    and what it changes there is what the later modules read.
    """
    import torch

    ids = torch.tensor(sequences(Path(source.path), source.spec))
    holder, name = blocks(model, source.spec)

    def tell(i: int) -> None:
        job.progress(note, i, source.spec.n_blocks, "blocks")
        job.check()

    hooks = [block.register_forward_pre_hook(lambda *_, i=i: tell(i)) for i, block in enumerate(getattr(holder, name))]
    try:
        with torch.inference_mode():
            model.base_model(ids, **({"use_cache": False} if source.spec.causal else {}))
    finally:
        for hook in hooks:
            hook.remove()
    return int(ids.numel())


def save(model: Any, source: Source, out: Path, job: Job, **config: Any) -> None:
    """Write the model, in its parent's dtype unless `config`, which changes fields of config.json, has another."""
    import torch

    config = {"dtype": DTYPES.get(source.spec.dtype, "float32"), **config}
    seen: set[int] = set()
    tensors: dict[str, Any] = {}
    for name, tensor in model.state_dict().items():
        if tensor.data_ptr() in seen:  # tied
            continue
        seen.add(tensor.data_ptr())
        cast = tensor.to(getattr(torch, config["dtype"])) if tensor.is_floating_point() else tensor
        tensors[name] = cast.contiguous()
    _hf_folder.write(out, Path(source.path), config_of(source) | config, tensors, job)
