"""lm-evaluation-harness over our sessions, against the harness's own Hugging Face model on the same weights."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from core import plugins
from core.evals import _harness_tasks as harness_tasks
from core.evals._harness_model import language_model
from core.evals.harness import Settings, plugin
from core.models import spec as specs
from core.stats.scores import scores
from core.types import Item, Request, Session
from core.worker.subject import ModelUnderTest
from hardware.errors import ExplorerError
from tests.support.tiny import CHAT_TEMPLATE, MAX_CONTEXT, hf_folder

pytestmark = pytest.mark.engine("pytorch")

WORDS = ("ant", "hat", "the cat", "a thin man", "in", "nothing", "3.14", "tin", "hen", "then", "an inn", "thing")
TASKS = {
    "choice": """
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_target: "{{answer}}"
doc_to_choice: "{{choices}}"
fewshot_split: train
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
  - {metric: acc_norm, aggregation: mean, higher_is_better: true}
  - {metric: f1, aggregation: f1, higher_is_better: true}
""",
    "writing": """
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{reply}}"
generation_kwargs: {until: ["q", "zz"], max_gen_toks: 12, do_sample: false}
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true}
  - {metric: chrf, aggregation: chrf, higher_is_better: true}
""",
    "reading": """
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list:
  - {metric: word_perplexity}
  - {metric: byte_perplexity}
  - {metric: bits_per_byte}
""",
    "ending": """
output_type: loglikelihood
doc_to_text: "{{question}}"
doc_to_target: " {{reply}}"
metric_list:
  - {metric: perplexity, aggregation: perplexity, higher_is_better: false}
  - {metric: acc, aggregation: mean, higher_is_better: true}
