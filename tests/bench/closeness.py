"""How far weights of few bits take the embedded model from its plain self, in the fused step and in llama.cpp at the
same bits: KL divergence token by token over the same texts, by the eval `divergence`."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from tests.bench.command import core
from tests.bench.step import GROUPED, quantized

MODEL, TEXTS = "smollm2-135m", 20


def run() -> list[dict[str, Any]]:
    rows = []
    for kind in GROUPED:
        with tempfile.TemporaryDirectory() as folder:
            file = quantized(kind, Path(folder))
            for backend, told in (
                ("pytorch", ["--model", MODEL, "--dtype", kind]),
                ("llama_cpp", ["--model", file, "--param", f"reference={MODEL}"]),
            ):
                told += ["--backend", backend, "--param", "reference_backend=pytorch", "--param", f"n={TEXTS}"]
                said = core(Path(folder) / "home", "eval", "divergence", "--json", *told)
                kl, _, same, *_ = json.loads(said)["scores"]
                row = {
                    "dtype": kind,
                    "backend": backend,
                    "kl_nat_per_token": f"{kl['value']:.5f} [{kl['low']:.5f}, {kl['high']:.5f}]",
                    "same_token": f"{same['value']:.4f} [{same['low']:.4f}, {same['high']:.4f}]",
                }
                rows.append(row)
                print(*row.values(), flush=True)
    return rows
