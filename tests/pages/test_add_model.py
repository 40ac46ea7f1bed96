"""What the dialog "Add a model" says of what is no model: one sentence, and it is not kept."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from core.models import catalogue
from tests.models.test_weight_files import CONFIG, whole
from tests.pages.conftest import sound
from tests.support.gguf_bytes import LLAMA, file, header


def script(path: str) -> None:
    import streamlit as st

    from pages.measure._add_model import _add
    from pages.ui.page import guard

    if not st.session_state.setdefault("added", False):
        st.session_state["added"] = True
        with guard():
            _add(path)


def given(path: Path) -> AppTest:
    return sound(AppTest.from_function(script, kwargs={"path": str(path)}, default_timeout=60).run())


def words(at: AppTest) -> str:
    shown = [f"{e.proto.title} {e.value}" for kind in (at.error, at.warning) for e in kind]
    assert len(shown) < 2, shown
    return "".join(shown).replace("\\", "")


def folder(path: Path) -> Path:
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps(CONFIG))
    whole(path)
    return path


def broken(path: Path) -> Path:
    return file(path, header({**LLAMA, "general.alignment": 0}))


def piece(path: Path) -> Path:
    return file(path.with_name("m.gguf-split-a"), header())


def web_page(path: Path) -> Path:
    path.write_text("<!doctype html><html>no such file</html>")
    return path


def nameless(path: Path) -> Path:
    path.write_text(json.dumps({"hidden_size": 8}))
    return path.rename(path.with_name("config.json"))


BAD: dict[str, tuple[Callable[[Path], Path], str]] = {
    "a header that cannot be right": (broken, "has an alignment"),
    "a piece of a file": (piece, "is a piece of a GGUF file"),
    "a web page": (web_page, "but a web page"),
    "a configuration of nothing": (nameless, "names no model_type"),
    "nothing": (lambda path: path, "There is no file or folder"),
}


@pytest.mark.parametrize("what", BAD)
def test_a_file_that_is_no_model_is_one_sentence_and_is_not_kept(what: str, home: Path, tmp_path: Path) -> None:
    make, says = BAD[what]
    at = given(make(tmp_path / "m.gguf"))
    assert says in words(at) and not at.toast
    assert not catalogue.folders() and len(at.error) == 1


def test_a_folder_with_a_fault_says_it_and_one_with_nothing_says_that(home: Path, tmp_path: Path) -> None:
    dead = folder(tmp_path / "dead")
    (dead / "config.json").unlink()
    (dead / "config.json").symlink_to("nowhere")
    assert "config.json in dead is a link that leads nowhere" in words(given(dead))
    (tmp_path / "empty").mkdir()
    assert "No model was found there" in words(given(tmp_path / "empty"))


def test_a_folder_with_a_configuration_alone_is_a_model_with_random_weights(home: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "config.json").write_text(json.dumps(CONFIG))
    at = given(bare)
    assert not words(at)
    (toast,) = at.toast
    assert toast.value == "Added: bare. A configuration: it runs with random weights."
    (entry,) = catalogue.found_in(str(bare))[0]
    assert entry.random_weights and entry.files == {"config": str(bare / "config.json")}
    assert at.query_params["model"] == entry.id and not catalogue.problems()


def test_a_configuration_without_weights_deeper_in_a_folder_is_skipped_with_the_reason(
    home: Path, tmp_path: Path
) -> None:
    folder(tmp_path / "models" / "whole")
    bare = tmp_path / "models" / "bare"
    bare.mkdir()
    (bare / "config.json").write_text(json.dumps(CONFIG))
    (toast,) = given(tmp_path / "models").toast
    assert toast.value == "Added: whole."
    assert any("The folder bare has a config.json but no weights" in trouble for trouble in catalogue.problems())
