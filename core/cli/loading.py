"""Load tests of a model server: carry one out, and read those that are there."""

from __future__ import annotations

import sys
from typing import Any

import click

from core.cli.group import cli, fail, json_flag, show
from core.endpoints.address import address
from core.interrupt import STOPPED
from core.loadtest.conduct import conduct
from core.loadtest.lengths import lengths, read_rows
from core.loadtest.load_store import LoadStore
from core.loadtest.objectives import PRESETS, objectives
from core.loadtest.plan import Plan, check, levels_of, named
from core.loadtest.report import Report, export
from core.loadtest.sending import key_of, target
from core.loadtest.views import table
from core.paths import data_dir
from core.runs.measuring import BusyError, holder
from core.types import to_json
from hardware.errors import ExplorerError

FORMATS = ("table", "json", "csv", "requests")


@cli.command()
@click.argument("url")
@click.option("--model", default="", help="As the server calls it; without it, the first one that it lists.")
@click.option("--users", help="Closed loop: how many ask at once, each again after its answer: 1,2,4.")
@click.option("--rate", help="Open loop: requests per second, sent when they are due: 0.5,1,2.")
@click.option("--burstiness", type=float, default=1.0, show_default=True, help="1: Poisson; less: bursts; more: even.")
@click.option("--find", is_flag=True, help="Search between the first and the last load for the largest that is good.")
@click.option("--prompt-tokens", default="128", show_default=True, help="128, 64-256 or 128~0.5 (log-normal).")
@click.option("--answer-tokens", default="64", show_default=True, help="In the same words.")
@click.option("--dataset", default="", help="A JSONL file with prompts or lengths of your own.")
@click.option("--goodput", "limits", multiple=True, help="ttft:200 tpot:50 e2el:5000 (ms), or a preset; see --presets.")
@click.option("--share", type=float, help="Of the requests that must keep them: 0.9, with MLPerf's 0.99.")
@click.option("--warmup", type=float, default=5.0, show_default=True, help="Seconds of load before the window.")
@click.option("--seconds", type=float, default=30.0, show_default=True, help="Of the window, on each level.")
@click.option("--grace", type=float, default=60.0, show_default=True, help="Open loop: seconds for the last answers.")
@click.option("--timeout", type=float, default=300.0, show_default=True, help="Seconds of silence that end a request.")
@click.option("--repeats", type=int, default=1, show_default=True, help="Of each level, interleaved.")
@click.option("--max-requests", type=int, default=5000, show_default=True, help="On each level.")
@click.option("--max-minutes", type=float, default=30.0, show_default=True, help="In all.")
@click.option("--past-saturation", is_flag=True, help="Go on when more load brings no more throughput.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--key-from", default="", help="The environment variable that holds the server's key.")
@click.option("--presets", is_flag=True, is_eager=True, expose_value=False, callback=lambda c, _, on: _presets(c, on))
@json_flag
def load(url: str, as_json: bool, **given: Any) -> None:
    """Put load on a model server: latency, throughput and goodput at each level."""
    if bool(given["users"]) and bool(given["rate"]):
        raise ExplorerError("Users and a rate at once are neither loop.", "Give --users or --rate.")
    open_loop = bool(given["rate"])
    plan = Plan(
        address=url,
        model=given["model"],
        mode="open" if open_loop else "closed",
        levels=levels_of(given["rate"] if open_loop else given["users"] or "1,2,4"),
        burstiness=given["burstiness"],
        prompt=lengths(given["prompt_tokens"]),
        answer=lengths(given["answer_tokens"]),
        dataset=given["dataset"],
        warmup_s=given["warmup"],
        window_s=given["seconds"],
        grace_s=given["grace"],
        timeout_s=given["timeout"],
        repeats=given["repeats"],
        max_requests=given["max_requests"],
        max_minutes=given["max_minutes"],
        objectives=objectives(given["limits"], given["share"]),
        find=given["find"],
        at_saturation="go on" if given["past_saturation"] else "stop",
        seed=given["seed"],
        key=given["key_from"],
    )
    check(plan)
    read_rows(plan.dataset)
    key_of(plan.key)
    if (other := holder(data_dir())) is not None:
        raise BusyError(other)
    test = LoadStore(data_dir()).create(plan, address(plan.address).loopback)
    test.own()
    stopped = False
    try:
        found = conduct(data_dir(), test, target, lambda words: click.echo(words, err=True))
    except KeyboardInterrupt:
        found, stopped = test.report(), True
    except ExplorerError as error:
        found = test.report()
        if as_json or found.points:
            _print(found, "json" if as_json else "table")
        fail(error.message, error.hint, 1)
    _print(found, "json" if as_json else "table")
    if stopped:
        sys.exit(STOPPED)


@cli.command()
@click.argument("test_id", required=False)
@click.option("--format", "fmt", type=click.Choice(FORMATS), default="table", show_default=True)
@json_flag
def loads(test_id: str | None, fmt: str, as_json: bool) -> None:
    """The load tests on this machine; one of them as a table, as JSON, or as CSV of its levels or its requests."""
    kept = LoadStore(data_dir())
    if test_id is None:
        show(kept.rows(), as_json or fmt == "json")
        return
    test = kept.open(test_id)
    if fmt == "requests":
        click.echo(export(test.report(), test.events(), "requests"), nl=False)
        return
    _print(test.report(), "json" if as_json else fmt)


def _print(found: Report, fmt: str) -> None:
    if fmt == "json":
        click.echo(to_json(found))
        return
    if fmt == "csv":
        click.echo(export(found, (), "csv"), nl=False)
        return
    show([dict(row) for row in table(found)])
    for m in found.points:
        for flag in m.flags:
            click.echo(f"{named(m.point.load, found.plan.unit)}: {flag.words}")
        for reason in m.point.reasons:
            click.echo(f"{named(m.point.load, found.plan.unit)}: failed: {reason}")
    loop = "closed loop" if found.plan.mode == "closed" else "open loop, latencies from the scheduled time"
    click.echo(f"\n{loop}; {found.n_requests} requests in {found.spent_s:.0f} s (load test {found.id}, {found.status})")
    if found.plan.objectives.stated:
        click.echo(f"objectives: {found.plan.objectives} (ms) for {found.plan.objectives.share:.0%} of the requests")
    if found.found is not None:
        click.echo(found.found.sentence)


def _presets(context: click.Context, wanted: bool) -> None:
    """Print the published objectives and leave."""
    if not wanted:
        return
    show([{"preset": n, "limits": str(p.objectives), "share": p.objectives.share} for n, p in PRESETS.items()])
    click.echo("\n".join(sorted({p.source for p in PRESETS.values()})))
    context.exit()
