"""One stream of each server through the client: text, tokens and who counted them."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.endpoints import client
from core.endpoints.measured import measured
from tests.support.scripted_server import Answer, Piece, ScriptedServer

RECORDED = Path(__file__).parent / "recorded"
#            file               text                          reasoning      n  counted by   prompt cached
STREAMS = [
    ("llama_cpp.sse", "The capital is Paris.", "", 6, "usage", 37, 0, False),
    ("ollama.ndjson", "The capital is Paris.", "Hm, France", 11, "usage", 37, None, False),
    ("lm_studio.sse", "The capital is Paris.", "", 7, "usage", 37, None, False),
    ("lm_studio_v1.sse", "The capital is Paris.", "Hm", 10, "usage", 37, None, False),
    ("vllm.sse", "The capital is Paris.", "Hm, France", 9, "chunks", 37, 32, False),
    ("sglang.sse", "The capital is Paris.", "", 7, "chunks", 37, None, False),
    ("tgi.sse", "The capital is Paris.", "", 6, "usage", 37, None, False),
    ("openai.sse", "The capital is Paris.", "", 7, "usage", 37, 0, False),
]
STREAMS[0] = ("llama_cpp.sse", "The capital is Paris.", "", 5, "chunks", 37, 0, True)


@pytest.mark.parametrize(
    ("file", "text", "reasoning", "n", "by", "prompt", "cached", "single"), STREAMS, ids=[s[0] for s in STREAMS]
)
def test_a_stream_of_each_server(
    file: str, text: str, reasoning: str, n: int, by: str, prompt: int, cached: int | None, single: bool
) -> None:
    kind = "application/x-ndjson" if file.endswith("ndjson") else "text/event-stream"
    with ScriptedServer(Answer([Piece((RECORDED / file).read_bytes())], content_type=kind)) as server:
        chunks = list(client.stream(server.address(), {"stream": True}))
    got = measured(chunks, 0.0)
    assert (got.text, got.reasoning, got.finish_reason) == (text, reasoning, "stop")
    assert (got.n_tokens, got.counted_by, got.n_prompt, got.cached) == (n, by, prompt, cached)
    assert (got.itl_s is not None) is single


def test_what_the_servers_say_of_time_is_in_seconds() -> None:
    with ScriptedServer(
        lambda seen: Answer(
            [Piece((RECORDED / seen.path[1:]).read_bytes())],
            content_type="application/x-ndjson" if "nd" in seen.path else "text/event-stream",
        )
    ) as server:
        told = {
            name: measured(list(client.stream(server.address(), {}, f"/{name}")), 0.0).server
            for name in ("llama_cpp.sse", "ollama.ndjson", "lm_studio_v1.sse", "vllm.sse", "tgi.sse")
        }
    llama, ollama, studio, vllm = (told[n] for n in ("llama_cpp.sse", "ollama.ndjson", "lm_studio_v1.sse", "vllm.sse"))
    assert llama and (llama.prompt_n, llama.prompt_s, llama.predicted_n, llama.predicted_s) == (37, 0.25, 6, 0.1)
    assert ollama and (ollama.load_s, ollama.prompt_s, ollama.total_s, ollama.prompt_n) == (1.1, 0.4, 2.3, None)
    assert studio and (studio.ttft_s, studio.predicted_s) == (0.4, 0.5)
    assert vllm and (vllm.queue_s, vllm.ttft_s, vllm.predicted_s) == (0.005, 0.09, 0.16)
    assert told["tgi.sse"] is None
