"""roofscope serve: where it listens, what it refuses, and how it ends."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import psutil
import pytest
from click.testing import CliRunner

from core.cli import cli
from core.cli.serving import listening, most_connections
from hardware.errors import ExplorerError

ROOT = Path(__file__).parents[2]


def test_it_answers_on_this_machine_alone_until_ctrl_c() -> None:
    command = [sys.executable, "-m", "core", "serve", "--port", "0", "--json"]
    with subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as going:
        assert going.stdout is not None
        url = json.loads(going.stdout.readline())["url"]
        with urllib.request.urlopen(f"{url}/health", timeout=60) as answer:
            assert json.load(answer) == {"status": "ok"}
        listens = [c.laddr.ip for c in psutil.Process(going.pid).net_connections() if c.status == psutil.CONN_LISTEN]
        going.send_signal(signal.SIGINT)
        said = going.communicate(timeout=60)[1]
    assert listens == ["127.0.0.1"] and url.startswith("http://127.0.0.1:")
    assert going.returncode == 130 and "Traceback" not in said, said


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("--host", "0.0.0.0"), "needs a key"),
        (("--host", "192.0.2.7"), "needs a key"),
        (("--host", "::"), "needs a key"),
        (("--key-from", "NO_SUCH_VARIABLE"), "NO_SUCH_VARIABLE holds no key"),
        (("--host", "192.0.2.7", "--key-from", "A_KEY"), "cannot listen on 192.0.2.7"),
        (("--port", "70000"), "70000"),
        (("--model", "no-such-model"), "no-such-model"),
        (("--backend", "nope"), "nope"),
        (("--param", "window=3"), "whose parameter"),
        (("--param", "jacobi.windw=3"), "windw"),
        (("--param", "sorcery.window=3"), "sorcery"),
        (("--option", "n_ctx"), "key=value"),
    ],
)
def test_what_it_does_not_do(args: tuple[str, ...], says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_KEY", "k")
    done = CliRunner().invoke(cli, ["serve", "--port", "0", *args])
    assert done.exit_code == 2 and says in done.stderr, done.stderr


def test_a_port_that_is_taken_is_said() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ExplorerError, match="in use") as refused:
            listening("127.0.0.1", taken.getsockname()[1])
    assert "--port" in refused.value.hint


def test_connections_leave_files_for_the_rest() -> None:
    assert [most_connections(n) for n in (65_536, 1024, 300, 1)] == [65_280, 768, 150, 1]


@pytest.mark.skipif(sys.platform == "win32", reason="no limit of open files")
def test_the_service_asks_for_as_many_files_as_it_may_have() -> None:
    words = (
        "import resource; from core.cli.serving import files; "
        "resource.setrlimit(resource.RLIMIT_NOFILE, (200, 300)); "
        "print(files(), *resource.getrlimit(resource.RLIMIT_NOFILE))"
    )
    done = subprocess.run([sys.executable, "-c", words], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["300", "300", "300"]
