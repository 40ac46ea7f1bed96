"""Shared by lessons: work and bytes of a forward pass, and how numbers are written in texts."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from core.analysis.bottlenecks import Ceiling
from core.analysis.work import LayerWork, total, work
from core.charts.labels import si
from core.learn.lesson import Beside, Do, Own, Scene, Told
from core.types import Generate, ModelSpec, Request, Result

RUN = "pages/measure/run.py"
CONTEXT = 512  # tokens in the cache where a lesson does not move it

__all__ = [
    "CONTEXT",
    "RUN",
    "bytes_per_token",
    "forward",
    "generates",
    "generates_autoregressively",
    "ideal_s",
    "one_answer",
    "over_its_parent",
    "si",
    "weight_bytes",
]


@cache
def _forward(spec: ModelSpec, n_new: int, n_past: int, batch: int, dtype: str | None) -> LayerWork:
    return total(work(spec, n_new, n_past, batch, weight_dtype=dtype, activation_dtype="bf16", kv_dtype="fp16"))


def forward(scene: Scene, n_new: int = 1, n_past: int = 0, batch: int = 1, dtype: str | None = "bf16") -> LayerWork:
    """The work of a forward pass of the scene's model; dtype None: as its file stores it."""
    return _forward(scene.spec, n_new, n_past, batch, dtype)


def weight_bytes(scene: Scene, dtype: str | None = "bf16") -> float:
    """Bytes of weights that one token reads."""
    return forward(scene, dtype=dtype).weight_bytes


def bytes_per_token(scene: Scene, dtype: str | None = "bf16") -> float:
    """All bytes that have to move for one token."""
    return forward(scene, n_past=0, dtype=dtype).bytes


def ideal_s(work: LayerWork, ceiling: Ceiling) -> float:
    """Seconds that the roof allows for a forward pass as a whole."""
    return ceiling.ideal_s(work.flops, work.bytes)


def generates(request: Request, strategy: str | None = None) -> bool:
    """Whether a run generated from a prompt, with this strategy where one is given."""
    return isinstance(request.task, Generate) and (strategy is None or request.strategy == strategy)


def generates_autoregressively(request: Request) -> bool:
    """Whether a run generated one token per forward pass."""
    return generates(request, "autoregressive")


def one_answer(measured: Callable[[Told, Scene], Beside | None]) -> Do:
    """The last step of a lesson that one autoregressive answer is enough for; what is read from it by `measured`."""
    settings = {"backend": "llama_cpp", "strategy": "autoregressive"}
    return Do("Run one answer", RUN, lambda scene: settings, Own(generates_autoregressively, measured), here=True)


def over_its_parent(told: Told, scene: Scene) -> Beside | None:
    """Decode speed of a model made here over that of the one it was made from, beside the ratio of their bytes."""
    result, base = told.result, told.baseline
    ours, theirs = _bytes_per_forward(result), None if base is None else _bytes_per_forward(base)
    if base is None or not result.tok_per_s or not base.tok_per_s or not ours or not theirs:
        return None
    return Beside(
        f"Decode speed of {result.model} over {base.model}",
        result.tok_per_s / base.tok_per_s,
        theirs / ours,
        "×",
        "Computed is the ratio of the bytes that a forward pass moves: what it would be if memory took all the time.",
    )


def _bytes_per_forward(result: Result) -> float | None:
    phase = next((p for p in result.phases if p.name == "decode"), None)
    return phase.bytes / phase.n_forward if phase is not None and phase.n_forward else None
