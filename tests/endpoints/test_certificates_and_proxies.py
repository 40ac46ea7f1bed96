"""Certificates that do not fit, and proxies of the environment, over real TLS and a real proxy on loopback."""

from __future__ import annotations

import datetime
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from core.endpoints import client
from core.endpoints.address import address
from core.endpoints.failures import Failure
from tests.support.scripted_server import Answer, ScriptedServer, Seen, json_answer


def certificate(folder: Path, name: str) -> tuple[Path, Path]:
    """A certificate for a name, signed by its own key: (certificate, key)."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    who = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(who)
        .issuer_name(who)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    public, private = folder / f"{name}.pem", folder / f"{name}.key"
    public.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return public, private


class Models(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *given: Any) -> None:
        """Quiet."""


class Quiet(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that does not trust us goes."""


@pytest.fixture(params=["localhost", "other.example"])
def secure(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, str, Path]]:
    """(name in the certificate, address, certificate) of a server with TLS."""
    public, private = certificate(tmp_path, request.param)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(public, private)
    with Quiet(("127.0.0.1", 0), Models) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        yield request.param, f"https://localhost:{server.server_port}", public
        server.shutdown()
        thread.join(60)


def test_a_certificate_must_be_trusted_and_be_for_the_name(
    secure: tuple[str, str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    name, url, public = secure
    with pytest.raises(Failure) as unknown:
        client.ask(address(url, "sk-secret"), "models")
    assert unknown.value.kind == "tls" and "does not fit" in unknown.value.message
    assert "SSL_CERT_FILE" in unknown.value.hint and "sk-secret" not in str(unknown.value)
    monkeypatch.setenv("SSL_CERT_FILE", str(public))
    if name == "localhost":
        assert client.ask(address(url), "models") == {}, "the advice helps"
        return
    with pytest.raises(Failure) as other:
        client.ask(address(url), "models")
    assert other.value.kind == "tls" and "localhost" in other.value.message


def test_a_proxy_is_asked_for_others_and_its_refusal_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def respond(seen: Seen) -> Answer:
        known = seen.headers.get("Proxy-Authorization") == "Basic bWU6cHc="  # me:pw
        return json_answer({"by": "the proxy"}) if known else json_answer({"error": "Proxy login"}, 407)

    with ScriptedServer(respond) as proxy:
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.port}")
        with pytest.raises(Failure) as refused:
            client.ask(address("http://models.invalid"), "models")
        assert refused.value.status == 407 and "proxy of the environment" in refused.value.message
        assert "USER:PASSWORD" in refused.value.hint and proxy.seen[-1].path == "http://models.invalid:80/v1/models"
        monkeypatch.setenv("http_proxy", f"http://me:pw@127.0.0.1:{proxy.port}")
        assert client.ask(address("http://models.invalid"), "models") == {"by": "the proxy"}
        chunks = list(client.stream(address("http://models.invalid"), {"stream": True}))
        assert proxy.seen[-1].method == "POST" and [chunk.text for chunk in chunks] == [""]
