"""Matrices as quantizers store them, made into plain numbers again.

Each function takes the stored tensors of one matrix and gives its values in fp32. An integer or a float of few bits
times a scale of 16 bits is exact there; a scale in fp32, or a bias added to the product, is rounded once to fp32.
Knows the forms, and nothing of files or of the network.

Sources: GPTQ's and AWQ's own packing (AutoGPTQ, GPTQModel, AutoAWQ: packing_utils), compressed-tensors
(compressors/quantized_compressors), `mlx.core.dequantize`, transformers' integrations of FP8 and MXFP4,
bitsandbytes' QuantState, OCP Microscaling Formats 1.0 (E2M1, E8M0).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0)
AWQ_PLACES = (0, 4, 1, 5, 2, 6, 3, 7)  # the nibble of a word in which each of eight columns is
E8M0_BIAS = 127


def integers(words: Any, bits: int) -> Any:
    """The unsigned integers of a stream of bits in 32-bit words, lowest bits first, along the last axis."""
    import torch

    words = words.contiguous().view(torch.int32)
    mask = (1 << bits) - 1
    if 32 % bits == 0:
        return ((words.unsqueeze(-1) >> torch.arange(0, 32, bits, dtype=torch.int32)) & mask).flatten(-2)
    starts = torch.arange(words.shape[-1] * 32 // bits) * bits
    low = words.long() & 0xFFFFFFFF
    high = torch.cat((low[..., 1:], torch.zeros_like(low[..., :1])), -1)
    return ((low | (high << 32))[..., starts // 32] >> (starts % 32) & mask).int()


def gptq(qweight: Any, qzeros: Any, scales: Any, g_idx: Any, bits: int, group: int, one_less: bool) -> Any:
    """Columns of a matrix packed into words, a scale and a zero per group of columns; g_idx: the group of each column.

    one_less: the zeros are stored less one, as all but "gptq_v2" store them.
    """
    q = integers(qweight.T, bits)
    zeros = integers(qzeros, bits)[:, : scales.shape[1]]
    if one_less:
        zeros = (zeros + 1) & ((1 << bits) - 1)
    of = groups(q.shape[1], len(scales), group) if g_idx is None else g_idx.long()
    return (q - zeros.T[:, of]) * scales.T.float()[:, of]


def awq(qweight: Any, qzeros: Any, scales: Any, group: int) -> Any:
    """Rows of a matrix packed into words, eight to a word and out of order; a scale and a zero per group of columns."""
    import torch

    shifts = torch.tensor(AWQ_PLACES, dtype=torch.int32) * 4

    def rows(words: Any) -> Any:
        return ((words.unsqueeze(-1) >> shifts) & 15).flatten(-2)

    q, zeros = rows(qweight), rows(qzeros)
    of = groups(len(q), len(scales), group)
    return ((q - zeros[of]) * scales.float()[of]).T


def groups(n: int, n_groups: int, size: int) -> Any:
    """The group of each of `n` columns. size: of a group, as declared; 0 where it is not."""
    import torch

    fits = size > 0 and -(-n // size) == n_groups
    return torch.arange(n) // (size if fits else -(-n // n_groups))


def packed_integers(packed: Any, scale: Any, zero: Any, g_idx: Any, shape: Sequence[int], bits: int, group: int) -> Any:
    """compressed-tensors' `pack-quantized`: as many signed integers as a word holds whole; zeros packed along rows."""
    import torch

    rows, columns = shape

    def signed(words: Any) -> Any:
        shifts = torch.arange(32 // bits, dtype=torch.int32) * bits
        return ((words.unsqueeze(-1) >> shifts) & ((1 << bits) - 1)).flatten(-2) - (1 << (bits - 1))

    q = signed(packed)[:, :columns]
    if zero is not None and zero.dtype == torch.int32:
        zero = signed(zero.T)[:, :rows].T
    return whole(q, scale, zero, g_idx, group)


def whole(q: Any, scale: Any, zero: Any = None, g_idx: Any = None, group: int = 0) -> Any:
    """Integers, one to an element, with a scale and where there are any a zero per tensor, row or group of columns."""
    if g_idx is not None and int(g_idx.min()) >= 0:
        scale = scale[:, g_idx.long()]
        zero = None if zero is None else zero[:, g_idx.long()]
    values = q.float() if zero is None else q.float() - spread(zero.float(), q.shape, (1, group))
    return values * spread(scale.float(), q.shape, (1, group))


def scaled(weight: Any, scale: Any, tile: Sequence[int] = ()) -> Any:
    """Floats of 8 bits with a scale per tensor, expert, row or tile. tile: its rows and columns, as declared."""
    return weight.float() * spread(numbers(scale), weight.shape, tile)


def halves(packed: Any, scale: Any, overall: Any = None) -> Any:
    """Floats of 4 bits (E2M1), two to a byte, the lower half first, with a scale per group of columns.

    overall: a scale of the whole matrix on top.
    """
    import torch

    octets = packed.contiguous().view(torch.uint8)
    values = torch.tensor(E2M1)[torch.stack((octets & 15, octets >> 4), -1).flatten(-2).long()]
    scales = numbers(scale) if overall is None else numbers(scale) * overall.float()
    return values * spread(scales, values.shape)


def stacked_halves(blocks: Any, scales: Any) -> Any:
    """gpt-oss's experts in MXFP4: (experts, rows, groups, bytes) become transformers' (experts, columns, rows)."""
    return halves(blocks.flatten(-2), scales).transpose(-1, -2)


def mlx(words: Any, scales: Any, biases: Any, bits: int, mode: str) -> Any:
    """MLX: a stream of bits per row; integers with a scale and a bias per group, or the microscaled floats."""
    import torch

    if mode == "affine":
        q = integers(words, bits).float()
        return q * spread(scales.float(), q.shape) + spread(biases.float(), q.shape)
    if mode == "mxfp8":
        return scaled(words.contiguous().view(torch.float8_e4m3fn), scales)
    return halves(words, scales.view(torch.float8_e4m3fn) if mode == "nvfp4" else scales)


def bnb_halves(packed: Any, absmax: Any, values: Any, block: int, shape: Sequence[int]) -> Any:
    """bitsandbytes' NF4 and FP4: codes of 4 bits, the upper half first, times the largest of each block."""
    import torch

    octets = packed.contiguous().view(torch.uint8).flatten()
    codes = torch.stack((octets >> 4, octets & 15), -1).flatten()
    found = values.float()[codes.long()] * absmax.float().repeat_interleave(block)[: len(codes)]
    return found.reshape(tuple(shape))


def bnb_absmax(codes: Any, nested_absmax: Any, nested_values: Any, nested_block: int, offset: float) -> Any:
    """The largest of each block where bitsandbytes has quantized these, too."""
    largest = nested_absmax.float().repeat_interleave(nested_block)[: codes.numel()]
    return nested_values.float()[codes.flatten().long()] * largest + offset


def numbers(scale: Any) -> Any:
    """Scales in fp32; a byte is the exponent of a power of two (E8M0)."""
    import torch

    if scale.dtype in (torch.uint8, torch.float8_e8m0fnu):
        exponents = scale.view(torch.uint8).int() - E8M0_BIAS
        return torch.ldexp(torch.ones(exponents.shape), exponents)
    return scale.float()


def spread(scale: Any, shape: Sequence[int], tile: Sequence[int] = ()) -> Any:
    """Scales laid over a matrix, or over a stack of them: each over its tile. Raises ValueError where none fits."""
    if scale.numel() == 1:
        return scale.reshape(())
    if scale.ndim < len(shape):  # per expert, or per row
        if tuple(scale.shape) != tuple(shape[: scale.ndim]):
            raise ValueError(f"scales of shape {tuple(scale.shape)} over a matrix of {tuple(shape)}")
        return scale.reshape(*scale.shape, *[1] * (len(shape) - scale.ndim))
    declared = (0,) * (len(shape) - len(tile)) + tuple(tile)
    for axis, (n, m, size) in enumerate(zip(shape, scale.shape, declared, strict=True)):
        if m in (1, n):
            continue
        if size and -(-n // size) == m:
            step = size
        elif n % m == 0:
            step = n // m
        else:
            raise ValueError(f"scales of shape {tuple(scale.shape)} over a matrix of {tuple(shape)}")
        scale = scale.repeat_interleave(step, axis).narrow(axis, 0, n)
    return scale
