"""How right the endpoints' client is: what it measures against what a server with known times did, at 1 and 32 streams.

The server is a process of its own and writes down when each piece really left, on the system's one monotonic clock;
the true TTFT is from the request's going out to the first text's leaving, so that the error is the way and the client.
`python -m tests.bench.client` is that server: it prints its address, and what it did when its input ends.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from core.endpoints import client
from core.endpoints.address import address
from core.endpoints.measured import Measured, measured
from tests.support.scripted_server import ScriptedServer, chat

ROOT = Path(__file__).parents[2]
STREAMS, TEXTS, FIRST_S, GAP_S, ROUNDS = (1, 32), 40, 0.25, 0.02, 3
NEAR_S, NEAR_SHARE = 0.002, 0.05


def run() -> list[dict[str, Any]]:
    rows = []
    for n in STREAMS:
        row = compared(n)
        rows.append(row)
        print(
            f"{n:2} streams: TTFT off by {row['ttft_error_p50_ms']:.2f} ms (p95 {row['ttft_error_p95_ms']:.2f}), "
            f"ITL by {row['itl_error_p50_ms']:.3f} ms (p95 {row['itl_error_p95_ms']:.3f}); within 2 ms or 5 %: "
            f"TTFT {row['ttft_near']:.0%}, ITL {row['itl_near']:.0%} of {row['n']}; "
            f"client {row['cpu_share']:.0%} of a core"
        )
    return rows


def compared(n: int) -> dict[str, Any]:
    """Errors over every stream of some rounds of `n` at once."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.bench.client"], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdin is not None and child.stdout is not None
        url = child.stdout.readline().strip()
        found: dict[str, tuple[Measured, float]] = {}
        cpu, wall = time.process_time(), time.perf_counter()
        with ThreadPoolExecutor(n) as pool:
            for turn in range(ROUNDS):
                names = [f"{turn}-{i}" for i in range(n)]
                found |= dict(zip(names, pool.map(lambda name: asked(url, name), names), strict=True))
        share = (time.process_time() - cpu) / (time.perf_counter() - wall)
        child.stdin.close()
        did = json.loads(child.stdout.read())
    ttft = [(found[name][0].ttft_s or 0.0, left[1] - found[name][1]) for name, left in did.items()]
    itl = [(found[name][0].tpot_s or 0.0, (left[-1] - left[1]) / (TEXTS - 1)) for name, left in did.items()]
    return {
        "streams": n,
        "n": len(did),
        "cpu_share": share,
        **{f"ttft_error_{name}_ms": value for name, value in errors_ms(ttft).items()},
        **{f"itl_error_{name}_ms": value for name, value in errors_ms(itl).items()},
        "ttft_near": near(ttft),
        "itl_near": near(itl),
    }


def asked(url: str, name: str) -> tuple[Measured, float]:
    """What was measured, and when the request went out."""
    stream = client.stream(address(url), {"stream": True, "name": name})
    chunks = list(stream)
    return measured(chunks, stream.sent_s or 0.0), stream.sent_s or 0.0


def errors_ms(pairs: list[tuple[float, float]]) -> dict[str, float]:
    off = sorted(1e3 * abs(got - true) for got, true in pairs)
    return {"p50": statistics.median(off), "p95": off[min(len(off) - 1, int(0.95 * len(off)))], "max": off[-1]}


def near(pairs: list[tuple[float, float]]) -> float:
    return sum(abs(got - true) <= max(NEAR_S, NEAR_SHARE * true) for got, true in pairs) / len(pairs)


def serve() -> None:
    texts = [f"word{i} " for i in range(TEXTS)]
    with ScriptedServer(chat(texts, FIRST_S, GAP_S, tokens_each=1)) as server:
        print(server.url, flush=True)
        sys.stdin.read()
        print(json.dumps({seen.body["name"]: seen.sent_s for seen in server.seen}), flush=True)


if __name__ == "__main__":
    serve()
