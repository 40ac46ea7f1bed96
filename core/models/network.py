"""The network under construction: layers are added in the order in which they run.

Knows how many parameters each primitive owns. Knows nothing of configuration files or families.
"""

from __future__ import annotations

from core.layer_names import kind_of
from core.types import Attention, Conv, Elementwise, Embedding, Layer, Linear, Norm, Op, Rope, Scan


def params_of(op: Op) -> int:
    """Parameters that a primitive owns."""
    match op:
        case Embedding(rows=rows, d=d):
            return rows * d
        case Linear():
            matrix = 0 if op.tied_to else op.d_in * op.d_out
            return op.n_experts * (matrix + op.d_out * op.bias)
        case Norm(d=d, bias=bias):
            return d * (1 + bias)
        case Conv(channels=channels, kernel=kernel, bias=bias):
            return channels * (kernel + bias)
        case Scan(n_params=n_params):
            return n_params
        case Rope() | Attention() | Elementwise():
            return 0


class Network:
    """Layers so far. Every method adds one layer and returns its name, to be passed to later ones."""

    def __init__(self) -> None:
        self._layers: dict[str, Layer] = {}

    @property
    def layers(self) -> tuple[Layer, ...]:
        return tuple(self._layers.values())

    def add(self, name: str, op: Op, *inputs: str, n_params: int | None = None) -> str:
        assert name not in self._layers, f"two layers are called {name}"
        assert all(i in self._layers for i in inputs), f"{name} reads {inputs}, not all of which exist"
        own = params_of(op) if n_params is None else n_params
        self._layers[name] = Layer(name=name, kind=kind_of(name), op=op, inputs=inputs, n_params=own)
        return name

    def embedding(self, name: str, rows: int, d: int) -> str:
        return self.add(name, Embedding(rows=rows, d=d))

    def linear(
        self, name: str, x: str, d_in: int, d_out: int, *, bias: bool = False, n_experts: int = 1, n_active: int = 1
    ) -> str:
        return self.add(name, Linear(d_in=d_in, d_out=d_out, bias=bias, n_experts=n_experts, n_active=n_active), x)

    def norm(self, name: str, x: str, d: int, *, rms: bool = True, bias: bool = False, n_groups: int = 1) -> str:
        return self.add(name, Norm(d=d, rms=rms, bias=bias, n_groups=n_groups), x)

    def residual(self, name: str, d: int, *inputs: str) -> str:
        return self.add(name, Elementwise(d=d, n_inputs=len(inputs), flops_per_element=len(inputs) - 1), *inputs)

    def gated_sum(self, name: str, d: int, x: str, y: str, gate: str) -> str:
        """x + sigmoid(gate) * y, the gate being one number per token."""
        return self.add(name, Elementwise(d=d, n_inputs=2, flops_per_element=2), x, y, gate)

    def head(self, x: str, d: int, vocab_size: int, *, tied: bool, bias: bool = False) -> str:
        op = Linear(d_in=d, d_out=vocab_size, bias=bias, tied_to="embed" if tied else None)
        # the table is an input too: the edge shows where a tied head gets its weights
        return self.add("lm_head", op, x, *(["embed"] if tied else []))
