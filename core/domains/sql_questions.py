"""The kinds of question: each draws a query over the given tables and one of several ways to ask for it.

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


def plain(s: Scene) -> Draft:
    columns = s.rng.sample(s.table.columns[1:], s.rng.choice((1, 2)))
    question = s.ask(SHOW, c=" and ".join(map(words, columns)), w="")
    return Draft(question, f"SELECT {', '.join(columns)} FROM {s.table.name};")


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


def number_filter(s: Scene) -> Draft:
    return filtered(s, compared(s))


def text_filter(s: Scene) -> Draft:
    return filtered(s, equal(s))


def both(s: Scene) -> Draft:
    (one, left), (two, right) = equal(s), compared(s)
    return filtered(s, (f"{one} and{two}", f"{left} AND {right}"))


def either(s: Scene) -> Draft:
    (one, left), (two, right) = equal(s), compared(s)
    return filtered(s, (f"{one} or{two}", f"{left} OR {right}"))


def between(s: Scene) -> Draft:
    column = s.rng.choice(s.table.numbers)
    values = sorted(row[column] for row in s.rows)
    low, high = literal(values[1]), literal(values[-s.rng.randint(2, 4)])
    phrase = s.rng.choice(
        (" with {ac} between {a} and {b}", " whose {c} is between {a} and {b}", " with {ac} from {a} to {b}")
    ).format(c=words(column), ac=a(column), a=low, b=high)
    return filtered(s, (phrase, f"{column} BETWEEN {low} AND {high}"))


def among(s: Scene) -> Draft:
    column = s.rng.choice(s.table.texts)
    first, second = s.rng.sample(s.table.values[column], 2)
    phrase = s.rng.choice(
        (
            " whose {c} is either {a} or {b}",
            " whose {c} is {a} or {b}",
            " with {c} {a} or {b}",
            " whose {c} is one of {a}, {b}",
        )
    ).format(c=words(column), a=first, b=second)
    return filtered(s, (phrase, f"{column} IN ('{first}', '{second}')"))


def like(s: Scene) -> Draft:
    name = str(s.rng.choice(s.rows)[s.table.label])
    label = s.table.label
    part, pattern, phrases = s.rng.choice(
        (
            (name[0], f"{name[0]}%", (" whose {c} starts with {p}", " with a {c} that begins with {p}")),
            (name[-1], f"%{name[-1]}", (" whose {c} ends with {p}", " with a {c} ending in {p}")),
            (name[1:3], f"%{name[1:3]}%", (" whose {c} contains {p}", " with {p} in the {c}")),
        )
    )
    phrase = s.rng.choice(phrases).format(c=label, p=part)
    return filtered(s, (phrase, f"{label} LIKE '{pattern}'"), s.rng.choice((label, *s.table.numbers)))


def ordered(s: Scene) -> Draft:
    key, label = s.rng.choice((*s.table.numbers, s.table.label)), s.table.label
    direction = s.rng.choice(("ASC", "DESC"))
    if key == label:
        way = "in alphabetical order" if direction == "ASC" else "in reverse alphabetical order"
    else:
        way = s.rng.choice(
            (
                f"from lowest to highest {words(key)}",
                f"by {words(key)} in ascending order",
                f"by increasing {words(key)}",
            )
            if direction == "ASC"
            else (
                f"from highest to lowest {words(key)}",
                f"by {words(key)} in descending order",
                f"by decreasing {words(key)}",
            )
        )
    phrasings = (
        "{show} the {c} of all {ts}, {k}.",
        "{show} the {c} of every {t} {k}.",
        "sort the {ts} {k} and {show} the {c}.",
        "what are the {c}s of the {ts} {k}?",
    )
    return Draft(s.ask(phrasings, c=label, k=way), f"SELECT {label} FROM {s.table.name} ORDER BY {key} {direction};")


def extreme(s: Scene, key: str, direction: str) -> str:
    """Words for the rows at one end: "oldest {ts}" or "{ts} with the highest age"; {ts} stays to be filled in."""
    own = NUMBERS[key].most if direction == "DESC" else NUMBERS[key].least
    if own and s.rng.random() < 0.6:
        return own + " {ts}"
    return "{ts} with the " + s.rng.choice(SUPERLATIVE[direction]) + " " + words(key)


def top(s: Scene) -> Draft:
    key, direction, k = s.rng.choice(s.table.numbers), s.rng.choice(("DESC", "ASC")), s.rng.randint(2, 5)
    which = extreme(s, key, direction).format(ts=s.table.name)
    phrasings = (
        "{show} the {c} of the {k} {which}.",
        "what are the {c}s of the {k} {which}?",
        "which are the {k} {which}? {show} the {c}.",
        "{show} the {k} {which} by {c}.",
    )
    sql = f"SELECT {s.table.label} FROM {s.table.name} ORDER BY {key} {direction} LIMIT {k};"
    return Draft(s.ask(phrasings, c=s.table.label, k=str(k), which=which), sql)


def first(s: Scene) -> Draft:
    key, direction = s.rng.choice(s.table.numbers), s.rng.choice(("DESC", "ASC"))
    which = extreme(s, key, direction).format(ts=s.table.theme.singular)
    column = s.rng.choice((s.table.label, s.table.label, *s.table.texts))
    phrasings = (
        "{show} the {c} of the {which}.",
        "what is the {c} of the {which}?",
        "which {c} does the {which} have?",
        "tell me the {c} of the {which}.",
    )
    sql = f"SELECT {column} FROM {s.table.name} ORDER BY {key} {direction} LIMIT 1;"
    return Draft(s.ask(phrasings, c=words(column), which=which), sql)


def aggregate(s: Scene, condition: tuple[str, str] = ("", "")) -> Draft:
    column, function = s.rng.choice(s.table.numbers), s.rng.choice(tuple(AGGREGATES))
    phrasings = (
        "what is the {f} {c} of all {ts}{w}?",
        "{show} the {f} {c} of {ts}{w}.",
        "for all {ts}{w}, what is the {f} {c}?",
        "compute the {f} {c} among the {ts}{w}.",
    )
    question = s.ask(phrasings, f=s.rng.choice(AGGREGATES[function]), c=words(column), w=condition[0])
    where = f" WHERE {condition[1]}" if condition[1] else ""
    return Draft(question, f"SELECT {function}({column}) FROM {s.table.name}{where};")


def aggregate_filtered(s: Scene) -> Draft:
    return aggregate(s, equal(s))


def count(s: Scene, condition: tuple[str, str] = ("", "")) -> Draft:
    phrasings = (
        "how many {ts}{w} are there?",
        "count the {ts}{w}.",
        "what is the number of {ts}{w}?",
        "{show} the number of {ts}{w}.",
    )
    where = f" WHERE {condition[1]}" if condition[1] else ""
    return Draft(s.ask(phrasings, w=condition[0]), f"SELECT COUNT(*) FROM {s.table.name}{where};")


def count_filtered(s: Scene) -> Draft:
    return count(s, s.rng.choice((equal, compared))(s))


def distinct(s: Scene) -> Draft:
    column = s.rng.choice(s.table.texts)
    phrasings = (
        "{show} the distinct {c} values of the {ts}.",
        "what different {c} values do the {ts} have?",
        "which values of {c} occur among the {ts}?",
        "{show} every {c} of the {ts} only once.",
    )
    return Draft(s.ask(phrasings, c=words(column)), f"SELECT DISTINCT {column} FROM {s.table.name};")


def count_distinct(s: Scene) -> Draft:
    column = s.rng.choice(s.table.texts)
    phrasings = (
        "how many different {c} values do the {ts} have?",
        "count the distinct {c} values of the {ts}.",
        "what is the number of unique {c} values among the {ts}?",
        "{show} how many distinct {c} values there are in {ts}.",
    )
    return Draft(s.ask(phrasings, c=words(column)), f"SELECT COUNT(DISTINCT {column}) FROM {s.table.name};")


def group_count(s: Scene) -> Draft:
    column = s.rng.choice(s.table.texts)
    phrasings = (
        "how many {ts} are there for each {c}?",
        "{show} each {c} and its number of {ts}.",
        "count the {ts} per {c}, {c} first.",
        "for every {c}, {show} the {c} and the number of {ts}.",
    )
    return Draft(s.ask(phrasings, c=words(column)), f"SELECT {column}, COUNT(*) FROM {s.table.name} GROUP BY {column};")


def group_aggregate(s: Scene) -> Draft:
    group, column, function = (
        s.rng.choice(s.table.texts),
        s.rng.choice(s.table.numbers),
        s.rng.choice(tuple(AGGREGATES)),
    )
    phrasings = (
        "what is the {f} {c} of the {ts} for each {g}?",
        "{show} each {g} and the {f} {c} of its {ts}.",
        "for every {g}, {show} the {g} and the {f} {c} of {ts}.",
        "compute the {f} {c} of the {ts} per {g}.",
    )
    question = s.ask(phrasings, f=s.rng.choice(AGGREGATES[function]), c=words(column), g=words(group))
    return Draft(question, f"SELECT {group}, {function}({column}) FROM {s.table.name} GROUP BY {group};")


def having(s: Scene) -> Draft:
    column, k = s.rng.choice(s.table.texts), s.rng.randint(1, 3)
    phrasings = (
        "which {c} values have more than {k} {ts}?",
        "{show} the {c} values with more than {k} {ts}.",
        "{show} each {c} that more than {k} {ts} have.",
        "what {c} values are shared by more than {k} {ts}?",
    )
    sql = f"SELECT {column} FROM {s.table.name} GROUP BY {column} HAVING COUNT(*) > {k};"
    return Draft(s.ask(phrasings, c=words(column), k=str(k)), sql)


def having_average(s: Scene) -> Draft:
    group, column = s.rng.choice(s.table.texts), s.rng.choice(s.table.numbers)
    values = sorted(row[column] for row in s.rows)
    k = literal(values[len(values) // 2])
    phrasings = (
        "which {g} values have an average {c} above {k}?",
        "{show} each {g} whose {ts} have an average {c} over {k}.",
        "{show} the {g} values where the average {c} is greater than {k}.",
        "for which {g} values is the mean {c} of the {ts} more than {k}?",
    )
    sql = f"SELECT {group} FROM {s.table.name} GROUP BY {group} HAVING AVG({column}) > {k};"
    return Draft(s.ask(phrasings, g=words(group), c=words(column), k=k), sql)


def commonest(s: Scene) -> Draft:
    column, direction = s.rng.choice(s.table.texts), s.rng.choice(("DESC", "DESC", "ASC"))
    phrasings = (
        (
            "which {c} is the most common among the {ts}?",
            "{show} the {c} with the most {ts}.",
            "what is the most frequent {c} of the {ts}?",
            "which {c} do the most {ts} have?",
        )
        if direction == "DESC"
        else (
            "which {c} is the least common among the {ts}?",
            "{show} the {c} with the fewest {ts}.",
            "what is the rarest {c} of the {ts}?",
            "which {c} do the fewest {ts} have?",
        )
    )
    grouped = f"FROM {s.table.name} GROUP BY {column} ORDER BY COUNT(*) {direction} LIMIT"
    return Draft(s.ask(phrasings, c=words(column)), f"SELECT {column} {grouped} 1;", f"SELECT COUNT(*) {grouped} 2;")


def beyond_average(s: Scene) -> Draft:
    column, more = s.rng.choice(s.table.numbers), s.rng.random() < 0.6
    phrasings = (
        "{show} the {n} of all {ts} with {a} average {c}.",
        "which {ts} have {a} average {c}? {show} the {n}.",
        "{show} the {n} of every {t} whose {c} is {b} the average.",
        "what are the {n}s of {ts} whose {c} is {b} the mean?",
    )
    side, beyond = ("an above", "greater than") if more else ("a below", "less than")
    question = s.ask(phrasings, n=s.table.label, c=words(column), a=side, b=beyond)
    sign, own = ">" if more else "<", s.table.name
    return Draft(
        question, f"SELECT {s.table.label} FROM {own} WHERE {column} {sign} (SELECT AVG({column}) FROM {own});"
    )


def equal_extreme(s: Scene) -> Draft:
    column, function = s.rng.choice(s.table.numbers), s.rng.choice(("MAX", "MIN"))
    phrasings = (
        "{show} the {n} of all {ts} whose {c} equals the {f}.",
        "which {ts} have a {c} equal to the {f} {c}?",
        "{show} every {t} whose {c} is the {f} of all {ts}, by {n}.",
        "what are the {n}s of the {ts} that reach the {f} {c}?",
    )
    f = "maximum" if function == "MAX" else "minimum"
    own = s.table.name
    sql = f"SELECT {s.table.label} FROM {own} WHERE {column} = (SELECT {function}({column}) FROM {own});"
    return Draft(s.ask(phrasings, n=s.table.label, c=words(column), f=f), sql)


def join_names(s: Scene) -> Draft:
    parent, _ = s.above()
    phrasings = (
        "{show} the {n} of each {t} and the {m} of its {p}.",
        "{show} all {ts} by {n}, together with the {m} of their {p}.",
        "what is the {n} of every {t} and the {m} of the {p} it belongs to?",
        "for each {t}, {show} its {n} and its {p}'s {m}.",
    )
    column = s.rng.choice((parent.label, *parent.texts, *parent.numbers))
    question = s.ask(phrasings, n=s.table.label, m=words(column), p=parent.theme.singular)
    return Draft(question, f"SELECT {s.table.name}.{s.table.label}, {parent.name}.{column} {s.join()};")


def of_parent(s: Scene) -> tuple[str, str]:
    """A condition on the parent: words that follow its name, and SQL with the table's name before the column."""
    parent, rows = s.above()
    return s.rng.choice((equal, equal, compared))(s, parent, rows, f"{parent.name}.")


