"""The glossary: every term of the interface has an entry, and every entry says something and leads somewhere."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from app import MENU
from core import plugins
from core.learn.glossary import PAGE_NAMES, TERMS, explained, find, groups, matching

ROOT = Path(__file__).parents[2]
FILES = [*sorted((ROOT / "pages").rglob("*.py")), *sorted((ROOT / "core" / "charts").rglob("*.py"))]
PLAIN = {  # capitals that are no terms: formats of files and dates, names of things, colours
    *("JSON", "CSV", "HTML", "PNG", "SVG", "ZIP", "UTC", "MMM", "HH", "RTX", "SXM", "FFFFFF", "AMD", "IBM", "JAX"),
    *(
        "JSONL",
        "LM",
        "TGI",
        "XML",
        "YAML",
        "TOML",
        "TSV",
        "PDF",
        "USD",
        "EUR",
        "GPT",
        "NVIDIA",
        "THIS",
        "OWN",
        "ID",
        "OK",
        "UI",
        "II",
    ),
}
TILES = {"metric", "_tile", "tile", "draw_figure"}
UNLIKE_TERMS = {"Computed"}  # they say what the number is of by the card that they stand on


def shown_strings(tree: ast.AST) -> Iterator[str]:
    """The string literals of a file without its docstrings."""
    docs = {id(n.value) for n in ast.walk(tree) if isinstance(n, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs:
            yield node.value


def abbreviations(text: str) -> set[str]:
    """Words of two capitals or more; names of constants and of environment variables are none."""
    return set(re.findall(r"(?<![\w#-])[A-Z]{2,}s?(?![\w-])", text)) - PLAIN


def tile_labels(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name in TILES and isinstance(node.args[0].value, str):
                yield node.args[0].value


def test_every_abbreviation_of_the_interface_has_an_entry() -> None:
    used = {w: f.name for f in FILES for s in shown_strings(ast.parse(f.read_text())) for w in abbreviations(s)}
    assert {"TTFT", "KV", "FLOP"} <= used.keys()
    assert not {w: f for w, f in used.items() if find(w) is None}, "add them to core/learn/glossary.py"


@pytest.mark.parametrize("label", ["Decode", "Tokens per forward", "Bits per weight", "Time to first token"])
def test_the_search_finds_labels(label: str) -> None:
    assert label in {x for f in FILES for x in tile_labels(ast.parse(f.read_text()))} and find(label)


def test_every_way_to_decode_and_every_transform_has_an_entry() -> None:
    names = [*plugins.names("strategy"), *plugins.names("transform")]
    assert not [n for n in names if find(n) is None]


def test_entries_are_whole() -> None:
    menu = {f"pages/{entry[0]}": entry[1] for entries in MENU.values() for entry in entries}
    assert PAGE_NAMES.items() <= menu.items()
    assert len(TERMS) > 80
    assert len({t.name.casefold() for t in TERMS}) == len({t.key for t in TERMS}) == len(TERMS)
    for term in TERMS:
        assert term.about.endswith(".") and 20 < len(term.about) < 260, term.name
        assert not term.page or term.page in PAGE_NAMES, term.name
    assert [t for g in groups(TERMS).values() for t in g] == list(TERMS)


def test_words_find_their_entry_whatever_the_spelling() -> None:
    spellings = {"ttft": "Time to first token", "FLOPs": "FLOP", "Ridge": "Ridge point", "CLLMs": "Consistency model"}
    assert {w: t.name for w in spellings if (t := find(w))} == spellings
    assert find("abracadabra") is None
    assert explained("abracadabra", "More.") == "More."
    assert explained("KL", "More.") == explained("KL") + "\n\nMore."


def test_the_search_puts_names_first() -> None:
    assert matching("")[0] == TERMS[0] and len(matching("")) == len(TERMS)
    assert matching("ridge")[0].name == "Ridge point" and len(matching("ridge")) > 1
    assert not matching("ridge abracadabra")


def test_the_page_finds_a_word_and_says_when_there_is_none() -> None:
    at = AppTest.from_file(str(ROOT / "pages/learn/glossary.py"), default_timeout=60).run()
    assert not at.exception and len(at.header) == len(groups(TERMS))
    at.text_input(key="term").set_value("TTFT").run()
    assert "Time to first token" in at.markdown[0].value and "Speed" in at.header[0].value
    at.text_input(key="term").set_value("qqqq").run()
    assert not at.exception and "No entry" in at.info[0].proto.title and not at.header
