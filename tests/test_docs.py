"""The documents are tested: their commands run, their tables match the plugins, their files and folders exist."""

from __future__ import annotations

import itertools
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from app import MENU
from core import plugins
from core.cli import cli
from core.plugins import settings

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
MANUAL = (ROOT / "docs" / "README.md").read_text()
ARCHITECTURE = (ROOT / "core" / "README.md").read_text()
DOCUMENTS = [
    ROOT / "README.md",
    *sorted(ROOT.glob("docs/*.md")),
    *sorted(ROOT.glob("core/**/*.md")),
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
    menu = {entry[1] for entries in MENU.values() for entry in entries}
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


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    named = {line.split()[1] for line in blocks() if line.startswith("make ")}
    assert {"run", "test"} <= named <= targets


def test_every_core_command_is_shown() -> None:
    shown = {line.split()[3] for line in blocks() if line.startswith(".venv/bin/python -m core ")}
    assert shown == set(cli.commands)


def test_the_tree_names_what_exists() -> None:
    tree = ARCHITECTURE.split("```")[1]
    for line in tree.splitlines():
        for name in re.findall(r"^\s*([a-z_]+(?:/|\.py))", line):
            places = [ROOT / name, ROOT / "core" / name]
            assert any(p.exists() for p in places), f"{name} is in the tree of core/README.md and not in the project"
    folders = {p.name for p in (ROOT / "core").iterdir() if p.is_dir() and (p / "__init__.py").exists()}
    assert all(f"  {name}/" in tree for name in folders), f"a folder of core is missing in the tree: {folders}"


LONG = ("transform finetune", "transform consistency", "study ", " cllm")  # minutes of training, and what needs it


def test_the_long_commands_name_what_exists() -> None:
    long = [shlex.split(line) for line in blocks() if any(words in line for words in LONG) and " transform " in line]
    assert long
    for words in long:
        plugin = plugins.get("transform", words[words.index("transform") + 1])
        given = dict(words[i + 1].split("=") for i, word in enumerate(words) if word == "--param")
        settings(plugin.Params, given, plugin.label)


@pytest.mark.model
def test_the_core_commands_run(tmp_path: Path) -> None:
    run_id = ""
    for line in blocks():
        if not line.startswith(".venv/bin/python -m core ") or any(words in line for words in LONG):
            continue
        command = shlex.split(line.replace("RUN_ID", run_id).replace("run.zip", str(tmp_path / "run.zip")))[1:]
        done = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{line}\n{done.stderr[-2000:]}"
        if " run " in line:
            result = json.loads(done.stdout)
            run_id = result["run_id"]
            assert "Paris" in result["text"]
    assert (tmp_path / "run.zip").stat().st_size > 1000
