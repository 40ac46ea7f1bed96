"""The client against a server that does what it was told."""

from __future__ import annotations

import itertools
import json
import socket
import threading
from typing import Any

import pytest

from core.endpoints import client
from core.endpoints.address import Address, address
from core.endpoints.chunks import Chunk
from core.endpoints.failures import Failure
from core.endpoints.measured import measured
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

BODY = {"messages": [{"role": "user", "content": "Hi"}], "stream": True}


def read(to: ScriptedServer, **more: Any) -> list[Chunk]:
    return list(client.stream(to.address(), BODY, **more))


def failure(to: ScriptedServer | Address, **more: Any) -> Failure:
    with pytest.raises(Failure) as caught:
        list(client.stream(to.address() if isinstance(to, ScriptedServer) else to, BODY, **more))
    assert caught.value.message.endswith((".", "”."))
    return caught.value


def test_text_tokens_and_usage_come_with_pings_and_crlf() -> None:
    answer = chat(["a", "é🙂", "c"], tokens_each=2, newline="\r\n", ping=True, usage={"completion_tokens": 6})
    with ScriptedServer(answer) as server:
        chunks = read(server)
    got = measured(chunks, 0.0)
    assert (got.text, got.n_tokens, got.counted_by, got.n_chunks, got.finish_reason) == (
        "aé🙂c",
        6,
        "chunks",
        3,
        "length",
    )
    (seen,) = server.seen
    assert (seen.method, seen.path, seen.body) == ("POST", "/v1/chat/completions", BODY)
    assert seen.headers["Connection"] == "close" and "Authorization" not in seen.headers


def test_pieces_of_one_read_share_its_time_and_later_reads_are_later() -> None:
    gate, ticks = threading.Event(), itertools.count(1)
    first = event(delta("a")) + event(delta("b"))
    pieces = [Piece(first), Piece(event(delta("c")) + end_of_chat(), gate=gate)]
    with ScriptedServer(Answer(pieces)) as server:
        stream = client.stream(server.address(), BODY, clock=lambda: float(next(ticks)))
        got = []
        for chunk in stream:
            got.append(chunk)
            if chunk.text == "b":
                gate.set()
    times = [c.at_s for c in got if c.text]
    assert times[0] == times[1] < times[2]
    assert stream.started_s is not None and stream.sent_s is not None and stream.headers_s is not None
    assert stream.started_s < stream.sent_s < stream.headers_s <= times[0]
    assert stream.ended_s is not None and stream.ended_s > times[2]
    assert stream.connect_s == stream.sent_s - stream.started_s


def test_a_character_split_over_two_reads() -> None:
    data, gate = event(delta("🙂")), threading.Event()
    at = data.index("🙂".encode()) + 2
    threading.Timer(0.05, gate.set).start()  # the first half is read, or joined with the second: both must do
    with ScriptedServer(Answer([Piece(data[:at]), Piece(data[at:] + end_of_chat(), gate=gate)])) as server:
        assert [c.text for c in read(server) if c.text] == ["🙂"]


def test_every_request_has_a_connection_of_its_own_and_the_key_goes_along() -> None:
    with ScriptedServer(chat(["a"])) as server:
        for _ in range(2):
            list(client.stream(server.address("sk-secret"), BODY))
    assert [s.headers["Authorization"] for s in server.seen] == ["Bearer sk-secret"] * 2


def test_an_answer_in_one_piece_says_that_it_was_not_streamed() -> None:
    whole = {"choices": [{"message": {"content": "yes"}, "finish_reason": "stop"}], "usage": {"completion_tokens": 2}}
    with ScriptedServer(json_answer(whole)) as server:
        stream = client.stream(server.address(), BODY)
        assert [(c.text, c.tokens) for c in stream] == [("yes", 2)]
        assert not stream.streamed


