"""Medusa: trees out of heads by hand, acceptance, the heads' file, and their training on a tiny model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from core import plugins
from core.decoding._medusa import Guesses, likeliest, ranking
from core.decoding._tree import Tree
from core.decoding.medusa_typical import longest
from core.models import formats
from core.models import spec as specs
from core.transforms import _head_training as training
from core.types import GenerationConfig, Request, Sampling, Session
from hardware.errors import ExplorerError
from tests.support.steps import Taken, taken
from tests.support.tiny import heads_folder, hf_folder
from tests.support.workshop import Job, Stopped, source_of

pytestmark = pytest.mark.engine("pytorch")

PROMPT = np.tile(np.random.default_rng(5).integers(33, 120, size=(1, 6)), (1, 3))
HOT = Sampling(temperature=1.3, top_k=40)
TRAINER = plugins.get("transform", "medusa_heads")


def quiet(note: str, done: float | None = None, total: float | None = None, unit: str = "") -> None:
    pass


def open_folder(folder: Path) -> Session:
    request = Request(model="tiny", backend="pytorch", threads=1)
    session: Session = plugins.get("backend", "pytorch").open(str(folder), specs.read(folder, "hf"), request, quiet)
    return session


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tiny")


@pytest.fixture
def session(folder: Path) -> Session:
    return open_folder(heads_folder(folder))


def run(name: str, session: Session, limit: int = 40, sampling: Sampling | None = None, **params: Any) -> list[Taken]:
    strategy = plugins.get("strategy", name)
    config = GenerationConfig(limit=limit, sampling=sampling or Sampling(), seed=1)
    return taken(strategy.decode(session, PROMPT, config, msgspec.convert(params, strategy.Params)), session)


def tokens_of(steps: list[Taken]) -> list[int]:
    return [token for step in steps if step.tokens for token in step.tokens[0]]


# ---------------------------------------------------------------- the tree


def test_the_tree_takes_the_largest_products() -> None:
    chances = np.array([[0.6, 0.3], [0.5, 0.4]])
    # 0.6, 0.3 (twice: its sibling, and its first child 0.6 * 0.5), 0.24 and 0.15
    nodes = list(likeliest(chances, 5))
    assert nodes[0] == (0, 0, 0) and set(nodes[1:3]) == {(0, 0, 1), (1, 1, 0)} and nodes[3] == (1, 1, 1)
    sibling = 1 + nodes.index((0, 0, 1))
    assert nodes[4] == (sibling, 1, 0)
    assert len(list(likeliest(chances, 99))) == 2 + 2 * 2, "the whole tree and no more"
    assert list(likeliest(chances[:0], 5)) == []


def test_ranking_is_by_probability() -> None:
    ranked, chances = ranking(np.log(np.array([[0.1, 0.6, 0.3], [0.2, 0.3, 0.5]], dtype=np.float32)), 2)
    assert ranked.tolist() == [[1, 2], [2, 1]]
    np.testing.assert_allclose(chances, [[0.6, 0.3], [0.5, 0.3]], rtol=1e-6)


# ---------------------------------------------------------------- heads in the session


def test_heads_are_the_papers_formula(folder: Path, session: Session) -> None:
    import torch
    from safetensors.torch import load_file

    model = session._model  # type: ignore[attr-defined]
    weight = load_file(heads_folder(folder) / "medusa_heads.safetensors")["medusa_heads.weight"]
    hidden = model.model(torch.from_numpy(PROMPT)).last_hidden_state[0]
    for keep, index in ((None, 4), (3, 2)):
        h = hidden[index if keep is None else PROMPT.shape[1] - keep + index]
        wanted = torch.stack([model.lm_head(h + torch.nn.functional.silu(w @ h)) for w in weight])
        session.reset()
        session.forward(PROMPT, keep=keep)
        np.testing.assert_allclose(session.guesses(index), wanted.detach().numpy(), atol=1e-4)
        np.testing.assert_allclose(session.guesses(index), wanted.detach().numpy(), atol=1e-4, err_msg="again")


def test_a_model_without_heads_cannot_guess(folder: Path) -> None:
    session = open_folder(hf_folder(folder))
    assert "heads" not in session.capabilities and session.head_accuracy == ()
    session.forward(PROMPT)
    with pytest.raises(AssertionError):
        session.guesses(0)


def test_heads_count_in_the_models_size(folder: Path) -> None:
    plain, with_heads = (formats.size_bytes({"hf": str(f(folder))}) for f in (hf_folder, heads_folder))
    assert plain and with_heads and with_heads - plain >= 3 * 64 * 64 * 4


@pytest.mark.parametrize("fault", ["cut", "shape", "key"])
def test_damaged_heads_are_told(folder: Path, tmp_path: Path, fault: str) -> None:
    path = tmp_path / "damaged"
    shutil.copytree(heads_folder(folder), path)
    if fault == "cut":
        whole = (path / "medusa_heads.safetensors").read_bytes()
        (path / "medusa_heads.safetensors").write_bytes(whole[:-100])
    else:
        config = json.loads((path / "config.json").read_text())
        config["medusa_heads"] = {"accuracy": [[0.5]]} if fault == "shape" else {}
        (path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ExplorerError) as told:
        open_folder(path)
    assert told.value.hint


# ---------------------------------------------------------------- decoding


class Oracle:
    """Heads that know the text: head k's best guess is right, or wrong where `wrong` says so."""

    def __init__(self, session: Session, text: list[int], wrong: Callable[[int, int], bool]) -> None:
        self._session, self._text, self._wrong = session, text, wrong
        self._start = PROMPT.shape[1]
        self.head_accuracy = ((0.9, 0.05),) * 3

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def guesses(self, index: int) -> Any:
        out = np.zeros((3, self._session.spec.vocab_size), dtype=np.float32)
        at = self._session.n_committed - self._start + 1  # tokens known: the last is not in the cache yet
        for head in range(3):
            place = at + head
            token = self._text[place] if place < len(self._text) else 0
            out[head, token] = 9.0 if not self._wrong(place, head) else 8.0
            out[head, (token + 1) % out.shape[1]] = 8.5
        return out


