"""Who may ask: hosts, origins, keys, sizes; each refused in one sentence, the service alive."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.testclient import TestClient

from core.runs.store import Store
from core.service.app import Manner, build
from core.service.guard import host_of
from tests.service.server import Server, rest

JSON = {"Content-Type": "application/json"}


@pytest.fixture
def client(store: Store) -> Iterator[TestClient]:
    manner = Manner(hosts=("localhost", "127.0.0.1", "::1", "lab.example"), key="s3cret", most_bytes=1000)
    with TestClient(build(store, manner), base_url="http://localhost:8765") as found:
        found.headers["Authorization"] = "Bearer s3cret"
        yield found


@pytest.mark.parametrize(
    ("header", "name"),
    [
        ("127.0.0.1:8765", "127.0.0.1"),
        ("LocalHost", "localhost"),
        ("[::1]:80", "::1"),
        ("", ""),
        ("127.0.0.1:8765@evil.example", "evil.example"),
        ("[::1", "[::1"),
    ],
)
def test_the_name_in_a_host_header(header: str, name: str) -> None:
    assert host_of(header) == name


@pytest.mark.parametrize(
    ("headers", "status", "says"),
    [
        ({"Host": "evil.example"}, 421, "evil.example"),
        ({"Host": "127.0.0.1.evil.example:8765"}, 421, "does not answer"),
        ({"Origin": "https://evil.example"}, 403, "evil.example"),
        ({"Origin": "null"}, 403, "null"),
        ({"Origin": "http://["}, 403, "http://["),
        ({"Origin": "http://[::1"}, 403, "http://[::1"),
        ({"Origin": "file://localhost"}, 403, "file://localhost"),
        ({"Origin": "localhost"}, 403, "localhost"),
        ({"Origin": "http://localhost@evil.example"}, 403, "evil.example"),
        ({"Content-Length": "9" * 5000}, 413, "larger"),
        ({"Authorization": "Bearer wrong"}, 401, "key"),
        ({"Authorization": ""}, 401, "key"),
        ({"Authorization": "Basic s3cret"}, 401, "key"),
        ({"Authorization": "Bearer s3crét".encode("latin-1")}, 401, "key"),
    ],
)
def test_what_is_refused_before_any_route(client: TestClient, headers: dict[str, Any], status: int, says: str) -> None:
    found = client.get("/api/runs", headers=headers)
    assert found.status_code == status and found.headers["content-type"] == "application/problem+json"
    told = found.json()
    assert says in told["detail"] and told["hint"] and told["status"] == status
    assert client.get("/api/runs").status_code == 200


def test_names_and_pages_of_our_own_may_ask(client: TestClient) -> None:
    for host in ("127.0.0.1:8765", "[::1]:1", "lab.example"):
        assert client.get("/api/runs", headers={"Host": host, "Origin": "http://localhost:8501"}).status_code == 200
    assert client.get("/health", headers={"Authorization": ""}).json() == {"status": "ok"}


def test_a_key_may_have_any_letters(store: Store) -> None:
    """A client sends its bytes, and HTTP's library reads each as a letter of Latin-1."""
    with TestClient(build(store, Manner(key="schlüssel-à")), base_url="http://localhost") as client:
        for key, status in (("schlüssel-à", 200), ("schlüssel-a", 401), ("schlüssel-", 401)):
            sent = client.get("/api/runs", headers={"Authorization": f"Bearer {key}".encode()})
            assert sent.status_code == status, key


def test_a_form_of_a_web_page_is_no_json(client: TestClient) -> None:
    """A page may send text/plain to any address without asking first; it may not send JSON so."""
    sent = client.post("/api/runs", content=b"{}", headers={"Content-Type": "text/plain"})
    assert sent.status_code == 415 and "JSON" in sent.json()["detail"]


def test_openai_clients_get_errors_in_their_form(client: TestClient) -> None:
    found = client.get("/v1/models", headers={"Authorization": "Bearer no"})
    assert found.status_code == 401
    assert (
        found.json()["error"]["code"] == "invalid_api_key" and found.json()["error"]["type"] == "authentication_error"
    )


def test_a_body_too_large_is_refused_by_its_length_and_by_its_bytes(client: TestClient) -> None:
    sent = client.post("/api/runs", content=b" " * 1001, headers=JSON)
    assert sent.status_code == 413 and "0.001 MB" in sent.json()["detail"]
    chunked = client.post("/api/runs", content=iter([b" " * 600] * 2), headers=JSON)
    assert chunked.status_code == 413
    assert client.post("/api/runs", content=b" " * 1000, headers=JSON).status_code == 400, "it was read, and is no JSON"


def test_a_client_that_goes_in_the_middle_of_its_body_is_no_failure(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    with Server(build(store, Manner())) as server:
        with socket.create_connection(("127.0.0.1", server.port), timeout=60) as half:
            head = f"POST /api/runs HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {JSON['Content-Type']}\r\n"
            half.sendall(f"{head}Content-Length: 100\r\n\r\n{{".encode())
            half.shutdown(socket.SHUT_WR)
            half.recv(1000)
        asked = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        asked.request("GET", "/health")
        assert asked.getresponse().status == 200
        asked.close()
    assert not [record for record in caplog.records if record.exc_info]


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        ((), 200),
        ((b"Origin: http://[",), 403),
        ((b"Origin: \xff\xfe://127.0.0.1",), 403),
        ((b"Content-Length: " + b"9" * 5000,), 400),
        ((b"Content-Length: -1",), 400),
        ((b"Content-Length: 1", b"Content-Length: 2"), 400),
        ((b"Transfer-Encoding: gzip, chunked",), 400),
        ((b"Host: evil.example",), 400),
        ((b"Authorization: Bearer schl\xfcssel",), 401),
        ((b"Authorization: Bearer schl",), 401),
        ((b"no header at all",), 400),
    ],
)
def test_raw_requests_are_answered_or_refused(store: Store, lines: tuple[bytes, ...], status: int) -> None:
    """As no client's library sends them; the key is asked for in its own bytes."""
    own = b"Authorization: Bearer schl\xc3\xbcssel"
    head = [b"GET /api/runs HTTP/1.1", b"Host: 127.0.0.1", b"Connection: close", *lines]
    if not any(line.startswith(b"Authorization") for line in lines):
        head.append(own)
    with Server(build(store, Manner(key="schlüssel"))) as server:
        said = rest(server.opened(b"\r\n".join((*head, b"", b""))))
        assert said.split(b" ", 2)[:2] == [b"HTTP/1.1", str(status).encode()]
        good = b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
        assert rest(server.opened(good)).startswith(b"HTTP/1.1 200"), "and it goes on"


def test_a_gigabyte_is_refused_before_it_is_sent(store: Store) -> None:
    with Server(build(store, Manner())) as server:
        asked = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        asked.putrequest("POST", "/api/runs")
        for name, value in {**JSON, "Content-Length": str(10**9)}.items():
            asked.putheader(name, value)
        asked.endheaders(b"{")
        found = asked.getresponse()
        assert found.status == 413 and "16 MB" in json.loads(found.read())["detail"]
        asked.close()
        again = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        again.request("GET", "/health")
        assert again.getresponse().status == 200
        again.close()
