"""Numbers as people read them."""

from __future__ import annotations

import pytest

from pages.ui import text
from tests.support.facts import setup


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (text.size(None), "–"),
        (text.size(0), "0 B"),
        (text.size(999), "999 B"),
        (text.size(999_600), "1.00 MB"),
        (text.size(1_234_000_000), "1.23 GB"),
        (text.bandwidth(41e9), "41.0 GB/s"),
        (text.compute(1.5e12), "1.50 TFLOP/s"),
        (text.seconds(None), "–"),
        (text.seconds(0.0831), "83.1 ms"),
        (text.seconds(1.25), "1.25 s"),
        (text.seconds(125), "2 min 05 s"),
        (text.seconds(12e-6), "12.0 µs"),
        (text.clock(7.04), "7.0 s"),
        (text.clock(125), "2:05 min"),
        (text.token_rate(41.234), "41.2 tok/s"),
        (text.token_rate(1234.5), "1,234 tok/s"),
        (text.between("1.84 ms", "3.28 ms"), "1.84 to 3.28 ms"),
        (text.between("829 µs", "3.31 ms"), "829 µs to 3.31 ms"),
        (text.between("2 min 05 s", "5 min 05 s"), "2 min 05 s to 5 min 05 s"),
        (text.between("–", "–"), "– to –"),
        (text.count(576), "576"),
        (text.count(134_515_008), "135 M"),
        (text.percent(0.834), "83 %"),
        (text.ratio(1.25), "1.25 ×"),
    ],
)
def test_numbers(shown: str, expected: str) -> None:
    assert shown == expected


def test_outside_text_is_harmless_in_markdown() -> None:
    assert text.escape("**x** [a](b) :red[c] <i> &lt;") == r"\*\*x\*\* \[a\]\(b\) \:red\[c\] \<i\> \&lt;"
    assert text.escape("- x\n---\n=\n1. y\n-5 a-b") == "\\- x\n\\---\n\\=\n1\\. y\n-5 a-b"


@pytest.mark.parametrize(
    ("words", "apart"),
    [
        ("http://b", "http|\\://b"),
        ("HTTPS://b", "HTTP|S\\://b"),
        ("www.b.c", "www|.b.c"),
        ("a_@b.c", "a\\_|@b.c"),
        (":streamlit:", "\\:|streamlit\\:"),
        (":material/delete:", "\\:|material/delete\\:"),
        (":+1:", "\\:|\\+1\\:"),
        ("a: b", "a\\: b"),
        ("v1.2, @b", "v1.2, @b"),
    ],
)
def test_what_the_browser_would_find_behind_the_escapes_is_kept_apart(words: str, apart: str) -> None:
    assert text.escape(words) == apart.replace("|", "\u2060")


@pytest.mark.parametrize(
    ("words", "shown"), [("http://a", "`http://a`"), ("a`b", "`` a`b ``"), ("``", "``` `` ```"), ("a\n# b", "`a # b`")]
)
def test_words_to_copy_are_code_whatever_is_in_them(words: str, shown: str) -> None:
    assert text.code(words) == shown


@pytest.mark.parametrize(
    ("words", "number"),
    [("0", 0), ("12", 12), ("", None), ("-1", None), ("²", None), ("1e3", None), ("9" * 5000, None), ("1000001", None)],
)
def test_a_number_out_of_an_address(words: str, number: int | None) -> None:
    assert text.natural(words) == number


def test_every_kind_of_number_has_a_badge() -> None:
    for kind in ("measured", "computed", "stated", "estimated"):
        assert kind in text.provenance(kind)
        assert kind in text.provenance_help()


def test_a_run_on_another_step_than_the_librarys_says_so() -> None:
    versions = {"torch": "2.13"}
    assert text.setup_line(setup(versions=versions), None) == "2 threads · torch 2.13"
    assert text.setup_line(setup(versions=versions, fused=True), None) == "2 threads · fused step · torch 2.13"
    native = text.setup_line(setup(versions=versions, fused=True), None, own_loop=True)
    assert native == "2 threads · torch 2.13", "a session that is fused for its forwards, and a loop that is not"
    assert text.setup_line(None, None) == ""


@pytest.mark.parametrize(
    ("value", "unit", "shown"),
    [
        (2_500_000, "bytes", "2.50 MB"),
        (2.5e9, "bytes/s", "2.50 GB/s"),
        (0.25, "s", "250 ms"),
        (250, "ms", "250 ms"),
        (0.5, "share", "50 %"),
        (12_345, "tokens", "12,345"),
    ],
)
def test_a_figure_is_shown_in_its_row_s_unit(value: float, unit: str, shown: str) -> None:
    assert text.in_unit(value, unit) == shown
