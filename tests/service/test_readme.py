"""The example calls of core/service/README.md work as they stand."""

from __future__ import annotations

import itertools
import re
import shlex
from pathlib import Path

from starlette.testclient import TestClient

from core.runs.store import Store
from core.service.app import Manner, build
from core.service.offer import Offer

README = Path(__file__).parents[2] / "core" / "service" / "README.md"


def test_the_example_calls(store: Store) -> None:
    fenced = re.findall(r"^```\n(.*?)^```", README.read_text(), re.S | re.M)
    calls = [shlex.split(line) for block in fenced for line in block.splitlines() if line.startswith("curl ")]
    assert len(calls) >= 7
    run_id = ""
    with TestClient(build(store, Manner(), Offer(backend="fake", threads=1)), base_url="http://127.0.0.1") as client:
        for words in calls:
            given = dict(itertools.pairwise(words))
            url = next(word for word in words if word.startswith("http://127.0.0.1:8765/"))
            name, _, value = given.get("-H", "Accept: */*").partition(": ")
            method = given.get("-X", "POST" if "-d" in given else "GET")
            path = url.removeprefix("http://127.0.0.1:8765").replace("RUN_ID", run_id)
            found = client.request(method, path, content=given.get("-d"), headers={name: value})
            assert found.is_success, f"{' '.join(words)}\n{found.text}"
            run_id = found.json().get("run_id", run_id) if path == "/api/runs" else run_id
