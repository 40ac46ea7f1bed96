"""Canonical JSON of records."""

from __future__ import annotations

from core.types import from_json, to_json
from core.types.events import Item


def test_an_item_with_a_sketch_is_written_and_read() -> None:
    """Its bins are numbers, which msgspec does not sort as keys."""
    item = Item(t_s=1.0, id="a", cluster="c", values={"kl": 0.5}, sketches={"kl": {12: 3, -2: 5}})
    same = Item(t_s=1.0, id="a", cluster="c", values={"kl": 0.5}, sketches={"kl": {-2: 5, 12: 3}})
    written = to_json(item)
    assert b'"sketches":{"kl":{"-2":5,"12":3}}' in written
    assert written == to_json(same)
    assert from_json(written, Item) == item
