"""Packing, noise, losses and the loop of training, on tiny models."""

from __future__ import annotations

import itertools
import math
import multiprocessing
import resource
import signal
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from core import domains
from core.backends.pytorch.session import TorchSession
from core.decoding import jacobi as one_by_one
from core.domains import Question, sql
from core.models import spec as specs
from core.training import checkpoint, greedy, jacobi, loop, losses, states
from core.training.examples import Batches, Example, of_questions
from core.training.loop import Budget, Objective, train
from core.training.packing import State, pack
from core.training.questions import FILE, Questions
from core.types import GenerationConfig
from hardware.errors import ExplorerError

pytestmark = pytest.mark.engine("pytorch")


def tiny(vocab: int = 40, seed: int = 0) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    torch.set_num_threads(1)
    config = LlamaConfig(
        vocab_size=vocab,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        initializer_range=0.3,
        tie_word_embeddings=True,
    )
    return LlamaForCausalLM(config).eval()


def random_examples(n: int, seed: int = 0) -> list[Example]:
    rng = np.random.default_rng(seed)
    lengths = [(int(rng.integers(3, 9)), int(rng.integers(2, 14))) for _ in range(n)]
    return [
        Example(tuple(rng.integers(40, size=p).tolist()), tuple(rng.integers(40, size=a).tolist())) for p, a in lengths
    ]


class StandIn:
    """core.types.Job for tests: keeps what it is told, and raises when told to."""

    def __init__(self, folder: Path, stop_at: int | None = None) -> None:
        self.folder, self.seed, self.threads = folder, 0, 1
        self.points: list[tuple[int, dict[str, float]]] = []
        self.warnings: list[str] = []
        self.stop_at = stop_at
        self.step = 0
        self.told: list[tuple[str, float | None, float | None]] = []

    def progress(self, note: str, done: float | None = None, total: float | None = None, unit: str = "") -> None:
        self.told.append((note, done, total))
        self.step = int(done or 0) if note == "Training" else self.step

    def curve(self, step: int, total: int, **values: float) -> None:
        self.points.append((step, values))
        assert 0 <= step <= total

    def warn(self, message: str) -> None:
        self.warnings.append(message)

    def check(self) -> None:
        if self.stop_at is not None and self.step >= self.stop_at:
            raise KeyboardInterrupt

    def open(self, model: str, formats: tuple[str, ...]) -> Any:
        raise NotImplementedError


# ---------------------------------------------------------------- packing


@torch.no_grad()
def test_one_packed_forward_equals_a_forward_for_every_state() -> None:
    model, examples = tiny(), random_examples(5)
    noise = states.rollout(model, examples, np.random.default_rng(0), window=6, trajectories=3, steps=4)
    packed = pack(examples, noise)
    clean, noisy = losses.logits(model, packed)
    expected_clean, expected_noisy = [], []
    for example, own in zip(examples, noise, strict=True):
        expected_clean.append(model(torch.tensor([example.ids])).logits[0, len(example.prompt) - 1 : -1])
        for state in own:
            window = model(torch.tensor([example.ids[: state.start] + state.guess])).logits[0, state.start :]
            expected_noisy.append(window[state.wrong_from(example.ids) :])
    assert sum(map(len, noise)) > 20
    assert torch.allclose(clean, torch.cat(expected_clean), atol=1e-5)
    assert torch.allclose(noisy, torch.cat(expected_noisy), atol=1e-5)
    assert packed.answer_targets.tolist() == [t for e in examples for t in e.answer]  # the first token too


def test_a_guess_learns_only_behind_its_first_wrong_token() -> None:
    example = Example((1, 2), (3, 4, 5, 6, 7))
    packed = pack([example], [[State(2, (3, 9, 9)), State(3, (4, 5, 6))]])
    assert packed.guess_targets.tolist() == [5, 6]  # after the wrong 4 and the wrong 5; the second is a fixed point
    assert packed.positions[0].tolist() == [0, 1, 2, 3, 4, 5, 2, 3, 4, 3, 4, 5]
    mask = packed.mask[0, 0]
    assert mask[7].nonzero()[0].tolist() == [0, 1, 6, 7]  # the prompt, and its own guess so far
    assert mask[9].nonzero()[0].tolist() == [0, 1, 2, 9]
    assert mask[4].nonzero()[0].tolist() == [0, 1, 2, 3, 4]


