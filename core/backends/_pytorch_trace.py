"""Time per canonical layer of a PyTorch model, from hooks on its modules.

Every module with a canonical name in the spec is timed without the time of the named modules inside
it, so that an attention module is its core, a gated MLP its activation and product, a Mamba mixer
its scan. Rotary embedding and the Mamba convolution are functions, not modules; they are wrapped
where transformers looks them up. What belongs to none of these (residual sums, Python) is left to
the difference between the sum of the rows and the step's wall time.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial, wraps
from time import perf_counter_ns
from typing import Any, Literal, NamedTuple

from core.names import block_of, canonical_hf, within
from core.types import LayerTime, ModelSpec

FUNCTIONS = {
    "apply_rotary_pos_emb": "attn.rope",
    "apply_rotary_pos_emb_interleave": "attn.rope",
    "apply_rotary_emb": "attn.rope",
    "causal_conv1d_fn": "ssm.conv",
    "causal_conv1d_update": "ssm.conv",
}
OPERATORS = {
    "Linear": "aten::linear",
    "Embedding": "aten::embedding",
    "Conv1D": "aten::addmm",
    "LayerNorm": "aten::layer_norm",
}
MAX_OPEN_EVENTS = 20_000  # resolve device events before they pile up


class Probe(NamedTuple):
    name: str
    op: str
    leaf: bool  # only a leaf's output is the layer's own


class Sum:
    """What one probe has seen in one phase."""

    __slots__ = ("calls", "output_bytes", "seconds")

    def __init__(self) -> None:
        self.seconds, self.calls = 0.0, 0
        self.output_bytes: int | None = None


class HostClock:
    """For a CPU, where a call returns when the work is done."""

    def __init__(self, add: Callable[[Sum, float], None]) -> None:
        self._add = add
        self._frames: list[list[int]] = []  # [entered, started, nanoseconds spent in named children]

    def enter(self) -> None:
        entered = perf_counter_ns()
        self._frames.append([entered, 0, 0])
        self._frames[-1][1] = perf_counter_ns()

    def mark(self) -> int:
        return perf_counter_ns()

    def leave(self, total: Sum, ended: int) -> None:
        entered, started, in_children = self._frames.pop()
        self._add(total, (ended - started - in_children) * 1e-9)
        if self._frames:  # our own time inside the parent is not the parent's
            self._frames[-1][2] += perf_counter_ns() - entered

    def clear(self) -> None:
        self._frames.clear()

    def resolve(self) -> None:
        pass


class DeviceClock:
    """For an accelerator, which runs behind: events in its queue, read when somebody asks."""

    def __init__(self, add: Callable[[Sum, float], None], event: Callable[[], Any], sync: Callable[[], None]) -> None:
        self._add, self._event, self._sync = add, event, sync
        self._frames: list[tuple[Any, list[int]]] = []  # start event, indices of the named children
        self._spans: list[tuple[Any, Any, Sum, list[int]]] = []

    def enter(self) -> None:
        self._frames.append((self.mark(), []))

    def mark(self) -> Any:
        event = self._event()
        event.record()
        return event

    def leave(self, total: Sum, ended: Any) -> None:
        started, children = self._frames.pop()
        if self._frames:
            self._frames[-1][1].append(len(self._spans))
        self._spans.append((started, ended, total, children))
        if not self._frames and len(self._spans) > MAX_OPEN_EVENTS:
            self.resolve()

    def clear(self) -> None:
        self._frames.clear()

    def resolve(self) -> None:
        self._sync()
        seconds = [started.elapsed_time(ended) * 1e-3 for started, ended, _, _ in self._spans]
        for whole, (_, _, total, children) in zip(seconds, self._spans, strict=True):
            self._add(total, max(0.0, whole - sum(seconds[i] for i in children)))
        self._spans.clear()


class TorchTrace:
    """core.types.Trace over the modules of `model`; `on_finish` is called once, at the end."""

    def __init__(
        self, model: Any, spec: ModelSpec, device: str, sync: Callable[[], None], on_finish: Callable[[], None]
    ) -> None:
        self._phase: Literal["prefill", "decode"] = "prefill"
        self._sums: dict[str, dict[Probe, Sum]] = {"prefill": {}, "decode": {}}
        self._open: list[Probe] = []
        self._on_finish: Callable[[], None] | None = on_finish
        self._layers = {layer.name for layer in spec.layers}
        self._clock = _clock(device, _add, sync)
        self._handles = [model.register_forward_pre_hook(lambda *_: self._restart())]
        self._patched: list[tuple[Any, str, Any]] = []
        for path, module in model.named_modules():
            name = canonical_hf(path, spec.architecture)
            if name is None or not any(within(layer, name) for layer in self._layers):
                continue
            kind = type(module).__name__
            op = OPERATORS.get(kind, kind)
            if name.endswith("attn.core") and model.config._attn_implementation == "sdpa":
                op = "aten::scaled_dot_product_attention"
            probe = Probe(name, op, leaf=next(module.children(), None) is None)
            self._handles.append(module.register_forward_pre_hook(partial(self._enter, probe)))
            self._handles.append(module.register_forward_hook(partial(self._leave, probe)))
        for source in {type(module).__module__ for module in model.modules()}:
            if source.startswith("transformers.models."):
                self._patch(sys.modules[source])

    def phase(self, name: Literal["prefill", "decode"]) -> None:
        self._phase = name

    def rows(self) -> dict[str, tuple[LayerTime, ...]]:
        self._clock.resolve()
        return {phase: _fold(sums) for phase, sums in self._sums.items() if sums}

    def finish(self) -> dict[str, tuple[LayerTime, ...]]:
        for handle in self._handles:
            handle.remove()
        for owner, name, original in reversed(self._patched):
            setattr(owner, name, original)
        self._handles, self._patched = [], []
        if self._on_finish is not None:
            self._on_finish()
            self._on_finish = None
        return self.rows()

    def _restart(self) -> None:
        # a forward that raised has left its frames behind
        self._open.clear()
        self._clock.clear()

    def _enter(self, probe: Probe, *_: Any) -> None:
        self._open.append(probe)
        self._clock.enter()

    def _leave(self, probe: Probe, module: Any, inputs: Any, output: Any) -> None:
        ended = self._clock.mark()
        sums = self._sums[self._phase]
        total = sums.get(probe)
        if total is None:
            total = sums[probe] = Sum()
        self._open.pop()
        total.calls += 1
        if probe.leaf:
            total.output_bytes = _n_bytes(output)
        self._clock.leave(total, ended)

    def _patch(self, owner: Any) -> None:
        for function, part in FUNCTIONS.items():
            original = getattr(owner, function, None)
            if original is not None:
                setattr(owner, function, self._timed(original, part))
                self._patched.append((owner, function, original))

    def _timed(self, original: Callable[..., Any], part: str) -> Callable[..., Any]:
        @wraps(original)
        def timed(*args: Any, **kwargs: Any) -> Any:
            block = block_of(self._open[-1].name) if self._open else None
            name = f"blocks.{block}.{part}"
            if name not in self._layers:
                return original(*args, **kwargs)
            probe = Probe(name, original.__name__, leaf=True)
            self._enter(probe)
            output = original(*args, **kwargs)
            self._leave(probe, None, None, output)
            return output

        return timed


def _add(total: Sum, seconds: float) -> None:
    total.seconds += seconds


def _clock(device: str, add: Callable[[Sum, float], None], sync: Callable[[], None]) -> HostClock | DeviceClock:
    import torch

    if device.startswith("cuda"):
        return DeviceClock(add, partial(torch.cuda.Event, enable_timing=True), sync)
    if device.startswith("mps"):
        return DeviceClock(add, partial(torch.mps.Event, enable_timing=True), sync)
    return HostClock(add)


def _fold(sums: dict[Probe, Sum]) -> tuple[LayerTime, ...]:
    """One row per name; an activation module and the MLP around it are one layer."""
    found: dict[str, LayerTime] = {}
    for probe, total in sums.items():
        other = found.get(probe.name)
        # of a leaf and the module around it, the leaf knows the operator and the output
        is_leaf = other is None or other.output_bytes is None
        found[probe.name] = LayerTime(
            name=probe.name,
            seconds=total.seconds + (other.seconds if other else 0.0),
            calls=max(total.calls, other.calls if other else 0),
            op=probe.op if other is None or is_leaf else other.op,
            output_bytes=total.output_bytes if other is None or is_leaf else other.output_bytes,
        )
    return tuple(found.values())


def _n_bytes(output: Any) -> int | None:
    tensors = output if isinstance(output, tuple) else (output,)
    sizes = [t.numel() * t.element_size() for t in tensors if hasattr(t, "element_size")]
    return sum(sizes) if sizes else None
