"""Advice on a run, a trial of it, and the adviser's own record."""

from __future__ import annotations

from typing import Any

import click

from core import plugins
from core.advice.book import Book
from core.advice.gather import evidence_of
from core.advice.record import METRICS, Case, Lack, Loss
from core.advice.rules import LABELS, RULES, advise
from core.advice.score import Score, ordered, scores
from core.advice.trial import ROUNDS, attempt
from core.cli.group import cli, json_flag, show
from core.paths import data_dir
from core.runs.runner import Runner
from core.runs.store import Run, Store
from core.types import to_json
from hardware.errors import ExplorerError


@cli.command()
@click.argument("run_id", required=False)
@click.option("--try", "rule", type=click.Choice(list(RULES)), help="Run this rule's baseline and change in turns.")
@click.option(
    "--pairs", type=click.IntRange(1, 50), default=ROUNDS, show_default=True, help="Pairs of runs of a trial."
)
@click.option("--score", "scored", is_flag=True, help="How good the advice was so far, rule by rule.")
@json_flag
def advice(as_json: bool, run_id: str | None, rule: str | None, pairs: int, scored: bool) -> None:
    """What to change after a run, what it should bring (estimated), and whether it did (measured)."""
    store = Store(data_dir())
    book = Book(store.root)
    if scored:
        _score(scores(book.cases()), as_json)
        return
    if run_id is None:
        raise ExplorerError("Advice is about a run.", "Give a run's id, or --score; 'python -m core runs' lists them.")
    advices, silences = advise(evidence_of(store, run_id))
    cases = ordered(book.offer(advices), scores(book.cases()))
    if rule is not None:
        _try(next((c for c in cases if c.advice.rule == rule), None), store, book, pairs, as_json)
        return
    if as_json:
        click.echo(to_json({"advice": cases, "silent": silences}))
        return
    for case in cases:
        _tell(case)
    if not cases:
        click.echo("Nothing to advise.\n")
    for quiet in sorted(silences, key=lambda s: not s.short):
        click.echo(f"- {LABELS[quiet.rule]}{' (evidence is missing)' if quiet.short else ''}: {quiet.reason}")
    _tell_lacks({quiet.lacks for quiet in silences}, store.open(run_id))


def _tell(case: Case) -> None:
    given = case.advice
    gain = given.gain
    click.echo(f"{LABELS[given.rule]} [{given.rule}]: {given.change}")
    click.echo(f"  {given.finding}")
    click.echo(
        f"  gain in {METRICS[given.metric]}: ×{gain.likely:.3g} ({gain.low:.3g} to {gain.high:.3g}), estimated; "
        f"quality {given.quality.words if isinstance(given.quality, Loss) else given.quality}"
    )
    click.echo(f"  {gain.basis}")
    if case.verdict is not None:
        click.echo(f"  {case.verdict.outcome}: {case.verdict.sentence}")
    click.echo()


def _tell_lacks(lacks: set[Lack | None], run: Run) -> None:
    """The commands that measure what the silent rules lack."""
    if "ceilings" in lacks:
        threads = f" --threads {n}" if (n := run.result().threads) else ""
        click.echo(f"\nOn the machine that ran it: roofscope ceilings --measure{threads}")
    if missing := [name for name in plugins.names("profiler") if name in lacks]:
        click.echo(f"\nOnce more: roofscope run ... --profilers {','.join((*run.request.profilers, *missing))}")


def _try(case: Case | None, store: Store, book: Book, pairs: int, as_json: bool) -> None:
    if case is None:
        raise ExplorerError("This rule gives no advice on that run.", "See what it says without --try.")
    runner = Runner(store)
    try:
        done = attempt(case, runner, book, pairs, lambda what, n, total: click.echo(f"{n}/{total}  {what}", err=True))
    finally:
        runner.close()
    if as_json:
        click.echo(to_json(done))
    else:
        _tell(done)


def _score(found: tuple[Score, ...], as_json: bool) -> None:
    if as_json:
        click.echo(to_json(found))
        return
    show([_row(s) for s in found])


def _row(of: Score) -> dict[str, Any]:
    kept, inside = of.kept, of.coverage
    return {
        "rule": of.rule or "all",
        "offered": of.offered,
        "tried": of.tried,
        "kept": of.n_kept,
        "share": None if kept is None else f"{kept.value:.0%} ({kept.low:.0%} to {kept.high:.0%})",
        "error": of.error,
        "inside": None if inside is None else f"{inside.value:.0%}",
        "outcomes": ", ".join(f"{n} {name}" for name, n in of.outcomes.items()),
        "note": of.demoted,
    }
