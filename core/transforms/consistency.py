"""Consistency training: a domain's teacher learns to jump to the end of its own Jacobi decoding.

Kou et al., "CLLMs: Consistency large language models" (arXiv 2403.00835), with the packed forward and the on-policy
noise of core.training.packing and core.training.states in place of stored trajectories. The result is decoded with
the strategy jacobi; it still is an autoregressive model of the domain.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from msgspec import Meta

from core.training import losses, states
from core.training.examples import Batches, Example
from core.training.loop import Objective, train
from core.training.packing import pack
from core.training.self_written import written
from core.transforms import _torch_model, _tuning
from core.types import Job, ModelSpec, Outcome, Record, Source, Transform, Words
from hardware.errors import ExplorerError

COLLAPSE = 0.4  # fall of the accuracy: the first hundred steps cost a tenth or two, which comes back


class Consistency(Record):
    """What is learned, and for how long: `steps` or `minutes`, whichever comes first; empty is no limit.

    domain: sql, sql_easy, arithmetic, or the path of a .jsonl file with prompts.
    examples: questions to learn from, at most; with gold answers they are written as steps need them.
    window: tokens per forward that the model learns to guess; a decoder may use fewer.
    minutes: of training.
    steps: of the optimizer. With steps alone the same seed gives the same model on the same machine.
    batch: examples per step.
    learning_rate: at its highest; it rises in the beginning and falls to zero as a cosine.
    ar_weight: of the loss that keeps the model right autoregressively, beside the consistency loss.
    loss: ce learns the text itself behind a wrong guess, kl the model's own distribution over the right text.
    decay: weight of a guess relative to the one before it, from the first wrong one of a window on.
    answers: gold learns the domain's answers, teacher the ones that the model gives before the training.
    fill: what stands in a window where nothing is guessed yet, here and in the decoder: the token that ends a turn,
    which is learned far sooner, or tokens of the context as in the paper.
    trajectories: decodings from noise per example and step.
    jacobi_steps: windows of each, as the decoder comes past them.
    guessed_tokens: of these windows per example that are learned from.
    max_tokens: longer examples are left out, and longer answers cut.
    probe_questions: held-out questions of the training split that show accuracy and speed on the way.
    probe_minutes: training time between two looks.
    """

    domain: Words = "sql"
    examples: Annotated[int, Meta(ge=1, le=200_000)] = 24_000
    window: Annotated[int, Meta(ge=2, le=256)] = 16
    minutes: Annotated[float, Meta(gt=0, le=10_000)] | None = 40.0
    steps: Annotated[int, Meta(ge=1, le=1_000_000)] | None = None
    batch: Annotated[int, Meta(ge=1, le=256)] = 4
    learning_rate: Annotated[float, Meta(gt=0, le=1)] = 3e-4
    ar_weight: Annotated[float, Meta(ge=0, le=1000)] = 10.0
    loss: Literal["ce", "kl"] = "ce"
    decay: Annotated[float, Meta(gt=0, le=1)] = 0.85
    answers: Literal["gold", "teacher"] = "gold"
    fill: Literal["context", "end"] = "end"
    trajectories: Annotated[int, Meta(ge=1, le=16)] = 2
    jacobi_steps: Annotated[int, Meta(ge=1, le=64)] = 4
    guessed_tokens: Annotated[int, Meta(ge=1, le=4096)] = 96
    max_tokens: Annotated[int, Meta(ge=16, le=8192)] = 512
    probe_questions: Annotated[int, Meta(ge=1, le=1000)] = 60
    probe_minutes: Annotated[float, Meta(gt=0, le=1000)] = 4.0


class ConsistencyTraining:
    name = "consistency"
    label = "Consistency training"
    backend = "pytorch"
    formats: tuple[str, ...] = ("hf",)
    trains = True
    Params = Consistency

    def unavailable(self) -> str | None:
        return _torch_model.unavailable()

    def check(self, spec: ModelSpec, params: Consistency) -> None:
        _tuning.check_decoder(spec, self.label)
        _tuning.budget(params.steps, params.minutes)
        if spec.max_context and params.window >= spec.max_context:
            raise ExplorerError(
                f"A window of {params.window} tokens is larger than the context of {spec.max_context} tokens.",
                "Make it smaller.",
            )

    def suffix(self, params: Consistency) -> str:
        return f"cllm-{Path(params.domain).stem}"

    def run(self, source: Source, params: Consistency, out: Path, job: Job) -> Outcome:
        _tuning.room(job.folder, source.spec.n_params)
        model = _torch_model.load(source, job)
        pupil = _tuning.Pupil(model, source, job, params.domain, params.examples, params.probe_questions)
        limit = min(params.max_tokens, source.spec.max_context or params.max_tokens)
        if params.answers == "gold":
            batches, longest = Batches(pupil.examples(limit), params.batch, job.seed), pupil.longest(limit)
        else:
            own = own_answers(pupil, limit, job)
            batches, longest = Batches(own, params.batch, job.seed), max(len(e.answer) for e in own)
        fill = pupil.last if params.fill == "end" else None

        def loss(step: int) -> tuple[Any, dict[str, float]]:
            import torch

            batch, rng = batches[step], np.random.default_rng([job.seed, 3, step])
            with torch.no_grad():
                noise = states.rollout(model, batch, rng, params.window, params.trajectories, params.jacobi_steps, fill)
            packed = pack(batch, states.thinned(noise, rng, params.guessed_tokens))
            clean, noisy = losses.logits(model, packed)
            ar = losses.autoregressive(clean, packed)
            con = losses.consistency(clean, noisy, packed, params.loss, params.decay)
            return con + params.ar_weight * ar, {"ar_loss": float(ar.detach()), "consistency_loss": float(con.detach())}

        judged = any(q.answer is not None for q in pupil.held_out)

        def probe() -> dict[str, float]:
            seen = dict(pupil.look(min(limit, longest + longest // 4), params.window, fill))
            right = {"right_tokens_per_forward": seen["accuracy"] * seen["tokens_per_forward"]} if judged else {}
            return seen | right

        if not judged:
            job.warn("No held-out question has an answer, so nobody sees whether the answers stay right on the way.")
        score, guard = ("right_tokens_per_forward", "accuracy") if judged else ("tokens_per_forward", None)
        report = train(
            model,
            Objective(loss, probe, score=score, guard=guard, tolerance=COLLAPSE),
            _tuning.budget(params.steps, params.minutes),
            job,
            params.learning_rate,
            params.probe_minutes,
        )
        if report.stopped:
            job.warn(report.stopped)
        _torch_model.save(model, source, out, job)
        found = _tuning.facts(report, params.domain)
        found |= {"examples": batches.seen(report.steps), "window": params.window, "fill": params.fill}
        return Outcome(
            note=f"Consistency training on {Path(params.domain).name}: decode it with Jacobi, fill {params.fill}.",
            facts=found,
        )


def own_answers(pupil: _tuning.Pupil, limit: int, job: Job) -> list[Example]:
    """The questions with the model's own greedy answers, up to `limit` tokens together."""
    prompts = [p for q in pupil.questions() if len(p := pupil.prompt(q.prompt)) < limit]
    if not prompts:
        raise ExplorerError(f"Every prompt is longer than {limit} tokens.", "Raise the setting max_tokens.")
    return written(pupil.model, prompts, pupil.end, limit - max(map(len, prompts)), job)


plugin: Transform = ConsistencyTraining()
