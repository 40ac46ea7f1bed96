"""The real llama.cpp server of the package xllamacpp with the embedded model, in a process of its own.

`python -m tests.support.llama_server` serves until its input ends, and prints its address first.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]


@contextmanager
def running(slots: int = 2, context: int = 2048) -> Iterator[str]:
    """Its address; `context` tokens are shared by the slots."""
    command = [sys.executable, "-m", "tests.support.llama_server", str(slots), str(context)]
    child = subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert child.stdin is not None and child.stdout is not None
    try:
        url = next((line.strip() for line in child.stdout if line.startswith("http")), "")
        assert url, "the server did not start"
        yield url
    finally:
        child.stdin.close()
        try:
            child.wait(30)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        child.stdout.close()


def serve(slots: int, context: int) -> None:
    from xllamacpp import CommonParams, Server

    from core.models import catalogue

    params = CommonParams()
    params.model.path = catalogue.find(catalogue.EMBEDDED).files["gguf"]
    params.n_parallel, params.n_ctx = slots, context
    params.hostnames, params.port = ["127.0.0.1"], 0
    params.endpoint_metrics, params.ui = True, False
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    server = Server(params)
    print(server.listening_address, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    serve(int(sys.argv[1]), int(sys.argv[2]))
