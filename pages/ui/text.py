"""Numbers as people read them: three digits, an SI unit, and where they come from.

Pure functions of numbers: nothing here draws. None is "–", never 0.
"""

from __future__ import annotations

import math
import re
import time
from typing import Literal

from core.types import Host, Provenance, RunStatus, Setup

NONE = "–"
_JOINER = "\u2060"
_FOUND_LATER = re.compile(  # in text that is escaped: https://a, www.a, a@b.c, :streamlit:, :material/delete:
    r"(?<=http)(?=s?\\://)|(?<=www)(?=\.)|(?<=[\w.+-])(?=@)|(?<=\\:)(?=(?:[\w/-]|\\[_+])+\\:)", re.IGNORECASE
)
_BLOCKS = re.compile(r"^([ \t]*\d*)([.=-])(?=[ \t=-]|$)", re.MULTILINE)  # lists, and lines under a heading
_PREFIXES = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))

_PROVENANCE: dict[Provenance, tuple[str, str, str]] = {
    "measured": ("green", "straighten", "taken from this run's events"),
    "computed": ("blue", "calculate", "follows from the model's architecture"),
    "stated": ("gray", "description", "from a data sheet"),
    "estimated": ("orange", "query_stats", "from a model, with a range"),
}
_STATUS: dict[str, tuple[str, str, str]] = {
    "queued": ("gray", "hourglass_empty", "Queued"),
    "running": ("blue", "play_circle", "Running"),
    "done": ("green", "check_circle", "Done"),
    "cancelled": ("orange", "stop_circle", "Stopped"),
    "failed": ("red", "error", "Failed"),
    "interrupted": ("orange", "power_off", "Interrupted"),
    "damaged": ("red", "broken_image", "Damaged"),
}


def si(value: float | None, unit: str = "", digits: int = 3) -> str:
    """`1.23 GB`, `41 MFLOP`, `–`. Three significant digits, decimal prefixes."""
    if value is None:
        return NONE
    for factor, prefix in _PREFIXES:
        if abs(value) >= factor * 0.9995:
            return f"{_digits(value / factor, digits)} {prefix}{unit}"
    return f"{_digits(value, digits)} {unit}".rstrip()


def size(n_bytes: float | None) -> str:
    """Bytes in decimal units: `1.20 GB`."""
    return si(n_bytes, "B")


def bandwidth(bytes_per_s: float | None) -> str:
    """`41.0 GB/s`."""
    return si(bytes_per_s, "B/s")


def compute(flop_per_s: float | None) -> str:
    """`1.50 TFLOP/s`."""
    return si(flop_per_s, "FLOP/s")


def seconds(value: float | None) -> str:
    """`1.25 s`, `83.0 ms`, `12.0 µs`; from two minutes on `2 min 05 s`, from two hours `2 h 05 min`."""
    if value is None:
        return NONE
    if value >= 7200:
        return f"{int(value) // 3600} h {int(value) % 3600 // 60:02d} min"
    if value >= 120:
        return f"{int(value) // 60} min {int(value) % 60:02d} s"
    for factor, unit in ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")):
        if abs(value) >= factor * 0.9995:
            return f"{_digits(value / factor)} {unit}"
    return "0 s" if value == 0 else f"{_digits(value / 1e-9)} ns"


def clock(value: float | None) -> str:
    """A running clock that does not jump about: `12.3 s`, `2:05 min`."""
    if value is None:
        return NONE
    return f"{value:.1f} s" if value < 60 else f"{int(value) // 60}:{int(value) % 60:02d} min"


def roughly(value: float) -> str:
    """Seconds of which nobody knows the last digit: `7 s`, `45 s`, `2 min`, `12 min`, `3 h`."""
    if value < 10:
        return f"{max(1, round(value))} s"
    if value < 58:
        return f"{5 * round(value / 5)} s"
    if value < 600:
        minutes, rest = divmod(10 * round(value / 10), 60)
        return f"{minutes} min" + (f" {rest} s" if rest else "")
    return f"{round(value / 60)} min" if value < 7200 else f"{value / 3600:.1f} h"


def in_unit(value: float, unit: str) -> str:
    """A figure of a table whose rows have units of their own: bytes, bytes/s, s, ms, share, or a plain number."""
    match unit:
        case "bytes":
            return size(value)
        case "bytes/s":
            return bandwidth(value)
        case "s":
            return seconds(value)
        case "ms":
            return seconds(value / 1e3)
        case "share":
            return percent(value)
    return f"{value:,.0f}"


def token_rate(tok_per_s: float | None) -> str:
    """`41.2 tok/s`."""
    if tok_per_s is None or tok_per_s < 10_000:
        return NONE if tok_per_s is None else f"{_digits(tok_per_s)} tok/s"
    return si(tok_per_s, "tok/s")


def between(low: str, high: str) -> str:
    """`1,167 to 4,666 tok/s`: two figures, their unit once where it is the same."""
    number, _, unit = low.partition(" ")
    once = unit and " " not in unit and high.partition(" ")[2] == unit
    return f"{number if once else low} to {high}"


