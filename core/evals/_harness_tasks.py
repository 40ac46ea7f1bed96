"""lm-evaluation-harness's tasks: finding them, their metrics as ratios of sums, and a document's values.

The harness aggregates values over a whole task. Where the aggregate is a mean, a ratio of sums or the exponential of
one, each document carries its own terms; F1 of a binary choice is a ratio of sums too. Anything else (BLEU,
Matthews correlation) is of the whole set only, so it becomes one last item without an interval.
"""

from __future__ import annotations

import logging
import math
import os
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import chdir
from functools import cache, lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from core import engine
from core.evals import _harness_local as local
from core.evals import _public_files as public
from core.types import Metric
from hardware.errors import ExplorerError

INSTALL = "Install it with `pip install -r requirements.txt`."
OFFLINE = ("HF_DATASETS_OFFLINE", "HF_EVALUATE_OFFLINE", "HF_HUB_OFFLINE")
BINARY = {"acc", "acc_norm", "acc_bytes", "acc_mutual_info", "exact_match"}  # 0 or 1 for every document
SEEDS = (0, 1234, 1234)  # of random, numpy and the few-shot sampler: the harness's own defaults
Terms = Callable[[Any], dict[str, float]]


def load(names: str, include_path: str, download: bool, num_fewshot: int | None, data: str = "") -> dict[str, Any]:
    """Task name -> the harness's task, with its data. names: separated by commas; a group brings its tasks.

    num_fewshot: instead of the tasks' own; one that says 0 keeps it, as in the harness. data: a folder with the files
    of the public benchmarks that are named. Loaded anew only when asked for something else or when a file changed.
    Raises ExplorerError without the harness, for an unknown or damaged task, and for data that are not here.
    """
    wanted, folder, files = asked(names, include_path, data)
    changed = max((_changed(path) for path in (folder, files) if path), default=0)
    return _load(wanted, folder, files, download, num_fewshot, changed)


def _changed(folder: Path) -> int:
    return max((file.stat().st_mtime_ns for file in folder.rglob("*") if file.is_file()), default=0)


def asked(names: str, include_path: str, data: str = "") -> tuple[tuple[str, ...], Path | None, Path | None]:
    """The tasks' names, the user's folder and that of the data; what can be known of their faults without reading."""
    wanted = tuple(name.strip() for name in names.split(",") if name.strip())
    if not wanted:
        raise ExplorerError("No task of lm-evaluation-harness is named.", "Set tasks, for example to arc_easy.")
    folder = Path(include_path).expanduser() if include_path else None
    if folder and not folder.is_dir():
        raise ExplorerError(f"There is no folder {include_path}.", "Set include_path to a folder with YAML tasks.")
    files = Path(data).expanduser().resolve() if data else None
    if files:
        if not files.is_dir():
            raise ExplorerError(f"There is no folder {data}.", "Set data to a folder with the benchmarks' files.")
        wanted = public.tasks(wanted)
        for name in wanted:
            public.check(name, files)
    if find_spec("lm_eval") is None:
        raise ExplorerError("lm-evaluation-harness is not installed.", INSTALL)
    return wanted, folder, files


@lru_cache(maxsize=1)
def _load(
    wanted: tuple[str, ...],
    folder: Path | None,
    files: Path | None,
    download: bool,
    num_fewshot: int | None,
    changed: int,
) -> dict[str, Any]:
    _go_online(download)
    random.seed(SEEDS[0])
    np.random.seed(SEEDS[1])  # some tasks shuffle their documents with the global generators
    found: dict[str, Any] = {}
    with chdir(folder or "."):  # data_files stand relative to the task
        if files:
            for name in wanted:
                found |= _loaded(name, download, lambda name: {name: local.task(name, files, num_fewshot)})
        else:
            manager = _manager(wanted, folder)
            for name in wanted:
                found |= _loaded(name, download, lambda name: manager.load([name])["tasks"])
    for task in found.values():
        task.set_config(key="num_fewshot", value=local.shots(task, num_fewshot))
    return found


def _manager(wanted: tuple[str, ...], folder: Path | None) -> Any:
    """The public tasks are 14 000 files to look through: once, and only where the user's folder lacks a task."""
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    from lm_eval.tasks import TaskManager

    known: set[str] = set()
    own = str(folder.resolve()) if folder else None
    if own:
        manager = TaskManager(include_path=own, include_defaults=False)
        known = set(manager.all_tasks)
        if set(wanted) <= known:
            return manager
    if unknown := [name for name in wanted if name not in known and name not in _all().all_tasks]:
        raise ExplorerError(
            f"lm-evaluation-harness has no task '{unknown[0]}'.",
            "`lm_eval ls tasks` lists its own; set include_path to a folder with yours.",
        )
    return TaskManager(include_path=own) if own else _all()


@cache
def _all() -> Any:
    from lm_eval.tasks import TaskManager

    return TaskManager()