def test_a_sliding_step_keeps_what_is_behind_the_accepted_tokens() -> None:
    example = Example((1, 2), (3, 4, 5, 6, 7, 8))
    rng = np.random.default_rng(0)
    after = states.advance(State(2, (3, 9, 9)), [4, 50, 60], example, rng, window=4)
    assert after is not None and after.start == 4  # 3 was right, and the 4 after it came free
    assert after.guess[:2] == (50, 60) and len(after.guess) == 3  # filled up to the window
    assert after.guess[2] in example.ids[:4]  # with what has been read
    filled = states.advance(State(2, (3, 9, 9)), [4, 50, 60], example, rng, window=4, fill=39)
    assert filled == State(4, (50, 60, 39))
    assert states.advance(State(4, (5, 6, 7)), [6, 7, 8], example, rng, window=4) is None  # the answer is complete


@torch.no_grad()
def test_states_are_those_of_the_models_own_decoding() -> None:
    model = tiny()
    prompt = tuple(range(5, 12))
    (answer,) = greedy.answers(model, [prompt], frozenset(), limit=12)
    example = Example(prompt, answer)
    for state in states.rollout(model, [example], np.random.default_rng(3), window=5, trajectories=1, steps=6)[0]:
        again = model(torch.tensor([example.ids[: state.start] + state.guess])).logits[0].argmax(-1).tolist()
        assert again[state.start - 1] == example.ids[state.start]  # a greedy answer: the free token is the known one
    few = states.rollout(model, [example], np.random.default_rng(3), window=5, trajectories=1, steps=6)[0]
    for a, b in itertools.pairwise(few):
        best = model(torch.tensor([example.ids[: a.start] + a.guess])).logits[0, a.start :].argmax(-1).tolist()
        agreed = a.wrong_from(example.ids)
        assert b.start == a.start + agreed + 1
        assert b.guess[: len(best) - agreed] == tuple(best[agreed:])[: len(b.guess)]


# ---------------------------------------------------------------- losses


@torch.no_grad()
def test_a_fixed_point_has_no_consistency_loss() -> None:
    model, example = tiny(), Example((1, 2), (3, 4, 5, 6))
    packed = pack([example], [[State(2, (3, 4, 5))]])
    clean, noisy = losses.logits(model, packed)
    assert float(losses.consistency(clean, noisy, packed, "ce")) == 0
    assert float(losses.consistency(clean, noisy, packed, "kl")) == 0


def test_losses_by_hand() -> None:
    example = Example((1,), (0, 1, 2))
    packed = pack([example], [[State(1, (2, 1))]])  # outputs stand for tokens 2 and 3: ids 1 and 2
    clean = torch.log(torch.tensor([[0.5, 0.25, 0.25], [0.2, 0.6, 0.2], [0.1, 0.1, 0.8]]))
    noisy = torch.log(torch.tensor([[0.4, 0.4, 0.2], [0.5, 0.25, 0.25]]))
    assert float(losses.autoregressive(clean, packed)) == pytest.approx(-np.log([0.5, 0.6, 0.8]).mean(), rel=1e-5)
    assert float(losses.consistency(clean, noisy, packed, "ce")) == pytest.approx(-np.log([0.4, 0.25]).mean(), rel=1e-5)
    assert packed.behind.tolist() == [0, 1]  # guesses behind the first wrong one
    decayed = -(np.log(0.4) + 0.5 * np.log(0.25)) / 1.5
    assert float(losses.consistency(clean, noisy, packed, "ce", decay=0.5)) == pytest.approx(decayed, rel=1e-5)
    first = 0.2 * math.log(0.2 / 0.4) + 0.6 * math.log(0.6 / 0.4) + 0.2 * math.log(0.2 / 0.2)
    second = 0.1 * math.log(0.1 / 0.5) + 0.1 * math.log(0.1 / 0.25) + 0.8 * math.log(0.8 / 0.25)
    assert float(losses.consistency(clean, noisy, packed, "kl")) == pytest.approx((first + second) / 2, rel=1e-4)


