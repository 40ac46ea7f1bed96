"""One HTML file: headings, tables, texts and live charts, with Vega inside it once. It asks no host for anything.

Everything that comes from outside is escaped: words by the template, a chart's JSON so that no `</script>` can end its
element. A policy in the file's head forbids every request, whatever a chart might say. Knows nothing of runs.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

from core.charts.chart import Chart
from core.report.private import scrubbed
from core.types import Record

TEMPLATE = Path(__file__).with_name("page.html")
VEGA_LITE = "6.1"
MOST_BYTES = 2_000_000
DIGITS = 5  # of a number in a chart: no screen shows more
_WORDED = frozenset({"datasets", "domain", "title", "sort", "values"})  # parts of a chart that hold words of ours


class Table(Record, omit_defaults=False):
    """header: of the columns; the first is a name, the others are figures. Without a header all cells are words.

    prose: numbers of the columns that are words all the same. strong: numbers of the rows that stand out.
    """

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    prose: tuple[int, ...] = ()
    strong: tuple[int, ...] = ()


class Section(msgspec.Struct, frozen=True, kw_only=True):
    """A heading with what stands under it, each part left out when it is not given.

    words: a paragraph a line. text: as it is, line for line.
    """

    title: str
    words: str = ""
    table: Table | None = None
    chart: Chart | None = None
    text: str | None = None


def html(title: str, lead: str, sections: Sequence[Section], made: str = "") -> bytes:
    """The file, its words without paths and names of user or host; the page's own language stays as it is.

    lead: what it is, a paragraph a line. made: by what and when, for its foot; without it: today.
    """
    import jinja2

    made = (
        made or f"Made by Roofscope on {time.strftime('%Y-%m-%d')}. Times, memory and energy are measured unless said."
    )

    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    sections = [_private(s) for s in sections]
    drawn = [_json(s.chart.spec) if s.chart is not None else "" for s in sections]
    page: str = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        title=scrubbed(title),
        lead=scrubbed(lead),
        made=scrubbed(made),
        sections=list(zip(sections, drawn, strict=True)),
        libraries=libraries() if any(drawn) else "",
    )
    return page.encode()


def _private(of: Section) -> Section:
    """The section with every word of it scrubbed."""
    table, chart = of.table, of.chart
    if table is not None:
        rows = tuple(tuple(map(scrubbed, row)) for row in table.rows)
        table = msgspec.structs.replace(table, header=tuple(map(scrubbed, table.header)), rows=rows)
    if chart is not None:
        chart = Chart(_private_part(chart.spec), scrubbed(chart.alt))
    title, words, text = scrubbed(of.title), scrubbed(of.words), of.text if of.text is None else scrubbed(of.text)
    return Section(title=title, words=words, table=table, chart=chart, text=text)


def _private_part(part: Any, worded: bool = False) -> Any:
    """A part of a chart's specification. worded: its strings are ours, and not the chart language's: a user may be
    called mark."""
    if isinstance(part, str):
        return scrubbed(part) if worded else part
    if isinstance(part, dict):
        return {key: _private_part(value, worded or key in _WORDED) for key, value in part.items()}
    return [_private_part(value, worded) for value in part] if isinstance(part, list | tuple) else part


@cache
def libraries() -> str:
    """Vega, Vega-Lite and their embedder as one script; takes seconds the first time."""
    import vl_convert

    found: str = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", VEGA_LITE)
    assert "</script" not in found.lower()
    return found


def _json(spec: dict[str, Any]) -> str:
    """The specification as JSON that can stand in a script element."""
    data = msgspec.json.encode(_rounded(spec)).decode()
    return data.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
    if isinstance(value, dict):
        return {k: _rounded(v) for k, v in value.items()}
    return [_rounded(v) for v in value] if isinstance(value, list | tuple) else value
