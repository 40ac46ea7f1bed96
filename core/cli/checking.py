"""Whether Roofscope works here: every backend runs the embedded model for a few tokens, in a worker of its own."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import click

from core import plugins
from core.cli.group import cli, json_flag, show
from core.cli.running import follow
from core.runs.runner import Runner
from core.runs.store import Store
from core.types import Generate, Request, Setup
from hardware.errors import ExplorerError

BACKENDS = tuple(n for n in plugins.names("backend") if n != "endpoint")  # of which `endpoints list` tells
MODEL = "smollm2-135m"
TASK = Generate(prompt="What is the capital of France?", max_new_tokens=8)


@cli.command()
@json_flag
@click.pass_context
def check(ctx: click.Context, as_json: bool) -> None:
    """Say for every backend whether it runs here, with which kernels, and what to do where it does not."""
    with tempfile.TemporaryDirectory() as folder:
        runner = Runner(Store(Path(folder)))
        try:
            rows = [row(runner, name) for name in BACKENDS]
        finally:
            runner.close()
    show(rows, as_json)
    ctx.exit(0 if all(found["runs"] == "yes" for found in rows) else 1)


def row(runner: Runner, name: str) -> dict[str, Any]:
    """One backend: whether it runs here, how fast a first short answer was, with what, and what to do otherwise."""
    backend = plugins.get("backend", name)
    if reason := backend.unavailable():
        return _row(backend.label, "no", None, "", reason)
    request = Request(model=MODEL, backend=name, task=TASK, profilers=())
    try:
        result = follow(runner, runner.store.open(runner.start(request)))
    except ExplorerError as error:
        return _row(backend.label, "no", None, "", f"{error.message} {error.hint}".strip())
    if result.status != "done":
        return _row(backend.label, "no", None, "", f"{result.error or result.status} {result.hint or ''}".strip())
    return _row(backend.label, "yes", result.tok_per_s, _uses(result.setup), "")


def _row(label: str, runs: str, tok_per_s: float | None, uses: str, advice: str) -> dict[str, Any]:
    return {"backend": label, "runs": runs, "tok_per_s": tok_per_s, "uses": uses, "what to do": advice}


def _uses(setup: Setup | None) -> str:
    """What the backend really ran with: versions, device, weights and kernels."""
    if setup is None:
        return ""
    versions = [f"{name} {version}" for name, version in setup.versions.items() if name != "python"]
    return ", ".join(filter(None, (*versions, setup.device_name or setup.device, setup.weight_dtype, setup.kernels)))
