"""Exit heads: trained on a tiny model, stored beside it, and used by the session that opens the folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file

from core import plugins
from core.backends.pytorch.session import TorchSession
from core.models import spec as specs
from core.training.examples import Example
from core.transforms.exit_heads import exits, judge, new_head
from hardware.errors import ExplorerError
from tests.backends.test_depth import FAMILIES, ONE, PROMPT, byte_level_tokenizer, open_folder, read, run, tokens_of
from tests.support.workshop import Job, Stopped, source_of

pytestmark = pytest.mark.engine("pytorch")

TRAINER = plugins.get("transform", "exit_heads")
PARAMS = {
    "questions": 32,
    "answer_tokens": 12,
    "first_exit": 3,
    "every": 2,
    "rank": 16,
    "minutes": None,
    "steps": 45,
    "batch": 4,
    "learning_rate": 1e-2,
    "probe_questions": 6,
}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    torch.manual_seed(3)
    transformers.AutoModelForCausalLM.from_config(FAMILIES["llama"]()).eval().save_pretrained(folder)
    byte_level_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def domain(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("domain") / "q.jsonl"
    file.write_text("".join(json.dumps({"prompt": f"{a}+{b}"}) + "\n" for a in range(6) for b in range(6)))
    return str(file)


def train(folder: Path, out: Path, job: Job, domain: str, **changed: Any) -> Any:
    out.mkdir()
    params = msgspec.convert({**PARAMS, "domain": domain, **changed}, TRAINER.Params)
    TRAINER.check(source_of(folder).spec, params)
    return TRAINER.run(source_of(folder), params, out, job)


@pytest.fixture(scope="module")
def made(tiny: Path, domain: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("made")
    return folder / "out", train(tiny, folder / "out", Job(folder / "job"), domain)


@pytest.fixture(scope="module")
def trained(made: tuple[Path, Any]) -> TorchSession:
    return open_folder(made[0])


def test_training_brings_the_exits_nearer_to_the_whole_model(made: tuple[Path, Any]) -> None:
    _, outcome = made
    facts = outcome.facts
    assert facts["exits"] == [3, 5] and facts["train_answers"] > facts["test_answers"] >= 5
    assert all(after < 0.8 * before for before, after in zip(facts["kl_untrained"], facts["kl"], strict=True))
    assert sum(facts["agreement"]) > sum(facts["agreement_untrained"])
    assert facts["head_params"] == 2 * (32 + 2 * 16 * 32)


def test_the_session_uses_them_and_the_whole_model_is_its_parent(trained: TorchSession, tiny: Path) -> None:
    parent = open_folder(tiny)
    assert trained.exit_heads == (3, 5) and parent.exit_heads == ()
    for session in (parent, trained):
        read(session)
    wanted = parent.forward(ONE).numpy()
    assert np.array_equal(trained.forward(ONE).numpy(), wanted)
    assert np.array_equal(trained.forward_to(ONE, 4).numpy(), parent.forward_to(ONE, 4).numpy()), "no head there"
    early = trained.forward_to(ONE, 3).numpy()
    assert not np.allclose(early, parent.forward_to(ONE, 3).numpy(), atol=1e-2)
    assert np.array_equal(trained.forward_exit(ONE, 0.0, [3])[0].numpy(), early)
    assert trained.spec.layers == parent.spec.layers, "the heads pass for none of the network's own layers"


def test_a_head_is_the_formula(made: tuple[Path, Any]) -> None:
    """Through transformers' modules, into which it looks."""
    trained = open_folder(made[0], fused=False)
    weights = load_file(made[0] / "exit_heads.safetensors")
    model, states = trained._model, []
    hook = model.model.layers[2].register_forward_hook(lambda module, inputs, output: states.append(output))
    read(trained)
    states.clear()
    found = trained.forward_to(ONE, 3).numpy()
    hook.remove()
    h = states[0].double()
    y = (
        h
        / (h.pow(2).mean(-1, keepdim=True) + model.config.rms_norm_eps).sqrt()
        * weights["exit_heads.3.scaling.weight"].double()
    )
    y = y + y @ weights["exit_heads.3.down.weight"].double().T @ weights["exit_heads.3.up.weight"].double().T
    wanted = y @ model.lm_head.weight.double().T
    np.testing.assert_allclose(found, wanted.detach().numpy(), atol=1e-3)


