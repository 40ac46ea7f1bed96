"""Make a model from a model, and measure quality."""

from __future__ import annotations

from typing import Any

import click

from core import plugins
from core.charts.labels import plain
from core.cli.group import cli, json_flag, show
from core.cli.options import BACKEND, DTYPE, MODEL, OPTIONS, STRATEGY, pairs
from core.cli.running import performed
from core.models import derived
from core.runs.check import default_strategy
from core.stats.intervals import ends
from core.types import Derive, Evaluate, Request, to_json


@cli.command()
@click.argument("name")
@click.option("--model", default="smollm2-135m", show_default=True, help="The model to start from.")
@click.option("--name", "new", help="The new model's id; made from the parent's and the settings without it.")
@click.option("--param", "params", multiple=True, help="A setting of the transform, key=value; may be repeated.")
@click.option("--threads", type=int)
@click.option("--seed", type=int, default=0, show_default=True)
@json_flag
def transform(name: str, as_json: bool, **given: Any) -> None:
    """Make a model from a model. The same command goes on where a stopped one left off."""
    plugin = plugins.get("transform", name)
    request = Request(
        model=given["model"],
        backend=plugin.backend,
        task=Derive(transform=name, settings=pairs(given["params"]), name=given["new"]),
        threads=given["threads"],
        seed=given["seed"],
        profilers=(),
    )
    with performed(request) as result:
        if as_json:
            click.echo(to_json(result))
        elif result.made:
            made = result.made
            click.echo(f"{made.model}: {made.size_bytes / 1e6:.1f} MB, {made.bits_per_weight:.2f} bits per weight")
            click.echo(made.note)
        else:
            click.echo(f"Stopped. The same command goes on from here. (run {result.run_id})")


@cli.command("eval")
@click.argument("name")
@MODEL
@BACKEND
@click.option("--param", "params", multiple=True, help="A setting of the eval, key=value; may be repeated.")
@STRATEGY
@click.option("--strategy-param", "strategy_params", multiple=True, help="A strategy parameter, key=value.")
@DTYPE
@OPTIONS
@click.option("--threads", type=int)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option(
    "--margin",
    type=click.FloatRange(min=0, min_open=True, max=100),
    help="Points by which a rate may be worse than another run's and still count as no worse; kept with the run.",
)
@json_flag
def evaluate(name: str, as_json: bool, **given: Any) -> None:
    """Measure a model's quality."""
    request = Request(
        model=given["model"],
        backend=given["backend"],
        task=Evaluate(
            eval=name,
            settings=pairs(given["params"]),
            margin=None if given["margin"] is None else given["margin"] / 100,
        ),
        strategy=given["strategy"] or default_strategy(plugins.get("backend", given["backend"])),
        params=pairs(given["strategy_params"]),
        dtype=given["dtype"],
        options=pairs(given["options"]),
        threads=given["threads"],
        seed=given["seed"],
        profilers=(),
    )
    with performed(request) as result:
        if as_json:
            click.echo(to_json(result))
            return
        for score in result.scores:
            between = ends(score.low, score.high, ".4g")
            click.echo(f"{score.label:28} {plain(score.value)}{between} {score.unit}  n = {score.n}")
        for warning in result.warnings:
            click.echo(f"warning: {warning}")


@cli.command()
@json_flag
def transforms(as_json: bool) -> None:
    """The ways to make a model from a model."""
    known = [plugins.get("transform", n) for n in plugins.names("transform")]
    show(
        [
            {
                "name": p.name,
                "label": p.label,
                "backend": p.backend,
                "trains": p.trains,
                "settings": ",".join(p.Params.__struct_fields__),
            }
            for p in known
        ],
        as_json,
    )


@cli.command()
@json_flag
def evals(as_json: bool) -> None:
    """The measurements of quality."""
    known = [plugins.get("eval", n) for n in plugins.names("eval")]
    show(
        [
            {
                "name": p.name,
                "label": p.label,
                "needs": ",".join(sorted(p.needs)),
                "settings": ",".join(p.Params.__struct_fields__),
            }
            for p in known
        ],
        as_json,
    )


@cli.command()
@click.argument("model")
def forget(model: str) -> None:
    """Delete a model that was made here."""
    derived.remove(model)
