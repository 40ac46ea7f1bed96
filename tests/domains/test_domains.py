"""Generated and user-made questions: golds are right, wrong answers are not, splits do not touch."""

from __future__ import annotations

import json
import operator
import re
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Literal

import pytest

from core.domains import NAMES, arithmetic, jsonl, judge, load, sql
from core.domains.questions import Question
from core.domains.sql_names import renamed
from core.domains.sql_one_table import ONE_TABLE
from core.domains.sql_run import statement
from core.domains.sql_themes import THEMES
from core.domains.sql_two_tables import TWO_TABLES
from hardware.errors import ExplorerError

SPLITS: tuple[Literal["train", "test"], ...] = ("train", "test")


def tables(question: Question) -> set[str]:
    return set(re.findall(r"CREATE TABLE (\w+)", question.prompt))


@pytest.mark.parametrize("domain", NAMES)
@pytest.mark.parametrize("split", SPLITS)
def test_golds_are_right_and_others_answers_wrong(domain: str, split: Literal["train", "test"]) -> None:
    questions = load(domain, split, 300, seed=1)
    assert len({q.id for q in questions}) == len({q.prompt for q in questions}) == 300
    assert all(judge(domain, q, q.answer or "") for q in questions)
    swapped = [judge(domain, a, b.answer or "") for a, b in pairwise(questions)]
    assert sum(map(bool, swapped)) < 0.05 * len(swapped)
    assert not any(judge(domain, q, text) for q in questions for text in ("", "I do not know.", ";"))


@pytest.mark.parametrize("domain", NAMES)
def test_questions_are_deterministic_and_a_prefix_of_more(domain: str) -> None:
    assert load(domain, "train", 40, seed=3) == load(domain, "train", 60, seed=3)[:40]
    assert load(domain, "train", 40, seed=3) != load(domain, "train", 40, seed=4)


def test_train_and_test_share_no_table_and_have_enough() -> None:
    assert not set(THEMES["train"]) & set(THEMES["test"])
    assert not {t.singular for t in THEMES["train"].values()} & {t.singular for t in THEMES["test"].values()}
    assert len(THEMES["train"]) >= 60
    assert len(THEMES["test"]) >= 20
    seen = [set().union(*(tables(q) for q in load("sql", split, 600, 0))) for split in SPLITS]
    assert not seen[0] & seen[1]
    assert not seen[0] & set(THEMES["test"]) and not seen[1] & set(THEMES["train"])
    assert len(seen[0] & set(THEMES["train"])) >= 60
    assert len(seen[1] & set(THEMES["test"])) >= 20


def test_queries_are_varied_bare_and_short() -> None:
    questions = load("sql", "test", 600, seed=0)
    answers = [q.answer or "" for q in questions]
    words = "BETWEEN, IN (,NOT IN,LIKE,HAVING,JOIN,DISTINCT,GROUP BY,ORDER BY,LIMIT,(SELECT, AND , OR ,AVG,MIN"
    for word in words.split(","):
        assert sum(word in a for a in answers) >= 6, word
    assert all(a.startswith("SELECT ") and a.endswith(";") and "\n" not in a for a in answers)
    assert max(len(q.prompt) for q in questions) < 420
    shapes = {re.sub(r"'[^']*'|\b[a-z_.]+\b|\d+(\.\d+)?", "_", a) for a in answers}
    assert len(shapes) > 50
    assert len(ONE_TABLE) + len(TWO_TABLES) == 32


def test_every_kind_is_asked_in_at_least_four_ways() -> None:
    """Questions of one query shape, values and names taken out, begin in at least four ways."""
    openings: dict[str, set[str]] = {}
    for q in load("sql", "train", 3000, seed=0):
        shape = re.sub(r"'[^']*'|\b[a-z_.]+\b|\d+(\.\d+)?", "_", q.answer or "")
        asked = q.prompt.split(sql.INSTRUCTION)[1].split()
        openings.setdefault(shape, set()).add(" ".join(asked[:2]))
    common = [o for o in openings.values() if len(o) > 1]
    assert sum(len(o) >= 4 for o in common) > 0.8 * len(common)


EMPTY = "CREATE TABLE t (id INT, name TEXT, n INT);"
SCRIPT = EMPTY + "INSERT INTO t VALUES (1, 'a', 3), (2, 'b', 5), (3, 'b', 4);"
TWICE = EMPTY + "INSERT INTO t VALUES (1, 'a', 5), (2, 'c', 3);"


