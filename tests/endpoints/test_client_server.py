"""Two accounts of one answer, side by side."""

from __future__ import annotations

import pytest

from core.endpoints.client_server import memory_rows, rows
from core.types import Account, ServerMemory


def test_ours_beside_the_servers() -> None:
    account = Account(
        t_s=0.0,
        connect_s=0.01,
        ttft_s=0.5,
        answer_s=0.9,
        tpot_s=0.1,
        e2e_s=1.4,
        gaps_s=(0.1, 0.3, 0.2),
        single=True,
        n_chunks=4,
        n_tokens=5,
        counted_by="ids",
        n_prompt=20,
        cached=0,
        server={"prompt_s": 0.4, "predicted_s": 0.36, "predicted_n": 5.0, "total_s": 1.3},
    )
    found = {row.what: (row.ours, row.server) for row in rows(account)}
    assert found["Time to first token"] == (0.5, None) and found["Reading the prompt"] == (None, 0.4)
    assert found["Time per token"] == (0.1, pytest.approx(0.09)), "four tokens behind the first"
    assert found["Inter-token latency"] == (0.2, None) and found["End to end"] == (1.4, 1.3)
    assert found["of these not read again"] == (None, 0), "none is a number, unknown is not"
    assert not {"Time to the answer itself", "Loading the model", "Drafted tokens"} & set(found)


def test_pieces_of_several_tokens_are_no_tokens() -> None:
    account = Account(
        t_s=0.0, gaps_s=(0.1, 0.2), counted_by="chunks", n_tokens=9, n_chunks=3, reasoning="hm", answer_s=1.0
    )
    found = {row.what: row for row in rows(account)}
    assert "several tokens" in found["Inter-chunk latency"].note and "Inter-token latency" not in found
    assert found["Time to the answer itself"].ours == 1.0
    nobody = Account(t_s=0.0, n_chunks=3, n_tokens=None)
    assert [row.what for row in rows(nobody)] == ["Pieces of text"]


def test_memory_as_the_server_says() -> None:
    found = memory_rows(ServerMemory(source="/api/ps", total_bytes=5, device_bytes=4, n_context=4096))
    assert [(row.what, row.server) for row in found] == [
        ("In all", 5),
        ("on an accelerator", 4),
        ("Context of a request", 4096),
    ]
    assert memory_rows(ServerMemory(source="/slots")) == ()
