"""Bytes to events, whatever the line ends and wherever the reads are cut."""

from __future__ import annotations

import itertools

import pytest

from core.endpoints import framing
from core.endpoints.framing import EndlessEventError, Event, JsonLines, ServerSentEvents, value_of

STREAM = (
    'data: {"a":"é🙂\u2028"}\n\n'
    + ": ping\n\nevent: message.delta\ndata:one\ndata: two\nid: 7\nretry: 5\n\ndata: [DONE]\n\n"
)
EVENTS = [Event(data='{"a":"é🙂\u2028"}'), Event(data="one\ntwo", name="message.delta"), Event(data="[DONE]")]


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_events_are_the_same_however_the_bytes_come(newline: str, size: int) -> None:
    data = STREAM.replace("\n", newline).encode()
    frames = ServerSentEvents()
    parts = [data[i : i + size] for i in range(0, len(data), size)]
    assert [e for part in parts for e in frames.feed(part)] == EVENTS
    assert list(frames.finish()) == []


def test_an_event_is_there_with_its_last_byte_and_not_before() -> None:
    frames = ServerSentEvents()
    assert list(frames.feed(b"data: x\r\n\r")) == [Event(data="x")]
    assert list(frames.feed(b"\ndata: y\r\n")) == []
    assert list(frames.feed(b"\r\n")) == [Event(data="y")]


def test_a_missing_last_line_a_mark_of_byte_order_and_an_empty_event() -> None:
    frames = ServerSentEvents()
    assert list(frames.feed(b"\xef\xbb\xbfdata: x\n\nevent: y\n\ndata:  z")) == [Event(data="x")]
    assert list(frames.finish()) == [Event(data=" z")]


@pytest.mark.parametrize("size", [1, 5, 1000])
def test_json_lines(size: int) -> None:
    data = '{"a":"é"}\n\r\n{"b":1}\n{"c":2}'.encode()
    frames = JsonLines()
    got = [e.data for i in range(0, len(data), size) for e in frames.feed(data[i : i + size])]
    assert got + [e.data for e in frames.finish()] == ['{"a":"é"}', '{"b":1}', '{"c":2}']


def test_json_of_a_server_is_text_that_can_be_written_and_ends() -> None:
    """An emoji that a server has cut in two, as some do between two tokens, is two marks, and not an error later on."""
    assert value_of(b'{"a": "\\ud83d\\ude00 \\u00e9"}') == {"a": "\U0001f600 é"}
    assert value_of('["x\\ud83d", {"\\ude00": "\\\\ud83d"}]') == ["x\ufffd", {"\ufffd": "\\ud83d"}]
    for deep in (b"[" * 100_000, b'{"a":' * 100_000, b"", b"nul", b"\xff", b"9" * 5000):
        with pytest.raises(ValueError):
            value_of(deep)


def test_an_event_without_an_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(framing, "LIMIT", 100)
    for frames, part in itertools.product((ServerSentEvents(), JsonLines()), (b"data: " + b"x" * 200,)):
        with pytest.raises(EndlessEventError):
            list(frames.feed(part))
    many = ServerSentEvents()
    with pytest.raises(EndlessEventError):
        list(many.feed(b"data: 0123456789\n" * 20))