def question(answer: str, *databases: str) -> Question:
    return Question(id="q", cluster="t", prompt="?", answer=answer, databases=databases or (SCRIPT,))


@pytest.mark.parametrize(
    ("gold", "output", "right"),
    [
        ("SELECT name FROM t WHERE n > 3;", "select name from t where n >= 4", True),
        ("SELECT name FROM t WHERE n > 3;", "```sql\nSELECT name FROM t WHERE n > 3;\n```", True),
        ("SELECT name FROM t WHERE n > 3;", "The query is: SELECT name FROM t WHERE n > 3; It finds b.", True),
        ("SELECT name FROM t WHERE n > 3;", "SELECT DISTINCT name FROM t WHERE n > 3;", False),  # a multiset
        ("SELECT n FROM t;", "SELECT n FROM t ORDER BY n DESC;", True),
        ("SELECT n FROM t ORDER BY n DESC;", "SELECT n FROM t ORDER BY n;", False),
        ("SELECT AVG(n) FROM t;", "SELECT SUM(n) / 3.0 FROM t;", True),
        ("SELECT name, n FROM t;", "SELECT n, name FROM t;", False),
        ("SELECT n FROM t;", "WITH x AS (SELECT n FROM t) SELECT n FROM x;", True),
        ("SELECT n FROM t;", "SELECT missing FROM t;", False),
        ("SELECT n FROM t;", "DELETE FROM t; SELECT n FROM t;", False),
        ("SELECT n FROM t;", "DROP TABLE t;", False),
        ("SELECT n FROM t;", "INSERT INTO t SELECT * FROM t;", False),
        ("SELECT n FROM t;", "PRAGMA writable_schema = 1;", False),
        ("SELECT n FROM t;", "ATTACH 'other.db' AS other;", False),
        ("SELECT n FROM t;", "SELECT load_extension('x');", False),
        ("SELECT n FROM t;", "SELECT n FROM t; DROP TABLE t;", True),  # only the first statement is run
        ("SELECT n FROM t;", "SELECT hex(zeroblob(2000000000));", False),
        ("SELECT n FROM t;", "WITH RECURSIVE x(i) AS (SELECT 1 UNION SELECT i+1 FROM x) SELECT max(i) FROM x;", False),
        ("SELECT n FROM t;", "SELECT a.n FROM t a, t b, t c, t d, t e, t f, t g, t h, t i, t j;", False),
    ],
)  # fmt: skip
def test_judging_by_execution(gold: str, output: str, right: bool) -> None:
    assert sql.judge(question(gold), output) is right


def test_a_lucky_query_is_caught_by_the_second_filling() -> None:
    lucky = "SELECT name FROM t WHERE id = 1;"
    assert sql.judge(question("SELECT name FROM t ORDER BY n LIMIT 1;"), lucky)
    assert not sql.judge(question("SELECT name FROM t ORDER BY n LIMIT 1;", SCRIPT, TWICE), lucky)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("SELECT ';' FROM t; more", "SELECT ';' FROM t;"),
        ("With pleasure.\nSELECT 1\n\nThis is one.", "SELECT 1"),
        ("To select rows, SELECT 1;", "SELECT 1;"),
        ("no query here", ""),
    ],
)
def test_the_statement_in_a_text(text: str, found: str) -> None:
    assert statement(text) == found


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("3 + 4 = 7. The answer is 7.", 7),
        ("The answer is 1,200 apples, not 3.", 1200),
        ("so 3 * 4 = 12", 12),
        ("-5", -5),
        ("none", None),
    ],
)
def test_the_final_number(text: str, number: float | None) -> None:
    assert arithmetic.final_number(text) == number


def test_worked_lines_add_up_and_splits_share_no_numbers_or_things() -> None:
    firsts = {}
    for split in SPLITS:
        questions = load("arithmetic", split, 500, seed=0)
        for q in questions:
            assert q.answer
            steps = re.findall(r"(\d+) ([-+*/]) (\d+) = (\d+)", q.answer)
            does = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.floordiv}
            results = [does[sign](int(a), int(b)) for a, sign, b, _ in steps]
            assert results == [int(r) for *_, r in steps]
            assert 1 <= len(steps) <= 3
            assert q.answer.endswith(f"The answer is {results[-1]}.")
        firsts[split] = {(re.search(r"(\d+) ([-+*/]) (\d+)", q.answer or "") or [""])[0] for q in questions}
        firsts[split] |= {q.cluster.split()[0] for q in questions}
    assert not firsts["train"] & firsts["test"]


