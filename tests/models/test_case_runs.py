"""Every model of `../shared/data/cases` in every backend that runs models: checked, converted and opened as a run does
it, four tokens, and the right answer that the cases' table states; or the sentence that refuses it, with a next step.

What is right for a folder is what transformers itself makes of it; for a GGUF, what llama.cpp makes of the file.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core import plugins
from core.models import artifacts, catalogue, spec
from core.runs.companions import same_tokenizer
from core.runs.resolve import reaches
from core.types import Generate, GenerationConfig, Request, raw
from tests.support import elsewhere
from tests.support.cases import CASES, asked, needed, small
from tests.support.progress import silent
from tests.support.steps import taken

pytestmark = [pytest.mark.engine("pytorch"), needed]

BACKENDS = ("pytorch", "onnxruntime", "llama_cpp")
HELLO = Generate(prompt="hello", max_new_tokens=4)
BARE = Generate(prompt="hello", max_new_tokens=4, chat=False)
TAGS = Generate(prompt="is 1 < 2 & so on", max_new_tokens=4)


@dataclass(frozen=True)
class Case:
    """n_prompt: of the prompt's tokens; first: the first of them; n_new: of the answer's; says: in the prompt; like: a
    case with the same answer. refused: backend ("" for all) -> what its sentence says."""

    task: Generate = HELLO
    n_prompt: int = 0
    first: int | None = None
    n_new: int = 4
    says: str = "hello"
    like: str = ""
    refused: dict[str, str] = field(default_factory=dict)


UNCONVERTED = "cannot be converted for PyTorch or ONNX Runtime"
ELSEWHERE = {"pytorch": UNCONVERTED, "onnxruntime": UNCONVERTED}
MODELS = {
    "bos/hf": Case(BARE, n_prompt=5, first=260),
    "bos/base-addbos.gguf": Case(BARE, n_prompt=5, first=260),
    "generation-tag/hf": Case(),
    "generation-tag/gen.gguf": Case(),
    "generation-tag/plain.gguf": Case(),
    "gguf-header/align0.gguf": Case(refused={"": "an alignment .* that is 0, not a power of two"}),
    "gguf-header/align-arr.gguf": Case(refused={"": "an alignment .* that is a list, not a power of two"}),
    "gguf-header/bigendian.gguf": Case(refused={"": "is a big-endian GGUF"}),
    "gguf-header/v1.gguf": Case(refused={"": "is a GGUF of version 1"}),
    "joined-token/hf": Case(),
    "named-templates/files": Case(n_prompt=23),
    "named-templates/list": Case(n_prompt=23),
    "named-templates/string": Case(n_prompt=23),
    "padded-vocabulary/d261.gguf": Case(),
    "padded-vocabulary/t384.gguf": Case(),
    "padded-vocabulary/draft261": Case(),
    "padded-vocabulary/draft512": Case(),
    "padded-vocabulary/target261": Case(),
    "padded-vocabulary/target384": Case(),
    "per-layer-arrays/jamba.gguf": Case(BARE, refused=ELSEWHERE),
    "quantized-folders/gptq": Case(refused={"": r"are quantized \(GPTQ, 4 bits"}),
    "quantized-folders/mxfp8": Case(
        refused=dict.fromkeys(("llama_cpp", "onnxruntime"), r"are quantized \(MXFP8, 8 bits")
    ),
    "several-ends/hf": Case(Generate(prompt="hello", max_new_tokens=40), n_new=5),
    "sliding-window-gguf/olmo3.gguf": Case(BARE, refused=ELSEWHERE),
    "templates/tojson.gguf": Case(TAGS, says="1 < 2 & so on"),
    "templates/typed-parts.gguf": Case(),
    "templates/typeerror.gguf": Case(refused={"": "chat template fails"}),
    "tokenizers/merges-only": Case(refused={"": r"merges\.txt is merges without their vocabulary"}),
    "tokenizers/spm-valid": Case(BARE),
    "tokenizers/tekken": Case(refused={"": r"tekken\.json is a tekken vocabulary of the first form"}),
    "two-copies/control": Case(),
    "two-copies/stale-single": Case(like="two-copies/control"),
    "two-copies/variant": Case(like="two-copies/control"),
    "vision-in-gguf/text.gguf": Case(BARE),
    "vision-in-gguf/with-vision.gguf": Case(
        BARE, like="vision-in-gguf/text.gguf", refused={"llama_cpp": "holds vision beside its language model"}
    ),
}


# An export takes five seconds of a processor; those left out have the weights and the text of one of these.
EXPORTED = (
    *("bos/hf", "generation-tag/gen.gguf", "named-templates/list", "padded-vocabulary/draft512", "several-ends/hf"),
    *("templates/typed-parts.gguf", "tokenizers/spm-valid", "two-copies/stale-single", "two-copies/variant"),
    "vision-in-gguf/with-vision.gguf",
)


def test_every_model_of_the_cases_is_here() -> None:
    files = {str(file.relative_to(CASES)) for file in CASES.rglob("*.gguf")}
    folders = {str(file.parent.relative_to(CASES)) for file in CASES.rglob("*.safetensors")}
    assert files | folders == MODELS.keys()


def answer(backend: str, case: str) -> dict[str, Any]:
    return asked(backend, CASES / case, MODELS[case].task)


@cache
def right(case: str) -> dict[str, Any]:
    """What transformers makes of a folder; what llama.cpp makes of a GGUF."""
    if MODELS[case].like:
        return right(MODELS[case].like)
    return answer("llama_cpp", case) if case.endswith(".gguf") else by_transformers(CASES / case, MODELS[case].task)


def by_transformers(folder: Path, task: Generate) -> dict[str, Any]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    text = str(task.prompt)
    if task.chat and tokenizer.chat_template:
        said = [{"role": "user", "content": text}]
        text = tokenizer.apply_chat_template(said, tokenize=False, add_generation_prompt=True)
        ids = tokenizer.encode(text, add_special_tokens=False)
    else:
        ids = tokenizer.encode(text)
    with torch.inference_mode():
        found = model.generate(
            torch.tensor([ids]), attention_mask=torch.ones(1, len(ids)), max_new_tokens=task.max_new_tokens,
            do_sample=False, pad_token_id=0,
        )  # fmt: skip
    return {"text": text, "ids": ids, "new": found[0, len(ids) :].tolist()}


RUNS = [
    (case, backend)
    for case, wanted in MODELS.items()
    for backend in BACKENDS
    if backend != "onnxruntime" or wanted.refused or case in EXPORTED
]


@pytest.mark.parametrize(("case", "backend"), RUNS)
def test_a_case_gives_its_right_answer_or_a_sentence(case: str, backend: str) -> None:
    wanted, found = MODELS[case], answer(backend, case)
    words = wanted.refused.get(backend) or wanted.refused.get("")
    if words:
        assert re.search(words, found["message"]), found
        assert found["message"].endswith(".") and found["hint"].endswith(".") and "\n" not in found["refused"]
        return
    assert "refused" not in found, found
    assert wanted.says in found["text"] and len(found["new"]) == wanted.n_new
    assert wanted.n_prompt in (0, len(found["ids"])) and wanted.first in (None, found["ids"][0])
    best = right(case)
    assert (found["ids"], found["new"]) == (best["ids"], best["new"])


UNREACHED = (
    *("gguf-header/align0.gguf", "per-layer-arrays/jamba.gguf", "quantized-folders/gptq", "quantized-folders/mxfp8"),
    *("sliding-window-gguf/olmo3.gguf", "vision-in-gguf/with-vision.gguf"),
)


@pytest.mark.parametrize("case", ("bos/hf", *UNREACHED))
def test_what_a_backend_cannot_reach_is_told_where_it_is_chosen(case: str) -> None:
    entry, refused = catalogue.find(str(CASES / case)), MODELS[case].refused
    for backend in BACKENDS:
        reason, words = reaches(entry, backend), refused.get(backend) or refused.get("")
        assert (reason is None) == (words is None) and (reason is None or re.search(str(words), reason.message))


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_bare_configuration_runs_with_random_weights(backend: str) -> None:
    found = asked(backend, CASES / "sliding-window-gguf" / "config.json", BARE)
    if backend == "llama_cpp":
        assert "an architecture without weights, from which a GGUF cannot be made" in found["message"]
    else:
        assert len(found["ids"]) == 5 and len(found["new"]) == 4


def test_the_prompt_of_a_named_template_has_23_tokens_and_33_with_an_empty_system_turn() -> None:
    """The cases' table says 33: what the same template prints of an empty system message, which is no message here."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(CASES / "named-templates" / "list")
    user = {"role": "user", "content": "hello"}
    for said, n in (([user], 23), ([{"role": "system", "content": ""}, user], 33)):
        text = tokenizer.apply_chat_template(said, tokenize=False, add_generation_prompt=True)
        assert len(tokenizer.encode(text, add_special_tokens=False)) == n
    empty = Generate(prompt="hello", max_new_tokens=4, system="")
    assert len(asked("pytorch", CASES / "named-templates" / "list", empty)["ids"]) == 23


