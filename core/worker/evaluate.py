"""A run that measures quality: opens the model and what it is compared with, and writes one event per item."""

from __future__ import annotations

import msgspec

from core import plugins
from core.runs.companions import PROBE, same_tokenizer
from core.types import Asked, Evaluate, Request, generates, remote
from core.worker.generate import give_account, loaded
from core.worker.journal import Journal
from core.worker.machine_share import disturbance
from core.worker.sessions import Sessions
from core.worker.silence import rare_drawing
from core.worker.subject import ModelUnderTest
from hardware import load

WARMUP_TOKENS = 32


def evaluate(request: Request, sessions: Sessions, journal: Journal) -> None:
    """Run the request's eval. Raises ExplorerError for one that cannot run, Cancelled for a stop."""
    task = request.task
    assert isinstance(task, Evaluate)
    opened = sessions.open(request, journal)
    wanted, session = opened.wanted, opened.session
    plugin, params = plugins.get("eval", task.eval), wanted.task
    far, can = remote(session), generates(session.capabilities)
    who = f"{session.spec.name} in {plugins.label('backend', request.backend)}"
    plugins.require(plugin, can, who, "Choose another backend, or a model that generates.")
    for other in opened.companions.values():
        same_tokenizer(session, other, PROBE)
    journal.write(loaded(request, opened, journal))
    for message in session.warnings:
        journal.warn(message)
    subject = ModelUnderTest(
        session,
        opened.companions.get("reference"),
        wanted.strategy,
        wanted.params,
        opened.companions.get("draft"),
        request.seed,
        journal.stop_if_asked,
    )
    for _ in range(request.warmup if "text" in can else 0):
        journal.phase("evaluating", "Warming up")
        subject.generate(subject.render([("user", "Say hello.")]), WARMUP_TOKENS)
    size = plugin.size(params)
    asked = Asked(t_s=journal.now(), n_items=size, metrics=plugin.metrics(params), settings=msgspec.to_builtins(params))
    journal.write(asked)
    journal.phase("evaluating", plugin.label, 0, size, "items")
    with rare_drawing(request, journal):
        before = load.read(*journal.processes)
        for number, item in enumerate(plugin.measure(subject, params), 1):
            journal.write(msgspec.structs.replace(item, t_s=journal.now()))
            journal.phase("evaluating", plugin.label, number, size, "items")
            if far is None:
                journal.memory("evaluating")
            else:
                give_account(far, journal, None)
        if far is None:
            journal.write(disturbance(load.between(before, load.read(*journal.processes)), request, journal))
    journal.phase("finished")
