"""lm-evaluation-harness's own tasks over the public benchmarks' files: its prompts and scoring, our reading."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from core.evals import _harness_squad as squad
from core.evals import _public_files as public

FOLDERS = ("glue", "super_glue", "race", "gsm8k")  # of the harness's tasks; to look through all of them takes long


def task(name: str, files: Path, num_fewshot: int | None) -> Any:
    """A task of core.evals._public_files over the files in a folder.

    The training set, which is large, is read only when solved examples are to be shown. Raises ExplorerError for a
    missing or damaged file, and whatever the harness raises.
    """
    made = _made(name, files, shown=False)
    if shots(made, num_fewshot) and not list(made.fewshot_docs() or ()):
        public.check(name, files, shown=True)
        made = _made(name, files, shown=True)
    return made


def shots(task: Any, num_fewshot: int | None) -> int:
    """How many solved examples are shown: as asked, else what the task says; one that says 0 keeps it."""
    own: int | None = task.get_config("num_fewshot")
    return own or 0 if num_fewshot is None or own == 0 else num_fewshot


def _made(name: str, files: Path, shown: bool) -> Any:
    from datasets import Dataset, DatasetDict

    read = {split: Dataset.from_list(rows) for split, rows in public.documents(name, files, shown).items()}
    documents = DatasetDict(read if shown else {**read, "train": next(iter(read.values())).select([])})
    if name in public.SQUAD:
        return squad.task(name, documents)
    from lm_eval.api.task import ConfigurableTask

    return ConfigurableTask(config={**config(name), "custom_dataset": lambda **_: documents})


def config(name: str) -> dict[str, Any]:
    """What the harness's own YAML file says of a task."""
    from lm_eval.tasks._yaml_loader import load_yaml

    said: dict[str, Any] = dict(load_yaml(_files()[name].yaml_path, resolve_func=True))
    return {key: value for key, value in said.items() if key not in ("tag", "group")}


@cache
def _files() -> Any:
    import lm_eval.tasks

    root = Path(lm_eval.tasks.__file__).parent
    folders = [str(root / name) for name in FOLDERS]
    return lm_eval.tasks.TaskManager(include_path=folders, include_defaults=False).task_index