def _loaded(name: str, download: bool, load: Callable[[str], dict[str, Any]]) -> dict[str, Any]:
    try:
        tasks = load(name)
    except ExplorerError:
        raise
    except Exception as error:  # tasks are code and data of many hands
        if _is_missing(error):
            raise ExplorerError(
                f"The data of the task '{name}' are not on this machine: {_cause(error)}.",
                "Check the task's data_files, or its name on the hub."
                if download
                else "Switch download on while there is a network, or give the data as a local task in include_path.",
            ) from error
        raise ExplorerError(
            f"The task '{name}' cannot be loaded: {_cause(error)}.", "Check its YAML file and its data."
        ) from error
    for task in tasks.values():
        if getattr(task, "UNSAFE_CODE", False) or getattr(task, "MULTIMODAL", False):
            raise ExplorerError(
                f"The task '{task.task_name}' runs code that the model wrote, or needs pictures or sound.",
                "Choose a task over text.",
            )
    return tasks


def _go_online(download: bool) -> None:
    """The libraries read these variables when they are imported, and keep what they read."""
    engine.show_besides()
    for variable in OFFLINE:
        os.environ[variable] = "0" if download else "1"
    import datasets
    import huggingface_hub

    datasets.disable_progress_bars()
    datasets.config.HF_HUB_OFFLINE = huggingface_hub.constants.HF_HUB_OFFLINE = not download


def _is_missing(error: BaseException | None) -> bool:
    """Whether it, or what it came from, says that a file or a server is out of reach."""
    while error is not None:
        if isinstance(error, OSError | ConnectionError) or "Offline" in type(error).__name__:
            return True
        error = error.__cause__ or error.__context__
    return False


def _cause(error: BaseException) -> str:
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return line.split(". ")[0].rstrip(".")[:300]


# ---------------------------------------------------------------- metrics


def metrics(tasks: Mapping[str, Any]) -> tuple[Metric, ...]:
    """What the tasks report, as `task/metric`, with the filter behind it where a task has several."""
    return tuple(_metric(task, name, filter_name) for task in tasks.values() for name, filter_name in _reported(task))


def _reported(task: Any) -> Iterator[tuple[str, str]]:
    for name in task.aggregation():
        yield from ((name, ensemble.name) for ensemble in task._filters)


def key(task: Any, metric: str, filter_name: str) -> str:
    several = len(task._filters) > 1
    return f"{task.task_name}/{metric}" + (f",{filter_name}" if several else "")


def _metric(task: Any, name: str, filter_name: str) -> Metric:
    value, aggregate = key(task, name, filter_name), _aggregate(task, name)
    weighted = aggregate in ("weighted_perplexity", "bits_per_byte", "f1")
    exponential = aggregate in ("perplexity", "weighted_perplexity")
    return Metric(
        name=value,
        label=f"{task.task_name}: {name}" + ("" if aggregate in TERMS else " (of the whole set)"),
        value=value,
        over=f"{value}/over" if weighted else None,
        kind="exp" if exponential else "rate" if name in BINARY and aggregate == "mean" else "mean",
        better="higher" if task.higher_is_better().get(name, True) else "lower",
    )


def _aggregate(task: Any, metric: str) -> str:
    """The harness's name of the function that makes a metric out of its values."""
    from lm_eval.api.registry import AGGREGATION_REGISTRY

    function = task.aggregation()[metric]
    return next((name for name, known in AGGREGATION_REGISTRY.items() if known is function), "")


def _weighted(value: Any) -> dict[str, float]:
    return {"": -value[0], "/over": value[1]}


def _f1(value: Any) -> dict[str, float]:
    """2 TP / (2 TP + FP + FN) over (gold, predicted), 1 being the positive class."""
    gold, predicted = value[0] == 1, value[1] == 1
    return {"": 2.0 * (gold and predicted), "/over": float(gold) + float(predicted)}


TERMS: dict[str, Terms] = {
    "mean": lambda value: {"": float(value)},
    "nanmean": lambda value: {"": float(value)},
    "perplexity": lambda value: {"": -float(value)},
    "weighted_perplexity": _weighted,
    "bits_per_byte": lambda value: {"": -value[0] / math.log(2), "/over": value[1]},
    "f1": _f1,
}


class Judge:
    """Collects a task's values, document by document."""

    def __init__(self, task: Any) -> None:
        self._task = task
        self._whole: dict[tuple[str, str], list[Any]] = {}

    def values(self, doc: Any, instances: list[Any]) -> dict[str, float]:
        """The terms of every metric for one document whose instances have their responses."""
        made: dict[str, float] = {}
        for ensemble in self._task._filters:
            ensemble.apply(instances)
            results = [instance.filtered_resps[ensemble.name] for instance in instances]
            for metric, value in self._task.process_results(doc, results).items():
                if metric not in self._task.aggregation():
                    continue
                name = key(self._task, metric, ensemble.name)
                if terms := TERMS.get(_aggregate(self._task, metric)):
                    made |= {name + suffix: float(term) for suffix, term in terms(value).items() if term == term}
                else:
                    self._whole.setdefault((metric, ensemble.name), []).append(value)
        return made

    def whole(self) -> dict[str, float]:
        """The metrics that only the whole task has."""
        aggregation = self._task.aggregation()
        found = {key(self._task, *pair): aggregation[pair[0]](values) for pair, values in self._whole.items()}
        return {name: float(value) for name, value in found.items() if math.isfinite(value)}
