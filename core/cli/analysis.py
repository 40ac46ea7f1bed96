"""What can be said without running: work, prediction; and this machine's measured ceilings."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import msgspec

from core import plugins
from core.analysis import predict as prediction
from core.analysis import predict_here
from core.analysis import work as counting
from core.cli.group import cli, json_flag, show
from core.dtypes import canonical_dtype, retype
from core.models import catalogue, formats, spec
from core.paths import data_dir
from core.runs.ceilings import kept
from core.runs.ceilings import measure as ceilings_measured
from core.runs.forecast import Here, must
from core.runs.resolve import reaches, supposed_dtype
from core.runs.store import Store
from core.types import ModelSpec, to_json
from hardware.catalogue import find as find_device
from hardware.detect import usable_cores
from hardware.errors import ExplorerError

TOTALS = ("flops", "flops_executed", "weight_bytes", "activation_bytes", "kv_read_bytes", "kv_write_bytes")


def model_options(command: Callable[..., None]) -> Callable[..., None]:
    """--model or --config: the two ways to name an architecture."""
    command = click.option("--config", type=click.Path(path_type=Path), help="A config.json of your own.")(command)
    return click.option("--model", help="Catalogue id, or a path to a file or folder.")(command)


def architecture(model: str | None, config: Path | None) -> ModelSpec:
    """The layers of a model that is named in one of two ways."""
    if (model is None) == (config is None):
        raise ExplorerError("Name the model once.", "Give either --model or --config.")
    if config is not None:
        parsed = spec.read_config(formats.place_of(str(config)))
        return spec.from_config(parsed, name=config.stem, source=str(config))
    entry = catalogue.find(str(model))
    fmt, path = next(iter(entry.files.items()))
    name = entry.label if Path(entry.id).is_absolute() else entry.id
    return msgspec.structs.replace(spec.read(path, fmt), name=name)


@cli.command()
@model_options
@click.option("--tokens", type=click.IntRange(1), default=1, show_default=True, help="New tokens of the forward.")
@click.option("--past", type=click.IntRange(0), default=0, show_default=True, help="Tokens in the KV cache before it.")
@click.option("--batch", type=click.IntRange(1), default=1, show_default=True)
@click.option("--dtype", help="As if the weights were stored so; without it, as they are.")
@click.option("--activation-dtype", default="fp16", show_default=True)
@click.option("--kv-dtype", default="fp16", show_default=True)
@json_flag
def work(as_json: bool, model: str | None, config: Path | None, **given: Any) -> None:
    """FLOPs and bytes of one forward, in total and per layer (computed)."""
    found = architecture(model, config)
    if given["dtype"]:
        found = retype(found, given["dtype"])
    rows = counting.work(
        found,
        n_new=given["tokens"],
        n_past=given["past"],
        batch=given["batch"],
        activation_dtype=given["activation_dtype"],
        kv_dtype=given["kv_dtype"],
    )
    everything = counting.total(rows)
    summary: dict[str, Any] = {
        "model": found.name,
        "n_params": found.n_params,
        "n_active_params": counting.n_active_params(found),
        "kv_bytes_per_token": counting.kv_bytes_per_token(found, given["kv_dtype"]),
        **{name: getattr(everything, name) for name in TOTALS},
        **{f"{a.name}_params": a.n_params for a in found.aside},
        **{f"{a.name}_bytes": a.weight_bytes for a in found.aside},
    }
    if as_json:
        click.echo(to_json({**summary, "layers": rows}))
        return
    show([{"quantity": k, "value": v} for k, v in summary.items()])
    click.echo(f"\n{found.doubts}\n" if found.doubts else "")
    show([{"layer": r.name, **{name: getattr(r, name) for name in TOTALS}} for r in rows])


@cli.command()
@model_options
@click.option("--device", required=True, help="A device of the catalogue, or `here`.")
@click.option("--weights", help="q4_0, q4_k_m, q8_0, f16 ...; without it, as they are stored.")
@click.option("--kv-dtype", help="Without it fp16; here, what the backend uses.")
@click.option("--backend", default="llama_cpp", show_default=True, help="For --device here.")
@click.option("--threads", type=click.IntRange(1), help="For --device here; without it, all physical cores.")
@click.option("--prompt-tokens", type=int, default=512, show_default=True)
@click.option("--new-tokens", type=int, default=128, show_default=True)
@click.option("--batch", type=int, default=1, show_default=True)
@json_flag
def predict(as_json: bool, model: str | None, config: Path | None, device: str, **given: Any) -> None:
    """Time, throughput and memory of a model on a device, each as an interval (estimated)."""
    sizes = {name: given[name] for name in ("prompt_tokens", "new_tokens", "batch")}
    found: prediction.Expected
    if device == "here":
        found = _predict_here(architecture(model, config), given, sizes)
        if given["weights"] is None and (why := reaches(catalogue.find(str(model or config)), given["backend"])):
            click.echo(f"Not run as it is by {plugins.label('backend', given['backend'])}: {why.message}", err=True)
    else:
        found = prediction.predict(
            architecture(model, config),
            find_device(device, data_dir() / "devices"),
            weights=given["weights"],
            kv_dtype=given["kv_dtype"] or "fp16",
            **sizes,
        )
    if as_json:
        click.echo(to_json(found))
        return
    figures = ("ttft_s", "tpot_s", "prefill_tok_per_s", "decode_tok_per_s", "peak_memory_bytes")
    show([{"figure": f, **msgspec.structs.asdict(getattr(found, f))} for f in figures if getattr(found, f) is not None])
    fits = {True: "yes", False: "no", None: "unknown"}[found.fits]
    click.echo(f"\nfits: {fits}\n{prediction.bounds_in_words(found)}")
    for line in found.assumptions:
        click.echo(f"- {line}")


def _predict_here(found: ModelSpec, given: dict[str, Any], sizes: dict[str, Any]) -> predict_here.PredictionHere:
    """By the measured ceilings, and by what this machine's own runs tell of this backend."""
    backend = plugins.get("backend", given["backend"])
    n = given["threads"] or usable_cores()
    here = must(Here.at(Store(data_dir()), n), n)
    weights = supposed_dtype(backend, found.dtype, given["weights"])
    if given["weights"] and weights != canonical_dtype(given["weights"]):
        click.echo(f"{backend.label} does not run {given['weights']}: predicted for {weights}.", err=True)
    return here.predict(found, backend, weights=given["weights"], kv_dtype=given["kv_dtype"], **sizes)


