"""What the small files that broke other programs must answer: `../shared/data/cases`, its README's table.

PyTorch reads the folders here; llama.cpp, in one process of its own, the GGUF files and those made of the folders.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from core.models import formats, gguf_to_hf, hf_to_gguf
from core.types import Generate, Request
from hardware.errors import ExplorerError
from tests.support import elsewhere
from tests.support.cases import CASES, answered, needed, refused, small
from tests.support.progress import silent

HELLO = Generate(prompt="hello", max_new_tokens=2)
BARE = Generate(prompt="hello", max_new_tokens=2, chat=False)
LONG = Generate(prompt="hello", max_new_tokens=40)
TOOLS = Generate(prompt="hello", max_new_tokens=2, template="tool_use")
UNKNOWN = Generate(prompt="hello", max_new_tokens=2, template="no_such")
LESS = Generate(prompt="is 1 < 2 & so on", max_new_tokens=2)

pytestmark = [pytest.mark.engine("pytorch"), needed]
FOLDERS = (
    "generation-tag/hf",
    "named-templates/list",
    "named-templates/files",
    "named-templates/string",
    "bos/hf",
    "several-ends/hf",
    "tokenizers/spm-valid",
    "two-copies/stale-single",
)


def answer(backend: str, path: str, task: Generate) -> dict[str, Any]:
    """What a backend answers from the first format that the file or folder has; or what refused it."""
    try:
        fmt, place = next(iter(formats.files_of(Path(path)).items()))
    except ExplorerError as error:
        return refused(error)
    request = Request(model="case", backend=backend, task=task, threads=1, options=small(backend))
    return answered(backend, place, fmt, request)


def _all(asked: list[tuple[str, str, Generate]]) -> list[dict[str, Any]]:
    return [answer(*one) for one in asked]


ASKED_OF_FILES = {
    "generation": ("generation-tag/gen.gguf", HELLO),
    "no generation": ("generation-tag/plain.gguf", HELLO),
    "typed": ("templates/typed-parts.gguf", HELLO),
    "error": ("templates/typeerror.gguf", HELLO),
    "tojson": ("templates/tojson.gguf", LESS),
    "bos": ("bos/base-addbos.gguf", BARE),
    "jamba": ("per-layer-arrays/jamba.gguf", BARE),
    "vision": ("vision-in-gguf/with-vision.gguf", BARE),
    "text": ("vision-in-gguf/text.gguf", BARE),
}


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> dict[Any, dict[str, Any]]:
    """What llama.cpp answers: of the files, and of what is made of the folders."""
    made = tmp_path_factory.mktemp("gguf")
    asked: dict[Any, tuple[str, str, Generate]] = {}
    for name, (case, task) in ASKED_OF_FILES.items():
        asked[name] = ("llama_cpp", str(CASES / case), task)
    for folder in FOLDERS:
        file = made / f"{folder.replace('/', '-')}.gguf"
        hf_to_gguf.convert(CASES / folder, file, "Case", silent)
        for task in (HELLO, BARE, LONG, TOOLS, UNKNOWN):
            asked[folder, task.template, task.chat, task.max_new_tokens] = ("llama_cpp", str(file), task)
    found = elsewhere.call("llama_cpp", _all, list(asked.values()))
    return dict(zip(asked, found, strict=True))


def here(folder: str, task: Generate = HELLO) -> dict[str, Any]:
    return answer("pytorch", str(CASES / folder), task)


def rendered(folder: str, task: Generate = HELLO) -> tuple[str, list[int]]:
    """The prompt as transformers renders it, and its ids."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(CASES / folder)
    said = [{"role": "user", "content": task.prompt}]
    text = tokenizer.apply_chat_template(said, tokenize=False, add_generation_prompt=True, chat_template=task.template)
    return text, tokenizer.encode(text, add_special_tokens=False)


def key(folder: str, task: Generate = HELLO) -> tuple[str, str | None, bool, int]:
    return folder, task.template, task.chat, task.max_new_tokens


