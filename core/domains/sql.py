"""Text to SQL over invented tables: questions with gold queries that were executed, and a judge that executes.

Judged by execution accuracy on two fillings of the tables, so that a query that is right by chance on one is
likely caught by the other (test suites: Zhong, Yu and Klein, arXiv 2010.02840, section 3). Train and test share no
theme and no table, invented names included; columns and phrasings are shared, as the unseen part is the schema.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from itertools import islice
from random import Random

from core.domains import sql_easy
from core.domains.questions import Question
from core.domains.sql_names import renamed
from core.domains.sql_one_table import ONE_TABLE
from core.domains.sql_run import RefusedError, Row, database, rows, statement
from core.domains.sql_scene import Draft, Scene
from core.domains.sql_tables import Table, fill, invent, script
from core.domains.sql_themes import THEMES, Split
from core.domains.sql_two_tables import TWO_TABLES

INVENTED = 0.7  # share of the questions whose tables have invented names, which no theme and no other split has
INSTRUCTION = "Write the SQL query: "


def generate(split: Split, n: int, seed: int, easy: bool = False) -> list[Question]:
    """n different questions. The first k are the same for every n >= k.

    easy: seven kinds, one phrasing each, and answers with fixed sentences around the query.
    """
    return list(islice(written(split, begin(split, seed, easy), set(), easy), n))


def begin(split: Split, seed: int, easy: bool) -> Random:
    """What the first question of a seed is drawn from."""
    return Random(f"sql {split} {seed} {easy}")


def written(split: Split, rng: Random, seen: set[str], easy: bool) -> Iterator[Question]:
    """Questions without end, each drawn when it is asked for. seen: the prompts so far, to which each is added."""
    themes = THEMES[split]
    while True:
        kind = rng.choice(sql_easy.KINDS if easy else (*ONE_TABLE, *TWO_TABLES))
        joined = kind in TWO_TABLES
        theme = rng.choice([t for t in themes.values() if t.parent or not joined])
        above = themes[theme.parent] if theme.parent and (joined or (not easy and rng.random() < 0.2)) else None
        if not easy and rng.random() < INVENTED:
            theme, above = renamed(rng, theme, split), above and renamed(rng, above, split)
        table = invent(rng, theme, above)
        parent = invent(rng, above, None) if above else None
        fillings = [_fill(rng, table, parent) for _ in range(2)]
        own, others = fillings[0]
        draft = kind(Scene(rng, table, own, parent, others))
        declarations = [t.declaration() for t in (parent, table) if t]
        prompt = "\n".join([*declarations, INSTRUCTION + draft.question])
        databases = tuple(_script(table, parent, f) for f in fillings)
        if prompt in seen or not _good(draft, databases):
            continue
        seen.add(prompt)
        digest = hashlib.sha256("\n".join([prompt, *databases]).encode()).hexdigest()[:12]
        yield Question(
            id=f"sql-{'easy-' if easy else ''}{split}-{digest}",
            cluster=table.name,
            prompt=prompt,
            answer=sql_easy.answer(table.name, draft.sql) if easy else draft.sql,
            databases=databases,
        )


def judge(question: Question, output: str) -> bool:
    """Whether the first statement in `output` gives what the gold query gives, on every filling.

    Rows count as a multiset, or in order where the gold query orders them. What does not run, or would write,
    is wrong.
    """
    assert question.answer is not None
    gold, found = statement(question.answer), statement(output)
    if not found:
        return False
    return all(_same(script, gold, found) for script in question.databases)


def _same(script: str, gold: str, found: str) -> bool:
    expected, actual = run(script, gold), run(script, found)
    assert expected is not None, gold
    if actual is None:
        return False
    return expected == actual if "ORDER BY" in gold else Counter(expected) == Counter(actual)


def run(script: str, sql: str) -> list[Row] | None:
    """The rows of a query on a fresh database; None if it fails or is refused."""
    with closing(database(script)) as connection:
        try:
            return rows(connection, sql)
        except RefusedError:
            return None


def _fill(rng: Random, table: Table, parent: Table | None) -> tuple[list[dict[str, str | int | float]], ...]:
    n_parents = rng.randint(6, 8)
    others = fill(rng, parent, n_parents) if parent else []
    return fill(rng, table, rng.randint(8, 12), n_parents), others


def _script(table: Table, parent: Table | None, filling: tuple[list[dict[str, str | int | float]], ...]) -> str:
    own, others = filling
    return (script(parent, others) if parent else "") + script(table, own)


def _good(draft: Draft, databases: tuple[str, ...]) -> bool:
    """Whether the gold query runs everywhere, finds something in the first filling, and has one right order."""
    first: list[Row] | None = None
    for text in databases:
        with closing(database(text)) as connection:
            try:
                found = rows(connection, draft.sql)
                ties = rows(connection, draft.ties) if draft.ties else []
            except RefusedError as error:
                raise AssertionError(f"{draft.sql}: {error}") from None
        if len(set(ties)) < len(ties):
            return False
        first = found if first is None else first
    return bool(first) and any(value is not None for row in first or [] for value in row)
