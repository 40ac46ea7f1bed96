"""Prices: what a device, a GB of memory or a wafer cost, when, and who said so.

A price without a date says nothing (memory moved by 2.5 times in three years), so every one has its date and source.
Few are published; the shipped ones are estimates of building costs, and a user's own replace them by name.
"""

from __future__ import annotations

import csv
import math
import re
from functools import cache
from pathlib import Path
from typing import Literal

import msgspec

from hardware.errors import ExplorerError
from hardware.files import UNREADABLE, write_whole

_SHIPPED = Path(__file__).with_name("prices.csv")
_DATE = re.compile(r"(19|20)\d\d(-(0[1-9]|1[0-2])(-(0[1-9]|[12]\d|3[01]))?)?")
FILE = "prices.json"
Unit = Literal["device", "GB", "wafer"]


class Price(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Dollars for one unit of the item. date: 2026, 2026-05 or 2026-05-31."""

    item: str
    dollars: float
    date: str
    source: str
    unit: Unit = "device"


def prices(folder: Path | None = None) -> dict[str, Price]:
    """All prices by item, the user's own in place of the shipped. A file that cannot be read raises ExplorerError."""
    return {price.item: price for price in (*_shipped(), *own(folder))}


def own(folder: Path | None) -> tuple[Price, ...]:
    """The user's prices, kept in the folder by `save`; raises ExplorerError for a damaged file."""
    path = None if folder is None else folder / FILE
    if path is None or not path.is_file():
        return ()
    try:
        found = msgspec.json.decode(path.read_bytes(), type=tuple[Price, ...])
    except (OSError, *UNREADABLE) as error:
        raise ExplorerError(f"{FILE} cannot be read: {error}.", "Correct the file, or remove it.") from error
    return tuple(map(checked, found))


def save(found: tuple[Price, ...], folder: Path) -> Path:
    """Keep these prices as the user's own, in place of the former."""
    for price in found:
        checked(price)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / FILE
    write_whole(path, msgspec.json.format(msgspec.json.encode(found), indent=2) + b"\n")
    return path


def checked(price: Price) -> Price:
    """The same price; raises ExplorerError with one sentence for what cannot be one."""
    if not price.item.strip():
        raise ExplorerError("A price belongs to nothing.", "Say what it is the price of.")
    if not math.isfinite(price.dollars) or price.dollars <= 0:
        raise ExplorerError(
            f"The price of '{price.item}' is {price.dollars:g}, and must be above zero.",
            "Give it in dollars, or leave it out when it is unknown.",
        )
    if not _DATE.fullmatch(price.date):
        raise ExplorerError(
            f"The price of '{price.item}' has no date that can be read: '{price.date}'.",
            "Give the year, the month or the day it held, such as 2026, 2026-05 or 2026-05-31.",
        )
    if not price.source.strip():
        raise ExplorerError(f"The price of '{price.item}' has no source.", "Say where it comes from.")
    return price


def parsed(text: str) -> Price:
    """`RTX 4090=1600@2026-05` or `RTX 4090=1600@2026-05:a shop`, as the command line takes it."""
    found = re.fullmatch(r"(?P<item>[^=]+)=(?P<dollars>[^@]+)@(?P<date>[^:]+)(:(?P<source>.+))?", text.strip())
    if found is None:
        raise ExplorerError(f"'{text}' is not a price.", "Write DEVICE=DOLLARS@DATE, such as 'RTX 4090=1600@2026-05'.")
    try:
        dollars = float(found["dollars"])
    except ValueError as error:
        raise ExplorerError(f"'{found['dollars']}' is not a number of dollars.", "Give a plain number.") from error
    source = found["source"] or "given on the command line"
    return checked(Price(item=found["item"].strip(), dollars=dollars, date=found["date"].strip(), source=source))


@cache
def _shipped() -> tuple[Price, ...]:
    with _SHIPPED.open(newline="", encoding="utf-8") as file:
        rows = [msgspec.convert(row, Price, strict=False) for row in csv.DictReader(file)]
    return tuple(map(checked, rows))
