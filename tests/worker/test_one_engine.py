"""No process of the product holds two native engines: by its source, and by what its processes import."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections import defaultdict
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import pytest

from core.models import catalogue
from core.runs.runner import Runner
from core.types import Derive, Evaluate, Generate, Item, Request
from hardware.detect import machine
from tests.support.tiny import hf_folder
from tests.worker.test_session_client import CONFIG

ROOT = Path(__file__).parents[2]
NAMES = [str(f.relative_to(ROOT)) for part in ("core", "hardware", "pages") for f in (ROOT / part).rglob("*.py")]
ENGINE_OF = {
    "torch": "pytorch",
    "transformers": "pytorch",
    "safetensors.torch": "pytorch",
    "onnxruntime": "onnxruntime",
    "llama_cpp": "llama_cpp",
}
# Where engines are loaded, the longest beginning counts. Of a room with an engine, the files of another one are
# programs: they run in processes of their own, and nothing imports them.
ROOMS = {
    "core/backends/pytorch/": "pytorch",
    "core/backends/onnxruntime/": "onnxruntime",
    "core/backends/llama_cpp/": "llama_cpp",
    "core/training/": "pytorch",
    "core/tokenizers/library.py": "pytorch",  # for PyTorch itself and for conversions
    "core/models/": "pytorch",
    "core/transforms/": "pytorch",
}
PROGRAMS = {
    "core/models/onnx_check.py": "onnxruntime",
    "core/transforms/_onnx_rewrite.py": "onnxruntime",
    "core/transforms/_llama_quantize.py": "llama_cpp",
    "hardware/measure_ceilings.py": "pytorch",
}


@cache
def imported(name: str) -> frozenset[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse((ROOT / name).read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return frozenset(found)


def engines(name: str) -> set[str]:
    found = {part for full in imported(name) for part in (full, full.split(".")[0], ".".join(full.split(".")[:2]))}
    return {ENGINE_OF[library] for library in found & ENGINE_OF.keys()}


def test_every_file_that_loads_an_engine_is_in_that_engines_room() -> None:
    for name in NAMES:
        room = next((e for start, e in ROOMS.items() if name.startswith(start)), None)
        allowed = PROGRAMS.get(name, room)
        assert engines(name) <= {allowed}, f"{name} loads {engines(name)}"
    assert {name: engines(name) for name in PROGRAMS} == {name: {e} for name, e in PROGRAMS.items()}


def test_programs_are_run_and_never_imported() -> None:
    programs = {name.removesuffix(".py").replace("/", ".") for name in PROGRAMS}
    for name in NAMES:
        found = programs & imported(name)
        assert not found, f"{name} imports {found}"


def test_a_backend_is_opened_where_its_engine_is_claimed_and_nowhere_else() -> None:
    opening = [name for name in NAMES if "backend.open(" in (ROOT / name).read_text()]
    assert opening == ["core/worker/sessions.py"]
    text = (ROOT / opening[0]).read_text()
    assert text.index("engine.claim(") < text.index("backend.open(")
    backends = {"core.backends.pytorch", "core.backends.onnxruntime", "core.backends.llama_cpp"}
    for name in NAMES:
        if not name.startswith("core/backends/"):
            assert not backends & imported(name), f"{name} goes around the plugins"


REFUSED = """
import sys
from core import engine
from hardware.errors import ExplorerError
from core.types import Request
from core.worker.sessions import Sessions
from tests.support.beside import Book

engine.claim("llama_cpp")
try:
    Sessions().open(Request(model=sys.argv[1], backend="pytorch"), Book())
except ExplorerError as error:
    print(error.message, error.hint, "torch" in sys.modules, sep="|")
"""


def test_a_process_of_llama_cpp_opens_nothing_in_pytorch(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    command = [sys.executable, "-c", REFUSED, str(tmp_path / "config.json")]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip().split("|")
    assert said[0].startswith("This process runs llama.cpp already") and said[1] and said[2] == "False"


# ---------------------------------------------------------------- what the processes import


WATCH = """
import os, sys

