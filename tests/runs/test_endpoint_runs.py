"""Whole runs over a server: the same result as of any backend, and no key in what is kept of them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.endpoints import store as endpoints
from core.runs.check import check
from core.runs.measuring import holder
from core.runs.runner import Runner
from core.types import Evaluate, Generate, Request
from hardware.errors import ExplorerError
from tests.support import llama_server, model_servers
from tests.support.scripted_server import Answer, ScriptedServer, Seen, chat, json_answer

KEY = "sk-very-secret-0123"


def vllm(seen: Seen) -> Answer:
    if seen.headers.get("Authorization") != f"Bearer {KEY}":
        return json_answer({"error": {"message": f"wrong key {seen.headers.get('Authorization')}"}}, 401)
    if seen.path == "/v1/chat/completions":
        return chat(["Par", "is", "."], tokens_each=2, usage={"completion_tokens": 6, "prompt_tokens": 12})
    return model_servers.VLLM.get(seen.path, json_answer({}, 404))


def request_for(port: int, **more: object) -> Request:
    given = {"task": Generate(prompt="Where?", max_new_tokens=8), "strategy": "native", "retries": 0} | more
    return Request(model=f"127.0.0.1:{port}/Qwen/Qwen3-4B", backend="endpoint", **given)  # type: ignore[arg-type]


def test_a_whole_run_and_no_key_in_what_is_kept(runner: Runner, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_KEY", KEY)
    may_answer = []  # our own service, if it were one, while the run asks

    def noted(seen: Seen) -> Answer:
        if seen.path == "/v1/chat/completions":
            held = holder(runner.store.root)
            may_answer.append(held is not None and held.asks_service)
        return vllm(seen)

    with ScriptedServer(noted) as server:
        endpoints.add(server.url, "VLLM_KEY")
        run = runner.wait(runner.start(request_for(server.port)))
        result = run.result()
        monkeypatch.setenv("VLLM_KEY", KEY + "x")
        runner.close()
        failed = Runner(runner.store)
        try:
            refused = failed.wait(failed.start(request_for(server.port, seed=1))).result()
        finally:
            failed.close()
    assert result.status == "done", (result.error, result.hint)
    assert may_answer and all(may_answer)
    assert (result.text, result.n_new_tokens, result.n_prompt_tokens) == ("Paris.", 6, 12)
    assert result.served is not None
    assert [p.n_tokens for p in result.phases] == [12, 4] and result.phases[0].tok_per_s == result.prefill_tok_per_s
    assert (result.served.counted_by, result.served.n_chunks, result.served.single) == ("chunks", 3, False)
    assert result.ttft_s == pytest.approx(result.served.ttft_s) and result.tpot_s == pytest.approx(result.served.tpot_s)
    assert result.peak_memory_bytes is None and not result.memory, "our process is not the model's"
    assert not result.layers and result.disturbance is None
    assert [w for w in result.warnings if "Memory not measured" in w] and [w for w in result.warnings if "Layer" in w]
    assert refused.status == "failed" and "refuses the key" in (refused.error or "")
    kept = b"".join(f.read_bytes() for f in home.rglob("*") if f.is_file() and "cache" not in f.parts)
    assert KEY.encode() not in kept and KEY.encode() not in run.bundle()


def test_what_a_server_cannot_do_is_said_before(home: Path) -> None:
    with ScriptedServer(lambda seen: model_servers.VLLM.get(seen.path, json_answer({}, 404))) as server:
        endpoints.add(server.url)
    with pytest.raises(ExplorerError, match="cannot do") as caught:
        check(request_for(server.port, strategy="autoregressive"))
    assert "native" in caught.value.hint
    with pytest.raises(ExplorerError, match="needs"):
        check(request_for(server.port, task=Evaluate(eval="perplexity")))
    assert check(request_for(server.port, task=Evaluate(eval="arithmetic"))).format == "endpoint"
    with pytest.raises(ExplorerError, match="behind a server"):
        check(Request(model=f"127.0.0.1:{server.port}/Qwen/Qwen3-4B", backend="llama_cpp"))


@pytest.fixture(scope="module")
def real() -> Iterator[str]:
    with llama_server.running() as url:
        yield url


def test_a_real_llama_cpp_server(real: str, runner: Runner) -> None:
    endpoint = endpoints.add(real)
    assert endpoint.flavour == "llama_cpp" and endpoint.slots == 2
    model = f"{endpoints.host_of(endpoint.url)}/{endpoints.short(endpoint.models[0].id)}"
    task = Generate(prompt="What is the capital of France?", max_new_tokens=12)
    request = Request(model=model, backend="endpoint", strategy="native", task=task, profilers=(), retries=0)
    result = runner.wait(runner.start(request)).result()
    assert result.status == "done", (result.error, result.hint)
    assert "Paris" in result.text and result.served is not None
    assert (result.served.counted_by, result.served.single, result.served.cached) == ("ids", True, 0)
    assert result.n_new_tokens == len(result.itl_s) + 1 and result.n_prompt_tokens == 21
    assert result.served.server["prompt_n"] == 21 and result.served.memory is not None
    scored = runner.wait(
        runner.start(
            Request(
                model=model, backend="endpoint", strategy="native", task=Evaluate(eval="arithmetic", settings={"n": 2})
            )
        )
    ).result()
    assert scored.status == "done" and len(scored.items) == 2 and scored.ttft_s, (scored.error, scored.hint)


def test_from_the_command_line(real: str, home: Path) -> None:
    def roofscope(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "core", *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)

    added = roofscope("endpoints", "add", real)
    assert added.returncode == 0 and "llama.cpp" in added.stdout and "SmolLM2" in added.stdout
    assert "1024" in roofscope("endpoints", "list").stdout
    assert roofscope("endpoints", "forget", "http://127.0.0.1:1").returncode == 2
    gone = roofscope("endpoints", "forget", real)
    assert gone.returncode == 0 and "Nothing here yet" in roofscope("endpoints", "list").stdout
    down = roofscope("endpoints", "add", "http://127.0.0.1:1")
    assert (down.returncode, down.stdout) == (2, "") and "No server listens" in down.stderr
