"""The task evals: the shipped sets, the measures by hand, and what right, wrong and no answers score."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from core import domains, plugins
from core.evals import _chrf, _loglikelihood, _overlap
from core.evals._loglikelihood import split
from core.evals._sets import FOLDER, Example, read
from core.types import Counts, Generation, Item
from hardware.errors import ExplorerError

GENERATING = ("qa", "summarization", "translation", "arithmetic", "sql", "dialogue", "entities")
CHOOSING = {"choice": 4, "sentiment": 2, "entailment": 3}
RIGHT = {
    "em": 1,
    "f1": 1,
    "chrf": 100,
    "bleu": 100,
    "acc": 1,
    "acc_norm": 1,
    "recalled": 1,
    "recall": 1,
    "span_f1": 1,
    "complete": 1,
    "contains": 1,
    "p_right": 1,
}


class Scripted:
    """A subject that answers the last message by `answers`, and finds `likely` continuations the likeliest."""

    def __init__(self, answers: dict[str, str] | None = None, likely: dict[str, float] | None = None) -> None:
        self.answers, self.likely = answers or {}, likely or {}
        self.seen: list[list[tuple[str, str]]] = []
        self.session = SimpleNamespace(
            encode=lambda text: [*text.encode()], opening=(ord("^"),), closing=(), bos_token="^", eos_token=""
        )

    def render(self, messages: Sequence[tuple[str, str]]) -> list[int]:
        self.seen.append(list(messages))
        return [0]

    def generate(self, ids: Sequence[int], limit: int, stop: Sequence[str] = ()) -> Generation:
        text = self.answers.get(self.seen[-1][-1][1], "")
        for cut in stop:
            text = text.split(cut)[0]
        return Generation(
            text=text, ids=tuple(text.encode())[:limit], ttft_s=0.25, seconds=0.5, counts=Counts(forwards=7)
        )

    def loglikelihood(self, ids: Sequence[int], continuation: Sequence[int]) -> tuple[float, bool]:
        text = bytes(continuation).decode()
        assert text.startswith(" "), "the space belongs to the continuation"
        assert bytes(ids).decode().startswith("^"), "the template says that a text begins with the bos token"
        return self.likely.get(text[1:], -9.0 * len(text)), False


def measure(name: str, subject: Any, **given: Any) -> list[Item]:
    plugin = plugins.get("eval", name)
    return list(plugin.measure(subject, plugin.Params(**given)))


def means(name: str, items: Sequence[Item], **given: Any) -> dict[str, float]:
    plugin = plugins.get("eval", name)
    return {
        m.name: sum(i.values[m.value] for i in items) / sum(i.values[m.over] if m.over else 1 for i in items)
        for m in plugin.metrics(plugin.Params(**given))
    }


@pytest.mark.parametrize("name", GENERATING)
def test_gold_answers_score_full_and_silence_nothing(name: str) -> None:
    few = {"n": 20} if name in domains.NAMES else {}
    silent = Scripted()
    nothing = measure(name, silent, **few)
    assert all(value == 0 for value in means(name, nothing, **few).values())
    gold = {item.prompt if name != "dialogue" else item.prompt.split("\n")[-1]: item.expected for item in nothing}
    right = measure(name, Scripted(gold), **few)
    assert means(name, right, **few) == pytest.approx({k: RIGHT[k] for k in means(name, right, **few)})
    assert [i.id for i in right] == [i.id for i in nothing]
    assert {(i.ttft_s, i.seconds, i.counts) for i in right} == {(0.25, 0.5, Counts(forwards=7))}


@pytest.mark.parametrize("name", CHOOSING)
def test_the_likeliest_choice_is_taken(name: str) -> None:
    assert {len(r) for r in measure_choices(name)} == {CHOOSING[name]}
    items = measure(name, Scripted(), n=12)  # the shortest is the likeliest
    assert means(name, items)["acc"] == sum(i.expected == i.output for i in items) / 12
    assert all(len(i.output) <= len(i.expected) for i in items)
    for item in items:
        only = measure(name, Scripted(likely={item.expected: -0.1}))
        assert next(i for i in only if i.id == item.id).values["acc"] == 1


def measure_choices(name: str) -> list[tuple[str, ...]]:
    """The continuations that were scored for each item."""
    scored: list[str] = []
    subject: Any = Scripted()
    original = subject.loglikelihood
    subject.loglikelihood = lambda ids, c: (scored.append(bytes(c).decode()[1:]), original(ids, c))[1]
    n = len(measure(name, subject, n=5))
    size = len(scored) // n
    return [tuple(scored[i : i + size]) for i in range(0, len(scored), size)]


def test_choosing_by_hand() -> None:
    likely = {"yes": -2.0, "certainly": -3.0, "no": -4.0}
    subject: Any = Scripted(likely=likely)
    item = _loglikelihood.choose(subject, "a", "", "Is it?", tuple(likely), right=1)
    assert item.output == "yes"
    assert item.cluster == "a"
    total = math.exp(-2) + math.exp(-3) + math.exp(-4)
    # per character -2/3, -1/3 and -2: the second is the likeliest
    assert item.values == pytest.approx({"acc": 0, "acc_norm": 1, "p_right": math.exp(-3) / total})


@pytest.mark.parametrize(
    ("output", "answers", "exact", "f1", "contains"),
    [
        ("The red cat.", ("red cat",), 1, 1, 1),
        ("a red dog", ("the red cat", "dog"), 0, 2 / 3, 1),
        ("red cat", ("red dog",), 0, 0.5, 0),
        ("cat cat", ("cat",), 0, 2 / 3, 1),
        ("in 1987!", ("1987", "in 1987"), 1, 1, 1),
        ("", ("cat",), 0, 0, 0),
        ("thecat", ("cat",), 0, 0, 0),
        ("A.", ("A",), 1, 1, 1),  # an answer that is an article or a sign is compared as it is
        ("", ("A",), 0, 0, 0),
        ("The", ("A",), 0, 0, 0),
        ("-", ("+",), 0, 0, 0),
        ("It is +", ("+",), 0, 0.5, 1),
    ],
)
def test_overlap_by_hand(output: str, answers: tuple[str, ...], exact: float, f1: float, contains: float) -> None:
    assert _overlap.exact(output, answers) == exact
    assert _overlap.f1(output, answers) == pytest.approx(f1)
    assert _overlap.contains(output, answers) == contains


def test_chrf_by_hand() -> None:
    """ "ab" against "abc": of the orders that both have, 1-grams P 1, R 2/3, 2-grams P 1, R 1/2; 3-grams missing in
    the output. F2 of each is 5PR / (4P + R): 5/7, 5/9; sacrebleu averages precision and recall over orders first."""
    precision, recall = 1.0, (2 / 3 + 1 / 2) / 2
    expected = 100 * 5 * precision * recall / (4 * precision + recall)
    assert _chrf.chrf("ab", "abc") == pytest.approx(expected)
    assert _chrf.chrf("xyz", "abc") == 0
    assert _chrf.bleu("il est né à Paris .", "il est né à Paris .") == pytest.approx(100)


def test_shown_examples_come_first_and_are_not_scored() -> None:
    for name, shown in (("qa", 3), ("translation", 4), ("summarization", 2), ("entities", 4)):
        plain, after = Scripted(), Scripted()
        without = measure(name, plain, shots=0)
        with_all = measure(name, after, shots=shown)
        assert [i.id for i in without] == [i.id for i in with_all]
        assert [role for role, _ in plain.seen[0]] == ["system", "user"]
        assert [role for role, _ in after.seen[0]] == ["system", *["user", "assistant"] * shown, "user"]
        assert not {text for _, text in after.seen[0][1:-1]} & {i.prompt for i in with_all}


def test_solved_problems_to_show_are_of_the_training_split() -> None:
    for name in ("arithmetic", "sql"):
        subject = Scripted()
        measure(name, subject, n=1, shots=2, seed=5)
        expected = [text for q in domains.load(name, "train", 2, 5) for text in (q.prompt, q.answer)]
        assert [text for _, text in subject.seen[0][1:-1]] == expected


def test_the_easy_setting_asks_easy_questions() -> None:
    items = measure("sql", Scripted(), n=5, easy=True)
    assert all(item.id.startswith("sql-easy-test-") and item.expected.startswith("To answer") for item in items)


def test_a_dialogue_keeps_the_models_own_replies() -> None:
    subject = Scripted({"My friend Jonas is a pilot.": "Hello.", "Name a big airport.": "Heathrow."})
    items = measure("dialogue", subject)
    turns = [text for dialogue in subject.seen for _, text in dialogue]
    assert any(d[-1][1] == "What is the job of Jonas?" and ("assistant", "Hello.") in d for d in subject.seen)
    assert "Heathrow." in turns
    item = next(i for i in items if i.prompt.endswith("What is the job of Jonas?"))
    assert item.prompt.split("\n") == [
        "My friend Jonas is a pilot.",
        "Hello.",
        "Name a big airport.",
        "Heathrow.",
        "What is the job of Jonas?",
    ]


def lines(name: str) -> tuple[Example, ...]:
    return read(name, 0).scored


@pytest.mark.parametrize(
    ("name", "n"),
    [
        ("qa", 40),
        ("choice", 60),
        ("sentiment", 60),
        ("entailment", 45),
        ("summarization", 20),
        ("translation", 30),
        ("dialogue", 15),
        ("entities", 60),
    ],
)
def test_a_shipped_set_is_large_enough_and_well_formed(name: str, n: int) -> None:
    plugin = plugins.get("eval", name)
    assert plugin.size(plugin.Params()) >= n
    examples = lines(name)
    assert len({e.id for e in examples}) == len(examples)
    assert len({(e.text, e.question, e.turns) for e in examples}) == len(examples)
    assert (FOLDER / f"{name}.jsonl").stat().st_size < 100_000


def test_shipped_answers_can_be_found() -> None:
    for e in lines("qa"):
        assert any(_overlap.contains(e.text, (answer,)) for answer in e.answers), e.id
    for e in lines("choice"):
        assert e.answer in e.choices
        assert len(set(e.choices)) == 4
    assert len(set(Counter(e.choices.index(e.answer) for e in lines("choice")))) == 4
    assert len(set(Counter(e.answer for e in lines("sentiment")).values())) == 1
    assert len(set(Counter(e.answer for e in lines("entailment")).values())) == 1
    for e in lines("dialogue"):
        assert any(_overlap.contains(e.turns[0], (answer,)) for answer in e.answers), e.id
        assert not any(_overlap.contains(turn, e.answers) for turn in e.turns[1:]), "the answer is given away"


def own(tmp_path: Path, *rows: dict[str, Any]) -> str:
    path = tmp_path / "mine.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)


def test_own_questions_in_words(tmp_path: Path) -> None:
    path = own(tmp_path, {"prompt": "a?", "answer": "red cat", "cluster": 1}, {"prompt": "b?", "answer": "3"})
    items = measure("own", Scripted({"a?": "It is the red cat", "b?": "3."}), path=path)
    assert [i.values for i in items] == [
        {"em": 0, "contains": 1, "f1": pytest.approx(2 / 3)},
        {"em": 1, "contains": 1, "f1": 1},
    ]
    assert [(i.id, i.cluster) for i in items] == [("1", "1"), ("2", "2")]
    assert len(measure("own", Scripted(), path=path, n=1)) == 1


def test_own_questions_with_choices(tmp_path: Path) -> None:
    path = own(tmp_path, {"prompt": "a?", "answer": "x", "choices": ["x", "y"]})
    [item] = measure("own", Scripted(likely={"x": -1.0, "y": -2.0}), path=path)
    assert means("own", [item], path=path)["acc"] == 1
    assert item.values["p_right"] == pytest.approx(1 / (1 + math.exp(-1)))


@pytest.mark.parametrize(
    ("rows", "cause"),
    [
        ([{"prompt": "a?"}], "has no answer"),
        ([{"prompt": "a?", "answer": " "}], "has no answer"),
        ([{"prompt": "a?", "answer": "x"}, {"prompt": "b", "answer": "x", "choices": ["x", "y"]}], "Only some"),
        ([{"question": "a?"}], "Line 1"),
        ([], "no prompts"),
    ],
)
def test_own_questions_that_are_wrong(tmp_path: Path, rows: list[dict[str, Any]], cause: str) -> None:
    path = own(tmp_path, *rows)
    for attempt in (lambda: means("own", [], path=path), lambda: measure("own", Scripted(), path=path)):
        with pytest.raises(ExplorerError, match=cause):
            attempt()


def test_own_questions_need_a_file(tmp_path: Path) -> None:
    with pytest.raises(ExplorerError, match="No file"):
        measure("own", Scripted())
    with pytest.raises(ExplorerError, match="There is no file"):
        measure("own", Scripted(), path=str(tmp_path / "none.jsonl"))


def joining(text: str) -> list[int]:
    """Bytes, but "? yes" is one token, and so is "he"."""
    ids: list[int] = []
    while text:
        joined = next((n for n, piece in ((300, "? yes"), (301, "he")) if text.startswith(piece)), None)
        ids.append(ord(text[0]) if joined is None else joined)
        text = text[1 if joined is None else {300: 5, 301: 2}[joined] :]
    return ids


def test_text_and_continuation_are_split_as_the_harness_does() -> None:
    assert split(joining, "cold?", [" no", " maybe"]) == [
        ([99, 111, 108, 100, 63], [32, 110, 111]),
        ([99, 111, 108, 100, 63], [*b" maybe"]),
    ]
    assert split(joining, "a ", ["b"]) == [([97], [32, 98])], "a space at the end belongs to the continuation"
    # "h" + "ey": the whole is he, y; the text's one token comes off, as in the harness
    assert split(joining, "h", ["ey"]) == [([104], [121])]


def test_a_join_that_is_one_token_is_scored_from_where_it_differs() -> None:
    assert split(joining, "cold?", [" yes", " no"]) == [
        ([*b"cold"], [300]),
        ([*b"cold"], [63, 32, 110, 111]),
    ]
    assert split(joining, "h", ["e", "x"]) == [([], [301]), ([], [104, 120])]
    assert split(joining, "", ["x"]) == [([], [120])]


def test_an_item_whose_join_is_one_token_is_scored(tmp_path: Path) -> None:
    seen: list[tuple[list[int], list[int]]] = []

    class Joining:
        session = SimpleNamespace(
            encode=joining, opening=(), closing=(), bos_token="", eos_token="$", eos_ids=frozenset({36})
        )

        def loglikelihood(self, ids: Sequence[int], continuation: Sequence[int]) -> tuple[float, bool]:
            assert ids and continuation
            seen.append((list(ids), list(continuation)))
            return -float(len(continuation)), False

    file = tmp_path / "q.jsonl"
    rows = [{"prompt": "cold?", "answer": "yes", "choices": ["yes", "no"]}]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    items = measure("own", Joining(), path=str(file))
    assert [item.values["acc"] for item in items] == [1.0]
    assert seen == [([*b"cold"], [300]), ([*b"cold"], [63, 32, 110, 111])]
