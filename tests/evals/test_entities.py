"""Named entities: where an answer's names stand, the scores by hand, and against tags scored as conlleval does."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

import pytest

from core import plugins
from core.evals._sets import read
from core.evals._spans import KINDS, Entity, entities, listed, values
from core.stats.scores import scores
from core.types import Item

TEXT = "Ann Lee left Paris for the University of Oslo, and Paris wept."
GOLD = "person: Ann Lee\nplace: Paris\norganization: University of Oslo\nplace: Paris"


def scored(*judged: dict[str, float]) -> dict[str, float]:
    items = [Item(t_s=0.0, id=str(i), cluster=str(i), values=one) for i, one in enumerate(judged)]
    plugin = plugins.get("eval", "entities")
    return {score.name: score.value for score in scores(items, plugin.metrics(plugin.Params()))}


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("person: Ann Lee\n- Place: Paris.", [("person", "Ann Lee"), ("place", "Paris")]),
        ("1. location: 'Paris'\n* organisation : Acme", [("place", "Paris"), ("organization", "Acme")]),
        ("Here are the names:\nAnn Lee\nother: none\nperson:\nother: -5: x", [("other", "-5: x")]),
        ("", []),
    ],
)
def test_lines_of_a_kind_and_a_name_are_read(answer: str, expected: list[tuple[str, str]]) -> None:
    assert list(listed(answer)) == expected


def test_every_name_is_put_where_it_stands() -> None:
    found = {(e.kind, e.name, e.start) for e in entities(TEXT, GOLD)}
    assert found == {
        ("person", "Ann Lee", 0),
        ("place", "Paris", 13),
        ("organization", "University of Oslo", 27),
        ("place", "Paris", 51),
    }
    assert entities(TEXT, "place: Par\nplace: paris") == {
        Entity(kind="place", name="Par", start=None),
        Entity(kind="place", name="paris", start=None),
    }, "part of a word and another spelling are no occurrence"
    assert len(entities(TEXT, "place: Paris\n" * 9)) == 2, "no more often than it occurs"
    alone = entities("The University of Oslo is in Oslo.", "place: Oslo\norganization: University of Oslo")
    assert {(e.name, e.start) for e in alone} == {("Oslo", 29), ("University of Oslo", 4)}


@pytest.mark.parametrize(
    ("answer", "right", "named", "placed", "n_spans"),
    [
        (GOLD, 4, 4, 4, 4),
        ("", 0, 0, 0, 0),
        ("person: Ann Lee\nplace: Paris", 2, 2, 2, 2),
        ("place: Ann Lee\nperson: Paris", 0, 2, 2, 2),
        ("person: Ann\nplace: Oslo", 0, 2, 0, 2),
        ("person: Ann Lee\nplace: Ann Lee\nplace: Berlin", 1, 3, 1, 2),
    ],
)
def test_an_entity_is_right_by_limits_and_kind(answer: str, right: int, named: int, placed: int, n_spans: int) -> None:
    found = scored(values(TEXT, answer, GOLD))
    assert found["f1"] == pytest.approx(2 * right / (named + 4))
    assert found["recall"] == right / 4
    assert found["span_f1"] == pytest.approx(2 * placed / (n_spans + 4))
    assert found["complete"] == (answer == GOLD)


def test_f1_is_of_all_entities_together() -> None:
    """1 of 1 named and 4 there, 0 of 3 named and 1 there: precision 1/4, recall 1/5, F1 2/9; the mean would be 1/5."""
    first = values(TEXT, "person: Ann Lee", GOLD)
    second = values("Bo sang.", "place: Bo\nplace: Rome\nperson: Cy", "person: Bo")
    assert scored(first, second)["f1"] == pytest.approx(2 / 9)


def tagged(words: Sequence[str], spans: Sequence[tuple[int, int, str]]) -> list[str]:
    tags = ["O"] * len(words)
    for first, end, kind in spans:
        tags[first:end] = [f"B-{kind}", *[f"I-{kind}"] * (end - first - 1)]
    return tags


def chunks(tags: Sequence[str]) -> set[tuple[int, int, str]]:
    """conlleval's chunks of IOB2 tags: from a B to the last I of its kind behind it."""
    found, start = set(), 0
    for i, tag in enumerate([*tags, "O"]):
        if i and tags[i - 1] != "O" and not tag.startswith("I-"):
            found.add((start, i, tags[i - 1][2:]))
        if tag.startswith("B-"):
            start = i
    return found


def test_the_published_example_of_conlleval_in_python() -> None:
    """seqeval's first example: MISC one word too long, PER right, so F1 is 0.5."""
    text = "the old Grand Prix Cup ended for Ann Lee here"
    answer = "other: old Grand Prix Cup\nperson: Ann Lee"
    assert scored(values(text, answer, "other: Grand Prix Cup\nperson: Ann Lee"))["f1"] == 0.5


@pytest.mark.parametrize("seed", range(20))
def test_it_is_the_f1_of_tags(seed: int) -> None:
    """Random spans over words of which some stand twice; tags are scored by their chunks, as in conlleval."""
    rng = random.Random(seed)
    words = [rng.choice(["Ana", "Bo", "Cy", "Dee", "Eli", "Fay"]) + rng.choice(["", "son", "ton"]) for _ in range(12)]
    words = list(dict.fromkeys(words))
    text = " ".join(words)

    def drawn() -> list[tuple[int, int, str]]:
        cuts = sorted(rng.sample(range(len(words) + 1), 6))
        return [(a, b, rng.choice(KINDS)) for a, b in zip(cuts[::2], cuts[1::2], strict=True)]

    gold, said = drawn(), drawn()
    said[0] = gold[0]
    said = [said[0], *(s for s in said[1:] if s[0] >= said[0][1])]
    true, found = chunks(tagged(words, gold)), chunks(tagged(words, said))
    lines = ["\n".join(f"{kind}: {' '.join(words[a:b])}" for a, b, kind in spans) for spans in (said, gold)]
    assert scored(values(text, *lines))["f1"] == pytest.approx(2 * len(true & found) / (len(true) + len(found)))
    assert true & found


def test_the_shipped_names_stand_in_their_texts() -> None:
    examples = read("entities", 0).scored
    kinds = Counter(kind for e in examples for kind, _ in listed("\n".join(e.answers)))
    assert set(kinds) == set(KINDS) and min(kinds.values()) >= 20
    for e in examples:
        named = entities(e.text, "\n".join(e.answers))
        found = sorted((one.start, len(one.name)) for one in named if one.start is not None)
        assert len(found) == len(named) == len(e.answers) > 0, e.id
        assert all(a + n < b for (a, n), (b, _) in pairwise(found)), e.id
    assert {kind for e in examples[:4] for kind, _ in listed("\n".join(e.answers))} == set(KINDS)
