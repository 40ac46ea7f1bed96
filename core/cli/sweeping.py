"""Carry out a sweep, every combination of some settings, or a search, which measures a part of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec

from core.bounds import checked
from core.cli import machines
from core.cli.group import cli, json_flag, say, show
from core.cli.options import AGAIN, BACKEND, PLAN, listed, pairs
from core.paths import data_dir
from core.report.tables import as_csv
from core.runs.foresight import foreseen
from core.runs.other_machine import OtherMachine
from core.runs.store import Store
from core.studies import search as searching
from core.studies import sweep as sweeping
from core.studies.divided import carry_out_divided
from core.studies.grid import cells, parsed_axis, size
from core.studies.ledger import Ledger, Say
from core.studies.measures import MEASURES
from core.studies.on_machines import on_all
from core.studies.plan import Floor, Limits, Search, Study, Sweep
from core.studies.search import SearchReport
from core.types import Generate, Request, from_json, to_json
from hardware.errors import ExplorerError
from hardware.files import read_given

P = TypeVar("P", bound=Study)
GRID = (
    click.option(
        "--axis",
        "axes",
        multiple=True,
        help="What varies, name=value,value: model, backend, dtype, kv_dtype, threads, batch, prompt_tokens, "
        "new_tokens, strategy, or a plugin's own setting (llama_cpp.flash_attn, jacobi.window). May be repeated.",
    ),
    PLAN,
    click.option("--model", default="smollm2-135m", show_default=True, help="Where it does not vary; so the others."),
    BACKEND,
    click.option("--strategy", default="autoregressive", show_default=True),
    click.option("--prompt-tokens", type=int, default=64, show_default=True, help="Random tokens, unless --prompt."),
    click.option("--prompt", help="A text for every cell."),
    click.option("--new-tokens", type=int, default=32, show_default=True),
    click.option("--dtype"),
    click.option("--threads", type=int),
    click.option("--batch", type=int, default=1, show_default=True),
    click.option(
        "--option", "options", multiple=True, help="A backend option of --backend, key=value; may be repeated."
    ),
    click.option("--warmup", type=int, default=1, show_default=True),
    click.option("--repeats", type=int, default=1, show_default=True, help="Timing passes of a run."),
    click.option("--profilers", default="memory", show_default=True, help="Comma-separated; empty for none."),
    click.option("--minutes", type=click.FloatRange(min=0, min_open=True), default=60.0, show_default=True),
    AGAIN,
)


def on_a_grid(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say which cells there are and how each is measured."""
    for option in reversed(GRID):
        command = option(command)
    return command


@cli.command()
@on_a_grid
@click.option("--rounds", type=click.IntRange(1, 20), default=1, show_default=True, help="Runs of each cell.")
@click.option("--reference-every", type=click.IntRange(0), default=10, show_default=True, help="Cells; 0: never.")
@click.option("--cells", "most", type=click.IntRange(1), help="Stop after so many cells.")
@click.option("--width", type=click.FloatRange(0, 1, min_open=True), help="Until intervals are narrower: 0.05.")
@click.option("--dry-run", is_flag=True, help="Say how many cells there are and which cannot run; measure nothing.")
@click.option("--retry", is_flag=True, help="Measure again what failed.")
@machines.on_others
@click.option("--divide", is_flag=True, help="With --on: each cell on one of the machines, which are of one kind.")
@click.option("--csv", "csv_file", type=click.Path(path_type=Path), help="Write the table there.")
@json_flag
def sweep(as_json: bool, **given: Any) -> None:
    """Measure every combination of the settings named. The same command goes on where a stopped one left off."""
    plan = plan_of(given)
    machines.need_on(given)
    if given["divide"] and not given["machines"]:
        raise ExplorerError("One machine has nobody to divide its cells with.", "Name several: --on host1,host2.")
    if given["dry_run"]:
        if given["machines"]:
            say("This is asked of this machine; the others say themselves what cannot run there.")
        _dry(plan, as_json)
        return
    if given["machines"]:
        (_divided if given["divide"] else _on)(plan, given, as_json)
        return
    _tell(sweeping.carry_out(plan, given["minutes"], say, given["again"], given["retry"]), given, as_json)


