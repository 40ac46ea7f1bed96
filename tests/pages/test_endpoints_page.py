"""The page Endpoints asks a server, keeps what it says, and forgets it; its models then run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from core.endpoints import store
from core.runs.runner import Runner
from core.runs.store import Store
from core.types import Generate, Request
from tests.pages.conftest import sound
from tests.support import model_servers
from tests.support.scripted_server import Answer, ScriptedServer, Seen, chat, json_answer

Open = Callable[..., AppTest]
PAGE = "pages/manage/endpoints.py"


def ollama(seen: Seen) -> Answer:
    return model_servers.OLLAMA.get(seen.path, json_answer({}, 404))


def test_a_server_is_added_shown_and_forgotten(app: Open, home: Path) -> None:
    at = sound(app(PAGE))
    assert any("No server yet" in m.value for m in at.markdown)
    with ScriptedServer(ollama) as server:
        at.text_input(key="endpoint-url").set_value(server.url).run()
        at.button(key="endpoint-add").click().run()
        assert any("answered" in m.value for m in sound(at).success)
        table = at.dataframe[0].value
        assert list(table["Model"]) == ["qwen3:0.6b"] and table.loc[0, "Context"] == 4096
        (endpoint,) = store.endpoints()
        at.button(key=f"again-{store.name_of(endpoint.url)}").click().run()
        assert len(store.endpoints()) == 1
    at.button(key=f"again-{store.name_of(endpoint.url)}").click().run()
    assert any("No server listens" in e.proto.title for e in at.error) and len(store.endpoints()) == 1
    at.button(key=f"forget-{store.name_of(endpoint.url)}").click().run()
    assert not store.endpoints() and any("No server yet" in m.value for m in sound(at).markdown)


@pytest.mark.parametrize("typed", ["", "ftp://host", "http://127.0.0.1:1"])
def test_what_cannot_be_added_is_one_sentence(app: Open, home: Path, typed: str) -> None:
    at = app(PAGE)
    at.text_input(key="endpoint-url").set_value(typed).run()
    at.button(key="endpoint-add").click().run()
    assert not at.exception and len(at.error) + len(at.warning) == 1 and not store.endpoints()


def test_a_key_without_its_variable_is_asked_for(app: Open, home: Path) -> None:
    at = app(PAGE)
    at.text_input(key="endpoint-url").set_value("http://127.0.0.1:1").run()
    at.selectbox(key="endpoint-source").set_value("Environment variable").run()
    at.button(key="endpoint-add").click().run()
    assert any("key is missing" in w.proto.title for w in at.warning)


def vllm(seen: Seen) -> Answer:
    answer = chat(["Par", "is", "."], tokens_each=2, usage={"completion_tokens": 6, "prompt_tokens": 12})
    paths = {**model_servers.VLLM, "/v1/chat/completions": answer}
    return paths.get(seen.path, json_answer({}, 404))


def test_a_run_over_a_server_on_every_page_about_a_run(app: Open, home: Path, store: Store) -> None:
    from core.endpoints import store as endpoints

    runner = Runner(store)
    try:
        with ScriptedServer(vllm) as server:
            endpoint = endpoints.add(server.url)
            model = endpoints.catalogue_id(endpoint, endpoint.models[0])
            task = Generate(prompt="Where?", max_new_tokens=8)
            request = Request(model=model, backend="endpoint", strategy="native", task=task, profilers=(), retries=0)
            run = runner.wait(runner.start(request))
        assert run.result().status == "done", run.result().error
    finally:
        runner.close()
    at = sound(app(run=run.id))
    what = next(d.value for d in at.dataframe if "What" in d.value)
    assert {"Time to first token", "Inter-chunk latency", "Tokens of the answer"} <= set(what["What"])
    for name in ("layers", "roofline", "memory", "decoding"):
        at = sound(app(f"pages/understand/{name}.py", run=run.id))
        if name != "decoding":
            assert any("does not show its inside" in i.proto.title for i in at.info), name
    sound(app("pages/compare/history.py"))


def test_the_forms_take_a_model_behind_a_server(app: Open, home: Path) -> None:
    with ScriptedServer(vllm) as server:
        endpoint = store.add(server.url)
    model = store.catalogue_id(endpoint, endpoint.models[0])
    query = {"model": model, "backend": "endpoint", "strategy": "native"}
    at = sound(app("pages/measure/run.py", **query))
    assert not at.warning and not at.button(key="start").disabled
    at = sound(app("pages/measure/evaluate.py", **query, eval="qa"))
    assert not at.warning and at.selectbox(key="strategy").value == "native"
    at = sound(app("pages/measure/evaluate.py", **query, eval="perplexity"))
    assert any("cannot do" in w.proto.title for w in at.warning), "a server gives no logits"
    at = sound(app("pages/measure/chat.py", **{f"a-{name}": value for name, value in query.items()}))
    assert not at.warning and at.selectbox(key="a-backend").value == "endpoint"
    assert at.selectbox(key="a-strategy").value == "native"


def test_what_the_latencies_of_a_model_imply(
    app: Open, home: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    from core.endpoints import store as endpoints
    from core.runs import over_lengths
    from tests.analysis.test_implied import EXACT

    with ScriptedServer(model_servers.VLLM) as server:
        endpoint = endpoints.add(server.url)
    key = endpoints.name_of(endpoints.catalogue_id(endpoint, endpoint.models[0]))
    at = app(PAGE)
    at.toggle(key=f"implied-{key}").set_value(True).run()
    assert not at.exception and any("No answer of this model" in w.proto.title for w in at.warning)
    monkeypatch.setattr(over_lengths, "timings", lambda store, model: EXACT)
    at.selectbox(key=f"implied-model-{key}").set_value("gpt2").run()
    told = {m.label: m.value for m in sound(at).metric}
    assert told["Effective bandwidth"].startswith("~ ") and told["Active bytes, at most"] != "–"
    assert any("Layer" in d.value and d.value["Share"].sum() == pytest.approx(1) for d in at.dataframe)


def test_an_endpoint_of_vertex_ai_is_listed_and_added(
    app: Open, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.endpoints.test_vertex import container
    from tests.support.google_cloud import PROJECT, REGION, google

    with google(monkeypatch, tmp_path, container) as server:
        at = app(PAGE)
        at.button(key="vertex-list").click().run()
        assert PROJECT in at.selectbox(key="vertex-project").options
        at.selectbox(key="vertex-project").set_value(PROJECT).run()
        at.button(key="vertex-list").click().run()
        at.selectbox(key="vertex-region").set_value(REGION).run()
        at.button(key="vertex-list").click().run()
        assert list(at.dataframe[0].value["Address"]) == ["shared", "dedicated", "shared"]
        at.button(key="vertex-add").click().run()
        (endpoint,) = store.endpoints()
        assert endpoint.cloud is not None and any(PROJECT in c.value for c in sound(at).caption)
        server.refuses = 403
        at.button(key="vertex-list").click().run()
        assert any("refuses these" in e.proto.title for e in at.error) and not at.exception
