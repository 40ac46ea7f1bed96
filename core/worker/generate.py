"""A run's passes over an open session: warm-up, timing, then one for each profiler.

Writes between steps, so that writing is never timed.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from functools import cache
from typing import Any

import msgspec
import numpy as np

from core import plugins
from core.analysis.disturbance import Verdict
from core.runs.companions import same_tokenizer
from core.runs.passes import verdict
from core.types import (
    EVENTS_FORMAT,
    Advance,
    Attachment,
    Generate,
    GenerationConfig,
    Host,
    Ids,
    Inside,
    Loaded,
    Pass,
    PassKind,
    Phase,
    Remote,
    Request,
    Session,
    Step,
    Strategy,
    chat_templates,
    counted,
    raw,
    remote,
    special_tokens,
)
from core.worker.drive import drive
from core.worker.ends import Ends
from core.worker.journal import Journal
from core.worker.machine_share import disturbance
from core.worker.sessions import Opened, Sessions
from core.worker.silence import await_calm, show_first, silence
from core.worker.text import TextStream
from hardware import load
from hardware.detect import machine
from hardware.errors import ExplorerError
from hardware.process import resident

WARMUP_TOKENS = 4
WARMUP_GUESSED = 64  # where a step is many tokens, and is cut short at the limit
SHOWN_BETWEEN_S = 8.0  # timing passes that took longer are shown before the profilers begin
SEEN_S = 1.5  # between two rests: a resting tab asks every half second, and then draws
DRAFT_NOTE = (
    "Steps and phases include the draft model's time and work; layers and the FLOP check are the model's alone."
)


def measure(request: Request, sessions: Sessions, journal: Journal) -> None:
    """Open, check, run every pass. Raises ExplorerError for a request that cannot run, Cancelled for a stop."""
    assert isinstance(request.task, Generate)
    opened = sessions.open(request, journal)
    strategy, params = opened.wanted.strategy, opened.wanted.params
    session, drafts = opened.session, tuple(opened.companions.values())
    far = remote(session)
    ids, text = _prompt(session, drafts, request.task, request)
    for draft in drafts:
        same_tokenizer(session, draft, text)
    check_opened(request, request.task, strategy, session, ids)
    shown = text if far is None else far.readable(text)
    event = loaded(request, opened, journal, int(ids.shape[1]), shown)
    told: tuple[str, ...] = ()
    if template := template_of(session, request.task):
        name, thinking, told = template_name(session, request.task), *_heard(template, request.task.thinking)
        setup = msgspec.structs.replace(event.setup, chat_template=name, thinking=thinking)
        event = msgspec.structs.replace(event, setup=setup)
    journal.write(event)
    for message in (*session.warnings, *told, *((DRAFT_NOTE,) if drafts else ())):
        journal.warn(message)
    config = _config(request, request.task, session)
    ended: list[Verdict] = []
    watched: list[Step] = []
    with closing(_plan(request, session, journal, ended)) as plan:
        for number, (kind, profiler) in enumerate(plan):
            instrument = plugins.get("profiler", profiler) if profiler else None
            warmup = WARMUP_GUESSED if strategy.single else WARMUP_TOKENS
            most = warmup if kind == "warmup" else instrument.limit if instrument else None
            limit = config.limit if most is None else min(config.limit, most)
            journal.write(Pass(t_s=journal.now(), number=number, kind=kind, profiler=profiler))
            steps: Any = strategy.decode(session, ids, msgspec.structs.replace(config, limit=limit), params, *drafts)
            attachment = instrument.attach(session, number) if instrument else None
            try:
                taken, shared = _run_pass(
                    steps,
                    session,
                    drafts,
                    Ends(request.batch, config.stop),
                    number,
                    attachment,
                    journal,
                    kind == "live",
                )
            finally:
                steps.close()
                if attachment:
                    attachment.close()
                    _adopt(attachment, journal)
            if kind == "live":
                watched = taken
            if far is not None:  # the server is another process: what it takes disturbs nothing
                give_account(far, journal, number)
                ended.append(verdict(None, taken))
                continue
            reading = disturbance(shared, request, journal, number)
            if kind == "timing":
                journal.write(reading)
            ended.append(verdict(reading, taken, watched if kind == "timing" else ()))
    journal.phase("finished")


def give_account(far: Remote, journal: Journal, pass_no: int | None) -> None:
    """What the server's last answer told, into the journal."""
    account = far.account()
    if account is not None:
        journal.adopt(msgspec.structs.replace(account, pass_no=pass_no))


