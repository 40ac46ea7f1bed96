"""The files of public benchmarks as their makers distribute them, read into the columns of their copies on the hub.

GLUE, SuperGLUE, SQuAD, RACE and GSM8K below one folder, or the hub's own Parquet files. README.md beside this module
lists the layout. Knows files and columns; knows nothing of lm-evaluation-harness but the names of its tasks.
"""

from __future__ import annotations

import csv
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hardware.errors import ExplorerError

LAYOUT = "core/evals/README.md lists the files of every benchmark."
Row = dict[str, Any]
Read = Callable[[Path], Iterable[Row]]


@dataclass(frozen=True)
class Source:
    """Where the documents of one of the harness's tasks are.

    title: of the benchmark. split: the one that is asked, by the hub's name. asked, shown: the file of that split and
    of the training split, out of which solved examples come; further names stand for the same file elsewhere. hub:
    the folder of its Parquet files. columns: what the harness's task reads.
    """

    title: str
    split: str
    asked: tuple[str, ...]
    shown: tuple[str, ...]
    read: Read
    hub: str
    columns: tuple[str, ...]


# ---------------------------------------------------------------- reading


def _table(path: Path) -> list[dict[str, str]]:
    """The rows of a tab-separated file with a header, in which quotes mean nothing; incomplete ones are left out."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        return [row for row in rows if None not in row.values()]


def _label(value: Any, labels: Sequence[str]) -> int:
    if labels and value not in labels:
        raise ValueError(f"the label {value!r} is none of {', '.join(labels)}")
    return labels.index(value) if labels else int(value)


def _columns(names: Mapping[str, str], labels: Sequence[str] = ()) -> Read:
    """A reader of tables. names: the hub's column -> the file's; label is a number, or an index into `labels`."""

    def read(path: Path) -> Iterator[Row]:
        for i, row in enumerate(_table(path)):
            made: Row = {new: row[old] for new, old in names.items()}
            yield {**made, "label": _label(made["label"], labels), "idx": i}

    return read


def _cola(path: Path) -> Iterator[Row]:
    """No header: source, label, the linguists' mark, sentence."""
    with path.open(encoding="utf-8", newline="") as file:
        for i, row in enumerate(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)):
            yield {"sentence": row[3], "label": int(row[1]), "idx": i}


def _sst2(path: Path) -> Iterator[Row]:
    """Sentence and label, with GLUE's header or without."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE) if row]
    for i, row in enumerate(rows[1:] if rows[:1] == [["sentence", "label"]] else rows):
        yield {"sentence": row[0], "label": int(row[1]), "idx": i}


def _lines(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig") as file:
        for line in file:
            if line.strip():
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise ValueError("a line is not an object")
                yield row


def _objects(*names: str, labels: Sequence[str] = ()) -> Read:
    """A reader of JSON lines. names: the columns that each must have; label, too, as a number."""

    def read(path: Path) -> Iterator[Row]:
        for i, row in enumerate(_lines(path)):
            label = _label(row["label"], labels)
            yield {**{name: row[name] for name in names}, "label": label, "idx": row.get("idx", i)}

    return read


def _multirc(path: Path) -> Iterator[Row]:
    """A row for every answer of every question on a paragraph."""
    for row in _lines(path):
        for question in row["passage"]["questions"]:
            for answer in question["answers"]:
                yield {
                    "paragraph": row["passage"]["text"],
                    "question": question["question"],
                    "answer": answer["text"],
                    "label": int(answer["label"]),
                    "idx": {"paragraph": row["idx"], "question": question["idx"], "answer": answer["idx"]},
                }


def _record(path: Path) -> Iterator[Row]:
    """A row for every query on a passage; its entities once each, in the order of the text."""
    for row in _lines(path):
        text = row["passage"]["text"]
        spans = sorted(row["passage"]["entities"], key=lambda span: int(span["start"]))
        entities = list(dict.fromkeys(text[span["start"] : span["end"] + 1] for span in spans))
        for query in row["qas"]:
            yield {
                "passage": text,
                "query": query["query"],
                "entities": entities,
                "answers": list(dict.fromkeys(answer["text"] for answer in query["answers"])),
                "idx": {"passage": row["idx"], "query": query["idx"]},
            }


def _wsc(path: Path) -> Iterator[Row]:
    """The hub's wsc.fixed: a span is written as its words stand in the text."""
    for i, row in enumerate(_lines(path)):
        text, target = row["text"], row["target"]
        made = {"text": text, "label": int(row["label"]), "idx": row.get("idx", i)}
        for name in ("span1", "span2"):
            index, span = target[f"{name}_index"], target[f"{name}_text"]
            if span not in text and index < len(text.split()):
                first = text.split()[index][0]
                span = (span[0].lower() if first.islower() else span[0].upper()) + span[1:]
                span = span.rstrip(".").replace("\n", " ")
            made |= {f"{name}_index": index, f"{name}_text": span}
        yield made