def watch(event, args):
    if event == "import" and args[0] in ("torch", "onnxruntime", "llama_cpp"):
        file = os.open(os.environ["ENGINES_SEEN"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(file, f"{os.getpid()} {args[0]}\\n".encode())
        os.close(file)

sys.addaudithook(watch)
"""


@pytest.fixture
def seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, new_workers: None) -> Path:
    """A file into which every Python process started from here writes the engines that it imports."""
    (tmp_path / "watch").mkdir()
    (tmp_path / "watch" / "sitecustomize.py").write_text(WATCH)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'watch'}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setenv("ENGINES_SEEN", str(tmp_path / "seen.txt"))
    return tmp_path / "seen.txt"


def processes(seen: Path) -> dict[str, set[str]]:
    found: dict[str, set[str]] = defaultdict(set)
    for line in seen.read_text().splitlines():
        pid, library = line.split()
        found[pid].add(library)
    return found


def test_the_watch_sees_two_in_one_process(seen: Path) -> None:
    code = "import onnxruntime, llama_cpp"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
    assert list(processes(seen).values()) == [{"onnxruntime", "llama_cpp"}]


@pytest.fixture
def texts(tmp_path: Path) -> str:
    file = tmp_path / "texts.jsonl"
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in ("The cat in the hat.", "Nothing: 3.14 é.")))
    return str(file)


TOGETHER = """
import json, sys
from core import plugins
from core.evals.divergence import Settings, plugin
from core.models import artifacts, catalogue, spec
from core.types import Request
from core.worker.subject import ModelUnderTest

def opened(name, model):
    backend = plugins.get("backend", name)
    fmt, path = artifacts.provide(catalogue.find(model), backend.formats, lambda *_, **__: None)
    read = spec.read(path, fmt)
    read = spec.retype(read, "fp32") if backend.dtypes else read
    return backend.open(path, read, Request(model=model, backend=name, threads=1), lambda *_, **__: None)

model, ours, theirs, text = sys.argv[1:]
subject = ModelUnderTest(opened(ours, model), opened(theirs, model), plugins.get("strategy", "autoregressive"), None)
items = plugin.measure(subject, Settings(text=text, context=32))
print(json.dumps([item.values for item in items]))
"""


def divergence(model: str, ours: str, theirs: str, text: str) -> Request:
    task = Evaluate(eval="divergence", settings={"reference_backend": theirs, "text": text, "context": 32})
    return Request(model=model, backend=ours, task=task, threads=1, profilers=(), warmup=0)


def values(run: Any) -> list[dict[str, float]]:
    assert run.status() == "done", run.failure()
    return [event.values for event in run.events() if isinstance(event, Item)]


def together(model: str, ours: str, theirs: str, text: str) -> list[dict[str, float]]:
    """The same with both engines in one process, as it was once done: right where there is no AMX."""
    command = [sys.executable, "-c", TOGETHER, model, ours, theirs, text]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found: list[dict[str, float]] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_runs_conversions_and_transforms_hold_one_engine_each(
    runner: Runner, seen: Path, tmp_path: Path, texts: str
) -> None:
    """One model through every engine, and warm workers between: each process has its own engine to the end."""
    folder = hf_folder(tmp_path)
    catalogue.add_folder(str(folder))
    model = catalogue.find(str(folder)).id
    plain = Request(model=model, backend="llama_cpp", task=Generate(prompt="The cat", max_new_tokens=3), threads=1)
    plain = msgspec.structs.replace(plain, profilers=(), warmup=0, retries=0)
    for backend in ("llama_cpp", "onnxruntime", "llama_cpp"):  # as GGUF and ONNX made from the folder
        run = runner.wait(runner.start(msgspec.structs.replace(plain, backend=backend), keep=3))
        assert run.status() == "done", run.failure()
    apart = {
        pair: values(runner.wait(runner.start(divergence(model, *pair, texts))))
        for pair in (("llama_cpp", "pytorch"), ("onnxruntime", "llama_cpp"))
    }
    for backend, transform in (("llama_cpp", "gguf_quantize"), ("onnxruntime", "onnx_quantize")):
        task = Derive(transform=transform, settings={"type": "Q8_0"} if backend == "llama_cpp" else {})
        run = runner.wait(runner.start(msgspec.structs.replace(plain, backend=backend, task=task)))
        assert run.status() == "done", run.failure()
    found = processes(seen)
    assert set().union(*found.values()) == {"torch", "onnxruntime", "llama_cpp"}
    assert not [libraries for libraries in found.values() if len(libraries) > 1]
    if "amx" in machine().isa:
        pytest.skip("with AMX two engines in one process are what must not be; tests/evals/test_amx.py compares")
    for pair, expected in apart.items():
        assert together(model, *pair, texts) == expected, "to the last bit"


TASK = """
task: ending
dataset_path: json
dataset_kwargs: {data_files: {train: docs.jsonl, test: docs.jsonl}}
test_split: test
output_type: loglikelihood
doc_to_text: "{{question}}"
doc_to_target: " {{reply}}"
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
"""


def test_the_harness_brings_no_engine_into_the_process_of_another(runner: Runner, seen: Path, tmp_path: Path) -> None:
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "ending.yaml").write_text(TASK)
    (tmp_path / "tasks" / "docs.jsonl").write_text('{"question": "Say: ant?", "reply": "ant"}\n' * 3)
    task = Evaluate(eval="harness", settings={"tasks": "ending", "include_path": str(tmp_path / "tasks")})
    run = runner.wait(runner.start(Request(model="smollm2-135m", backend="fake", task=task, threads=1, profilers=())))
    assert run.status() == "done", run.failure()
    assert not seen.exists(), processes(seen)
