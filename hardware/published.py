"""Published llama-bench measurements: what other people's machines really reached.

The first 58 rows come from llama.cpp's discussions and pull requests and from notebooks; the rows
after them were read from the notebooks and the table of the same benchmark collection (the `source`
column names each). This module reads and joins them; it knows nothing of models beyond the four measured.
"""

from __future__ import annotations

import csv
from functools import cache
from pathlib import Path
from typing import Literal

import msgspec

from hardware import catalogue
from hardware.device import Device

_CSV = Path(__file__).with_name("llama_bench_published.csv")
_N_FIRST = 58  # rows before those that were added

Use = Literal["both", "decode", "depth"]


class PublishedRun(msgspec.Struct, frozen=True, kw_only=True):
    """One model on one device with llama.cpp. None: not published, or not to be trusted.

    weight_bytes: read by a decode step (the file without the embedding table, of which a step reads one row).
    n_matrix_params: weights that every prompt token is multiplied with (without embedding table and head).
    n_past: mean context of the decode test. thread_share: threads over cores of a processor.
    launch_graphs: the build starts a GPU's kernels as one graph (2025), not one by one (2023, 2024).
    use: "depth" rows differ from another only in their context, and tell what reading the KV cache costs.
    """

    device: Device
    family: str
    backend: str
    build: str
    model: str
    quant: str
    n_layers: int
    n_matrix_params: float
    file_bytes: float
    weight_bytes: float
    kv_bytes_per_token: float
    heads_per_kv_head: int
    n_past: float
    decode_s: float
    prefill_tokens: int
    prefill_s: float | None
    thread_share: float
    prefill_thread_share: float
    launch_graphs: bool
    use: Use
    added: bool
    source: str


class _Model(msgspec.Struct, frozen=True):
    """From the model's config.json; a head is 128 wide in all of them."""

    n_layers: int
    d_model: int
    vocab: int
    n_heads: int
    n_kv_heads: int


_LLAMA_3_8B = _Model(32, 4096, 128256, 32, 8)
_MODELS = {
    "LLaMA 2 7B": _Model(32, 4096, 32000, 32, 32),
    "Llama 3 8B": _LLAMA_3_8B,
    "Llama 3.1 8B": _LLAMA_3_8B,
    "Llama 3 70B": _Model(80, 8192, 128256, 64, 8),
}
_EMBEDDING_BITS = {"F16": 16.0, "Q8_0": 8.5, "Q4_0": 4.5, "Q4_K_M": 4.5}  # of the embedding table
_CORES = {"Ryzen 9 7950X": 16}
_ADA, _AMPERE, _BLACKWELL = "NVIDIA Ada", "NVIDIA Ampere", "NVIDIA Blackwell"
_FAMILIES = {
    "V100": "NVIDIA Volta",
    "A100": _AMPERE,
    "A40": _AMPERE,
    "RTX A6000": _AMPERE,
    "RTX 30": _AMPERE,
    "RTX 40": _ADA,
    "RTX 6000 Ada": _ADA,
    "L40S": _ADA,
    "H100": "NVIDIA Hopper",
    "RTX 50": _BLACKWELL,
    "Apple M1": "Apple M1",
    "Apple M2": "Apple M2",
    "Apple M3": "Apple M3",
    "Apple M4": "Apple M4",
    "Radeon": "AMD RDNA",
    "Arc": "Intel Arc",
    "Ryzen": "AMD Zen",
}


@cache
def runs() -> tuple[PublishedRun, ...]:
    """Every usable row that names a device of the catalogue."""
    with _CSV.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return tuple(
        _run(row, added=i >= _N_FIRST)
        for i, row in enumerate(rows)
        if row["usable"] in ("yes", "tg-only", "depth") and row["device_key"]
    )


def _run(row: dict[str, str], added: bool) -> PublishedRun:
    device, model = catalogue.find(row["device_key"]), _MODELS[row["model"]]
    table = model.vocab * model.d_model
    file_bytes = float(row["size_gib"]) * 2**30
    use: Use = {"yes": "both", "tg-only": "decode", "depth": "depth"}[row["usable"]]  # type: ignore[assignment]
    prefill, prefill_tokens = float(row["pp_tps"] or 0), int(row["pp_test"].removeprefix("pp") or 0)
    cores, threads = _CORES.get(device.name), row["threads"].split(" pp / ")
    shares = [1.0, 1.0] if cores is None else [int(t.removesuffix(" tg")) / cores for t in threads]
    return PublishedRun(
        device=device,
        family=next(family for prefix, family in _FAMILIES.items() if device.name.startswith(prefix)),
        backend=row["backend"],
        build=row["build"],
        model=row["model"],
        quant=row["quant"],
        n_layers=model.n_layers,
        # head and embedding table are not shared in these models
        n_matrix_params=float(row["params_b"]) * 1e9 - 2 * table,
        file_bytes=file_bytes,
        weight_bytes=file_bytes - table * _EMBEDDING_BITS[row["quant"]] / 8,
        kv_bytes_per_token=2 * model.n_layers * model.n_kv_heads * 128 * 2,
        heads_per_kv_head=model.n_heads // model.n_kv_heads,
        n_past=int(row["tg_test"].removeprefix("tg")) / 2,
        decode_s=1 / float(row["tg_tps"]),
        prefill_tokens=prefill_tokens,
        prefill_s=prefill_tokens / prefill if use == "both" else None,
        thread_share=shares[1],
        prefill_thread_share=shares[0],
        # The discussions numbered 10879, 15013 and 15021 collect builds from 2025 on.
        launch_graphs=row["source"].rsplit("/", 1)[-1] in ("10879", "15013", "15021"),
        use=use,
        added=added,
        source=row["source"],
    )
