"""What lies on the disk, and a way to free it."""

from __future__ import annotations

import re
from typing import Any

import click

from core import storage
from core.cli.group import cli, json_flag, show
from core.types import to_json
from hardware.errors import ExplorerError

_UNITS = {"": 1, "B": 1, "KB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


@cli.command("storage")
@click.argument("kind", required=False, type=click.Choice([kind.name for kind in storage.KINDS]))
@click.option("--free", "freed", type=click.Choice(storage.FREED), help="Remove everything of this kind not in use.")
@click.option("--item", "names", multiple=True, help="With --free: only what has this name; may be repeated.")
@click.option("--limit", "most", metavar="SIZE", help="The most that what can be made again may take, as 5GB; kept.")
@click.option("--yes", is_flag=True, help="Remove what cannot be made again, too.")
@json_flag
def storage_(kind: str | None, as_json: bool, **given: Any) -> None:
    """What lies on the disk, by kind; with KIND every single thing of it. Frees it by kind or by limit."""
    if given["freed"] or given["most"] is not None:
        _free(as_json, **given)
        return
    if given["names"]:
        raise ExplorerError("--item says what to free of a kind.", "Add --free KIND.")
    found = storage.items()
    if kind is not None:
        show([_row(item) for item in found if item.kind == kind], as_json)
        return
    rows = storage.totals(found)
    if as_json:
        click.echo(to_json({"quota_bytes": storage.quota_bytes(), "totals": rows, "items": found}))
        return
    show(
        [
            {
                "kind": row.kind.name,
                "n": row.n,
                "bytes": row.size_bytes,
                "in_use": row.n_busy,
                "again": "yes" if row.kind.again else "no",
                "what": row.kind.about,
            }
            for row in rows
        ]
    )
    click.echo(f"\nWhat can be made again may take {storage.quota_bytes() / 1e9:.4g} GB (--limit).")


def _free(as_json: bool, freed: str | None, names: tuple[str, ...], most: str | None, yes: bool) -> None:
    if freed and most is not None:
        raise ExplorerError("--free and --limit are two things.", "Give one of them.")
    if most is not None:
        done = storage.limit(_size(most))
    elif names:
        there = [item for item in storage.items() if item.kind == freed and item.name in names]
        if missing := sorted(set(names) - {item.name for item in there}):
            raise ExplorerError(
                f"Nothing of the kind {freed} is called '{missing[0][:100]}'.", f"See: storage {freed}."
            )
        done = storage.free(there, yes)
    else:
        done = storage.free_kind(str(freed), yes)
    if as_json:
        click.echo(to_json(done))
        return
    click.echo(f"{done.n} removed, {done.size_bytes / 1e6:.1f} MB.")
    for sentence in done.kept:
        click.echo(sentence, err=True)


def _row(item: storage.Item) -> dict[str, Any]:
    return {
        "name": item.name,
        "bytes": item.size_bytes,
        "days": round(storage.age_s(item) / 86400, 1),
        "made_from": item.made_from or None,
        "used_by": ", ".join(item.used_by) or None,
        "in_use": item.busy or None,
        "path": item.path,
    }


def _size(words: str) -> int:
    """Bytes of a size as people write it. Raises ExplorerError."""
    found = re.fullmatch(r"\s*(\d{1,15}(?:\.\d{1,9})?)\s*([KMGT]?i?B?)\s*", words, re.I)
    unit = found[2].upper() if found else "?"
    unit = unit if unit in _UNITS else f"{unit}B"
    if found is None or unit not in _UNITS:
        raise ExplorerError(f"'{words[:40]}' is not a size.", "Write for example 500MB, 5GB or 2GiB.")
    return int(float(found[1]) * _UNITS[unit])
