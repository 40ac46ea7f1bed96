"""Invents tables of a theme: their columns, and small random rows."""

from __future__ import annotations

from random import Random

from core.domains.sql_themes import NUMBERS, TEXTS, Theme
from core.types import Record

Value = str | int | float


class Table(Record):
    """A table of a theme with some of its columns, in the order in which they are declared.

    values: what each text column may hold, fewer than its pool has, so that rows share values.
    link: the column that points to the parent's id. size: rows in the first filling.
    """

    theme: Theme
    columns: tuple[str, ...]
    texts: tuple[str, ...]
    numbers: tuple[str, ...]
    values: dict[str, tuple[str, ...]]
    link: str | None

    @property
    def name(self) -> str:
        return self.theme.table

    @property
    def label(self) -> str:
        return self.theme.label

    def kind(self, column: str) -> str:
        if column == "id" or column == self.link:
            return "INT"
        if column in self.numbers:
            return "REAL" if NUMBERS[column].real else "INT"
        return "TEXT"

    def declaration(self) -> str:
        return f"CREATE TABLE {self.name} ({', '.join(f'{c} {self.kind(c)}' for c in self.columns)});"


def invent(rng: Random, theme: Theme, parent: Theme | None) -> Table:
    """A table with 1 to 2 text and 2 number columns besides its name, and a link if there is a parent."""
    texts = tuple(rng.sample(theme.texts, rng.choice((1, 2, 2) if parent is None else (1, 1, 2))))
    numbers = tuple(
        rng.sample(theme.numbers, rng.choice((2, 2, min(3, len(theme.numbers))) if parent is None else (1, 2, 2)))
    )
    link = f"{parent.singular}_id" if parent else None
    own = [*texts, *numbers]
    rng.shuffle(own)
    columns = ["id", theme.label, *own, *([link] if link else [])]
    values = {c: tuple(rng.sample(TEXTS[c], min(len(TEXTS[c]), rng.randint(3, 4)))) for c in texts}
    return Table(theme=theme, columns=tuple(columns), texts=texts, numbers=numbers, values=values, link=link)


def fill(rng: Random, table: Table, n: int, n_parents: int = 0) -> list[dict[str, Value]]:
    """n rows. Names and numbers are distinct within a column, so that an order by them is the only one."""
    names = rng.sample(table.theme.names, n)
    columns: dict[str, list[Value]] = {"id": list(range(1, n + 1)), table.label: list(names)}
    for c in table.texts:
        columns[c] = [rng.choice(table.values[c]) for _ in range(n)]
    for c in table.numbers:
        low, high, real = NUMBERS[c][:3]
        columns[c] = [v / 10 if real else v for v in rng.sample(range(low, high + 1), n)]
    if table.link:
        columns[table.link] = [rng.randint(1, n_parents) for _ in range(n)]
    return [{c: columns[c][i] for c in table.columns} for i in range(n)]


def literal(value: Value) -> str:
    return f"'{value}'" if isinstance(value, str) else str(value)


def script(table: Table, rows: list[dict[str, Value]]) -> str:
    """SQL that builds the table with these rows."""
    lines = ", ".join("(" + ", ".join(literal(row[c]) for c in table.columns) + ")" for row in rows)
    return f"{table.declaration()}\nINSERT INTO {table.name} VALUES {lines};\n"