def join_filtered(s: Scene) -> Draft:
    parent, _ = s.above()
    phrase, sql = of_parent(s)
    phrasings = (
        "{show} the {c} of all {ts} that belong to {ps}{w}.",
        "{show} the {c} of every {t} of {ps}{w}.",
        "what are the {c} values of {ts} that belong to {ps}{w}?",
        "for {ps}{w}, {show} the {c} of their {ts}.",
    )
    column = s.rng.choice((s.table.label, s.table.label, *s.table.numbers))
    question = s.ask(phrasings, c=words(column), ps=parent.name, w=phrase)
    return Draft(question, f"SELECT {s.table.name}.{column} {s.join()} WHERE {sql};")


def join_one(s: Scene) -> Draft:
    parent, rows = s.above()
    name = s.rng.choice(rows)[parent.label]
    phrasings = (
        "{show} the {c} of all {ts} of the {p} {v}.",
        "which {ts} belong to the {p} {v}? {show} the {c}.",
        "what is the {c} of every {t} that belongs to the {p} {v}?",
        "for the {p} {v}, {show} the {c} of its {ts}.",
    )
    column = s.rng.choice((s.table.label, *s.table.texts, *s.table.numbers))
    question = s.ask(phrasings, c=words(column), p=parent.theme.singular, v=str(name))
    return Draft(question, f"SELECT {s.table.name}.{column} {s.join()} WHERE {parent.name}.{parent.label} = '{name}';")


