"""Sending rows: exactly the bytes that were shown, as a pull request, to a stand-in of the hub; and what goes wrong."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
from click.testing import CliRunner

from core.cli import cli
from core.community import hub
from core.community.row import encoded
from core.community.row_store import RowStore
from core.paths import data_dir
from hardware.errors import ExplorerError
from tests.community.rows import ME, honest

PR = "/datasets/org/rows/discussions/7"


class Hub(BaseHTTPRequestHandler):
    """What the hub answers to a commit: org/rows takes it, org/closed refuses, all else is unknown."""

    asked: ClassVar[list[tuple[str, str, bytes]]] = []

    def log_message(self, *args: Any) -> None:
        pass

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = self.path
        Hub.asked.append((path, str(self.headers.get("Authorization")), body))
        if "/api/datasets/org/closed/" in path:
            return self.answer(403, {"error": "no"}, {})
        if "/api/datasets/org/rows/" not in path:
            return self.answer(404, {}, {"X-Error-Code": "RepoNotFound"})
        if "/preupload/" in path:
            files = [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False}
                     for f in json.loads(body)["files"]]  # fmt: skip
            return self.answer(200, {"files": files}, {})
        where = f"http://127.0.0.1:{self.server.server_address[1]}"
        done = {"success": True, "commitOid": "a" * 40, "commitUrl": f"{where}/datasets/org/rows/commit/{'a' * 40}"}
        return self.answer(200, done | {"pullRequestUrl": f"{where}{PR}"}, {})

    def answer(self, status: int, value: Any, headers: dict[str, str]) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        for key, words in (headers | {"Content-Type": "application/json", "Content-Length": str(len(data))}).items():
            self.send_header(key, words)
        self.end_headers()
        self.wfile.write(data)


@pytest.fixture
def endpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    url = f"http://127.0.0.1:{server.server_port}"
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"HF_ENDPOINT": url, "HF_HOME": str(tmp_path / "hf"), "HF_TOKEN": "hf_stand_in",
                        "NO_PROXY": "127.0.0.1"}.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    Hub.asked.clear()
    yield url
    server.shutdown()
    server.server_close()
    thread.join()


def test_what_was_shown_is_sent_as_a_pull_request(endpoint: str) -> None:
    rows = [honest(contributor=ME), honest(contributor=ME, tok_per_s=7.5)]
    files = hub.payload(rows)
    assert set(files) == {f"data/a-desktop-8-cores-32-gib/{row.id}.json" for row in rows}
    assert hub.send("org/rows", files) == f"{endpoint}{PR}"
    path, token, body = Hub.asked[-1]
    assert "/commit/main" in path and "create_pr=1" in path and token == "Bearer hf_stand_in"
    lines = [json.loads(line) for line in body.splitlines()]
    sent = {v["path"]: base64.b64decode(v["content"]) for v in (x["value"] for x in lines if x["key"] == "file")}
    assert sent == files and lines[0]["value"]["summary"] == "Add 2 rows measured by Roofscope"


@pytest.mark.parametrize(("repo", "words"), [("org/closed", "refused to take rows"), ("org/none", "has no data set")])
def test_a_refusal_is_a_sentence(endpoint: str, repo: str, words: str) -> None:
    with pytest.raises(ExplorerError, match=words) as caught:
        hub.send(repo, hub.payload([honest()]))
    assert "HF_TOKEN" in caught.value.hint


def test_no_hub_no_name_no_row(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    with pytest.raises(ExplorerError, match="HF_HUB_OFFLINE"):
        hub.send("org/rows", hub.payload([honest()]))
    for repo, files in (("rows", hub.payload([honest()])), ("../a/b", {}), ("org/rows", {})):
        with pytest.raises(ExplorerError):
            hub.send(repo, files)


def test_the_command_shows_every_byte_and_sends_nothing_unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[dict[str, bytes]] = []
    monkeypatch.setattr(hub, "send", lambda repo, files: sent.append(dict(files)) or "http://pr")
    row_store = RowStore(data_dir())
    row, doubtful = honest(contributor=ME, day="2026-11-20"), honest(contributor=ME, tok_per_s=333_336.0)
    for kept in (row, doubtful):
        row_store.keep(kept)

    def core(*args: str) -> tuple[int, str]:
        done = CliRunner().invoke(cli, ["community", "send", *args, "--repo", "org/rows"], prog_name="roofscope")
        return done.exit_code, done.output

    code, out = core(row.id)
    assert code == 2 and encoded(row).decode() in out and not sent, "shown, and not sent without a yes"
    code, out = core(row.id, "--yes")
    assert code == 0 and sent == [hub.payload([row])] and "http://pr" in out
    code, out = core(doubtful.id, "--yes")
    assert code == 2 and "doubtful" in out and len(sent) == 1
    assert core("none", "--yes")[0] == 2
