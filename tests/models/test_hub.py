"""Downloads, against a small hub on this machine's loopback address; and with no hub at all."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

COMMIT = "a" * 40
BIG = bytes(range(256)) * 8192
REPOS: dict[str, dict[str, Any]] = {
    "org/tiny": {
        "files": {
            "config.json": b'{"model_type": "llama"}',
            "tokenizer.json": b"{}",
            "model.safetensors": BIG,
            "pytorch_model.bin": b"pickle",
            "modeling_own.py": b"raise SystemExit",
            "onnx/model.onnx": b"x",
            "consolidated.safetensors": b"x",
            "README.md": b"x",
        },
        "licence": "apache-2.0",
    },
    "org/many-GGUF": {
        "files": {
            "many-Q2_K.gguf": b"GGUF2",
            "many-Q4_K_M.gguf": b"GGUF four",
            "Q8/many-Q8_0-00001-of-00002.gguf": b"GGUF eight",
            "Q8/many-Q8_0-00002-of-00002.gguf": b"GGUF eight again",
            "mmproj-many.gguf": b"GGUF",
            "imatrix_unsloth.gguf": b"GGUF",
            "many-imatrix.gguf": b"GGUF",  # as bartowski calls it
            "config.json": b"{}",
        }
    },
    "org/pickled": {"files": {"pytorch_model.bin": b"x", "config.json": b"{}"}},
    "org/empty": {"files": {"README.md": b"x"}},
    "org/gated": {"files": {"model.safetensors": b"x"}, "gated": "manual"},
    "org/sick": {"files": {}, "status": 500},
    "org/huge": {"files": {"model.safetensors": b"x"}, "size": 10**16},
}


class Hub(BaseHTTPRequestHandler):
    """The few answers of the hub's HTTP interface that a download asks for."""

    asked: ClassVar[list[str]] = []

    def log_message(self, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer(head=True)

    def do_GET(self) -> None:
        self.answer()

    def answer(self, head: bool = False) -> None:
        path = self.path.partition("?")[0]
        Hub.asked.append(path)
        api = path.startswith("/api/models/")
        words = path.removeprefix("/api/models").strip("/").split("/")
        name, rest = "/".join(words[:2]), words[2:]
        repo = REPOS.get(name)
        if repo is None:
            return self.send(404, b"{}", {"X-Error-Code": "RepoNotFound"}, head)
        if "status" in repo:
            return self.send(repo["status"], b"{}", {}, head)
        if api and rest[:1] == ["auth-check"]:
            return self.send(403 if repo.get("gated") else 200, b"{}", {"X-Error-Code": "GatedRepo"}, head)
        if api and rest[:1] == ["tree"]:
            return self.json([self.entry(n, d) for n, d in repo["files"].items()], head)
        if api:
            siblings = [
                {"rfilename": n, "size": repo.get("size", len(d)), "blobId": "b" * 40} for n, d in repo["files"].items()
            ]
            card = {"license": repo["licence"]} if "licence" in repo else None
            about = {"id": name, "sha": COMMIT, "siblings": siblings, "gated": repo.get("gated", False)}
            return self.json(about | {"cardData": card, "tags": [], "downloads": 0}, head)
        data = repo["files"]["/".join(rest[2:])]
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{hashlib.sha1(data).hexdigest()}"'}
        return self.send(200, data, headers, head)

    def entry(self, name: str, data: bytes) -> dict[str, Any]:
        return {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}

    def json(self, value: Any, head: bool) -> None:
        self.send(200, json.dumps(value).encode(), {"Content-Type": "application/json"}, head)

    def send(self, status: int, data: bytes, headers: dict[str, str], head: bool) -> None:
        self.send_response(status)
        for key, value in (headers | {"Content-Length": str(len(data))}).items():
            self.send_header(key, value)
        self.end_headers()
        if not head:
            self.wfile.write(data)


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def hub(endpoint: str, home: Path, *arguments: str, **environment: str) -> tuple[int, list[dict[str, Any]], str]:
    """Exit status, the JSON lines, and what was printed beside them."""
    names = ("HF_TOKEN", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy")
    clean = {k: v for k, v in os.environ.items() if k not in names}
    settings = {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "NO_PROXY": "127.0.0.1", "HOME": str(home)}
    done = subprocess.run(
        [sys.executable, "-m", "core.models.hub", *arguments],
        cwd=Path(__file__).parents[2],
        env=clean | settings | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()], done.stderr


def test_plan_then_download_then_found(endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    status, [plan], _ = hub(endpoint, tmp_path, "plan", "org/tiny")
    assert status == 0
    assert [f["name"] for f in plan["files"]] == ["model.safetensors", "config.json", "tokenizer.json"]
    size = len(BIG) + len(b'{"model_type": "llama"}') + 2
    assert plan["total_bytes"] == plan["to_download_bytes"] == size and plan["fits"]
    assert plan["licence"] == "apache-2.0" and plan["free_bytes"] > 0
    assert not (tmp_path / "hub").exists()  # a plan fetches nothing

    Hub.asked.clear()
    status, lines, errors = hub(endpoint, tmp_path, "download", "org/tiny")
    assert status == 0, errors
    folder = Path(lines[-1]["path"])
    assert (folder / "model.safetensors").read_bytes() == BIG
    assert sorted(p.name for p in folder.iterdir()) == ["config.json", "model.safetensors", "tokenizer.json"]
    counted = [line["done"] for line in lines[:-1]]
    assert counted == sorted(counted) and counted[-1] == size and {line["total"] for line in lines[:-1]} == {size}
    assert len(counted) >= 2 and lines[0]["unit"] == "bytes"
    assert "it/s" not in errors and "B/s" not in errors
    assert not any("agent" in path or "telemetry" in path for path in Hub.asked)

    _, [again], _ = hub(endpoint, tmp_path, "plan", "org/tiny")
    assert again["to_download_bytes"] == 0 and again["total_bytes"] == size

    from core.models import catalogue

    monkeypatch.setenv("ROOFSCOPE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    assert "org/tiny" in {e.id for e in catalogue.entries(refresh=True)}


def test_one_of_many_quantizations(endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, [plan], _ = hub(endpoint, tmp_path, "plan", "org/many-GGUF")
    assert plan["gguf"] == "many-Q4_K_M.gguf" and plan["total_bytes"] == len(b"GGUF four")
    sizes = {c["name"]: c["size_bytes"] for c in plan["choices"]}
    split = "Q8/many-Q8_0-00001-of-00002.gguf"
    assert sizes == {"many-Q2_K.gguf": 5, "many-Q4_K_M.gguf": 9, split: 26}
    status, lines, _ = hub(endpoint, tmp_path, "download", "org/many-GGUF", "--gguf", split)
    assert status == 0
    assert lines[-1]["path"].endswith(split)
    assert Path(lines[-1]["path"].replace("00001-of", "00002-of")).read_bytes() == b"GGUF eight again"

    from core.models import catalogue

    monkeypatch.setenv("ROOFSCOPE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    found = {e.id: e.files for e in catalogue.entries(refresh=True)}
    assert found["org/many-GGUF"] == {"gguf": lines[-1]["path"]}


@pytest.mark.parametrize(
    ("repo", "words"),
    [
        ("org/nothing", "has no model 'org/nothing'"),
        ("org/gated", "org/gated is gated"),
        ("org/pickled", "only as pickle files"),
        ("org/empty", "no safetensors and no GGUF"),
        ("org/sick", "answered with error 500"),
        ("not an id!", "is not a hub id"),
        ("a/b/c", "is not a hub id"),
    ],
)
def test_each_fault_is_one_sentence(endpoint: str, tmp_path: Path, repo: str, words: str) -> None:
    status, lines, errors = hub(endpoint, tmp_path, "plan", repo)
    assert status == 2 and "Traceback" not in errors
    assert words in lines[-1]["message"] and lines[-1]["hint"].endswith(".")


def test_wrong_choice_names_the_right_ones(endpoint: str, tmp_path: Path) -> None:
    status, [said], _ = hub(endpoint, tmp_path, "plan", "org/many-GGUF", "--gguf", "many-Q9.gguf")
    assert status == 2 and "many-Q2_K.gguf" in said["hint"]


def test_too_small_a_disk_is_said_before(endpoint: str, tmp_path: Path) -> None:
    status, lines, _ = hub(endpoint, tmp_path, "download", "org/huge")
    assert status == 2 and "10000000.00 GB are needed" in lines[-1]["message"]


def test_offline_is_said(tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{unused.getsockname()[1]}"
    status, [said], errors = hub(nobody, tmp_path, "plan", "org/tiny")
    assert status == 2 and "cannot be reached" in said["message"] and "Traceback" not in errors
    status, [said], _ = hub(nobody, tmp_path, "plan", "org/tiny", HF_HUB_OFFLINE="1")
    assert status == 2 and "HF_HUB_OFFLINE" in said["message"]