def test_strategies_leave_where_heads_stand(trained: TorchSession) -> None:
    def depths(threshold: float) -> set[float | None]:
        return {s.counts.depth for s in run("early_exit", trained, threshold=threshold) if s.phase == "decode"}

    assert depths(0.0) == {3 / 6} and depths(1.0) == {1.0} and depths(0.1) <= {3 / 6, 5 / 6, 1.0}
    wanted = tokens_of(run("autoregressive", trained))
    assert tokens_of(run("self_speculative", trained)) == wanted


def test_an_untrained_head_is_the_final_norm(tiny: Path) -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(tiny).eval()
    head = new_head(model.model.norm, 4)
    hidden = torch.randn(2, 3, 32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(head(hidden), model.model.norm(hidden))


def test_an_exit_behind_the_last_block_would_agree_always(tiny: Path) -> None:
    """The judge itself: with an identity for a head, the last hidden state says what the model says."""
    model = transformers.AutoModelForCausalLM.from_pretrained(tiny).eval()
    held_out = [Example(tuple(PROMPT[0, :6].tolist()), tuple(PROMPT[0, 6:].tolist()))]
    same = judge(model, {"6": torch.nn.Identity()}, held_out, (6,))
    assert same == ((1.0, pytest.approx(0.0, abs=1e-6)),)
    ((share, kl),) = judge(model, {"2": new_head(model.model.norm, 4)}, held_out, (2,))
    with torch.no_grad():
        said = model(torch.from_numpy(PROMPT), output_hidden_states=True)
        p = said.logits[0, 5:-1].double().log_softmax(-1)
        q = model.lm_head(model.model.norm(said.hidden_states[2]))[0, 5:-1].double().log_softmax(-1)
    assert kl == pytest.approx(float((p.exp() * (p - q)).sum(-1).mean()), rel=1e-4)
    assert share == pytest.approx(float((p.argmax(-1) == q.argmax(-1)).double().mean()))


def test_a_stopped_training_goes_on_to_the_same_heads(
    tiny: Path, domain: str, tmp_path: Path, made: tuple[Path, Any]
) -> None:
    with pytest.raises(Stopped):
        train(tiny, tmp_path / "first", Job(tmp_path / "job", stop_step=10), domain)
    assert not list((tmp_path / "first").iterdir())
    again = Job(tmp_path / "job")
    train(tiny, tmp_path / "second", again, domain)
    whole, resumed = (load_file(p / "exit_heads.safetensors") for p in (made[0], tmp_path / "second"))
    for name, tensor in whole.items():
        torch.testing.assert_close(resumed[name], tensor)


def test_what_cannot_be_trained_is_refused(tiny: Path, tmp_path: Path, domain: str) -> None:
    with pytest.raises(ExplorerError, match="last of 6 blocks"):
        train(tiny, tmp_path / "a", Job(tmp_path / "w"), domain, first_exit=6)
    transformers.GPT2Config(vocab_size=300, n_embd=32, n_layer=2, n_head=4).save_pretrained(tmp_path / "gpt2")
    with pytest.raises(ExplorerError, match="'gpt2'"):
        TRAINER.check(specs.read(tmp_path / "gpt2", "config"), TRAINER.Params())
    few = tmp_path / "few.jsonl"
    few.write_text('{"prompt": "1+1"}\n')
    with pytest.raises(ExplorerError, match="too few"):
        train(tiny, tmp_path / "b", Job(tmp_path / "w"), str(few))
    with pytest.raises(ExplorerError, match="no end"):
        train(tiny, tmp_path / "c", Job(tmp_path / "w"), domain, steps=None)


def test_heads_without_their_description_are_told(made: tuple[Path, Any], tmp_path: Path) -> None:
    import shutil

    shutil.copytree(made[0], tmp_path / "bad")
    config = json.loads((tmp_path / "bad" / "config.json").read_text())
    del config["exit_heads"]
    (tmp_path / "bad" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ExplorerError, match="does not describe"):
        open_folder(tmp_path / "bad")
    shutil.copytree(made[0], tmp_path / "cut")
    file = tmp_path / "cut" / "exit_heads.safetensors"
    file.write_bytes(file.read_bytes()[:-50])
    with pytest.raises(ExplorerError):
        open_folder(tmp_path / "cut")


def test_exits_by_hand() -> None:
    assert exits(30, TRAINER.Params()) == (15, 20, 25)
    assert exits(30, TRAINER.Params(first_exit=10, every=8)) == (10, 18, 26)
    assert exits(1, TRAINER.Params()) == ()
