"""The documents are tested: their commands run, their tables match the plugins, their files and folders exist."""

from __future__ import annotations

import importlib.util
import itertools
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import numpy as np
import pytest
from click.testing import CliRunner

from app import MENU
from core import plugins
from core.backends.fake import FakeSession
from core.cli import cli
from core.models import spec as specs
from core.plugins import settings
from core.types import (
    Backend,
    Counts,
    Eval,
    Generation,
    GenerationConfig,
    Memory,
    Profiler,
    Request,
    Session,
    Strategy,
    Transform,
)
from core.worker.subject import ModelUnderTest
from hardware import ceilings
from hardware.errors import ExplorerError
from tests.support import elsewhere, preloaded
from tests.support.progress import silent
from tests.support.protocols import faults
from tests.support.steps import Taken, as_step, taken
from tests.support.tiny import hf_folder
from tests.support.workshop import Job, source_of

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
MANUAL = (ROOT / "docs" / "README.md").read_text()
ARCHITECTURE = (ROOT / "core" / "README.md").read_text()
DOCUMENTS = [
    ROOT / "README.md",
    *sorted(ROOT.glob("docs/*.md")),
    *sorted(ROOT.glob("core/**/*.md")),
    *(ROOT / room / "README.md" for room in ("hardware", "pages")),
    *sorted(ROOT.glob("tests/**/*.md")),
]


def blocks() -> list[str]:
    """Lines of the fenced blocks that hold commands, of the README and the manual."""
    fenced = re.findall(r"^```\n(.*?)^```", README + MANUAL, re.S | re.M)
    return [line.strip() for block in fenced for line in block.splitlines() if line.strip()]


def table(text: str) -> list[list[str]]:
    """Rows of the first table of a text, without its head."""
    rows = list(itertools.takewhile(lambda x: x.startswith("|"), text[text.index("\n|") + 1 :].splitlines()))
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows[2:]]


@pytest.mark.parametrize("kind", plugins.KINDS)
def test_tables_match_the_plugins(kind: plugins.Kind) -> None:
    rows = table((ROOT / "core" / plugins.KINDS[kind] / "README.md").read_text())
    assert sorted(row[0].strip("`") for row in rows) == sorted(plugins.names(kind))


def test_dtypes_in_the_backend_table_are_the_plugins() -> None:
    for name, _, weights in table((ROOT / "core" / "backends" / "README.md").read_text()):
        for dtype in plugins.get("backend", name.strip("`")).dtypes:
            assert dtype in weights


def test_every_page_of_the_menu_is_described() -> None:
    described = {row[0] for row in table(README.split("\n## Pages\n", 1)[1])}
    menu = {entry[1] for entries in MENU.values() for entry in entries if (ROOT / "pages" / entry[0]).is_file()}
    assert menu == described


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) <= 115


def test_every_requirement_is_explained() -> None:
    named = set(re.findall(r"^([A-Za-z0-9_-]+)==", (ROOT / "requirements.txt").read_text(), re.M))
    rows = table(MANUAL.split("\n## Dependencies\n", 1)[1])
    explained = {name.split(" ")[0] for row in rows for name in row[0].replace("`", "").split(", ")}
    assert not named - explained, "not in docs/README.md's table of dependencies"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", document.read_text()):
        assert target.startswith("http") or (document.parent / target).exists(), f"{document} links {target}"


def test_one_word_per_concept() -> None:
    """Benchmark, configuration, evaluation, reference roofline: their older names are gone from code and documents.

    The reader of earlier forms knows them, and a calibration text speaks of a pupil's exams.
    """
    old = re.compile(r"\b(contests?|contend\w+|contestants?|champions?|examinees?|exams?|held against)\b", re.I)
    files = [f for room in ("core", "hardware", "pages") for f in sorted((ROOT / room).rglob("*.py"))]
    found = {str(f.relative_to(ROOT)) for f in (*files, *DOCUMENTS) if old.search(f.read_text())}
    assert found == {"core/studies/old_form.py", "core/transforms/_calibration.py"}


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    named = {line.split()[1] for line in blocks() if line.startswith("make ")}
    assert {"run", "test"} <= named <= targets