def test_kl_holds_the_clean_side_fixed() -> None:
    packed = pack([Example((1,), (0, 1, 2))], [[State(1, (2, 1))]])
    clean, noisy = torch.randn(3, 3, requires_grad=True), torch.randn(2, 3, requires_grad=True)
    losses.consistency(clean, noisy, packed, "kl").backward()
    assert clean.grad is None and noisy.grad is not None


def test_distillation_by_hand() -> None:
    student, teacher = torch.tensor([[0.0, 0.0]]), torch.tensor([[2 * math.log(3.0), 0.0]])
    p = 0.75  # at temperature 2 the teacher's odds are 3 to 1
    expected = 4 * (p * math.log(p / 0.5) + (1 - p) * math.log((1 - p) / 0.5))
    assert float(losses.distillation(student, teacher, 2.0)) == pytest.approx(expected, rel=1e-5)
    assert float(losses.distillation(teacher, teacher, 2.0)) == pytest.approx(0, abs=1e-7)


# ---------------------------------------------------------------- examples


def test_every_pass_sees_each_example_once() -> None:
    examples = random_examples(103)
    batches = Batches(examples, 4, seed=1)
    first = [batches[i] for i in range(25)]
    assert len({id(e) for batch in first for e in batch}) == 100
    assert [batches[i] for i in range(25, 50)] != first
    assert [Batches(examples, 4, seed=1)[i] for i in (49, 3)] == [batches[49], first[3]]


def test_questions_become_examples() -> None:
    questions = [Question(id="1", cluster="a", prompt="ab", answer="c"), Question(id="2", cluster="a", prompt="x" * 90)]
    encode = lambda text: [ord(c) for c in text]  # noqa: E731
    assert list(of_questions(questions, encode, encode, 0, 10)) == [Example((97, 98), (99, 0))]
    with pytest.raises(ExplorerError, match="longer than 3 tokens"):
        list(of_questions(questions, encode, encode, 0, 3))
    with pytest.raises(ExplorerError, match="has an answer"):
        list(of_questions(questions[1:], encode, encode, 0, 10))


def test_a_step_asks_for_no_more_examples_than_its_group() -> None:
    examples, asked = random_examples(1000), list[int]()

    def coming() -> Iterator[Example]:
        for i, example in enumerate(examples):
            asked.append(i)
            yield example

    batches = Batches(coming(), 4, seed=1)
    first = batches[0]
    assert len(asked) == 8 * 4  # a group of eight batches
    assert {id(e) for i in range(8) for e in batches[i]} == {id(e) for e in examples[:32]}
    assert len(asked) == 32 and batches.seen(5) == 20
    assert Batches(examples, 4, seed=1)[0] == first  # whether they come one by one or lie there
    assert Batches(coming(), 4, seed=1)[700] == Batches(examples, 4, seed=1)[700]  # of a later pass


def test_questions_are_written_as_they_are_needed_and_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = StandIn(tmp_path)
    job.seed = 3
    expected = domains.load("sql", "train", 150, 3)
    first = Questions("sql", 20_000, 10, job)
    assert first.held_out == expected[:10]
    assert [q.prompt for q in islice(first, 40)] == [q.prompt for q in expected[10:50]]
    n_written = len((tmp_path / FILE).read_bytes().splitlines())
    assert n_written == 2  # twice 32: 50 were asked for
    with (tmp_path / FILE).open("ab") as file:
        file.write(b'{"of": "sql 3", "questions": [')  # a kill in the middle of a line
    monkeypatch.setattr(sql, "_good", lambda *_: pytest.fail("a kept question was written again"))
    again = Questions("sql", 20_000, 10, job)
    assert again.held_out == expected[:10]
    assert [q.answer for q in islice(again, 54)] == [q.answer for q in expected[10:64]]
    monkeypatch.undo()
    assert [q.prompt for q in islice(again, 140)] == [q.prompt for q in expected[10:]]
    assert Questions("sql_easy", 20_000, 10, job).held_out == domains.load("sql_easy", "train", 10, 3)


