"""Text that comes from outside is never Markdown: names in the address, in runs and in errors draw no link or image."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.message import Message
from streamlit.testing.v1 import AppTest

from core.runs.store import Store
from tests.pages.conftest import pages, sound

Open = Callable[..., AppTest]
HOSTILE = (
    "![p](http://evil.example/p) [l](http://evil.example/l) <img src=x> **b** `![c](http://evil.example/c) "
    "www.evil.example :material/skull: :streamlit: a@evil.example"
)
ALIVE = re.compile(  # the second line: what the browser finds in text whose escapes are gone
    r"(?<!\\)\]\(http://evil|(?<!\\)<img|(?<!\\)\*\*b\*\*"
    r"|http\\?://evil|www\\?\.evil|:material\\?/skull|:streamlit\\?:|a\\?@evil"
)
CODE = re.compile(r"(?<![\\`])(`+)(?!`).*?(?<!`)\1(?!`)")  # in which nothing is alive
PLAIN = {  # kinds of elements, and fields of widgets, that the browser shows as they are
    *("text", "code", "json", "arrow_data_frame", "vega_lite_chart", "arrow_vega_lite_chart", "bidi_component"),
    *("echarts_chart", "text_area", "text_input", "chat_input", "download_button"),
}
PLAIN_FIELDS = {
    "options",  # but for CHOICES
    "default",
    "value",
    "raw_values",
    "raw_value",
    "id",
    "form_id",
    "placeholder",
    "set_value",
    "query_string",
}
CHOICES = {"radio", "button_group"}  # whose options are Markdown; those of lists are not


def strings(message: Message, plain: Collection[str] = PLAIN_FIELDS, way: str = "") -> Iterator[tuple[str, str]]:
    """Every text in a message that the browser may take for Markdown, with its field."""
    for field, value in message.ListFields():
        if field.name in plain:
            continue
        for one in value if field.is_repeated else [value]:
            if isinstance(one, Message):
                yield from strings(one, plain, f"{way}.{field.name}")
            elif isinstance(one, str):
                yield f"{way}.{field.name}", one


def elements(node: Any) -> Iterator[Any]:
    """The page's elements and containers."""
    yield node
    for child in getattr(node, "children", {}).values():
        yield from elements(child)


def alive(at: AppTest) -> list[str]:
    """Where the page would draw what somebody else wrote."""
    found = []
    for node in elements(at._tree):
        proto = getattr(node, "proto", None)
        if isinstance(proto, Message) and getattr(node, "type", "") not in PLAIN:
            plain = PLAIN_FIELDS - {"options"} if node.type in CHOICES else PLAIN_FIELDS
            told = strings(proto, plain)
            found += [f"{node.type}{way}: {text}" for way, text in told if ALIVE.search(CODE.sub("", text))]
    return found


KEPT = ("type", "phase", "kind", "format", "dtype", "source", "backend", "strategy", "task", "profiler", "unit")


def outside(value: Any, kept: Collection[str] = KEPT) -> Any:
    """The same, with every free text replaced."""
    if isinstance(value, dict):
        return {k: v if k in kept else outside(v, kept) for k, v in value.items()}
    if isinstance(value, list):
        return [outside(v, kept) for v in value]
    return HOSTILE if isinstance(value, str) else value


@pytest.fixture
def hostile(filled: Store) -> Store:
    """A run in which everything that a file can say is hostile, and others with a foreign backend, strategy and end."""
    source = filled.folder / filled.ids()[0]
    events = [json.loads(line) for line in (source / "events.jsonl").read_bytes().splitlines()]
    request = json.loads((source / "request.json").read_bytes())
    failed = {"type": "failed", "t_s": 9.0, "message": HOSTILE, "hint": HOSTILE, "log": HOSTILE}
    for n, (asked, told) in enumerate(
        [
            (outside(request), [outside(e) for e in events]),
            (outside(request), [*[outside(e) for e in events[:-1]], failed]),
            (request | {"backend": HOSTILE, "strategy": HOSTILE, "dtype": HOSTILE}, events),
        ]
    ):
        run = filled.folder / f"20990101-00000{n}-aaaaaa"
        shutil.copytree(source, run)
        (run / "request.json").write_text(json.dumps(asked))
        (run / "events.jsonl").write_text("".join(json.dumps(e) + "\n" for e in told))
    return filled


@pytest.mark.parametrize("page", pages())
def test_names_in_the_address_are_words(app: Open, filled: Store, page: str) -> None:
    names = ("model", "run", "backend", "strategy", "device", "a", "b", "eval", "transform", "dtype", "study")
    assert not alive(sound(app(page, **dict.fromkeys(names, HOSTILE))))


@pytest.mark.parametrize("page", pages())
def test_names_in_runs_are_words(app: Open, hostile: Store, page: str) -> None:
    for run_id in hostile.ids()[:3]:
        assert not alive(sound(app(page, run=run_id))), run_id


def test_the_search_finds_what_would_be_drawn(tmp_path: Path) -> None:
    def script(words: str) -> None:
        import streamlit as st

        st.markdown(words)
        st.error("x", title=words)
        st.metric(words, 1)
        st.expander(words).text(words)
        st.selectbox("x", [words])
        st.radio("x", [words])
        st.segmented_control("x", [words])

    at = AppTest.from_function(script, kwargs={"words": HOSTILE}).run()
    assert len(alive(at)) == 6
