"""A model behind a server as a session: what goes out, what comes back, and when."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core import plugins
from core.endpoints import store
from core.endpoints.failures import Failure
from core.models import spec
from core.types import GenerationConfig, Request, Sampling, Session, remote
from core.worker.drive import drive
from hardware.errors import ExplorerError
from tests.support import model_servers
from tests.support.progress import silent
from tests.support.protocols import faults
from tests.support.scripted_server import (
    Answer,
    Piece,
    ScriptedServer,
    Seen,
    chat,
    delta,
    end_of_chat,
    event,
    json_answer,
)

PATHS = {
    "/v1/chat/completions": chat(["Par", "is", "."], usage={"completion_tokens": 5, "prompt_tokens": 12}),
    "/v1/completions": chat(["Par", "is"], tokens_each=2),
}
STOP = frozenset({1})


def completion(seen: Seen) -> Answer:
    """llama.cpp's own paths: letters are tokens."""
    body = seen.body or {}
    if seen.path == "/tokenize":
        return json_answer({"tokens": [ord(c) for c in body["content"]]})
    if seen.path == "/detokenize":
        return json_answer({"content": "".join(map(chr, body["tokens"]))})
    if seen.path == "/completion":
        pieces = [{"content": c, "tokens": [ord(c)], "stop": False} for c in "Paris"[: body["n_predict"]]]
        end = {
            "content": "",
            "tokens": [],
            "stop": True,
            "stop_type": "limit",
            "timings": {"prompt_n": 2, "cache_n": 1},
        }
        return Answer([Piece(b"".join(event(p) for p in [*pieces, end]))])
    return (model_servers.LLAMA_CPP | PATHS).get(seen.path, json_answer({}, 404))


def opened(server: ScriptedServer, **options: Any) -> Session:
    endpoint = store.add(server.url)
    file = next(store.files(endpoint))[0]
    return _open(file, options)


def _open(file: Path, options: dict[str, Any]) -> Session:
    request = Request(model="m", backend="endpoint", options=options)
    return plugins.get("backend", "endpoint").open(str(file), spec.read(file, "endpoint"), request, silent)


def answered(flavour: str, **more: Answer) -> Callable[[Seen], Answer]:
    paths = {**model_servers.SERVERS[flavour], **PATHS, **more}
    return lambda seen: paths.get(seen.path, json_answer({}, 404))


def ids(session: Session, text: str) -> Any:
    return np.array([session.encode(text)], dtype=np.int64)


def test_the_session_keeps_the_typed_protocol(home: Path) -> None:
    with ScriptedServer(answered("vllm")) as server:
        session = opened(server)
        far = remote(session)
        assert far is not None and far.account() is None
        assert not faults(session, Session)
        for refused in (lambda: session.forward(np.ones((1, 1))), session.trace, lambda: session.commit(1)):
            with pytest.raises(ExplorerError) as caught:
                refused()
            assert caught.value.hint
        session.close()
        with pytest.raises(ExplorerError, match="closed"):
            next(session.stream(ids(session, "x"), GenerationConfig(limit=1)))


@pytest.mark.parametrize("text", ["Hello the world", "Grüße, 世界 🌍", "\x1euser\x1fHi"])
def test_text_survives_its_way_through_ids(home: Path, text: str) -> None:
    with ScriptedServer(answered("openai")) as server:
        session = opened(server)
        assert session.decode(session.encode(text)) == text


def test_a_dialogue_goes_out_as_messages_and_tokens_add_up(home: Path) -> None:
    from core.types import Generate
    from core.worker.generate import dialogue

    with ScriptedServer(answered("vllm")) as server:
        session = opened(server)
        task = Generate(
            prompt="Where?", system="Be brief.", history=(("user", "Hi"), ("assistant", "Hello")), thinking=False
        )
        prompt = dialogue(session, task)
        config = GenerationConfig(limit=9, seed=3, sampling=Sampling(temperature=0.5, top_k=4))
        steps = list(session.stream(ids(session, prompt), config))
        body = server.seen[-1].body
        far = remote(session)
        account = far.account() if far else None
        assert far is not None and far.readable(prompt).startswith("system: Be brief.\n\nuser: Hi")
    assert [m["role"] for m in body["messages"]] == ["system", "user", "assistant", "user"]
    assert body["messages"][-1] == {"role": "user", "content": "Where?"}
    assert (body["max_tokens"], body["seed"], body["temperature"], body["top_k"]) == (9, 3, 0.5, 4)
    assert body["chat_template_kwargs"] == {"enable_thinking": False, "thinking": False, "reasoning": False}
    assert body["ignore_eos"] is True
    assert [s.shape for s in steps] == [(1, 1), (1, 1), (1, 3)], "the server counted five in three pieces"
    assert session.decode([int(i) for s in steps for i in s[0]]) == "Paris."
    assert account is not None
    assert (account.n_tokens, account.counted_by, account.n_prompt, account.single) == (5, "usage", 12, False)
    assert account.memory is not None and account.memory.kv_share == 0.25


def test_an_empty_system_message_is_left_out(home: Path) -> None:
    from core.types import Generate
    from core.worker.generate import dialogue

    with ScriptedServer(answered("openai")) as server:
        session = opened(server)
        list(
            session.stream(ids(session, dialogue(session, Generate(prompt="Hi"))), GenerationConfig(limit=1, stop=STOP))
        )
        body = server.seen[-1].body
    assert body["messages"] == [{"role": "user", "content": "Hi"}]
    assert "max_tokens" not in body and body["max_completion_tokens"] == 1 and "top_k" not in body