@pytest.mark.parametrize("tree", ["measured", "confident"])
def test_heads_that_know_the_text_give_all_they_guess(session: Session, tree: str) -> None:
    text = tokens_of(run("autoregressive", session))
    right = Oracle(session, text, lambda place, head: False)
    steps = [s for s in run("medusa", right, tree=tree, n_nodes=3, top_k=1) if s.phase == "decode"]  # type: ignore[arg-type]
    assert [t for s in steps for t in s.tokens[0]] == text[1:]
    assert [len(s.tokens[0]) for s in steps] == [4] * 9 + [3]
    assert [s.counts.inputs for s in steps[:-1]] == [4] * 9 and steps[-1].counts.inputs <= 4


def test_a_second_guess_saves_a_wrong_first(session: Session) -> None:
    text = tokens_of(run("autoregressive", session))
    often_wrong = Oracle(session, text, lambda place, head: head == 0)
    one = [s for s in run("medusa", often_wrong, n_nodes=6, top_k=1) if s.phase == "decode"]  # type: ignore[arg-type]
    two = [s for s in run("medusa", often_wrong, n_nodes=14, top_k=2) if s.phase == "decode"]  # type: ignore[arg-type]
    assert {len(s.tokens[0]) for s in one} == {1}, "behind a wrong first guess nothing counts"
    assert [len(s.tokens[0]) for s in two[:-1]] == [4] * 9 and all(s.counts.inputs <= 15 for s in two)


# ---------------------------------------------------------------- typical acceptance