def join_count(s: Scene) -> Draft:
    parent, _ = s.above()
    phrasings = (
        "how many {ts} does each {p} have? {show} the {m} and the number.",
        "{show} the {m} of each {p} and its number of {ts}.",
        "count the {ts} of every {p}, {p} {m} first.",
        "for each {p} with {ts}, {show} its {m} and how many {ts} it has.",
    )
    by = f"{parent.name}.{parent.label}"
    question = s.ask(phrasings, p=parent.theme.singular, m=parent.label)
    return Draft(question, f"SELECT {by}, COUNT(*) {s.join()} GROUP BY {by};")


def join_aggregate(s: Scene) -> Draft:
    parent, _ = s.above()
    phrase, sql = of_parent(s)
    column, function = s.rng.choice(s.table.numbers), s.rng.choice(tuple(AGGREGATES))
    phrasings = (
        "what is the {f} {c} of {ts} that belong to {ps}{w}?",
        "{show} the {f} {c} of all {ts} of {ps}{w}.",
        "for {ps}{w}, what is the {f} {c} of their {ts}?",
        "compute the {f} {c} of the {ts} from {ps}{w}.",
    )
    question = s.ask(phrasings, f=s.rng.choice(AGGREGATES[function]), c=words(column), ps=parent.name, w=phrase)
    return Draft(question, f"SELECT {function}({s.table.name}.{column}) {s.join()} WHERE {sql};")