def test_every_core_command_is_shown() -> None:
    shown = {line.split()[3] for line in blocks() if line.startswith(".venv/bin/python -m core ")}
    assert shown == set(cli.list_commands(click.Context(cli)))


def test_the_tree_names_what_exists() -> None:
    tree = ARCHITECTURE.split("```")[1]
    for line in tree.splitlines():
        for name in re.findall(r"^\s*([a-z_]+(?:/|\.py))", line):
            places = [ROOT / name, ROOT / "core" / name]
            assert any(p.exists() for p in places), f"{name} is in the tree of core/README.md and not in the project"
    rooms = {f"{p.parent.name}/" for p in (ROOT / "core").glob("*/__init__.py")}
    rooms |= {p.name for p in (ROOT / "core").glob("*.py") if not p.name.startswith("__")}
    assert {name for name in rooms if f"\n  {name} " not in tree} == set(), "what of core the tree does not name"


@pytest.mark.parametrize(
    "room", [*(f"core/{r}" for r in ("analysis", "models", "report", "runs", "studies")), "hardware"]
)
def test_a_rooms_readme_names_every_module(room: str) -> None:
    named = set(re.findall(r"`([a-z_]+\.py)`", (ROOT / room / "README.md").read_text()))
    assert named == {p.name for p in (ROOT / room).glob("*.py")} - {"__init__.py"}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_that_are_named_exist(document: Path) -> None:
    """Python files, and whatever else lies in a folder of ours; "<name>" stands for any."""
    text = re.sub(r"^```.*?^```", "", document.read_text(), flags=re.S | re.M)
    for path in re.findall(r"`([\w./]+\.py)`", text) + re.findall(r"`((?:core|hardware|pages|tests)/[\w./]+)`", text):
        places = (ROOT / path, document.parent / path, ROOT / "core" / path)
        assert any(p.exists() for p in places), f"{document} names {path}"


# Minutes of training and what needs it; what runs every backend, or without end, has a test of its own in tests/cli.
SERVED = (
    " endpoints add",
    " endpoints forget",
    " endpoints vertex",
    " endpoints platform",
    " --backend endpoint",
)  # need a server: tests/runs/test_endpoint_runs.py, tests/endpoints/test_vertex.py
LONG = (
    "transform finetune",
    "transform consistency",
    "study ",
    " architectures cut",
    " cllm",
    " core check",
    " core serve",
    " core app",
    " core load ",
)
LONG += SERVED


def test_the_long_commands_name_what_exists() -> None:
    long = [shlex.split(line) for line in blocks() if any(words in line for words in LONG) and " transform " in line]
    assert long
    for words in long:
        plugin = plugins.get("transform", words[words.index("transform") + 1])
        given = dict(words[i + 1].split("=") for i, word in enumerate(words) if word == "--param")
        settings(plugin.Params, given, plugin.label)


# Other tests run beside these: one thread is quicker than two, what is disturbed is not repeated, few tokens and
# questions do.
BUSY = {
    "run": ["--threads", "1", "--retries", "0", "--max-new-tokens", "12"],
    "eval": ["--threads", "1", "--param", "n=3"],
    "transform": ["--threads", "1"],
}


