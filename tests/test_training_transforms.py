"""The transforms that train, on a tiny model and a domain of its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from core import registry
from core.errors import ExplorerError
from core.models import spec as specs
from core.settings import settings
from core.types import ModelEntry, Source
from tests.contract.tiny import hf_folder
from tests.test_training import StandIn

FINETUNE = registry.get("transform", "finetune")
CONSISTENCY = registry.get("transform", "consistency")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return hf_folder(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def domain(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Letters and the word that each stands for."""
    words = {"a": "anton", "b": "berta", "c": "caesar", "d": "dora"}
    path = tmp_path_factory.mktemp("domain") / "letters.jsonl"
    lines = [{"prompt": f"{k}{i % 12}", "answer": w, "id": f"{k}{i}"} for i in range(20) for k, w in words.items()]
    path.write_text("\n".join(json.dumps(line) for line in lines))
    return str(path)


def source(folder: Path, **spec: Any) -> Source:
    entry = ModelEntry(id="tiny", label="Tiny", family="test", files={"hf": str(folder)})
    return Source(entry=entry, format="hf", path=str(folder), spec=specs.read(str(folder), "hf"))


def run(transform: Any, folder: Path, tmp_path: Path, **given: Any) -> tuple[Any, Path, StandIn]:
    params = settings(transform.Params, {"minutes": None, "probe_questions": 16, **given}, transform.label)
    out, work = tmp_path / "out", StandIn(tmp_path / "work")
    for new in (out, work.folder):
        new.mkdir(parents=True, exist_ok=True)
    origin = source(folder)
    transform.check(origin.spec, params)
    return transform.run(origin, params, out, work), out, work


@pytest.fixture(scope="module")
def teacher(folder: Path, domain: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    at = tmp_path_factory.mktemp("teacher")
    outcome, out, work = run(FINETUNE, folder, at, domain=domain, steps=120, batch=8, learning_rate=5e-3)
    assert outcome.facts["probes"][-1]["accuracy"] > 0.8 > outcome.facts["probes"][0]["accuracy"]
    assert "letters.jsonl" in outcome.note and outcome.facts["steps"] == 120
    losses = [values["loss"] for _, values in work.points if "loss" in values]
    assert losses[-1] < 0.1 < losses[0]
    return out


def test_a_tuned_model_opens_with_its_tokenizer_and_answers(teacher: Path, folder: Path) -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(teacher)
    tokenizer = transformers.AutoTokenizer.from_pretrained(teacher)
    assert tokenizer.chat_template == transformers.AutoTokenizer.from_pretrained(folder).chat_template
    assert model.dtype == torch.float32 and model.config._attn_implementation == "sdpa"
    messages = [{"role": "system", "content": ""}, {"role": "user", "content": "b3"}]
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
    answer = model.generate(torch.tensor([ids]), max_new_tokens=20, do_sample=False)[0, len(ids) :]
    assert tokenizer.decode(answer, skip_special_tokens=True) == "berta"


@pytest.mark.parametrize("given", [{}, {"answers": "teacher", "loss": "kl"}])
def test_consistency_training_raises_tokens_per_forward_and_keeps_the_answers(
    teacher: Path, domain: str, tmp_path: Path, given: dict[str, Any]
) -> None:
    outcome, out, work = run(
        CONSISTENCY,
        teacher,
        tmp_path,
        domain=domain,
        steps=120,
        batch=8,
        learning_rate=1.5e-3,
        window=8,
        probe_minutes=1000,
        **given,
    )
    first, last = outcome.facts["probes"][0], outcome.facts["probes"][-1]
    assert last["tokens_per_forward"] > 1.3 * first["tokens_per_forward"]
    assert last["accuracy"] >= 0.8
    assert any("consistency_loss" in values for _, values in work.points)
    assert transformers.AutoModelForCausalLM.from_pretrained(out).config.num_hidden_layers == 2
    assert (work.folder / "answers.json").exists() == (given.get("answers") == "teacher")


@pytest.mark.parametrize("transform", [FINETUNE, CONSISTENCY])
def test_faults_are_one_sentence(transform: Any, folder: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty.jsonl"
    empty.write_text("\n\n")
    with pytest.raises(ExplorerError, match="has no prompts"):
        run(transform, folder, tmp_path, domain=str(empty), steps=1)
    unanswered = tmp_path / "unanswered.jsonl"
    unanswered.write_text("\n".join(json.dumps({"prompt": f"What is {i}?"}) for i in range(20)))
    with pytest.raises(ExplorerError, match="has an answer to learn from"):
        run(transform, folder, tmp_path, domain=str(unanswered), steps=1)
    with pytest.raises(ExplorerError, match="no domain called 'poetry'"):
        run(transform, folder, tmp_path, domain="poetry", steps=1)
    with pytest.raises(ExplorerError, match="has no end"):
        run(transform, folder, tmp_path, domain=str(empty))


def test_a_window_larger_than_the_context_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ExplorerError, match="window of 96 tokens is larger than the context of 96"):
        run(CONSISTENCY, folder, tmp_path, window=96, steps=1)


def test_models_that_a_mask_cannot_pack_are_refused(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    windowed = specs.from_config({**config, "model_type": "mistral", "sliding_window": 16})
    with pytest.raises(ExplorerError, match="full attention in all blocks"):
        CONSISTENCY.check(windowed, CONSISTENCY.Params())
    encoder = specs.from_config(
        {"model_type": "bert", "vocab_size": 300, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
        | {"intermediate_size": 64, "max_position_embeddings": 64}
    )
    with pytest.raises(ExplorerError, match="writes no text"):
        FINETUNE.check(encoder, FINETUNE.Params())


def test_a_disk_without_room_is_refused_before_training(
    folder: Path, domain: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(100, 99, 1))  # type: ignore[attr-defined]
    with pytest.raises(ExplorerError, match="too little room"):
        run(FINETUNE, folder, tmp_path, domain=domain, steps=1)
