"""The import rules of the README, read from the source with ast."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = [ROOT / "app.py", *sorted((ROOT / "pages").rglob("*.py")), *sorted((ROOT / "core").rglob("*.py"))]
SOURCES += sorted((ROOT / "hardware").rglob("*.py"))
HEAVY = {"torch", "transformers", "onnxruntime", "onnx", "llama_cpp", "onnxscript", "scipy", "statsmodels"}
ORDER = {"app": 3, "pages": 2, "core": 1, "hardware": 0}
NAMES = [str(s.relative_to(ROOT)) for s in SOURCES]


def imports(path: Path, top_level_only: bool = False) -> Iterator[str]:
    """Full dotted names a file imports; blocks under `if TYPE_CHECKING` do not count."""
    tree = ast.parse(path.read_text())
    skipped: set[ast.AST] = set()
    for node in ast.walk(tree):
        hidden = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        inner = top_level_only and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        if hidden or inner or node in skipped:
            skipped.update(ast.iter_child_nodes(node))
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_the_reader_sees_imports(tmp_path: Path) -> None:
    sample = tmp_path / "sample.py"
    sample.write_text("import torch\nfrom core.runs import store\ndef f():\n    import onnx\n")
    assert set(imports(sample)) == {"torch", "core.runs.store", "onnx"}
    assert set(imports(sample, top_level_only=True)) == {"torch", "core.runs.store"}


@pytest.mark.parametrize("name", NAMES)
def test_imports_go_one_way(name: str) -> None:
    own = ORDER[Path(name).parts[0].removesuffix(".py")]
    for found in imports(ROOT / name):
        assert ORDER.get(found.split(".")[0], -1) <= own, f"{name} imports {found}"


@pytest.mark.parametrize("name", NAMES)
def test_streamlit_and_altair_have_their_place(name: str) -> None:
    top = {found.split(".")[0] for found in imports(ROOT / name)}
    assert "streamlit" not in top or name == "app.py" or name.startswith("pages/")
    assert "altair" not in top or name.startswith("core/charts/")


@pytest.mark.parametrize("name", [n for n in NAMES if n.startswith(("core/", "app", "pages/", "hardware/"))])
def test_model_libraries_load_inside_functions_only(name: str) -> None:
    if name == "hardware/measure_ceilings.py":
        pytest.skip("a program of its own, run as a child process")
    assert not HEAVY & {found.split(".")[0] for found in imports(ROOT / name, top_level_only=True)}


PLUGINS = ("core/backends/", "core/decoding/", "core/profilers/", "core/transforms/", "core/evals/")


@pytest.mark.parametrize("name", [n for n in NAMES if n.startswith(PLUGINS)])
def test_plugins_know_only_the_contract(name: str) -> None:
    room = ".".join(Path(name).parts[:2])
    own = (
        f"{room}._",
        f"{room}.{Path(name).parts[2]}.",
    )  # shared files start with an underscore; a plugin's own folder
    allowed = (
        "core.types",
        "core.errors",
        "core.layer_names",
        "core.plugins",
        "core.domains",
        "core.engine",
        "hardware.",
        *own,
    )
    if name.startswith("core/transforms/"):  # they write models: the formats and the training loop are theirs to use
        allowed += ("core.models.", "core.training")
    for found in imports(ROOT / name):
        assert not found.startswith("core.") or found.startswith(allowed), f"{name} imports {found}"


@pytest.mark.parametrize("name", [n for n in NAMES if n.startswith(("core/analysis/", "core/stats/"))])
def test_analysis_does_no_io(name: str) -> None:
    text = (ROOT / name).read_text()
    assert not {"os", "pathlib", "subprocess", "socket", "shutil"} & {f.split(".")[0] for f in imports(ROOT / name)}
    assert "open(" not in text


def test_no_page_lies_directly_in_pages() -> None:
    assert not list((ROOT / "pages").glob("*.py")), "Streamlit would run it without app.py"


def test_the_apps_process_loads_no_model_library() -> None:
    code = (
        "import sys; from streamlit.testing.v1 import AppTest;"
        "at = AppTest.from_file('app.py', default_timeout=180).run();"
        f"assert not at.exception, at.exception; print(sorted({HEAVY!r} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip().splitlines()[-1] == "[]"
