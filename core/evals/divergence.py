"""How far a model's predictions are from a reference model's, token by token over the same text.

The mean Kullback-Leibler divergence KL(reference || model) in nats, how often both prefer the same token, and what
happened to the probability of the token that really follows: the figures of llama.cpp's `--kl-divergence`, but with
both models at work at once, so that no logits are stored or rounded. Paired by token, it sees changes that accuracy
cannot; near the reference it does not rank quality (arXiv 2606.19558), so it is a detector, not a verdict.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from core.evals._fingerprint import fingerprint
from core.evals._texts import count, documents, windows, within
from core.types import Eval, Item, Metric, Record, Subject, Words, opened
from core.types.sketch import sketch
from hardware.errors import ExplorerError

LOWEST = -1e4  # log probability of a token that a library masks out with minus infinity
METRICS = (
    Metric(name="kl", label="KL divergence", value="kl", over="tokens", better="lower", unit="nat/token"),
    Metric(name="kl_p99", label="KL divergence, 99th percentile", value="kl", kind="p99", better="lower", unit="nat"),
    Metric(name="agreement", label="Same most likely token", value="agree", over="tokens", most=1.0),
    Metric(name="ln_ratio", label="ln perplexity ratio", value="ln_ratio", over="tokens", better="lower"),
    Metric(
        name="rms_dp",
        label="RMS change of the true token's probability",
        value="dp2",
        over="tokens",
        kind="root",
        better="lower",
    ),
)


class Settings(Record, omit_defaults=False):
    """What the model is compared with, over which text.

    reference: the model to compare with; empty: the one that this model was made from.
    reference_backend: the library that runs the reference; empty: the same.
    n: texts of the set to read; 0 for all.
    context: tokens in a window; a longer text is read in windows that overlap by half.
    text: a .txt or .jsonl file to read instead of the set that ships with the app.
    """

    reference: Words = ""
    reference_backend: Words = ""
    n: Annotated[int, Meta(ge=0, le=1_000_000)] = 0
    context: Annotated[int, Meta(ge=2, le=1_000_000)] = 512
    text: Words = ""


class Divergence:
    """KL divergence and agreement with another model's predictions, token by token over the same text."""

    name = "divergence"
    label = "Divergence from a reference"
    needs = frozenset({"forward", "cache"})
    selects = frozenset({"n", "text"})
    Params = Settings

    def metrics(self, params: Settings) -> tuple[Metric, ...]:
        return METRICS

    def size(self, params: Settings) -> int | None:
        return count(params.text, params.n)

    def measure(self, subject: Subject, params: Settings) -> Iterator[Item]:
        """One item per document; a text of one document gives one per window."""
        assert subject.reference is not None, "the framework opens the reference"
        within(params.context, subject.session)
        within(params.context, subject.reference)
        found = documents(params.text, params.n)
        for document in found:
            ids = opened(subject.session, document.text)
            if ids != opened(subject.reference, document.text):
                raise ExplorerError(
                    f"{subject.reference.spec.name} reads '{document.id}' as other tokens than "
                    f"{subject.session.spec.name}, so their predictions cannot be compared.",
                    "Choose a reference of the same family.",
                )
            cut = list(windows(len(ids), params.context, max(1, params.context // 2)))
            if not cut:
                raise ExplorerError(f"The text '{document.id}' is a single token.", "Give longer texts.")
            parts = [_tokens(subject, ids[w.begin : w.end], w.first - w.begin) for w in cut]
            whole = len(found) > 1
            names = [document.id] if whole else [f"{document.id}:{number}" for number in range(len(parts))]
            together = [np.concatenate(parts)] if whole else parts
            read = [ids] if whole else [[w.first - w.begin, *ids[w.begin : w.end]] for w in cut]
            for name, rows, tokens in zip(names, together, read, strict=True):
                yield Item(
                    t_s=0.0,
                    id=name,
                    cluster=name,
                    values=_values(rows),
                    prompt=document.text[:200],
                    sketches={"kl": sketch(rows[:, 0])},
                    fingerprint=fingerprint(subject.reference.spec.name, tokens),
                )


def _tokens(subject: Subject, ids: Sequence[int], first: int) -> NDArray[np.float64]:
    """What `compare` says of every token of ids[first:], shape (n, 4)."""
    assert subject.reference is not None
    ours = _rows(subject.logprobs(subject.session, ids, first))
    theirs = _rows(subject.logprobs(subject.reference, ids, first))
    return np.array([compare(p, q, token) for p, q, token in zip(theirs, ours, ids[first:], strict=True)])


def compare(
    reference: NDArray[np.float32], model: NDArray[np.float32], token: int
) -> tuple[float, float, float, float]:
    """KL(reference || model), whether both prefer the same id, and both log probabilities of the token that follows.

    Both are log probabilities over the ids, shape (vocab,). A vocabulary may be padded: of two sizes the common ids
    count, renormalised. In float32 neither sums to one exactly; the difference of the sums makes up for it, so that no
    divergence is below 0.
    """
    n = min(len(reference), len(model))
    p, q = (np.maximum(row[:n].astype(np.float64), LOWEST) for row in (reference, model))
    if len(reference) != len(model):
        p, q = p - np.logaddexp.reduce(p), q - np.logaddexp.reduce(q)
    likely = np.exp(p)
    kl = max(0.0, float(np.dot(likely, p - q) + (np.exp(q).sum() - likely.sum())))
    return kl, float(p.argmax() == q.argmax()), float(p[token]), float(q[token])


def _rows(chunks: Iterable[NDArray[np.float32]]) -> Iterator[NDArray[np.float32]]:
    for chunk in chunks:
        yield from chunk


def _values(tokens: NDArray[np.float64]) -> dict[str, float]:
    kl, agree, theirs, ours = tokens.T
    return {
        "kl": math.fsum(kl),
        "kl_max": float(kl.max()),
        "agree": float(agree.sum()),
        "ln_ratio": math.fsum(theirs - ours),
        "nll": -math.fsum(ours),
        "dp2": math.fsum((np.exp(ours) - np.exp(theirs)) ** 2),
        "tokens": float(len(tokens)),
    }


plugin: Eval = Divergence()
