"""A run as a beginning: its settings back in the form, the same once more, its words to take along, a name and a note.

Knows the names of the Run form's widgets; nothing of how they are drawn.
"""

from __future__ import annotations

from typing import Any

import msgspec
import streamlit as st

from core import plugins
from core.runs.about import MOST_NAME, MOST_NOTE
from core.runs.store import Run
from core.types import Generate, Request, Result
from hardware.errors import ExplorerError
from pages.measure._task_form import RANDOM, TEXT
from pages.ui import text
from pages.ui.forms import params_values
from pages.ui.page import fault
from pages.ui.settings_form import dtype_key, options_key, params_key
from pages.ui.start import start
from pages.ui.state import set_widgets, store

_RETRIES = next(f.default for f in msgspec.structs.fields(Request) if f.name == "retries")


def draw_again(run: Run, result: Result) -> None:
    """What can be done with a run that has ended, beside reading it."""
    with st.container(horizontal=True, vertical_alignment="center", gap="xsmall", key="again"):
        if st.button("Run again", icon=":material/replay:", key="run-again", help="The same request once more."):
            start(run.request)
        st.button(
            "Use these settings",
            icon=":material/input:",
            key="use-settings",
            on_click=_fill,
            args=(run.request,),
            help="Fill the form with this run's model, prompt and settings.",
        )
        with st.popover("Name and note", icon=":material/edit_note:"):
            _draw_about(run)
        with st.popover("Copy", icon=":material/content_copy:"):
            _draw_copy(run.request, result)


def draw_note(run: Run) -> None:
    """What was remarked about the run."""
    if note := run.about.note:
        st.caption(f":material/edit_note: {text.prose(note)}")


def _draw_about(run: Run) -> None:
    words = run.about
    with st.form(f"about-{run.id}", border=False):
        name = st.text_input("Name", words.name, max_chars=MOST_NAME, key=f"about-name-{run.id}")
        note = st.text_area("Note", words.note, max_chars=MOST_NOTE, key=f"about-note-{run.id}", height=110)
        if st.form_submit_button("Keep", icon=":material/check:", key=f"about-keep-{run.id}"):
            try:
                store().annotate(run.id, name or "", note or "")
            except ExplorerError as error:
                fault(error)
                return
            st.toast("Kept with the run.", icon=":material/check:")
            st.rerun()
    st.caption("Shown in History and comparisons, found by its search, and part of exports.")


def _draw_copy(request: Request, result: Result) -> None:
    task = request.task
    if isinstance(task, Generate) and task.prompt:
        st.caption("Prompt")
        st.code(task.prompt, language=None, wrap_lines=True, height=120)
    st.caption("Answer" if result.text else "No text: nothing was generated.")
    if result.text:
        st.code(result.text, language=None, wrap_lines=True, height=200)


# ---------------------------------------------------------------- the form's widgets


def _fill(request: Request) -> None:
    set_widgets(widgets_of(request))
    missing = left_out(request)
    words = f" Not in the form: {', '.join(missing)}." if missing else ""
    st.toast(f"The form has this run's settings.{words}", icon=":material/input:")


def widgets_of(request: Request) -> dict[str, Any]:
    """What the Run form's widgets must hold to ask for this generation, by their names."""
    task = request.task
    assert isinstance(task, Generate)
    sampling = task.sampling
    found: dict[str, Any] = {
        "model": request.model,
        "backend": request.backend,
        "strategy": request.strategy,
        "prompt_kind": TEXT if task.prompt_tokens is None else RANDOM,
        "max_new_tokens": task.max_new_tokens,
        "temperature": min(2.0, float(sampling.temperature)),
        "top_k": sampling.top_k,
        "top_p": sampling.top_p,
        "chat": task.chat,
        "template": task.template or "default",
        "thinking": {True: "on", False: "off", None: ""}[task.thinking],
        "ignore_eos": task.ignore_eos,
        "threads": request.threads,
        "batch": request.batch,
        "seed": request.seed,
        "repeats": request.repeats,
        "warmup": request.warmup,
        "live": request.live,
        "fresh": request.fresh_process,
        "profilers": [p for p in request.profilers if p in plugins.names("profiler")],
    }
    if task.prompt_tokens is not None:
        found["prompt_tokens"] = min(1_000_000, task.prompt_tokens)
    elif task.prompt is not None:
        found["prompt"] = task.prompt
    try:
        backend, strategy = plugins.get("backend", request.backend), plugins.get("strategy", request.strategy)
    except ExplorerError:  # of a run from elsewhere: the form says what is missing
        return found
    if backend.dtypes:
        found[dtype_key(backend, request.model)] = request.dtype or backend.dtypes[0]
    found |= params_values(strategy.Params, params_key(strategy.name, request.model), request.params)
    return found | params_values(backend.Options, options_key(backend.name), request.options)


def left_out(request: Request) -> list[str]:
    """What the request has and the form cannot hold."""
    task = request.task
    assert isinstance(task, Generate)
    known = {
        "the system message": task.system not in ("", None),
        "the template's own system message": task.system is None,
        "the dialogue before the prompt": bool(task.history),
        "values for the chat template": bool(task.template_values),
        "a temperature above 2": task.sampling.temperature > 2,
        "how many disturbed passes are repeated": request.retries != _RETRIES,
    }
    return [words for words, there in known.items() if there]
