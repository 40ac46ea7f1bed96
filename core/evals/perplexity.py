"""How surprised a model is by running text: perplexity, bits per byte and perplexity per word.

Perplexity is per token, so it compares models of one tokenizer only; bits per byte and per word compare all.
The value depends on context and stride (GPT-2 large on WikiText-2: 19.44 without overlap, 16.44 with half a window
of it; Hugging Face, "Perplexity of fixed-length models"), so both are settings, stored with the result.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Annotated

import numpy as np
from msgspec import Meta

from core.evals._fingerprint import fingerprint
from core.evals._texts import Document, Window, count, documents, windows, within
from core.types import Eval, Item, Metric, Record, Session, Subject, Words, likely
from hardware.errors import ExplorerError

METRICS = (
    Metric(name="perplexity", label="Perplexity", value="nll", over="tokens", kind="exp", better="lower"),
    Metric(name="bits_per_byte", label="Bits per byte", value="bits", over="bytes", better="lower", unit="bit/B"),
    Metric(name="word_perplexity", label="Perplexity per word", value="nll", over="words", kind="exp", better="lower"),
)


class Settings(Record, omit_defaults=False):
    """What text is read, and how.

    n: texts of the set to read; 0 for all.
    context: tokens in a window; a longer text is read in several.
    stride: tokens from one window to the next, half a window by default; the smaller, the more context every token
    has, and the slower.
    bos: put the model's beginning-of-sequence token before every text, also where its tokenizer does not by
    itself; without it a text's first token is not scored.
    text: a .txt or .jsonl file to read instead of the set that ships with the app.
    """

    n: Annotated[int, Meta(ge=0, le=1_000_000)] = 0
    context: Annotated[int, Meta(ge=2, le=1_000_000)] = 512
    stride: Annotated[int, Meta(ge=1, le=1_000_000)] | None = None
    bos: bool = False
    text: Words = ""


class Perplexity:
    """Perplexity, bits per byte and perplexity per word of running text, in overlapping windows."""

    name = "perplexity"
    label = "Perplexity"
    needs = frozenset({"likelihood"})
    selects = frozenset({"n", "text"})
    Params = Settings

    def metrics(self, params: Settings) -> tuple[Metric, ...]:
        return METRICS

    def size(self, params: Settings) -> int | None:
        return count(params.text, params.n)

    def measure(self, subject: Subject, params: Settings) -> Iterator[Item]:
        """One item per document; a text of one document gives one per window, each a cluster of its own."""
        session = subject.session
        stride = params.stride or max(1, params.context // 2)
        if stride > params.context:
            raise ExplorerError("The stride is longer than the window.", "Lower stride, or raise context.")
        within(params.context, session)
        start = _start(session) if params.bos else list(session.opening)
        found = documents(params.text, params.n)
        for document in found:
            ids = session.encode(document.text)
            ids = ids if ids[: len(start)] == start else [*start, *ids]
            cut = list(windows(len(ids), params.context, stride))
            if not cut:
                raise ExplorerError(f"The text '{document.id}' is a single token.", "Give longer texts.")
            if len(found) > 1:
                made = fingerprint(document.text)
                yield _item(document, document.id, made, [_score(subject, ids, window) for window in cut])
            else:
                for number, window in enumerate(cut):
                    texts = [ids[window.begin : window.first], ids[window.first : window.end]]
                    made = fingerprint(*(session.decode(part) for part in texts))
                    yield _item(document, f"{document.id}:{number}", made, [_score(subject, ids, window)])


def _start(session: Session) -> list[int]:
    if not session.bos_token:
        raise ExplorerError("This model has no beginning-of-sequence token.", "Switch bos off.")
    return session.encode(session.bos_token)


def _score(subject: Subject, ids: Sequence[int], window: Window) -> dict[str, float]:
    """nll: nats. bytes and words: those that the scored tokens add to the text before them."""
    inside, wanted = ids[window.begin : window.end], np.array(ids[window.first : window.end])
    nll, done = 0.0, 0
    if (far := likely(subject.session)) is not None:
        values = far.likelihoods(inside)[0][window.first - window.begin - 1 :]
        nll, done = -math.fsum(values), len(values)
    for chunk in () if far is not None else subject.logprobs(subject.session, inside, window.first - window.begin):
        rows = np.arange(len(chunk))
        nll -= float(chunk[rows, wanted[done : done + len(chunk)]].sum(dtype=np.float64))
        done += len(chunk)
    assert done == len(wanted), f"{done} of {len(wanted)} tokens were scored"
    before, whole = subject.session.decode(ids[: window.first]), subject.session.decode(ids[: window.end])
    return {
        "nll": nll,
        "bits": nll / math.log(2),
        "tokens": float(done),
        "bytes": float(len(whole.encode()) - len(before.encode())),
        "words": float(len(whole.split()) - len(before.split())),
    }


def _item(document: Document, name: str, asked: str, parts: Sequence[dict[str, float]]) -> Item:
    values = {key: math.fsum(part[key] for part in parts) for key in parts[0]}
    return Item(t_s=0.0, id=name, cluster=name, values=values, prompt=document.text[:200], fingerprint=asked)


plugin: Eval = Perplexity()
