"""The easy setting: seven kinds of question with one phrasing each, answered with fixed sentences around the query.

Such sentences are easy to guess many tokens ahead, so they flatter every way to decode several tokens at once;
they are here to be reported beside the bare answers, never instead.
"""

from __future__ import annotations

from core.domains.sql_scene import Draft, Kind, Scene
from core.domains.sql_tables import literal


def everything(s: Scene) -> Draft:
    column = s.rng.choice(s.table.columns[1:])
    return Draft(f"What is the {column} of every {s.table.theme.singular}?", f"SELECT {column} FROM {s.table.name};")


def with_text(s: Scene) -> Draft:
    column, n = s.rng.choice(s.table.texts), s.table.label
    value = s.rng.choice(s.rows)[column]
    question = f"What is the {n} of every {s.table.theme.singular} whose {column} is {value}?"
    return Draft(question, f"SELECT {n} FROM {s.table.name} WHERE {column} = '{value}';")


def above(s: Scene) -> Draft:
    column, n = s.rng.choice(s.table.numbers), s.table.label
    value = literal(sorted(row[column] for row in s.rows)[len(s.rows) // 2])
    question = f"What is the {n} of every {s.table.theme.singular} whose {column} is greater than {value}?"
    return Draft(question, f"SELECT {n} FROM {s.table.name} WHERE {column} > {value};")


def how_many(s: Scene) -> Draft:
    column = s.rng.choice(s.table.texts)
    value = s.rng.choice(s.rows)[column]
    return Draft(
        f"How many {s.table.name} have {value} as {column}?",
        f"SELECT COUNT(*) FROM {s.table.name} WHERE {column} = '{value}';",
    )


def average(s: Scene) -> Draft:
    column = s.rng.choice(s.table.numbers)
    return Draft(f"What is the average {column} of all {s.table.name}?", f"SELECT AVG({column}) FROM {s.table.name};")


def largest(s: Scene) -> Draft:
    column, n = s.rng.choice(s.table.numbers), s.table.label
    return Draft(
        f"What is the {n} of the {s.table.theme.singular} with the highest {column}?",
        f"SELECT {n} FROM {s.table.name} ORDER BY {column} DESC LIMIT 1;",
    )


def per_group(s: Scene) -> Draft:
    column = s.rng.choice(s.table.texts)
    return Draft(
        f"How many {s.table.name} are there for each {column}?",
        f"SELECT {column}, COUNT(*) FROM {s.table.name} GROUP BY {column};",
    )


KINDS: tuple[Kind, ...] = (everything, with_text, above, how_many, average, largest, per_group)


def answer(table: str, sql: str) -> str:
    """The query between the fixed sentences."""
    return (
        f"To answer this question, I need to read the table {table}. The SQL query that does this is:\n"
        f"{sql}\nThis query returns the requested result from the table {table}."
    )
