"""The public benchmarks' files: made-up ones of every layout become the columns that the harness's tasks read."""

from __future__ import annotations

import ast
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from core.evals import _public_files as public
from hardware.errors import ExplorerError
from tests.support.benchmarks import MAKERS, gsm8k, squad


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every benchmark in a folder of its own."""
    path = tmp_path_factory.mktemp("public")
    for name, make in MAKERS.items():
        make(path / name)
    return path


@pytest.mark.parametrize(
    ("task", "last"),
    [
        ("cola", {"sentence": "The hen runs.", "label": 0}),
        ("mnli", {"premise": 'The "hen sentence1" runs.', "hypothesis": 'The "hen sentence2" runs.', "label": 2}),
        ("mnli_mismatch", {"label": 2}),
        ("mrpc", {"sentence1": 'The "hen #1 String" runs.', "sentence2": 'The "hen #2 String" runs.', "label": 1}),
        ("qnli", {"question": 'The "hen question" runs.', "sentence": 'The "hen sentence" runs.', "label": 0}),
        ("qqp", {"question1": 'The "hen question1" runs.', "question2": 'The "hen question2" runs.', "label": 1}),
        ("rte", {"sentence2": 'The "hen sentence2" runs.', "label": 0}),
        ("sst2", {"sentence": 'The "hen sentence" runs.', "label": 1}),
        ("wnli", {"sentence1": 'The "hen sentence1" runs.', "label": 1}),
        ("boolq", {"question": "is the hen red", "passage": "A hen.", "label": 0}),
        ("cb", {"premise": "A hen ran.", "hypothesis": "the hen ran", "label": 2}),
        ("copa", {"premise": "The hen ran.", "choice2": "It ate.", "question": "cause", "label": 0}),
        (
            "multirc",
            {"paragraph": "An ant met a hen.", "question": "Whom did the ant meet?", "answer": "hen", "label": 1},
        ),
        ("record", {"query": "The hen of @placeholder is old", "entities": ["Ann", "Bo"], "answers": ["Ann"]}),
        ("sglue_rte", {"premise": "A hen ran.", "label": 0}),
        ("wic", {"word": "hen", "start1": 4, "end2": 5, "label": 1}),
        ("wsc", {"span1_text": "The hen", "span2_index": 6, "span2_text": "it", "label": 1}),
        ("squad", {"id": "b", "title": "Animals", "answers": {"text": ["the hen"], "answer_start": [19]}}),
        ("squadv2", {"id": "c", "title": "Animals", "answers": {"text": [], "answer_start": []}}),
        ("gsm8k", {"question": "3 and 3?"}),
    ],
)
def test_every_layout_becomes_the_columns_of_the_hub(folder: Path, task: str, last: dict[str, Any]) -> None:
    source = public.SOURCES[task]
    home = next((name for name, tasks in public.PRESETS.items() if task in tasks), source.title.lower())
    found = public.documents(task, folder / home)
    documents = found[source.split]
    assert len(documents) == (2 if task == "squad" else 3)
    assert {name: documents[-1][name] for name in last} == last
    assert all(set(source.columns) <= set(row) for row in documents)
    assert "train" not in found, "a training set is large"
    if home in MAKERS and home != "gsm8k":
        assert len(public.documents(task, folder / home, shown=True)["train"]) == len(documents)


def test_articles_keep_their_order_and_problems_are_text(folder: Path) -> None:
    first, second = public.documents("race", folder / "race")["test"]
    assert (first["article"], second["article"]) == ("The hen ran.", "The hat ran.")
    assert ast.literal_eval(first["problems"])[-1] == {
        "question": "It was  _  .",
        "answer": "C",
        "options": ["red", "old", "thin", "wet"],
    }


def test_a_folder_above_and_the_hubs_parquet_files_are_found(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "glue" / "SST-2", tmp_path / "glue_data" / "SST-2")
    assert len(public.documents("sst2", tmp_path)["validation"]) == 3
    import pandas as pd

    (tmp_path / "hub" / "cola").mkdir(parents=True)
    rows = pd.DataFrame({"sentence": ["A hen.", "A hat."], "label": [1, 0], "idx": [0, 1]})
    rows.to_parquet(tmp_path / "hub" / "cola" / "validation-00000-of-00001.parquet")
    assert public.documents("cola", tmp_path / "hub")["validation"] == rows.to_dict("records")
    shutil.copytree(tmp_path / "hub" / "cola", tmp_path / "hub" / "wnli")
    with pytest.raises(ExplorerError, match="not as GLUE is distributed: it has no sentence1"):
        public.documents("wnli", tmp_path / "hub")


def test_sentences_without_a_header(tmp_path: Path) -> None:
    (tmp_path / "sst2_dev.tsv").write_text("a fine film\t1\nno film\t0\n")
    assert [row["label"] for row in public.documents("sst2", tmp_path)["validation"]] == [1, 0]


def test_names_are_taken_apart() -> None:
    assert public.tasks(["glue"]) == tuple(public.GLUE)
    assert public.tasks(["sst2", "super_glue", "squad", "sst2"]) == ("sst2", *public.SUPER_GLUE, "squad")
    with pytest.raises(ExplorerError, match="'hellaswag' is none of the benchmarks"):
        public.tasks(["hellaswag"])


@pytest.mark.parametrize("task", public.SOURCES)
def test_a_missing_file_is_named(tmp_path: Path, task: str) -> None:
    source = public.SOURCES[task]
    with pytest.raises(ExplorerError) as caught:
        public.check(task, tmp_path)
    assert source.asked[0] in caught.value.message and source.title in caught.value.message
    assert "\n" not in str(caught.value) and "README" in caught.value.hint
    gsm8k(tmp_path)
    with pytest.raises(ExplorerError, match=r"no file train\.jsonl .* solved examples"):
        public.check("gsm8k", tmp_path, shown=True)


@pytest.mark.parametrize(
    ("task", "name", "content", "cause"),
    [
        ("sst2", "SST-2/dev.tsv", "sentence\tlabel\nfine\tgood\n", "invalid literal"),
        ("sst2", "SST-2/dev.tsv", "sentence\tlabel\nfine\n", "out of range"),
        ("sst2", "SST-2/dev.tsv", "", "has no questions"),
        ("rte", "RTE/dev.tsv", "index\tsentence1\tlabel\n0\ta\tentailment\n", "it has no sentence2"),
        ("rte", "RTE/dev.tsv", "sentence1\tsentence2\tlabel\na\tb\tmaybe\n", "the label 'maybe' is none of entail"),
        ("boolq", "BoolQ/val.jsonl", "{not json}\n", "Expecting property name"),
        ("boolq", "BoolQ/val.jsonl", '["a"]\n', "a line is not an object"),
        ("boolq", "BoolQ/val.jsonl", '{"question": "a", "label": true}\n', "it has no passage"),
        ("cola", "CoLA/dev.tsv", b"gj\t1\t\t\xff\xfe\n", "can't decode"),
        ("squadv2", "dev-v2.0.json", '{"data": [{"paragraphs": 3}]}', "not iterable"),
    ],
)
def test_a_damaged_file_is_one_sentence(tmp_path: Path, task: str, name: str, content: str | bytes, cause: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ExplorerError) as caught:
        public.documents(task, tmp_path)
    message = caught.value.message
    assert cause in message and Path(name).name in message
    assert message.endswith(".") and "\n" not in message


def test_an_article_that_is_damaged_names_its_folder(tmp_path: Path) -> None:
    (tmp_path / "test" / "high").mkdir(parents=True)
    (tmp_path / "test" / "high" / "1.txt").write_text(json.dumps({"article": "a", "questions": ["b"]}))
    with pytest.raises(ExplorerError, match="test/high is not as RACE is distributed: it has no answers"):
        public.documents("race", tmp_path)


def test_race_of_the_hub_has_a_row_for_every_question(folder: Path, tmp_path: Path) -> None:
    """ehovy/race; the harness reads EleutherAI/race, which has the whole article's."""
    from datasets import Dataset

    wanted = public.documents("race", folder / "race")["test"]
    rows = [
        {"example_id": f"high{i}.txt", "article": row["article"], **problem}
        for i, row in enumerate(wanted)
        for problem in ast.literal_eval(row["problems"])
    ]
    (tmp_path / "high").mkdir()
    Dataset.from_list(rows).to_parquet(tmp_path / "high" / "test-00000-of-00001.parquet")
    assert len(rows) > len(wanted) and public.documents("race", tmp_path)["test"] == wanted


def test_what_an_editor_or_a_mac_leaves_in_the_files_is_passed_over(folder: Path, tmp_path: Path) -> None:
    """A byte order mark in front, and the ._ files of another file system."""
    for home, task, name in (("glue", "mrpc", "MRPC/dev.tsv"), ("super_glue", "boolq", "BoolQ/val.jsonl")):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + (folder / home / name).read_bytes())
        assert public.documents(task, tmp_path) == public.documents(task, folder / home)
    shutil.copytree(folder / "race", tmp_path / "race")
    (tmp_path / "race" / "test" / "high" / "._1.txt").write_bytes(b"\0\5\x16\7")
    assert public.documents("race", tmp_path) == public.documents("race", folder / "race")


def test_squad_is_found_by_its_version(tmp_path: Path) -> None:
    squad(tmp_path / "squad")
    assert [len(row["answers"]["text"]) for row in public.documents("squadv2", tmp_path)["validation"]] == [1, 1, 0]
