"""The first start: the card comes once, and the tour stops at pages that are there."""

from __future__ import annotations

from pathlib import Path

from app import MENU
from core.learn.first_start import MARK, TOUR, first, settle


def test_the_card_comes_until_something_was_done(tmp_path: Path) -> None:
    assert first(tmp_path, ["recorded"], "recorded") and first(tmp_path, [], None)
    assert not (tmp_path / MARK).exists()
    assert not first(tmp_path, ["mine", "recorded"], "recorded")
    assert not first(tmp_path, [], "recorded"), "it came again after the runs were deleted"


def test_sent_away_it_stays_away(tmp_path: Path) -> None:
    settle(tmp_path / "data")
    assert not first(tmp_path / "data", [], None)


def test_the_tour_stops_at_pages_of_the_menu() -> None:
    menu = {f"pages/{entry[0]}": entry[1] for entries in MENU.values() for entry in entries}
    assert len(TOUR) == 7 and all(menu[stop.page] == stop.title and stop.words.endswith(".") for stop in TOUR)