def test_a_file_has_no_more_questions_than_it_has(tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl"
    path.write_text("".join(f'{{"prompt": "p{i}", "answer": "a", "cluster": "c"}}\n' for i in range(12)))
    found = Questions(str(path), 20_000, 60, StandIn(tmp_path))
    assert len(found.held_out) == 2 and len(found.all()) == 10
    assert {q.prompt for q in (*found.held_out, *found.all())} == {f"p{i}" for i in range(12)}


def test_what_is_held_out_is_not_trained_on_and_can_be_judged(tmp_path: Path) -> None:
    """Whatever a file repeats; and questions without an answer are held out last."""
    path = tmp_path / "own.jsonl"
    rows = [f'{{"prompt": "p{i % 6}", "cluster": "c"}}\n' for i in range(18)]
    rows += [f'{{"prompt": "q{i % 3}", "cluster": "c", "answer": "a"}}\n' for i in range(6)]
    path.write_text("".join(rows))
    found = Questions(str(path), 20_000, 4, StandIn(tmp_path))
    held_out = {q.prompt for q in found.held_out}
    assert len(found.held_out) == 4 and held_out <= {"q0", "q1", "q2"}
    assert held_out.isdisjoint(q.prompt for q in found.all())


@torch.no_grad()
def test_batched_answers_equal_those_one_by_one() -> None:
    model = tiny()
    prompts = [e.prompt for e in random_examples(7)]
    alone = [greedy.answers(model, [p], frozenset({3}), 12)[0] for p in prompts]
    seen: list[int] = []
    assert greedy.answers(model, prompts, frozenset({3}), 12, batch=4, done=seen.append) == alone
    assert seen == [4, 7]
    assert all(3 not in a[:-1] for a in alone)
    drawn = [greedy.answers(model, prompts, frozenset({3}), 12, temperature=2.0, seed=s) for s in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]


class NoTokenizer:
    chat_template, bos_token, eos_token, eos_token_id = None, "", "$", 3

    def encode(self, text: str, **_: Any) -> list[int]:
        return [{"$": 3, "a": 4}[c] for c in text]


@pytest.mark.parametrize("fill", ["context", "end"])
def test_batched_jacobi_decoding_is_the_strategys(fill: Any) -> None:
    model = tiny()
    prompts = [e.prompt for e in random_examples(7)]
    session = TorchSession(model, NoTokenizer(), specs.from_config(model.config.to_dict()), "cpu")
    config = GenerationConfig(limit=14, stop=frozenset({3}))
    last = 3 if fill == "end" else None
    decoded = jacobi.decode(model, prompts, frozenset({3}), 14, window=6, fill=last, batch=4)
    settings = one_by_one.Window(window=6, fill=fill)
    for prompt, seen in zip(prompts, decoded, strict=True):
        steps = [*one_by_one.plugin.decode(session, np.array([prompt]), config, settings)]
        assert seen.ids == tuple(token for step in steps if step.tokens for token in step.tokens[0])
        assert seen.n_forward == sum(step.phase == "decode" for step in steps)
    assert sum(d.n_forward for d in decoded) > 20


# ---------------------------------------------------------------- the loop


def counting(model: Any, examples: list[Example], n: int = 8) -> Objective:
    batches = Batches(examples, n, 0)

    def loss(step: int) -> tuple[Any, dict[str, float]]:
        packed = pack(batches[step], [()] * n)
        return losses.autoregressive(losses.logits(model, packed)[0], packed), {}

    return Objective(loss)


def without_time(points: Any) -> list[tuple[int, dict[str, float]]]:
    return [(step, {k: v for k, v in values.items() if k != "minutes"}) for step, values in points]


def learn(folder: Path, steps: int, stop_at: int | None = None, job: StandIn | None = None) -> tuple[Any, StandIn]:
    model, job = tiny(), job or StandIn(folder, stop_at)
    objective = counting(model, random_examples(40))
    probed = Objective(objective.loss, lambda: {"accuracy": 1.0, "seen": 0.0}, "accuracy", "accuracy")
    train(model, probed, Budget(steps, None), job, 1e-2, probe_steps=10)
    return model, job


def test_the_loss_falls(tmp_path: Path) -> None:
    _, job = learn(tmp_path, 60)
    seen = [values["loss"] for _, values in job.points if "loss" in values]
    assert seen[-1] < 0.8 * seen[0]


def test_a_stopped_training_goes_on_to_the_same_curve(tmp_path: Path) -> None:
    for name in ("whole", "parts"):
        (tmp_path / name).mkdir()
    model, job = learn(tmp_path / "whole", 30)
    with pytest.raises(KeyboardInterrupt):
        learn(tmp_path / "parts", 30, stop_at=12)
    assert (tmp_path / "parts" / checkpoint.NAME).exists()
    again, resumed = learn(tmp_path / "parts", 30)
    assert without_time(resumed.points) == without_time(job.points)
    for a, b in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)


