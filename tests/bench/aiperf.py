"""Our load test beside NVIDIA's aiperf, which lives in an environment of its own: the same server, in turns.

Server and tool have processors of their own, for on two cores that they share aiperf's processes take most of what the
server computes with: so that the tools are compared and not what they cost. `shared` rows are without that.
One user in closed loop, random prompts and answers of one length. aiperf's inter-token latency is what we call time
per output token (shared definitions: (end - first token) / (tokens - 1)); both count the tokens that the server tells.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from core.endpoints.address import address
from core.loadtest.conduct import conduct
from core.loadtest.load_store import LoadStore
from core.loadtest.plan import Lengths, Plan
from core.loadtest.sending import target
from core.paths import data_dir

ROOT = Path(__file__).parents[2]
MODEL = "smollm2-135m"
PROMPT_TOKENS, ANSWER_TOKENS, REQUESTS, WINDOW_S = 128, 32, 20, 20.0
TURNS = ("roofscope", "aiperf", "aiperf", "roofscope")


def run(aiperf: str = "aiperf") -> list[dict[str, Any]]:
    """One row for each turn of each tool. aiperf: its program; without it there are no rows."""
    program = shutil.which(aiperf)
    if program is None:
        print("There is no aiperf here: install it into an environment of its own and name its program: --aiperf PATH.")
        return []
    made = subprocess.run(
        [sys.executable, "-m", "core.models.artifacts", MODEL, "hf"], cwd=ROOT, stdout=subprocess.PIPE, check=True
    )
    tokenizer = json.loads(made.stdout.splitlines()[-1])["path"]
    every = sorted(os.sched_getaffinity(0))
    half = len(every) // 2
    rows = []
    for how, server, tool in (("apart", every[:half], every[half:]), ("shared", every, every)):
        if not server:
            continue
        try:
            os.sched_setaffinity(0, server)
            with _service(len(server)) as url:
                os.sched_setaffinity(0, tool)
                for number, name in enumerate(TURNS):
                    found = _ours(url, number) if name == "roofscope" else _theirs(program, url, tokenizer, number)
                    rows.append({"processors": how, "tool": name, "turn": number, **found})
                    print(", ".join(f"{key} {value}" for key, value in rows[-1].items()), flush=True)
        finally:
            os.sched_setaffinity(0, every)
    return rows


@contextmanager
def _service(threads: int) -> Iterator[str]:
    """The address of a server of ours, on the processors that this process has now."""
    command = [sys.executable, "-m", "core", "serve", "--port", "0", "--json", "--threads", str(threads)]
    command += ["--model", MODEL, "--backend", "llama_cpp"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as service:
        assert service.stdout is not None
        try:
            url: str = json.loads(service.stdout.readline())["url"]
            yield url
        finally:
            service.terminate()


def _ours(url: str, number: int) -> dict[str, Any]:
    plan = Plan(
        address=url,
        model=MODEL,
        levels=(1.0,),
        prompt=Lengths(low=PROMPT_TOKENS),
        answer=Lengths(low=ANSWER_TOKENS),
        window_s=WINDOW_S,
        seed=number,
    )
    test = LoadStore(data_dir()).create(plan, address(url).loopback)
    test.own()
    (measured,) = conduct(data_dir(), test, target).points
    point = measured.point
    return {
        "requests": point.counted,
        "ttft_p50_ms": _ms(point.ttft.p50.value),
        "tpot_p50_ms": _ms(point.tpot.p50.value),
        "tokens_per_s": point.tokens_per_s,
    }


def _theirs(program: str, url: str, tokenizer: str, number: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        command = [
            program, "profile", "--model", MODEL, "--url", url, "--endpoint-type", "chat", "--streaming",
            "--tokenizer", tokenizer, "--use-server-token-count", "--concurrency", "1",
            "--request-count", str(REQUESTS), "--warmup-request-count", "2",
            "--isl", str(PROMPT_TOKENS), "--osl", str(ANSWER_TOKENS), "--extra-inputs", '{"ignore_eos": true}',
            "--random-seed", str(number), "--ui", "none", "--artifact-dir", folder,
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        file = next(Path(folder).rglob("profile_export_aiperf.json"), None)
        if file is None:
            sys.exit(f"aiperf made no report: {(done.stderr or done.stdout)[-2000:]}")
        told = json.loads(file.read_bytes())
    return {
        "requests": int(told["request_count"]["avg"]),
        "ttft_p50_ms": told["time_to_first_token"]["p50"],
        "tpot_p50_ms": told["inter_token_latency"]["p50"],
        "tokens_per_s": told["output_token_throughput"]["avg"],
    }


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else 1e3 * seconds
