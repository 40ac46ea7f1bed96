"""How long prompts and answers are: fixed, drawn, or from a file of one's own; and the prompts themselves.

Prompts differ from their first token on, between requests and between tests, so that no server answers from a cache of
prefixes what it should read. They are made of common words of one token each in most vocabularies: their length is
right to some per cent, and what counts is what the server says it read.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec
import numpy as np

from core.types import Record
from hardware.errors import ExplorerError
from hardware.files import UNREADABLE, contents

MOST_TOKENS = 1_000_000
MOST_ROWS = 200_000
MOST_FILE_BYTES = 256_000_000
_PROMPT_KEYS = ("prompt", "text", "question")
_PROMPT_TOKEN_KEYS = ("prompt_tokens", "input_length", "input_tokens", "prompt_len")
_ANSWER_TOKEN_KEYS = ("max_tokens", "max_completion_tokens", "output_length", "output_tokens", "output_len")
_LETTERS = "bcdfghjklmnpqrstvwxz"
_WORDS = """
time year people way day man thing woman life child world school state family student group country problem hand
part place case week company system program question work government number night point home water room mother
area money story fact month lot right study book eye job word business issue side kind head house service friend
father power hour game line end member law car city community name president team minute idea body information
back parent face others level office door health person art war history party result change morning reason
research girl guy moment air teacher force education
""".split()  # noqa: SIM905 - a list of a hundred lines says no more


class Lengths(Record):
    """How many tokens. fixed: `low`. uniform: from `low` to `high`. lognormal: median `low`, spread `sigma` of the
    logarithm, at most `high`."""

    kind: Literal["fixed", "uniform", "lognormal"] = "fixed"
    low: int = 128
    high: int = 0
    sigma: float = 0.0

    def __str__(self) -> str:
        if self.kind == "uniform":
            return f"{self.low}-{self.high}"
        return f"{self.low}" if self.kind == "fixed" else f"{self.low}~{self.sigma:g}"

    @property
    def most(self) -> int:
        """The largest that can be drawn."""
        return self.low if self.kind == "fixed" else self.high

    def draw(self, rng: np.random.Generator) -> int:
        """One length; always at least one token."""
        if self.kind == "uniform":
            return int(rng.integers(self.low, self.high + 1))
        if self.kind == "lognormal":
            return max(1, min(self.high, round(self.low * math.exp(self.sigma * rng.standard_normal()))))
        return self.low


def lengths(words: str) -> Lengths:
    """`128`, `64-256` (uniform) or `128~0.5` (log-normal, median and spread). Raises ExplorerError."""
    found: Lengths | None = None
    if match := re.fullmatch(r"\s*(\d+)\s*", words):
        found = Lengths(low=int(match[1]))
    elif match := re.fullmatch(r"\s*(\d+)\s*-\s*(\d+)\s*", words):
        found = Lengths(kind="uniform", low=int(match[1]), high=int(match[2]))
    elif match := re.fullmatch(r"\s*(\d+)\s*~\s*(\d*\.?\d+)\s*", words):
        low, sigma = int(match[1]), float(match[2])
        if sigma <= 3:
            most = min(MOST_TOKENS, math.ceil(low * math.exp(3 * sigma)))
            found = Lengths(kind="lognormal", low=low, high=most, sigma=sigma)
    if found is None or not 1 <= found.low <= MOST_TOKENS or (found.kind == "uniform" and found.high < found.low):
        raise ExplorerError(
            f"'{words}' is not a length.",
            "Write tokens as `128`, as `64-256` for any in between, or as `128~0.5` for a log-normal draw.",
        )
    if found.high > MOST_TOKENS:
        raise ExplorerError(f"{found.high:,} tokens are too many.", f"Stay below {MOST_TOKENS:,}.")
    return found


class Ask(NamedTuple):
    """One request to come: its text and how many tokens its answer shall have."""

    number: int
    prompt: str
    answer_tokens: int


class Row(NamedTuple):
    """A line of a data set: a prompt or how long one shall be, and how long its answer shall be where it says so."""

    prompt: str | None
    prompt_tokens: int | None
    answer_tokens: int | None


def asks(prompt: Lengths, answer: Lengths, rows: tuple[Row, ...], seed: int, salt: str) -> Iterator[Ask]:
    """Requests without end. rows: of a data set, in an order drawn from the seed, begun anew when used up.

    salt: what makes this test's prompts differ from those of another one with the same seed. The lengths follow from
    the seed alone, whatever the server is and however fast it answers.
    """
    rng = np.random.default_rng(seed)
    order: list[int] = []
    index = 0
    while True:
        row = Row(None, None, None)
        if rows:
            order = order or [int(i) for i in rng.permutation(len(rows))]
            row = rows[order.pop(0)]
        n_prompt = row.prompt_tokens or prompt.draw(rng)
        n_answer = row.answer_tokens or answer.draw(rng)
        words = row.prompt if row.prompt is not None else text(n_prompt, f"{salt}/{seed}/{index}")
        yield Ask(index, words, n_answer)
        index += 1


def text(n_tokens: int, name: str) -> str:
    """About `n_tokens` tokens of text that no other name begins alike."""
    rng = np.random.default_rng(np.frombuffer(name.encode(), dtype=np.uint8).astype(np.uint32))
    first = "".join(_LETTERS[i] for i in rng.integers(len(_LETTERS), size=4)).capitalize()
    return " ".join([first, *(_WORDS[i] for i in rng.integers(len(_WORDS), size=max(0, n_tokens - 3)))])


def read_rows(path: str) -> tuple[Row, ...]:
    """The rows of a JSONL file; an empty path gives none. Raises ExplorerError, which names the line at fault.

    A row is an object with a `prompt`, or with `prompt_tokens` (also `input_length`); and, where it says so, with
    `max_tokens` (also `output_length`).
    """
    if not path:
        return ()
    file = Path(path).expanduser()
    try:
        if file.stat().st_size > MOST_FILE_BYTES:
            raise ExplorerError(f"{file} is larger than {MOST_FILE_BYTES / 1e6:.0f} MB.", "Take a part of it.")
        lines = contents(file).split(b"\n")
    except OSError as error:
        raise ExplorerError(f"{file} cannot be read: {error.strerror or error}.", "Name a JSONL file.") from error
    rows = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            rows.append(_row(msgspec.json.decode(line)))
        except (ValueError, TypeError, *UNREADABLE) as error:
            raise ExplorerError(
                f"Line {number} of {file} is not a request: {error}.",
                'Write one JSON object per line: {"prompt": "...", "max_tokens": 64}, or {"prompt_tokens": 128}.',
            ) from error
        if len(rows) > MOST_ROWS:
            raise ExplorerError(f"{file} has more than {MOST_ROWS:,} rows.", "Take a part of it.")
    if not rows:
        raise ExplorerError(f"{file} is empty.", 'Write one JSON object per line: {"prompt": "...", "max_tokens": 64}.')
    return tuple(rows)


def _row(found: Any) -> Row:
    if not isinstance(found, dict):
        raise TypeError("it is not an object")
    prompt = next((found[k] for k in _PROMPT_KEYS if k in found), None)
    if prompt is not None and (not isinstance(prompt, str) or not prompt.strip()):
        raise ValueError("its prompt is not text")
    n_prompt, n_answer = _tokens(found, _PROMPT_TOKEN_KEYS), _tokens(found, _ANSWER_TOKEN_KEYS)
    if prompt is None and n_prompt is None:
        raise ValueError("it has neither a prompt nor prompt_tokens")
    return Row(prompt, n_prompt, n_answer)


def _tokens(found: dict[str, Any], keys: tuple[str, ...]) -> int | None:
    for key in keys:
        if (value := found.get(key)) is not None:
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MOST_TOKENS:
                raise ValueError(f"its {key} is not a number of tokens between 1 and {MOST_TOKENS:,}")
            return value
    return None