FORK = multiprocessing.get_context("fork")  # PyTorch is loaded here; a process that loads it anew takes six seconds


class Slow(StandIn):
    """Stands still behind the eighth step."""

    def progress(self, *args: Any, **given: Any) -> None:
        super().progress(*args, **given)
        if self.step > 8:
            time.sleep(600)  # until it is killed


def until_killed(folder: Path) -> None:
    """In a child: trains with a checkpoint after every step."""
    loop.CHECKPOINT_S = 0.0
    learn(folder, 40, job=Slow(folder))


def test_a_killed_training_goes_on_to_the_same_curve(tmp_path: Path) -> None:
    _, whole = learn(tmp_path, 40)
    folder = tmp_path / "killed"
    folder.mkdir()
    child = FORK.Process(target=until_killed, args=(folder,), daemon=True)
    child.start()
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        state = checkpoint.load(folder)
        if state is not None and state["steps"] >= 7:
            break
        time.sleep(0.02)
    child.kill()
    child.join(60)
    assert child.exitcode == -signal.SIGKILL
    state = checkpoint.load(folder)
    assert state is not None and 7 <= state["steps"] < 40
    _, resumed = learn(folder, 40)
    assert without_time(resumed.points) == without_time(whole.points)


def test_a_loss_that_is_no_number_ends_it_with_a_sentence(tmp_path: Path) -> None:
    model = tiny()
    inner = counting(model, random_examples(20))

    def loss(step: int) -> tuple[Any, dict[str, float]]:
        value, more = inner.loss(step)
        return (value * math.inf if step == 3 else value), more

    with pytest.raises(ExplorerError, match=r"The loss became inf in step 4\. Lower the learning rate"):
        train(model, Objective(loss), Budget(10, None), StandIn(tmp_path), 1e-3)


def test_a_collapse_stops_it_and_brings_the_best_model_back(tmp_path: Path) -> None:
    model, job = tiny(), StandIn(tmp_path)
    accuracies = iter([0.5, 0.9, 0.3])
    kept: list[Any] = []

    def probe() -> dict[str, float]:
        accuracy = next(accuracies)
        if accuracy == 0.9:
            kept.extend(p.detach().clone() for p in model.parameters())
        return {"accuracy": accuracy}

    objective = Objective(counting(model, random_examples(20)).loss, probe, "accuracy", "accuracy", tolerance=0.2)
    report = train(model, objective, Budget(100, None), job, 1e-2, probe_steps=5)
    assert report.steps == 10 and report.best_step == 5
    assert report.stopped.startswith("accuracy fell from 0.90 to 0.30 after 10 steps")
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), kept, strict=True))


