"""Wrap a dialogue with the model's own chat template, the same way for every backend, as transformers does it.

The environment is that of transformers' `apply_chat_template`: the tag `generation`, loop controls, `tojson`,
`strftime_now`, `raise_exception`. The template is untrusted: it runs in jinja2's immutable sandbox.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from itertools import combinations, islice
from typing import Any

from jinja2 import Template, TemplateError, meta, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from core.types import THINKING
from hardware.errors import ExplorerError

NEEDLE = "needle{}word"  # stands for a message's text while it is tried whether the template prints it
_GOES_ON = "goes-on-here "  # stands behind an answer that has begun
LISTED = re.compile(r"""("|')text\1: ("|')needle""")  # parts printed as a list, as Python or JSON writes it
MOST = 16  # sets of roles that are tried beside the usual ones
OFF = "Switch the chat template off (--no-chat), or correct it."


def render(template: str, prompt: str, system: str | None = "", bos_token: str = "", eos_token: str = "") -> str:
    """The text a chat model expects for one user message, ending where its answer begins.

    system: the system message; None leaves it to the template, which may bring its own.
    """
    messages = [("user", prompt)]
    if system is not None:
        messages.insert(0, ("system", system))
    return render_messages(template, messages, bos_token, eos_token)


def render_messages(
    template: str,
    messages: Sequence[tuple[str, str]],
    bos_token: str = "",
    eos_token: str = "",
    values: Mapping[str, Any] | None = None,
    answer: bool = True,
) -> str:
    """The text a chat model expects for a dialogue of (role, text), ending where its next answer begins.

    An empty system message at the start is no message, but keeps away the one that a template brings of its own.
    values: what else the template is given ("tools", "enable_thinking"). answer: whether an answer begins at the end.
    Raises ExplorerError when the template fails, and when it prints nothing of what was said.
    """
    _check_values(values or {})
    tokens = {"bos_token": bos_token, "eos_token": eos_token}
    settings = {"tools": None, "documents": None, "add_generation_prompt": answer}
    settings |= {name: text for name, text in tokens.items() if text} | dict(values or {})
    if len(messages) < 2 or messages[0] != ("system", ""):
        return _rendered(template, messages, settings)
    try:
        whole = _rendered(template, messages, settings)
    except ExplorerError:  # some templates know no system role
        return _rendered(template, messages[1:], settings)
    try:
        bare = _rendered(template, messages[1:], settings)
    except ExplorerError:
        return whole
    return bare if _is_cut_from(bare, whole) else whole


def _check_values(values: Mapping[str, Any]) -> None:
    """Raises ExplorerError for values that transformers refuses, too: a template would print parts of them."""
    if "messages" in values:
        raise ExplorerError("A chat template's messages are the dialogue's.", "Give them as prompt and system message.")
    for name in ("tools", "documents"):
        listed = values.get(name) or []
        if not isinstance(listed, list) or not all(isinstance(one, Mapping) for one in listed):
            raise ExplorerError(
                f"What the chat template is given as {name} is not a list of objects.",
                f"Write it as JSON: {name}=[{{...}}].",
            )


def render_begun(template: str, messages: Sequence[tuple[str, str]], values: Mapping[str, Any] | None = None) -> str:
    """The text of a dialogue whose last message is an answer that has begun, ending where that goes on.

    As transformers' `continue_final_message` has it: where the template takes the spaces behind an answer away, they
    are not there. Raises ExplorerError as `render_messages` does, and where the template prints the answer otherwise.
    """
    role, begun = messages[-1]
    whole = render_messages(template, [*messages[:-1], (role, begun + _GOES_ON)], values=values, answer=False)
    mark = _GOES_ON.strip()
    if mark not in whole or begun.strip() not in whole:
        raise ExplorerError("The model's chat template changes an answer that has begun.", OFF)
    at = whole.rindex(mark)
    return whole[:at] if whole[at:].startswith(_GOES_ON) else whole[:at].rstrip()


def check(template: str) -> None:
    """Raises ExplorerError where it is no template; nothing of it is run."""
    try:
        _compiled(template)
    except TemplateError as error:
        raise ExplorerError(f"The model's chat template fails: {_said(error)}.", OFF) from error


def thinks(template: str) -> frozenset[str]:
    """What the template calls the switch by which it is told whether the model may think first; empty where it asks
    for none, or is no template."""
    try:
        asked = meta.find_undeclared_variables(_compiled(template).environment.parse(template))
    except TemplateError:
        return frozenset()
    return frozenset(asked) & frozenset(THINKING)


def _said(error: BaseException) -> str:
    """The first line of what it says, without its full stop."""
    return (str(error).strip().splitlines() or ["no reason given"])[0].rstrip(".")


def _is_cut_from(part: str, whole: str) -> bool:
    """Whether `part` is `whole` without one piece of it: a turn that was left out, and nothing in its place."""
    if len(part) > len(whole):
        return False
    before = next((i for i, (a, b) in enumerate(zip(part, whole, strict=False)) if a != b), len(part))
    return whole.endswith(part[before:])


def _rendered(template: str, messages: Sequence[tuple[str, str]], settings: Mapping[str, Any]) -> str:
    try:
        compiled = _compiled(template)
        return compiled.render(messages=_as_wanted(compiled, messages, settings), **settings)
    except ExplorerError:
        raise
    except Exception as error:  # a template can raise whatever its expressions do
        kind = "" if isinstance(error, TemplateError) else f"{type(error).__name__}: "
        raise ExplorerError(f"The model's chat template fails: {kind}{_said(error)}.", OFF) from error


def _as_wanted(
    compiled: Template, messages: Sequence[tuple[str, str]], settings: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """The messages in the form whose words the template prints: as text, in typed parts, or those of some roles so.

    Templates of models that also see images loop over parts, and over a plain text they print nothing.
    """
    probe = [(role, NEEDLE.format(i) if text else "") for i, (role, text) in enumerate(messages)]
    every = tuple(sorted({role for role, _ in messages}))
    some = (chosen for n in range(1, len(every)) for chosen in combinations(every, n) if chosen != ("user",))
    typed = ((), every, ("user",), *islice(some, MOST))
    found: list[list[bool]] = []
    for roles in typed:
        try:
            printed = compiled.render(messages=_formed(probe, roles), **settings).casefold()
        except Exception:  # the form that is chosen in the end fails aloud
            found.append([])
            continue
        found.append([text in printed and not LISTED.search(printed) for _, text in probe if text])
        if all(found[-1]):
            return _formed(messages, roles)
    best = max(range(len(typed)), key=lambda i: (found[i][-1:] == [True], sum(found[i])))
    if found[0] and not any(map(any, found)) and not _listens(compiled, probe, settings):
        raise ExplorerError("The model's chat template prints nothing of the question.", OFF)
    return _formed(messages, typed[best])


def _listens(compiled: Template, probe: Sequence[tuple[str, str]], settings: Mapping[str, Any]) -> bool:
    """Whether what a template prints depends on the last message: some change its letters, so that it is not found."""
    role, text = probe[-1]
    others = [*probe[:-1], (role, text[::-1])]
    try:
        first, second = (compiled.render(messages=_formed(said, ()), **settings) for said in (probe, others))
    except Exception:  # it looks into the text
        return True
    return first != second


def _formed(messages: Sequence[tuple[str, str]], typed: Sequence[str]) -> list[dict[str, Any]]:
    """The messages as a template takes them. typed: the roles whose content is a list of parts."""
    return [
        {"role": role, "content": [{"type": "text", "text": text}] if role in typed else text}
        for role, text in messages
    ]


# ---------------------------------------------------------------- the environment


class _Generation(Extension):
    """`{% generation %}` marks what the model writes, for training; what is inside is printed as it is."""

    tags = {"generation"}  # noqa: RUF012 - jinja2's own type

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_inside"), [], [], body).set_lineno(line)

    def _inside(self, caller: Any) -> Any:
        return caller()


@lru_cache(maxsize=16)
def _compiled(template: str) -> Template:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, "jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _to_json
    environment.globals.update(raise_exception=_refuse, strftime_now=_now)
    return environment.from_string(template)


def _to_json(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    """Without jinja2's escapes for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _now(form: str) -> str:
    return datetime.now().strftime(form)


def _refuse(message: str) -> Any:
    raise TemplateError(message)
