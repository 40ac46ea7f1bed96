"""A dialogue as requests: the same questions, each side's own answers, and the text they are about."""

from __future__ import annotations

from typing import Any

import msgspec

from core.runs.dialogue import ask
from core.runs.runner import Runner
from core.types import Generate, Request
from core.worker.generate import dialogue


def answered(runner: Runner, request: Request) -> Any:
    return runner.wait(runner.start(request)).result()


def test_later_questions_bring_the_dialogue_so_far(runner: Runner, fake_request: Request) -> None:
    first = ask(fake_request, "One?", "", [])
    assert isinstance(first.task, Generate) and first.task.prompt == "One?" and first.task.history == ()
    result = answered(runner, first)
    second = ask(fake_request, "Two?", "", [("One?", result)])
    assert isinstance(second.task, Generate)
    assert second.task.prompt == "Two?"
    assert second.task.history == (("user", "One?"), ("assistant", result.text))
    done = answered(runner, second)
    assert done.status == "done" and done.n_prompt_tokens > result.n_prompt_tokens


def test_a_pasted_text_stands_before_the_first_question_alone(runner: Runner, fake_request: Request) -> None:
    result = answered(runner, ask(fake_request, "One?", "It rains.", []))
    request = ask(fake_request, "Two?", " It rains. ", [("One?", result)])
    assert isinstance(request.task, Generate)
    assert "It rains." in request.task.history[0][1] and "One?" in request.task.history[0][1]
    assert request.task.prompt == "Two?"


class Chat:
    chat_template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>"
    bos_token = eos_token = ""


def test_the_template_gets_every_turn_in_order() -> None:
    task = Generate(prompt="C", history=(("user", "A"), ("assistant", "B")), system="S")
    session: Any = Chat()
    assert dialogue(session, task) == "<system>S<user>A<assistant>B<user>C<assistant>"
    assert dialogue(session, msgspec.structs.replace(task, system=None)) == "<user>A<assistant>B<user>C<assistant>"
    assert dialogue(session, msgspec.structs.replace(task, chat=False)) == "A\n\nB\n\nC"
