"""Matrices as quantizers store them, made into plain numbers again.

Each function takes the stored tensors of one matrix and gives its values in fp32. An integer or a float of few bits
times a scale of 16 bits is exact there; a scale in fp32, or a bias added to the product, is rounded once to fp32.
Knows the forms, and nothing of files or of the network.

Sources: GPTQ's and AWQ's own packing (AutoGPTQ, GPTQModel, AutoAWQ: packing_utils), compressed-tensors
(compressors), `mlx.core.dequantize`, transformers' integrations of FP8, MXFP4 and BitNet, bitsandbytes' QuantState,
hqq (core/bitpack), torchao (quantize_/workflows, prototype/mx_formats), amd-quark (torch/utils/pack), exllamav2
(conversion/adaptivegptq, cuda/q_matrix), aqlm (utils), OCP Microscaling Formats 1.0 (E2M1, E2M3, E3M2, E8M0).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
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
    q, zeros = nibbles(qweight, AWQ_PLACES), nibbles(qzeros, AWQ_PLACES)
    of = groups(len(q), len(scales), group)
    return ((q - zeros[of]) * scales.float()[of]).T


def nibbles(words: Any, places: Sequence[int] = range(8)) -> Any:
    """Eight unsigned integers of 4 bits to a 32-bit word. places: the nibble in which each of them is."""
    import torch

    return ((words.unsqueeze(-1) >> (torch.tensor(places, dtype=torch.int32) * 4)) & 15).flatten(-2)


def signed(q: Any, bits: int) -> Any:
    """Unsigned integers of so many bits taken as what they are in two's complement."""
    return (q ^ (1 << (bits - 1))) - (1 << (bits - 1))


