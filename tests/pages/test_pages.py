"""Every page, with nothing to show and with runs, with nonsense in the address and on damaged folders."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest
from streamlit.util import calc_hash

from core.runs.store import Store
from tests.pages.conftest import ROOT, pages, sound

Open = Callable[..., AppTest]


@pytest.mark.parametrize("page", pages())
def test_page_on_an_empty_store(app: Open, page: str) -> None:
    at = sound(app(page))
    assert at.title, page
    assert not at.error


NONSENSE = ("-1", "nan", "1e999", "9" * 5000, "", "\0", "²", "../../etc/passwd", "[]", "true", "0x10", "1e-400")
OURS = ("run", "open", "step", "lesson", "variant", "chat", "load", "term", "first", "second", "q", "lecture")


@pytest.mark.parametrize("page", pages())
def test_page_with_runs_and_with_nonsense_in_its_address(app: Open, filled: Store, page: str) -> None:
    """All names that it knows are in the address then: those of its widgets, too."""
    at = sound(app(page))
    assert at.title
    assert not at.error, at.error[0].value
    for kind in ("vega_lite_chart", "echarts_chart", "arrow_data_frame"):
        for element in at.get(kind):
            assert element.proto.alt, f"{kind} on {page} has no alt text"
    names = sorted({*OURS, *map(str, at.session_state._state.filtered_state)})
    sound(app(page, **{name: NONSENSE[(n + len(page)) % len(NONSENSE)] for n, name in enumerate(names)}))


def load_for_ever(run: Path) -> None:
    events = [json.loads(line) for line in (run / "events.jsonl").read_bytes().splitlines()]
    odd = [event | {"seconds": 1e300} if event["type"] == "loaded" else event for event in events]
    assert odd != events
    (run / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in odd))


@pytest.mark.parametrize("page", pages())
def test_damaged_run_folders(app: Open, filled: Store, page: str) -> None:
    newest = filled.ids()[0]
    whole = filled.folder / newest
    for name, damage in {
        "20990101-000000-aaaaaa": lambda p: (p / "request.json").unlink(),
        "20990101-000001-bbbbbb": lambda p: (p / "request.json").write_text('{"model": 3'),
        "20990101-000002-cccccc": lambda p: (p / "events.jsonl").write_bytes(b'{"type":"pha\x00\xff\n\n{"x"'),
        "20990101-000003-dddddd": lambda p: (p / "created.json").unlink(),
        "20990101-000004-eeeeee": lambda p: (p / "created.json").write_text("1e300"),
        "20990101-000005-ffffff": load_for_ever,
    }.items():
        shutil.copytree(whole, filled.folder / name)
        damage(filled.folder / name)
    sound(app(page))
    for name in (
        "20990101-000000-aaaaaa",
        "20990101-000001-bbbbbb",
        "20990101-000002-cccccc",
        "20990101-000003-dddddd",
        "20990101-000004-eeeeee",
        "20990101-000005-ffffff",
    ):
        sound(app(page, run=name))


def test_the_main_page_has_its_name_too(app: Open, filled: Store) -> None:
    """`/run?run=...` leads to the main page, with what the address asks for."""
    at = app()
    at.query_params["run"] = wanted = filled.ids()[1]
    at._page_hash = calc_hash("run")
    at = sound(at.run())
    assert at.title[0].value == "Run" and at.query_params["run"] == wanted


def test_page_files_lie_in_sections() -> None:
    """A .py directly in pages/ would make a fresh server run it without app.py."""
    assert not list((ROOT / "pages").glob("*.py"))


def test_no_model_library_in_the_app(filled: Store) -> None:
    """The app's process draws every page and starts a run without importing what runs models."""
    script = f"""
import sys
from streamlit.testing.v1 import AppTest
at = AppTest.from_file({str(ROOT / "app.py")!r}, default_timeout=180).run()
for page in {pages()!r}:
    at.switch_page(page).run()
    assert not at.exception
heavy = {{"torch", "transformers", "onnxruntime", "llama_cpp", "onnx", "huggingface_hub"}}
print(sorted(heavy & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