def _tell(ledger: Ledger[Sweep], given: dict[str, Any], as_json: bool) -> None:
    """What came of one sweep, as a table or as JSON."""
    plan, found = ledger.plan, sweeping.report(ledger.state, Store(data_dir()))
    rows = sweeping.flat(found)
    if given["csv_file"] is not None:
        _write(given["csv_file"], as_csv(rows))
    if as_json:
        click.echo(to_json(found))
        return
    shown = [n for n in ("tok_per_s", "ttft_s", "latency_s", "peak_memory_bytes") if n in MEASURES]
    names = [*(["machine"] if rows and "machine" in rows[0] else []), *(axis.name for axis in plan.axes)]
    show([{n: row.get(n) for n in (*names, "status", *shown, "reason")} for row in rows])
    told = found.progress
    click.echo(f"\n{told.done} done, {told.failed} failed, {told.refused} cannot run, {told.left} left")
    if words := sweeping.drift_words(found.drift):
        click.echo(words)
    click.echo(f"sweep       {ledger.folder}")


def _counted(n: int) -> str:
    return "1 cell" if n == 1 else f"{n:,} cells"


def _divided(plan: Sweep, given: dict[str, Any], as_json: bool) -> None:
    """The cells divided among other machines; leaves with 1 when one of them could not go on."""
    with machines.reached(given) as others:
        among = f"{_counted(size(plan))} divided among {machines.names_of(others)}, which must be of one kind"
        say(f"{among}; without --divide each measures all, to compare them")
        ledger, reasons = carry_out_divided(others, plan, given["minutes"], say, given["again"], given["retry"])
    _tell(ledger, given, as_json)
    machines.missing(reasons)


def _on(plan: Sweep, given: dict[str, Any], as_json: bool) -> None:
    """The same on other machines, each with a row for every cell; leaves with 1 when one of them could not go on."""
    store = Store(data_dir())
    with machines.reached(given) as others:
        several = "; --divide shares them out among machines of one kind" if len(others) > 1 else ""
        say(f"{machines.each(others, f'measures all of {_counted(size(plan))}')}{several}")
        ledgers, reasons = sweeping.carry_out_on(others, plan, given["minutes"], say, given["again"], given["retry"])
    found = {name: sweeping.report(ledger.state, store) for name, ledger in ledgers.items()}
    rows = [{"machine": name, **row} for name, report in found.items() for row in sweeping.flat(report)]
    if given["csv_file"] is not None:
        every = dict.fromkeys(column for row in rows for column in row)  # a machine may have measured less
        _write(given["csv_file"], as_csv([{column: row.get(column) for column in every} for row in rows]))
    if as_json:
        click.echo(to_json({"machines": found, "reasons": reasons}))
    elif rows:
        names = [axis.name for axis in plan.axes]
        columns = ("machine", *names, "status", "tok_per_s", "ttft_s", "latency_s", "peak_memory_bytes", "reason")
        show([{column: row.get(column) for column in columns} for row in rows])
    machines.missing(reasons)


@cli.command()
@on_a_grid
@click.option("--goal", "goals", multiple=True, help="A measure to make better, the first decides; may be repeated.")
@click.option("--at-most", multiple=True, help="A limit, measure=value: latency_s=2, peak_memory_bytes=1e9.")
@click.option("--at-least", multiple=True, help="A floor, measure=value: tok_per_s=10.")
@click.option(
    "--quality",
    help="A floor under an evaluation, eval.metric=value: divergence.agreement=0.95. Met by the worse end of its "
    "95 % interval.",
)
@click.option("--quality-setting", "quality_settings", multiple=True, help="Of that evaluation, key=value.")
@click.option("--measurements", type=click.IntRange(1), default=40, show_default=True, help="Before the final rounds.")
@click.option("--final-rounds", type=click.IntRange(1, 50), default=5, show_default=True)
@machines.on_others
@json_flag
def search(as_json: bool, **given: Any) -> None:
    """Find the best cells of a grid under constraints, measuring a part of it. Goes on where a stopped one left off."""
    machines.need_on(given)
    if given["plan_file"] is not None:
        plan = read_plan(given["plan_file"], Search)
    else:
        plan = searching.searching(
            _base(given),
            [parsed_axis(text) for text in given["axes"]],
            given["goals"] or ("tok_per_s", "peak_memory_bytes"),
            limits_of(given["at_most"]),
            limits_of(given["at_least"]),
            given["measurements"],
            given["final_rounds"],
            floor=_floor(given["quality"], given["quality_settings"]),
        )
    if given["machines"]:
        _search_on(plan, given, as_json)
        return
    ledger = searching.seek(plan, given["minutes"], say, given["again"])
    found = searching.report(ledger.state, Store(data_dir()))
    if as_json:
        click.echo(to_json(found))
        return
    _tell_search(ledger, found)


