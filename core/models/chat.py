"""Wrap a prompt with the model's own chat template, the same way for every backend."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from core.errors import ExplorerError


def render(template: str, prompt: str, system: str | None = "", bos_token: str = "", eos_token: str = "") -> str:
    """The text a chat model expects for one user message, ending where its answer begins.

    system: the system message; None leaves it to the template, which may bring its own.
    """
    messages = [("user", prompt)]
    if system is not None:
        messages.insert(0, ("system", system))
    return render_messages(template, messages, bos_token, eos_token)


def render_messages(
    template: str, messages: Sequence[tuple[str, str]], bos_token: str = "", eos_token: str = ""
) -> str:
    """The text a chat model expects for a dialogue of (role, text), ending where its next answer begins.

    An empty system message at the start keeps the template's own away; it is left out where the template knows none.
    Follows Hugging Face's convention for chat templates (messages, add_generation_prompt, bos_token, eos_token).
    The template is untrusted: it runs in jinja2's immutable sandbox. Raises ExplorerError when it fails.
    """
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.globals.update(raise_exception=_refuse, strftime_now=time.strftime)
    given = [{"role": role, "content": text} for role, text in messages]
    settings = {"add_generation_prompt": True, "bos_token": bos_token, "eos_token": eos_token, "tools": None}
    try:
        return environment.from_string(template).render(messages=given, **settings)
    except TemplateError as error:
        if messages and messages[0] == ("system", ""):  # some templates know no system role
            return render_messages(template, messages[1:], bos_token, eos_token)
        raise ExplorerError(f"The model's chat template fails: {error}.", "Switch the chat template off.") from error


def _refuse(message: str) -> Any:
    raise TemplateError(message)
