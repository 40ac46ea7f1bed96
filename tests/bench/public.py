"""Public benchmarks from local files on the embedded model, and the harness's own Hugging Face model beside it.

    python -m tests.bench.public ../shared/data/public [--backend llama_cpp] [sst2=0] [gsm8k_cot=25]

task=documents, 0 for all. Each model has a process of its own. Ours reads the files by core.evals; the harness's own,
on the same weights in fp32, by the datasets library. Printed: both scores, the documents with equal values and with an
equal answer, and how far apart the log-likelihoods of equal choices are, ours rounded to two digits.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hardware.detect import machine
from tests.bench.alone import alone

TASKS = ("sst2=0", "gsm8k_cot=25")


def ours(data: str, task: str, limit: int, backend: str) -> dict[str, Any]:
    """id -> values and answer of the eval `harness` on the embedded model."""
    from core import plugins
    from core.worker.subject import ModelUnderTest
    from tests.bench.loops import open_embedded

    session, _ = open_embedded(backend, "fp32" if backend == "pytorch" else None, {})
    strategy = plugins.get("strategy", "autoregressive")
    plugin = plugins.get("eval", "harness")
    params = plugin.Params(tasks=task, data=data, limit=limit)
    items = plugin.measure(ModelUnderTest(session, None, strategy, strategy.Params()), params)
    return {item.id: {"values": item.values, "answer": item.output} for item in items if item.values}


def theirs(data: str, task: str, limit: int) -> dict[str, Any]:
    """The same of the harness itself."""
    from core import engine
    from core.models import artifacts, catalogue
    from tests.support.harness import judged

    engine.claim("pytorch")
    _, folder = artifacts.provide(catalogue.find(catalogue.EMBEDDED), ("hf",), lambda *_, **__: None)
    return judged(folder, task, data, limit)


def compared(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    assert one.keys() == other.keys(), "both judged the same documents"
    names = sorted({name for item in one.values() for name in item["values"]})
    means = [{name: sum(side[i]["values"][name] for i in side) / len(side) for name in names} for side in (one, other)]
    return {
        "documents": len(one),
        "ours": means[0],
        "harness": means[1],
        "equal_values": sum(one[i]["values"] == other[i]["values"] for i in one),
        "equal_answers": sum(one[i]["answer"] == other[i]["answer"] for i in one),
        "largest_difference_of_a_log_likelihood": max(
            (
                abs(float(line.rsplit(": ", 1)[1]) - value)
                for i in one
                for line, value in zip(one[i]["answer"].split("\n"), other[i]["likelihoods"], strict=False)
            ),
            default=None,
        ),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.public", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("data", help="the folder with sst2_dev.tsv and gsm8k_test.jsonl")
    parser.add_argument("tasks", nargs="*", default=TASKS, metavar="task=documents")
    parser.add_argument("--backend", default="pytorch", help="of our side")
    parser.add_argument("--side", choices=("ours", "harness"), help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    wanted = [(name, int(n or 0)) for name, _, n in (task.partition("=") for task in given.tasks)]
    data = str(Path(given.data).expanduser().resolve())
    if given.side:
        [(task, n)] = wanted
        found = ours(data, task, n, given.backend) if given.side == "ours" else theirs(data, task, n)
        print("\n" + json.dumps(found))
        return
    print(f"{time.strftime('%Y-%m-%d')}, {machine().cpu}; ours: {given.backend}", flush=True)
    for task, n in wanted:
        sides = []
        for side in ("ours", "harness"):
            started = time.perf_counter()
            sides.append(alone(__spec__.name, data, f"{task}={n}", "--backend", given.backend, "--side", side))
            print(f"{task}, {side}: {time.perf_counter() - started:.0f} s", flush=True)
        print(json.dumps({task: compared(*sides)}, indent=1), flush=True)


if __name__ == "__main__":
    main()