@pytest.mark.model
@pytest.mark.usefixtures("unrepeated")
def test_the_core_commands_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process: many are over in less time than what they import takes. tests/cli start `python -m core`.

    Ceilings are those of the short probe; tests/hardware/test_ceilings.py measures all of them.
    """
    measure = ceilings.measure
    monkeypatch.setattr(ceilings, "measure", lambda *args, **given: measure(*args, **given | {"probe": True}))
    preloaded.workers(monkeypatch, "fake", "pytorch")
    run_id = ""
    for line in blocks():
        if not line.startswith(".venv/bin/python -m core ") or any(words in line for words in LONG):
            continue
        words = shlex.split(line.replace("RUN_ID", run_id).replace("run.zip", str(tmp_path / "run.zip")))[3:]
        done = CliRunner().invoke(cli, [*words, *BUSY.get(words[0], ())], prog_name="python -m core")
        assert done.exit_code == 0, f"{line}\n{done.stderr[-2000:]}\n{done.exception!r}"
        if " run " in line:
            result = json.loads(done.stdout)
            run_id = result["run_id"]
            assert "Paris" in result["text"]
    assert (tmp_path / "run.zip").stat().st_size > 1000


# ---------------------------------------------------------------- the examples of plugins


EXAMPLES = dict(re.findall(r"^```python\n# (core/\S+\.py)\n(.*?)^```", ARCHITECTURE, re.S | re.M))
PROTOCOLS = {"backend": Backend, "strategy": Strategy, "profiler": Profiler, "transform": Transform, "eval": Eval}
ABC = np.array([list(b"abc")])
GPT2 = specs.read(str(ROOT / "core" / "models" / "presets" / "gpt2.json"), "config")


def example(kind: plugins.Kind, file: Path) -> Any:
    """The plugin of that kind in core/README.md, loaded from `file` under the name that its first line gives it."""
    (path,) = (path for path in EXAMPLES if path.startswith(f"core/{plugins.KINDS[kind]}/"))
    file.write_text(EXAMPLES[path])
    name = path.removesuffix(".py").replace("/", ".")
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where msgspec looks for the types of its fields
    spec.loader.exec_module(module)
    assert module.plugin.name == Path(path).stem
    assert (module.__doc__ or "").endswith("."), "pages show it"
    return module.plugin


def fake_session() -> Any:
    return FakeSession(GPT2, Request(model="gpt2", backend="fake"))


def decoded(strategy: Any, session: Any, prompt: Any = ABC, limit: int = 12, **params: Any) -> list[Taken]:
    made = settings(strategy.Params, params, strategy.label)
    return taken(strategy.decode(session, prompt, GenerationConfig(limit=limit), made), session)


def tokens_of(steps: list[Taken]) -> list[int]:
    return [token for step in steps for row in step.tokens for token in row]


@pytest.mark.parametrize("kind", plugins.KINDS)
def test_an_example_of_each_kind_keeps_the_protocol(kind: plugins.Kind, tmp_path: Path) -> None:
    assert len(EXAMPLES) == len(plugins.KINDS)
    plugin = example(kind, tmp_path / "example.py")
    assert not faults(plugin, PROTOCOLS[kind])
    assert plugin.name not in plugins.names(kind), "a reader's first plugin must not have a name that is taken"


def test_the_examples_are_formatted(tmp_path: Path) -> None:
    for path, code in EXAMPLES.items():
        (tmp_path / Path(path).name).write_text(code)
    for command in ("check", "format --check"):
        words = [sys.executable, "-m", "ruff", *command.split(), "--config", str(ROOT / "pyproject.toml")]
        done = subprocess.run([*words, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_backend_opens_and_answers(tmp_path: Path) -> None:
    backend = example("backend", tmp_path / "example.py")
    session = backend.open("", GPT2, Request(model="any", backend=backend.name, threads=1), silent)
    assert not faults(session, Session) and session.capabilities == backend.capabilities
    steps = decoded(plugins.get("strategy", "autoregressive"), session, np.array([session.encode("abc")]))
    assert session.decode(tokens_of(steps)) == "defghijklmno"
    assert [step.counts.inputs for step in steps if step.phase == "decode"] == [1] * 11
    window = decoded(plugins.get("strategy", "jacobi"), session, limit=8)
    assert session.decode(tokens_of(window)) == "defghijk", "it takes guesses back"
    assert (session.forward(ABC).numpy().argmax(-1) == session.forward(ABC).argmax()).all()
    with pytest.raises(ExplorerError, match="context"):
        session.forward(np.zeros((1, session.max_context + 1), dtype=np.int64))


@pytest.mark.parametrize("draft_length", [1, 4])
def test_the_strategy_gives_the_tokens_of_autoregressive_decoding(tmp_path: Path, draft_length: int) -> None:
    strategy, session = example("strategy", tmp_path / "example.py"), fake_session()
    steps = decoded(strategy, session, limit=200, draft_length=draft_length)
    wanted = tokens_of(decoded(plugins.get("strategy", "autoregressive"), session, limit=200))
    assert tokens_of(steps) == wanted and len(wanted) == 200
    assert len([step for step in steps if step.phase == "decode"]) < 199, "some drafts are right"


def test_the_profiler_tells_of_every_step_of_a_pass(tmp_path: Path) -> None:
    attachment = example("profiler", tmp_path / "example.py").attach(fake_session(), 3)
    steps = decoded(plugins.get("strategy", "autoregressive"), fake_session(), limit=4)
    phases = []
    for step in steps:
        if step.phase not in phases:
            phases.append(step.phase)
            attachment.phase(step.phase)
        attachment.step(as_step(step))
    events = attachment.events()
    attachment.close()
    assert [event.phase for event in events] == [step.phase for step in steps]
    assert all(isinstance(event, Memory) and event.pass_no == 3 and event.rss_bytes > 0 for event in events)
    assert attachment.events() == [], "each is told once"


def test_the_transform_makes_a_model(tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    folder, out = hf_folder(tmp_path), tmp_path / "out"
    out.mkdir()
    note, share, suffix = elsewhere.call("pytorch", clipped, tmp_path / "example.py", folder, out)
    before, after = load_file(folder / "model.safetensors"), load_file(out / "model.safetensors")
    name = "model.layers.0.mlp.up_proj.weight"
    limit = 2 * before[name].std(ddof=1)
    assert suffix == "clip2" and note.endswith(".") and 0.01 < share < 0.1  # 4.6 % of a normal distribution
    assert np.allclose(after[name], before[name].clip(-limit, limit)) and (after[name] != before[name]).any()
    assert (after["lm_head.weight"] == before["lm_head.weight"]).all(), "the head is no matrix of a block"
    assert source_of(out).spec.n_params == source_of(folder).spec.n_params


def clipped(file: Path, folder: Path, out: Path) -> tuple[str, float, str]:
    """What the example says of the model that it makes in `out`; in a process that may load PyTorch."""
    transform, source, job = example("transform", file), source_of(folder), Job(out.parent)
    params = settings(transform.Params, {"deviations": "2"}, transform.label)
    transform.check(source.spec, params)
    outcome = transform.run(source, params, out, job)
    assert job.notes and not job.warnings
    return outcome.note, outcome.facts["clipped"], transform.suffix(params)


def test_the_evaluation_judges_answers(tmp_path: Path) -> None:
    plugin, greedy = example("eval", tmp_path / "example.py"), plugins.get("strategy", "autoregressive")
    params = settings(plugin.Params, {"n": "4"}, plugin.label)
    subject = ModelUnderTest(fake_session(), None, greedy, greedy.Params())
    items = list(plugin.measure(subject, params))
    assert len(items) == plugin.size(params) == 4 == len({item.fingerprint for item in items})
    assert [metric.value for metric in plugin.metrics(params)] == ["acc"]
    assert {item.values["acc"] for item in items} == {0.0}, "the fake model's text means nothing"
    assert all(item.output and item.seconds is not None and item.counts.forwards for item in items)
    right = Generation(text="It is cold.", ids=(), ttft_s=0.1, seconds=0.1, counts=Counts())
    knows: Any = SimpleNamespace(render=lambda _: [1], generate=lambda *_: right)
    assert [item.values["acc"] for item in plugin.measure(knows, params)] == [1.0, 0.0, 0.0, 0.0]
