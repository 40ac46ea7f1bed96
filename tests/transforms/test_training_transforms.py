"""The transforms that train, on a tiny model and a domain of its own."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from core import plugins
from core.models import spec as specs
from core.plugins import settings
from core.training.self_written import CHUNK, repeats, written
from core.types import ModelEntry, Source
from hardware.errors import ExplorerError
from tests.support.tiny import hf_folder
from tests.training.test_training import StandIn

pytestmark = pytest.mark.engine("pytorch")

FINETUNE = plugins.get("transform", "finetune")
CONSISTENCY = plugins.get("transform", "consistency")
DISTILL = plugins.get("transform", "distill")


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


def source(folder: Path) -> Source:
    entry = ModelEntry(id="tiny", label="Tiny", family="test", files={"hf": str(folder)})
    return Source(entry=entry, format="hf", path=str(folder), spec=specs.read(str(folder), "hf"))


class Workshop(StandIn):
    """Knows every model by its folder."""

    def open(self, model: str, formats: tuple[str, ...]) -> Source:
        return source(Path(model))


def run(transform: Any, folder: Path, tmp_path: Path, **given: Any) -> tuple[Any, Path, StandIn]:
    held_out = {} if transform is DISTILL else {"probe_questions": 16}
    params = settings(transform.Params, {"minutes": None, **held_out, **given}, transform.label)
    out, job = tmp_path / "out", Workshop(tmp_path / "job")
    for new in (out, job.folder):
        new.mkdir(parents=True, exist_ok=True)
    origin = source(folder)
    transform.check(origin.spec, params)
    return transform.run(origin, params, out, job), out, job


@pytest.fixture(scope="module")
def teacher(folder: Path, domain: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    at = tmp_path_factory.mktemp("teacher")
    outcome, out, job = run(FINETUNE, folder, at, domain=domain, steps=160, batch=8, learning_rate=5e-3)
    assert outcome.facts["probes"][-1]["accuracy"] > 0.8 > outcome.facts["probes"][0]["accuracy"]
    assert "letters.jsonl" in outcome.note and outcome.facts["steps"] == 160
    losses = [values["loss"] for _, values in job.points if "loss" in values]
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
    outcome, out, job = run(
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
    assert any("consistency_loss" in values for _, values in job.points)
    assert transformers.AutoModelForCausalLM.from_pretrained(out).config.num_hidden_layers == 2
    assert (job.folder / "written.jsonl").exists() == (given.get("answers") == "teacher")


def test_answers_that_nobody_can_judge_have_no_accuracy(teacher: Path, tmp_path: Path) -> None:
    """Seen: 0 % right where no prompt of the file had an answer."""
    path = tmp_path / "prompts.jsonl"
    path.write_text("\n".join(json.dumps({"prompt": f"a{i}"}) for i in range(20)))
    outcome, _, job = run(
        CONSISTENCY, teacher, tmp_path, domain=str(path), steps=1, batch=2, window=4, answers="teacher"
    )
    assert [sorted(probe) for probe in outcome.facts["probes"]] == [["step", "tokens_per_forward"]] * 2
    assert any("No held-out question has an answer" in words for words in job.warnings)


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
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(100, 99, 1))  # type: ignore[attr-defined]
    with pytest.raises(ExplorerError, match="too little room"):
        run(FINETUNE, folder, tmp_path, domain=domain, steps=1)


# ---------------------------------------------------------------- distillation


def deeper(teacher: Path, out: Path) -> Path:
    """The teacher behind one more block, the first, that has learned nothing: a student of it alone is poor."""
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_pretrained(teacher)
    config = transformers.AutoConfig.from_pretrained(teacher, num_hidden_layers=3)
    deep = transformers.AutoModelForCausalLM.from_config(config)
    deep.load_state_dict(
        {re.sub(r"layers\.(\d)", lambda m: f"layers.{int(m[1]) + 1}", k): v for k, v in model.state_dict().items()},
        strict=False,
    )
    deep.save_pretrained(out)
    transformers.AutoTokenizer.from_pretrained(teacher).save_pretrained(out)
    return out


def test_a_student_with_fewer_blocks_comes_nearer_to_its_teacher(teacher: Path, domain: str, tmp_path: Path) -> None:
    teacher = deeper(teacher, tmp_path / "deeper")
    given = {"domain": domain, "keep_layers": 1, "steps": 100, "batch": 8, "learning_rate": 3e-3, "length": 12}
    outcome, out, _ = run(DISTILL, teacher, tmp_path, texts=80, temperature=0.0, **given)
    before, after = outcome.facts["before"], outcome.facts["after"]
    assert after["divergence"] < 0.5 * before["divergence"] and after["perplexity"] < before["perplexity"]
    assert after["same_choice"] > before["same_choice"]
    student = transformers.AutoModelForCausalLM.from_pretrained(out)
    assert student.config.num_hidden_layers == 1 and len(student.model.layers) == 1


def test_a_pruned_model_is_healed_and_stays_pruned(teacher: Path, domain: str, tmp_path: Path) -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(teacher)
    for layer in model.model.layers:
        for matrix in (layer.mlp.up_proj.weight, layer.mlp.gate_proj.weight):
            matrix.data[matrix.abs() < matrix.abs().median()] = 0
    pruned = tmp_path / "pruned"
    model.save_pretrained(pruned)
    transformers.AutoTokenizer.from_pretrained(teacher).save_pretrained(pruned)
    given = {"domain": domain, "steps": 40, "batch": 8, "learning_rate": 1e-3, "length": 12, "texts": 80}
    outcome, out, _ = run(DISTILL, pruned, tmp_path, teacher=str(teacher), **given)
    assert outcome.facts["after"]["divergence"] < outcome.facts["before"]["divergence"]
    healed = transformers.AutoModelForCausalLM.from_pretrained(out)
    assert outcome.facts["zeros_kept"] == sum(
        int((m == 0).sum())
        for layer in model.model.layers
        for m in (layer.mlp.up_proj.weight, layer.mlp.gate_proj.weight)
    )
    for old, new in zip(model.model.layers, healed.model.layers, strict=True):
        assert torch.equal(old.mlp.up_proj.weight == 0, new.mlp.up_proj.weight == 0)
        assert not torch.equal(old.mlp.up_proj.weight, new.mlp.up_proj.weight)


def test_a_teacher_must_be_another_model_with_the_same_tokenizer(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ExplorerError, match="cannot learn from itself"):
        run(DISTILL, folder, tmp_path, steps=1)
    with pytest.raises(ExplorerError, match="has 2 blocks, and 2 are to be kept"):
        run(DISTILL, folder, tmp_path, steps=1, keep_layers=2)
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"]["!"], tokenizer["model"]["vocab"]['"'] = 1, 0
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(ExplorerError, match="another tokenizer"):
        run(DISTILL, folder, tmp_path, steps=1, teacher=str(other))


def test_text_that_was_written_is_not_written_again(folder: Path, tmp_path: Path) -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    prompts = [(i, i + 1, i + 2) for i in range(CHUNK + 20)]
    whole = written(model, prompts, frozenset(), 4, StandIn(tmp_path))
    path = tmp_path / "written.jsonl"
    lines = path.read_text().splitlines()
    assert len(lines) == 2 and len(whole) == len(prompts)
    path.write_text(lines[0] + "\n" + lines[1][: len(lines[1]) // 2])  # killed while it wrote
    assert written(model, prompts, frozenset(), 4, StandIn(tmp_path)) == whole
    broken = transformers.AutoModelForCausalLM.from_config(model.config)
    assert written(broken, prompts, frozenset(), 4, StandIn(tmp_path)) == whole  # all of it was kept
    assert repeats([5] * 10) and not repeats([5] * 9 + [6] * 9)
