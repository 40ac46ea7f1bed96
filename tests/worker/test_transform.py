"""Models made by whole runs: what lands in the catalogue, what is refused, and what a stop or a kill leaves behind."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

from core.models import catalogue, derived
from core.paths import data_dir
from core.runs.lineage import job_key
from core.runs.resolve import resolve
from core.runs.runner import Runner
from core.transforms import drop_layers
from core.types import Derive, Evaluate, Generate, Request, Result
from hardware.errors import ExplorerError
from tests.support.tiny import hf_folder


@pytest.fixture
def tiny(tmp_path: Path) -> str:
    """A tiny Llama in the catalogue; its id."""
    folder = hf_folder(tmp_path)
    catalogue.add_folder(str(folder))
    return catalogue.find(str(folder)).id


def drop(model: str, n: int = 1, name: str | None = None, **more: Any) -> Request:
    task = Derive(transform="drop_layers", settings={"n": n}, name=name)
    return Request(model=model, backend="pytorch", task=task, threads=1, profilers=(), **more)


def hidden() -> list[Path]:
    return list(derived.folder().glob(".*")) if derived.folder().exists() else []


def done(runner: Runner, request: Request) -> Result:
    """The result of a whole run, which has worked. A worker stays warm for the next run of the same model."""
    run = runner.wait(runner.start(request))
    result = run.result()
    assert result.status == "done", (result.error, (run.path / "log.txt").read_text()[-2000:])
    return result


def test_the_model_is_in_the_catalogue_with_its_lineage_and_runs(runner: Runner, tiny: str, tmp_path: Path) -> None:
    result = done(runner, drop(tiny))
    made = result.made
    assert made is not None and result.task == "derive"
    entry = catalogue.find(made.model)
    assert entry.family == "derived" and entry.lineage["parent"] == tiny
    assert entry.lineage["transform"] == "drop_layers" and entry.lineage["settings"]["n"] == 1
    files = Path(entry.files["hf"])
    assert made.size_bytes == pytest.approx(sum(f.stat().st_size for f in files.glob("*.safetensors")), rel=0.05)
    assert made.bits_per_weight == pytest.approx(8 * made.size_bytes / made.n_params)
    assert not hidden() and not list((data_dir() / "work").glob("*"))

    text = tmp_path / "text.txt"
    text.write_text("The sea is wide and the boats are small.\n\n" * 4)
    said = Generate(prompt="Hi", max_new_tokens=2, ignore_eos=True)
    parent = done(runner, with_task(tiny, said))
    evaluated_by_a_whole_run(runner, tiny, text)
    to_itself = divergence(runner, tiny, text)
    child = done(runner, with_task(made.model, said))
    assert parent.n_new_tokens == child.n_new_tokens == 2
    assert to_itself == pytest.approx(0, abs=1e-6)
    assert divergence(runner, made.model, text) > 1e-4, "its reference is the model that it came from"
    made_again_it_takes_its_own_place_and_no_others(runner, tiny, made.model)


def with_task(model: str, task: Generate | Evaluate) -> Request:
    return Request(model=model, backend="pytorch", task=task, threads=1, profilers=())


def evaluated_by_a_whole_run(runner: Runner, model: str, text: Path) -> None:
    settings: dict[str, Any] = {"text": str(text), "context": 32}
    result = done(runner, with_task(model, Evaluate(eval="perplexity", settings=settings)))
    assert result.task == "evaluate" and result.asked is not None and result.items
    score = next(s for s in result.scores if s.name == "perplexity")
    assert score.value > 1 and score.n == len(result.items)
    row = next(r for r in runner.store.history() if r["run_id"] == result.run_id)
    assert row["task"] == "evaluate" and "Perplexity" in row["text"]


def divergence(runner: Runner, model: str, text: Path) -> float:
    """From the reference that is taken where none is named."""
    settings: dict[str, Any] = {"text": str(text), "context": 32, "reference_backend": "pytorch"}
    result = done(runner, with_task(model, Evaluate(eval="divergence", settings=settings)))
    return next(s.value for s in result.scores if s.name == "kl")


def made_again_it_takes_its_own_place_and_no_others(runner: Runner, tiny: str, first: str) -> None:
    again, other = (done(runner, request).made for request in (drop(tiny), drop(tiny, seed=1)))
    assert again is not None and other is not None
    assert again.model == first != other.model
    with pytest.raises(ExplorerError, match="already"):
        runner.start(drop(tiny, name=first, seed=2))
    derived.remove(first)
    assert first not in {e.id for e in catalogue.entries()} and other.model in {e.id for e in catalogue.entries()}
    with pytest.raises(ExplorerError, match="not a model made here"):
        derived.remove("smollm2-135m")


@pytest.mark.parametrize("name", ["../up", ".hidden", "a/b", "", "x" * 200])
def test_a_name_that_is_no_folder_is_refused(name: str, runner: Runner, tiny: str) -> None:
    with pytest.raises(ExplorerError, match="cannot be the name"):
        runner.start(drop(tiny, name=name))


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"n": 99}, "block"), ({"sparsity": 1.5}, "no setting"), ({"n": "many"}, "wrong")],
)
def test_settings_are_refused_before_anything_is_loaded(
    runner: Runner, tiny: str, settings: dict[str, Any], message: str
) -> None:
    request = drop(tiny)
    task = msgspec.structs.replace(request.task, settings=settings)
    with pytest.raises(ExplorerError, match=message):
        runner.start(msgspec.structs.replace(request, task=task))
    assert not runner.store.ids()


def test_another_backend_is_refused(runner: Runner, tiny: str) -> None:
    with pytest.raises(ExplorerError, match="is done by PyTorch"):
        runner.start(msgspec.structs.replace(drop(tiny), backend="llama_cpp"))


def test_a_sparsity_of_one_and_a_half_is_one_sentence(runner: Runner, tiny: str) -> None:
    request = drop(tiny)
    task = Derive(transform="prune", settings={"sparsity": 1.5})
    with pytest.raises(ExplorerError, match="sparsity"):
        runner.start(msgspec.structs.replace(request, task=task))


def training(model: str, home: Path) -> Request:
    """Thousands of steps on short questions of one's own."""
    domain = home / "own.jsonl"
    domain.write_text("".join(f'{{"prompt": "{c}{d}", "answer": "{d}{c}"}}\n' for c in "abcdefgh" for d in "abcdefgh"))
    settings = {"domain": str(domain), "steps": 5000, "minutes": None, "batch": 2, "probe_questions": 2}
    task = Derive(transform="finetune", settings=settings)
    return Request(model=model, backend="pytorch", task=task, threads=1, profilers=())