# ---------------------------------------------------------------- draft and target

PAIRS = [  # target, draft: tables of 261, 384 and 512 rows for the same 261 tokens
    *(("target384", "draft261"), ("target261", "draft512"), ("target384", "draft512")),
    *(("target261", "draft261"), ("draft512", "target384")),
]


@pytest.mark.parametrize("backend", ("pytorch", "llama_cpp"))
@pytest.mark.parametrize(("target", "draft"), PAIRS)
def test_a_draft_with_another_padding_changes_no_token(target: str, draft: str, backend: str) -> None:
    formats = plugins.get("backend", backend).formats
    places = []
    for name in (target, draft):
        entry = catalogue.find(str(CASES / "padded-vocabulary" / name))
        places.append(artifacts.provide(entry, formats, silent, alone=True))
    alone, together = elsewhere.call(backend, with_a_draft, backend, places)
    assert together == alone and len(alone) == 24


def with_a_draft(backend: str, places: list[tuple[str, str]]) -> tuple[list[int], list[int]]:
    """The greedy tokens of the first, alone and with drafts of the second."""
    request = Request(model="case", backend=backend, task=BARE, threads=1, options=small(backend))
    plugin = plugins.get("backend", backend)
    opened = [plugin.open(place, spec.read(place, fmt), request, silent) for fmt, place in places]
    try:
        session, draft = opened
        same_tokenizer(session, draft, "hello")
        prompt, config = np.array([raw(session, "hello")]), GenerationConfig(limit=24)
        found = []
        for name, drafts in (("autoregressive", ()), ("speculative", (draft,))):
            strategy = plugins.get("strategy", name)
            session.reset()
            steps = taken(strategy.decode(session, prompt, config, strategy.Params(), *drafts), session, *drafts)
            found.append([int(token) for step in steps for row in step.tokens[:1] for token in row])
        return found[0], found[1]
    finally:
        for one in opened:
            one.close()
