"""Weights set to zero: by size, or by what they contribute to real activations.

Magnitude: the smallest |W_ij| of a matrix, or of all blocks together (Han et al., arXiv 1506.02626).
Wanda: the smallest |W_ij| * ||X_j||_2 of each output row, X_j being the matrix's j-th input over a calibration
text (Sun et al., arXiv 2306.11695, section 3). A matrix is pruned just before it runs, so that each is judged by
the activations that the pruned matrices before it leave.
2:4 keeps the two best of every four neighbours in a row (Mishra et al., arXiv 2104.08378).

Matrices of the blocks only: token table, head, norms and biases stay. The zeros are stored like any other value
and multiplied like any other value.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from msgspec import Meta

from core.transforms import _torch_model as torch_model
from core.types import Job, Linear, ModelSpec, Outcome, Record, Source, Transform
from hardware.errors import ExplorerError

LARGEST_FLOAT = 0x7F7FFFFF  # as an integer


class Pruning(Record):
    """What goes, and how much.

    method: wanda weighs each weight by its input on a calibration text; magnitude looks at the weight alone.
    sparsity: the share of zeros in the matrices of the blocks. pattern: 2:4 has half of them zero, two in every
    four. scope: whether each matrix gives the same share, or the smallest weights of all are taken (magnitude).
    """

    method: Literal["wanda", "magnitude"] = "wanda"
    sparsity: Annotated[float, Meta(ge=0, le=0.95)] = 0.5
    pattern: Literal["unstructured", "2:4"] = "unstructured"
    scope: Literal["layer", "global"] = "layer"


class Prune:
    name = "prune"
    label = "Prune weights"
    backend = "pytorch"
    formats: tuple[str, ...] = ("hf",)
    trains = False
    Params = Pruning

    def unavailable(self) -> str | None:
        return torch_model.unavailable()

    def check(self, spec: ModelSpec, params: Pruning) -> None:
        torch_model.check_dense(spec, self.label)
        if params.scope == "global" and params.method == "wanda":
            raise ExplorerError(
                "Wanda compares weights within an output row, so it has no global scope.",
                "Choose the scope layer, or magnitude.",
            )
        if params.scope == "global" and params.pattern == "2:4":
            raise ExplorerError("2:4 takes two of every four weights, so it has no global scope.", "Choose layer.")
        widths = {layer.op.d_in for layer in spec.layers if isinstance(layer.op, Linear)}
        if params.pattern == "2:4" and any(width % 4 for width in widths):
            raise ExplorerError("A matrix of this model has a width that four does not divide.", "Choose unstructured.")

    def suffix(self, params: Pruning) -> str:
        share = "2to4" if params.pattern == "2:4" else f"{100 * params.sparsity:.3g}"
        return f"{params.method}{share}" + ("-global" if params.scope == "global" else "")

    def run(self, source: Source, params: Pruning, out: Path, job: Job) -> Outcome:
        model = torch_model.load(source, job)
        matrices = torch_model.matrices(model, source.spec)
        if params.method == "wanda":
            wanda(model, matrices, params, source, job)
        elif params.scope == "global":
            smallest_of_all(list(matrices.values()), params.sparsity, job)
        else:
            for done, (name, module) in enumerate(matrices.items()):
                job.progress(f"Pruning {name}", done, len(matrices), "matrices")
                job.check()
                weight = torch_model.weight_of(module)
                prune(weight, weight.abs(), params, by_row=False)
        torch_model.save(model, source, out, job)
        return _outcome(matrices, params, source.spec)


def prune(weight: Any, scores: Any, params: Pruning, by_row: bool) -> None:
    """Set the weights (out, in) with the lowest scores to zero, in place: of each row, or of the whole matrix."""
    if params.pattern == "2:4":
        fours = scores.reshape(len(scores), -1, 4)
        lowest = fours.topk(2, dim=-1, largest=False).indices
        weight[fours.new_zeros(fours.shape, dtype=bool).scatter_(-1, lowest, True).reshape(scores.shape)] = 0
        return
    rows = scores if by_row else scores.reshape(1, -1)
    lowest = rows.topk(round(params.sparsity * rows.shape[1]), dim=1, largest=False, sorted=False).indices
    weight[rows.new_zeros(rows.shape, dtype=bool).scatter_(1, lowest, True).reshape(scores.shape)] = 0


def wanda(model: Any, matrices: dict[str, Any], params: Pruning, source: Source, job: Job) -> None:
    """Prune every matrix by its inputs in one forward over the calibration text."""

    def before(module: Any, inputs: tuple[Any, ...]) -> None:
        weight = torch_model.weight_of(module)
        norms = inputs[0].reshape(-1, weight.shape[1]).norm(dim=0)
        prune(weight, weight.abs() * norms, params, by_row=True)

    hooks = [module.register_forward_pre_hook(before) for module in matrices.values()]
    torch_model.calibrate(model, source, job, "Pruning by activations")
    for hook in hooks:
        hook.remove()


def smallest_of_all(modules: list[Any], sparsity: float, job: Job) -> None:
    """Zero the smallest weights of all matrices together, up to one threshold.

    Floats without a sign are ordered like the integers of the same bits, so bisecting those finds the threshold
    exactly, without a sorted copy of all weights.
    """
    import torch

    weights = [torch_model.weight_of(module) for module in modules]
    wanted = round(sparsity * sum(weight.numel() for weight in weights))
    low, high, n_steps = 0, LARGEST_FLOAT, 31
    for step in range(n_steps):
        job.progress("Looking for the threshold", step, n_steps, "steps")
        job.check()
        middle = (low + high) // 2
        limit = torch.tensor(middle, dtype=torch.int32).view(torch.float32)
        below = sum(int((weight.abs() <= limit).sum()) for weight in weights)
        low, high = (low, middle) if below >= wanted else (middle + 1, high)
    limit = torch.tensor(high, dtype=torch.int32).view(torch.float32)
    for weight in weights if wanted else []:
        weight[weight.abs() <= limit] = 0


def _outcome(matrices: dict[str, Any], params: Pruning, spec: ModelSpec) -> Outcome:
    sizes = {name: module.weight.numel() for name, module in matrices.items()}
    zeros = {name: int((module.weight == 0).sum()) for name, module in matrices.items()}
    sparsity = sum(zeros.values()) / sum(sizes.values())
    pattern = ", 2 of every 4" if params.pattern == "2:4" else ""
    how = "by magnitude" if params.method == "magnitude" else "by Wanda on the app's calibration text"
    return Outcome(
        note=(
            f"{sparsity:.1%} of the weights in the blocks are zero{pattern}, chosen {how}; "
            "dense kernels multiply zeros like any other value, so this model is no faster."
        ),
        facts={
            "sparsity": sparsity,
            "zeros_of_all_parameters": sum(zeros.values()) / spec.n_params,
            "sparsity_by_layer": {name: zeros[name] / sizes[name] for name in sizes},
        },
    )


plugin: Transform = Prune()
