"""A prompt as a model reads it: the chat template of the name that was asked for, and what it is told."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from core.types import Generate, chat_templates
from core.worker.generate import _heard, dialogue, template_of
from hardware.errors import ExplorerError

DEFAULT = (
    "{% for m in messages %}[{{ m.content }}]{% endfor %}"
    "{% if enable_thinking is defined %}{{ 'think' if enable_thinking else 'no' }}{% endif %}"
    "{% if thinking is defined %}{{ 'T' if thinking else 'F' }}{% endif %}"
)
TEMPLATES = {"default": DEFAULT, "tool_use": "{% for m in messages %}<{{ m.content }}>{% endfor %}"}


def session(**fields: Any) -> Any:
    known: dict[str, Any] = {"chat_template": DEFAULT, "bos_token": "", "eos_token": ""}
    return SimpleNamespace(**known | {"spec": SimpleNamespace(name="tiny")} | fields)


def task(**fields: Any) -> Generate:
    return Generate(prompt="hi", system=None, **fields)


def test_a_template_by_its_name() -> None:
    several = session(chat_templates=TEMPLATES)
    assert dialogue(several, task()) == dialogue(several, task(template="default")) == "[hi]"
    assert dialogue(several, task(template="tool_use")) == "<hi>"
    assert dialogue(session(), task(template="default")) == "[hi]", "a session that knows no names has its one"
    assert dialogue(several, task(template="tool_use", chat=False)) == "hi"


def test_a_name_that_the_model_does_not_have() -> None:
    with pytest.raises(ExplorerError, match="tiny has no chat template called 'rag'") as refused:
        dialogue(session(chat_templates=TEMPLATES), task(template="rag"))
    assert refused.value.hint == "It has: default, tool_use."
    with pytest.raises(ExplorerError) as refused:
        dialogue(session(chat_template=None), task(template="rag"))
    assert "none" in refused.value.hint and chat_templates(session(chat_template=None)) == {}


def test_thinking_is_passed_only_when_it_was_asked_for() -> None:
    assert dialogue(session(), task(thinking=True)) == "[hi]thinkT"
    assert dialogue(session(), task(thinking=False)) == "[hi]noF"
    assert dialogue(session(), task(thinking=True, template_values={"thinking": False})) == "[hi]thinkF"


def test_a_template_without_the_switch_is_not_said_to_have_heard_it() -> None:
    assert _heard(DEFAULT, False) == (False, ()) and _heard(DEFAULT, None) == (None, ())
    thinking, (told,) = _heard(TEMPLATES["tool_use"], False)
    assert thinking is None and "does not ask whether the model may think" in told


def test_random_tokens_are_put_into_no_template() -> None:
    assert template_of(session(), Generate(prompt_tokens=4)) is None
