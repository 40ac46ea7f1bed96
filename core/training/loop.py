"""The loop that every training transform shares: optimizer, schedule, checkpoints, probes, and the reasons to stop.

A step is a function of the weights, the optimizer and the step's number alone: batches and noise are drawn from
(seed, step). So a run that was killed and goes on from a checkpoint makes the same curve as one that was not, where
its length is set in steps; a length in minutes depends on the machine.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from core.training import checkpoint
from core.types import Job
from hardware.errors import ExplorerError

WARM_UP = 0.04  # share of the training
CHECKPOINT_S = 120.0
BETAS = (0.9, 0.95)
CLIP = 1.0  # norm of the gradient
REPORT_EVERY = 5  # steps between two points of the curve


@dataclass(frozen=True)
class Budget:
    """Training ends after `steps` or `minutes` of training time, whichever comes first; None: no limit."""

    steps: int | None
    minutes: float | None

    def share(self, steps: int, seconds: float) -> float:
        """How much of it is used, 0 to 1."""
        by_steps = steps / self.steps if self.steps else 0.0
        return min(1.0, max(by_steps, seconds / (60 * self.minutes) if self.minutes else 0.0))


@dataclass(frozen=True)
class Objective:
    """What is trained and how its progress is seen.

    loss: (step) -> (scalar to descend, values for the curve). Called under autocast, with gradients.
    probe: () -> values of the model as it decodes freely; must contain `score`'s and `guard`'s keys.
    score: the value whose best model is kept, among those that are not collapsed; None: the last model is kept.
    guard: a value that must not fall by more than `tolerance` below its highest seen; None: nothing is guarded.
    """

    loss: Callable[[int], tuple[Any, Mapping[str, float]]]
    probe: Callable[[], Mapping[str, float]] | None = None
    score: str | None = None
    guard: str | None = None
    tolerance: float = 0.15


@dataclass
class Report:
    """How it went. points: the curve, (step, values). stopped: why it ended early, one sentence."""

    steps: int = 0
    seconds: float = 0.0
    points: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    best_step: int = 0
    stopped: str = ""


def train(
    model: Any,
    objective: Objective,
    budget: Budget,
    job: Job,
    learning_rate: float,
    probe_minutes: float = 2.0,
    probe_steps: int | None = None,
    autocast: bool = True,
) -> Report:
    """Train `model` (fp32, in place) and leave the best weights in it.

    A checkpoint lies in job.folder whenever the user stops it, about every two minutes, and after every probe; the
    same call goes on from there. probe_minutes of training lie between two probes, or probe_steps where given. Raises
    ExplorerError when the loss is no number, when the model collapses at once, and when the disk is full.
    """
    return _Loop(model, objective, budget, job, learning_rate, probe_minutes, probe_steps, autocast).run()


@contextmanager
def _without_denormals(torch: Any) -> Iterator[None]:
    """Adam's second moments end among them, where processors take 100 times as long; the thread gets them back."""
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