def loaded(request: Request, opened: Opened, journal: Journal, n_prompt_tokens: int = 0, text: str = "") -> Loaded:
    """The event that says what was opened, and where."""
    draft = opened.companions.get("draft")
    return Loaded(
        t_s=journal.now(),
        seconds=opened.seconds,
        warm=opened.warm,
        spec=opened.session.spec,
        n_prompt_tokens=n_prompt_tokens,
        prompt_text=text,
        setup=opened.session.setup,
        host=this_host(),
        draft=draft.spec if draft else None,
        draft_setup=draft.setup if draft else None,
        capabilities=tuple(sorted(opened.session.capabilities)),
        rss_before_bytes=opened.rss_before_bytes,
        rss_after_bytes=resident().rss_bytes,
        options=request.options,
        format=EVENTS_FORMAT,
    )


def _prompt(session: Session, drafts: Sequence[Session], task: Generate, request: Request) -> tuple[Ids, str]:
    """Token ids of shape (batch, n), the same row for every sequence, and the text they stand for."""
    if task.prompt_tokens is not None:
        rng = np.random.default_rng(request.seed)
        n_vocab = min(model.spec.vocab_size for model in (session, *drafts))
        row, text = rng.integers(0, n_vocab, task.prompt_tokens), ""
    else:
        text = dialogue(session, task)
        row = np.array(session.encode(text) if template_of(session, task) else raw(session, text), dtype=np.int64)
    return np.tile(row, (request.batch, 1)).astype(np.int64), text


def dialogue(session: Session, task: Generate) -> str:
    """The prompt as the model reads it: after its dialogue, in its chat template where it has one."""
    turns = (*task.history, ("user", task.prompt or ""))
    template = template_of(session, task)
    if not template:
        return "\n\n".join(words for _, words in turns)
    from core.tokenizers.chat import render_messages, thinks

    system = () if task.system is None else (("system", task.system),)
    marks = special_tokens(session)
    switches = {} if task.thinking is None else dict.fromkeys(thinks(template), task.thinking)
    return render_messages(template, (*system, *turns), values=marks | switches | task.template_values)


def _heard(template: str, thinking: bool | None) -> tuple[bool | None, tuple[str, ...]]:
    """What a template takes from being told whether the model may think, and what is to be said where it is nothing."""
    from core.tokenizers.chat import thinks

    if thinking is None or thinks(template):
        return thinking, ()
    return None, ("The chat template does not ask whether the model may think, so being told changed nothing.",)


def template_of(session: Session, task: Generate) -> str | None:
    """The chat template that the prompt is put into. Raises ExplorerError for a name that the model does not have."""
    if not task.chat or task.prompt_tokens is not None:
        return None
    known = chat_templates(session)
    if task.template is None:
        return known.get(template_name(session, task))
    if task.template not in known:
        raise ExplorerError(
            f"{session.spec.name} has no chat template called '{task.template}'.",
            f"It has: {', '.join(sorted(known))}." if known else "It has none: leave the name out.",
        )
    return known[task.template]


def template_name(session: Session, task: Generate) -> str:
    """What the chat template of a task is called: as asked for, else "tool_use" where tools are given and it is there.

    So transformers has it.
    """
    tools = task.template_values.get("tools") is not None and "tool_use" in chat_templates(session)
    return task.template or ("tool_use" if tools else "default")


class TooLongError(ExplorerError):
    """More tokens than the context has."""


def check_opened(request: Request, task: Generate, strategy: Strategy, session: Session, ids: Ids) -> None:
    """What only the opened model can tell. Raises ExplorerError; TooLongError where prompt and answer do not fit."""
    plugins.require(
        strategy,
        session.capabilities,
        f"{session.spec.name} in {plugins.label('backend', request.backend)}",
        "Choose another backend or strategy, 'encode' for an encoder, or leave out options that exclude it.",
    )
    if request.batch > 1 and "batch" not in session.capabilities:
        raise ExplorerError(
            f"{plugins.label('backend', request.backend)} runs one sequence at a time with this model.",
            "Set batch to 1.",
        )
    n_prompt, n_new = ids.shape[1], task.max_new_tokens
    if n_prompt == 0:
        raise ExplorerError("The prompt is empty.", "Type a prompt or set a number of prompt tokens.")
    generates = bool(strategy.needs & {"cache", "stream"})
    if n_prompt + (n_new if generates else 0) > session.max_context:
        raise TooLongError(
            f"{n_prompt} prompt tokens and {n_new} new ones exceed the context of {session.max_context} tokens.",
            "Shorten the prompt or ask for fewer tokens.",
        )


def _config(request: Request, task: Generate, session: Session) -> GenerationConfig:
    stop = frozenset() if task.ignore_eos or task.prompt_tokens is not None else frozenset(session.eos_ids)
    return GenerationConfig(limit=task.max_new_tokens, sampling=task.sampling, seed=request.seed, stop=stop)


