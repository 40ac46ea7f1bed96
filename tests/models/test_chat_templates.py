"""Chat templates render here as in transformers, whose `apply_chat_template` is asked beside ours."""

from __future__ import annotations

from typing import Any

import pytest

from core.errors import ExplorerError
from core.models.chat import render, render_messages
from tests.support.embedded import embedded
from tests.support.tiny import CHAT_TEMPLATE, byte_level_tokenizer

pytestmark = pytest.mark.engine("pytorch")

TEMPLATES = {
    "chatml": CHAT_TEMPLATE,
    "generation": (
        "{%- for m in messages %}{%- if m['role'] == 'assistant' %}{% generation %}<|im_start|>assistant\n"
        "{{ m['content'] }}<|im_end|>\n{% endgeneration %}{%- else %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}"
        "<|im_end|>\n{%- endif %}{%- endfor %}{%- if add_generation_prompt %}<|im_start|>assistant\n{%- endif %}"
    ),
    "generation, trimmed": (
        "{% for m in messages %}{{ m.role }}:\n    {%- generation -%}\n  {{ m.content }}\n  {%- endgeneration -%}"
        "\n{% endfor %}"
    ),
    "loop controls": (
        "{% for m in messages %}{% if m.role == 'assistant' %}{% continue %}{% endif %}[{{ m.role }}]{{ m.content }}"
        "{% if loop.index > 5 %}{% break %}{% endif %}{% endfor %}"
    ),
    "tojson": "{{ messages[-1]['content'] | tojson }}{{ {'ü': [1, '<é>']} | tojson(indent=2) }}",
    "tools": (
        "{% if tools %}{% for tool in tools %}{{ tool | tojson(indent=4) }}\n{% endfor %}{% endif %}"
        "{% if documents is none %}no documents{% endif %}{{ messages[-1].content }}"
    ),
    "thinking": (
        "{% for m in messages %}<{{ m.role }}>{{ m.content.split('</think>')[-1] | trim }}{% endfor %}"
        "{% if enable_thinking is defined and enable_thinking is false %}<think></think>{% endif %}"
    ),
    "date": "{{ strftime_now('%Y') }}{{ bos_token }}{{ messages[-1]['content'] | trim }}{{ eos_token }}",
    "macro and namespace": (
        "{%- macro turn(m) -%}{{ '<' ~ m.role ~ '>' ~ m.content }}{%- endmacro -%}{% set ns = namespace(n=0) %}"
        "{% for m in messages %}{% set ns.n = ns.n + 1 %}{{ turn(m) }}{{ ns.n }}{% endfor %}{{ pad_token }}"
    ),
    "lines": "  {% for m in messages %}\n    {% if true %}\n{{ m.content }}\n    {% endif %}\n  {% endfor %}\n",
}
DIALOGUES = {
    "question": [("user", "Is 3 < 4 & 'so' — “ü”?")],
    "system": [("system", "Be brief."), ("user", "hello")],
    "turns": [("user", "hi"), ("assistant", "<think>so</think> hello"), ("user", "why\n\nso?")],
}


def theirs(template: str, dialogue: list[tuple[str, str]], **values: Any) -> str:
    messages = [{"role": role, "content": text} for role, text in dialogue]
    tokenizer = byte_level_tokenizer()
    tokenizer.pad_token = None
    found = tokenizer.apply_chat_template(
        messages, chat_template=template, tokenize=False, add_generation_prompt=True, **values
    )
    return str(found)


def ours(template: str, dialogue: list[tuple[str, str]], **values: Any) -> str:
    return render_messages(template, dialogue, "<|endoftext|>", "<|im_end|>", values)


@pytest.mark.parametrize("dialogue", DIALOGUES)
@pytest.mark.parametrize("template", TEMPLATES)
def test_a_template_renders_as_in_transformers(template: str, dialogue: str) -> None:
    text, said = TEMPLATES[template], DIALOGUES[dialogue]
    assert ours(text, said) == theirs(text, said)


def test_tools_and_switches_reach_the_template() -> None:
    said, tools = DIALOGUES["turns"], [{"type": "function", "function": {"name": "add", "description": "a < b"}}]
    for name, values in (("tools", {"tools": tools}), ("thinking", {"enable_thinking": False})):
        text = TEMPLATES[name]
        assert ours(text, said, **values) == theirs(text, said, **values) != ours(text, said)


@pytest.mark.model
@pytest.mark.parametrize("dialogue", DIALOGUES)
def test_the_embedded_models_template_renders_as_in_transformers(dialogue: str) -> None:
    from transformers import AutoTokenizer

    template = AutoTokenizer.from_pretrained(embedded("hf")[1]).chat_template
    assert isinstance(template, str)
    assert ours(template, DIALOGUES[dialogue]) == theirs(template, DIALOGUES[dialogue])


PARTS = (
    "{% for m in messages %}{{ m['role'] | capitalize }}: {% for part in m['content'] %}{% if part['type'] == 'text' %}"
    "{{ part['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)


def test_the_words_reach_a_template_that_wants_typed_parts() -> None:
    typed = [{"role": "user", "content": [{"type": "text", "text": "hello"}]}]
    asked = byte_level_tokenizer().apply_chat_template(
        typed, chat_template=PARTS, tokenize=False, add_generation_prompt=True
    )
    assert render(PARTS, "hello") == asked == "User: hello<|im_end|>\nAssistant:"
    only_users = PARTS.replace("{% for part", "{% if m.role != 'user' %}{{ m.content | upper }}{% else %}{% for part")
    only_users = only_users.replace("{% endfor %}<|im_end|>", "{% endfor %}{% endif %}<|im_end|>")
    assert render(only_users, "hello", "Be brief.").startswith("System: BE BRIEF.<|im_end|>\nUser: hello<|im_end|>")


@pytest.mark.parametrize(
    ("template", "cause"),
    [
        ("{{ messages[0]['content'] + 1 }}", "TypeError"),
        ("{{ messages[0].content.nothing.at_all }}", "no attribute"),
        ("{{ 1 // 0 }}{{ messages[0].content }}", "ZeroDivisionError"),
        ("{% for %}", "template fails"),
        ("{{ raise_exception('only assistants\nmay speak') }}", "only assistants"),
        ("{{ messages | length }}", "prints nothing of the question"),
    ],
)
def test_any_failure_is_one_sentence_that_names_the_template(template: str, cause: str) -> None:
    with pytest.raises(ExplorerError, match="chat template") as refused:
        render(template, "hello")
    assert cause in refused.value.message and "\n" not in refused.value.message and refused.value.hint