def join_most(s: Scene) -> Draft:
    parent, _ = s.above()
    phrasings = (
        "which {p} has the most {ts}? {show} the {m}.",
        "{show} the {m} of the {p} with the most {ts}.",
        "what is the {m} of the {p} that has the largest number of {ts}?",
        "tell me the {m} of the {p} with the highest count of {ts}.",
    )
    by = f"{parent.name}.{parent.label}"
    grouped = f"{s.join()} GROUP BY {by} ORDER BY COUNT(*) DESC LIMIT"
    question = s.ask(phrasings, p=parent.theme.singular, m=parent.label)
    return Draft(question, f"SELECT {by} {grouped} 1;", f"SELECT COUNT(*) {grouped} 2;")


def parents_with(s: Scene) -> Draft:
    parent, _ = s.above()
    phrase, sql = s.rng.choice((equal, compared))(s)
    phrasings = (
        "{show} the {m} of all {ps} that have {ts}{w}.",
        "which {ps} have {ts}{w}? {show} the {m}.",
        "{show} the {m} of every {p} with at least one of the {ts}{w}.",
        "what are the {m}s of {ps} that own {ts}{w}?",
    )
    question = s.ask(phrasings, m=parent.label, ps=parent.name, p=parent.theme.singular, w=phrase)
    inner = f"SELECT {s.table.link} FROM {s.table.name} WHERE {sql}"
    return Draft(question, f"SELECT {parent.label} FROM {parent.name} WHERE id IN ({inner});")


