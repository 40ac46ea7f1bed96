"""Vertex AI over loopback stand-ins: credentials, listings, each way to ask, the platform's samples."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from core import plugins
from core.cli import cli
from core.endpoints import google, monitoring, store, vertex
from core.endpoints.chunks import Reader
from core.models import catalogue, spec
from core.report.private import scrubbed
from core.types import GenerationConfig, Request, Session, remote
from hardware.errors import ExplorerError
from tests.support.google_cloud import BASE, DEDICATED, EMPTY, MACHINE, PROJECT, REGION, SHARED, TOKEN
from tests.support.google_cloud import google as stand_ins
from tests.support.progress import silent
from tests.support.scripted_server import Answer, Piece, ScriptedServer, Seen, chat, json_answer

ANSWER = {
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "Paris."}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 12, "completion_tokens": 5},
}


def container(seen: Seen, path: str) -> Answer:
    """A container that streams where it is asked to, and answers predict in Google's own form."""
    if path == ":predict":
        return json_answer({"predictions": ANSWER, "deployedModelId": "9"})
    if path == ":rawPredict":
        return json_answer(ANSWER)
    if path in ("/chat/completions", "/invoke/v1/chat/completions", ":streamRawPredict"):
        return chat(["Par", "is", "."], tokens_each=1, usage={"prompt_tokens": 12, "completion_tokens": 3})
    return json_answer({"error": {"message": f"no {path}"}}, 404)


def opened(number: str, **options: Any) -> Session:
    endpoint = store.add_cloud(vertex.endpoint(PROJECT, REGION, number))
    file = next(store.files(endpoint))[0]
    request = Request(model="m", backend="endpoint", options=options)
    return plugins.get("backend", "endpoint").open(str(file), spec.read(file, "endpoint"), request, silent)


def asked(session: Session, text: str = "\x1esystem\x1f\x1euser\x1fWhere?") -> str:
    ids = np.array([session.encode(text)], dtype=np.int64)
    steps = list(session.stream(ids, GenerationConfig(limit=9, seed=3, stop=frozenset({1}))))
    return session.decode([int(i) for step in steps for i in step[0]])


def test_projects_regions_and_endpoints_are_listed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with stand_ins(monkeypatch, tmp_path, container) as server:
        assert vertex.projects() == ((PROJECT, ""), ("b-project", "B")), "both pages"
        assert vertex.regions(PROJECT) == (REGION, "us-central1")
        shared, dedicated, empty = vertex.endpoints(PROJECT, REGION)
        assert server.grants == 1, "one token for all of it"
    assert (shared.id, shared.dedicated, shared.url) == (SHARED, False, f"{server.url}{BASE}/{SHARED}")
    assert dedicated.dedicated and not empty.deployed
    (model,) = dedicated.deployed
    assert (model.machine, model.accelerator, model.n_accelerators) == tuple(MACHINE.values())
    assert (model.label, model.model, model.replicas, model.traffic) == ("smol", "77", 2, 1.0)


def test_addresses_of_google_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("VERTEX_API", "VERTEX_DEDICATED", "MONITORING_API", "PROJECTS_API"):
        monkeypatch.delenv(f"ROOFSCOPE_{name}", raising=False)
    assert google.vertex_api() == "https://aiplatform.googleapis.com"
    cloud = vertex.Cloud(project="p", region="us-central1", id="5")
    tail = "/v1/projects/p/locations/us-central1/endpoints/5"
    assert cloud.url == f"https://us-central1-aiplatform.googleapis.com{tail}"
    own = vertex.Cloud(project="p", region="us-central1", id="5", dns="5.us-central1-7.prediction.vertexai.goog")
    assert own.url == f"https://5.us-central1-7.prediction.vertexai.goog{tail}"
    assert vertex.place(own.url) == ("p", "us-central1", "5") and vertex.place("http://127.0.0.1:8080/v1") is None
    assert "p/loc" not in scrubbed(own.url) and "us-central1-7" not in scrubbed(own.url)


