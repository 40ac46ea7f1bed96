"""The kinds of question about one table: each draws a query and one of several ways to ask for it."""

from __future__ import annotations

from core.domains.sql_scene import (
    AGGREGATES,
    SHOW,
    SUPERLATIVE,
    Draft,
    Kind,
    Scene,
    a,
    compared,
    equal,
    filtered,
    words,
)
from core.domains.sql_tables import literal
from core.domains.sql_themes import NUMBERS


def plain(s: Scene) -> Draft:
    columns = s.rng.sample(s.table.columns[1:], s.rng.choice((1, 2)))
    question = s.ask(SHOW, c=" and ".join(map(words, columns)), w="")
    return Draft(question, f"SELECT {', '.join(columns)} FROM {s.table.name};")


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
