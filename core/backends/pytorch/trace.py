"""Time per canonical layer of a PyTorch model, from hooks on its modules.

Every module with a canonical name in the spec is timed without the time of what is timed inside it,
so that a gated MLP is its activation and product, a Mamba mixer its scan. Attention itself, the
writing of the KV cache, rotary embedding and the Mamba convolution are functions, not modules; they
are wrapped where transformers looks them up. What belongs to none of these (residual sums, reshapes,
Python) is left to the difference between the sum of the rows and the step's wall time.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial, wraps
from typing import Any, Literal, NamedTuple

from core.backends.pytorch.clock import clock_for
from core.layer_names import block_of, canonical_hf, within
from core.types import LayerTime, ModelSpec

# Looked up by the code of a model's family when it runs.
FUNCTIONS = {
    "eager_attention_forward": "attn.core",
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
    "Int8DynamicLinear": "aten::_int_mm",
    "Int8Linear": "aten::_weight_int8pack_mm",
    "Int4Linear": "aten::_weight_int4pack_mm_for_cpu",
    "LayerNorm": "aten::layer_norm",
    "sdpa_attention_forward": "aten::scaled_dot_product_attention",
}
Part = Literal["operator", "companion", "container"]  # of a layer's time: what it is, what it needs, what is around it


class Probe(NamedTuple):
    name: str
    op: str
    part: Part


class Sum:
    """What one probe has seen in one phase."""

    __slots__ = ("calls", "output_bytes", "seconds")

    def __init__(self) -> None:
        self.seconds, self.calls = 0.0, 0
        self.output_bytes: int | None = None


class TorchTrace:
    """core.types.Trace over the modules of `model`; `on_finish` is called once, at the end."""

    def __init__(
        self, model: Any, spec: ModelSpec, device: str, sync: Callable[[], None], on_finish: Callable[[], None]
    ) -> None:
        self._phase: Literal["prefill", "decode"] = "prefill"
        self._sums: dict[str, dict[Probe, Sum]] = {"prefill": {}, "decode": {}}
        self._open: list[Probe] = []
        self._layers = {layer.name for layer in spec.layers}
        self._clock = clock_for(device, sync)
        self._undo: list[Callable[[], None]] = [on_finish]
        self._undo.append(model.register_forward_pre_hook(self._restart).remove)
        for path, module in model.named_modules():
            name = canonical_hf(path, spec.architecture)
            if name is None or not self._is_timed(name):
                continue
            kind = type(module).__name__
            is_leaf = next(module.children(), None) is None
            probe = Probe(name, OPERATORS.get(kind, kind), "operator" if is_leaf else "container")
            self._undo.append(module.register_forward_pre_hook(partial(self._enter, probe)).remove)
            self._undo.append(module.register_forward_hook(partial(self._leave, probe)).remove)
        self._wrap_functions(model)

    def _is_timed(self, name: str) -> bool:
        """A layer, or stacked experts, which run as one module."""
        experts = name.endswith(".experts") and any(within(layer, name) for layer in self._layers)
        return name in self._layers or experts

    def phase(self, name: Literal["prefill", "decode"]) -> None:
        self._phase = name

    def layer(self) -> str | None:
        """The layer that is running at this moment; None between layers."""
        return self._open[-1].name if self._open else None

    def rows(self) -> dict[str, tuple[LayerTime, ...]]:
        self._clock.resolve()
        return {phase: _fold(sums) for phase, sums in self._sums.items() if sums}

    def finish(self) -> dict[str, tuple[LayerTime, ...]]:
        while self._undo:
            self._undo.pop()()
        return self.rows()

    def _restart(self, *_: Any) -> None:
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
        if probe.part == "operator":
            total.output_bytes = _n_bytes(output)
        self._clock.leave(total, ended)

    def _wrap_functions(self, model: Any) -> None:
        from transformers import AttentionInterface, Cache

        families = {type(module).__module__ for module in model.modules()}
        for family in sorted(name for name in families if name.startswith("transformers.models.")):
            names = vars(sys.modules[family])
            for function, layer in FUNCTIONS.items():
                if function in names:
                    self._undo.append(partial(names.__setitem__, function, names[function]))
                    names[function] = self._timed(names[function], layer, "operator")
        shared, chosen = AttentionInterface._global_mapping, model.config._attn_implementation
        if chosen in shared:  # "eager" is not shared but each family's own
            self._undo.append(partial(shared.__setitem__, chosen, shared[chosen]))
            shared[chosen] = self._timed(shared[chosen], "attn.core", "operator")
        self._undo.append(partial(setattr, Cache, "update", Cache.update))
        Cache.update = self._timed(Cache.update, "attn.core", "companion")

    def _timed(self, original: Callable[..., Any], layer: str, part: Part) -> Callable[..., Any]:
        op = OPERATORS.get(original.__name__, original.__name__)
        probes: dict[str, Probe | None] = {}  # by the name of the module that calls

        @wraps(original)
        def timed(*args: Any, **kwargs: Any) -> Any:
            if not self._open:  # another model's call
                return original(*args, **kwargs)
            caller = self._open[-1].name
            if caller not in probes:
                name = f"blocks.{block_of(caller)}.{layer}"
                probes[caller] = Probe(name, op, part) if name in self._layers else None
            probe = probes[caller]
            if probe is None:
                return original(*args, **kwargs)
            self._enter(probe)
            output = original(*args, **kwargs)
            self._leave(probe, None, None, output)
            return output

        return timed


def _fold(sums: dict[Probe, Sum]) -> tuple[LayerTime, ...]:
    """One row per layer: its operator and what belongs to it, such as an MLP's product to its activation.

    What is left of an attention module beside a measured core is reshaping, not the core.
    """
    measured = {probe.name for probe in sums if probe.part == "operator"}
    found: dict[str, LayerTime] = {}
    for probe, total in sums.items():
        if probe.part == "container" and probe.name in measured and probe.name.endswith("attn.core"):
            continue
        other = found.get(probe.name)
        own = other is None or probe.part == "operator"
        found[probe.name] = LayerTime(
            name=probe.name,
            seconds=total.seconds + (other.seconds if other else 0.0),
            calls=max(total.calls, other.calls if other else 0),
            op=probe.op if other is None or own else other.op,
            output_bytes=total.output_bytes if other is None or own else other.output_bytes,
        )
    return tuple(found.values())


def _n_bytes(output: Any) -> int | None:
    tensors = output if isinstance(output, tuple) else (output,)
    sizes = [t.numel() * t.element_size() for t in tensors if hasattr(t, "element_size")]
    return sum(sizes) if sizes else None
