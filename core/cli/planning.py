"""What a change would bring: of a device, before anybody builds or buys it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import msgspec

from core import plugins
from core.analysis import designs
from core.analysis import what_if as changes
from core.analysis.time_parts import Cache
from core.cli.analysis import architecture, model_options
from core.cli.group import cli, json_flag, show
from core.paths import data_dir
from core.runs.forecast import Here, must
from core.runs.store import Store
from core.types import ModelSpec, to_json
from hardware import prices
from hardware.catalogue import find as find_device
from hardware.detect import usable_cores
from hardware.errors import ExplorerError


@cli.command("what-if")
@model_options
@click.option("--device", required=True, help="A device of the catalogue, or `here`.")
@click.option("--change", "changed", multiple=True, help="RESOURCE=FACTOR: bandwidth=2, flops=1.5, fp16=2, cache=2 ...")
@click.option(
    "--memory-gb",
    type=float,
    help="As if the device had so much memory, in 10^9 bytes (a data sheet's 80 GB are 85.9).",
)
@click.option("--cache-mb", type=float, help="As if it had a cache that a small model may fit into, with --cache-gbs.")
@click.option("--cache-gbs", type=float, help="What that cache is read with, in GB/s.")
@click.option("--weights", help="q4_0, q4_k_m, q8_0, f16 ...; without it, as they are stored.")
@click.option("--kv-dtype", default="fp16", show_default=True)
@click.option("--backend", default="llama_cpp", show_default=True, help="For --device here.")
@click.option("--threads", type=click.IntRange(1), help="For --device here; without it, all physical cores.")
@click.option("--prompt-tokens", type=int, default=512, show_default=True)
@click.option("--new-tokens", type=int, default=128, show_default=True)
@click.option("--batch", type=int, default=1, show_default=True)
@click.option("--against", multiple=True, help="Devices of the catalogue that it is to be compared with under cost.")
@click.option("--price", multiple=True, help="DEVICE=DOLLARS@DATE[:SOURCE], in place of a kept one.")
@click.option("--dollars", type=float, help="The price of the changed device.")
@click.option("--metric", type=click.Choice(list(changes.BETTER)), help="Under cost; without it decode, if it has one.")
@json_flag
def what_if(as_json: bool, model: str | None, config: Path | None, device: str, **given: Any) -> None:
    """What a change of a device would buy a model: what binds, elasticities, knees, memory, cost (estimated)."""
    spec = architecture(model, config)
    case = designs.Case(**{name: given[name] for name in designs.Case.__struct_fields__})
    if device == "here":
        base, case = _here(spec, given, case)
    else:
        base = designs.design(find_device(device, data_dir() / "devices"))
    factors = dict(map(_factor, given["changed"]))
    now = _altered(base, factors, given)
    load = designs.loaded(spec, case, now)
    before = {p.name: p for p in designs.times(designs.loaded(spec, case, base), base)}
    phases = designs.times(load, now)
    answer: dict[str, Any] = {
        "device": now.device.name,
        "changed": factors,
        "sentences": [
            s for s in (*(changes.sentence(load, now, p.name) for p in phases), changes.regime(load, now)) if s
        ],
        "phases": [{**msgspec.structs.asdict(p), "speedup": before[p.name].seconds / p.seconds} for p in phases],
        "elasticities": {p.name: changes.elasticities(load, now, p.name) for p in phases},
        "knees": changes.knees(spec, case, now),
        "least_memory_bytes": changes.least_memory_bytes(spec, case, now),
        "mem_bytes": now.device.mem_bytes,
    }
    if given["against"] or given["price"] or given["dollars"] is not None:
        usual: changes.Metric = "decode_tok_per_s" if spec.causal else "ttft_s"
        metric: changes.Metric = given["metric"] or usual
        found, left_out = changes.under_cost(spec, case, _priced(now, given), metric)
        answer |= {"metric": metric, "front": found, "left_out": left_out}
    if as_json:
        click.echo(to_json(answer))
        return
    _print(answer, phases)


def _print(answer: dict[str, Any], phases: tuple[designs.Phase, ...]) -> None:
    for line in answer["sentences"]:
        click.echo(line)
    click.echo()
    show(
        [
            {"phase": p.name, "seconds": p.seconds, "from": p.low_s, "to": p.high_s, "binds": designs.word(p.binds),
             "speedup": row["speedup"]}
            for p, row in zip(phases, answer["phases"], strict=True)
        ]
    )  # fmt: skip
    click.echo()
    show(
        [
            {"phase": name, "resource": designs.word(e.resource), "share": e.share, "x1.1 up": e.faster,
             "x1.1 down": e.slower, "twice buys": e.doubled, "ridge": "yes" if e.ridge else ""}
            for name, found in answer["elasticities"].items() for e in found
        ]
    )  # fmt: skip
    click.echo()
    for line in changes.knees_in_words(answer["knees"]):
        click.echo(f"- {line}")
    least, has = answer["least_memory_bytes"], answer["mem_bytes"]
    click.echo(f"- It needs a device of {least / 1e9:.3g} GB; this one has {has / 1e9:.3g} GB.")
    if "front" in answer:
        click.echo()
        show([msgspec.structs.asdict(c) for c in answer["front"]])
        for line in answer["left_out"]:
            click.echo(f"- {line}")


def _factor(text: str) -> tuple[str, float]:
    name, _, value = text.partition("=")
    try:
        return name.strip(), float(value)
    except ValueError as error:
        raise ExplorerError(f"'{text}' is not a change.", "Write RESOURCE=FACTOR, such as bandwidth=2.") from error


def _altered(base: designs.Design, factors: dict[str, float], given: dict[str, Any]) -> designs.Design:
    """The device with its changes; raises ExplorerError for what it does not have."""
    mb, gbs, gb = given["cache_mb"], given["cache_gbs"], given["memory_gb"]
    if (mb is None) != (gbs is None):
        raise ExplorerError("A cache has a size and a bandwidth.", "Give both --cache-mb and --cache-gbs, or neither.")
    cache = None if mb is None else Cache(size_bytes=mb * 1e6, bytes_per_s=gbs * 1e9)
    return designs.altered(base, factors, None if gb is None else gb * 1e9, cache, given["dollars"])


def _priced(now: designs.Design, given: dict[str, Any]) -> list[designs.Design]:
    """The device in question, if it has a price, and those it is compared with."""
    known = prices.prices(data_dir())
    known |= {price.item: price for price in map(prices.parsed, given["price"])}
    own = known.get(now.device.name)
    if now.dollars is None and own is not None and not now.hypothetical:
        now = msgspec.structs.replace(now, dollars=own.dollars)
    found = [now]
    for name in dict.fromkeys((*given["against"], *(prices.parsed(text).item for text in given["price"]))):
        device = find_device(name, data_dir() / "devices")
        price = known.get(device.name) or known.get(name)
        if all(of.device.name != device.name for of in found):
            found.append(designs.design(device, dollars=None if price is None else price.dollars))
    return found


def _here(spec: ModelSpec, given: dict[str, Any], case: designs.Case) -> tuple[designs.Design, designs.Case]:
    """This machine as measured, with what its own runs tell of the backend, and the case as that backend runs it."""
    backend = plugins.get("backend", given["backend"])
    n = given["threads"] or usable_cores()
    here = must(Here.at(Store(data_dir()), n), n)
    return here.design(spec, backend, case, f"This machine with {backend.label}")
