"""What the chunks of one answer tell: the field's latencies, and how many tokens there were and who counted them.

Arithmetic over recorded chunks; knows no connection. Definitions: TTFT from sending to the first text of any channel;
TPOT over the tokens behind the first chunk; inter-chunk latency is the gap between chunks with text, and is
inter-token latency only where every chunk held one token; E2E ends with the last text.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

from core.endpoints.chunks import Chunk, Timings, Usage
from core.types import Record

CountedBy = Literal["chunks", "ids", "usage", "tokenizer"]


class Measured(Record, omit_defaults=False):
    """One answer. Times in seconds; None where the answer cannot tell.

    ttft_s: to the first text of any channel; answer_s: to the first text of the answer itself, behind reasoning.
    icl_s: gaps between chunks; itl_s: the same where every chunk was one token, else None. counted_by: exact counts
    per chunk, token ids, the final usage, or a tokenizer of ours. first_tokens: of the first chunk; assumed to be one,
    and so None, where only the total is known. cached: prompt tokens that the server did not read again.
    """

    ttft_s: float | None
    answer_s: float | None
    tpot_s: float | None
    icl_s: tuple[float, ...]
    itl_s: tuple[float, ...] | None
    e2e_s: float | None
    n_tokens: int | None
    counted_by: CountedBy | None
    first_tokens: int | None
    n_chunks: int
    n_prompt: int | None
    cached: int | None
    finish_reason: str | None
    text: str
    reasoning: str
    usage: Usage | None
    server: Timings | None
    connect_s: float | None = None


def measured(
    chunks: Sequence[Chunk], sent_s: float, *, own_count: int | None = None, connect_s: float | None = None
) -> Measured:
    """The latencies of an answer that was asked for at `sent_s`. own_count: tokens of its text by our tokenizer."""
    texts = [chunk for chunk in chunks if chunk.text]
    usage = next((c.usage for c in reversed(chunks) if c.usage is not None), None)
    server = next((c.timings for c in reversed(chunks) if c.timings is not None), None)
    n_tokens, counted_by = _count(chunks, usage, server, own_count)
    per_chunk = counted_by in ("chunks", "ids")
    first = _until(chunks, texts[0]) if texts and per_chunk else None
    last = _until(chunks, texts[-1]) if texts and per_chunk else n_tokens
    gaps = tuple(b.at_s - a.at_s for a, b in pairwise(texts))
    tpot_s = None
    if last is not None and len(texts) > 1 and last - (first or 1) > 0:
        tpot_s = (texts[-1].at_s - texts[0].at_s) / (last - (first or 1))
    single = per_chunk and all(_tokens(chunk) == 1 for chunk in texts) and last == len(texts)
    answer = [chunk for chunk in texts if chunk.channel != "reasoning"]
    return Measured(
        ttft_s=texts[0].at_s - sent_s if texts else None,
        answer_s=answer[0].at_s - sent_s if answer else None,
        tpot_s=tpot_s,
        icl_s=gaps,
        itl_s=gaps if single else None,
        e2e_s=texts[-1].at_s - sent_s if texts else None,
        n_tokens=n_tokens,
        counted_by=counted_by,
        first_tokens=first,
        n_chunks=len(texts),
        n_prompt=_prompt(usage, server),
        cached=_cached(usage, server),
        finish_reason=next((c.finish_reason for c in reversed(chunks) if c.finish_reason), None),
        text="".join(c.text for c in texts if c.channel != "reasoning"),
        reasoning="".join(c.text for c in texts if c.channel == "reasoning"),
        usage=usage,
        server=server,
        connect_s=connect_s,
    )


def _tokens(chunk: Chunk) -> int | None:
    return chunk.tokens if chunk.tokens is not None else None if chunk.ids is None else len(chunk.ids)


def _count(
    chunks: Sequence[Chunk], usage: Usage | None, server: Timings | None, own: int | None
) -> tuple[int | None, CountedBy | None]:
    """Tokens of the answer and who counted them, the best source first. A source must know every chunk with text."""
    texts = [chunk for chunk in chunks if chunk.text]
    if texts and all(_tokens(chunk) is not None for chunk in texts):
        exact = sum(_tokens(chunk) or 0 for chunk in chunks)
        by: CountedBy = "ids" if all(chunk.ids is not None for chunk in texts) else "chunks"
        return exact, by
    if usage is not None and usage.completion is not None:
        return usage.completion, "usage"
    if server is not None and server.predicted_n is not None:
        return server.predicted_n, "usage"
    return (None, None) if own is None else (own, "tokenizer")


def _until(chunks: Sequence[Chunk], last: Chunk) -> int:
    """Tokens up to a chunk and with it: those of half a character before it are in its text."""
    n = 0
    for chunk in chunks:
        n += _tokens(chunk) or 0
        if chunk is last:
            break
    return n


def _prompt(usage: Usage | None, server: Timings | None) -> int | None:
    if usage is not None and usage.prompt is not None:
        return usage.prompt
    if server is None or server.prompt_n is None:
        return None
    return server.prompt_n + (server.cached_n or 0)


def _cached(usage: Usage | None, server: Timings | None) -> int | None:
    if server is not None and server.cached_n is not None:
        return server.cached_n
    return None if usage is None else usage.cached