def test_a_users_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    lines = [{"prompt": f"p{i}", "answer": i, "cluster": i // 2} for i in range(20)]
    path.write_text("\n".join(map(json.dumps, lines)) + '\n\n{"prompt": "open"}\n')
    questions = jsonl.read(str(path))
    assert len(questions) == 21
    assert questions[3] == Question(id="4", cluster="1", prompt="p3", answer="3")
    assert questions[-1] == Question(id="22", cluster="22", prompt="open")
    assert judge(str(path), questions[3], " 3\n") is True
    assert judge(str(path), questions[3], "4") is False
    assert judge(str(path), questions[-1], "4") is None
    train, test = (load(str(path), split, 100, seed=0) for split in SPLITS)
    assert len(train) + len(test) == 21
    assert {q.cluster for q in test} == {"1", "6"}
    assert not {q.cluster for q in train} & {q.cluster for q in test}
    assert len(jsonl.read(str(path), limit=2)) == 2
    path.write_text("\n".join(json.dumps({"prompt": p}) for p in ("a", "b", "a ")))
    assert [q.cluster for q in jsonl.read(str(path))] == ["1", "2", "1"], "asked twice: no evidence more, no test"


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("", "no prompts"),
        ("\n \n", "no prompts"),
        ('{"prompt": "a"}\n{"prompt": ', "Line 2"),
        ('{"prompt": "a"}\n\n[1]', "Line 3"),
        ('{"answer": "a"}', "Line 1"),
        ('{"prompt": ""}', "Line 1"),
        ('{"prompt": "  "}', "line 1"),
        ('{"prompt": "a", "answer": ["b"]}', "Line 1"),
        ('{"prompt": "a", "id": 1}\n{"prompt": "b", "id": 1}', "Line 2"),
        ('{"prompt": "a", "choices": ["x", "y"], "answer": "z"}', "line 1"),
        ('{"prompt": "a", "choices": ["x"], "answer": "x"}', "line 1"),
        ('{"prompt": "a", "choices": ["x", " "], "answer": "x"}', "line 1"),
        ('{"prompt": "' + "a" * (1 << 20) + '"}', "1 MiB"),
        ('{"prompt": "\udcff"}', "Line 1"),
        ('{"prompt": "a", "odd": ' + "[" * 100_000, "Line 1"),
    ],
)
def test_a_users_file_that_is_wrong(tmp_path: Path, text: str, cause: str) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ExplorerError, match=cause):
        jsonl.read(str(path))


@pytest.mark.parametrize("domain", ["poetry", "missing.jsonl"])
def test_an_unknown_domain(domain: str) -> None:
    with pytest.raises(ExplorerError, match=domain):
        load(domain, "train", 1, 0)


@pytest.mark.parametrize("split", SPLITS)
def test_invented_names_are_no_theme_s_and_the_questions_still_run(split: Literal["train", "test"]) -> None:
    questions = load("sql", split, 200, 3)
    known = {name for themes in THEMES.values() for t in themes.values() for name in (t.table, t.singular)}
    invented = [q for q in questions if q.cluster not in known]
    assert 0.5 < len(invented) / len(questions) < 0.9
    assert len({q.cluster for q in invented}) > 0.9 * len(invented), "nearly every table has a name of its own"
    assert all(judge("sql", q, q.answer or "") for q in questions)
    assert all(q.cluster in q.prompt for q in questions)


def test_no_table_of_the_test_has_a_name_that_a_training_can_meet() -> None:
    """Names are drawn from so few syllables that two streams meet by chance: each name belongs to one split."""
    theme = next(iter(THEMES["train"].values()))
    names = [{renamed(Random(n), theme, split).table for n in range(20_000)} for split in SPLITS]
    assert all(len(found) > 5_000 for found in names) and not names[0] & names[1]


def test_the_name_that_older_models_were_trained_under_still_works() -> None:
    assert load("sql_names", "train", 20, 3) == load("sql", "train", 20, 3)