def groups(n: int, n_groups: int, size: int) -> Any:
    """The group of each of `n` columns. size: of a group, as declared; 0 where it is not."""
    import torch

    fits = size > 0 and -(-n // size) == n_groups
    return torch.arange(n) // (size if fits else -(-n // n_groups))


def packed_integers(packed: Any, scale: Any, zero: Any, g_idx: Any, shape: Sequence[int], bits: int, group: int) -> Any:
    """compressed-tensors' `pack-quantized`: signed integers as a stream of bits, or, of releases before 0.20, as many
    as a word holds whole; zeros packed along rows."""
    import torch

    rows, columns = shape
    dense = packed.shape[1] == -(-columns * bits // 32)

    def taken(words: Any) -> Any:
        shifts = torch.arange(32 // bits, dtype=torch.int32) * bits
        whole_ones = ((words.unsqueeze(-1) >> shifts) & ((1 << bits) - 1)).flatten(-2)
        return (integers(words, bits) if dense else whole_ones) - (1 << (bits - 1))

    q = taken(packed)[:, :columns]
    if zero is not None and zero.dtype == torch.int32:
        zero = taken(zero.T.contiguous())[:, :rows].T
    return whole(q, scale, zero, g_idx, (1, group))


def whole(q: Any, scale: Any, zero: Any = None, g_idx: Any = None, tile: Sequence[int] = ()) -> Any:
    """Integers, one to an element, with a scale and where there are any a zero per tensor, row or tile. Raises
    ValueError for scales that are no numbers themselves."""
    if not scale.is_floating_point():
        raise ValueError("scales in integers")
    if g_idx is not None and int(g_idx.min()) >= 0:
        scale = scale[:, g_idx.long()]
        zero = None if zero is None else zero[:, g_idx.long()]
    values = q.float() if zero is None else q.float() - spread(zero.float(), q.shape, tile)
    return values * spread(scale.float(), q.shape, tile)


def scaled(weight: Any, scale: Any, tile: Sequence[int] = ()) -> Any:
    """Floats of 8 bits with a scale per tensor, expert, row or tile. tile: its rows and columns, as declared."""
    return weight.float() * spread(numbers(scale), weight.shape, tile)


def halves(packed: Any, scale: Any, overall: Any = None) -> Any:
    """Floats of 4 bits (E2M1), two to a byte, the lower half first, with a scale per group of columns.

    overall: a scale of the whole matrix on top.
    """
    import torch

    values = torch.tensor(E2M1)[nibbles_of_bytes(packed).long()]
    scales = numbers(scale) if overall is None else numbers(scale) * overall.float()
    return values * spread(scales, values.shape)


def nibbles_of_bytes(packed: Any) -> Any:
    """Two unsigned integers of 4 bits to a byte, the lower half first."""
    import torch

    octets = packed.contiguous().view(torch.uint8)
    return torch.stack((octets & 15, octets >> 4), -1).flatten(-2).int()


def sixes(packed: Any, scale: Any, exponent: int) -> Any:
    """Floats of 6 bits, four in three bytes, lowest bits first, with a scale per group of columns.

    exponent: its bits, 2 for E2M3, 3 for E3M2.
    """
    import torch

    codes, mantissa = integers(packed.contiguous().view(torch.int32), 6), 5 - exponent
    power, rest = (codes >> mantissa) & ((1 << exponent) - 1), (codes & ((1 << mantissa) - 1)) / (1 << mantissa)
    least = 2 - (1 << (exponent - 1))  # the power of two of what has no leading one, and of the smallest that has
    values = torch.ldexp(rest + (power > 0), power.clamp(min=1) - 1 + least) * (1 - 2 * (codes >> 5))
    return values * spread(numbers(scale), values.shape)


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


def hqq(packed: Any, scale: Any, zero: Any, bits: int, shape: Sequence[int]) -> Any:
    """HQQ: a table of groups whose rows are cut into as many parts as a word holds integers, the first part in the
    highest bits; three bits lie in words of ten, all others in bytes."""
    import torch

    if packed.is_floating_point():  # words under another name
        packed = packed.view(torch.int32 if bits == 3 else torch.uint8)
    held = 10 if bits == 3 else 8 // bits
    parts = [(packed >> (bits * i)) & ((1 << bits) - 1) for i in reversed(range(held))]
    table = torch.cat(parts)[: prod(shape) // packed.shape[1]].float()
    return ((table - zero.float()) * scale.float()).reshape(tuple(shape))


def shifted_halves(packed: Any, scale: Any, zero: Any) -> Any:
    """torchao's Int4Tensor: signed integers, two to a byte, times a scale plus a zero, both (groups, rows)."""
    q = signed(nibbles_of_bytes(packed), 4).float()
    scale, zero = (spread(part.float().transpose(-1, -2), q.shape) for part in (scale, zero))
    return q * scale + zero


def unblocked(scale: Any, rows: int, columns: int) -> Any:
    """Scales (rows, columns) from the order that cuBLAS wants: tiles of 128 by 4, in each every 32nd row together."""
    import torch

    down, across = -(-rows // 128), -(-columns // 4)
    tiles = scale.contiguous().view(torch.uint8).reshape(down, across, 32, 4, 4)
    table = tiles.permute(0, 3, 2, 1, 4).reshape(down * 128, across * 4)
    return table[:rows, :columns].contiguous().view(scale.dtype)


def ternary(packed: Any, scale: Any) -> Any:
    """BitNet: -1, 0 and 1 as two bits, four parts of the rows in one byte, the first part lowest."""
    import torch

    q = torch.cat([(packed >> (2 * i)) & 3 for i in range(4)]).float() - 1
    return q * spread(scale.float(), q.shape)


def paired_rows(packed: Any, scale: Any) -> Any:
    """ModelOpt's integers of 4 bits: of two rows in a byte, the first in the lower half; scales of columns' groups."""
    import torch

    octets = packed.int()
    q = signed(torch.stack((octets & 15, octets >> 4), 1).flatten(0, 1), 4)
    return whole(q, scale)


def exl2(words: Any, scales: Any, largest: Any, groups: Any, place: Any) -> Any:
    """ExLlamaV2: groups of columns, each a stream of its own number of bits down the words of a row.

    scales: the root of a scale less one, 4 bits for each group and row, in 256ths of the group's `largest`. groups:
    of each its bits and first word. place: where each column of the matrix lies among the stored ones.
    """
    import torch

    bits, starts = groups[::2].tolist(), groups[1::2].tolist()
    levels = (nibbles(scales) + 1).float() ** 2 * (largest.float() / 256)[:, None]
    found = [
        (integers(words[start:end].T, b).T.float() - (1 << (b - 1))) * level
        for b, start, end, level in zip(bits, starts, [*starts[1:], len(words)], levels, strict=True)
    ]
    return torch.cat(found)[place.long()].T.contiguous()


def aqlm(codes: Any, books: Any, scales: Any) -> Any:
    """AQLM: each patch of a matrix is the sum of one entry of every book, times the scale of its rows.

    codes: (patches down, patches across, books). books: (books, entries, rows and columns of a patch).
    """
    n_books, n_entries, rows, columns = books.shape
    index = codes.long() & (n_entries - 1)  # stored with a sign
    patches = sum(books[i].float()[index[..., i]] for i in range(n_books)) * scales.float()
    return patches.transpose(1, 2).reshape(codes.shape[0] * rows, codes.shape[1] * columns)


# ---------------------------------------------------------------- two of four


def unmasked(values: Any, mask: Any, shape: Sequence[int]) -> Any:
    """A matrix of which all but some values are zero. mask: a bit for each, lowest first, rows in whole bytes."""
    import torch

    there = ((mask.unsqueeze(-1) >> torch.arange(8, dtype=torch.uint8)) & 1).flatten(-2)[:, : shape[1]].bool()
    raw = torch.uint8 if values.element_size() == 1 else values.dtype  # torch puts no floats of 8 bits in places
    made = torch.zeros(tuple(shape), dtype=raw)
    made[there] = values.flatten().view(raw)
    return made.view(values.dtype)


def marlin24(packed: Any, scale: Any, meta: Any, bits: int) -> Any:
    """compressed-tensors' `marlin-24`: of every four columns two integers, with their places in `meta`, all in the
    order that the kernel of that name reads. A scale per row or group of columns."""
    import torch

    tiles, n_rows = packed.shape[0], scale.shape[1]
    table = integers(packed, bits).reshape(-1, 1024)
    table = torch.empty_like(table).index_copy_(1, _marlin_order(bits), table)
    kept = table.reshape(tiles, n_rows // 16, 16, 16).transpose(1, 2).reshape(tiles * 16, n_rows).T
    kept = kept.float() - (1 << (bits - 1))
    if len(scale) > 2:  # in groups narrower than what is kept of a row
        order = torch.arange(64).reshape(8, 2, 4).transpose(1, 2).flatten()
        scale = (
            torch.empty_like(scale.reshape(-1, 64)).index_copy_(1, order, scale.reshape(-1, 64)).reshape(scale.shape)
        )
    words = meta.flatten()[_meta_places(n_rows, kept.shape[1] // 8)].int()
    places = (words.unsqueeze(-1) >> (2 * torch.arange(8, dtype=torch.int32))) & 3  # two for every four columns
    columns = places.reshape(n_rows, -1) + 4 * (torch.arange(kept.shape[1]) // 2)
    made = torch.zeros(n_rows, 2 * kept.shape[1]).scatter_(1, columns, kept)
    return whole(made, scale.T)


def _marlin_order(bits: int) -> Any:
    """Which of the 1024 integers of 16 rows and 64 columns stands where, as 32 threads take them."""
    import torch

    thread, turn, half, pair = (torch.arange(n) for n in (32, 4, 2, 4))
    row = 2 * (thread % 4)[:, None] + torch.tensor([0, 1, 8, 9])[pair]
    column = thread // 4
    at = 256 * (column // 2) + 8 * (column % 2)
    places = at[:, None, None, None] + turn[:, None, None] + 4 * half[:, None] + 16 * row[:, None, None, :]
    inside = torch.tensor([0, 2, 4, 6, 1, 3, 5, 7] if bits == 4 else [0, 2, 1, 3])
    return places.reshape(-1, len(inside))[:, inside].flatten()


def _meta_places(n_rows: int, n_columns: int) -> Any:
    """Where CUTLASS puts each word of the places of a matrix two of four of which are kept."""
    import torch

    row, column = torch.arange(n_rows)[:, None], torch.arange(n_columns)[None, :]
    at = row // 64 * 64 + row % 2 * 2 + row % 8 // 4 + row % 4 // 2 * 32 + row % 64 // 8 * 4
    crossed = column % 2 - at % 2  # of the four in a square, the two off its diagonal change places
    at, column = at + crossed, column - crossed
    return column // 2 * n_rows * 2 + at * 2 + column % 2


# ---------------------------------------------------------------- scales


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