def _plan(
    request: Request, session: Session, journal: Journal, ended: Sequence[Verdict]
) -> Generator[tuple[PassKind, str | None], None, None]:
    """Warm-up, in a warm session too, for it knows neither prompt nor strategy; timing; then one pass per profiler.

    A watched run shows one pass first, which warms up as well. Profilers take times too, so the screens rest until the
    last one has ended; where the timing took long, its numbers are shown in between. ended: what disturbed the passes
    that have ended; a disturbed timing pass is repeated once the machine is calm, or after some
    seconds without.
    """
    each_s = 0.0
    if request.live:
        started = time.monotonic()
        yield "live", None
        each_s = time.monotonic() - started
    for _ in range(0 if request.live else request.warmup):
        yield "warmup", None
    timing_s = request.repeats * each_s
    profilers = [name for name in request.profilers if _attachable(name, request, session, journal)]
    profiling_s = each_s * sum(plugins.get("profiler", name).limit is None for name in profilers)
    apart = timing_s > SHOWN_BETWEEN_S or not request.repeats
    if request.repeats:
        with silence(request, journal, timing_s + (0.0 if apart else profiling_s)) as waited:
            if waited:
                yield "warmup", None
            clean = 0
            for left in reversed(range(request.repeats + request.retries)):
                yield "timing", None
                clean += not ended[-1].disturbed
                if clean == request.repeats:
                    break
                if left and ended[-1].disturbed:
                    await_calm(request, journal)
                    yield "warmup", None
            for name in () if apart else profilers:
                yield "profile", name
    if apart and profilers:
        time.sleep(SEEN_S)
        with silence(request, journal, profiling_s) as waited:
            if waited:
                yield "warmup", None
            for name in profilers:
                yield "profile", name


def _attachable(name: str, request: Request, session: Session, journal: Journal) -> bool:
    """Whether this profiler can measure the run; a warning says why not."""
    profiler = plugins.get("profiler", name)
    reason = profiler.unavailable()
    missing = profiler.needs - session.capabilities
    if request.batch > 1 and profiler.single:
        reason = "it measures one sequence, so set batch to 1."
    if remote(session) is not None and isinstance(profiler, Inside):
        reason = "the model runs in another process, which it does not see."
    if reason or missing:
        engine = plugins.label("backend", request.backend)
        unable = f"{engine} cannot do '{', '.join(sorted(missing))}' with this model and these options."
        journal.warn(f"{profiler.label} not measured: {reason or unable}")
    return not (reason or missing)


def _run_pass(
    steps: Iterator[Advance],
    session: Session,
    drafts: Sequence[Session],
    ends: Ends,
    number: int,
    attachment: Attachment | None,
    journal: Journal,
    live: bool,
) -> tuple[list[Step], load.Load]:
    """Every step of the pass, which the journal has as well, and how the machine was shared meanwhile."""
    text = TextStream(session)
    taken: list[Step] = []
    piece = cache(lambda token: session.decode([token]))
    decoding = False
    if attachment:
        attachment.phase("prefill")
    before = load.read()
    for advance, seconds, ran in drive(steps, session, *drafts):
        going = ends.going
        rows = ends.up_to_end(advance.tokens)
        accepted = rows[0] if rows else ()
        step = Step(
            t_s=journal.now(),
            pass_no=number,
            phase=advance.phase,
            seconds=seconds,
            counts=counted(ran, session.spec.n_blocks, sum(map(len, rows)), going),
            ran=ran,
            n_context=session.n_committed,
            text=text.add(accepted),
            tokens=accepted,
            guess=advance.guess,
            pieces=tuple(map(piece, accepted)) if advance.guess else (),
            guessed=tuple(map(piece, advance.guess)),
        )
        journal.write(step)
        if live and step.text and not any(earlier.text for earlier in taken):
            show_first(journal)
        taken.append(step)
        if attachment:
            attachment.step(step)
            if step.counts.tokens and not decoding:  # the first token ends the prefill
                attachment.phase("decode")
                decoding = True
            _adopt(attachment, journal)
        elif remote(session) is None:
            journal.memory(advance.phase, number)
        journal.stop_if_asked()
    return taken, load.between(before, load.read())


def _adopt(attachment: Attachment, journal: Journal) -> None:
    """Write what the profiler has to say; where it takes long, a stop is heard between two events."""
    for event in attachment.events():
        journal.adopt(event)
        if isinstance(event, Phase):
            journal.stop_if_asked()


def this_host() -> Host:
    """This machine as it is now."""
    return Host(
        machine=machine(),
        load_average=os.getloadavg() if hasattr(os, "getloadavg") else None,
        python=platform.python_version(),
        date=time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    )
