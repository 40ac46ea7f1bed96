"""The literature's data: whole, honest about what was seen, and every plugin and page that it names exists."""

from __future__ import annotations

import re
from itertools import combinations
from pathlib import Path

import msgspec
import pytest
from streamlit.testing.v1 import AppTest

from app import MENU
from core.charts.literature import Range, bits_against_quality, over_the_years, reported_against_independent
from core.learn.ladder_points import quantized
from core.learn.literature import (
    Place,
    chosen,
    families,
    literature,
    reported,
    reported_beside_independent,
    way,
    works,
)
from core.models.presets import presets
from core.studies import study_store
from core.studies.findings import Findings

ROOT = Path(__file__).parents[2]


def test_identifiers_are_well_formed_and_of_their_year() -> None:
    assert len(works()) > 80 and len({w.id for w in works()}) == len(works())
    ids = [i for w in works() for i in w.arxiv]
    assert len(ids) == len(set(ids)) and all(re.fullmatch(r"\d{4}\.\d{5}", i) for i in ids)
    late = {"gqa", "mqa"}
    assert not [w.id for w in works() for i in w.arxiv if 2000 + int(i[:2]) != w.year and w.id not in late]


def test_no_figure_that_was_not_seen() -> None:
    """A figure says where it was seen; one with a speed-up says its setting or that it has none."""
    for w in works():
        assert bool(w.figure) <= bool(w.seen), w.id
        assert w.times is None or w.figure, w.id
        assert "°" not in msgspec.json.encode(w).decode(), w.id


def numbers(text: str) -> set[str]:
    return set(re.findall(r"\d+(?:\.\d+)?", text))


def test_speed_ups_are_those_of_the_figure() -> None:
    """Drawn ends stand in the figure, or follow from it (two speeds, a share of time)."""
    derived = {"quip": 176 / 57.7, "k-quants-imatrix": 71.9 / 29.2, "spqr": 1.15, "distilbert": 1.6,
               "deebert": 1 / (1 - 0.40), "jacobi-for-translation": 1.38, "flashattention": 1.15}  # fmt: skip
    for w in works():
        for end in w.times or ():
            if end is not None and f"{end:g}" not in numbers(w.figure) | {f"{float(n):g}" for n in numbers(w.figure)}:
                assert w.id in derived and end == pytest.approx(derived[w.id], rel=0.01), (w.id, end)


def test_everything_that_roofscope_has_leads_somewhere() -> None:
    menu = {f"pages/{entry[0]}" for entries in MENU.values() for entry in entries}
    ids = {e.id for e in presets()}
    for w in works():
        assert w.status != "have" or w.where, f"{w.id} is said to be here, and nothing says where"
        for place in w.where:
            found = way(place)  # raises for a plugin that does not exist
            assert found.page in menu and found.label, w.id
            assert place.kind != "preset" or place.name in ids, place.name
    with pytest.raises(Exception, match="no strategy called"):
        way(Place(kind="strategy", name="clairvoyance"))


def test_every_plugin_named_in_a_note_exists() -> None:
    known = {p.name for w in works() for p in w.where}
    named = {n for w in works() for n in re.findall(r"`(\w+)`", w.note)}
    assert named - known <= {"scan", "keep_layers"}  # a kind of layer, and a setting of distill


def test_a_strategy_leads_to_a_backend_that_can_do_it() -> None:
    assert way(Place(kind="strategy", name="medusa")).query == {"strategy": "medusa", "backend": "pytorch"}
    assert way(Place(kind="transform", name="distill")).page == "pages/measure/train.py"
    assert way(Place(kind="transform", name="prune")).page == "pages/measure/transform.py"


def test_sentences_rest_on_rows_and_quote_their_figures() -> None:
    ids = {w.id: w for w in works()}
    assert len(literature().sentences) == 8
    for number, sentence in enumerate(literature().sentences, 1):
        assert len(sentence.works) >= 3 and set(sentence.works) <= ids.keys()
        assert [w.id for w in chosen(sentence=number)] == sorted(
            sentence.works, key=lambda i: (ids[i].year, ids[i].title)
        )
    assert {"6.5", "1.38", "64"} <= numbers(literature().sentences[2].text) <= numbers(ids["eagle-3"].figure) | {"3"}


def test_independent_rows_are_of_one_bench_in_one_setting() -> None:
    rows = literature().independent.rows
    assert len(rows) == 18 and {r.card for r in rows} == {"RTX 3090", "A100"}
    medusa = next(b for b in reported_beside_independent() if b.method == "Medusa")
    assert medusa.found == (1.44, 1.71) and medusa.reported == (2.2, 3.6)
    assert "Token Recycling" not in {b.method for b in reported_beside_independent()}  # seen in that bench alone


def test_filters_narrow() -> None:
    assert len(chosen()) == len(works())
    assert {w.family for w in chosen(family="Pruning")} == {"Pruning"}
    assert {w.id for w in chosen(status="have", family="Pruning")} == {
        "wanda",
        "shortened-llama",
        "shortgpt",
        "minitron",
    }
    assert all("independent" in w.seen for w in chosen(seen="independent"))


def test_words_of_a_speed_up() -> None:
    assert str(Range(None, 3)) == "up to 3 ×" and str(Range(2, 3)) == "2 to 3 ×"
    assert str(Range(6, None)) == "more than 6 ×" and str(Range(2.5, 2.5)) == "2.5 ×"


def test_charts_hold_the_rows_and_say_them() -> None:
    chart = over_the_years(reported(works()), families())
    assert len(chart.spec["datasets"]["rows"]) == sum(w.times is not None for w in works())
    beside = reported_against_independent(reported_beside_independent())
    assert "Medusa: reported 2.2 to 3.6 ×, independent 1.44 to 1.71 ×" in beside.alt
    found = next(f for s in study_store.studies() if isinstance(f := study_store.read(s.path), Findings))
    points = quantized(found, "perplexity")
    assert [p.bits for p in points] == sorted(p.bits for p in points) and len(points) >= 14
    assert not [p for p in points if "Wanda" in p.label or "dropped" in p.label]
    chart = bits_against_quality(points, "Perplexity")
    assert "GGUF Q8_0 8.5 bits 32.4" in chart.alt
    rows = chart.spec["datasets"]["rows"]
    tall = max(r["high"] for r in rows) - min(r["low"] for r in rows)
    near = [
        (a["name"], b["name"])
        for a, b in combinations([r for r in rows if r["name"]], 2)
        if abs(a["value"] - b["value"]) < 0.06 * tall and 1 / 1.7 < a["bits"] / b["bits"] < 1.7
    ]
    assert not near, "names that lie on each other"


def test_the_page_shows_the_rows_of_a_sentence() -> None:
    at = AppTest.from_file(str(ROOT / "pages/learn/literature.py"), default_timeout=60).run()
    assert not at.exception and len(at.dataframe[-1].value) == len(works())
    at.button(key="rows-2").click().run()
    assert not at.exception
    assert set(at.dataframe[-1].value["Work"]) == {"Medusa", "Lookahead", "REST", "EAGLE", "EAGLE-2"}