""",
}
HEAD = "dataset_path: json\ndataset_kwargs: {data_files: {train: docs.jsonl, test: docs.jsonl}}\ntest_split: test\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("harness")


@pytest.fixture(scope="module")
def tasks(folder: Path) -> str:
    """Four local tasks of twelve documents, one of each kind of request."""
    path = folder / "tasks"
    path.mkdir()
    docs = [
        {
            "question": f"Say: {word}?",
            "choices": [word, WORDS[-1 - i] + "s"],
            "answer": i % 2,
            "reply": word,
            "text": f"{word} and {WORDS[-1 - i]} " * (i + 1),
        }
        for i, word in enumerate(WORDS)
    ]
    (path / "docs.jsonl").write_text("".join(json.dumps(doc) + "\n" for doc in docs))
    for name, body in TASKS.items():
        (path / f"{name}.yaml").write_text(f"task: {name}\n{HEAD}{body}")
    return str(path)


@pytest.fixture(scope="module")
def subject(folder: Path) -> Iterator[ModelUnderTest]:
    path = str(hf_folder(folder))
    request = Request(model="tiny", backend="pytorch", threads=1)
    session: Session = plugins.get("backend", "pytorch").open(path, specs.read(path, "hf"), request, lambda *_: None)
    yield ModelUnderTest(
        session, None, plugins.get("strategy", "autoregressive"), plugins.get("strategy", "autoregressive").Params()
    )
    session.close()


def measured(subject: Any, params: Settings) -> tuple[list[Item], dict[str, float]]:
    items = list(plugin.measure(subject, params))
    return items, {score.name: score.value for score in scores(items, plugin.metrics(params))}


def harness_itself(folder: Path, path: str, monkeypatch: pytest.MonkeyPatch, **given: Any) -> dict[str, Any]:
    from lm_eval import evaluator
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    monkeypatch.setattr(evaluator, "add_env_info", lambda results: None)  # looks for drivers and compilers
    monkeypatch.chdir(path)
    model = HFLM(pretrained=str(hf_folder(folder)), device="cpu", dtype="float32", max_length=MAX_CONTEXT)
    manager = TaskManager(include_path=path, include_defaults=False)
    found: dict[str, Any] = evaluator.simple_evaluate(
        model=model, tasks=list(TASKS), task_manager=manager, bootstrap_iters=0, **given
    )
    return found


@pytest.mark.parametrize(("num_fewshot", "chat"), [(0, False), (2, False), (0, True)])
def test_its_numbers_are_those_of_the_harness(
    subject: ModelUnderTest, folder: Path, tasks: str, monkeypatch: pytest.MonkeyPatch, num_fewshot: int, chat: bool
) -> None:
    wanted = harness_itself(folder, tasks, monkeypatch, num_fewshot=num_fewshot, apply_chat_template=chat)
    params = Settings(tasks=", ".join(TASKS), include_path=tasks, num_fewshot=num_fewshot, chat=chat)
    items, found = measured(subject, params)
    flat = {
        f"{task}/{metric.split(',')[0]}": value
        for task, values in wanted["results"].items()
        for metric, value in values.items()
        if metric.endswith(",none") and "_stderr" not in metric
    }
    texts = {f"writing/{s['doc_id']}": s["resps"][0][0] for s in wanted["samples"]["writing"]}
    assert {item.id: item.output for item in items if item.id in texts} == texts
    assert len({text for text in texts.values() if text}) > 6  # the model does write something
    assert len(flat) == 10 and found == pytest.approx(flat, rel=1e-4)
    for sample in wanted["samples"]["choice"]:
        item = next(item for item in items if item.id == f"choice/{sample['doc_id']}")
        assert item.values["choice/acc"] == sample["acc"]
        assert item.prompt == sample["arguments"][0][0]
        options = [f"{a[1].strip()}: {r[0][0]:.2f}" for a, r in zip(sample["arguments"], sample["resps"], strict=True)]
        assert item.output.split("\n") == options


NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + CHAT_TEMPLATE
TRIMMED = CHAT_TEMPLATE.replace("message['content']", "message['content'] | trim")
ASKED = {"role": "user", "content": "hi"}


@pytest.mark.parametrize(
    ("template", "history", "answer"),
    [
        (NO_SYSTEM, [{"role": "system", "content": "Be brief."}, ASKED], True),
        (TRIMMED, [ASKED, {"role": "assistant", "content": "Answer: "}], False),
        (CHAT_TEMPLATE.replace("<|im_start|>assistant", "<|im_start|>assistant\n<think>"),
         [ASKED, {"role": "assistant", "content": "Answer: "}], False),
    ],
    ids=["no system role", "trimmed", "thinking in the generation prompt"],
)  # fmt: skip
def test_a_dialogue_is_put_into_a_template_as_the_harness_does(
    subject: ModelUnderTest, folder: Path, monkeypatch: pytest.MonkeyPatch, template: str, history: Any, answer: bool
) -> None:
    from lm_eval.models.huggingface import HFLM

    theirs = HFLM(pretrained=str(hf_folder(folder)), device="cpu", dtype="float32", max_length=MAX_CONTEXT)
    theirs.tokenizer.chat_template = template
    monkeypatch.setattr(subject.session, "chat_template", template)
    ours = language_model(subject, bos=False)
    assert ours.apply_chat_template(history, answer) == theirs.apply_chat_template(history, answer)


def test_items_are_documents_and_the_whole_set_comes_last(subject: ModelUnderTest, tasks: str) -> None:
    params = Settings(tasks="writing", include_path=tasks, limit=3)
    items, _ = measured(subject, params)
    assert [item.id for item in items] == ["writing/0", "writing/1", "writing/2", "writing/all"]
    assert items[0].prompt == "Say: ant?" and items[0].expected == "ant"
    assert items[0].ttft_s and items[0].counts and items[0].counts.forwards
    assert set(items[0].values) == {"writing/exact_match"} and set(items[-1].values) == {"writing/chrf"}
    kinds = {metric.name: (metric.kind, metric.label) for metric in plugin.metrics(params)}
    assert kinds == {
        "writing/exact_match": ("rate", "writing: exact_match"),
        "writing/chrf": ("mean", "writing: chrf (of the whole set)"),
    }


def test_a_changed_file_is_read_again(subject: ModelUnderTest, folder: Path, tasks: str) -> None:
    own = folder / "changing"
    own.mkdir()
    (own / "docs.jsonl").write_text((Path(tasks) / "docs.jsonl").read_text())
    (own / "ending.yaml").write_text((Path(tasks) / "ending.yaml").read_text())
    params = Settings(tasks="ending", include_path=str(own))
    assert len(list(plugin.measure(subject, params))) == 12
    lines = (own / "docs.jsonl").read_text().splitlines(keepends=True)
    (own / "docs.jsonl").write_text("".join(lines[:4]))
    assert len(list(plugin.measure(subject, params))) == 4


def local(folder: Path, tasks: str, **changed: str) -> Settings:
    """The task "writing" with words of its YAML replaced."""
    text = (Path(tasks) / "writing.yaml").read_text()
    for old, new in changed.items():
        assert old in text
        text = text.replace(old, new)
    (folder / "writing.yaml").write_text(text)
    (folder / "docs.jsonl").write_text((Path(tasks) / "docs.jsonl").read_text())
    return Settings(tasks="writing", include_path=str(folder))


def refused(subject: Any, params: Settings) -> ExplorerError:
    with pytest.raises(ExplorerError) as caught:
        measured(subject, params)
    return caught.value


def test_a_task_that_samples_or_needs_too_much_room_is_refused(
    subject: ModelUnderTest, tmp_path: Path, tasks: str
) -> None:
    sampled = local(tmp_path, tasks, **{"do_sample: false": "do_sample: true, temperature: 0.7"})
    assert "sampled answers" in refused(subject, sampled).message
    long = local(tmp_path, tasks, **{"max_gen_toks: 12": "max_gen_toks: 96"})
    assert "96 new tokens, and the context has 96" in refused(subject, long).message


@pytest.mark.parametrize(
    ("changed", "message", "hint"),
    [
        ({"docs.jsonl": "gone.jsonl"}, "The data of the task 'writing' are not on this machine", "Switch download on"),
        ({"generate_until": "guess"}, "The task 'writing' cannot be loaded: Got invalid output_type", "YAML"),
        ({"test_split: test": "test_split: exam"}, "The task 'writing' cannot be loaded", "YAML"),
    ],
)
def test_a_damaged_task_is_one_sentence(
    subject: ModelUnderTest, tmp_path: Path, tasks: str, changed: dict[str, str], message: str, hint: str
) -> None:
    error = refused(subject, local(tmp_path, tasks, **changed))
    assert error.message.startswith(message) and hint in error.hint and "\n" not in error.message


def test_an_empty_or_malformed_data_file_is_one_sentence(subject: ModelUnderTest, tmp_path: Path, tasks: str) -> None:
    params = local(tmp_path, tasks)
    for content in ("", "{not json}\n"):
        (tmp_path / "docs.jsonl").write_text(content)
        error = refused(subject, params)
        assert "writing" in error.message and "\n" not in str(error)


def test_what_is_not_there_is_said_before_anything_runs(tasks: str, tmp_path: Path) -> None:
    for params, message in (
        (Settings(), "No task"),
        (Settings(tasks="x", include_path=str(tmp_path / "none")), "There is no folder"),
        (Settings(tasks="choice, no_such_task", include_path=tasks), "has no task 'no_such_task'"),
        (Settings(tasks="arc_easy"), "The data of the task 'arc_easy' are not on this machine"),
    ):
        with pytest.raises(ExplorerError, match=message):
            plugin.metrics(params)
    with pytest.raises(ExplorerError, match="No task"):
        plugin.size(Settings())
    assert plugin.size(Settings(tasks="arc_easy")) is None  # the form asks this, and it reads no data


def test_without_the_harness_the_install_line_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness_tasks, "find_spec", lambda name: None)
    with pytest.raises(ExplorerError, match=r"requirements\.txt"):
        plugin.metrics(Settings(tasks="anything_at_all"))
    required = (Path(__file__).parents[2] / "requirements.txt").read_text()
    assert all(f"\n{name}==" in required for name in ("lm-eval", "datasets", "accelerate", "scikit-learn"))