@pytest.mark.parametrize(
    ("number", "api", "path", "streams"),
    [
        (SHARED, "auto", "/chat/completions", True),
        (DEDICATED, "invoke", "/invoke/v1/chat/completions", True),
        (DEDICATED, "raw", ":streamRawPredict", True),
        (SHARED, "raw", ":rawPredict", False),
        (DEDICATED, "predict", ":predict", False),
    ],
)
def test_each_way_to_ask(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, home: Path, number: str, api: str, path: str, streams: bool
) -> None:
    with stand_ins(monkeypatch, tmp_path, container) as server:
        session = opened(number, api=api)
        assert asked(session) == "Paris."
        seen = server.seen[-1]
        far = remote(session)
        account = far.account() if far else None
    assert seen.path == f"{BASE}/{number}{path}"
    body = seen.body["instances"][0] if api == "predict" else seen.body
    assert body["messages"] == [{"role": "user", "content": "Where?"}] and body["max_tokens"] == 9
    assert ("stream" in body) is streams and (api != "predict" or body["@requestFormat"] == "chatCompletions")
    assert account is not None and account.n_prompt == 12 and account.streamed is streams
    assert (account.n_tokens, account.counted_by) == (3 if streams else 5, "chunks")
    assert account.single is streams and (account.tpot_s is not None) is streams
    assert session.setup.facts["accelerator"] == "NVIDIA_L4"
    assert any("one piece" in words for words in session.warnings) is not streams


@pytest.mark.parametrize(
    ("predictions", "text"),
    [
        (ANSWER, "Paris."),
        ([[ANSWER]], "Paris."),
        (["Prompt:\nWhere?\nOutput:\nParis."], "Paris."),
        (["Paris."], "Paris."),
        ({"content": "Paris."}, "Paris."),
        ([], ""),
    ],
)
def test_predictions_are_a_list_or_an_object(predictions: Any, text: str) -> None:
    reader = Reader()
    assert "".join(c.text for c in reader.read({"predictions": predictions}, "", 1.0)) == text and reader.done


def test_what_the_way_does_not_allow_is_refused_before_it_is_sent(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, home: Path
) -> None:
    with stand_ins(monkeypatch, tmp_path, container) as server:
        with pytest.raises(ExplorerError, match="passes no path"):
            asked(opened(SHARED, api="invoke"))
        with pytest.raises(ExplorerError, match=r"1\.5 MB"):
            asked(opened(SHARED), "x" * 1_600_000)
        with pytest.raises(ExplorerError, match="No model is deployed"):
            vertex.endpoint(PROJECT, REGION, EMPTY)
        with pytest.raises(ExplorerError, match="not the name of a region"):
            vertex.endpoints(PROJECT, "../x")
        assert not [seen for seen in server.seen if seen.method == "POST" and seen.path != "/token"]


def test_credentials_that_are_missing_refused_or_not_allowed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with stand_ins(monkeypatch, tmp_path, container) as server:
        server.refuses = 403
        with pytest.raises(ExplorerError, match="refuses these") as caught:
            vertex.endpoints(PROJECT, REGION)
        assert "aiplatform.endpoints.list" in caught.value.hint
        server.refuses = 401
        with pytest.raises(ExplorerError, match="refuses these") as caught:
            vertex.projects()
        assert "gcloud" in caught.value.hint and TOKEN not in str(caught.value)
    bad = tmp_path / "bad.json"
    bad.write_text("{}")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(bad))
    with pytest.raises(ExplorerError, match="no Google credentials"):
        google.token()
    account = json.loads(next(tmp_path.glob("account-*.json")).read_text())
    page = Answer([Piece(b"<html>Sign in to the Wi-Fi</html>")], content_type="text/html", chunked=False)
    with ScriptedServer(page) as portal:
        for name, more in (("portal", {"token_uri": portal.url}), ("damaged", {"private_key": "no key"})):
            own = tmp_path / f"{name}.json"
            own.write_text(json.dumps(account | more))
            monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(own))
            with pytest.raises(ExplorerError) as caught:
                google.token()
            assert caught.value.hint and account["private_key"] not in str(caught.value), name
    for refuses, says in ((400, "does not accept"), (None, "cannot be reached")):
        with stand_ins(monkeypatch, tmp_path, container) as server:
            own = tmp_path / f"own-{refuses}.json"
            own.write_text(
                json.dumps(account | {"token_uri": f"{server.url}/other" if refuses else "http://127.0.0.1:1"})
            )
            monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(own))
            with pytest.raises(ExplorerError, match=says):
                google.token()


