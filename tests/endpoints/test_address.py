"""What users type, and what is made of it."""

from __future__ import annotations

import pytest

from core.endpoints.address import address, is_loopback
from hardware.errors import ExplorerError


@pytest.mark.parametrize(
    ("typed", "root", "chat"),
    [
        ("127.0.0.1:8080", "http://127.0.0.1:8080", "/v1/chat/completions"),
        ("http://LocalHost:1234/v1/", "http://localhost:1234", "/v1/chat/completions"),
        ("https://openrouter.ai/api/v1", "https://openrouter.ai/api", "/api/v1/chat/completions"),
        ("https://host/v1beta/openai", "https://host/v1beta/openai", "/v1beta/openai/chat/completions"),
        ("http://host:8000/v1/chat/completions", "http://host:8000", "/v1/chat/completions"),
        ("http://[::1]:8080", "http://[::1]:8080", "/v1/chat/completions"),
    ],
)
def test_addresses(typed: str, root: str, chat: str) -> None:
    found = address(typed)
    assert (found.root, found.target("chat/completions")) == (root, chat)
    assert found.target("/props").endswith("/props") and "/v1/" not in found.target("/props")


@pytest.mark.parametrize(
    "typed",
    [
        "",
        "ftp://host",
        "http://",
        "http://host:99999",
        "http://user:word@host",
        "http://h/v1?key=x",
        "http://a b",
        "http://[::1",
    ],
)
def test_what_is_no_address_is_refused_in_a_sentence(typed: str) -> None:
    with pytest.raises(ExplorerError) as caught:
        address(typed)
    assert caught.value.hint and "word" not in caught.value.message.split("password")[-1]


def test_a_key_that_would_break_the_request_is_refused_and_not_shown() -> None:
    for key in ("", "a\nb: c", "schlüssel"):
        with pytest.raises(ExplorerError) as caught:
            address("http://host", key)
        assert not key or key not in str(caught.value)


def test_this_machine_by_name() -> None:
    assert all(map(is_loopback, ("localhost", "127.0.0.1", "127.1.2.3", "::1", "a.localhost")))
    assert not any(map(is_loopback, ("10.0.0.1", "example.org", "localhost.example.org")))