def test_a_bare_text_goes_out_without_a_template(home: Path) -> None:
    with ScriptedServer(answered("vllm")) as server:
        session = opened(server)
        steps = list(session.stream(ids(session, "Once upon"), GenerationConfig(limit=4, stop=STOP)))
        seen = server.seen[-1]
    assert (seen.path, seen.body["prompt"]) == ("/v1/completions", "Once upon")
    assert seen.body["cache_salt"] and seen.body["stream_options"]["continuous_usage_stats"]
    assert [s.shape for s in steps] == [(1, 2), (1, 2)]


def test_ollama_is_asked_in_its_own_words(home: Path) -> None:
    line = b'{"message":{"content":"Hi"},"done":false}\n{"done":true,"eval_count":1}\n'
    answer = Answer([Piece(line)], content_type="application/x-ndjson")
    with ScriptedServer(answered("ollama", **{"/api/chat": answer, "/api/generate": answer})) as server:
        session = opened(server)
        list(session.stream(ids(session, "\x1euser\x1fHi"), GenerationConfig(limit=7, stop=STOP)))
        body = next(s.body for s in server.seen if s.path == "/api/chat")
        list(session.stream(np.array([[1, 2, 3]]), GenerationConfig(limit=7, stop=STOP)))
        raw = next(s.body for s in server.seen if s.path == "/api/generate")
    assert body["options"] == {"num_predict": 7, "temperature": 0.0, "seed": 0} and body["model"] == "qwen3:0.6b"
    assert raw["raw"] is True and len(raw["prompt"].split()) == 3, "random tokens become words"
    assert any("keep the beginning" in words for words in session.warnings)


def test_llama_cpp_gives_its_own_tokens_and_template(home: Path) -> None:
    with ScriptedServer(completion) as server:
        session = opened(server)
        assert session.chat_template == "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}"
        assert (session.bos_token, session.eos_token, session.max_context) == ("<s>", "</s>", 1024)
        assert session.encode("ab") == [97, 98] and session.decode([97, 98]) == "ab"
        steps = list(session.stream(ids(session, "ab"), GenerationConfig(limit=3)))
        body = next(s.body for s in server.seen if s.path == "/completion")
        far = remote(session)
        account = far.account() if far else None
        with pytest.raises(ExplorerError, match="exceed the context"):
            next(session.stream(np.ones((1, 1024), dtype=np.int64), GenerationConfig(limit=1)))
    assert body["prompt"] == [97, 98] and body["cache_prompt"] is False and body["ignore_eos"] is True
    assert session.decode([int(s[0, 0]) for s in steps]) == "Par"
    assert account is not None
    assert (account.n_tokens, account.counted_by, account.single, account.n_prompt, account.cached) == (
        3,
        "ids",
        True,
        3,
        1,
    )


def test_the_option_chat_sends_messages_to_llama_cpp(home: Path) -> None:
    with ScriptedServer(completion) as server:
        session = opened(server, api="chat")
        list(session.stream(ids(session, "\x1euser\x1fHi"), GenerationConfig(limit=3, stop=STOP)))
        body = server.seen[-1].body
    assert body["messages"] == [{"role": "user", "content": "Hi"}] and body["timings_per_token"] is True


def test_steps_are_timed_by_arrivals_and_not_by_us(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a step is said to take is the gap between its stamps, however long we looked away."""
    ticks = itertools.count(100, 1)
    stamps: list[float] = []

    def tick() -> float:
        stamps.append(float(next(ticks)))
        return stamps[-1]

    from core.backends.endpoint import session as ours

    real = ours.client.stream
    monkeypatch.setattr(ours.client, "stream", lambda *a, **k: real(*a, **(k | {"clock": tick})))
    with ScriptedServer(answered("vllm")) as server:
        session = opened(server)
        native = plugins.get("strategy", "native")
        steps = native.decode(session, ids(session, "x"), GenerationConfig(limit=4, stop=STOP), native.Params())
        driven = list(drive(steps, session))
        far = remote(session)
        account = far.account() if far else None
    assert account is not None and account.ttft_s == driven[0].seconds == round(driven[0].seconds) >= 1
    assert [d.seconds for d in driven[1:]] == list(account.gaps_s)
    assert [len(d.advance.tokens[0]) for d in driven] == [2, 2] and not driven[0].ran


def test_faults_are_one_sentence_and_the_session_lives_on(home: Path) -> None:
    broken = [
        json_answer({"error": {"message": "This model's maximum context length is 10 tokens"}}, 400),
        Answer([Piece(event(delta("a")))], end="cut"),
        Answer([Piece(end_of_chat())]),
        chat(["fine"]),
    ]

    def respond(seen: Seen) -> Answer:
        asked = seen.path.startswith("/v1/") and seen.method == "POST"
        return broken.pop(0) if asked else model_servers.VLLM.get(seen.path, json_answer({}, 404))

    with ScriptedServer(respond) as server:
        session = opened(server)
        for kind in ("context", "cut", None):
            with pytest.raises(ExplorerError) as caught:
                list(session.stream(ids(session, "\x1euser\x1fHi"), GenerationConfig(limit=2)))
            assert getattr(caught.value, "kind", None) == kind and caught.value.hint
            assert isinstance(caught.value, Failure) is (kind is not None)
        assert len(list(session.stream(ids(session, "\x1euser\x1fHi"), GenerationConfig(limit=2)))) == 1


def test_a_stream_closed_early_drops_the_connection(home: Path) -> None:
    endless = Answer([Piece(event(delta("a")) + event(delta("b")))], end="hang")
    with ScriptedServer(answered("vllm", **{"/v1/completions": endless})) as server:
        session = opened(server)
        stream: Any = session.stream(ids(session, "x"), GenerationConfig(limit=50))
        next(stream)
        stream.close()
        assert server.seen[-1].dropped.wait(60)
