"""The app's own speed: start to first page, a refresh during a run, Run to the first token when warm."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from core.runs.runner import Runner
from core.runs.store import Run, Store
from core.types import Generate, Pass, Request, Step

ROOT = Path(__file__).parents[2]
START = """
import os, time, streamlit, streamlit.testing.v1 as t
started = time.perf_counter()
at = t.AppTest.from_file("app.py", default_timeout=60).run()
assert not at.exception
print(time.perf_counter() - started)
"""
REFRESH = """
import os, time, streamlit.testing.v1 as t
from pages.ui.state import runner
from core.types import Generate, Request
at = t.AppTest.from_file("app.py", default_timeout=60).run()
run_id = runner().start(Request(model="smollm2-135m", backend="fake", warmup=0, live=True, options={"delay_s": 0.02},
                                task=Generate(prompt="Hello", max_new_tokens=2000)))
while not any(type(e).__name__ == "Step" for e in runner().store.open(run_id).events()):
    time.sleep(0.05)
at.query_params["run"] = run_id
at.run()
times = []
for _ in range(10):
    time.sleep(0.5)
    started = time.perf_counter()
    at.run()
    times.append(time.perf_counter() - started)
    assert not at.exception, at.exception
runner().close()
print(sorted(times)[len(times) // 2])
"""


def child(code: str) -> float:
    with tempfile.TemporaryDirectory() as home:
        env = {**os.environ, "ROOFSCOPE_HOME": home}
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return float(done.stdout.strip().splitlines()[-1])


def first_token(runner: Runner, request: Request) -> tuple[float, float]:
    """Seconds from start() to the first token's event, and of those the model's own prefill."""
    run: Run = runner.wait(runner.start(request))
    events = run.events()
    first = next(e for e in events if isinstance(e, Step) and e.counts.tokens)
    number = next(e for e in events if isinstance(e, Pass)).number
    prefill = sum(e.seconds for e in events if isinstance(e, Step) and e.pass_no == number and e.phase == "prefill")
    return first.t_s, prefill


def run() -> dict[str, Any]:
    start_s = statistics.median(child(START) for _ in range(3))
    print(f"start to first page, after importing streamlit: {start_s:.2f} s (target 2 s)")
    refresh_s = child(REFRESH)
    print(f"refresh of the whole page during a run: {refresh_s * 1e3:.0f} ms (target 150 ms)")
    extra = {}
    with tempfile.TemporaryDirectory() as home:
        for backend in ("llama_cpp", "onnxruntime", "pytorch"):
            runner = Runner(Store(Path(home)))
            task = Generate(prompt="What is the capital of France?", max_new_tokens=8)
            request = Request(model="smollm2-135m", backend=backend, task=task, profilers=())
            runner.wait(runner.start(request))
            pairs = [first_token(runner, request) for _ in range(5)]
            runner.close()
            extra[backend] = statistics.median(total - prefill for total, prefill in pairs)
            print(f"Run to first token, warm, {backend}: prefill + {extra[backend] * 1e3:.0f} ms (target 500 ms)")
    return {"start_s": start_s, "refresh_s": refresh_s, "run_to_first_token_extra_s": extra}
