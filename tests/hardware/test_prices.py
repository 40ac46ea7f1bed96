"""Prices: dated, with a source, above zero; the user's own in place of the shipped."""

from __future__ import annotations

from pathlib import Path

import pytest

from hardware import catalogue, prices
from hardware.errors import ExplorerError
from hardware.prices import Price


def test_shipped_prices_are_of_devices_in_the_catalogue() -> None:
    names = {device.name for device in catalogue.devices()}
    found = prices.prices()
    assert found and all(price.item in names for price in found.values() if price.unit == "device")


def test_own_prices_replace_the_shipped(tmp_path: Path) -> None:
    mine = Price(item="H100 SXM5 80GB", dollars=25_000, date="2026-11-27", source="an offer")
    prices.save((mine,), tmp_path)
    assert prices.prices(tmp_path)["H100 SXM5 80GB"] == mine
    assert prices.prices()["H100 SXM5 80GB"] != mine


def test_the_command_line_form() -> None:
    assert prices.parsed("RTX 4090=1600@2026-05:a shop: Berlin") == Price(
        item="RTX 4090", dollars=1600, date="2026-05", source="a shop: Berlin"
    )


@pytest.mark.parametrize(
    "text", ["RTX 4090", "RTX 4090=0@2026", "RTX 4090=-5@2026", "RTX 4090=nan@2026", "RTX 4090=many@2026",
             "RTX 4090=10@", "RTX 4090=10@May", "RTX 4090=10@2026-13", " =10@2026"]
)  # fmt: skip
def test_bad_prices_are_one_sentence(text: str) -> None:
    with pytest.raises(ExplorerError) as caught:
        prices.parsed(text)
    assert caught.value.message and caught.value.hint


def test_a_damaged_file(tmp_path: Path) -> None:
    (tmp_path / prices.FILE).write_text('[{"item": "x", "dollars": 0, "date": "2026", "source": "s"}]')
    with pytest.raises(ExplorerError, match="above zero"):
        prices.prices(tmp_path)
    (tmp_path / prices.FILE).write_text("[{")
    with pytest.raises(ExplorerError, match="cannot be read"):
        prices.prices(tmp_path)
