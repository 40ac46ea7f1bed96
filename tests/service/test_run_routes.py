"""Roofscope's own API, over the fake backend: from request to result, events that resume, refusals by name."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
from starlette.testclient import TestClient

from core.analysis.work import total, work
from core.models import catalogue, spec
from core.runs.measuring import measuring
from core.runs.store import Store
from core.service.app import Manner, build
from core.types import Event, Request, Result, from_json, to_json
from hardware import ceilings
from hardware.ceilings import Ceilings
from hardware.detect import machine_id, usable_cores

LONG_S = 60.0


@pytest.fixture
def client(store: Store) -> Iterator[TestClient]:
    with TestClient(build(store, Manner()), base_url="http://127.0.0.1:8765") as found:
        yield found


def wanted(n: int = 4, **more: Any) -> dict[str, Any]:
    task = {"type": "generate", "prompt": "Hello", "max_new_tokens": n}
    return {"model": "smollm2-135m", "backend": "fake", "task": task, "threads": 1, "retries": 0, **more}


def slow() -> dict[str, Any]:
    return wanted(5000, options={"delay_s": 0.02}, profilers=[])


def until(condition: Callable[[], Any]) -> Any:
    end = time.monotonic() + LONG_S
    while not (found := condition()):
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)
    return found


def frames(text: str) -> list[tuple[int, str, Any]]:
    """(id, event, data) of a stream of server-sent events."""
    found = []
    for block in text.split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if lines:
            found.append((int(lines["id"]), lines["event"], json.loads(lines["data"])))
    return found


# ---------------------------------------------------------------- a run


def test_a_run_from_request_to_bundle(client: TestClient, store: Store) -> None:
    begun = client.post("/api/runs", json=wanted())
    assert begun.status_code == 202 and begun.json()["status"] == "queued"
    at, run_id = begun.headers["location"], begun.json()["run_id"]
    assert at == f"/api/runs/{run_id}" and int(begun.headers["retry-after"]) >= 1
    stream = frames(client.get(f"{at}/events").text)
    events = [msgspec.convert(data, Event) for _, _, data in stream]
    assert [number for number, _, _ in stream] == list(range(1, len(stream) + 1))
    assert events == store.open(run_id).events() and stream[-1][1] == "done"
    assert [kind for _, kind, _ in stream] == [data["type"] for _, _, data in stream]

    state = client.get(at).json()
    assert (state["status"], state["stage"]["name"], state["n_events"]) == ("done", "finished", len(stream))
    result = from_json(client.get(f"{at}/result").content, Result)
    assert to_json(result) == to_json(store.open(run_id).result()) and result.n_new_tokens == 4
    assert from_json(client.get(f"{at}/request").content, Request) == msgspec.convert(wanted(), Request)
    (row,) = client.get("/api/runs").json()
    assert row["run_id"] == run_id and [name for name, *_ in row["stages"]], "a list, not the index's own string"
    bundle = client.get(f"{at}/bundle")
    assert bundle.headers["content-type"] == "application/zip" and bundle.content[:2] == b"PK"


def test_events_go_on_behind_the_last_that_was_seen(client: TestClient, store: Store) -> None:
    at = client.post("/api/runs", json=wanted()).headers["location"]
    everything = frames(client.get(f"{at}/events").text)
    half = len(everything) // 2
    rest = frames(client.get(f"{at}/events", headers={"Last-Event-ID": str(half)}).text)
    assert rest == everything[half:]
    over = client.get(f"{at}/events", headers={"Last-Event-ID": str(len(everything))})
    assert over.status_code == 204, "a browser's EventSource comes again for ever without it"
    assert client.get(f"{at}/events", headers={"Last-Event-ID": "x1"}).status_code == 400


def test_one_measurement_at_a_time_and_a_stop_keeps_what_was_measured(client: TestClient, store: Store) -> None:
    at = client.post("/api/runs", json=slow()).headers["location"]
    wanted_stage = {"name": "timing", "detail": "decode"}  # so that there is something to keep
    until(lambda: wanted_stage.items() <= client.get(at).json()["stage"].items())
    second = client.post("/api/runs", json=wanted())
    assert second.status_code == 409 and at.rpartition("/")[2] in second.json()["detail"] and second.json()["hint"]
    assert client.get(f"{at}/bundle").status_code == 409
    stopped = client.delete(at)
    assert stopped.status_code == 202
    until(lambda: client.get(at).json()["status"] == "cancelled")
    result = client.get(f"{at}/result").json()
    assert result["status"] == "cancelled" and result["n_new_tokens"] > 0
    assert client.delete(at).json()["status"] == "cancelled", "a second stop changes nothing"
    assert client.post("/api/runs", json=wanted()).status_code == 202, "the machine is free again"


def test_a_measurement_of_another_process_is_409_and_named(client: TestClient, store: Store) -> None:
    with measuring(store.root, "a bench of somebody"):
        refused = client.post("/api/runs", json=wanted())
    assert refused.status_code == 409 and refused.headers["retry-after"]
    assert "A bench of somebody" in refused.json()["detail"] and store.ids() == []


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"promt": "x"}, "'promt'"),
        ({"task": {"type": "generate", "max_new_token": 4}}, "'max_new_token' in task"),
        ({"task": {"type": "sing"}}, "task.type"),
        ({"batch": "two"}, "batch"),
        ({"model": "no-such-model"}, "no-such-model"),
        ({"backend": "nope"}, "nope"),
        ({"params": {"windw": 3}, "strategy": "jacobi"}, "windw"),
        ({"task": {"type": "generate", "prompt": ""}}, "prompt"),
    ],
)
def test_a_request_that_cannot_run_is_refused_by_name(client: TestClient, store: Store, change: Any, says: str) -> None:
    refused = client.post("/api/runs", json=wanted() | change)
    told = refused.json()
    assert refused.status_code == 422 and says in told["detail"] and told["hint"]
    assert store.ids() == []


@pytest.mark.parametrize("body", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b'{"model": "a"} x'])
def test_bad_json_is_400(client: TestClient, body: bytes) -> None:
    refused = client.post("/api/runs", content=body, headers={"Content-Type": "application/json"})
    assert refused.status_code == 400 and "no JSON" in refused.json()["detail"]


@pytest.mark.parametrize(
    "run_id", ["nothing", "..", "%2e%2e%2fetc", "%00", ".hidden", pytest.param("a" * 5000, id="long")]
)
def test_no_such_run(client: TestClient, run_id: str) -> None:
    for route in ("", "/result", "/events", "/bundle"):
        found = client.get(f"/api/runs/{run_id}{route}")
        assert found.status_code == 404 and found.json()["hint"], run_id


def test_a_service_that_was_started_again_knows_the_runs(client: TestClient, store: Store) -> None:
    at = client.post("/api/runs", json=wanted()).headers["location"]
    until(lambda: client.get(at).json()["status"] == "done")
    with TestClient(build(store, Manner()), base_url="http://localhost") as other:
        assert other.get(f"{at}/result").content == client.get(f"{at}/result").content


# ---------------------------------------------------------------- what runs nothing


def test_what_there_is(client: TestClient) -> None:
    models = client.get("/api/models").json()
    assert {"smollm2-135m", "gpt2"} <= {entry["id"] for entry in models["models"]} and models["problems"] == []
    found = client.get("/api/devices").json()
    assert found["here"]["logical_cores"] >= 1 and found["ceilings"] is None
    assert all(device["sources"] for device in found["devices"] if device.get("provenance", "stated") == "stated")


def test_the_ceilings_told_are_those_of_the_cores_that_a_run_may_use(
    client: TestClient, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a container these are fewer than the machine has, and a run that names no threads takes them."""
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0})
    assert usable_cores() == 1
    found = Ceilings(
        machine_id=machine_id(), device="cpu", threads=1, date="2026-01-02T03:04:05Z", quick=True, seconds=1.0,
        gemms=(), reads=(), mem_bytes=2**30,
    )  # fmt: skip
    ceilings.save(found, store.root / "ceilings")
    assert client.get("/api/devices").json()["ceilings"]["threads"] == 1


