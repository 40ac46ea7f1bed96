"""What every kind of question is written with: the tables it is about, its phrasings, and conditions on columns.

A phrasing is a template; words in braces are filled in from the query, and {show} with one of several verbs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import NamedTuple

from core.domains.sql_tables import Table, Value, literal
from core.domains.sql_themes import NUMBERS

Rows = list[dict[str, Value]]


class Draft(NamedTuple):
    """ties: a query whose rows must differ in every filling, or else the answer's order is not determined."""

    question: str
    sql: str
    ties: str = ""


class Scene(NamedTuple):
    """A table with its first filling, and its parent's, if the question may use it."""

    rng: Random
    table: Table
    rows: Rows
    parent: Table | None = None
    parent_rows: Rows = []  # noqa: RUF012 (never changed)

    def above(self) -> tuple[Table, Rows]:
        assert self.parent is not None
        return self.parent, self.parent_rows

    def join(self) -> str:
        parent, _ = self.above()
        own = self.table.name
        return f"FROM {own} JOIN {parent.name} ON {own}.{self.table.link} = {parent.name}.id"

    def ask(self, phrasings: Sequence[str], **words: str) -> str:
        """One of the phrasings, filled in, beginning with a capital."""
        template = self.rng.choice(phrasings)
        show = self.rng.choice(("list", "show", "give", "find", "return", "get", "display"))
        text = template.format(show=show, ts=self.table.name, t=self.table.theme.singular, **words)
        return text[0].upper() + text[1:]


SHOW = (
    "{show} the {c} of all {ts}{w}.",
    "{show} the {c} of every {t}{w}.",
    "what is the {c} of each {t}{w}?",
    "what are the {c} values of {ts}{w}?",
    "for all {ts}{w}, {show} the {c}.",
)
SUPERLATIVE = {"DESC": ("highest", "largest", "greatest"), "ASC": ("lowest", "smallest")}
AGGREGATES = {
    "MAX": ("maximum", "highest", "largest"),
    "MIN": ("minimum", "lowest", "smallest"),
    "AVG": ("average", "mean"),
    "SUM": ("total", "combined"),
}


def words(column: str) -> str:
    """How a question speaks of a column."""
    return "founding year" if column == "founded" else column.replace("_", " ")


def a(column: str) -> str:
    """The same with an article, where there is one."""
    word = words(column)
    return word if word.endswith("s") or word == "staff" else f"{'an' if word[0] in 'aeiou' else 'a'} {word}"


def filtered(s: Scene, condition: tuple[str, str], target: str | None = None) -> Draft:
    phrase, sql = condition
    column = target or s.rng.choice((s.table.label, s.table.label, *s.table.texts, *s.table.numbers))
    if column == s.table.label and s.rng.random() < 0.4:
        question = s.ask(("which {ts}{w}?", "{show} the {ts}{w}.", "{show} all {ts}{w} by {c}."), c=column, w=phrase)
    else:
        question = s.ask(SHOW, c=words(column), w=phrase)
    return Draft(question, f"SELECT {column} FROM {s.table.name} WHERE {sql};")


def compared(s: Scene, table: Table | None = None, rows: Rows | None = None, prefix: str = "") -> tuple[str, str]:
    """A condition on a number, as words and as SQL, true of some rows and not of all."""
    table, rows = table or s.table, rows if rows is not None else s.rows
    column = s.rng.choice(table.numbers)
    values = sorted(row[column] for row in rows)
    value = values[s.rng.randint(2, len(values) - 3)]
    number, n = NUMBERS[column], literal(value)
    operator = s.rng.choice((">", ">", "<", "<", ">=", "<="))
    more = operator.startswith(">")
    if len(operator) == 2:
        bound = s.rng.choice(("of at least", "of no less than") if more else ("of at most", "of no more than"))
        phrase = f" with {a(column)} {bound} {n}"
    elif number.more and s.rng.random() < 0.5:
        phrase = f" {number.more if more else number.less} than {n}"
    else:
        bound = s.rng.choice(
            ("above", "over", "greater than", "more than") if more else ("below", "under", "less than")
        )
        phrase = s.rng.choice((f" with {a(column)} {bound} {n}", f" whose {words(column)} is {bound} {n}"))
    return phrase, f"{prefix}{column} {operator} {n}"


def equal(s: Scene, table: Table | None = None, rows: Rows | None = None, prefix: str = "") -> tuple[str, str]:
    """A condition on a text, as words and as SQL."""
    table, rows = table or s.table, rows if rows is not None else s.rows
    column = s.rng.choice(table.texts)
    value = s.rng.choice(rows)[column]
    if s.rng.random() < 0.15:
        phrase = s.rng.choice((" whose {c} is not {v}", " with a {c} other than {v}", " where the {c} is not {v}"))
        return phrase.format(c=words(column), v=value), f"{prefix}{column} != '{value}'"
    phrase = s.rng.choice((" whose {c} is {v}", " with {c} {v}", " where the {c} is {v}", " having {v} as {c}"))
    return phrase.format(c=words(column), v=value), f"{prefix}{column} = '{value}'"


Kind = Callable[[Scene], Draft]
