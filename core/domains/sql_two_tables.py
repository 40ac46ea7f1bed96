"""The kinds of question about a table and its parent: each draws a query and one of several ways to ask for it."""

from __future__ import annotations

from core.domains.sql_scene import AGGREGATES, Draft, Kind, Scene, compared, equal, words


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
