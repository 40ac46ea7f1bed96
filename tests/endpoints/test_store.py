"""Endpoints that the user added: kept without keys, listed among the models, forgotten whole."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.endpoints import store
from core.models import catalogue, served, spec
from core.types import from_json
from hardware.errors import ExplorerError
from tests.support import model_servers
from tests.support.scripted_server import Answer, ScriptedServer, Seen, json_answer

KEY = "sk-not-to-be-found"


def with_key(seen: Seen) -> Answer:
    if seen.headers.get("Authorization") != f"Bearer {KEY}":
        return json_answer({"error": {"message": "no"}}, 401)
    return model_servers.VLLM.get(seen.path, json_answer({}, 404))


def everything(folder: Path) -> bytes:
    return b"".join(f.read_bytes() for f in folder.rglob("*") if f.is_file())


def test_added_listed_asked_again_and_forgotten(home: Path) -> None:
    with ScriptedServer(model_servers.LLAMA_CPP) as server:
        added = store.add(server.url)
        assert store.endpoints() == (added,)
        assert (added.url, added.flavour, added.slots) == (f"{server.url}/v1", "llama_cpp", 2)
        (entry,) = [e for e in catalogue.entries(refresh=True) if e.family == "served"]
        assert entry.id == f"127.0.0.1:{server.port}/Tiny-Q4_K_M" and entry.size_bytes == 96576768
        file = Path(entry.files["endpoint"])
        written = file.stat().st_mtime_ns
        assert store.add(f"{server.url}/v1/").added_s == added.added_s
        assert file.stat().st_mtime_ns == written, "what did not change keeps its session warm"
        assert len(store.endpoints()) == 1
    assert store.forget(server.url) == added
    assert not store.endpoints() and not list(store.folder().iterdir())
    with pytest.raises(ExplorerError, match="No endpoint"):
        store.forget(server.url)
    assert not [e for e in catalogue.entries(refresh=True) if e.family == "served"]


def test_a_server_on_this_machine_is_told_from_another_one(home: Path) -> None:
    """A run that asks it must not keep it, if it is our own service, from answering."""
    with ScriptedServer(model_servers.LLAMA_CPP) as server:
        store.add(server.url)
    (entry,) = [e for e in catalogue.entries(refresh=True) if e.family == "served"]
    file = Path(entry.files["endpoint"])
    assert store.on_this_machine(entry.files)
    file.write_bytes(file.read_bytes().replace(b"127.0.0.1", b"10.1.2.3"))
    assert not store.on_this_machine(entry.files)
    file.write_bytes(b"{}")
    assert not store.on_this_machine(entry.files) and not store.on_this_machine({"gguf": "a.gguf"})


def test_a_model_that_is_gone_leaves_the_list(home: Path) -> None:
    answers = dict(model_servers.OPENAI)
    with ScriptedServer(lambda seen: answers.get(seen.path, json_answer({}, 404))) as server:
        store.add(server.url)
        answers["/v1/models"] = model_servers.listing("other-model")
        store.add(server.url)
    assert [e.label for e in catalogue.entries(refresh=True) if e.family == "served"] == [
        "other-model (OpenAI-compatible)"
    ]


def test_what_a_server_says_becomes_a_model_without_layers(home: Path) -> None:
    with ScriptedServer(model_servers.LLAMA_CPP) as server:
        store.add(server.url)
    (entry,) = [e for e in catalogue.entries(refresh=True) if e.family == "served"]
    found = spec.read(entry.files["endpoint"], "endpoint")
    assert (found.layers, found.vocab_size, found.max_context, found.dtype) == ((), 300, 1024, "q4_k_m")


@pytest.mark.parametrize(
    ("word", "dtype"),
    [
        ("Q4_K - Medium", "q4_k_m"),
        ("Q4_0", "q4_0"),
        ("BF16", "bf16"),
        ("bfloat16", "bf16"),
        ("F16", "fp16"),
        ("", "unknown"),
        ("?", "unknown"),
    ],
)
def test_number_formats_by_the_servers_words(word: str, dtype: str) -> None:
    assert served.dtype_of(word) == dtype


def test_a_key_comes_from_the_environment_and_is_written_nowhere(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", KEY)
    with ScriptedServer(with_key) as server:
        endpoint = store.add(server.url, "MY_KEY")
        assert endpoint.key_from == "MY_KEY"
        assert store.address_of(endpoint).key == KEY
        assert KEY.encode() not in everything(home / "data") and KEY not in repr(endpoint)
        monkeypatch.delenv("MY_KEY")
        with pytest.raises(ExplorerError, match="MY_KEY"):
            store.address_of(endpoint)
        with pytest.raises(ExplorerError, match="wants a key"):
            store.add(server.url)


def test_a_key_given_in_place_of_its_variable_is_refused_and_not_repeated() -> None:
    with pytest.raises(ExplorerError) as caught:
        store.add("http://127.0.0.1:1", "sk-abc-123")
    assert "sk-abc" not in str(caught.value)


class Ring:
    """A keyring in memory."""

    def __init__(self) -> None:
        self.kept: dict[tuple[str, str], str] = {}

    def set_password(self, service: str, user: str, password: str) -> None:
        self.kept[service, user] = password

    def get_password(self, service: str, user: str) -> str | None:
        return self.kept.get((service, user))

    def delete_password(self, service: str, user: str) -> None:
        del self.kept[service, user]


def test_a_key_in_the_keyring(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ring = Ring()
    for name in ("set_password", "get_password", "delete_password"):
        monkeypatch.setattr(f"keyring.{name}", getattr(ring, name))
    with ScriptedServer(with_key) as server:
        endpoint = store.add_with_key(server.url, KEY)
        with pytest.raises(ExplorerError):
            store.add_with_key(server.url, "a wrong one")
        assert store.address_of(endpoint).key == KEY, "the keyring is as it was"
    with pytest.raises(ExplorerError):
        store.add_with_key("http://127.0.0.1:1", KEY)
    assert len(ring.kept) == 1, "a server that does not answer leaves no key"
    assert store.address_of(endpoint).key == KEY and KEY.encode() not in everything(home / "data")
    store.forget(server.url)
    assert not ring.kept


def test_a_system_without_a_keyring_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*given: str) -> None:
        raise RuntimeError(f"no backend for {given}")

    monkeypatch.setattr("keyring.set_password", fail)
    with pytest.raises(ExplorerError) as caught:
        store.keep_key("http://127.0.0.1:1", KEY)
    assert KEY not in str(caught.value) and caught.value.hint


def test_nothing_is_kept_of_a_server_that_does_not_answer(home: Path) -> None:
    with pytest.raises(ExplorerError):
        store.add("http://127.0.0.1:1")
    assert not store.endpoints()


def test_a_damaged_file_hides_one_endpoint_only(home: Path) -> None:
    with ScriptedServer(model_servers.VLLM) as server:
        store.add(server.url)
    bad = store.folder() / "bad"
    bad.mkdir()
    (bad / store.ABOUT).write_text("{")
    assert len(store.endpoints()) == 1
    with pytest.raises(ExplorerError, match="does not describe"):
        store.read(bad / store.ABOUT)
    assert from_json(b'{"url":"u","flavour":"vllm"}', store.Endpoint).models == ()
