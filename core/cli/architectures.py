"""Search for architectures: shapes cut from a trained model, and decoders from scratch for a device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from core.analysis.cuts import Space
from core.cli.group import cli, json_flag, say, show
from core.cli.options import AGAIN, PLAN, pairs
from core.cli.sweeping import limits_of, read_plan
from core.paths import data_dir
from core.report.architectures import markdown
from core.runs.store import Store
from core.studies import architectures as searching
from core.studies import free_shapes
from core.studies.architecture_findings import findings
from core.studies.architecture_found import FILE
from core.studies.plan import ENGINES, Architectures, FreeShapes
from core.types import to_json
from hardware.errors import ExplorerError

MINUTES = click.option(
    "--minutes", type=click.FloatRange(min=0, min_open=True), default=60.0, show_default=True, help="Over all sessions."
)
AT_MOST = click.option("--at-most", multiple=True, help="A limit, measure=value: tpot_s=0.02, n_params=1e8.")
AT_LEAST = click.option("--at-least", multiple=True, help="A floor, measure=value: tok_per_s=60.")


@cli.group()
def architectures() -> None:
    """Which model shape: cut from a trained model, or from scratch for a device."""


@architectures.command()
@click.option("--model", default="smollm2-135m", show_default=True, help="The trained model that shapes are cut from.")
@click.option("--engine", "engines", multiple=True, help="Where winners are measured; limits are for the first.")
@click.option("--device", default="", help="A device of the catalogue that limits are for instead.")
@AT_MOST
@AT_LEAST
@click.option("--speedup", type=click.FloatRange(min=1), default=1.3, show_default=True, help="The answer's, at least.")
@click.option("--deepest", type=click.IntRange(0), default=12, show_default=True, help="Blocks out, at most.")
@click.option("--step", type=click.IntRange(1), default=128, show_default=True, help="Of the MLP's channels.")
@click.option("--scored", type=click.IntRange(2), default=40, show_default=True, help="Shapes tried by masking.")
@click.option("--finished", type=click.IntRange(1), default=9, show_default=True, help="Shapes trained and measured.")
@click.option("--checks", type=click.IntRange(0), default=3, show_default=True, help="Of these, drawn at random.")
@click.option("--score-tokens", type=click.IntRange(16, 8192), default=1024, show_default=True)
@click.option("--texts", type=click.IntRange(2), default=12, show_default=True, help="Judging finished ones.")
@click.option("--train", "training", multiple=True, help="A setting of distill, key=value: minutes=2, texts=160.")
@click.option("--quantize", default="", help="A GGUF type in which the answer is measured and judged again: Q8_0.")
@click.option("--rounds", type=click.IntRange(1, 50), default=5, show_default=True)
@click.option("--prompt-tokens", type=click.IntRange(1), default=64, show_default=True)
@click.option("--new-tokens", type=click.IntRange(1), default=32, show_default=True)
@click.option("--threads", type=click.IntRange(1))
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@PLAN
@MINUTES
@AGAIN
@json_flag
def cut(as_json: bool, **given: Any) -> None:
    """Cut shapes from a trained model: priced, masked, distilled, measured. Goes on where a stopped one left off."""
    fields = ("speedup", "scored", "finished", "checks", "score_tokens", "texts", "quantize", "rounds")
    plan = (
        read_plan(given["plan_file"], Architectures)
        if given["plan_file"]
        else searching.planned(
            given["model"],
            given["engines"] or ENGINES,
            given["device"],
            limits_of(given["at_most"]),
            limits_of(given["at_least"]),
            pairs(given["training"]),
            space=Space(deepest=given["deepest"], step=given["step"]),
            **{name: given[name] for name in (*fields, "prompt_tokens", "new_tokens", "threads", "seed")},
        )
    )
    ledger = searching.carry_out(plan, given["minutes"], say, given["again"])
    found = findings(ledger.state, Store(data_dir()))
    data, table = to_json(found), markdown(found)
    _write(ledger.folder, {FILE: data, "table.md": table.encode()})
    click.echo(data if as_json else table)
    if not as_json:
        click.echo(f"search      {ledger.folder}")


@architectures.command()
@click.option("--device", default="", help="A device of the catalogue.")
@AT_MOST
@AT_LEAST
@click.option("--trials", type=click.IntRange(1, 20_000), default=400, show_default=True, help="Shapes asked for.")
@click.option("--weights", default="fp16", show_default=True, help="How the weights are stored: fp16, q8_0, q4_k_m ...")
@click.option("--batch", type=click.IntRange(1), default=1, show_default=True)
@click.option("--prompt-tokens", type=click.IntRange(1), default=512, show_default=True)
@click.option("--new-tokens", type=click.IntRange(1), default=128, show_default=True)
@click.option("--blocks", nargs=2, type=click.IntRange(1, 1000), default=(4, 48), show_default=True)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@PLAN
@MINUTES
@AGAIN
@json_flag
def free(as_json: bool, **given: Any) -> None:
    """Decoders from scratch by what they would cost on a device; none is trained (estimated)."""
    fields = ("trials", "weights", "batch", "prompt_tokens", "new_tokens", "blocks", "seed")
    plan = (
        read_plan(given["plan_file"], FreeShapes)
        if given["plan_file"]
        else free_shapes.planned(
            given["device"],
            limits_of(given["at_most"]),
            limits_of(given["at_least"]),
            **{name: given[name] for name in fields},
        )
    )
    ledger = free_shapes.carry_out(plan, given["minutes"], say, given["again"])
    found = free_shapes.findings(ledger.state)
    _write(ledger.folder, {FILE: to_json(found)})
    if as_json:
        click.echo(to_json(found))
        return
    shown = [row for row in found.rows if row.on_front]
    show(
        [
            {
                "shape": row.sizes.label,
                "parameters": row.figures["n_params"],
                "without embedding": row.figures["body_params"],
                "tok/s": row.figures["tok_per_s"],
                "first token, s": row.figures["ttft_s"],
                "memory, GB": row.figures["peak_memory_bytes"] / 1e9,
            }
            for row in shown
        ]
    )
    click.echo()
    for words in found.words:
        click.echo(words)
    if found.volume is not None and found.random_volume:
        more = found.volume / found.random_volume
        click.echo(f"Its front covers {more:.2f} times what {found.asked} random shapes do.")
    click.echo(f"search      {ledger.folder}")


def _write(folder: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        try:
            (folder / name).write_bytes(content)
        except OSError as error:
            raise ExplorerError(
                f"The findings could not be written: {error.strerror}.", f"Free some space in {folder}."
            ) from error