def _search_on(plan: Search, given: dict[str, Any], as_json: bool) -> None:
    """A search on every machine; leaves with 1 when one of them could not go on."""

    def one(own: Search, machine: OtherMachine, told: Say) -> Ledger[Search]:
        return searching.seek(own, given["minutes"], told, given["again"], machine)

    with machines.reached(given) as others:
        say(machines.each(others, "searches by itself"))
        ledgers, reasons = on_all(others, plan, one, say)
    found = {name: searching.report(ledger.state, Store(data_dir())) for name, ledger in ledgers.items()}
    if as_json:
        click.echo(to_json({"machines": found, "reasons": reasons}))
    for name, report in found.items() if not as_json else ():
        click.echo(name)
        _tell_search(ledgers[name], report)
        click.echo()
    machines.missing(reasons)


def _tell_search(ledger: Ledger[Search], found: SearchReport) -> None:
    """The answer of a search, and every cell."""
    plan = found.plan
    goals = (*plan.goals, *([searching.QUALITY] if plan.floor else ()))
    rows = sorted(found.rows, key=lambda row: (row.stage != "finalist", row.stage))
    show(
        [
            {
                "cell": row.label,
                "stage": row.stage,
                **{g: row.measured.get(g) for g in goals},
                **{f"{g}, final": row.final[g].value if g in row.final else None for g in goals},
                "why": row.reason,
            }
            for row in rows
        ]
    )
    click.echo()
    for words in found.answer.words:
        click.echo(words)
    if found.bound is not None:
        click.echo(f"{found.missed} of {found.audited} audited cells were wrongly dropped (at most {found.bound:.0%}).")
    click.echo(f"search      {ledger.folder}")


def _floor(text: str | None, settings: tuple[str, ...]) -> Floor | None:
    """`divergence.agreement=0.95` as a floor; raises ExplorerError for another form."""
    if text is None:
        return None
    ((name, limit),) = limits_of((text,)).items()
    eval_name, _, metric = name.partition(".")
    return searching.floor_of(eval_name, limit, metric, pairs(settings))


def limits_of(values: tuple[str, ...]) -> dict[str, float]:
    """measure=value arguments; raises ExplorerError for what is no number."""
    found: dict[str, float] = {}
    for name, value in pairs(values).items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise ExplorerError(f"The limit of {name} is not a number: {value}.", "Write for example latency_s=2.")
        found[name] = float(value)
    return found


def plan_of(given: dict[str, Any]) -> Sweep:
    """The plan in a file, or that of the options; raises ExplorerError."""
    limits = checked(Limits(cells=given["most"], width=given["width"]), "the sweep", "Correct it.")
    if given["plan_file"] is not None:
        read = read_plan(given["plan_file"], Sweep)
        return msgspec.structs.replace(read, limits=limits) if limits != Limits() else read
    axes = [parsed_axis(text) for text in given["axes"]]
    return sweeping.planned(
        _base(given), axes, rounds=given["rounds"], reference_every=given["reference_every"], limits=limits
    )


def read_plan(path: Path, kind: type[P]) -> P:
    """A plan from a file; raises ExplorerError."""
    try:
        return from_json(read_given(path), kind)
    except OSError as error:
        raise ExplorerError(f"{path} cannot be read: {error.strerror}.", "Name a plan.") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ExplorerError(f"{path} is not such a plan: {error}.", "Save one anew.") from None


def _base(given: dict[str, Any]) -> Request:
    """What every cell is measured as."""
    return Request(
        model=given["model"],
        backend=given["backend"],
        strategy=given["strategy"],
        task=Generate(
            prompt=given["prompt"],
            prompt_tokens=None if given["prompt"] else given["prompt_tokens"],
            max_new_tokens=given["new_tokens"],
        ),
        dtype=given["dtype"],
        threads=given["threads"],
        batch=given["batch"],
        profilers=listed(given["profilers"]),
        warmup=given["warmup"],
        repeats=given["repeats"],
        options=pairs(given["options"]),
    )


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ExplorerError(f"{path} could not be written: {error.strerror}.", "Choose another place.") from error


def _dry(plan: Sweep, as_json: bool) -> None:
    n = size(plan)
    every = cells(plan)
    refused, seconds = sweeping.foretold(every, foreseen([c.request for c in every], Store(data_dir())))
    expected = sum(seconds.values())
    if as_json:
        rows = [{"cell": c.label, "reason": refused.get(c.id), "request": c.request} for c in every]
        click.echo(to_json({"cells": n, "refused": len(refused), "expected_s": expected, "rows": rows}))
        return
    show([{"cell": c.label, "cannot run because": refused.get(c.id, "")} for c in every])
    again = f", {len(every)} of them different" if len(every) < n else ""
    click.echo(
        f"\n{_counted(n)}{again}; {len(refused)} cannot run; about {expected / 60:.0f} minutes, a first estimate"
    )
