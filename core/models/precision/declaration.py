"""The precision that a configuration declares, and what it makes of a network's layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec

from core.layer_names import hf_paths
from core.models.precision import support
from core.models.precision.scheme import Scheme
from core.types import Embedding, Layer, Linear

Rule = tuple[Callable[[Sequence[str]], bool], Scheme | None]  # takes the paths that a module may have


@dataclass(frozen=True)
class Declared:
    """The precision that a configuration declares.

    scheme: of all that it reaches; None where the method's sizes are not known here. rules: a scheme of their own, or
    None for the model's dtype, for modules that a pattern names; the first that fits counts. reach: whether the
    method reaches a layer at all. plain: the weights are stored in the model's dtype, and rounded as they are used.
    """

    method: str
    label: str
    scheme: Scheme | None
    rules: tuple[Rule, ...]
    reach: Callable[[Layer], bool]
    plain: bool = False

    @property
    def lacking(self) -> tuple[str, ...] | None:
        """The packages that transformers needs for such weights and that are not installed; None: it cannot at all."""
        return support.lacking(self.method)

    @property
    def words(self) -> str:
        """ "GPTQ, 4 bits in groups of 128"."""
        return f"{self.label}, {self.scheme.words}" if self.scheme else self.label

    def scheme_of(self, layer: Layer) -> Scheme | None:
        """How this layer's matrix is stored; None: in the model's dtype."""
        if not layer.n_params or not self.reach(layer):
            return None
        paths = hf_paths(layer.name, mlx=self.method == "mlx")
        for fits, scheme in self.rules:
            if fits(paths):
                return scheme
        return self.scheme

    def stored(self, layer: Layer, rest_dtype: str, rest_bytes: float) -> Layer:
        """The layer with its declared bytes; what has no scheme takes the model's dtype."""
        if not layer.n_params:
            return layer
        scheme = self.scheme_of(layer)
        if scheme is None:
            n_bytes = layer.n_params * rest_bytes
            return msgspec.structs.replace(layer, weight_dtype=rest_dtype, weight_bytes=round(n_bytes))
        op = layer.op
        rows, columns = (op.rows, op.d) if isinstance(op, Embedding) else (op.d_out, op.d_in)  # type: ignore[union-attr]
        n = op.n_experts if isinstance(op, Linear) else 1
        vectors = layer.n_params - n * rows * columns
        n_bytes = n * scheme.bytes(rows, columns) + vectors * rest_bytes
        return msgspec.structs.replace(layer, weight_dtype=scheme.dtype or rest_dtype, weight_bytes=round(n_bytes))
