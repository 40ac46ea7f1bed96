"""Public benchmarks from local files on the embedded model, and the harness's own Hugging Face model beside it.

    python -m tests.bench.public ../shared/data/public [--backend pytorch] [sst2=0] [gsm8k_cot=0] [--minutes M]

task=documents, 0 for all. Documents are judged in pieces, each by both sides, each side in a process of its own: ours
reads the files by core.evals, the harness's own, on the same weights in fp32, by the datasets library. What a piece
gave is kept in a folder, from which the same command goes on after a stop; with --minutes no piece is begun later.
Printed, and with --record kept with the project: both scores, the documents with equal values and with an equal
answer, and how far apart the log-likelihoods of equal choices are, ours rounded to two digits.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from core.paths import cache_dir
from hardware.detect import machine
from tests.bench.alone import alone
from tests.bench.recording import record

TASKS = ("sst2=0", "gsm8k_cot=0")
FILES = {"sst2": ("sst2_dev.tsv", 218), "gsm8k_cot": ("gsm8k_test.jsonl", 10)}  # a document a line; lines of a piece
SIDES = ("ours", "harness")


def ours(data: str, task: str, backend: str) -> dict[str, Any]:
    """id -> values and answer of the eval `harness` on the embedded model."""
    from core import plugins
    from core.worker.subject import ModelUnderTest
    from tests.bench.loops import open_embedded

    session, _ = open_embedded(backend, "fp32" if backend == "pytorch" else None, {})
    strategy = plugins.get("strategy", "autoregressive")
    plugin = plugins.get("eval", "harness")
    params = plugin.Params(tasks=task, data=data, limit=0)
    items = plugin.measure(ModelUnderTest(session, None, strategy, strategy.Params()), params)
    return {item.id: {"values": item.values, "answer": item.output} for item in items if item.values}


def theirs(data: str, task: str) -> dict[str, Any]:
    """The same of the harness itself."""
    from core import engine
    from core.models import artifacts, catalogue
    from tests.support.harness import judged

    engine.claim("pytorch")
    _, folder = artifacts.provide(catalogue.find(catalogue.EMBEDDED), ("hf",), lambda *_, **__: None)
    return judged(folder, task, data)


def pieces(data: Path, task: str) -> Iterator[list[bytes]]:
    """The lines of a task's file, a document each, piece by piece."""
    name, size = FILES[task]
    lines = (data / name).read_bytes().splitlines(keepends=True)
    return (lines[first : first + size] for first in range(0, len(lines), size))


def judged_piece(kept: Path, task: str, lines: Sequence[bytes], side: str, backend: str) -> dict[str, Any]:
    """{"seconds": with loading, "items": of every document} of a piece, from the file or made now."""
    if kept.is_file():
        return dict(json.loads(kept.read_bytes()))
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / FILES[task][0]).write_bytes(b"".join(lines))
        items = alone(__spec__.name, folder, task, "--backend", backend, "--side", side)
    found = {"seconds": time.perf_counter() - started, "items": items}
    part = kept.with_suffix(".part")
    part.write_text(json.dumps(found), encoding="utf-8")
    part.replace(kept)
    return found


def both_sides(given: argparse.Namespace, task: str, n: int, until: float) -> list[dict[str, Any]]:
    """What ours and the harness made of the first n documents, 0 for all, or of those that there was time for: seconds,
    and id -> values and answer."""
    sides: dict[str, dict[str, Any]] = {side: {"seconds": 0.0, "items": {}} for side in SIDES}
    first = 0
    for lines in pieces(given.data, task):
        lines = lines[: n - first] if n else lines
        if not lines or time.monotonic() > until:
            break
        for side, whole in sides.items():
            name = f"{task}-{first}-{len(lines)}-{given.backend if side == 'ours' else side}.json"
            made = judged_piece(given.kept / name, task, lines, side, given.backend)
            whole["seconds"] += made["seconds"]
            for i, item in made["items"].items():
                whole["items"][f"{task}/{first + int(i.removeprefix(f'{task}/'))}"] = item
        first += len(lines)
        took = ", ".join(f"{side} {whole['seconds']:.0f} s" for side, whole in sides.items())
        print(f"{task}: {first} documents, {took}; load {os.getloadavg()[0]:.1f}", flush=True)
    return list(sides.values())


def compared(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Scores of both sides by metric, and on how many documents they agree. Each: id -> values, answer, likelihoods."""
    assert one.keys() == other.keys(), "both judged the same documents"
    names = sorted({name for item in one.values() for name in item["values"]})
    means = [{name: sum(side[i]["values"][name] for i in side) / len(side) for name in names} for side in (one, other)]
    apart = [
        abs(float(line.rsplit(": ", 1)[1]) - value)
        for i in one
        for line, value in zip(one[i]["answer"].split("\n"), other[i]["likelihoods"], strict=False)
    ]
    return {
        "documents": len(one),
        "ours": means[0],
        "harness": means[1],
        "equal_values": sum(one[i]["values"] == other[i]["values"] for i in one),
        "equal_answers": sum(one[i]["answer"] == other[i]["answer"] for i in one),
        "largest_difference_of_a_log_likelihood": max(apart, default=None),
    }


def rows(result: Mapping[str, Any], of: int, backend: str) -> list[dict[str, Any]]:
    """One row a metric, as they are recorded. of: the documents of the whole file."""
    return [
        {
            "metric": metric,
            "backend": backend,
            "documents": f"{result['documents']} of {of}",
            "ours": round(result["ours"][metric], 4),
            "harness": round(result["harness"][metric], 4),
            "equal scores": result["equal_values"],
            "equal answers": result["equal_answers"],
            "log-likelihoods apart": result["largest_difference_of_a_log_likelihood"],
        }
        for metric in result["ours"]
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.public", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("data", type=Path, help="the folder with sst2_dev.tsv and gsm8k_test.jsonl")
    parser.add_argument("tasks", nargs="*", default=TASKS, metavar="task=documents")
    parser.add_argument("--backend", default="pytorch", help="of our side")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no piece later than this")
    parser.add_argument("--kept", type=Path, default=cache_dir() / "public", help="where finished pieces are kept")
    parser.add_argument("--record", action="store_true", help="keep the results with the project, dated")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.side:
        data, task = str(given.data), given.tasks[0]
        print("\n" + json.dumps(ours(data, task, given.backend) if given.side == "ours" else theirs(data, task)))
        return
    until = time.monotonic() + 60 * given.minutes
    given.kept.mkdir(parents=True, exist_ok=True)
    print(f"{time.strftime('%Y-%m-%d')}, {machine().cpu}; ours: {given.backend}", flush=True)
    for task, _, n in (word.partition("=") for word in given.tasks):
        one, other = both_sides(given, task, int(n or 0), until)
        if one["items"]:
            result = compared(one["items"], other["items"])
            print(json.dumps({task: result}, indent=1), flush=True)
        if one["items"] and given.record:
            of = sum(map(len, pieces(given.data, task)))
            new = rows(result, of, given.backend)
            command = f"python -m tests.bench.public ../shared/data/public {' '.join(TASKS)} --minutes 60 --record"
            record("public", new, command, known_by=("metric", "backend"))


if __name__ == "__main__":
    main()
