"""Many tokens per forward pass behind a server: goodput of each way to decode, under the same load.

The service answers questions of the domain `sql`, asked by our own load test in closed loop; every way to decode is
measured in turn, and again in the same order, so that drift hits all alike. One answer is given at a time, so more
users only wait longer, and the objective on the first token is what they miss. Prompt lookup is speculation without a
draft model; with a smaller model named to draft, speculative decoding takes part as well.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from core import domains
from core.endpoints.address import address
from core.loadtest.conduct import conduct
from core.loadtest.load_store import LoadStore
from core.loadtest.objectives import objectives
from core.loadtest.plan import Plan
from core.loadtest.sending import target
from core.paths import data_dir

ROOT = Path(__file__).parents[2]
WAYS = ("", ":jacobi", ":prompt_lookup")
USERS = (1.0, 2.0)
ROUNDS = 2
ANSWER_TOKENS = 32
LIMITS = ("ttft:2000", "tpot:100")  # MLPerf's for llama3.1-8b in the server scenario


def run(
    model: str = "smollm2-135m", backend: str = "llama_cpp", seconds: float = 60.0, draft: str = ""
) -> list[dict[str, Any]]:
    """One row for each way to decode, number of users and round. seconds: of a window. draft: a smaller model."""
    rows = []
    ways = (*WAYS, *((":speculative",) if draft else ()))
    with tempfile.TemporaryDirectory() as folder:
        questions = Path(folder) / "questions.jsonl"
        asked = ({"prompt": q.prompt, "max_tokens": ANSWER_TOKENS} for q in domains.load("sql", "test", 400, 0))
        questions.write_text("".join(json.dumps(row) + "\n" for row in asked))
        command = [sys.executable, "-m", "core", "serve", "--port", "0", "--model", model, "--backend", backend]
        command += ["--param", "jacobi.window=16", "--param", "jacobi.fill=end", "--json"]
        command += ["--param", f"speculative.draft={draft}"] if draft else []
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as service:
            assert service.stdout is not None
            try:
                url = json.loads(service.stdout.readline())["url"]
                for number in range(ROUNDS):
                    for way in ways:
                        rows += _measured(url, model + way, str(questions), seconds, number)
            finally:
                service.terminate()
    return rows


def _measured(url: str, model: str, questions: str, seconds: float, number: int) -> list[dict[str, Any]]:
    plan = Plan(
        address=url,
        model=model,
        levels=USERS,
        dataset=questions,
        warmup_s=max(5.0, seconds / 4),
        window_s=seconds,
        objectives=objectives(LIMITS),
        at_saturation="go on",
        seed=number,
    )
    root = data_dir()
    test = LoadStore(root).create(plan, address(url).loopback)
    test.own()
    rows = []
    for measured in conduct(root, test, target).points:
        point = measured.point
        rows.append(
            {
                "model": model,
                "users": int(point.load),
                "round": number,
                "requests": point.counted,
                "requests_per_s": point.requests_per_s,
                "tokens_per_s": point.tokens_per_s,
                "goodput_per_s": point.goodput,
                "good": point.good,
                "bad": point.bad,
                "undetermined": point.undetermined,
                "ttft_p50_s": point.ttft.p50.value,
                "tpot_p50_s": point.tpot.p50.value,
                "e2e_p50_s": point.e2e.p50.value,
                "flags": "; ".join(flag.words for flag in measured.flags),
            }
        )
        print(", ".join(f"{name} {value}" for name, value in rows[-1].items()), flush=True)
    return rows
