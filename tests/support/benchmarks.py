"""Made-up files in the layout of the public benchmarks: three questions each, and as many examples to show."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

WORDS = ("ant", "hat", "hen")
TABLES = {
    "MNLI/dev_matched.tsv": "index\tgenre\tsentence1\tsentence2\tlabel1\tgold_label",
    "MNLI/dev_mismatched.tsv": "index\tgenre\tsentence1\tsentence2\tlabel1\tgold_label",
    "MRPC/dev.tsv": "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String",
    "QNLI/dev.tsv": "index\tquestion\tsentence\tlabel",
    "QQP/dev.tsv": "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate",
    "RTE/dev.tsv": "index\tsentence1\tsentence2\tlabel",
    "SST-2/dev.tsv": "sentence\tlabel",
    "WNLI/dev.tsv": "index\tsentence1\tsentence2\tlabel",
}
NAMED = {
    "MNLI": ("neutral", "entailment", "contradiction"),
    "QNLI": ("entailment", "not_entailment", "entailment"),
    "RTE": ("entailment", "not_entailment", "entailment"),
}
LABELS = ("label", "gold_label", "Quality", "is_duplicate")


def glue(folder: Path) -> Path:
    """GLUE's tables, training sets included."""
    for name, header in TABLES.items():
        task = name.split("/")[0]
        rows = [
            "\t".join(
                NAMED.get(task, ("1", "0", "1"))[i] if column in LABELS else f'The "{word} {column}" runs.'
                for column in header.split("\t")
            )
            for i, word in enumerate(WORDS)
        ]
        _write(folder / name, "\n".join([header, *rows]) + "\n")
        _write(folder / task / "train.tsv", "\n".join([header, *reversed(rows)]) + "\n")
    lines = "".join(f"gj04\t{i % 2}\t\tThe {word} runs.\n" for i, word in enumerate(WORDS))
    for split in ("dev", "train"):
        _write(folder / "CoLA" / f"{split}.tsv", lines)
    return folder


def super_glue(folder: Path) -> Path:
    """SuperGLUE's lines, training sets included."""
    for name, rows in {
        "BoolQ": [{"question": f"is the {w} red", "passage": f"A {w}.", "label": i == 1} for i, w in enumerate(WORDS)],
        "CB": [
            {"premise": f"A {w} ran.", "hypothesis": f"the {w} ran", "label": label}
            for w, label in zip(WORDS, ("entailment", "contradiction", "neutral"), strict=True)
        ],
        "COPA": [
            {"premise": f"The {w} ran.", "choice1": "It hid.", "choice2": "It ate.", "question": asked, "label": i % 2}
            for i, (w, asked) in enumerate(zip(WORDS, ("cause", "effect", "cause"), strict=True))
        ],
        "MultiRC": [{"idx": 0, "passage": {"text": "An ant met a hen.", "questions": _multirc()}}],
        "ReCoRD": [_record(i, word) for i, word in enumerate(WORDS)],
        "RTE": [
            {"premise": f"A {w} ran.", "hypothesis": f"The {w} ran.", "label": label}
            for w, label in zip(WORDS, ("entailment", "not_entailment", "entailment"), strict=True)
        ],
        "WiC": [
            {
                **{"word": w, "sentence1": f"the {w} ran", "sentence2": f"a {w}", "label": i > 0},
                **{"start1": 4, "end1": 7, "start2": 2, "end2": 5},
            }
            for i, w in enumerate(WORDS)
        ],
        "WSC": [
            {
                "text": f"The {w} saw a man and it ran.",
                "target": {"span1_index": 0, "span1_text": f"the {w}", "span2_index": 6, "span2_text": "it"},
                "label": i > 0,
            }
            for i, w in enumerate(WORDS)
        ],
    }.items():
        made: list[dict[str, Any]] = [{"idx": i, **row} for i, row in enumerate(rows)]
        for split in ("val", "train"):
            _write(folder / name / f"{split}.jsonl", "".join(json.dumps(row) + "\n" for row in made))
    return folder


def _multirc() -> list[dict[str, Any]]:
    answers = [{"idx": i, "text": word, "label": int(word == "hen")} for i, word in enumerate(WORDS)]
    return [{"idx": 0, "question": "Whom did the ant meet?", "answers": answers}]


def _record(i: int, word: str) -> dict[str, Any]:
    text = f"Ann has a {word}. Bo likes Ann.\n@highlight\nBo is a man"
    spans = [{"start": at, "end": at + len(name) - 1} for name in ("Bo", "Ann") for at in (text.index(name),)]
    spans.append({"start": text.rindex("Ann"), "end": text.rindex("Ann") + 2})
    answers = [{"start": 0, "end": 2, "text": "Ann"}] * 2
    query = {"idx": i, "query": f"The {word} of @placeholder is old", "answers": answers}
    return {"idx": i, "source": "made up", "passage": {"text": text, "entities": spans}, "qas": [query]}


def squad(folder: Path) -> Path:
    """SQuAD 2.0, whose last question has no answer, and 1.1, which lacks it."""
    text = "The ant is red and the hen is old."
    qas = [
        {"id": "a", "question": "What is red?", "answers": [{"text": "The ant", "answer_start": 0}]},
        {"id": "b", "question": "What is old?", "answers": [{"text": "the hen", "answer_start": 19}]},
        {"id": "c", "question": "What is wet?", "answers": []},
    ]
    for question in qas:
        question["is_impossible"] = not question["answers"]
    for version, asked in (("v2.0", qas), ("v1.1", qas[:2])):
        article = {"title": "Animals", "paragraphs": [{"context": text, "qas": asked}]}
        for split in ("dev", "train"):
            _write(folder / f"{split}-{version}.json", json.dumps({"version": version, "data": [article]}))
    return folder


def race(folder: Path) -> Path:
    """RACE: articles 2 and 10 of the high schools' test."""
    for number in (10, 2):
        article = {
            "id": f"high{number}.txt",
            "article": f"The {WORDS[number % 3]} ran.",
            "questions": ["Who ran?", "It was  _  ."],
            "answers": ["A", "C"],
            "options": [[*WORDS, "man"], ["red", "old", "thin", "wet"]],
        }
        _write(folder / "test" / "high" / f"{number}.txt", json.dumps(article))
    return folder


def gsm8k(folder: Path) -> Path:
    rows = [
        {"question": f"{i} and {i}?", "answer": f"{i}+{i}=<<{i}+{i}={2 * i}>>{2 * i}\n#### {2 * i}"} for i in (1, 2, 3)
    ]
    _write(folder / "test.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    return folder


MAKERS = {"glue": glue, "super_glue": super_glue, "squad": squad, "race": race, "gsm8k": gsm8k}


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
