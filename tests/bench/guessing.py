"""How well v(n) foretells what guessing brings: speed-ups of decoding with forwards of several tokens, predicted and
measured, on the embedded model in every engine.

No trained model is needed: the answer is given, and of each guess a fixed share is right, so that a forward of a window
yields several tokens, as with a consistency model; whatever the engine answers, as much is kept as was right. So the
tokens per forward are known and equal in every engine, and only the cost of the forwards is put to the test. Decoding
with forwards of one token and with windows goes in interleaved rounds in one process; v(n) is looked at before and
after them.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from core import plugins
from core.analysis.decoding import predicted_speedup
from core.decoding._verify import accept
from core.stats.intervals import paired_ratio
from core.types import ForwardCost, Ids, Sampling, Scalar, Session
from tests.bench.alone import alone
from tests.bench.loops import open_embedded

CONFIGURATIONS: tuple[tuple[str, str, dict[str, Scalar]], ...] = (
    ("llama_cpp", "", {}),
    ("onnxruntime", "", {}),
    ("pytorch", "fp32", {}),
    ("pytorch", "bf16", {}),
    ("pytorch", "bf16", {"fused": False}),
    ("pytorch", "q4_1", {}),
)
WINDOWS, ANSWERS, ROUNDS, PROMPT = (4, 8, 16), (32, 96), 6, 64
RIGHT = 0.8  # of the guesses
LOOKS = 2


class Decoded(NamedTuple):
    """Of one answer, after its first token. fed: tokens that went into the forwards."""

    seconds: float
    tokens: int
    forwards: int
    fed: int


def run() -> list[dict[str, Any]]:
    """One row per engine, length of the answer and window."""
    rows: list[dict[str, Any]] = []
    print(f"{'backend':<12} {'dtype':<5} {'tokens':>6} {'n':>3} {'per forward':>11} {'predicted':>9}  measured")
    for backend, dtype, options in CONFIGURATIONS:
        rows += alone("tests.bench.guessing", backend, dtype, json.dumps(options))
    return rows


def measure(backend: str, dtype: str, options: dict[str, Scalar]) -> list[dict[str, Any]]:
    session, _ = open_embedded(backend, dtype or None, options)
    text = np.random.default_rng(0).integers(300, 40_000, (1, PROMPT + max(ANSWERS)))
    rows = []
    for length in ANSWERS:
        prompt, answer = text[:, :PROMPT], text[0, PROMPT : PROMPT + length].tolist()
        decoded: dict[int, list[Decoded]] = {n: [] for n in (1, *WINDOWS)}
        looks = []
        for number in range(-1, ROUNDS):
            if number in np.linspace(0, ROUNDS - 1, LOOKS, dtype=int):
                looks.append(_look(session))
            for n in sorted(decoded, reverse=number % 2 == 0):
                found = decode(session, prompt, answer, n)
                if number >= 0:
                    decoded[n].append(found)
        for n in WINDOWS:
            row = _row(decoded[1], decoded[n], looks)
            rows.append({"backend": backend, "dtype": dtype, **options, "tokens": length, "window": n, **row})
            figures = f"{row['tokens_per_forward']:>11.2f} {row['predicted']:>9.2f}  {row['measured']}"
            print(f"{backend:<12} {dtype:<5} {length:>6} {n:>3} {figures}: {row['error']:+.1%}", flush=True)
    session.close()
    return rows


def decode(session: Session, prompt: Ids, answer: Sequence[int], window: int) -> Decoded:
    """The answer in forwards of up to `window` tokens, over a cache that holds nothing but the prompt."""
    session.reset()
    session.forward(prompt, keep=1).argmax()
    session.commit(prompt.shape[1])
    session.sync()
    steps, rng = _guesses(answer, window), np.random.default_rng(0)
    began = time.perf_counter()
    for ids, kept in steps:
        accept(session.forward(ids), ids[0, 1:].tolist(), Sampling(), rng)
        session.commit(kept)
        session.sync()
    return Decoded(time.perf_counter() - began, len(answer) - 1, len(steps), sum(ids.shape[1] for ids, _ in steps))


def _guesses(answer: Sequence[int], window: int) -> list[tuple[Ids, int]]:
    """Of every forward what is fed and how much of it is right. A wrong guess is a token that the answer lacks."""
    rng, at, found = np.random.default_rng(window), 0, []
    while at < len(answer) - 1:
        true = answer[at + 1 : min(at + window, len(answer) - 1)]
        right = rng.random(len(true)) < RIGHT
        guess = np.where(right, true, 299)
        kept = 1 + (len(true) if right.all() else int(right.argmin()))
        found.append((np.array([[answer[at], *guess]], dtype=np.int64), kept))
        at += kept
    return found


def _look(session: Session) -> ForwardCost:
    profiler = plugins.get("profiler", "forward_cost")
    attachment = profiler.attach(session, 0)
    attachment.close()
    return next(event for event in attachment.events() if isinstance(event, ForwardCost))


def _row(one: Sequence[Decoded], several: Sequence[Decoded], looks: Sequence[ForwardCost]) -> dict[str, Any]:
    d = several[0]
    ratio = paired_ratio([a.tokens / a.seconds for a in several], [b.tokens / b.seconds for b in one])
    per_forward, fed = d.tokens / d.forwards, d.fed / d.forwards
    found = [p for look in looks if (p := predicted_speedup(per_forward, fed, look)) is not None]
    predicted = float(np.median(found))
    return {
        "tokens_per_forward": per_forward,
        "fed": fed,
        "predicted": predicted,
        "measured": str(ratio),
        "error": predicted / ratio.value - 1,
    }


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], sys.argv[2], json.loads(sys.argv[3]))))
