"""Tune a model on a domain, autoregressively: the teacher that consistency training starts from.

Full fine-tuning on the domain's gold answers, as Consistency LLMs do before anything else (arXiv 2403.00835, section
4.1), and the baseline whose quality must be kept.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta

from core.training import losses
from core.training.examples import Batches
from core.training.loop import Objective, train
from core.training.packing import pack
from core.transforms import _torch_model, _tuning
from core.types import Job, ModelSpec, Outcome, Record, Source, Transform, Words


class Tuning(Record):
    """What is learned, and for how long: `steps` or `minutes`, whichever comes first; empty is no limit.

    domain: sql, sql_easy, arithmetic, or the path of a .jsonl file with prompts and answers.
    examples: questions to learn from, at most; they are written as steps need them.
    minutes: of training.
    steps: of the optimizer. With steps alone the same seed gives the same model on the same machine.
    batch: examples per step.
    learning_rate: at its highest; it rises in the beginning and falls to zero as a cosine.
    max_tokens: longer examples are left out.
    probe_questions: held-out questions of the training split that show the accuracy on the way.
    probe_minutes: training time between two looks.
    """

    domain: Words = "sql"
    examples: Annotated[int, Meta(ge=1, le=200_000)] = 20_000
    minutes: Annotated[float, Meta(gt=0, le=10_000)] | None = 8.0
    steps: Annotated[int, Meta(ge=1, le=1_000_000)] | None = None
    batch: Annotated[int, Meta(ge=1, le=256)] = 16
    learning_rate: Annotated[float, Meta(gt=0, le=1)] = 2e-4
    max_tokens: Annotated[int, Meta(ge=16, le=8192)] = 512
    probe_questions: Annotated[int, Meta(ge=1, le=1000)] = 60
    probe_minutes: Annotated[float, Meta(gt=0, le=1000)] = 2.0


class Finetune:
    name = "finetune"
    label = "Tune on a domain"
    backend = "pytorch"
    formats: tuple[str, ...] = ("hf",)
    trains = True
    Params = Tuning

    def unavailable(self) -> str | None:
        return _torch_model.unavailable()

    def check(self, spec: ModelSpec, params: Tuning) -> None:
        _tuning.check_decoder(spec, self.label)
        _tuning.budget(params.steps, params.minutes)

    def suffix(self, params: Tuning) -> str:
        return f"tuned-{Path(params.domain).stem}"

    def run(self, source: Source, params: Tuning, out: Path, job: Job) -> Outcome:
        _tuning.room(job.folder, source.spec.n_params)
        model = _torch_model.load(source, job)
        pupil = _tuning.Pupil(model, source, job, params.domain, params.examples, params.probe_questions)
        limit = min(params.max_tokens, source.spec.max_context or params.max_tokens)
        batches, longest = Batches(pupil.examples(limit), params.batch, job.seed), pupil.longest(limit)

        def loss(step: int) -> tuple[Any, dict[str, float]]:
            batch = batches[step]
            packed = pack(batch, [() for _ in batch])
            value = losses.autoregressive(losses.logits(model, packed)[0], packed)
            return value, {}

        objective = Objective(
            loss, lambda: pupil.look(longest + longest // 4), score="accuracy", guard="accuracy", tolerance=0.2
        )
        report = train(
            model,
            objective,
            _tuning.budget(params.steps, params.minutes),
            job,
            params.learning_rate,
            params.probe_minutes,
        )
        if report.stopped:
            job.warn(report.stopped)
        _torch_model.save(model, source, out, job)
        seen = batches.seen(report.steps)
        note = f"Tuned on {seen} questions of {Path(params.domain).name} in {report.steps} steps."
        found = _tuning.facts(report, params.domain)
        return Outcome(note=note, facts=found | {"examples": seen, "loss": _last(report)})


def _last(report: Any) -> float | None:
    return next((values["loss"] for _, values in reversed(report.points) if "loss" in values), None)


plugin: Transform = Finetune()
