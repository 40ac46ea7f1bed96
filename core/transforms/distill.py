"""A student learns a teacher's probabilities on text that the teacher wrote: a smaller model, or a pruned one healed.

Hinton, Vinyals and Dean, "Distilling the knowledge in a neural network" (arXiv 1503.02531). The loss is
tau^2 KL(teacher || student) at the temperature tau. Weights that are zero in the student stay zero, so that a pruned
model keeps its pattern.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from msgspec import Meta

from core.tokenizers.library import library_tokenizer
from core.training import losses
from core.training.examples import Batches, Example
from core.training.loop import Objective, train
from core.training.packing import pack, plain_attention
from core.training.self_written import written
from core.transforms import _blocks, _calibration, _torch_model, _tuning
from core.types import Job, ModelSpec, Outcome, Record, Source, Transform, Words
from hardware.errors import ExplorerError

SEED_TOKENS = (4, 16)  # how long the beginnings of free text are
SAMPLED_SHARE = 0.1  # of the student's weights may be zero by chance; more are a pattern


class Distilling(Record):
    """Who learns from whom, and on what: `steps` or `minutes`, whichever comes first; empty is no limit.

    teacher: the model to learn from; empty for the model itself before blocks are left out.
    keep_layers: blocks the student keeps, at equal distances; 0 for all.
    domain: whose prompts the teacher answers: sql, sql_easy, arithmetic, a .jsonl file; open for free text.
    texts: how many of them.
    length: tokens that the teacher writes, at most.
    temperature: of the teacher's writing; 0 is greedy.
    tau: of the probabilities that are compared.
    minutes: of training.
    steps: of the optimizer. With steps alone the same seed gives the same model on the same machine.
    batch: texts per step.
    learning_rate: at its highest; it rises in the beginning and falls to zero as a cosine.
    probe_minutes: training time between two looks.
    """

    teacher: Words = ""
    keep_layers: Annotated[int, Meta(ge=0, le=1000)] = 0
    domain: Words = "open"
    texts: Annotated[int, Meta(ge=10, le=200_000)] = 1_000
    length: Annotated[int, Meta(ge=1, le=4096)] = 96
    temperature: Annotated[float, Meta(ge=0, le=10)] = 1.0
    tau: Annotated[float, Meta(gt=0, le=100)] = 2.0
    minutes: Annotated[float, Meta(gt=0, le=10_000)] | None = 20.0
    steps: Annotated[int, Meta(ge=1, le=1_000_000)] | None = None
    batch: Annotated[int, Meta(ge=1, le=256)] = 16
    learning_rate: Annotated[float, Meta(gt=0, le=1)] = 2e-4
    probe_minutes: Annotated[float, Meta(gt=0, le=1000)] = 4.0


class Distill:
    name = "distill"
    label = "Distill"
    backend = "pytorch"
    formats: tuple[str, ...] = ("hf",)
    trains = True
    Params = Distilling

    def unavailable(self) -> str | None:
        return _torch_model.unavailable()

    def check(self, spec: ModelSpec, params: Distilling) -> None:
        _tuning.check_decoder(spec, self.label)
        _tuning.budget(params.steps, params.minutes)
        if params.keep_layers >= spec.n_blocks:
            raise ExplorerError(
                f"{spec.name} has {spec.n_blocks} blocks, and {params.keep_layers} are to be kept.",
                f"Choose a number below {spec.n_blocks}, or 0 for all.",
            )
        if not params.teacher and not params.keep_layers:
            raise ExplorerError(
                "A model cannot learn from itself.", "Choose a teacher, or how many blocks the student keeps."
            )

    def suffix(self, params: Distilling) -> str:
        return f"distilled{params.keep_layers}" if params.keep_layers else "distilled"

    def run(self, source: Source, params: Distilling, out: Path, job: Job) -> Outcome:
        _tuning.room(job.folder, source.spec.n_params)
        origin = job.open(params.teacher, self.formats) if params.teacher else source
        teacher, student = _torch_model.load(origin, job), _torch_model.load(source, job)
        pupil = _tuning.Pupil(student, source, job, _domain(params), params.texts, 0)
        _check_tokenizer(pupil.tokenizer, origin)
        config = {}
        if params.keep_layers:
            config = _blocks.keep(student, source, _blocks.evenly(source.spec.n_blocks, params.keep_layers))
        plain_attention(teacher)
        n_zero = _keep_zeros(student)

        context = min(source.spec.max_context or 1 << 20, origin.spec.max_context or 1 << 20)
        length = min(params.length, context // 2)
        prompts = [p for p in _prompts(pupil, params, job.seed) if len(p) + length <= context]
        if not prompts:
            raise ExplorerError(f"No prompt fits in {context} tokens beside its answer.", "Set length lower.")
        examples = written(teacher, prompts, pupil.end, length, job, params.temperature)
        held_out, examples = examples[: len(examples) // 10], examples[len(examples) // 10 :]
        batches = Batches(examples, params.batch, job.seed)

        def loss(step: int) -> tuple[Any, dict[str, float]]:
            import torch

            packed = pack(batches[step], [() for _ in batches[step]])
            with torch.no_grad():
                wanted = losses.logits(teacher, packed)[0]
            return losses.distillation(losses.logits(student, packed)[0], wanted, params.tau), {}

        def probe() -> dict[str, float]:
            return quality(student, teacher, held_out, params.batch)

        report = train(
            student,
            Objective(loss, probe, score="same_choice"),
            _tuning.budget(params.steps, params.minutes),
            job,
            params.learning_rate,
            params.probe_minutes,
        )
        _torch_model.save(student, source, out, job, **config)
        probes = [(step, values) for step, values in report.points if "divergence" in values]
        after = next(values for step, values in reversed(probes) if step == report.best_step)
        return Outcome(
            note=f"Distilled from {origin.entry.label} on {len(examples)} texts it wrote.",
            facts={
                "steps": report.steps,
                "training_s": round(report.seconds, 1),
                "before": probes[0][1],
                "after": after,
                "held_out_texts": len(held_out),
                "zeros_kept": n_zero,
            },
        )


def _domain(params: Distilling) -> str | None:
    return None if params.domain == "open" else params.domain


def _prompts(pupil: _tuning.Pupil, params: Distilling, seed: int) -> list[list[int]]:
    """The domain's prompts, or short pieces of the app's calibration text to go on from."""
    if params.domain != "open":
        return [pupil.prompt(q.prompt) for q in pupil.questions()]
    rng = np.random.default_rng([seed, 5])
    passages = [pupil.encode(text) for text in _calibration.PASSAGES]
    found: list[list[int]] = []
    for _ in range(params.texts):
        passage = passages[int(rng.integers(len(passages)))]
        n = int(rng.integers(*SEED_TOKENS))
        start = int(rng.integers(max(1, len(passage) - n)))
        found.append(passage[start : start + n])
    return found


def _check_tokenizer(tokenizer: Any, origin: Source) -> None:
    if library_tokenizer(Path(origin.path)).get_vocab() != tokenizer.get_vocab():
        raise ExplorerError(
            f"{origin.entry.label} has another tokenizer than the student.", "Choose a teacher of the same family."
        )


def _keep_zeros(model: Any) -> int:
    """Weights of matrices that are zero on purpose get no gradient; returns how many there are."""
    n = 0
    for parameter in model.parameters():
        kept = parameter.detach() != 0
        zeros = int((~kept).sum())
        if parameter.ndim == 2 and zeros > SAMPLED_SHARE * kept.numel():
            parameter.register_hook(lambda gradient, kept=kept: gradient * kept)
            n += zeros
    return n


def quality(student: Any, teacher: Any, texts: list[Example], batch: int) -> dict[str, float]:
    """On texts the teacher wrote: divergence in nats per token, perplexity, share of the same first choice."""
    import torch

    n, divergence, nats, same = 0, 0.0, 0.0, 0
    for start in range(0, len(texts), batch):
        part = texts[start : start + batch]
        packed = pack(part, [() for _ in part])
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
            found, wanted = losses.logits(student, packed)[0], losses.logits(teacher, packed)[0]
            n += len(found)
            divergence += float(losses.distillation(found, wanted, 1.0)) * len(found)
            nats += float(losses.autoregressive(found, packed)) * len(found)
            same += int((found.argmax(-1) == wanted.argmax(-1)).sum())
    return {"divergence": divergence / n, "perplexity": math.exp(nats / n), "same_choice": same / n}


plugin: Transform = Distill()