def _squad(path: Path) -> Iterator[Row]:
    """Version 1.1 and 2.0; in the latter, questions without an answer have an empty list of them."""
    for article in json.loads(path.read_text(encoding="utf-8-sig"))["data"]:
        for paragraph in article["paragraphs"]:
            for question in paragraph["qas"]:
                answers = question["answers"]
                yield {
                    "id": question["id"],
                    "title": article.get("title", ""),
                    "context": paragraph["context"],
                    "question": question["question"],
                    "answers": {name: [answer[name] for answer in answers] for name in ("text", "answer_start")},
                }


def _race(path: Path) -> Iterator[Row]:
    """A folder with a file for every article; its problems as text, which is what the harness's task reads."""
    for file in sorted(path.glob("[!.]*.txt"), key=lambda file: (len(file.stem), file.stem)):
        row = json.loads(file.read_text(encoding="utf-8"))
        problems = [
            {"question": question, "answer": answer, "options": list(options)}
            for question, answer, options in zip(row["questions"], row["answers"], row["options"], strict=True)
        ]
        yield {"article": row["article"], "problems": repr(problems)}


def _by_article(rows: Iterable[Row]) -> Iterator[Row]:
    """RACE of ehovy/race, which has a row for every question, as EleutherAI/race, which has one for every article."""
    for _, asked in itertools.groupby(rows, key=lambda row: row["example_id"]):
        questions = list(asked)
        problems = [{name: question[name] for name in ("question", "answer", "options")} for question in questions]
        yield {"article": questions[0]["article"], "problems": repr(problems)}


def _gsm8k(path: Path) -> Iterator[Row]:
    for row in _lines(path):
        yield {"question": row["question"], "answer": row["answer"]}


def _parquet(paths: Sequence[Path]) -> Iterator[Row]:
    from pyarrow import parquet

    for path in paths:
        yield from parquet.read_table(path).to_pylist()


# ---------------------------------------------------------------- the benchmarks

TRUTH = ("entailment", "not_entailment")
NLI = ("entailment", "neutral", "contradiction")
CB = ("entailment", "contradiction", "neutral")
HOMES = {
    "GLUE": ("", "GLUE", "glue", "glue_data"),
    "SuperGLUE": ("", "SuperGLUE", "superglue", "super_glue"),
    "SQuAD": ("", "SQuAD", "squad"),
    "RACE": ("", "RACE", "race"),
    "GSM8K": ("", "GSM8K", "gsm8k"),
}


def _glue(folder: str, hub: str, read: Read, *columns: str, more: str = "", like: str = "") -> Source:
    """like: the variant of the development set, where there are two."""
    dev = f"{folder}/dev{like}.tsv"
    return Source(
        title="GLUE",
        split=f"validation{like}",
        asked=(dev, more) if more else (dev,),
        shown=(f"{folder}/train.tsv",),
        read=read,
        hub=hub,
        columns=(*columns, "label"),
    )


def _super_glue(folder: str, hub: str, read: Read, *columns: str) -> Source:
    asked, shown = ((f"{folder}/{file}.jsonl",) for file in ("val", "train"))
    return Source("SuperGLUE", "validation", asked, shown, read, hub, columns)


def _table_of(folder: str, hub: str, labels: Sequence[str] = (), like: str = "", **columns: str) -> Source:
    """columns: the hub's names and the file's; its label column is called label, unless said."""
    return _glue(folder, hub, _columns({"label": "label", **columns}, labels), *columns, like=like)


def _objects_of(folder: str, hub: str, *columns: str, labels: Sequence[str] = ()) -> Source:
    return _super_glue(folder, hub, _objects(*columns, labels=labels), *columns, "label")


def _squad_of(version: str, hub: str) -> Source:
    columns = ("id", "title", "context", "question", "answers")
    asked, shown = ((f"{split}-{version}.json",) for split in ("dev", "train"))
    return Source("SQuAD", "validation", asked, shown, _squad, hub, columns)


_mnli = {"premise": "sentence1", "hypothesis": "sentence2", "label": "gold_label"}
_two = {"sentence1": "sentence1", "sentence2": "sentence2"}
_wic = ("word", "sentence1", "sentence2", "start1", "start2", "end1", "end2")
_spans = ("text", "span1_index", "span2_index", "span1_text", "span2_text", "label")