def test_a_budget_in_minutes_ends(tmp_path: Path) -> None:
    model, job = tiny(), StandIn(tmp_path)
    objective = Objective(counting(model, random_examples(20)).loss, lambda: {"accuracy": 1.0})
    report = train(model, objective, Budget(None, 0.01), job, 1e-3)
    assert report.seconds >= 0.6 and report.steps >= 1
    assert job.told[0] == ("Looking at its answers", None, None), 'not "0 of 1 steps"'


def on_a_full_disk(folder: Path, told: Any) -> None:
    """In a child: trains where no file may grow beyond 20 kB, as on a full disk."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
    try:
        learn(folder, 10)
    except ExplorerError as error:
        told.send(str(error))
    told.close()


def test_a_full_disk_is_one_sentence_and_nothing_half_written(tmp_path: Path) -> None:
    folder = tmp_path / "job"
    folder.mkdir()
    told, tells = FORK.Pipe(duplex=False)
    child = FORK.Process(target=on_a_full_disk, args=(folder, tells), daemon=True)
    child.start()
    tells.close()
    assert told.recv().startswith("A checkpoint of the training could not be written: File too large.")
    child.join(60)
    assert child.exitcode == 0 and not list(folder.iterdir())


# ---------------------------------------------------------------- what it is for


def test_consistency_training_makes_jacobi_decoding_faster(tmp_path: Path) -> None:
    """Three fixed sentences, chosen by the prompt's first token: learned one by one, they converge slowly."""
    rng = np.random.default_rng(0)
    sentences = [(*rng.integers(10, 38, size=12).tolist(), 39) for _ in range(3)]
    examples = [
        Example((which, *rng.integers(3, 10, size=4).tolist()), sentences[which])
        for which in range(3)
        for _ in range(20)
    ]
    model = tiny()
    train(model, counting(model, examples), Budget(150, None), StandIn(tmp_path), 5e-3, autocast=False)
    before = tokens_per_forward(model, examples)
    batches = Batches(examples, 8, 1)

    def loss(step: int) -> tuple[Any, dict[str, float]]:
        with torch.no_grad():
            noise = states.rollout(model, batches[step], np.random.default_rng([4, step]), 8, 2, 4)
        packed = pack(batches[step], noise)
        clean, noisy = losses.logits(model, packed)
        return losses.consistency(clean, noisy, packed, "ce") + 10 * losses.autoregressive(clean, packed), {}

    (tmp_path / checkpoint.NAME).unlink(missing_ok=True)
    train(model, Objective(loss), Budget(150, None), StandIn(tmp_path), 5e-3, autocast=False)
    after = tokens_per_forward(model, examples)
    assert after > 1.5 * before
    answers = greedy.answers(model.eval(), [e.prompt for e in examples], frozenset({39}), 20)
    assert answers == [e.answer for e in examples]  # and it still is right one token at a time


@torch.no_grad()
def tokens_per_forward(model: Any, examples: list[Example]) -> float:
    """Of sliding Jacobi decoding as the rollout does it, from the token after the first on."""
    model.eval()
    n_tokens = n_forward = 0
    for example in examples[::7]:
        rng = np.random.default_rng(0)
        window = states._window(example, len(example.prompt) + 1, (), rng, 8, None)
        while window is not None:
            best = model(torch.tensor([example.ids[: window.start] + window.guess])).logits[0, window.start :]
            after = states.advance(window, best.argmax(-1).tolist(), example, rng, 8)
            n_tokens += (after.start if after else len(example)) - window.start
            n_forward += 1
            window = after
    return n_tokens / n_forward


def test_denormals_are_back_behind_a_training(tmp_path: Path) -> None:
    """What runs later in this process, a measurement or a test, computes with them again."""
    learn(tmp_path, 2)
    assert (torch.tensor([2.0**-126]) / 2).tolist() == [2.0**-127]
