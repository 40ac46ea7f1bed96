"""Words inside charts: numbers with SI prefixes, names short enough for a legend."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from itertools import takewhile

SHORT = 10
LETTERS = 30  # of a line of an axis label
UNITS = {"seconds": "s", "flops": "FLOP", "bytes": "B", "weight_bytes": "B", "output_bytes": "B"}
LINES = "split(datum.label, '\\n')"  # a Vega expression: an axis label in the lines that `wrapped` made
_ONE_LINE = "replace(datum.label, regexp('\\n', 'g'), ' · ')"
LINE_OR_LINES = f"width < 30 + 6.5 * length({_ONE_LINE}) ? {LINES} : {_ONE_LINE}"  # by room
_PREFIXES = {-4: "p", -3: "n", -2: "µ", -1: "m", 0: "", 1: "k", 2: "M", 3: "G", 4: "T", 5: "P", 6: "E"}


def si(value: float | None, unit: str, digits: int = 3) -> str:
    """1.53e9, "FLOP/s" is "1.53 GFLOP/s"; None is "not measured". Without a unit nothing is counted in thousandths."""
    if value is None or not math.isfinite(value):
        return "not measured"
    if value == 0:
        return f"0 {unit}".strip()
    power = max(-4 if unit else 0, min(6, math.floor(math.log10(abs(value)) / 3 + 1e-12)))
    scaled = value / 1000.0**power
    if abs(float(f"{scaled:.{digits}g}")) >= 1000 and power < 6:
        power, scaled = power + 1, scaled / 1000
    text = f"{scaled:.{digits}g}" if abs(scaled) < 1000 else f"{scaled:,.0f}"
    return f"{text} {_PREFIXES[power]}{unit}".strip()


def plain(value: float, digits: int = 4) -> str:
    """`41.23`, `128,500`: so many digits, and no exponent however large it is."""
    text = f"{value:,.{digits}g}"
    return f"{value:,.0f}" if "e+" in text else text


def short(name: str) -> str:
    """A layer's name for a narrow axis: `blocks.7.attn.q_proj` is `7 · attn.q_proj`."""
    head, _, rest = name.partition(".")
    if head not in ("blocks", "layers") or not rest:
        return name
    number, _, tail = rest.partition(".")
    return f"{number} · {tail}" if tail else name


AXIS = 100  # pixels that an axis and the rim beside a plot take, at most but for long names


def wrapped(name: str) -> str:
    """A long name in lines for an axis, broken between its parts (` · `), a long part between its words."""
    lines: list[str] = []
    for part in name.split(" · "):
        if lines and len(lines[-1]) + len(part) + 3 <= LETTERS:
            lines[-1] += f" · {part}"
        else:
            lines += textwrap.wrap(part, LETTERS, break_long_words=False) or [part]
    return "\n".join(lines)


def few(digits: str, axis: str = "x") -> str:
    """A Vega expression: whether a tick of a logarithmic axis has a label, "13" being those at 1, 3, 10, 30.

    A short axis may have none of these: less than SHORT times as long as its beginning, it has a label at every tick.
    """
    return f"(domain('{axis}')[1] < {SHORT} * domain('{axis}')[0] || test(/^[{digits}]/, format(datum.value, 'e')))"


def columns(widest: int) -> dict[str, str]:
    """As many columns of a legend as there is room for, its entries being up to `widest` pixels wide.

    Vega gives the legend its height before it knows how wide the plot will be beside its axis, and never again: so it
    is the container that counts, without what an axis may take.
    """
    room = f"min(width, (containerSize()[0] || width + {AXIS}) - {AXIS})"
    return {"expr": f"max(1, floor({room} / {widest}))"}


def numbered(names: Sequence[str]) -> list[str]:
    """Equal names get a number; they differ in a prompt or another setting that no name tells."""
    seen: dict[str, int] = {}
    found = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        found.append(name if names.count(name) == 1 else f"{name} ({seen[name]})")
    return found


def distinct(rows: Sequence[Sequence[str]]) -> tuple[list[str], str]:
    """Names for a legend, and what is true of all: parts that every row shares are said once, empty ones never.

    rows: of equal length, part by part, such as model, backend, precision. Names that begin with the same two or
    more words, joined by `-`, have `…` in place of these. One row alone is named in full.
    """
    columns = [list(column) for column in zip(*rows, strict=True)]
    full = [" · ".join(filter(None, row)) for row in rows]
    if len(set(full)) < 2:
        return full, ""
    shared = [column[0] for column in columns if len(set(column)) == 1]
    telling = [_without_start(column) for column in columns if len(set(column)) > 1]
    names = [" · ".join(filter(None, row)) for row in zip(*telling, strict=True)]
    return [name or whole for name, whole in zip(names, full, strict=True)], " · ".join(filter(None, shared))


def _without_start(names: list[str]) -> list[str]:
    split = [name.split("-") for name in names]
    shared = takewhile(lambda words: len(set(words)) == 1, zip(*(words[:-1] for words in split), strict=False))
    same = len(list(shared))
    return ["…" + "-".join(words[same:]) for words in split] if same >= 2 else names
