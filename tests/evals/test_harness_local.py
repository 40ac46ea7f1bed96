"""The public benchmarks from files: every preset runs, and two of them give the harness's own numbers per document."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from core import plugins
from core.backends.fake import FakeSession
from core.evals import _harness_squad as squad
from core.evals import _public_files as public
from core.evals.harness import Settings, plugin
from core.models import spec as specs
from core.stats.scores import scores
from core.types import Item, Request, Session
from core.worker.subject import ModelUnderTest
from hardware.errors import ExplorerError
from tests.support.benchmarks import MAKERS, WORDS
from tests.support.harness import judged
from tests.support.tiny import hf_folder

pytestmark = pytest.mark.engine("pytorch")

CONTEXT = 8192


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("public")
    for name, make in MAKERS.items():
        make(path / name)
    lines = [{"question": f"{i} and {i}?", "answer": f"#### {2 * i}"} for i in (1, 2)]
    (path / "gsm8k_test.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (path / "sst2_dev.tsv").write_text("".join(f'a "{word} of a film\t{i % 2}\n' for i, word in enumerate(WORDS)))
    return path


def fake() -> ModelUnderTest:
    spec: Any = SimpleNamespace(name="fake", max_context=CONTEXT, vocab_size=300, layers=(), dtype="fp32", n_blocks=1)
    strategy = plugins.get("strategy", "autoregressive")
    return ModelUnderTest(FakeSession(spec, Request(model="fake", backend="fake")), None, strategy, strategy.Params())


def measured(subject: Any, params: Settings) -> tuple[list[Item], dict[str, float]]:
    items = list(plugin.measure(subject, params))
    return items, {score.name: score.value for score in scores(items, plugin.metrics(params))}


@pytest.mark.parametrize("name", [*public.PRESETS, "squad", "squadv2", "race", "gsm8k_cot"])
def test_a_preset_needs_one_path(data: Path, name: str) -> None:
    params = Settings(tasks=name, data=str(data), limit=2)
    if name in public.PRESETS:
        params = Settings(tasks=name, data=str(data / name), limit=2)
    assert plugin.size(params) is None
    items, found = measured(fake(), params)
    tasks = public.tasks([name])
    assert {item.id for item in items if not item.id.endswith("/all")} == {f"{t}/{i}" for t in tasks for i in (0, 1)}
    assert all(any(score.startswith(f"{task}/") for score in found) for task in tasks)
    assert {metric.name for metric in plugin.metrics(params)} >= found.keys()


def test_the_prompts_are_the_harness_s(data: Path) -> None:
    wanted = {
        "sst2": 'a "ant of a film\nQuestion: Is this sentence positive or negative?\nAnswer:',
        "boolq": "A ant.\nQuestion: is the ant red?\nAnswer:",
        "squadv2": "Title: Animals\n\nBackground: The ant is red and the hen is old.\n\n"
        "Question: What is red?\n\nAnswer:",
        "race": "Article: The hen ran.\n\nQuestion: Who ran?\nAnswer: ant\nIt was  _  .",
        "record": "Ann has a ant. Bo likes Ann.\n\n  - Bo is a man.\n",
    }
    for task, prompt in wanted.items():
        home = data / "super_glue" if task in public.SUPER_GLUE else data
        shown = next(iter(plugin.measure(fake(), Settings(tasks=task, data=str(home), limit=1)))).prompt
        assert shown == prompt, task


def test_shown_examples_come_from_the_training_set(data: Path) -> None:
    params = Settings(tasks="sst2", data=str(data / "glue"), limit=1, num_fewshot=2)
    [item] = [item for item in plugin.measure(fake(), params) if item.id == "sst2/0"]
    assert item.prompt.count("Answer: ") == 2 and item.prompt.endswith("Answer:")
    with pytest.raises(ExplorerError, match=r"no file train\.jsonl .* GSM8K has the solved examples"):
        plugin.metrics(Settings(tasks="gsm8k", data=str(data), limit=1))
    assert len(measured(fake(), Settings(tasks="gsm8k", data=str(data), limit=2, num_fewshot=0))[0]) == 2


def test_faults_are_named_before_anything_runs(data: Path, tmp_path: Path) -> None:
    for params, message in (
        (Settings(tasks="glue", data=str(tmp_path / "none")), "There is no folder"),
        (
            Settings(tasks="glue", data=str(tmp_path)),
            r"There is no file CoLA/dev\.tsv in .*: GLUE has the questions of",
        ),
        (Settings(tasks="arc_easy", data=str(data)), "'arc_easy' is none of the benchmarks"),
        (Settings(tasks="", data=str(data)), "No task"),
    ):
        with pytest.raises(ExplorerError, match=message):
            plugin.size(params)
    shutil.copytree(data / "glue" / "SST-2", tmp_path / "SST-2")
    (tmp_path / "SST-2" / "dev.tsv").write_text("sentence\tlabel\nfine\n")
    with pytest.raises(ExplorerError, match=r"dev\.tsv is not as GLUE is distributed"):
        plugin.metrics(Settings(tasks="sst2", data=str(tmp_path)))


def test_squad_is_judged_as_by_its_own_script() -> None:
    found = squad.scores("the red ant.", ["red ant", "hen"])
    assert (found["exact"], found["f1"], found["HasAns_exact"]) == (1, 1, 1) and math.isnan(found["NoAns_f1"])
    assert squad.scores("red hen", ["the red ant"])["f1"] == 0.5
    assert squad.scores("unanswerable", [])["NoAns_exact"] == 0
    assert (squad.scores(" ", [])["NoAns_exact"], squad.scores("", [])["f1"]) == (1, 1)
    assert squad.scores("", ["..."])["exact"] == 1, "a gold answer without a word is no answer"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny llama with room for eight solved problems."""
    path = hf_folder(tmp_path_factory.mktemp("long"))
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**config, "max_position_embeddings": CONTEXT}))
    return path


@pytest.fixture(scope="module")
def subject(model: Path) -> Iterator[ModelUnderTest]:
    path = str(model)
    request = Request(model="tiny", backend="pytorch", threads=1)
    session: Session = plugins.get("backend", "pytorch").open(path, specs.read(path, "hf"), request, lambda *_: None)
    strategy = plugins.get("strategy", "autoregressive")
    yield ModelUnderTest(session, None, strategy, strategy.Params())
    session.close()


@pytest.mark.parametrize("task", ["sst2", "gsm8k_cot"])
def test_every_document_has_the_harness_s_score(subject: ModelUnderTest, model: Path, data: Path, task: str) -> None:
    theirs = judged(str(model), task, str(data), limit=3, max_length=CONTEXT)
    items, _ = measured(subject, Settings(tasks=task, data=str(data), limit=3))
    assert {item.id: item.values for item in items} == {name: one["values"] for name, one in theirs.items()}
    assert {item.id: item.output for item in items} == {name: one["answer"] for name, one in theirs.items()}
    assert len({item.output for item in items}) == len(items) > 1
