"""Writers of quantized forms, each by the formula in its format's own source, one number after the other.

Each takes a matrix of which only the shape counts, and gives the tensors that lie beside each other under a module's
name, and the plain numbers that they stand for.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

Parts = tuple[dict[str, Any], Any]
_UP = [m / 8 for m in range(8)] + [(1 + m / 8) * 2**e for e in range(3) for m in range(8)]
E2M3 = [*_UP, *(-value for value in _UP)]


def words(values: Sequence[int], bits: int) -> list[int]:
    """A stream of bits in 32-bit words, lowest bits first, as signed integers: by arithmetic on one big number."""
    stream = sum(int(value) << (bits * i) for i, value in enumerate(values))
    found = [(stream >> (32 * i)) & 0xFFFFFFFF for i in range(-(-len(values) * bits // 32))]
    return [word - (1 << 32) if word >= 1 << 31 else word for word in found]


def rows_of_words(q: Any, bits: int) -> Any:
    import torch

    return torch.tensor([words(row, bits) for row in q.tolist()], dtype=torch.int32)


def spread(scale: Any, n: int) -> Any:
    return scale.float().repeat_interleave(n, 1)


def hqq(values: Any) -> Parts:
    """hqq/core/bitpack.py pack_4bit_u8, and Quantizer.dequantize: (W - zero) * scale, groups of 32 as rows."""
    import torch

    table = torch.randint(0, 16, (values.numel() // 32, 32), dtype=torch.uint8)
    scale, zero = torch.rand(len(table), 1).half(), (15 * torch.rand(len(table), 1)).half()
    half = len(table) // 2
    parts = {
        "W_q": (table[:half] << 4) | table[half:],
        "scale": scale,
        "zero": zero,
        "shape": torch.tensor(values.shape),
        "packing": torch.tensor(list(b"4bit_u8"), dtype=torch.uint8),
        "nbits": torch.tensor(4, dtype=torch.int32),
        "axis": torch.tensor(1, dtype=torch.int32),
        "view_as_float": torch.tensor(0, dtype=torch.uint8),
        "unpack_view_dtype": torch.tensor(list(b"torch.uint8"), dtype=torch.uint8),
    }
    return parts, ((table - zero.float()) * scale.float()).reshape(values.shape)


class Torchao:
    """A tensor class of torchao's, whose name and data stand in the file's metadata: prototype/safetensors."""

    def __init__(self, kind: str, **data: Any) -> None:
        self.kind = kind
        self.about = json.dumps({"_type": kind, "_data": data})

    def __call__(self, values: Any) -> Parts:
        parts, plain = getattr(self, self.kind)(values)
        return {f"_weight_{name}": tensor for name, tensor in parts.items()}, plain

    def Int8Tensor(self, values: Any) -> Parts:  # noqa: N802
        import torch

        q = torch.randint(-128, 128, values.shape, dtype=torch.int8)
        scale, zero = torch.rand(len(q), q.shape[1] // 32), torch.randint(-8, 8, (len(q), q.shape[1] // 32))
        plain = (q.float() - spread(zero, 32)) * spread(scale, 32)
        return {"qdata": q, "scale": scale, "zero_point": zero.to(torch.int8)}, plain

    def Int4Tensor(self, values: Any) -> Parts:  # noqa: N802
        """fbgemm_gpu's int4_row_quantize_zp: integers from -8, zeros added, scales by group and row; pack_int4. Before
        the matrix the activations are multiplied by `act_pre_scale`."""
        import torch

        q = torch.randint(-8, 8, values.shape, dtype=torch.int8)
        scale, zero = torch.rand(2, q.shape[1] // 32, len(q)).bfloat16()
        before = torch.rand(q.shape[1]).bfloat16()
        plain = (q.float() * spread(scale.T, 32) + spread(zero.T, 32)) * before.float()
        packed = (q[:, ::2] & 15) | (q[:, 1::2] << 4)
        return {"qdata": packed, "scale": scale, "zero_point": zero, "act_pre_scale": before}, plain

    def MXTensor(self, values: Any) -> Parts:  # noqa: N802
        """Scales in cuBLAS's order: tiles of 128 by 4, row r of a tile at 16 * (r % 32) + 4 * (r // 32)."""
        import torch

        q = values.to(torch.float8_e4m3fn)
        n_out, n_scales = len(q), q.shape[1] // 32
        scale = torch.randint(120, 130, (n_out, n_scales), dtype=torch.uint8)
        across = -(-n_scales // 4)
        flat = torch.zeros(-(-n_out // 128) * across * 512, dtype=torch.uint8)
        for r in range(n_out):
            for c in range(n_scales):
                tile = r // 128 * across + c // 4
                flat[tile * 512 + r % 32 * 16 + r % 128 // 32 * 4 + c % 4] = scale[r, c]
        plain = q.float() * spread(2.0 ** (scale.float() - 127), 32)
        return {"qdata": q, "scale": flat.reshape(-1, 16 * across).view(torch.float8_e8m0fnu)}, plain


def quark(values: Any) -> Parts:
    """quark/torch/utils/pack.py Pack_4_bits, reordered, of signed integers in groups: columns down, eight rows to a
    word, whose nibbles hold rows 0, 2, 4, 6, 1, 3, 5, 7."""
    import torch

    n_out, n_in = values.shape
    q, zero = torch.randint(-8, 8, (n_in, n_out)), torch.randint(-2, 2, (n_in // 32, n_out))
    scale = torch.rand(n_in // 32, n_out).bfloat16()
    order = [8 * (i // 8) + (0, 2, 4, 6, 1, 3, 5, 7)[i % 8] for i in range(n_out)]
    parts = {
        "weight": rows_of_words(q[:, order] & 15, 4),
        "weight_zero_point": rows_of_words(zero[:, order] & 15, 4),
        "weight_scale": scale,
    }
    return parts, (q - zero.repeat_interleave(32, 0)).T * spread(scale.T, 32)


def sixes(values: Any) -> Parts:
    """compressors/mxfp6/helpers.py: four codes of E2M3 in three bytes, lowest bits first."""
    import torch

    codes = torch.randint(0, 64, values.shape)
    scale = torch.randint(120, 130, (len(codes), codes.shape[1] // 32), dtype=torch.uint8)
    packed = rows_of_words(codes, 6).view(torch.uint8)
    plain = torch.tensor(E2M3)[codes] * spread(2.0 ** (scale.float() - 127), 32)
    return {"weight_packed": packed, "weight_scale": scale}, plain


def threes(values: Any) -> Parts:
    """compressors/pack_quantized/helpers.py of 0.20: a stream of bits, with zeros packed down the rows."""
    import torch

    n_out, n_in = values.shape
    q, zero = torch.randint(-4, 4, (n_out, n_in)), torch.randint(-4, 4, (n_out, n_in // 32))
    scale = torch.rand(n_out, n_in // 32).bfloat16()
    parts = {
        "weight_packed": rows_of_words(q + 4, 3),
        "weight_zero_point": rows_of_words(zero.T + 4, 3).T.contiguous(),
        "weight_scale": scale,
        "weight_shape": torch.tensor([n_out, n_in]),
    }
    return parts, (q - spread(zero, 32)) * spread(scale, 32)


def two_of_four(values: Any) -> Any:
    import torch

    quads = values.unflatten(-1, (-1, 4))
    return (quads * torch.zeros_like(quads).scatter_(-1, quads.abs().topk(2, -1).indices, 1)).flatten(-2)


def sparse(values: Any) -> Parts:
    """compressors/sparse_compressors/sparse_24_bitmask.py: what is kept of each row, and numpy's bits of a byte."""
    import numpy as np
    import torch

    plain = two_of_four(values).half()
    there = plain.numpy() != 0
    parts = {
        "compressed": plain[torch.tensor(there)].reshape(len(plain), -1),
        "bitmask": torch.tensor(np.packbits(there, axis=-1, bitorder="little")),
        "shape": torch.tensor(plain.shape)[:, None],
    }
    return parts, plain


def sparse_fp8(values: Any) -> Parts:
    import torch

    kept = two_of_four(values).to(torch.float8_e4m3fn)
    parts, _ = sparse(kept.float())
    scale = torch.rand(len(kept), 1).half()
    parts |= {"compressed": parts["compressed"].to(torch.float8_e4m3fn), "weight_scale": scale}
    return parts, kept.float() * scale.float()


def modelopt(values: Any) -> Parts:
    """modelopt/torch/export/quant_utils.py pack_int4_in_uint8: two rows in a byte; and AWQ's scale of the columns."""
    import torch

    q = torch.randint(-8, 8, values.shape)
    scale, before = torch.rand(len(q), q.shape[1] // 32), torch.rand(q.shape[1])
    packed = ((q[::2] & 15) | ((q[1::2] & 15) << 4)).to(torch.uint8)
    parts = {"weight": packed, "weight_scale": scale, "pre_quant_scale": before}
    return parts, q * spread(scale, 32) * before


def bitnet(values: Any) -> Parts:
    """transformers/integrations/bitnet.py pack_weights: four parts of the rows in one byte, each number plus one."""
    import torch

    q, scale = torch.randint(-1, 2, values.shape), torch.rand(1).bfloat16() + 0.5
    quarters = (q + 1).chunk(4)
    packed = sum(part << (2 * i) for i, part in enumerate(quarters))
    return {"weight": packed.to(torch.uint8), "weight_scale": scale}, q * scale.float()


def exl2(values: Any) -> Parts:
    """exllamav2: pack_columns and pack_rows_4 in cuda/pack_tensor.cu, dq_scale in quant/qdq_util.cuh; the columns of a
    row in an order of their own, the first 32 in 5 bits, the rest in 3."""
    import torch

    n_out, n_in = values.shape
    q = [torch.randint(0, 32, (n_out, 32)), torch.randint(0, 8, (n_out, n_in - 32))]
    levels, largest = torch.randint(0, 16, (2, n_out)), torch.rand(2).half()
    packed = [rows_of_words(part, bits).T for part, bits in zip(q, (5, 3), strict=True)]
    place = torch.randperm(n_in)
    scales = (levels + 1) ** 2 * (largest.float() / 256)[:, None]
    rows = torch.cat([(q[0] - 16) * scales[0][:, None], (q[1] - 4) * scales[1][:, None]], 1)
    parts = {
        "q_weight": torch.cat(packed).contiguous(),
        "q_scale": rows_of_words(levels, 4),
        "q_scale_max": largest,
        "q_groups": torch.tensor([5, 0, 3, 5], dtype=torch.int16),
        "q_invperm": place.int(),
    }
    return parts, rows[:, place]


def aqlm(values: Any) -> Parts:
    """aqlm/utils.py _dequantize_weight: two books of 256 rows of eight columns, codes with a sign."""
    import torch

    n_out, n_in = values.shape
    codes, books, scales = torch.randint(0, 256, (n_out, n_in // 8, 2)), torch.randn(2, 256, 1, 8), torch.rand(n_out)
    rows = [
        [scales[r] * sum(books[b, code, 0] for b, code in enumerate(patch)) for patch in codes[r].tolist()]
        for r in range(n_out)
    ]
    parts = {"codes": codes.to(torch.int8), "codebooks": books, "scales": scales[:, None, None, None]}
    return parts, torch.stack([torch.cat(row) for row in rows])


def marlin24(q: Any, bits: int) -> tuple[Any, Any]:
    """compressed-tensors 0.9, marlin_24.py and semi_structured_conversions.py: integers of which two of every four are
    kept, as words in the order of the kernel, and the words of their places."""
    import torch

    n_rows, n_columns = q.shape
    there = (q != 0).unflatten(1, (-1, 4))
    assert (there.sum(-1) == 2).all(), "of every four two"
    kept = q[q != 0].reshape(n_rows, -1).T + (1 << (bits - 1))
    flat = [
        int(kept[16 * k + i, 16 * n + j])
        for k in range(len(kept) // 16)
        for n in range(n_rows // 16)
        for i in range(16)
        for j in range(16)
    ]
    order = [
        16 * row + thread // 4 // 2 * 256 + 8 * (thread // 4 % 2) + 4 * block + turn
        for thread in range(32)
        for turn in range(4)
        for block in range(2)
        for row in (2 * (thread % 4), 2 * (thread % 4) + 1, 2 * (thread % 4 + 4), 2 * (thread % 4 + 4) + 1)
    ]
    inside = (0, 2, 4, 6, 1, 3, 5, 7) if bits == 4 else (0, 2, 1, 3)
    order = [order[i + j] for i in range(0, 1024, len(inside)) for j in inside]
    moved = [flat[start + i] for start in range(0, len(flat), 1024) for i in order]
    packed = torch.tensor(words(moved, bits), dtype=torch.int32).reshape(len(kept) // 16, -1)
    meta = torch.zeros(n_rows * n_columns // 16, dtype=torch.int16)
    for r in range(n_rows):
        for c in range(n_columns // 16):
            places = [
                i for quad in there[r, 4 * c : 4 * c + 4].tolist() for i, kept_here in enumerate(quad) if kept_here
            ]
            word = sum(place << (2 * i) for i, place in enumerate(places))
            down = r // 64 * 64 + r % 2 * 2 + r % 8 // 4 + r % 4 // 2 * 32 + r % 64 // 8 * 4
            right = c
            if down % 2 == 0 and c % 2 == 1:
                down, right = down + 1, c - 1
            elif down % 2 == 1 and c % 2 == 0:
                down, right = down - 1, c + 1
            meta[right // 2 * n_rows * 2 + down * 2 + right % 2] = word - (1 << 16) if word >= 1 << 15 else word
    return packed, meta.reshape(n_columns // 32, -1)