def parents_without(s: Scene) -> Draft:
    parent, _ = s.above()
    phrasings = (
        "{show} the {m} of all {ps} that have no {ts}.",
        "which {ps} have no {ts}? {show} the {m}.",
        "{show} the {m} of every {p} without any {ts}.",
        "what are the {m}s of {ps} without {ts}?",
    )
    question = s.ask(phrasings, m=parent.label, ps=parent.name, p=parent.theme.singular)
    inner = f"SELECT {s.table.link} FROM {s.table.name}"
    return Draft(question, f"SELECT {parent.label} FROM {parent.name} WHERE id NOT IN ({inner});")


Kind = Callable[[Scene], Draft]

ONE_TABLE: tuple[Kind, ...] = (
    plain,
    number_filter,
    text_filter,
    both,
    either,
    between,
    among,
    like,
    ordered,
    top,
    first,
    aggregate,
    aggregate_filtered,
    count,
    count_filtered,
    distinct,
    count_distinct,
    group_count,
    group_aggregate,
    having,
    having_average,
    commonest,
    beyond_average,
    equal_extreme,
)
TWO_TABLES: tuple[Kind, ...] = (
    join_names,
    join_filtered,
    join_one,
    join_count,
    join_aggregate,
    join_most,
    parents_with,
    parents_without,
)
