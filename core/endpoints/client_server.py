"""What a client measured of an answer beside what the server says of the same, as rows. Arithmetic over one Account.

Two accounts of one thing differ by what each cannot see: ours holds the network and the queue, the server's neither.
"""

from __future__ import annotations

import statistics
from typing import Literal

from core.types import Account, Record, ServerMemory

COUNTED = {
    "chunks": "counted by the server, piece by piece",
    "ids": "counted by the server's token ids",
    "usage": "counted by the server, at the end",
    "tokenizer": "counted by our tokenizer",
}


class Row(Record, omit_defaults=False):
    """One quantity. ours: measured at the client. server: as it says. None: not told."""

    what: str
    unit: Literal["s", "tokens", "bytes", "share", ""]
    ours: float | None = None
    server: float | None = None
    note: str = ""


def rows(account: Account) -> tuple[Row, ...]:
    """Times and tokens of an answer; rows of which nobody knows anything are left out."""
    told = account.server
    gap = statistics.median(account.gaps_s) if account.gaps_s else None
    counted = COUNTED.get(account.counted_by or "", "not counted: pieces of text stand for tokens")
    many = account.counted_by in ("chunks", "ids") and not account.single
    thought = account.answer_s if account.reasoning else None
    found = (
        Row(what="Connecting", unit="s", ours=account.connect_s, note="before the request, no part of TTFT"),
        Row(what="Waiting for a slot", unit="s", server=told.get("queue_s")),
        Row(what="Loading the model", unit="s", server=told.get("load_s"), note="within TTFT"),
        Row(what="Reading the prompt", unit="s", server=told.get("prompt_s")),
        Row(what="Time to first token", unit="s", ours=account.ttft_s, server=told.get("ttft_s")),
        Row(what="Time to the answer itself", unit="s", ours=thought, note="behind the reasoning"),
        Row(what="Time per token", unit="s", ours=account.tpot_s, server=_per_token_s(told)),
        Row(
            what="Inter-token latency" if account.single else "Inter-chunk latency",
            unit="s",
            ours=gap,
            note="median" + ("; a piece holds several tokens" if many else ""),
        ),
        Row(what="End to end", unit="s", ours=account.e2e_s, server=told.get("total_s")),
        Row(what="Tokens of the prompt", unit="tokens", server=account.n_prompt),
        Row(what="of these not read again", unit="tokens", server=account.cached),
        Row(what="Tokens of the answer", unit="tokens", server=account.n_tokens, note=counted),
        Row(what="Pieces of text", unit="", ours=account.n_chunks or None),
        Row(what="Drafted tokens", unit="tokens", server=told.get("drafted_n")),
        Row(what="of these accepted", unit="tokens", server=told.get("accepted_n")),
    )
    return tuple(row for row in found if row.ours is not None or row.server is not None)


def memory_rows(memory: ServerMemory) -> tuple[Row, ...]:
    """The server's memory, as it says."""
    found = (
        Row(what="In all", unit="bytes", server=memory.total_bytes),
        Row(what="on an accelerator", unit="bytes", server=memory.device_bytes),
        Row(what="Weights", unit="bytes", server=memory.weights_bytes),
        Row(what="KV cache", unit="bytes", server=memory.kv_bytes),
        Row(what="KV cache in use", unit="share", server=memory.kv_share),
        Row(what="Context of a request", unit="tokens", server=memory.n_context),
        Row(what="Requests at once", unit="", server=memory.slots),
    )
    return tuple(row for row in found if row.server is not None)


def _per_token_s(told: dict[str, float]) -> float | None:
    """llama.cpp's and Ollama's generation time covers the tokens behind the first one."""
    seconds, n = told.get("predicted_s"), told.get("predicted_n")
    return seconds / (n - 1) if seconds and n and n > 1 else None
