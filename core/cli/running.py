"""Run a model, and take the results along."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from core import plugins
from core.charts.labels import plain
from core.cli.group import cli, fail, json_flag
from core.cli.options import BACKEND, DTYPE, MODEL, OPTIONS, STRATEGY, listed, pairs
from core.interrupt import STOPPED
from core.paths import data_dir
from core.runs.check import check, default_strategy
from core.runs.foresight import Foresight
from core.runs.resolve import Resolved
from core.runs.runner import Runner
from core.runs.stages import passes
from core.runs.store import Run, Store
from core.types import Generate, Phase, Request, Result, Sampling, to_json
from hardware.errors import ExplorerError

LONG_S = 120.0  # a run that takes longer says so before it
LARGE_BYTES = 1e9


@cli.command()
@MODEL
@BACKEND
@STRATEGY
@click.option("--prompt", help="The text to continue or answer.")
@click.option("--prompt-tokens", type=int, help="That many random tokens instead of a text.")
@click.option("--max-new-tokens", type=int, default=64, show_default=True)
@click.option("--system", default="", help="The system message.")
@click.option("--template-system", is_flag=True, help="Leave the system message to the model's chat template.")
@click.option(
    "--template-value",
    "template_values",
    multiple=True,
    help="What the chat template is given besides, key=JSON (enable_thinking=false, tools=[...]); may be repeated.",
)
@click.option("--template", help="The chat template of this name, where the model has several.")
@click.option(
    "--thinking", type=click.Choice(["on", "off"]), help="Tell the chat template whether the model may think."
)
@click.option("--no-chat", is_flag=True, help="Do not wrap the prompt with the model's chat template.")
@click.option("--ignore-eos", is_flag=True, help="Always produce --max-new-tokens.")
@click.option("--temperature", type=float, default=0.0, show_default=True, help="0 is greedy.")
@click.option("--top-k", type=int)
@click.option("--top-p", type=float)
@DTYPE
@click.option("--threads", type=int)
@click.option("--batch", type=int, default=1, show_default=True)
@click.option("--profilers", default="memory,layers", show_default=True, help="Comma-separated; empty for none.")
@click.option("--warmup", type=int, default=1, show_default=True)
@click.option("--repeats", type=int, default=1, show_default=True)
@click.option("--retries", type=int, default=2, show_default=True, help="Timing passes to repeat when disturbed.")
@click.option("--seed", type=int, default=0, show_default=True)
@OPTIONS
@click.option("--param", "params", multiple=True, help="A strategy parameter, key=value; may be repeated.")
@click.option("--allow-oversize", is_flag=True, help="Run even if the model may not fit in memory.")
@json_flag
def run(as_json: bool, **given: Any) -> None:
    """Run a model once and measure it."""
    request = Request(
        model=given["model"],
        backend=given["backend"],
        strategy=given["strategy"] or default_strategy(plugins.get("backend", given["backend"])),
        task=Generate(
            prompt=given["prompt"],
            prompt_tokens=given["prompt_tokens"],
            max_new_tokens=given["max_new_tokens"],
            chat=not given["no_chat"],
            system=None if given["template_system"] else given["system"],
            ignore_eos=given["ignore_eos"],
            template=given["template"],
            thinking=None if given["thinking"] is None else given["thinking"] == "on",
            template_values=template_values(given["template_values"]),
            sampling=Sampling(temperature=given["temperature"], top_k=given["top_k"], top_p=given["top_p"]),
        ),
        dtype=given["dtype"],
        threads=given["threads"],
        batch=given["batch"],
        profilers=listed(given["profilers"]),
        warmup=given["warmup"],
        repeats=given["repeats"],
        retries=given["retries"],
        seed=given["seed"],
        allow_oversize=given["allow_oversize"],
        options=pairs(given["options"]),
        params=pairs(given["params"]),
    )
    with performed(request) as result:
        click.echo(to_json(result) if as_json else summary(result))


@contextmanager
def performed(request: Request) -> Iterator[Result]:
    """Run to the end with progress on stderr; inside, what came of it is printed.

    Leaves the process with a status when it failed, and after Ctrl-C, so that nothing goes on that was to follow.
    """
    runner = Runner(Store(data_dir()))
    stopped = False
    try:
        wanted = check(request)
        run_id = runner.begin(wanted)
        for line in beforehand(wanted, runner.store):
            click.echo(line, err=True)
        try:
            result = follow(runner, runner.store.open(run_id))
        except KeyboardInterrupt:
            stopped = True
            runner.cancel(run_id)
            result = runner.wait(run_id).result()
    finally:
        runner.close()
    if result.status == "failed":
        failed = runner.store.open(run_id).failure()
        fail(result.error or "The run failed.", result.hint or "", 2 if failed and failed.user_error else 1)
    yield result
    if stopped:
        sys.exit(STOPPED)


def beforehand(wanted: Resolved, store: Store) -> list[str]:
    """What to know of a long run before it: what is written first, and about how long it takes by a rough guess."""
    found = []
    size = wanted.spec.weight_bytes or 0
    if wanted.path is None and wanted.format != "config" and size > LARGE_BYTES:
        drawn = "random weights" if wanted.spec.random_weights else f"the model as {wanted.format}"
        found.append(f"First {size / 1e9:.1f} GB are written to the disk ({drawn}), unless they are kept from before.")
    if isinstance(wanted.request.task, Generate) and "remote" not in wanted.backend.capabilities:
        seconds, n = Foresight(store).seconds(wanted), passes(wanted.request)
        if seconds >= LONG_S:
            one = "pass" if n == 1 else "passes"
            found.append(
                f"The run takes about {seconds / 60:.0f} min by a rough guess, with {n} {one} over the answer: fewer "
                "come of --repeats 1, --profilers '' and less of --max-new-tokens. Ctrl-C stops it."
            )
    return found


def follow(runner: Runner, run: Run) -> Result:
    """Progress on stderr until the run has ended."""
    shown = 0
    while True:
        active = runner.active() == run.id
        events = run.events()
        for event in events[shown:]:
            if isinstance(event, Phase) and event.note:
                of = (
                    f" {event.done:.0f}/{event.total:.0f} {event.unit}"
                    if event.done is not None and event.total
                    else ""
                )
                click.echo(f"{event.t_s:7.1f} s  {event.name}: {event.note}{of}", err=True)
        shown = len(events)
        if not active:
            return run.result()
        time.sleep(0.05)


def summary(result: Result) -> str:
    """A run in a few lines for a terminal."""

    def number(value: float | None, unit: str, scale: float = 1.0) -> str:
        return "not measured" if value is None else f"{plain(value * scale)} {unit}"

    told = result.disturbance
    return "\n".join(
        [
            result.text,
            "",
            f"run         {result.run_id} ({result.status})",
            f"TTFT        {number(result.ttft_s, 'ms', 1e3)}",
            f"TPOT        {number(result.tpot_s, 'ms', 1e3)}",
            f"decode      {number(result.tok_per_s, 'tok/s')}",
            f"per forward {number(result.tokens_per_forward, 'tokens')}",
            f"prefill     {number(result.prefill_tok_per_s, 'tok/s')}",
            *([] if result.batch_filled is None else [f"batch       {result.batch}, {result.batch_filled:.0%} full"]),
            *[f"option      {name}={value}" for name, value in result.options.items()],
            *_wrapped(result),
            f"peak memory {number(result.peak_memory_bytes, 'MB', 1e-6)}",
            *([f"disturbed   {told.sentence}"] if told is not None and told.disturbed else []),
            *[f"warning     {w}" for w in result.warnings],
        ]
    )


def _wrapped(result: Result) -> list[str]:
    """The chat template, where it is not the usual one as it is."""
    setup = result.setup
    if setup is None or not setup.chat_template or (setup.chat_template == "default" and setup.thinking is None):
        return []
    thinking = "" if setup.thinking is None else f", thinking {'on' if setup.thinking else 'off'}"
    return [f"template    {setup.chat_template}{thinking}"]


def template_values(values: tuple[str, ...]) -> dict[str, Any]:
    """key=JSON arguments, Python's True, False and None as well, and what is neither as text; raises ExplorerError for
    one without an equals sign."""
    pairs(values)
    python = {"True": True, "False": False, "None": None}
    found = {}
    for key, text in (value.split("=", 1) for value in values):
        try:
            found[key] = json.loads(text)
        except ValueError:
            found[key] = python.get(text, text)
        except RecursionError:
            raise ExplorerError(f"The value of {key[:100]} is nested too deeply.", "Give a plainer one.") from None
    return found
