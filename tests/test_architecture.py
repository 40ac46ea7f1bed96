"""The import rules of the README, read from the source with ast."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

from tests.support.engines import lanes_of

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


CORE = {path.stem for path in (ROOT / "core").iterdir()}
IMPORTS = {name: tuple(imports(ROOT / name)) for name in NAMES}


def test_the_reader_sees_imports(tmp_path: Path) -> None:
    sample = tmp_path / "sample.py"
    sample.write_text("import torch\nfrom core.runs import store\ndef f():\n    import onnx\n")
    assert set(imports(sample)) == {"torch", "core.runs.store", "onnx"}
    assert set(imports(sample, top_level_only=True)) == {"torch", "core.runs.store"}


def test_imports_go_one_way() -> None:
    def own(name: str) -> int:
        return ORDER[Path(name).parts[0].removesuffix(".py")]

    assert not [f"{n} imports {i}" for n in NAMES for i in IMPORTS[n] if ORDER.get(i.split(".")[0], -1) > own(n)]


def test_no_room_of_core_imports_one_that_imports_it() -> None:
    """Rooms are the folders and files directly in core/; prepare() names the rooms of a circle."""
    rooms: dict[str, set[str]] = {}
    for name in NAMES:
        if name.startswith("core/"):
            own = Path(name).parts[1].removesuffix(".py")
            used = {i.split(".")[1] for i in IMPORTS[name] if i.startswith("core.")} & CORE
            rooms.setdefault(own, set()).update(used - {own})
    assert len(rooms) > 30
    TopologicalSorter(rooms).prepare()


def graph() -> dict[str, set[str]]:
    """Of every file those that it imports from."""
    files = {name.removesuffix(".py").removesuffix("/__init__").replace("/", "."): name for name in NAMES}

    def of(dotted: str) -> str:
        while dotted and dotted not in files:
            dotted = dotted.rpartition(".")[0]
        return files.get(dotted, "")

    return {name: {of(i) for i in IMPORTS[name]} - {"", name} for name in NAMES}


def test_no_file_imports_one_that_imports_it() -> None:
    found = graph()
    assert sum(map(len, found.values())) > 2000
    TopologicalSorter(found).prepare()


def test_what_one_page_alone_uses_lies_beside_it() -> None:
    """And nothing else does; what the app shows on every page is shared."""
    files = {name: found for name, found in graph().items() if name == "app.py" or name.startswith("pages/")}

    def reached(name: str) -> set[str]:
        direct = files[name] & files.keys()
        return direct.union(*map(reached, direct))

    pages = [name for name in files if name.count("/") == 2 and "/ui/" not in name and "/_" not in name]
    used = {page: reached(page) for page in pages}
    for name in files.keys() - {"app.py", *pages} - reached("app.py"):
        by = [page for page, found in used.items() if name in found]
        wanted = Path(by[0]).parent.name if len(by) == 1 else "ui"
        assert by and Path(name).parent.name == wanted, f"{name} is used by {', '.join(by) or 'no page'}"


def test_streamlit_and_altair_have_their_place() -> None:
    def at_home(library: str, name: str) -> bool:
        if library == "streamlit":
            return name == "app.py" or name.startswith("pages/")
        return library != "altair" or name.startswith("core/charts/")

    assert not [f"{n} imports {i}" for n in NAMES for i in IMPORTS[n] if not at_home(i.split(".")[0], n)]


def test_every_table_is_drawn_by_table() -> None:
    """So that what is missing is a dash in all of them, and each says to a screen reader what it holds."""
    calls = [
        (name, node)
        for name in NAMES
        if name.startswith("pages/")
        for node in ast.walk(ast.parse((ROOT / name).read_text()))
        if isinstance(node, ast.Attribute) and node.attr == "dataframe" and ast.unparse(node.value) == "st"
    ]
    assert [name for name, _ in calls] == ["pages/ui/table.py"]


def test_model_libraries_load_inside_functions_only() -> None:
    alone = "hardware/measure_ceilings.py"  # a program of its own, run as a child process
    at_top = {n: set(imports(ROOT / n, top_level_only=True)) for n in NAMES if n != alone}
    assert not [f"{n} imports {i}" for n, found in at_top.items() for i in found if i.split(".")[0] in HEAVY]


PLUGINS = ("core/backends/", "core/decoding/", "core/profilers/", "core/transforms/", "core/evals/")


def test_plugins_know_only_the_contract() -> None:
    def allowed(name: str) -> tuple[str, ...]:
        room = ".".join(Path(name).parts[:2])
        # shared files start with an underscore; a plugin has its own folder
        own = (f"{room}._", f"{room}.{Path(name).parts[2]}.")
        rooms = ("types", "layer_names", "paths", "plugins", "domains", "engine", "endpoints", "tokenizers")
        files = ("models.weight_files", "models.token_counter")
        contract = (*(f"core.{name}" for name in (*rooms, *files)), "hardware.", *own)
        # transforms write models: the formats and the training loop are theirs to use
        return (*contract, "core.models.", "core.training") if name.startswith("core/transforms/") else contract

    plugins = [n for n in NAMES if n.startswith(PLUGINS)]
    assert len(plugins) > 50
    ours = [(n, i) for n in plugins for i in IMPORTS[n] if i.startswith("core.")]
    assert not [f"{n} imports {i}" for n, i in ours if not i.startswith(allowed(n))]


def test_analysis_does_no_io() -> None:
    outside = {"os", "pathlib", "subprocess", "socket", "shutil"}
    names = [n for n in NAMES if n.startswith(("core/analysis/", "core/stats/"))]
    assert len(names) > 20
    assert not [f"{n} imports {i}" for n in names for i in IMPORTS[n] if i.split(".")[0] in outside]
    assert not [n for n in names if "open(" in (ROOT / n).read_text()]


def test_a_test_file_loads_no_engine_unless_all_of_it_is_in_that_lane() -> None:
    """Every process of the suite imports the files of its lane, and may hold one engine (tests/README.md)."""
    engines = {"torch": "pytorch", "transformers": "pytorch", "onnxruntime": "onnxruntime", "llama_cpp": "llama_cpp"}
    offenders = []
    for file in sorted((ROOT / "tests").rglob("*.py")):
        found = {i.split(".")[0] for i in imports(file, top_level_only=True)} & engines.keys()
        lanes = lanes_of(file) if file.name.startswith("test_") else frozenset()
        offenders += [f"{file.relative_to(ROOT)} imports {i}" for i in found if lanes != {engines[i]}]
    assert not offenders


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