def test_ollama_speaks_json_lines() -> None:
    lines = [{"message": {"content": "a"}, "done": False}, {"done": True, "eval_count": 1}]
    data = "".join(json.dumps(line) + "\n" for line in lines).encode()
    with ScriptedServer(Answer([Piece(data)], content_type="application/x-ndjson")) as server:
        got = measured(list(client.stream(server.address(), BODY, "/api/chat")), 0.0)
    assert (got.text, got.n_tokens, got.counted_by) == ("a", 1, "usage")
    assert server.seen[0].path == "/api/chat"


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (Answer([Piece(event(delta("a")))], end="cut"), "cut"),
        (Answer([Piece(event(delta("a")))], end="reset"), "cut"),
        (Answer([Piece(event(delta("a")))]), "cut"),  # closed properly, and neither a reason nor [DONE]
        (Answer([Piece(b'data: {"choi')], end="cut"), "cut"),
        (Answer([Piece(event(delta("a"))), Piece(event({"error": {"message": "out of memory"}}))]), "stream_error"),
        (Answer([Piece(b"event: error\n" + event({"message": "lost"}))]), "stream_error"),
        (Answer([Piece(b"<html>hi</html>")], content_type="text/html; charset=utf-8"), "html"),
        (Answer([Piece(b"<!doctype html>")], content_type="text/plain"), "html"),
        (Answer([Piece(b"<html>no</html>")], status=404, content_type="text/html"), "html"),
        (Answer([Piece(event("what?"))]), "malformed"),
        (Answer([Piece(event("[1]"))]), "malformed"),
        (Answer([Piece(b"what?")], content_type="application/json"), "malformed"),
        (json_answer({"error": {"message": "bad", "code": 200}}), "stream_error"),
        (
            json_answer({"error": {"type": "exceed_context_size_error", "n_prompt_tokens": 3031, "n_ctx": 1024}}, 400),
            "context",
        ),
        (json_answer({"error": {"message": "This model's maximum context length is 4096 tokens"}}, 400), "context"),
        (json_answer({"error": {"message": "top_p must be below 1"}}, 400), "request"),
        (json_answer({"error": {"message": "Invalid API Key"}}, 401), "key"),
        (json_answer({"error": "model 'x' not found"}, 404), "model"),
        (json_answer({"error": {"message": "The model `x` does not exist.", "code": "model_not_found"}}, 404), "model"),
        (json_answer({"detail": "Not Found"}, 404), "path"),
        (json_answer({"error": {"message": "Loading model", "code": 503}}, 503), "loading"),
        (json_answer({"error": "server busy, maximum pending requests exceeded"}, 503), "busy"),
        (json_answer({"detail": "oops"}, 500), "server"),
        (json_answer({}, 307, Location="http://elsewhere/"), "redirect"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_every_kind_of_failure_is_told_apart(answer: Answer, kind: str) -> None:
    with ScriptedServer(answer) as server:
        got = failure(server)
    assert (got.kind, len(server.seen)) == (kind, 1), "no retry"


def test_the_text_before_a_cut_is_given_before_the_failure() -> None:
    with ScriptedServer(Answer([Piece(event(delta("a")))], end="cut")) as server:
        kept = []
        with pytest.raises(Failure) as caught:
            for chunk in client.stream(server.address(), BODY):
                kept.append(chunk)
    assert [c.text for c in kept] == ["a"]
    assert caught.value.at_s is not None and caught.value.at_s >= kept[0].at_s


def test_a_connection_that_breaks_behind_the_end_lost_nothing() -> None:
    end = end_of_chat(usage={"completion_tokens": 1}).replace(event("[DONE]"), b"")
    with ScriptedServer(Answer([Piece(event(delta("a")) + end)], end="cut")) as server:
        assert measured(read(server), 0.0).n_tokens == 1


@pytest.mark.parametrize(("header", "seconds"), [("7", 7.0), ("0", 0.0), ("soon", None)])
def test_too_many_requests_with_the_time_to_wait(header: str, seconds: float | None) -> None:
    with ScriptedServer(json_answer({"error": {"message": "slow down"}}, 429, Retry_After=header)) as server:
        got = failure(server)
    assert (got.kind, got.retry_after_s, got.status) == ("busy", seconds, 429)


def test_the_key_is_not_repeated_where_the_server_repeats_it() -> None:
    with ScriptedServer(json_answer({"error": {"message": "Incorrect API key: sk-very-secret"}}, 401)) as server:
        to = server.address("sk-very-secret")
        got = failure(to)
    assert "sk-very-secret" not in f"{got} {got.said} {got!r} {to!r} {to}"


def test_nobody_listens() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        got = failure(address(f"http://127.0.0.1:{taken.getsockname()[1]}"))
    assert got.kind == "refused" and got.at_s is not None


def test_no_such_host() -> None:
    assert failure(address("http://no-such-host.invalid")).kind in ("host", "down")


def test_a_server_that_says_nothing() -> None:
    with ScriptedServer(Answer(end="hang")) as server:
        assert failure(server, read_s=0.1).kind == "timeout"
    with ScriptedServer(Answer([Piece(event(delta("a")))], end="hang")) as server:
        got = failure(server, read_s=0.1)
        assert got.kind == "timeout" and "in the middle" in got.message


def test_what_speaks_no_tls_and_no_http() -> None:
    with ScriptedServer(chat(["a"])) as server:
        assert failure(address(server.url.replace("http:", "https:"))).kind == "tls"
    with socket.create_server(("127.0.0.1", 0)) as raw:
        port = raw.getsockname()[1]

        def greet() -> None:
            wire, _ = raw.accept()
            with wire:
                wire.recv(65536)
                wire.sendall(b"220 mail.example ESMTP\r\n")

        thread = threading.Thread(target=greet, daemon=True)
        thread.start()
        got = failure(address(f"http://127.0.0.1:{port}"))
        thread.join(60)
    assert got.kind == "malformed"


def test_stopping_from_another_thread_drops_the_connection() -> None:
    with ScriptedServer(Answer([Piece(event(delta("a")))], end="hang")) as server:
        stream = client.stream(server.address(), BODY)
        with pytest.raises(Failure) as caught:
            for chunk in stream:
                assert chunk.text == "a"
                threading.Thread(target=stream.close).start()
        assert caught.value.kind == "stopped"
        assert server.seen[0].dropped.wait(60)
        with pytest.raises(Failure) as again:
            list(stream)
        assert again.value.kind == "stopped" and len(server.seen) == 1


def test_leaving_the_loop_drops_the_connection() -> None:
    with ScriptedServer(Answer([Piece(event(delta("a")))], end="hang")) as server:
        with client.stream(server.address(), BODY) as stream:
            next(iter(stream))
        assert server.seen[0].dropped.wait(60)


def test_a_proxy_of_the_environment_is_not_asked_for_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    with ScriptedServer(chat(["a"])) as server, ScriptedServer(chat(["proxy"])) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        monkeypatch.delenv("no_proxy", raising=False)
        assert measured(read(server), 0.0).text == "a"
        assert not proxy.seen
        assert measured(list(client.stream(address("http://models.example"), BODY)), 0.0).text == "proxy"
        assert proxy.seen[0].path == "http://models.example:80/v1/chat/completions"


def test_asking_for_json_and_for_text() -> None:
    def respond(seen: Seen) -> Answer:
        if seen.path == "/metrics":
            return Answer([Piece(b"a 1\n")], content_type="text/plain")
        return json_answer({"path": seen.path, "body": seen.body}) if seen.path != "/page" else Answer([Piece(b"<p>")])

    with ScriptedServer(respond) as server:
        to = server.address()
        assert client.ask(to, "/props") == {"path": "/props", "body": None}
        assert client.ask(to, "models") == {"path": "/v1/models", "body": None}
        assert client.ask(to, "/tokenize", {"content": "x"})["body"] == {"content": "x"}
        assert client.fetch(to, "/metrics") == b"a 1\n"
        with pytest.raises(Failure) as caught:
            client.ask(to, "/page")
        assert caught.value.kind == "html"