def wait_for_curve(runner: Runner, run_id: str, n: int, timeout_s: float = 120) -> None:
    run = runner.store.open(run_id)
    end = time.monotonic() + timeout_s
    while len(run.result().curves) < n:
        failed = run.failure()
        assert time.monotonic() < end and failed is None, failed or run.events()[-3:]
        time.sleep(0.05)


def test_a_training_that_is_stopped_goes_on_and_leaves_no_half_model_and_no_process(
    runner: Runner, tiny: str, home: Path
) -> None:
    run_id = runner.start(training(tiny, home))
    wait_for_curve(runner, run_id, 3)
    runner.cancel(run_id)
    stopped = runner.wait(run_id).result()
    assert stopped.status == "cancelled" and stopped.made is None
    assert not hidden() and not [e for e in catalogue.entries(refresh=True) if e.family == "derived"]
    (kept,) = (data_dir() / "work").iterdir()
    assert list(kept.iterdir()), "a checkpoint"
    again = runner.start(training(tiny, home))
    wait_for_curve(runner, again, len(stopped.curves) + 1)
    assert runner._owner is not None
    pid = runner._owner.pid
    runner.close()  # as when the app ends
    assert not psutil.pid_exists(pid)
    resumed = runner.wait(again).result()
    assert resumed.status == "cancelled"
    before = [(c.step, c.values.get("loss")) for c in stopped.curves if "loss" in c.values]
    after = [(c.step, c.values.get("loss")) for c in resumed.curves if "loss" in c.values]
    assert after[: len(before)] == before and len(after) > len(before)


def test_a_training_that_is_killed_leaves_the_app_alive_and_no_model(runner: Runner, tiny: str, home: Path) -> None:
    run_id = runner.start(training(tiny, home))
    wait_for_curve(runner, run_id, 2)
    assert runner._owner is not None
    os.killpg(runner._owner.pid, signal.SIGKILL)
    run = runner.wait(run_id)
    assert run.result().status == "failed" and "killed" in (run.result().error or "")
    assert not [e for e in catalogue.entries(refresh=True) if e.family == "derived"]
    made = runner.wait(runner.start(drop(tiny))).result().made
    assert made is not None  # and what was left over is no obstacle


def test_what_a_model_was_trained_to_guess_is_known_of_its_children_too(home: Path) -> None:
    cllm = {"transform": "consistency", "parent": "teacher", "facts": {"window": 8, "fill": "end", "steps": 5}}
    for name, facts in {
        "teacher": {"transform": "finetune", "parent": "base", "facts": {"domain": "sql"}},
        "cllm": cllm,
        "cllm-q4": {"transform": "gguf_quantize", "parent": "cllm", "facts": {}},
        "circle": {"transform": "prune", "parent": "circle"},
    }.items():
        (derived.folder() / name).mkdir(parents=True)
        derived.write_about(derived.folder() / name, facts)
    for name in ("cllm-q4", "cllm"):
        assert derived.inherited(name, "window", "fill") == {"window": 8, "fill": "end"}
        assert derived.inherited(name, "domain") == {"domain": "sql"}
    for other in ("teacher", "base", "circle", ""):
        assert derived.inherited(other, "window", "fill") == {}


def test_a_default_is_part_of_what_determines_a_model(tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A default that changes with the next version must not pass the old model off as the new one, nor the reverse."""

    def key(**given: Any) -> str:
        task = Derive(transform="drop_layers", settings=given)
        return job_key(resolve(Request(model=tiny, backend="pytorch", task=task)))

    assert key() == key(n=4) != key(n=5)
    before = key()

    class Other(drop_layers.Dropping):
        n: int = 5

    monkeypatch.setattr(drop_layers.DropLayers, "Params", Other)
    assert key() != before and key(n=4) == before