def test_typical_acceptance_by_hand() -> None:
    """Node 1 (token 1) and behind it node 2 (token 3), and node 3 (token 2) beside them."""
    tree = Tree(0)
    tree.extend([1, 3])
    tree.extend([2])
    p = np.array([[0.0, 0.25, 0.75, 0.0], [0.0, 0.0, 0.9, 0.1], [1.0, 0, 0, 0], [1.0, 0, 0, 0]])
    h0, h1 = (-sum(x * np.log(x) for x in row if x > 0) for row in p[:2])
    assert longest(tree, p, epsilon=0.2, alpha=1.0) == [0, 3], "0.1 is not enough, and 0.75 wins over 0.25"
    assert longest(tree, p, epsilon=0.09, alpha=1.0) == [0, 1, 2], "0.1 is more than epsilon: the longer path wins"
    assert longest(tree, p, epsilon=1.0, alpha=0.25 / np.exp(-h0) * 1.01) == [0, 3], "0.25 just fails"
    assert longest(tree, p, epsilon=1.0, alpha=0.1 / np.exp(-h1) * 0.99) == [0, 1, 2]
    assert longest(tree, p, epsilon=1.0, alpha=1.0) == [0, 3] and longest(tree, p[:, [0, 1, 3, 2]], 1.0, 1.0) == [0]


def test_typical_acceptance_is_greedy_where_decoding_is(session: Session) -> None:
    assert not plugins.get("strategy", "medusa_typical").exact
    assert tokens_of(run("medusa_typical", session)) == tokens_of(run("autoregressive", session))


def test_typical_acceptance_takes_what_sampling_would_not(session: Session) -> None:
    exact = tokens_of(run("autoregressive", session, sampling=HOT))
    greedy = tokens_of(run("autoregressive", session))
    never = run("medusa_typical", Oracle(session, greedy, lambda p, h: False), sampling=HOT, epsilon=1.0, alpha=1.0)  # type: ignore[arg-type]
    easy = run("medusa_typical", Oracle(session, greedy, lambda p, h: False), sampling=HOT, epsilon=1e-9)  # type: ignore[arg-type]
    assert len(tokens_of(easy)) == len(tokens_of(never)) == len(exact)
    assert len(easy) < len(never), "an easy threshold accepts more"
    assert tokens_of(run("medusa_typical", session, sampling=HOT)) == tokens_of(
        run("medusa_typical", session, sampling=HOT)
    ), "the seed decides"


# ---------------------------------------------------------------- training


