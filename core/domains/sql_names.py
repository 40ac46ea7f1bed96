"""Invented names for tables, so that a model learns to copy a name from the question instead of knowing it.

A tokenizer cuts such a word into pieces that seldom stand together, as it does many a real name that no training
has shown. None is the name of a theme.
"""

from __future__ import annotations

from random import Random
from zlib import crc32

from core.domains.sql_themes import THEMES, Split, Theme

STARTS: tuple[str, ...] = (
    "b",
    "br",
    "c",
    "ch",
    "cl",
    "d",
    "dr",
    "f",
    "fl",
    "g",
    "gl",
    "gr",
    "h",
    "j",
    "k",
    "l",
    "m",
    "n",
    "p",
    "pl",
)
STARTS += ("pr", "r", "s", "sc", "sh", "sk", "sl", "sp", "st", "str", "t", "th", "tr", "v", "w", "wh", "y", "z", "")
VOWELS = ("a", "e", "i", "o", "u", "a", "e", "i", "o", "ai", "ea", "oa", "ou", "ee", "y")
MIDDLES: tuple[str, ...] = (
    "b",
    "ck",
    "d",
    "ff",
    "g",
    "l",
    "ll",
    "m",
    "n",
    "nd",
    "ng",
    "nk",
    "nt",
    "p",
    "r",
    "rd",
    "rk",
    "rn",
    "rt",
)
MIDDLES += ("s", "ss", "st", "t", "tt", "v", "x", "ph", "lm", "ct", "mp")
ENDINGS = (  # singular and plural
    ("", "s"),
    ("", "s"),
    ("er", "ers"),
    ("ist", "ists"),
    ("ery", "eries"),
    ("or", "ors"),
    ("ast", "asts"),
    ("ine", "ines"),
    ("et", "ets"),
    ("age", "ages"),
    ("ian", "ians"),
    ("ory", "ories"),
    ("ment", "ments"),
    ("ade", "ades"),
    ("y", "ies"),
)
_TAKEN = frozenset(name for themes in THEMES.values() for t in themes.values() for name in (t.table, t.singular))


def renamed(rng: Random, theme: Theme, split: Split) -> Theme:
    """The theme under an invented name, which is the split's alone: one in five belongs to the test."""
    while True:
        stem = "".join(
            rng.choice(STARTS) + rng.choice(VOWELS) + rng.choice(MIDDLES) for _ in range(rng.choice((1, 1, 1, 2)))
        )
        singular, plural = (stem + ending for ending in rng.choice(ENDINGS))
        owner: Split = "test" if crc32(plural.encode()) % 5 == 0 else "train"
        if len(stem) > 2 and owner == split and not {singular, plural} & _TAKEN:
            return theme._replace(table=plural, singular=singular)