class _Loop:
    def __init__(
        self,
        model: Any,
        objective: Objective,
        budget: Budget,
        job: Job,
        learning_rate: float,
        probe_minutes: float,
        probe_steps: int | None,
        autocast: bool,
    ) -> None:
        import torch

        assert budget.steps or budget.minutes, "a training needs an end"
        self.torch, self.model, self.objective, self.budget, self.job = torch, model, objective, budget, job
        self.rate, self.autocast = learning_rate, autocast
        self.probe_minutes, self.probe_steps = probe_minutes, probe_steps
        trained = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=learning_rate, betas=BETAS, weight_decay=0.0, fused=True)
        self.report = Report()
        self.best: float | None = None
        self.highest = -math.inf
        self.probed_step, self.probed_s, self.saved_at = -1, 0.0, time.monotonic()

    def run(self) -> Report:
        with _without_denormals(self.torch):
            return self._run()

    def _run(self) -> Report:
        self.torch.manual_seed(self.job.seed)
        self._resume()
        report = self.report
        while report.stopped == "" and self.budget.share(report.steps, report.seconds) < 1:
            if self._probe_is_due():
                self._probe()
                continue
            self._step()
            with self._saved_when_stopped():
                self._show()
            if time.monotonic() - self.saved_at > CHECKPOINT_S:
                self._save()
        if not report.stopped and report.steps != self.probed_step and self.objective.probe:
            self._probe()
        self._keep_best()
        return report

    def _step(self) -> None:
        torch, report = self.torch, self.report
        started = time.monotonic()
        share = self.budget.share(report.steps, report.seconds)
        ramp = min(1.0, (share + 1e-3) / WARM_UP)
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate * ramp * 0.5 * (1 + math.cos(math.pi * share))
        self.model.train()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.autocast):
            loss, values = self.objective.loss(report.steps)
        number = float(loss.detach())
        if not math.isfinite(number):
            raise ExplorerError(
                f"The loss became {number} in step {report.steps + 1}.",
                "Lower the learning rate and train again from the start.",
            )
        loss.backward()
        norm = float(torch.nn.utils.clip_grad_norm_(self.model.parameters(), CLIP))
        if math.isfinite(norm):  # one bad gradient would spoil every weight
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        report.steps += 1
        report.seconds += time.monotonic() - started
        if report.steps % REPORT_EVERY == 0 or report.steps == 1:
            report.points.append((report.steps, {"loss": number, **values, "minutes": report.seconds / 60}))

    def _show(self) -> None:
        report = self.report
        total = self._total()
        self.job.check()
        if report.points and report.points[-1][0] == report.steps:
            step, values = report.points[-1]
            self.job.curve(step, total, **values)
        self.job.progress("Training", report.steps, total, "steps")

    def _total(self) -> int:
        """Steps in all, as far as can be told from the time they take."""
        share = self.budget.share(self.report.steps, self.report.seconds)
        return max(self.report.steps, round(self.report.steps / share)) if share else self.budget.steps or 1

    # ------------------------------------------------------------ probes

    def _probe_is_due(self) -> bool:
        if self.objective.probe is None or self.probed_step == self.report.steps:
            return False
        if self.probed_step < 0:
            return True
        if self.probe_steps:
            return self.report.steps - self.probed_step >= self.probe_steps
        return self.report.seconds - self.probed_s >= 60 * self.probe_minutes

    def _probe(self) -> None:
        """Look at the model as it decodes freely; keep it if it is the best, stop if it has collapsed."""
        objective, report = self.objective, self.report
        assert objective.probe is not None
        self.model.eval()
        with self._saved_when_stopped():
            if report.steps or self.budget.steps:
                self.job.progress("Looking at its answers", report.steps, self._total(), "steps")
            else:  # nobody knows yet how many steps the minutes hold
                self.job.progress("Looking at its answers")
            values = dict(objective.probe())
        report.points.append((report.steps, values))
        self.probed_step, self.probed_s = report.steps, report.seconds
        guarded = values[objective.guard] if objective.guard else 0.0
        fallen = bool(objective.guard) and guarded < self.highest - objective.tolerance
        self.highest = max(self.highest, guarded)
        score = values[objective.score] if objective.score else 0.0
        if fallen:
            report.stopped = (
                f"{objective.guard} fell from {self.highest:.2f} to {guarded:.2f} after {report.steps} steps, so the "
                f"training was stopped and the model of step {report.best_step} kept."
            )
        elif self.best is None or score >= self.best or objective.score is None:
            self.best, report.best_step = score, report.steps
            checkpoint.save(self.job.folder, {"model": self.model.state_dict(), "step": report.steps}, "best.pt")
        self._save()
        self.job.curve(report.steps, self._total(), **values)

    def _keep_best(self) -> None:
        if self.report.best_step == self.report.steps or self.objective.probe is None:
            return
        best = checkpoint.load(self.job.folder, "best.pt")
        if best is not None and best["step"] == self.report.best_step:
            self.model.load_state_dict(best["model"])

    # ------------------------------------------------------------ checkpoints

    @contextmanager
    def _saved_when_stopped(self) -> Iterator[None]:
        """What the world raises when the user asks for a stop goes on after a checkpoint."""
        try:
            yield
        except BaseException:
            self._save()
            raise

    def _save(self) -> None:
        report = self.report
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "torch_rng": self.torch.get_rng_state(),
            "steps": report.steps,
            "seconds": report.seconds,
            "points": report.points,
            "best_step": report.best_step,
            "stopped": report.stopped,
            "best": self.best,
            "highest": self.highest,
            "probed_step": self.probed_step,
            "probed_s": self.probed_s,
        }
        checkpoint.save(self.job.folder, state)
        self.saved_at = time.monotonic()

    def _resume(self) -> None:
        state = checkpoint.load(self.job.folder)
        if state is None:
            return
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.torch.set_rng_state(state["torch_rng"])
        self.report = Report(
            steps=state["steps"],
            seconds=state["seconds"],
            points=[(int(step), dict(values)) for step, values in state["points"]],
            best_step=state["best_step"],
            stopped=state["stopped"],
        )
        self.best, self.highest = state["best"], state["highest"]
        self.probed_step, self.probed_s = state["probed_step"], state["probed_s"]
        for step, values in self.report.points:
            self.job.curve(step, self._total(), **values)
