"""How far shapes cut from a model are from it, tried by masking in one process: a program of its own.

    python -m core.transforms._cut_scores ASKED.json

ASKED.json names a folder with the model, texts, how many of their tokens are read, and shapes. Printed are lines of
JSON: {"influence": [...]} of every block, then {"key", "kl", "tokens", "seconds"} of every shape as it is known: the
mean KL(model || shape) in nats per token; or {"message", "hint"} when nothing can be said.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from core import engine
from core.models import spec as specs
from core.tokenizers.library import library_tokenizer
from core.transforms import _cutting
from core.transforms import _torch_model as torch_model
from core.transforms._cutting import Cutting, left
from core.transforms._widths import shape_of
from core.types import ModelEntry, Record, Source
from hardware.errors import ExplorerError

WINDOW = 256  # tokens of a text at most


class Ask(Record):
    """One shape. dropped: blocks to pass over, or how many of least influence."""

    key: str
    dropped: tuple[int, ...] | int = 0
    widths: Cutting = Cutting()


class Asked(Record):
    """What the program is asked. path: the model's folder in Hugging Face's layout."""

    path: str
    label: str
    texts: tuple[str, ...]
    tokens: int
    threads: int
    asks: tuple[Ask, ...]


class Alone:
    """core.types.Job of a program that keeps nothing and is stopped by ending it."""

    seed = 0

    def __init__(self, folder: Path, threads: int) -> None:
        self.folder, self.threads = folder, threads

    def progress(self, note: str, done: float | None = None, total: float | None = None, unit: str = "") -> None:
        """Nobody looks."""

    def curve(self, step: int, total: int, **values: float) -> None:
        """Nobody looks."""

    def warn(self, message: str) -> None:
        """Nobody reads it."""

    def check(self) -> None:
        """It is stopped from outside."""

    def open(self, model: str, formats: tuple[str, ...]) -> Source:
        raise AssertionError("it opens one model")


def scores(asked: Asked, tell: Callable[[dict[str, Any]], None]) -> None:
    """Say what is known as it becomes known."""
    import torch

    engine.claim("pytorch")
    entry = ModelEntry(id=asked.label, label=asked.label, family="local", files={"hf": asked.path})
    source = Source(entry=entry, format="hf", path=asked.path, spec=specs.read(asked.path, "hf"))
    job = Alone(Path(asked.path), asked.threads)
    model = torch_model.load(source, job)
    found = _cutting.importance(model, source, job)
    tell({"influence": found.influence})
    batches = [torch.tensor([ids]) for ids in _read(asked)]
    before = shape_of(source.spec)
    with torch.inference_mode():
        wanted = [torch.log_softmax(model(ids, use_cache=False).logits[0].float(), -1) for ids in batches]
        for ask in asked.asks:
            began = time.perf_counter()
            dropped = found.least(ask.dropped) if isinstance(ask.dropped, int) else ask.dropped
            with _cutting.masked(model, source, found, dropped, left(before, ask.widths)):
                pairs = zip(batches, wanted, strict=True)
                total = sum(_divergence(model(ids, use_cache=False).logits[0], p) for ids, p in pairs)
            n = sum(ids.shape[1] for ids in batches)
            tell({"key": ask.key, "kl": total / n, "tokens": n, "seconds": time.perf_counter() - began})


def _divergence(logits: Any, reference: Any) -> float:
    """The sum over tokens of KL(reference || logits), in nats. reference: log probabilities, (tokens, vocab)."""
    import torch

    found = torch.log_softmax(logits.float(), -1)
    return float(torch.nn.functional.kl_div(found, reference, reduction="sum", log_target=True))


def _read(asked: Asked) -> list[list[int]]:
    """The beginnings of the texts as ids, until there are enough tokens."""
    tokenizer = library_tokenizer(Path(asked.path))
    spec = specs.read(asked.path, "hf")
    length = min(WINDOW, spec.max_context or WINDOW)
    found: list[list[int]] = []
    left_over = asked.tokens
    for text in asked.texts:
        ids = [i for i in tokenizer.encode(text, add_special_tokens=False) if i < spec.vocab_size]
        if part := ids[: min(length, left_over)]:
            found.append(part)
            left_over -= len(part)
    if not found:
        raise ExplorerError("There is no text on which shapes could be compared.", "Give a longer one.")
    return found


def main() -> None:
    asked = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Asked)

    def tell(message: dict[str, Any]) -> None:
        print(json.dumps(message), flush=True)

    try:
        scores(asked, tell)
    except ExplorerError as error:
        tell({"message": error.message, "hint": error.hint})
        sys.exit(1)


if __name__ == "__main__":
    main()
