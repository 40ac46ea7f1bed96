"""A process holds one native engine: claims by name, and libraries that somebody else has loaded."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from core import engine

ROOT = Path(__file__).parents[1]


def said(code: str) -> str:
    """What a fresh process prints, in which `claim` and `loaded` are there and errors are printed."""
    program = (
        "import sys\nfrom core import engine\nfrom hardware.errors import ExplorerError\n"
        f"try:\n    {code}\nexcept ExplorerError as error:\n    print(error.message, '|', error.hint)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.strip()


def test_a_process_keeps_the_engine_it_claimed() -> None:
    assert said("engine.claim('pytorch'); engine.claim('pytorch'); print('fine')") == "fine"
    refused = said("engine.claim('pytorch'); engine.claim('llama_cpp')")
    assert refused.startswith("This process runs PyTorch already, and llama.cpp beside it")
    assert refused.split("|")[1].strip(), "the next step is told"


@pytest.mark.parametrize(("library", "label"), [("onnxruntime", "ONNX Runtime"), ("llama_cpp", "llama.cpp")])
def test_a_library_that_somebody_loaded_counts(library: str, label: str) -> None:
    """A module of that name is enough: the rule reads sys.modules."""
    there = f"sys.modules['{library}'] = sys"
    assert said(f"{there}; print(sorted(engine.loaded()))") == f"['{library}']"
    assert said(f"{there}; engine.claim('pytorch')").startswith(f"This process runs {label} already")
    assert said(f"{there}; engine.claim('{library}'); print('fine')") == "fine"


def test_a_stranger_that_comes_later_is_named() -> None:
    """A task of the harness, say, that imports torch in a process of llama.cpp."""
    later = "engine.claim('llama_cpp'); sys.modules['llama_cpp'] = sys; print(engine.strangers()); "
    assert said(f"{later} sys.modules['torch'] = sys; print(engine.strangers())") == "()\n('PyTorch',)"


def test_files_and_the_fake_are_no_engines() -> None:
    after = said("engine.claim('fake'); engine.claim('onnxruntime'); engine.claim('pytorch')")
    assert after.startswith("This process runs ONNX Runtime already")
    assert said("import onnx; engine.claim('llama_cpp'); print('fine')") == "fine"


def test_an_engine_that_is_hidden_is_found_by_nobody() -> None:
    """transformers looks for torch so."""
    hidden = (
        "from importlib.util import find_spec; engine.hide_all(); print(find_spec('torch'), sorted(engine.loaded()))"
    )
    assert said(hidden) == "None []"


def test_what_takes_seconds_is_imported_while_something_else_is_waited_for() -> None:
    """In a thread, to its end; a library that is not there is silent until it is imported in earnest."""
    ahead = (
        "engine.AHEAD = {'pytorch': ('chunk_of_nothing', 'colorsys')}; done = engine.import_ahead('pytorch'); done()"
    )
    assert said(f"{ahead}; print('colorsys' in sys.modules)") == "False"
    ahead = ahead.replace("'chunk_of_nothing', 'colorsys'", "'colorsys', 'chunk_of_nothing'")
    assert said(f"{ahead}; print('colorsys' in sys.modules)") == "True"
    assert said("engine.import_ahead('fake')(); print(sorted(engine.loaded()))") == "[]"


def test_the_modules_to_import_ahead_exist() -> None:
    from importlib.util import find_spec

    for names in engine.AHEAD.values():
        for name in names:
            path, _, last = name.rpartition(".")
            package = find_spec(name.split(".")[0])
            assert package is not None and package.submodule_search_locations
            place = Path(package.submodule_search_locations[0], *path.split(".")[1:], f"{last}.py")
            assert "." not in name or place.is_file(), name