GLUE = {
    "cola": _glue("CoLA", "cola", _cola, "sentence"),
    "mnli": _table_of("MNLI", "mnli", NLI, "_matched", **_mnli),
    "mnli_mismatch": _table_of("MNLI", "mnli", NLI, "_mismatched", **_mnli),
    "mrpc": _table_of("MRPC", "mrpc", sentence1="#1 String", sentence2="#2 String", label="Quality"),
    "qnli": _table_of("QNLI", "qnli", TRUTH, question="question", sentence="sentence"),
    "qqp": _table_of("QQP", "qqp", question1="question1", question2="question2", label="is_duplicate"),
    "rte": _table_of("RTE", "rte", TRUTH, **_two),
    "sst2": _glue("SST-2", "sst2", _sst2, "sentence", more="sst2_dev.tsv"),
    "wnli": _table_of("WNLI", "wnli", **_two),
}
SUPER_GLUE = {
    "boolq": _objects_of("BoolQ", "boolq", "question", "passage"),
    "cb": _objects_of("CB", "cb", "premise", "hypothesis", labels=CB),
    "copa": _objects_of("COPA", "copa", "premise", "choice1", "choice2", "question"),
    "multirc": _super_glue("MultiRC", "multirc", _multirc, "paragraph", "question", "answer", "label"),
    "record": _super_glue("ReCoRD", "record", _record, "passage", "query", "entities", "answers"),
    "sglue_rte": _objects_of("RTE", "rte", "premise", "hypothesis", labels=TRUTH),
    "wic": _objects_of("WiC", "wic", *_wic),
    "wsc": _super_glue("WSC", "wsc.fixed", _wsc, *_spans),
}
SQUAD = {
    "squad": _squad_of("v1.1", "plain_text"),
    "squadv2": _squad_of("v2.0", "squad_v2"),
}
RACE = {"race": Source("RACE", "test", ("test/high",), ("train/high",), _race, "high", ("article", "problems"))}
MATH = Source(
    title="GSM8K",
    split="test",
    asked=("test.jsonl", "gsm8k_test.jsonl"),
    shown=("train.jsonl", "gsm8k_train.jsonl"),
    read=_gsm8k,
    hub="main",
    columns=("question", "answer"),
)

PRESETS: Mapping[str, Mapping[str, Source]] = {"glue": GLUE, "super_glue": SUPER_GLUE}
SOURCES: Mapping[str, Source] = {**GLUE, **SUPER_GLUE, **SQUAD, **RACE, "gsm8k": MATH, "gsm8k_cot": MATH}


def tasks(names: Iterable[str]) -> tuple[str, ...]:
    """The harness's tasks that the names stand for, presets taken apart. Raises ExplorerError for any other."""
    found: list[str] = []
    for name in names:
        if name not in PRESETS and name not in SOURCES:
            raise ExplorerError(
                f"'{name}' is none of the benchmarks whose files can be read from a folder.",
                "Use glue, super_glue, squad, squadv2, race, gsm8k or a task of these, or leave data empty.",
            )
        found += PRESETS.get(name, [name])
    return tuple(dict.fromkeys(found))


def check(task: str, data: Path, shown: bool = False) -> None:
    """Raises ExplorerError, naming the file, unless that of the task's questions (shown: of its examples) is there."""
    source = SOURCES[task]
    names = source.shown if shown else source.asked
    if not _files(source, data, shown):
        what = "solved examples" if shown else "questions"
        raise ExplorerError(
            f"There is no file {names[0]} in {data}: {source.title} has the {what} of '{task}' there.",
            "Set num_fewshot to 0, or add the file." if shown else LAYOUT,
        )


def documents(task: str, data: Path, shown: bool = False) -> dict[str, list[Row]]:
    """Split -> documents: the questions; shown: the training set, too."""
    source = SOURCES[task]
    check(task, data)
    found = {source.split: _read(source, _files(source, data, shown=False))}
    if shown:
        check(task, data, shown=True)
        found["train"] = _read(source, _files(source, data, shown=True))
    return found


def _files(source: Source, data: Path, shown: bool) -> list[Path]:
    for home in HOMES[source.title]:
        for name in source.shown if shown else source.asked:
            if (data / home / name).exists():
                return [data / home / name]
        folder, split = data / home / source.hub, "train" if shown else source.split
        if parts := sorted([*folder.glob(f"{split}-*.parquet"), *folder.glob(f"{split}/*.parquet")]):
            return parts
    return []


def _read(source: Source, files: Sequence[Path]) -> list[Row]:
    name = files[0].name if files[0].is_file() else f"{files[0].parent.name}/{files[0].name}"
    try:
        rows = list(_parquet(files) if files[0].suffix == ".parquet" else source.read(files[0]))
        if source.title == "RACE" and rows and "example_id" in rows[0]:
            rows = list(_by_article(rows))
        lacking = [column for column in source.columns if rows and column not in rows[0]]
    except KeyError as error:
        rows, lacking = [{}], [str(error.args[0])]
    except (LookupError, ValueError, TypeError, AttributeError, RecursionError, OSError, csv.Error) as error:
        cause = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise ExplorerError(f"{name} is not as {source.title} is distributed: {cause}.", LAYOUT) from error
    if lacking:
        raise ExplorerError(f"{name} is not as {source.title} is distributed: it has no {lacking[0]}.", LAYOUT)
    if not rows:
        raise ExplorerError(f"{name} has no questions.", LAYOUT)
    return rows
