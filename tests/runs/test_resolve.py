"""What a request's names stand for: one answer for the page, the check and the worker, and it follows the files."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import msgspec
import pytest

from core import plugins
from core.models import catalogue, derived
from core.models.identity import content, stamp
from core.runs.check import check_text
from core.runs.lineage import is_of, job_key
from core.runs.resolve import loaded_dtype, resolve, supposed_dtype
from core.runs.runner import Runner
from core.types import Derive, Generate, Loaded, Request
from hardware.errors import ExplorerError
from tests.support.tiny import hf_folder, llama_cpp


def replaced(request: Request, **changes: Any) -> Request:
    return msgspec.structs.replace(request, **changes)


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    folder = hf_folder(tmp_path)
    catalogue.add_folder(str(folder))
    return folder


def test_a_model_that_must_be_converted_has_the_dtype_it_will_run_in(fake_request: Request) -> None:
    own = resolve(replaced(fake_request, backend="llama_cpp"))
    assert own.format == "gguf" and own.path and own.dtype is None and own.spec.dtype == "q4_1"
    found = resolve(replaced(fake_request, backend="pytorch", dtype="bf16"))
    assert (found.format, found.path, found.dtype, found.spec.dtype) == ("hf", None, "bf16", "bf16")
    assert found.spec.weight_bytes == 2 * found.spec.n_params and found.spec.name == "smollm2-135m"
    onnx = resolve(replaced(fake_request, backend="onnxruntime"))
    assert (onnx.format, onnx.path, onnx.dtype, onnx.spec.dtype) == ("onnx", None, None, "fp32")


def test_what_opening_makes_of_it_is_what_was_resolved(runner: Runner, tiny: Path) -> None:
    task = Generate(prompt="the", max_new_tokens=2, chat=False)
    request = Request(model=str(tiny), backend="pytorch", dtype="bf16", profilers=(), threads=1, warmup=0, task=task)
    run = runner.wait(runner.start(request))
    loaded = next(e for e in run.events() if isinstance(e, Loaded))
    assert loaded.spec == resolve(request).spec and loaded.spec.dtype == "bf16"


def test_one_rule_for_the_number_format() -> None:
    pytorch, llama, onnx = (plugins.get("backend", name) for name in ("pytorch", "llama_cpp", "onnxruntime"))
    assert loaded_dtype(pytorch, "hf", "bf16", None) == "fp32", "a file of others runs in the backend's first one"
    assert loaded_dtype(pytorch, "hf", "bf16", None, trained=True) == "bf16"
    assert loaded_dtype(pytorch, "hf", "bf16", "fp16", trained=True) == "fp16"
    assert (
        loaded_dtype(pytorch, "torch-int", "int8", None) is None and loaded_dtype(llama, "gguf", "q4_1", None) is None
    )
    assert supposed_dtype(pytorch, "q4_1", "q4_0") == "fp32" and supposed_dtype(pytorch, "fp32", "bf16") == "bf16"
    assert supposed_dtype(llama, "q4_1", None) == "q4_1" and supposed_dtype(llama, "q4_1", "q8_0") == "q8_0"
    assert supposed_dtype(onnx, "bf16", None) == "fp32" and supposed_dtype(pytorch, "fp32", "F16") == "fp16"


def test_no_way_to_a_format_is_said_before_anything_is_loaded(fake_request: Request, tiny: Path) -> None:
    shutil.copytree(tiny, tiny.parent / "onnx-only")
    folder = tiny.parent / "onnx-only"
    for weights in folder.glob("*.safetensors"):
        weights.unlink()
    (folder / "model.onnx").write_bytes(b"")
    with pytest.raises(ExplorerError, match="cannot be made"):
        resolve(replaced(fake_request, model=str(folder), backend="llama_cpp"))


def test_the_session_key_follows_the_files(fake_request: Request, tiny: Path) -> None:
    request = replaced(fake_request, model=str(tiny), backend="pytorch")
    before = resolve(request).session_key
    assert resolve(replaced(request, dtype="fp32")).session_key == before, "its default, asked for"
    assert resolve(replaced(request, dtype="bf16")).session_key != before
    weights = tiny / "model.safetensors"
    copy = tiny / "copy"
    shutil.copy2(weights, copy)
    os.replace(copy, weights)  # same size, same date: another file
    after = resolve(request).session_key
    assert after != before
    os.utime(tiny / "config.json", ns=(1, 1))
    assert resolve(request).session_key != after


def test_a_file_replaced_in_place_is_loaded_anew(runner: Runner, fake_request: Request, tiny: Path) -> None:
    def loaded() -> Loaded:
        run = runner.wait(runner.start(replaced(fake_request, model=str(tiny), profilers=())))
        return next(e for e in run.events() if isinstance(e, Loaded))

    assert (loaded().warm, loaded().warm) == (False, True)
    text = (tiny / "config.json").read_text()
    (tiny / "config.json").write_text(text.replace('"max_position_embeddings": 96', '"max_position_embeddings": 64'))
    changed = loaded()
    assert not changed.warm and changed.spec.max_context == 64


def test_a_model_forgotten_and_made_again_under_its_name_is_another(fake_request: Request, tiny: Path) -> None:
    def made(source: Path) -> None:
        shutil.copytree(source, derived.folder() / "mine")
        derived.write_about(derived.folder() / "mine", {"label": "Mine", "parent": "x"})

    made(tiny)
    catalogue.entries(refresh=True)
    request = replaced(fake_request, model="mine")
    before = resolve(request)
    shutil.rmtree(derived.folder() / "mine")  # another process does it: the list here is half a minute old
    (derived.folder() / "mine").mkdir()
    shutil.copy(llama_cpp.make(tiny.parent)[0], derived.folder() / "mine" / "model.gguf")
    derived.write_about(derived.folder() / "mine", {"label": "Mine", "parent": "x"})
    after = resolve(request)
    assert (before.format, after.format) == ("hf", "gguf") and before.session_key != after.session_key
    shutil.rmtree(derived.folder() / "mine")
    with pytest.raises(ExplorerError, match="no model called 'mine'"):
        resolve(request)


def test_what_a_model_is_named_by_follows_its_parents_content(tiny: Path) -> None:
    wanted = Request(model=str(tiny), backend="pytorch", task=Derive(transform="drop_layers", settings={"n": 1}))
    before = job_key(resolve(wanted))
    files = {"hf": str(tiny)}
    stamped, said = stamp(files), content(files)
    os.utime(tiny / "model.safetensors", ns=(5, 5))
    assert stamp(files) != stamped and content(files) == said, "the same content with another date"
    assert job_key(resolve(wanted)) == before
    (tiny / "config.json").write_text((tiny / "config.json").read_text() + " ")
    assert job_key(resolve(wanted)) != before


def test_what_a_model_is_named_by_follows_the_questions_that_it_learns_from(tiny: Path, tmp_path: Path) -> None:
    """A stopped training went on with the edited file, its texts written for the old prompts."""
    questions = tmp_path / "mine.jsonl"
    task = Derive(transform="finetune", settings={"domain": str(questions)})
    wanted = Request(model=str(tiny), backend="pytorch", task=task)
    found = []
    for text in ('{"prompt": "a", "answer": "b"}', '{"prompt": "c", "answer": "d"}'):
        questions.write_text(text)
        found.append(job_key(resolve(wanted)))
    questions.unlink()
    assert len({*found, job_key(resolve(wanted))}) == 3


def test_a_model_made_before_keys_held_content_counts_while_its_parent_is_older(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = resolve(Request(model=str(tiny), backend="pytorch", task=Derive(transform="drop_layers")))
    import core.runs.lineage as lineage

    old_key = lineage._hash(wanted, None)
    (derived.folder() / "old").mkdir(parents=True)
    derived.write_about(derived.folder() / "old", {"key": old_key})
    assert is_of("old", wanted) and not is_of("nothing", wanted)
    about = derived.folder() / "old" / derived.ABOUT
    os.utime(about, ns=(1, 1))  # made before the parent was written
    assert not is_of("old", wanted)


def test_a_tokenizer_that_is_not_read_is_said_before_anything_is_loaded(fake_request: Request, tiny: Path) -> None:
    folder = tiny.parent / "tekken-only"
    shutil.copytree(tiny, folder, ignore=shutil.ignore_patterns("tokenizer*"))
    (folder / "tekken.json").write_text("{}")
    for backend in ("llama_cpp", "onnxruntime", "pytorch"):
        wanted = resolve(replaced(fake_request, model=str(folder), backend=backend))
        with pytest.raises(ExplorerError, match=r"tekken\.json"):
            check_text(wanted)
    check_text(resolve(replaced(wanted.request, task=Generate(prompt_tokens=4))))
