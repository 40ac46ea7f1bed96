"""Decoders from scratch: what a choice of sizes would be, and what it would cost on a device.

No shape is trained. What stands for quality is the number of parameters outside the embedding, which ranks perplexity
well whatever the topology (LiteTransformerSearch, arXiv 2203.02094), and by which most cheap proxies are beaten; it
says nothing of depth against width at equal size. Knows no file and no optimizer.
"""

from __future__ import annotations

from collections.abc import Mapping

from core.analysis.predict import predict
from core.analysis.search import Constraint
from core.types import ModelSpec, Record
from hardware.device import Device

GOALS = (("body_params", "higher"), ("tpot_s", "lower"))
FIGURES = (
    "body_params", "n_params", "tpot_s", "tok_per_s", "ttft_s", "latency_s", "peak_memory_bytes", "low_tpot_s",
    "high_tpot_s",
)  # fmt: skip


class Sizes(Record, omit_defaults=False):
    """A decoder of Llama's kind. group: query heads on each key/value head. ratio: MLP channels over the width."""

    blocks: int
    width: int
    head_dim: int
    group: int
    ratio: float
    vocabulary: int

    @property
    def heads(self) -> int:
        return self.width // self.head_dim

    @property
    def label(self) -> str:
        return (
            f"{self.blocks} × {self.width} · {self.heads}/{max(1, self.heads // self.group)} heads · "
            f"MLP ×{self.ratio:.3g} · {self.vocabulary // 1024}k words"
        )


def refused(sizes: Sizes) -> float:
    """How far the sizes are from being those of a model, above 0 for those of none: heads must divide the width, and
    groups the heads."""
    wrong = sizes.width % sizes.head_dim != 0
    return float(wrong) + float(not wrong and sizes.heads % sizes.group != 0)


def config(sizes: Sizes, context: int) -> dict[str, object]:
    """Its config.json, with tied embeddings; the MLP a multiple of 32 channels."""
    return {
        "model_type": "llama",
        "hidden_size": sizes.width,
        "num_hidden_layers": sizes.blocks,
        "intermediate_size": max(32, round(sizes.width * sizes.ratio / 32) * 32),
        "num_attention_heads": sizes.heads,
        "num_key_value_heads": max(1, sizes.heads // sizes.group),
        "head_dim": sizes.head_dim,
        "vocab_size": sizes.vocabulary,
        "tie_word_embeddings": True,
        "max_position_embeddings": max(2048, context),
    }


def figures(
    spec: ModelSpec, device: Device, weights: str, prompt_tokens: int, new_tokens: int, batch: int
) -> dict[str, float]:
    """What it would cost there, likely; FIGURES."""
    told = predict(spec, device, prompt_tokens=prompt_tokens, new_tokens=new_tokens, batch=batch, weights=weights)
    assert told.tpot_s is not None and told.decode_tok_per_s is not None, "a decoder"
    body = sum(layer.n_params for layer in spec.layers if layer.kind not in ("embedding", "head"))
    return {
        "body_params": float(body),
        "n_params": float(spec.n_params),
        "tpot_s": told.tpot_s.calibrated,
        "low_tpot_s": told.tpot_s.low,
        "high_tpot_s": told.tpot_s.high,
        "tok_per_s": told.decode_tok_per_s.calibrated,
        "ttft_s": told.ttft_s.calibrated,
        "latency_s": told.ttft_s.calibrated + (new_tokens - 1) * told.tpot_s.calibrated,
        "peak_memory_bytes": told.peak_memory_bytes.calibrated,
    }


def excess(found: Mapping[str, float], constraint: Constraint) -> float:
    """Above 0 where a limit is missed: ln of the factor by which it would have to be loosened."""
    return constraint.excess(found[constraint.measure])