PARAMS = {"heads": 2, "questions": 24, "answer_tokens": 12, "epochs": 3, "batch": 32, "learning_rate": 3e-3}


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Short prompts, so that they fit into the tiny context."""
    file = tmp_path_factory.mktemp("domain") / "q.jsonl"
    file.write_text("".join(json.dumps({"prompt": f"{a}+{b}"}) + "\n" for a in range(6) for b in range(6)))
    return str(file)


def train(folder: Path, out: Path, job: Job, domain: str, **changed: Any) -> Any:
    out.mkdir()
    params = msgspec.convert({**PARAMS, "domain": domain, **changed}, TRAINER.Params)
    return TRAINER.run(source_of(hf_folder(folder)), params, out, job)


def test_states_line_up_with_their_labels(folder: Path) -> None:
    import torch
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(hf_folder(folder)).eval()
    found = training.states(model, [([40, 41, 42], [50, 51]), ([43], [60])], 2, lambda _: None)
    none = training.NOTHING
    # 42 is followed by 50, and then comes 51; 50 is followed by 51, and then nothing
    assert found.labels.tolist() == [[51, none], [none, none], [none, none]]
    logits = model(torch.tensor([[40, 41, 42, 50, 51]])).logits[0]
    torch.testing.assert_close(model.lm_head(found.hidden[:2]), logits[2:4], atol=1e-4, rtol=0)


def test_accuracy_and_loss_by_hand() -> None:
    import torch

    hidden, unembed = torch.eye(3)[[0, 1, 2]] * 4, torch.nn.Identity()
    labels = torch.tensor([[0, 1], [2, training.NOTHING], [2, 0]])
    part = training.States(hidden, labels)
    zero = torch.zeros(2, 3, 3)  # an untrained head says what the model says
    found = training.accuracy(zero, part, unembed, 1)
    assert found == [[pytest.approx(2 / 3)], [0.0]]
    total, means = training.loss(zero, part, unembed)
    right, wrong = -np.log(np.exp(4) / (np.exp(4) + 2)), -np.log(1 / (np.exp(4) + 2))
    np.testing.assert_allclose(means, [(2 * right + wrong) / 3, wrong], rtol=1e-5)
    assert float(total) == pytest.approx((2 * right + wrong) / 3 + 0.8 * wrong, rel=1e-5)


def test_every_row_is_learned_once_per_pass() -> None:
    passes = [training.batch(10, step, 4, 1) for step in range(5)]
    rows = [row for part in passes for row in part]
    assert sorted(rows[:10]) == sorted(rows[10:]) == list(range(10)) and rows[:10] != rows[10:]
    assert training.batch(10, 3, 4, 1) == passes[3] and len(training.batch(3, 0, 8, 1)) == 8


def test_trained_heads_open_and_are_better_than_untrained(folder: Path, tmp_path: Path, questions: str) -> None:
    job = Job(tmp_path / "job")
    outcome = train(folder, tmp_path / "out", job, questions)
    first, last = job.curves[0][2], job.curves[-1][2]
    assert all(last[name] < first[name] for name in ("head_1", "head_2"))
    session = open_folder(tmp_path / "out")
    assert {"tree", "heads"} <= session.capabilities and len(session.head_accuracy) == 2
    np.testing.assert_allclose(session.head_accuracy, outcome.facts["accuracy"], atol=1e-4)
    assert tokens_of(run("medusa", session)) == tokens_of(run("autoregressive", session)), "the model is unchanged"
    assert outcome.facts["head_params"] == 2 * 64 * 64 and outcome.note


def test_a_killed_training_goes_on_with_the_same_curve(folder: Path, tmp_path: Path, questions: str) -> None:
    whole = Job(tmp_path / "whole")
    train(folder, tmp_path / "a", whole, questions)
    stopped = Job(tmp_path / "stopped", stop_step=5)
    with pytest.raises(Stopped):
        train(folder, tmp_path / "b", stopped, questions)
    again = Job(tmp_path / "stopped")
    train(folder, tmp_path / "c", again, questions)
    assert "Letting the model answer" not in again.notes, "the answers were kept"
    assert [p[0] for p in stopped.curves] == [1, 5] and len(whole.curves) > 2
    curves = [[(step, values["loss"]) for step, _, values in w.curves] for w in (whole, again)]
    assert curves[0] == curves[1], "what was reached before comes first"
    a, c = ((tmp_path / name / "medusa_heads.safetensors").read_bytes() for name in "ac")
    assert a == c


def test_a_loss_that_is_no_number_is_told(folder: Path, tmp_path: Path, questions: str) -> None:
    from safetensors.torch import load_file, save_file

    path = tmp_path / "damaged"
    shutil.copytree(hf_folder(folder), path)
    tensors = load_file(path / "model.safetensors")
    tensors["model.norm.weight"][3] = float("nan")
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "out").mkdir()
    params = msgspec.convert({**PARAMS, "domain": questions}, TRAINER.Params)
    with pytest.raises(ExplorerError, match="The loss became nan") as told:
        TRAINER.run(source_of(path), params, tmp_path / "out", Job(tmp_path / "job"))
    assert told.value.hint and not list((tmp_path / "out").iterdir())


def test_models_without_a_tree_are_refused(tmp_path: Path) -> None:
    from transformers import MistralConfig

    MistralConfig(sliding_window=8, num_hidden_layers=2).save_pretrained(tmp_path)
    with pytest.raises(ExplorerError, match="full attention"):
        TRAINER.check(specs.read(tmp_path / "config.json", "config"), TRAINER.Params())


def test_params_have_names_for_the_result() -> None:
    assert TRAINER.suffix(TRAINER.Params(heads=4)) == "medusa4" and Guesses().n_nodes <= 16