@pytest.mark.parametrize("folder", ["generation-tag/hf", *(f for f in FOLDERS if f.startswith("named"))])
def test_a_template_is_rendered_as_transformers_does(folder: str, llama: Any) -> None:
    mine, theirs = here(folder), llama[key(folder)]
    assert (mine["text"], mine["ids"]) == (theirs["text"], theirs["ids"]) == rendered(folder)
    assert mine["new"] == theirs["new"]


def test_the_same_from_a_gguf_and_its_folder(llama: Any) -> None:
    assert (
        llama["generation"]["ids"] == here("generation-tag/hf")["ids"]
        and "generation" not in llama["generation"]["text"]
    )
    assert llama["no generation"]["text"]


@pytest.mark.parametrize("folder", ["named-templates/list", "named-templates/files"])
def test_another_template_by_its_name(folder: str, llama: Any) -> None:
    mine, theirs = here(folder, TOOLS), llama[key(folder, TOOLS)]
    assert (mine["text"], mine["ids"]) == (theirs["text"], theirs["ids"]) == rendered(folder, TOOLS)
    assert "TOOL hello" in mine["text"]
    for unknown in (here(folder, UNKNOWN), llama[key(folder, UNKNOWN)]):
        assert "no chat template called 'no_such'" in unknown["refused"] and "default, tool_use" in unknown["refused"]


def test_templates_that_want_parts_print_json_or_fail(llama: Any) -> None:
    assert "hello" in llama["typed"]["text"]
    assert "1 < 2 & so on" in llama["tojson"]["text"] and "u003c" not in llama["tojson"]["text"]
    assert "chat template fails" in llama["error"]["refused"]


def test_a_base_model_reads_its_bos(llama: Any) -> None:
    mine = here("bos/hf", BARE)
    assert mine["ids"] == llama["bos"]["ids"] == llama[key("bos/hf", BARE)]["ids"]
    assert len(mine["ids"]) == 5 and mine["ids"][0] == 260


def test_every_backend_stops_at_the_first_of_several_ends(llama: Any) -> None:
    mine, theirs = here("several-ends/hf", LONG), llama[key("several-ends/hf", LONG)]
    assert mine["new"] == theirs["new"] and mine["ends"] == theirs["ends"] and len(mine["ends"]) >= 3
    assert len(mine["new"]) < 40 and mine["new"][-1] in mine["ends"]


@pytest.mark.parametrize(
    ("folder", "file"), [("tokenizers/tekken", "tekken.json"), ("tokenizers/merges-only", "merges.txt")]
)
def test_a_tokenizer_that_is_not_read_is_named(folder: str, file: str) -> None:
    words = here(folder)["refused"]
    assert file in words and "tokenizer.json" in words
    with pytest.raises(ExplorerError, match=file):
        hf_to_gguf.output_bytes(CASES / folder)
        hf_to_gguf.convert(CASES / folder, Path("/dev/null"), "Case", silent)


def test_a_sentencepiece_file_works(llama: Any) -> None:
    mine, theirs = here("tokenizers/spm-valid", BARE), llama[key("tokenizers/spm-valid", BARE)]
    assert mine["ids"] == theirs["ids"] and mine["new"] == theirs["new"] and not mine["warnings"]


def test_vision_beside_a_text_model_stays_behind(llama: Any, tmp_path: Path) -> None:
    found = []
    for name in ("text", "with-vision"):
        folder = tmp_path / name
        folder.mkdir()
        gguf_to_hf.convert(CASES / "vision-in-gguf" / f"{name}.gguf", folder, silent)
        found.append(answer("pytorch", str(folder), BARE))
    assert found[0]["ids"] == found[1]["ids"] == llama["text"]["ids"]
    assert found[0]["new"] == found[1]["new"] == llama["text"]["new"]
    assert "holds 95 tensors" in llama["vision"]["refused"]


def test_jamba_runs_and_a_stale_copy_changes_no_answer(llama: Any) -> None:
    assert len(llama["jamba"]["new"]) == 2
    stale = here("two-copies/stale-single", LONG)
    assert stale["new"] == here("two-copies/control", LONG)["new"]
    assert stale["new"] == llama[key("two-copies/stale-single", LONG)]["new"]
