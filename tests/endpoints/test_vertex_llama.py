"""A run over the stand-in of Vertex AI with the real llama.cpp server behind it, and what the platform says of it."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from click.testing import CliRunner

from core.cli import cli
from core.endpoints import store as endpoints
from core.endpoints import vertex
from core.runs import platform
from core.runs.runner import Runner
from core.runs.store import Store
from core.types import Generate, Request, to_json
from tests.endpoints.test_vertex import series
from tests.support import llama_server
from tests.support.google_cloud import DEDICATED, PROJECT, REGION, SHARED, TOKEN, Speaks
from tests.support.google_cloud import google as stand_ins
from tests.support.scripted_server import Answer, Piece, Seen, json_answer

pytest.importorskip("xllamacpp", reason="the real llama.cpp server is a package of its own")


@contextmanager
def container() -> Iterator[Speaks]:
    """The real server as a container: what comes by Google's paths goes to its own."""
    with llama_server.running() as url:
        host = urlsplit(url).netloc

        def speaks(seen: Seen, path: str) -> Answer:
            body = dict(seen.body)
            if path == ":predict":
                body = dict(body["instances"][0])
                assert body.pop("@requestFormat") == "chatCompletions"
            asked = http.client.HTTPConnection(host, timeout=60)
            asked.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
            found = asked.getresponse()
            data, kind = found.read(), found.headers.get_content_type()
            asked.close()
            if path == ":predict":
                return json_answer({"predictions": [json.loads(data)]}, found.status)
            return Answer([Piece(data)], found.status, kind)

        yield speaks


def test_a_run_over_vertex_ai_and_its_samples(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, home: Path, store: Store
) -> None:
    with container() as speaks, stand_ins(monkeypatch, tmp_path, speaks, series=series):
        runner = Runner(store)
        texts = {}
        try:
            for number, api in ((SHARED, "chat"), (DEDICATED, "raw"), (DEDICATED, "predict")):
                kept = endpoints.add_cloud(vertex.endpoint(PROJECT, REGION, number))
                request = Request(
                    model=endpoints.catalogue_id(kept, kept.models[0]),
                    backend="endpoint",
                    strategy="native",
                    task=Generate(prompt="What is the capital of France?", max_new_tokens=6),
                    options={"api": api},
                    profilers=(),
                    warmup=0,
                    retries=0,
                )
                run = runner.wait(runner.start(request))
                result = run.result()
                assert result.status == "done", result.error
                assert result.served is not None and result.served.n_prompt
                texts[api] = result.text
        finally:
            runner.close()
        assert texts["chat"] == texts["raw"] == texts["predict"] and texts["chat"].strip()
        assert platform.of_cloud(run) == (PROJECT, REGION, DEDICATED) and platform.wait_s(run) > 0
        early = CliRunner().invoke(cli, ["endpoints", "platform", run.id])
        assert early.exit_code == 2 and "not there yet" in early.stderr and platform.kept(run) is None
        plain = to_json(run.result())
        later = platform.window(run)[1] + 361
        monkeypatch.setattr("core.endpoints.monitoring.time.time", lambda: later)
        done = CliRunner().invoke(cli, ["endpoints", "platform", run.id])
        assert done.exit_code == 0 and "60 s samples" in done.stdout and "r-b" in done.stdout
    found = platform.kept(run)
    assert found is not None and found.replicas == ("r-b", "r-a")
    assert to_json(run.result()) == plain, "no number of the run comes from the platform"
    away = Store(tmp_path / "away").load(run.bundle())
    assert platform.kept(away) == found
    assert TOKEN.encode() not in b"".join(f.read_bytes() for f in home.rglob("*") if f.is_file())