def test_a_token_that_ends_soon_is_renewed_and_written_nowhere(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, home: Path
) -> None:
    with stand_ins(monkeypatch, tmp_path, container) as server:
        session = opened(SHARED)
        held = google._held[str(tmp_path / f"account-{server.port}.json")]
        assert server.grants == 1
        held.expiry = datetime.fromtimestamp(time.time() + 60, UTC).replace(tzinfo=None)
        assert asked(session) == "Paris." and server.grants == 2
        (endpoint,) = store.endpoints()
        with pytest.raises(ExplorerError, match="endpoints of Vertex AI alone"):
            store.add("http://127.0.0.1:1", vertex.KEY)
        assert store.add(endpoint.url, vertex.KEY) == endpoint, "asked again by its address"
        (entry,) = [e for e in catalogue.entries(refresh=True) if e.family == "served"]
        assert entry.id == f"vertex/{PROJECT}/{REGION}/{SHARED}/name-{SHARED}"
    kept = b"".join(f.read_bytes() for f in (home / "data").rglob("*") if f.is_file())
    assert TOKEN.encode() not in kept and TOKEN not in repr(store.address_of(endpoint))


# ---------------------------------------------------------------- the platform's samples

START_S = 1_795_000_000.0


def point(after_s: float, **value: Any) -> dict[str, Any]:
    when = datetime.fromtimestamp(START_S + after_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {"interval": {"startTime": when, "endTime": when}, "value": value}


def series(name: str, aligner: str) -> list[dict[str, Any]]:
    """Two replicas' memory, whose bytes are strings and come newest first; one distribution; nothing else."""
    if name.endswith("online/accelerator/memory/bytes_used"):
        return [
            {
                "metric": {"labels": {"replica_id": replica, "deployed_model_id": "9"}},
                "points": [point(120, int64Value=str(n + 4)), point(60, int64Value=str(n)), {"value": {}}],
            }
            for replica, n in (("r-b", 2 * 10**10), ("r-a", 10**10))
        ]
    if name.endswith("prediction_latencies") and aligner == "ALIGN_PERCENTILE_95":
        held = {"count": "4", "mean": 250.5, "bucketCounts": ["4"]}
        return [{"metric": {"labels": {"latency_type": "total"}}, "points": [point(60, distributionValue=held)]}]
    return []


def test_samples_per_replica_for_a_window(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with stand_ins(monkeypatch, tmp_path, container, series=series) as server:
        monkeypatch.setattr("core.endpoints.monitoring.time.time", lambda: START_S + 120 + monitoring.DELAY_S)
        found = monitoring.platform(PROJECT, SHARED, START_S, START_S + 120)
        first = next(seen.path for seen in server.seen if "timeSeries" in seen.path)
    assert found.replicas == ("r-b", "r-a") and found.brief
    memory = found.series[1]
    assert memory.points == ((START_S + 60, 1e10), (START_S + 120, 1e10 + 4)), "oldest first, as numbers"
    assert "Accelerator duty cycle" in found.missing and "Latency, p95" not in found.missing
    told = monitoring.rows(found)[-1]
    assert (told.what, told.n, told.middle, told.unit) == ("Latency, p95 (total)", 1, 250.5, "ms")
    for words in ("endpoint_id%3D%22111%22", "interval.startTime=2026", "alignmentPeriod=60s", "ALIGN_MEAN"):
        assert words in first


def test_samples_that_are_not_there_yet_are_not_asked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with stand_ins(monkeypatch, tmp_path, container) as server:
        monkeypatch.setattr("core.endpoints.monitoring.time.time", lambda: START_S + monitoring.DELAY_S - 1)
        with pytest.raises(ExplorerError, match="not there yet"):
            monitoring.platform(PROJECT, SHARED, START_S - 60, START_S)
        assert not server.seen


# ---------------------------------------------------------------- the command line


def test_the_command_lists_step_by_step_and_adds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, home: Path) -> None:
    def told(*words: str) -> str:
        done = CliRunner().invoke(cli, ["endpoints", "vertex", *words])
        assert done.exit_code == 0, done.stderr
        return done.stdout

    with stand_ins(monkeypatch, tmp_path, container) as server:
        assert PROJECT in told() and REGION in told("--project", PROJECT)
        listed = told("--project", PROJECT, "--region", REGION)
        assert "1 x NVIDIA_L4" in listed and "dedicated" in listed
        assert f"{server.url}{BASE}/{SHARED}" in told("--project", PROJECT, "--region", REGION, "--add", SHARED)
        assert CliRunner().invoke(cli, ["endpoints", "vertex", "--add", SHARED]).exit_code == 2
        assert "Vertex AI" in CliRunner().invoke(cli, ["endpoints", "list"]).stdout
        assert not store.forget(store.endpoints()[0].url).tokenizes
