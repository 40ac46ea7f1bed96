"""EleutherAI's lm-evaluation-harness over our own sessions: its tasks, prompts and scoring, any backend's logits.

Document by document, so that scores grow while it runs and a stop costs one document. Public tasks need their data on
this machine, or a network and `download`; a folder of YAML tasks over local files needs neither.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from core.evals import _harness_tasks as harness_tasks
from core.evals._fingerprint import fingerprint
from core.evals._harness_model import language_model
from core.types import Eval, Item, Metric, Record, Subject, Words
from hardware.errors import ExplorerError

SHOWN = 4000  # characters of a prompt, its end, that an item keeps


class Settings(Record, omit_defaults=False):
    """Which of the harness's tasks, and how they are asked.

    tasks: their names, separated by commas; a group brings all of its tasks.
    data: a folder with the files of GLUE, SuperGLUE, SQuAD, RACE or GSM8K as they are distributed; tasks then are
        glue, super_glue, squad, race, gsm8k, or tasks of these.
    limit: documents of every task; 0 for all.
    num_fewshot: solved examples before every question; empty for what the task says.
    include_path: a folder with YAML tasks of your own; data_files in them stand relative to it.
    chat: put the questions through the model's chat template.
    bos: put the model's beginning-of-sequence token before every text, also where its tokenizer does not by itself.
    download: let the harness fetch data from the network.
    """

    tasks: Words = ""
    data: Words = ""
    limit: Annotated[int, Meta(ge=0, le=1_000_000)] = 100
    num_fewshot: Annotated[int, Meta(ge=0, le=1_000_000)] | None = None
    include_path: Words = ""
    chat: bool = False
    bos: bool = False
    download: bool = False


class Harness:
    """Any task of lm-evaluation-harness, public ones and your own, with its own prompts and scoring."""

    name = "harness"
    label = "lm-evaluation-harness"
    needs = frozenset({"forward", "cache"})
    selects = frozenset({"tasks", "data", "limit", "include_path", "download"})
    Params = Settings

    def metrics(self, params: Settings) -> tuple[Metric, ...]:
        return harness_tasks.metrics(_tasks(params))

    def size(self, params: Settings) -> int | None:
        """Only the data can tell. Raises ExplorerError for what can be known without them."""
        harness_tasks.asked(params.tasks, params.include_path, params.data)
        return None

    def measure(self, subject: Subject, params: Settings) -> Iterator[Item]:
        model = language_model(subject, params.bos)
        for task in _tasks(params).values():
            judge = harness_tasks.Judge(task)
            for doc_id, group in groupby(_instances(task, model, params), key=lambda instance: instance.doc_id):
                yield _item(task, model, judge, doc_id, list(group), params.chat)
            if whole := judge.whole():
                name = f"{task.task_name}/all"
                yield Item(t_s=0.0, id=name, cluster=name, values=whole)


def _tasks(params: Settings) -> dict[str, Any]:
    return harness_tasks.load(params.tasks, params.include_path, params.download, params.num_fewshot, params.data)


def _instances(task: Any, model: Any, params: Settings) -> list[Any]:
    """The requests that the harness makes of a task, those of a document next to each other."""
    task.set_fewshot_seed(seed=harness_tasks.SEEDS[2])
    try:
        task.build_all_requests(
            limit=params.limit or None,
            apply_chat_template=params.chat,
            fewshot_as_multiturn=params.chat,
            chat_template=model.apply_chat_template if params.chat else None,
        )
    except ValueError as error:
        raise ExplorerError(f"The task '{task.task_name}' has no documents: {error}.", "Check its data.") from error
    return list(task.instances)


def _item(task: Any, model: Any, judge: harness_tasks.Judge, doc_id: int, instances: list[Any], chat: bool) -> Item:
    model.last = None
    for instance in instances:
        for _ in range(instance.repeats or 1):
            instance.resps.append(getattr(model, instance.request_type)([instance])[0])
    first, answer = instances[0], model.last
    asked = str(first.args[0]) if first.request_type != "loglikelihood_rolling" else ""
    name = f"{task.task_name}/{doc_id}"
    item = Item(
        t_s=0.0,
        id=name,
        cluster=name,
        values=judge.values(first.doc, instances),
        prompt=asked[-SHOWN:],
        output=_shown(instances),
        expected=str(task.doc_to_target(first.doc))[:SHOWN],
        fingerprint=fingerprint(_question(task, instances, chat), task.doc_to_target(first.doc)),
    )
    if answer is None or len(instances) > 1 or (first.repeats or 1) > 1:
        return item
    return msgspec.structs.replace(
        item,
        ttft_s=answer.ttft_s,
        seconds=answer.seconds,
        counts=answer.counts,
    )


def _question(task: Any, instances: list[Any], chat: bool) -> list[Any]:
    """All that the harness asks for a document; through a chat template, which is the model's own, its bare text."""
    if not chat:
        return [list(i.args) for i in instances]
    return [task.doc_to_text(instances[0].doc), *(list(i.args[1:]) for i in instances)]


def _shown(instances: list[Any]) -> str:
    """The answer; of a choice, every option with its log-likelihood."""
    if instances[0].request_type == "generate_until":
        return str(instances[0].resps[0])
    if instances[0].request_type == "loglikelihood_rolling":
        return f"{instances[0].resps[0]:.2f}"
    return "\n".join(f"{i.args[1].strip()}: {i.resps[0][0]:.2f}" for i in instances)


plugin: Eval = Harness()