def count(value: float | None) -> str:
    """`135 M`, `4.10 k`, `576`: exact below ten thousand."""
    if value is None:
        return NONE
    return f"{value:,.0f}" if abs(value) < 10_000 else si(value)


def counted(n: int, thing: str) -> str:
    """`1 pair`, `2,000 pairs`."""
    return f"{n:,} {thing}{'' if n == 1 else 's'}"


def parameters(n: float | None) -> str:
    """Of a model, in words: `135 million`, `6.74 billion`, `576`."""
    if n is None:
        return NONE
    for factor, word in ((1e12, "trillion"), (1e9, "billion"), (1e6, "million")):
        if n >= factor * 0.9995:
            return f"{_digits(n / factor)} {word}"
    return f"{n:,.0f}"


def percent(share: float | None) -> str:
    """A share of one as `83 %`."""
    return NONE if share is None else f"{_digits(share * 100, 2)} %"


def ratio(value: float | None) -> str:
    """`1.25 ×`."""
    return NONE if value is None else f"{_digits(value)} ×"


def when(created_s: float | None) -> str:
    """Local date and time of a moment: `Today 14:05`, `21 Nov 14:05`, `21 Nov 2025`."""
    if created_s is None:
        return NONE
    then, now = time.localtime(created_s), time.localtime()
    if then[:3] == now[:3]:
        return time.strftime("Today %H:%M", then)
    return time.strftime("%d %b %H:%M" if then[0] == now[0] else "%d %b %Y", then)


def age(seconds: float | None) -> str:
    """How long ago, in one unit: `a moment`, `5 min`, `3 h`, `12 days`."""
    if seconds is None:
        return NONE
    for unit, length_s in (("day", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if (n := int(seconds // length_s)) >= 1:
            return f"{n} {unit}{'s' * (unit == 'day' and n > 1)}"
    return "a moment"


def provenance(kind: Provenance) -> str:
    """A badge that says where the numbers beside it come from, as Markdown."""
    color, icon, _ = _PROVENANCE[kind]
    return f":{color}-badge[:material/{icon}: {kind}]"


def provenance_help() -> str:
    """What the four badges mean, for tooltips."""
    return "\n".join(f"- **{kind}**: {meaning}" for kind, (_, _, meaning) in _PROVENANCE.items())


def status(of: RunStatus | Literal["damaged"] | str) -> str:
    """A run's status as a Markdown badge."""
    color, icon, label = _STATUS.get(of, ("gray", "help", of.capitalize()))
    return f":{color}-badge[:material/{icon}: {label}]"


def status_word(of: str) -> str:
    return _STATUS[of][2] if of in _STATUS else of.capitalize()


def escape(text: str) -> str:
    """Text that came from outside (a model, a file, a path) made harmless inside Markdown.

    Addresses, icons and pictures are found by the browser in what the escapes have left: a word joiner, which is not
    seen, keeps their words apart.
    """
    apart = _BLOCKS.sub(r"\1\\\2", "".join("\\" + c if c in "\\`*_{}[]()<>#+!|~$:&" else c for c in text))
    return _FOUND_LATER.sub(_JOINER, apart)


def code(words: str) -> str:
    """Words from outside that somebody may want to copy, an address or a path, as code in a line of Markdown."""
    line = " ".join(words.split())
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", line)), default=0))
    return f"{fence} {line} {fence}" if "`" in line else f"{fence}{line}{fence}"


def natural(words: str, most: int = 1_000_000) -> int | None:
    """A number out of an address; None for what is none, or is larger than any that is meant."""
    number = int(words) if words.isdecimal() and len(words) <= 12 else None
    return number if number is not None and number <= most else None


def cut(words: str, most: int) -> str:
    """On one line, and no longer than so many characters."""
    line = " ".join(words[: 2 * most].split())
    return line if len(line) <= most and len(words) <= 2 * most else f"{line[: most - 1]}…"


def prose(words: str) -> str:
    """A sentence of ours with words from outside in it: harmless, and what stands between backticks stays code."""
    return "".join(part if n % 2 else escape(part) for n, part in enumerate(re.split(r"(`[^`\n]+`)", words)))


def setup_line(setup: Setup | None, host: Host | None, own_loop: bool = False) -> str:
    """Machine, threads, a step that is not the library's own, and versions in one line; empty when nothing is known.

    own_loop: the library's own loop ran, which takes no fused step.
    """
    versions = dict(setup.versions) if setup else {}
    if host is not None and host.python:
        versions["python"] = host.python
    parts = [
        host.machine.cpu if host else "",
        counted(setup.threads, "thread") if setup and setup.threads else "",
        "fused step" if setup and setup.fused and not own_loop else "",
        f"chat template {setup.chat_template}" if setup and setup.chat_template else "",
        f"thinking {'on' if setup.thinking else 'off'}" if setup and setup.thinking is not None else "",
        *(f"{name} {version}" for name, version in sorted(versions.items())),
    ]
    return " · ".join(filter(None, parts))


def _digits(value: float, digits: int = 3) -> str:
    """`digits` significant digits without an exponent; more before the point are kept."""
    if value == 0:
        return "0"
    order = math.floor(math.log10(abs(float(f"{value:.{digits}g}"))))
    return f"{value:,.{max(0, digits - 1 - order)}f}"