def test_an_analysis_is_what_core_analysis_says(client: TestClient) -> None:
    asked = {"model": "gpt2", "prompt_tokens": 100, "new_tokens": 28, "device": "RTX 4090"}
    found = client.post("/api/analyses", json=asked).json()
    entry = catalogue.find("gpt2")
    kind, path = next(iter(entry.files.items()))
    gpt2 = spec.read(path, kind)
    last = total(work(gpt2, 1, 127, activation_dtype="fp16", kv_dtype="fp16"))
    assert found["decode"]["flops"] == last.flops and found["decode"]["n_past"] == 127
    assert found["kv_bytes_per_token"] == 2 * 12 * 768 * 2  # keys and values, 12 blocks of 768, two bytes
    assert found["memory"]["kv_bytes"] == 128 * found["kv_bytes_per_token"]
    assert found["prediction"]["tpot_s"]["low"] < found["prediction"]["tpot_s"]["high"]
    assert found["provenance"]["decode"] == "computed" and found["provenance"]["prediction"] == "estimated"
    assert len(found["decode"]["layers"]) == len(gpt2.layers)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"model": "nope"}, "nope"),
        ({"device": "Abacus 9000"}, "Abacus"),
        ({"weights": "q9"}, "q9"),
        ({"prompt_tokens": 0}, "prompt_tokens"),
        ({"tokens": 3}, "'tokens'"),
    ],
)
def test_an_analysis_that_makes_no_sense(client: TestClient, change: Any, says: str) -> None:
    refused = client.post("/api/analyses", json={"model": "gpt2"} | change)
    assert refused.status_code == 422 and says in refused.json()["detail"] and refused.json()["hint"]


# ---------------------------------------------------------------- the document


def test_the_document_stands_alone(client: TestClient) -> None:
    found = client.get("/openapi.json").json()
    assert found["openapi"].startswith("3.1") and "/api/runs/{run_id}/events" in found["paths"]
    known = {f"#/components/schemas/{name}" for name in found["components"]["schemas"]}
    named = set()

    def walk(part: Any) -> None:
        for name, value in part.items() if isinstance(part, dict) else enumerate(part):
            if name == "$ref":
                named.add(value)
            elif isinstance(value, dict | list):
                walk(value)

    walk(found["paths"] | found["components"])
    assert named <= known and "#/components/schemas/Request" in named
    body = found["paths"]["/api/runs"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert body == {"$ref": "#/components/schemas/Request"}
    page = client.get("/docs").text
    assert "DELETE /api/runs/{run_id}" in page and "<script" not in page and "http://" not in page.replace('"http', "")
    assert all(f'id="{name}"' in page for name in found["components"]["schemas"])
