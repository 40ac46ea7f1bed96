"""Rows by hand: an honest one, and changes of it."""

from __future__ import annotations

from typing import Any

import msgspec

from core.community.row import SCHEMA, Engine, Machine, Model, Roofs, Round, Row, Work, Workload, identified

GB = 1e9
ME, YOU = "a" * 12, "b" * 12


def honest(**changes: Any) -> Row:
    """A 7 B model of 4.5 bits on a desktop: 3.94 GB of weights, 40 GB/s of memory, so at most 10 tok/s; it says 8.

    changes: of the row, or of its parts, `model__n_params`. tok_per_s: of all rounds, times 0.98, 1 and 1.02.
    """
    tok_per_s = changes.pop("tok_per_s", 8.0)
    row = Row(
        schema=SCHEMA,
        id="0" * 16,
        day="2026-11-20",
        contributor=YOU,
        tool="roofscope 0.1.0",
        request_key="c" * 16,
        model=Model(
            name="some-7b", architecture="llama", n_params=7_000_000_000, n_active=7_000_000_000,
            weight_bytes=3.94 * GB, weight_dtype="q4_k", file_type="Q4_K - Medium", sha256="d" * 12,
            random_weights=False,
        ),
        engine=Engine(name="llama_cpp", versions={"llama-cpp-python": "0.3.36"}, kernels="AVX2", device="cpu"),
        workload=Workload(
            strategy="autoregressive", params={}, options={}, threads=8, batch=1, prompt_tokens=64, new_tokens=32,
            random_prompt=True, greedy=True, seed=0, activation_dtype="fp32", kv_dtype="fp16",
        ),
        work=Work(bytes_per_forward=4.0 * GB, flops_per_forward=14e9, prompt_flops=900e9, tokens_per_forward=1.0),
        machine=Machine(
            cpu="A desktop", cores=8, memory_gib=32, cache_bytes=32e6, accelerator="", system="Linux", virtual=False
        ),
        roofs=Roofs(
            day="2026-11-20", threads=8, reads=((1e6, 400 * GB), (16e6, 200 * GB), (256e6, 40 * GB), (512e6, 39 * GB)),
            cache_bytes=16e6, flop_per_s={"fp32": 500e9, "int8": 1500e9},
        ),
        rounds=rounds(tok_per_s, 32),
        n_tokens=32,
        peak_memory_bytes=4.5 * GB,
        energy=None,
        text_sha256="e" * 16,
        warnings=(),
    )  # fmt: skip
    for name, value in changes.items():
        part, _, field = name.partition("__")
        changed = msgspec.structs.replace(getattr(row, part), **{field: value}) if field else value
        row = msgspec.structs.replace(row, **{part: changed})
    return identified(row)


def rounds(tok_per_s: float, n: int, ttft_s: float = 2.0) -> tuple[Round, ...]:
    """Three rounds of one sequence."""
    each = [1 / (tok_per_s * share) for share in (0.98, 1.0, 1.02)]
    return tuple(Round(ttft_s=ttft_s, tpot_s=tpot, seconds=ttft_s + tpot * (n - 1)) for tpot in each)
