"""Which server it is, what it says of its models, and of its memory."""

from __future__ import annotations

from typing import get_args

import pytest

from core.endpoints import flavours
from core.endpoints.failures import Failure
from core.endpoints.flavours import Flavour, ServedModel
from core.types import ServerMemory
from hardware.errors import ExplorerError
from tests.support import model_servers
from tests.support.model_servers import SERVERS
from tests.support.scripted_server import Answer, Piece, ScriptedServer, json_answer

QWEN = ServedModel(
    id="qwen3:0.6b",
    context=4096,
    trained_context=40960,
    n_params=751632384,
    size_bytes=522653767,
    quantization="Q4_K_M",
    architecture="qwen3",
    d_model=1024,
    n_blocks=28,
    state="loaded",
)


def test_there_is_an_example_of_each() -> None:
    assert {*SERVERS, "vertex"} == set(get_args(Flavour)) == set(flavours.LABELS), "Vertex AI is told, not found"


@pytest.mark.parametrize("flavour", SERVERS)
def test_a_server_is_known_by_its_tell_tale(flavour: str) -> None:
    with ScriptedServer(SERVERS[flavour]) as server:
        found = flavours.probe(server.address())
    assert found.flavour == flavour
    assert found.models and all(model.id for model in found.models)
    assert found.tokenizes is (flavour == "llama_cpp")


def test_what_they_say_of_their_models() -> None:
    def model(paths: dict[str, Answer]) -> ServedModel:
        with ScriptedServer(paths) as server:
            return flavours.usable(flavours.probe(server.address()).models)[0]

    assert model(model_servers.OLLAMA) == QWEN
    llama = model(model_servers.LLAMA_CPP)
    assert (llama.context, llama.trained_context, llama.n_params, llama.vocab_size) == (1024, 8192, 134515008, 300)
    studio = model(model_servers.LM_STUDIO)
    assert (studio.id, studio.context, studio.trained_context, studio.n_params, studio.quantization, studio.state) == (
        "qwen/qwen3-4b",
        8192,
        262144,
        4_000_000_000,
        "Q4_K_M",
        "loaded",
    )
    old = model(model_servers.LM_STUDIO_V0)
    assert (old.id, old.architecture, old.state, old.context) == ("q", "qwen2", "unloaded", None)
    assert model(model_servers.VLLM).context == 32768
    assert model(model_servers.SGLANG).context == 40960
    assert (model(model_servers.TGI).context, model(model_servers.TGI).quantization) == (4096, "bfloat16")
    assert model(model_servers.OPENAI) == ServedModel(id="some-model"), "it says no more than its name"


def test_models_for_embeddings_are_left_out() -> None:
    with ScriptedServer(model_servers.LM_STUDIO) as server:
        found = flavours.probe(server.address())
    assert [m.id for m in found.models] == ["qwen/qwen3-4b", "nomic"]
    assert [m.id for m in flavours.usable(found.models)] == ["qwen/qwen3-4b"]


@pytest.mark.parametrize(
    ("flavour", "model", "memory"),
    [
        (
            "ollama",
            "qwen3:0.6b",
            ServerMemory(source="/api/ps", total_bytes=1200000000, device_bytes=1000000000, n_context=4096),
        ),
        ("ollama", "another", None),
        ("vllm", "", ServerMemory(source="/metrics", kv_share=0.25)),
        (
            "sglang",
            "",
            ServerMemory(source="/server_info", weights_bytes=7500000000, kv_bytes=30000000000, kv_share=0.5),
        ),
        ("llama_cpp", "", ServerMemory(source="/slots", n_context=1024, slots=2, slots_busy=1)),
        ("tgi", "", None),
        ("openai", "", None),
    ],
)
def test_what_they_say_of_their_memory(flavour: Flavour, model: str, memory: ServerMemory | None) -> None:
    with ScriptedServer(SERVERS[flavour]) as server:
        assert flavours.memory(server.address(), flavour, model) == memory


def test_a_server_that_stops_telling_its_memory_disturbs_nothing() -> None:
    with ScriptedServer({"/api/ps": json_answer({"error": "?"}, 500), "/server_info": json_answer([1])}) as server:
        assert flavours.memory(server.address(), "ollama", "m") is None
        assert flavours.memory(server.address(), "sglang", "m") is None


def test_a_stranger_a_page_and_a_server_that_loads() -> None:
    with ScriptedServer({"/": json_answer({})}) as server, pytest.raises(ExplorerError, match="not a model server"):
        flavours.probe(server.address())
    page = Answer([Piece(b"<html>router</html>")], content_type="text/html")
    with ScriptedServer(lambda seen: page) as server, pytest.raises(ExplorerError, match="not a model server"):
        flavours.probe(server.address())
    loading = json_answer({"error": {"message": "Loading model", "code": 503}}, 503)
    with ScriptedServer(lambda seen: loading) as server, pytest.raises(Failure) as caught:
        flavours.probe(server.address())
    assert caught.value.kind == "loading" and len(server.seen) == 1
    none = {**model_servers.VLLM, "/v1/models": json_answer({"data": []})}
    with ScriptedServer(none) as server, pytest.raises(ExplorerError, match="no model"):
        flavours.probe(server.address())


def test_a_server_that_wants_a_key_says_so() -> None:
    closed = json_answer({"error": {"message": "Invalid API key"}}, 401)
    with ScriptedServer(lambda seen: closed) as server, pytest.raises(Failure) as caught:
        flavours.probe(server.address())
    assert caught.value.kind == "key" and "wants a key" in caught.value.message