@cli.command()
@click.option("--threads", type=click.IntRange(1), help="Without it, all physical cores.")
@click.option("--device", default="cpu", show_default=True, help="cpu or cuda.")
@click.option("--measure", is_flag=True, help="Measure now, even if there is a stored measurement.")
@click.option("--full", is_flag=True, help="More shapes and repetitions than the quick form.")
@json_flag
def ceilings(as_json: bool, threads: int | None, device: str, measure: bool, full: bool) -> None:
    """What this machine really reaches: FLOP/s per dtype and read bandwidth (measured)."""
    n = threads or usable_cores()
    found = None if measure else kept(data_dir(), n, device)
    if found is None:
        last = ""

        def progress(note: str, done: float, total: float) -> None:
            nonlocal last
            if note != last:
                click.echo(f"{done / total if total else 0:4.0%}  {note}", err=True)
            last = note

        found = ceilings_measured(data_dir(), n, quick=not full, on_progress=progress, device=device)
    if as_json:
        more = {"flop_per_s": found.flop_per_s, "dram_read_bytes_per_s": found.dram_read_bytes_per_s}
        click.echo(to_json({**msgspec.to_builtins(found), **more, "knees_bytes": found.knees}))
        return
    show(
        [
            {"dtype": d, "flop_per_s": g.flop_per_s, "shape": f"{g.m}x{g.k}x{g.n}", "kernel": g.kernel}
            for d, g in found.peaks.items()
        ]
    )
    click.echo()
    show([{"working_set_bytes": p.working_set_bytes, "read_bytes_per_s": p.bytes_per_s} for p in found.reads])
    click.echo(f"\nMeasured {found.date} with {found.threads} threads.")
    for line in found.doubts:
        click.echo(f"- {line}")
