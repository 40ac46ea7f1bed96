"""Train Medusa heads for a model on what it says itself in a domain; the model stays as it is.

Cai et al., "Medusa" (2401.10774, Medusa-1). The heads share the model's unembedding, so each adds one matrix of
the hidden width squared. They are stored beside the unchanged model, with how often each ranked guess was right
on questions that they were not trained on, from which the decoding strategy builds its tree.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta

from core import domains
from core.tokenizers.library import library_tokenizer
from core.training import greedy, loop
from core.transforms import _head_training as training
from core.transforms import _torch_model, _tuning
from core.types import Attention, Job, ModelSpec, Outcome, Record, Source, Transform, Words
from hardware.errors import ExplorerError

FILE, KEY = "medusa_heads.safetensors", "medusa_heads"
RANKS = 10  # guesses of a head whose accuracy is measured
TEST_SHARE, MOST_TESTS = 0.2, 100  # test questions for each training question, and at most
ANSWERS = "answers.json"
BATCH = 32  # prompts answered at once

Text = tuple[list[int], list[int]]  # ids of a prompt and of the model's own answer


class Heads(Record):
    """What to train, on what, and how long.

    heads: how many tokens behind the next are guessed.
    domain: sql, sql_easy, arithmetic, or the path of a .jsonl file of prompts.
    questions: prompts that the model answers for the training.
    answer_tokens: of an answer at most.
    epochs: times that every answer is seen.
    batch: tokens per step.
    learning_rate: of AdamW, falling along a cosine.
    """

    heads: Annotated[int, Meta(ge=1, le=8)] = 3
    domain: Words = "sql"
    questions: Annotated[int, Meta(ge=8, le=20_000)] = 400
    answer_tokens: Annotated[int, Meta(ge=8, le=1024)] = 96
    epochs: Annotated[int, Meta(ge=1, le=100)] = 4
    batch: Annotated[int, Meta(ge=8, le=4096)] = 256
    learning_rate: Annotated[float, Meta(gt=0, le=1)] = 1e-3


class MedusaHeads:
    name = "medusa_heads"
    label = "Train Medusa heads"
    backend = "pytorch"
    formats: tuple[str, ...] = ("hf",)
    trains = True
    Params = Heads

    def unavailable(self) -> str | None:
        return _torch_model.unavailable()

    def check(self, spec: ModelSpec, params: Heads) -> None:
        cores = [layer.op for layer in spec.layers if isinstance(layer.op, Attention)]
        if not spec.causal or not cores or any(core.window for core in cores):
            raise ExplorerError(
                "Medusa heads need a causal model with full attention in every block.",
                "Choose a model without recurrent state, sliding window or encoder.",
            )

    def suffix(self, params: Heads) -> str:
        return f"medusa{params.heads}"

    def run(self, source: Source, params: Heads, out: Path, job: Job) -> Outcome:
        model = _torch_model.load(source, job)
        test, train = _answers(model, Path(source.path), params, job)
        n_texts = len(test) + len(train)

        def tell(done: int) -> None:
            job.progress("Reading the answers", done, n_texts, "answers")
            job.check()

        found = [training.states(model, part, params.heads, tell) for part in (test, train) if part]
        if len(found) < 2 or not all(len(states.hidden) for states in found):
            raise ExplorerError("The domain has too few questions to train on.", "Give it more prompts.")
        held_out, learned = found
        unembed = model.get_output_embeddings()
        weight = _train(learned, unembed, params, job)
        job.progress("Judging the heads")
        accuracy = training.accuracy(weight, held_out, unembed, RANKS)
        _write(source, out, weight, accuracy, job)
        return Outcome(
            note=f"{params.heads} Medusa heads trained on {params.domain}; the model itself is its parent.",
            facts={
                "domain": params.domain,
                "train_tokens": len(learned.hidden),
                "test_tokens": len(held_out.hidden),
                "accuracy": [[round(share, 4) for share in row] for row in accuracy],
                "head_params": weight.numel(),
            },
        )


# ---------------------------------------------------------------- the training


def _train(learned: training.States, unembed: Any, params: Heads, job: Job) -> Any:
    """The heads' matrices, (n_heads, d, d); goes on from the loop's checkpoint in job.folder."""
    import torch

    d, n = learned.hidden.shape[1], len(learned.hidden)
    heads = torch.nn.Module()
    heads.weight = torch.nn.Parameter(torch.zeros(params.heads, d, d))

    def loss(step: int) -> tuple[Any, dict[str, float]]:
        rows = training.batch(n, step, params.batch, job.seed)
        part = training.States(learned.hidden[rows], learned.labels[rows])
        total, means = training.loss(heads.weight, part, unembed)
        return total, {f"head_{k}": float(mean) for k, mean in enumerate(means, 1)}

    steps = max(1, params.epochs * n // params.batch)
    loop.train(heads, loop.Objective(loss), loop.Budget(steps, None), job, params.learning_rate)
    return heads.weight.detach()


# ---------------------------------------------------------------- what is learned


def _answers(model: Any, folder: Path, params: Heads, job: Job) -> tuple[list[Text], list[Text]]:
    """The model's greedy answers to test questions and to training questions.

    Kept in job.folder after every batch, so that they are written once.
    """
    tokenizer = library_tokenizer(folder)
    job.progress("Writing the questions")
    n_test = min(MOST_TESTS, max(4, round(params.questions * TEST_SHARE)))
    test = domains.load(params.domain, "test", n_test, job.seed)
    questions = [*test, *domains.load(params.domain, "train", params.questions, job.seed)]
    prompts = [_ids(tokenizer, question.prompt) for question in questions]
    ends = _ends(model, tokenizer)
    file = job.folder / ANSWERS
    answers: list[Sequence[int]] = json.loads(file.read_text()) if file.exists() else []
    while len(answers) < len(prompts):
        job.progress("Letting the model answer", len(answers), len(prompts), "answers")
        job.check()
        answers += greedy.answers(model, prompts[len(answers) :][:BATCH], ends, params.answer_tokens, BATCH)
        part = file.with_suffix(".part")
        part.write_text(json.dumps(answers))
        part.replace(file)
    texts = [(prompt, list(answer)) for prompt, answer in zip(prompts, answers, strict=True)]
    return texts[: len(test)], texts[len(test) :]


def _ends(model: Any, tokenizer: Any) -> frozenset[int]:
    """Every id that the model's own files call an end."""
    named = (getattr(owner, "eos_token_id", None) for owner in (model.generation_config, model.config, tokenizer))
    return frozenset(i for ids in named if ids is not None for i in (ids if isinstance(ids, list) else [ids]))


def _ids(tokenizer: Any, prompt: str) -> list[int]:
    return _tuning.prompt_ids(tokenizer, prompt, prompt)


def _write(source: Source, out: Path, weight: Any, accuracy: Sequence[Sequence[float]], job: Job) -> None:
    from safetensors.torch import save_file

    job.progress("Writing the model")
    config = _torch_model.config_of(source) | {KEY: {"accuracy": [list(row) for row in accuracy]}}
    for file in sorted(Path(source.path).iterdir()):
        if file.is_file() and file.name not in ("config.json", "roofscope.json", "artifact.json", FILE):
            job.check()
            shutil.copyfile(file, out / file.name)
    (out / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    save_file({f"{KEY}.weight": weight.contiguous()}, out / FILE, metadata={"format": "pt"})


plugin: Transform = MedusaHeads()
