"""Roofscope without the pages: python -m core COMMAND [--json].

Results go to stdout, progress and errors to stderr. Exit status: 0 done, 2 a request that cannot
run, 1 a run that failed.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from core import registry
from core.errors import ExplorerError
from core.paths import data_dir
from core.runs.export import FORMATS, export_run
from core.runs.runner import Runner, options_of
from core.runs.store import Run, Store
from core.types import Generate, Phase, Request, Result, Sampling, to_json

json_flag = click.option("--json", "as_json", is_flag=True, help="One JSON value on stdout and nothing else.")


class Commands(click.Group):
    """Turns the user's errors into one sentence on stderr and exit status 2."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ExplorerError as error:
            fail(error.message, error.hint, 2)


def fail(message: str, hint: str, status: int) -> None:
    click.echo(message, err=True)
    if hint:
        click.echo(hint, err=True)
    sys.exit(status)


def show(rows: list[dict[str, Any]], as_json: bool) -> None:
    """A list of flat rows, as JSON or as aligned columns."""
    if as_json:
        click.echo(to_json(rows))
        return
    if not rows:
        click.echo("Nothing here yet.")
        return
    columns = list(rows[0])
    table = [columns, *[["" if r[c] is None else str(r[c]) for c in columns] for r in rows]]
    widths = [min(60, max(len(line[i]) for line in table)) for i in range(len(columns))]
    for line in table:
        click.echo("  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip())


def pairs(values: tuple[str, ...]) -> dict[str, Any]:
    for value in values:
        if "=" not in value:
            raise ExplorerError(f"'{value}' is not of the form key=value.", "Write for example --option n_ctx=2048.")
    return options_of(dict(value.split("=", 1) for value in values))


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """See where a local language model's time and memory go."""


@cli.command()
@json_flag
def models(as_json: bool) -> None:
    """The models on this machine, and the architecture presets."""
    from core.models import catalogue

    entries = catalogue.entries()
    if as_json:
        click.echo(to_json(entries))
        return
    show(
        [
            {"id": e.id, "family": e.family, "formats": ",".join(e.files), "bytes": e.size_bytes, "note": e.note}
            for e in entries
        ],
        False,
    )


@cli.command()
@json_flag
def backends(as_json: bool) -> None:
    """The libraries that run models, and whether they are installed."""
    plugins = [registry.get("backend", name) for name in registry.names("backend")]
    show(
        [
            {
                "name": p.name,
                "label": p.label,
                "available": p.unavailable() is None,
                "reason": p.unavailable(),
                "formats": ",".join(p.formats),
                "dtypes": ",".join(p.dtypes) or "as stored",
                "capabilities": ",".join(sorted(p.capabilities)),
            }
            for p in plugins
        ],
        as_json,
    )


@cli.command()
@json_flag
def strategies(as_json: bool) -> None:
    """The ways to decode, and what they need of a backend."""
    plugins = [registry.get("strategy", name) for name in registry.names("strategy")]
    show([{"name": p.name, "label": p.label, "needs": ",".join(sorted(p.needs))} for p in plugins], as_json)


@cli.command()
@json_flag
def devices(as_json: bool) -> None:
    """The catalogue of devices with their stated peaks."""
    from hardware.catalogue import devices as catalogue

    found = catalogue(data_dir() / "devices")
    if as_json:
        click.echo(to_json(found))
        return
    show(
        [
            {
                "name": d.name,
                "kind": d.kind,
                "memory_bytes": d.mem_bytes,
                "bandwidth_bytes_per_s": d.mem_bandwidth_bytes_per_s,
                "uncertain": ",".join(d.uncertain_fields),
            }
            for d in found
        ],
        False,
    )


@cli.command()
@click.option("--model", default="smollm2-135m", show_default=True, help="Catalogue id, or a path to a file or folder.")
@click.option("--backend", default="llama_cpp", show_default=True)
@click.option("--strategy", default="autoregressive", show_default=True)
@click.option("--prompt", help="The text to continue or answer.")
@click.option("--prompt-tokens", type=int, help="That many random tokens instead of a text.")
@click.option("--max-new-tokens", type=int, default=64, show_default=True)
@click.option("--system", default="", help="The system message.")
@click.option("--template-system", is_flag=True, help="Leave the system message to the model's chat template.")
@click.option("--no-chat", is_flag=True, help="Do not wrap the prompt with the model's chat template.")
@click.option("--ignore-eos", is_flag=True, help="Always produce --max-new-tokens.")
@click.option("--temperature", type=float, default=0.0, show_default=True, help="0 is greedy.")
@click.option("--top-k", type=int)
@click.option("--top-p", type=float)
@click.option("--dtype", help="fp32, bf16 ... where the backend can choose.")
@click.option("--threads", type=int)
@click.option("--batch", type=int, default=1, show_default=True)
@click.option("--profilers", default="memory,layers", show_default=True, help="Comma-separated; empty for none.")
@click.option("--warmup", type=int, default=1, show_default=True)
@click.option("--repeats", type=int, default=1, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--option", "options", multiple=True, help="A backend option, key=value; may be repeated.")
@click.option("--param", "params", multiple=True, help="A strategy parameter, key=value; may be repeated.")
@click.option("--allow-oversize", is_flag=True, help="Run even if the model may not fit in memory.")
@json_flag
def run(as_json: bool, **given: Any) -> None:
    """Run a model once and measure it."""
    request = Request(
        model=given["model"],
        backend=given["backend"],
        strategy=given["strategy"],
        task=Generate(
            prompt=given["prompt"],
            prompt_tokens=given["prompt_tokens"],
            max_new_tokens=given["max_new_tokens"],
            chat=not given["no_chat"],
            system=None if given["template_system"] else given["system"],
            ignore_eos=given["ignore_eos"],
            sampling=Sampling(temperature=given["temperature"], top_k=given["top_k"], top_p=given["top_p"]),
        ),
        dtype=given["dtype"],
        threads=given["threads"],
        batch=given["batch"],
        profilers=tuple(p for p in given["profilers"].split(",") if p),
        warmup=given["warmup"],
        repeats=given["repeats"],
        seed=given["seed"],
        allow_oversize=given["allow_oversize"],
        options=pairs(given["options"]),
        params=pairs(given["params"]),
    )
    runner = Runner(Store(data_dir()))
    try:
        run_id = runner.start(request)
        try:
            result = follow(runner, runner.store.open(run_id))
        except KeyboardInterrupt:
            runner.cancel(run_id)
            result = runner.wait(run_id).result()
    finally:
        runner.close()
    if result.status == "failed":
        failed = runner.store.open(run_id).failure()
        fail(result.error or "The run failed.", result.hint or "", 2 if failed and failed.user_error else 1)
    click.echo(to_json(result) if as_json else summary(result))


def follow(runner: Runner, run: Run) -> Result:
    """Progress on stderr until the run has ended."""
    import time

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
        return "not measured" if value is None else f"{value * scale:.4g} {unit}"

    return "\n".join(
        [
            result.text,
            "",
            f"run         {result.run_id} ({result.status})",
            f"TTFT        {number(result.ttft_s, 'ms', 1e3)}",
            f"TPOT        {number(result.tpot_s, 'ms', 1e3)}",
            f"decode      {number(result.tok_per_s, 'tok/s')}",
            f"prefill     {number(result.prefill_tok_per_s, 'tok/s')}",
            f"peak memory {number(result.peak_memory_bytes, 'MB', 1e-6)}",
            *[f"warning     {w}" for w in result.warnings],
        ]
    )


@cli.command()
@json_flag
def runs(as_json: bool) -> None:
    """The runs on this machine, newest first."""
    keep = ["run_id", "status", "model", "backend", "strategy", "dtype", "tok_per_s", "ttft_s", "peak_memory_bytes"]
    rows = Store(data_dir()).history()
    show(rows if as_json else [{k: r.get(k) for k in keep} for r in rows], as_json)


@cli.command()
@click.argument("run_id")
@click.option("--format", "fmt", type=click.Choice(sorted(FORMATS)), default="json", show_default=True)
@click.option("--output", type=click.Path(path_type=Path), help="A file; stdout without it (not for zip).")
def export(run_id: str, fmt: str, output: Path | None) -> None:
    """A run as JSON, as CSV of its layers or steps, or as a zip bundle."""
    data = export_run(Store(data_dir()).open(run_id), fmt)
    if output is None:
        if fmt == "zip":
            raise ExplorerError("A zip cannot go to the terminal.", "Name a file with --output.")
        sys.stdout.buffer.write(data)
        return
    try:
        output.write_bytes(data)
    except OSError as error:
        raise ExplorerError(f"{output} could not be written: {error.strerror}.", "Choose another place.") from error


if __name__ == "__main__":
    cli(prog_name="python -m core")
