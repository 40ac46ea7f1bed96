"""Chat templates: a system message only where one is asked for, and a sandbox around the template."""

import pytest

from core.tokenizers.chat import check, render, render_messages, thinks
from hardware.errors import ExplorerError

CHATML = (
    "{% for m in messages %}{% if loop.first and m.role != 'system' %}<s>persona</s>{% endif %}"
    "<{{ m.role }}>{{ m.content }}</{{ m.role }}>{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)
NO_SYSTEM = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}{{ messages[0].content }}"
)


def test_the_templates_own_persona_is_left_out_unless_asked_for() -> None:
    assert render(CHATML, "hi") == "<system></system><user>hi</user><assistant>"
    assert render(CHATML, "hi", "be brief") == "<system>be brief</system><user>hi</user><assistant>"
    assert render(CHATML, "hi", None) == "<s>persona</s><user>hi</user><assistant>"


def test_a_template_without_a_system_role() -> None:
    assert render(NO_SYSTEM, "hi") == "hi"
    with pytest.raises(ExplorerError, match="no system role"):
        render(NO_SYSTEM, "hi", "be brief")


@pytest.mark.parametrize("template", ["{{ ''.__class__.__mro__[1].__subclasses__() }}", "{% for %}"])
def test_a_hostile_or_broken_template_is_one_sentence(template: str) -> None:
    with pytest.raises(ExplorerError, match="chat template fails"):
        render(template, "hi", None)


DIALOGUE = [("user", "hi"), ("assistant", "hello"), ("user", "why?")]


def test_a_dialogue_keeps_its_turns_and_ends_where_the_answer_begins() -> None:
    shown = "<user>hi</user><assistant>hello</assistant><user>why?</user><assistant>"
    assert render_messages(CHATML, DIALOGUE) == "<s>persona</s>" + shown
    assert render_messages(CHATML, [("system", ""), *DIALOGUE]) == "<system></system>" + shown
    marked = "{{ bos_token }}{{ messages | length }}{{ messages[-1].content }}{{ eos_token }}"
    assert render_messages(marked, DIALOGUE, "<b>", "<e>") == "<b>3why?<e>"


def test_only_an_empty_system_message_may_be_dropped_from_a_dialogue() -> None:
    assert render_messages(NO_SYSTEM, [("system", ""), *DIALOGUE]) == "hi"
    with pytest.raises(ExplorerError, match="no system role"):
        render_messages(NO_SYSTEM, [("system", "be brief"), *DIALOGUE])


PLAIN = CHATML.replace("{% if loop.first and m.role != 'system' %}<s>persona</s>{% endif %}", "")


def test_an_empty_system_message_is_no_turn_where_no_persona_would_take_its_place() -> None:
    assert render(PLAIN, "hi") == "<user>hi</user><assistant>"
    assert render(PLAIN, "hi", "be brief") == "<system>be brief</system><user>hi</user><assistant>"
    headed = "{% if messages[0].role == 'system' %}{{ messages[0].content }}\n\n{% endif %}{{ messages[-1].content }}"
    assert render(headed, "hi") == "hi"


def test_a_template_is_checked_without_running_it() -> None:
    check("{% for m in messages %}{{ raise_exception('never run') }}{% endfor %}")
    with pytest.raises(ExplorerError, match="chat template fails"):
        check("{% for m in messages %}")


def test_a_dialogue_of_any_number_of_roles_is_tried_in_a_few_forms() -> None:
    """There are 2^60 sets of sixty roles."""
    said = [(f"role-{n}", f"word-{n}") for n in range(60)] + [("user", "question")]
    template = "{% for m in messages %}{{ m.content[0].text }} {% endfor %}"
    assert render_messages(template, said) == " ".join(text for _, text in said) + " "


@pytest.mark.parametrize(
    ("template", "switch"),
    [
        ("{% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}", {"enable_thinking"}),
        (
            "{% if not thinking is defined %}{% set thinking = false %}{% endif %}{{ thinking }}",
            {"thinking"},
        ),  # DeepSeek
        (
            "{% set reasoning = reasoning if reasoning is defined else true %}{{ reasoning }}",
            {"reasoning"},
        ),  # Command A
        ("{{ 'Draft your thinking process first.' }}", set()),  # Magistral
        ("{% for m in messages %}{{ m.thinking }}{{ m['reasoning'] }}{% endfor %}", set()),  # gpt-oss
        ("{# thinking #}{% set thinking = messages[0].content %}{{ thinking }}", set()),
        ("{% if thinking_budget is defined %}{{ thinking_budget }}{% endif %}", set()),  # Seed-OSS
        ("{% if thinking", set()),
    ],
)
def test_a_template_has_a_switch_for_thinking_where_it_asks_for_one(template: str, switch: set[str]) -> None:
    """The word alone stands in templates of many models that cannot be told; transformers looks for the variable."""
    assert thinks(template) == switch


@pytest.mark.parametrize(
    "values", [{"tools": "[{bad"}, {"tools": {"a": 1}}, {"tools": [1]}, {"documents": ["x"]}, {"messages": []}]
)
def test_what_no_template_can_be_given_is_one_sentence(values: dict[str, object]) -> None:
    """transformers refuses the same; a template would print the letters of a text as tools."""
    name = next(iter(values))
    with pytest.raises(ExplorerError, match=f"{name} (is not a list of objects|are the dialogue's)"):
        render_messages(
            "{{ messages[-1].content }}{% for t in tools or [] %}{{ t }}{% endfor %}", DIALOGUE, values=values
        )


def test_no_tools_are_none() -> None:
    template = "{{ messages[-1].content }}{{ tools is none }}{{ documents }}"
    assert render_messages(template, DIALOGUE, values={"tools": None, "documents": []}) == "why?True[]"
