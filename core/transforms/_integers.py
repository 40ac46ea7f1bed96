"""Matrices as integers with scales, in the layout that core.backends.pytorch.quant describes.

Scales are numbers that bf16 holds exactly, and the integers are rounded with those, so that casting a scale
later changes nothing.
"""

from __future__ import annotations

from typing import Any


def int8_rows(weight: Any) -> dict[str, Any]:
    """Symmetric int8 with a scale per row: weight = weight_int8 * weight_scale, |weight_int8| <= 127."""
    import torch

    scale = _bf16_above(weight.float().abs().amax(1) / 127)
    integers = (weight / scale.float()[:, None]).round().clamp(-127, 127)
    return {"weight_int8": integers.to(torch.int8), "weight_scale": scale}


def int4_groups(weight: Any, group: int) -> dict[str, Any]:
    """Sixteen levels between the least and the largest of every `group` neighbours in a row.

    weight = (q - 8) * scale + zero. The width must be a multiple of `group`.
    """
    import torch

    n_out, n_in = weight.shape
    groups = weight.float().reshape(n_out, n_in // group, group)
    least, largest = groups.amin(-1), groups.amax(-1)
    scale = _bf16_above((largest - least) / 15)
    zero = (least + 8 * scale.float()).to(torch.bfloat16)
    q = ((groups - zero.float()[..., None]) / scale.float()[..., None]).round().add(8).clamp(0, 15).to(torch.uint8)
    even, odd = q.reshape(n_out, n_in // 2, 2).unbind(-1)
    return {
        "weight_int4": even | (odd << 4),
        "weight_scale_zero": torch.stack((scale, zero), -1).transpose(0, 1).contiguous(),
    }


def _bf16_above(scale: Any) -> Any:
    """The nearest bf16 that is not smaller, so that the largest value still fits; 1 for a row of zeros."""
    import torch

    rounded = scale.to(torch.bfloat16)
    up = torch.where(rounded.float() < scale, torch.nextafter(rounded, torch.full_like(rounded, torch.inf)), rounded)
    return torch.where(up == 0, torch.ones_like(up), up)
