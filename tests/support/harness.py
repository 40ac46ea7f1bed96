"""lm-evaluation-harness itself, with its own Hugging Face model: what our eval is compared with. Needs PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from core.evals import _harness_local as local
from core.evals import _harness_tasks as harness_tasks

# Where the harness finds the public files by itself, without our reading: task -> its configuration.
PUBLIC: dict[str, dict[str, Any]] = {
    "sst2": {
        "dataset_path": "csv",
        "dataset_name": None,
        "dataset_kwargs": {
            "data_files": {"train": "sst2_dev.tsv", "validation": "sst2_dev.tsv"},
            "delimiter": "\t",
            "column_names": ["sentence", "label"],
            "quoting": 3,
        },
    },
    "gsm8k_cot": {
        "dataset_path": "json",
        "dataset_name": None,
        "dataset_kwargs": {"data_files": {"test": "gsm8k_test.jsonl"}},
    },
}


def public_task(name: str, data: str) -> Any:
    """The harness's public task, told where the files are."""
    from lm_eval.api.task import ConfigurableTask

    told = PUBLIC[name]
    kwargs = dict(told["dataset_kwargs"])
    kwargs["data_files"] = {split: str(Path(data) / file) for split, file in kwargs["data_files"].items()}
    return ConfigurableTask(config={**local.config(name), **told, "dataset_kwargs": kwargs})


def evaluated(model: str, tasks: list[Any], manager: Any = None, **given: Any) -> dict[str, Any]:
    """Results and samples of the harness's evaluator; given: its settings, and max_length of the model."""
    harness_tasks._go_online(False)
    from lm_eval import evaluator
    from lm_eval.models.huggingface import HFLM

    evaluator.add_env_info = lambda results: None  # looks for drivers and compilers
    ours = HFLM(pretrained=model, device="cpu", dtype="float32", batch_size=1, max_length=given.pop("max_length", None))
    found: dict[str, Any] = evaluator.simple_evaluate(
        model=ours, tasks=tasks, task_manager=manager, bootstrap_iters=0, **given
    )
    return found


def judged(model: str, task: str, data: str, limit: int = 0, max_length: int | None = None) -> dict[str, Any]:
    """id -> values, answer and log-likelihoods of a public task's documents, as the harness has them."""
    from lm_eval.tasks import TaskManager

    harness_tasks._go_online(False)
    none = TaskManager(include_defaults=False)
    made = evaluated(model, [public_task(task, data)], none, limit=limit or None, max_length=max_length)
    samples = made["samples"][task]
    several = len({sample["filter"] for sample in samples}) > 1
    found: dict[str, Any] = {}
    for sample in samples:
        one = found.setdefault(f"{task}/{sample['doc_id']}", {"values": {}})
        one["answer"], one["likelihoods"] = _answer(sample)
        for metric in sample["metrics"]:
            one["values"][f"{task}/{metric}" + (f",{sample['filter']}" if several else "")] = float(sample[metric])
    return found


def _answer(sample: dict[str, Any]) -> tuple[str, list[float]]:
    """As our items show it: the text, or every choice with its log-likelihood."""
    first = sample["resps"][0][0]
    if isinstance(first, str):
        return first, []
    options = [list(asked.values() if isinstance(asked, dict) else asked)[1].strip() for asked in _asked(sample)]
    values = [float(answered[0][0]) for answered in sample["resps"]]
    return "\n".join(f"{option}: {value:.2f}" for option, value in zip(options, values, strict=True)), values


def _asked(sample: dict[str, Any]) -> list[Any]:
    asked = sample["arguments"]
    return list(asked.values()) if isinstance(asked, dict) else list(asked)
