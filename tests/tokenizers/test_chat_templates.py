"""Chat templates render here as in transformers, whose `apply_chat_template` is asked beside ours."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest

from core.tokenizers.chat import render, render_begun, render_messages
from core.types import Generate
from core.worker.generate import dialogue as prompt_of
from core.worker.generate import template_name
from hardware.errors import ExplorerError
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
    # what published templates do, written anew
    "llama 3": (
        "{{- bos_token }}{%- if custom_tools is defined %}{%- set tools = custom_tools %}{%- endif %}"
        "{%- if not date_string is defined %}{%- if strftime_now is defined %}"
        "{%- set date_string = strftime_now('%d %b %Y') %}{%- else %}{%- set date_string = '26 Jul 2024' %}"
        "{%- endif %}{%- endif %}{%- if messages[0]['role'] == 'system' %}"
        "{%- set system_message = messages[0]['content'] | trim %}{%- set messages = messages[1:] %}{%- else %}"
        "{%- set system_message = '' %}{%- endif %}{{- '<|sys|>Today: ' + date_string + '\n' + system_message }}"
        "{%- for message in messages %}{%- if not (message.role == 'ipython' or 'tool_calls' in message) %}"
        "{{- '<|h|>' + message['role'] + '\n\n' + message['content'] | trim + '<|eot|>' }}{%- endif %}{%- endfor %}"
        "{%- if add_generation_prompt %}{{- '<|h|>assistant\n\n' }}{%- endif %}"
    ),
    "gemma 3": (
        "{{ bos_token }}{%- if messages[0]['role'] == 'system' -%}{%- if messages[0]['content'] is string -%}"
        "{%- set first = messages[0]['content'] + '\n\n' -%}{%- else -%}"
        "{%- set first = messages[0]['content'][0]['text'] + '\n\n' -%}{%- endif -%}"
        "{%- set loop_messages = messages[1:] -%}{%- else -%}{%- set first = '' -%}"
        "{%- set loop_messages = messages -%}{%- endif -%}{%- for message in loop_messages -%}"
        "{%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}{{ raise_exception('roles must alternate') }}"
        "{%- endif -%}{{ '<start>' + ('model' if message.role == 'assistant' else message.role) + '\n' + "
        "(first if loop.first else '') }}{%- if message['content'] is string -%}{{ message['content'] | trim }}"
        "{%- elif message['content'] is iterable -%}{%- for item in message['content'] -%}"
        "{%- if item['type'] == 'image' -%}<image>{%- elif item['type'] == 'text' -%}{{ item['text'] | trim }}"
        "{%- endif -%}{%- endfor -%}{%- else -%}{{ raise_exception('Invalid content type') }}{%- endif -%}"
        "{{ '<end>\n' }}{%- endfor -%}{%- if add_generation_prompt -%}{{ '<start>model\n' }}{%- endif -%}"
    ),
    "qwen 3": (
        "{%- set ns = namespace(multi_step=true, last=messages | length - 1) %}{%- for message in messages[::-1] %}"
        "{%- set index = (messages | length - 1) - loop.index0 %}{%- if ns.multi_step and message.role == 'user' and "
        "message.content is string and not (message.content.startswith('<r>') and message.content.endswith('</r>')) %}"
        "{%- set ns.multi_step = false %}{%- set ns.last = index %}{%- endif %}{%- endfor %}"
        "{%- for message in messages %}{%- if message.role == 'assistant' %}"
        "{%- set content = message.content.split('</think>')[-1].lstrip('\n') %}{%- if loop.index0 > ns.last %}"
        "<think>\n{%- endif %}{{- content }}{%- else %}{{- '<|' + message.role + '|>' + message.content }}"
        "{%- endif %}{%- endfor %}{%- if add_generation_prompt %}{{- '<|assistant|>\n' }}"
        "{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\n\n</think>\n\n' }}"
        "{%- endif %}{%- endif %}"
    ),
    "harmony": (
        "{%- macro render(spec, required=false) -%}{%- if spec.type == 'object' -%}{ {%- for k, v in "
        "spec.properties.items() %}{{ k ~ ': ' ~ v.type }}{%- if not loop.last %}, {% endif %}{%- endfor %} }"
        "{%- else -%}{{ spec.type | default('any') }}{%- endif -%}{%- endmacro -%}"
        "{%- set model_identity = model_identity | default('You are a model.') -%}"
        "{{ '<|start|>system<|message|>' ~ model_identity ~ '\nReasoning: ' ~ (reasoning_effort or 'medium') }}"
        "{%- for tool in tools or [] %}{{ tool.function.name ~ ' ' ~ render(tool.function.parameters or {}) }}"
        "{%- endfor %}{%- for message in messages -%}{%- if '<|channel|>' in message.content %}"
        "{{ raise_exception('channels in content') }}{%- endif %}"
        "{{- '<|start|>' + message.role + '<|message|>' + message.content + '<|end|>' }}{%- endfor -%}"
        "{% if add_generation_prompt %}<|start|>assistant{% endif %}"
    ),
    "filters": (
        "{{ messages | map(attribute='role') | unique | join('-') }}|"
        "{{ messages | selectattr('role', 'equalto', 'user') | list | length }}|"
        "{{ messages[-1].content | replace('o', '0') | indent(2) }}|{{ none | tojson }}"
        "{{ {'b': 1, 'a': [true, 'ü']} | tojson(ensure_ascii=True, separators=(',', ':'), sort_keys=true) }}"
        "{% for k, v in {'x': 1}.items() %}{{ '%s=%d' % (k, v) }}{% endfor %}{{ unk_token }}{{ image_token }}"
        "{%- for m in messages -%}{{ loop.previtem.role if not loop.first else '' }}{{ loop.cycle('a', 'b') }}"
        "{%- endfor %}{{- messages[0].name is defined }}{% raw %}{{ kept }}{% endraw %}"
    ),
    # what few templates do, and any may
    "recursive loop": (
        "{% set tree = [{'n': 'a', 'of': [{'n': 'b', 'of': []}, {'n': 'c', 'of': []}]}] %}"
        "{%- for x in tree recursive %}{{ loop.depth }}{{ x.n }}{{ loop(x.of) }}{% endfor %}{{ messages[-1].content }}"
    ),
    "set block, call block and filter block": (
        "{% set said %}<{{ messages[-1].content }}>{% endset %}{% macro around(tag) %}[{{ tag }}]{{ caller() }}"
        "{% endmacro %}{% call around('x') %}{{ said }}{% endcall %}{% filter replace('o', '0') | trim %} {{ said }} "
        "{% endfilter %}"
    ),
    "neighbours": (
        "{% for m in messages %}{% if loop.previtem is defined and loop.previtem.role == m.role %}again {% endif %}"
        "{{ m.content }}{% if loop.nextitem is defined %}->{{ loop.nextitem.role }}{% endif %}"
        "{% if loop.changed(m.role) %}!{% endif %}{{ loop.revindex0 }}{% else %}none{% endfor %}"
    ),
    "a schema in types": (
        "{%- macro kind(s) %}{%- if s.enum is defined %}{{ s.enum | map('tojson') | join(' | ') }}"
        "{%- elif s.type is iterable and s.type is not string %}{{ s.type | join(' | ') }}"
        "{%- elif s.type == 'array' %}{{ kind(s['items']) }}[]{%- else %}{{ s.type }}{%- endif %}{%- endmacro %}"
        "{%- for tool in tools or [] %}{%- set f = tool.function %}type {{ f.name }} = (_: { "
        "{%- for name, s in f.parameters.properties | dictsort %}{{ name }}{{ '?' if name not in "
        "(f.parameters.required or []) }}: {{ kind(s) }}{{ ',' if not loop.last }}{%- endfor %}}) => any;\n"
        "{%- endfor %}{{ messages[-1].content }}"
    ),
    "batches and slices": (
        "{% for pair in messages | batch(2) %}({% for m in pair %}{{ m.content }};{% endfor %}){% endfor %}"
        "{{ messages[::-1][0].role }}{{ (messages | first).role }}{{ messages[:1] | map(attribute='role') | list }}"
    ),
    "inheritance without a parent": "{% block head %}<{{ messages[-1].content }}>{% endblock %}{{ self.head() }}",
    "signs": (
        "{#- nothing -#}\n{%+ if true %}  {{- messages[-1].content -}}  {%+ endif %}\n\n{{ '\\u00e9\\n' }}"
        "{% raw -%} {% if %} {%- endraw %}{{ 7 // 2 }}{{ '%05.1f' | format(2.25) }}{{ none ~ 1 }}{{ missing }}\n\n"
    ),
    "counters": (
        "{% set comma = joiner(', ') %}{% set odd = cycler('a', 'b') %}{% set ns = namespace(a=[], d={}) %}"
        "{% for m in messages %}{{ comma() }}{{ odd.next() }}{% set ns.a = ns.a + [m.role] %}"
        "{% set ns.d = dict(ns.d, **{m.role: loop.index}) %}{{ m.content }}{% endfor %}{{ ns.a | tojson }}"
        "{{ ns.d | tojson(sort_keys=true) }}{{ range(3) | sum }}{{ ns.a | select('in', ['user']) | list | count }}"
    ),
    "shadowed loop": (
        "{% for m in messages if m.role != 'system' %}{% set outer = loop %}{% for w in m.content.split() %}"
        "{% if outer.first and loop.last %}{% break %}{% endif %}{{ w }} {% endfor %}{% endfor %}"
        "{{ messages[-1].content }}"
    ),
    "thinking kept of the last answer": (
        "{%- set ns = namespace(last=-1) %}{%- for m in messages %}{%- if m.role == 'user' %}{%- set ns.last = "
        "loop.index0 %}{%- endif %}{%- endfor %}{%- for m in messages %}{%- set c = m.content %}{%- if m.role == "
        "'assistant' and '</think>' in c and loop.index0 < ns.last %}{%- set c = c.split('</think>')[-1].lstrip() %}"
        "{%- endif %}{{ '<|' ~ m.role ~ '|>' ~ c.rstrip() }}{%- endfor %}"
        "{{ '<|assistant|>' if add_generation_prompt }}{{ '<think>\n' if enable_thinking | default(true) }}"
    ),
}
DIALOGUES = {
    "question": [("user", "Is 3 < 4 & 'so' — “ü”?")],
    "system": [("system", "Be brief."), ("user", "hello")],
    "turns": [("user", "hi"), ("assistant", "<think>so</think> hello"), ("user", "why\n\nso?")],
}


def theirs(template: str, dialogue: list[tuple[str, str]], **values: Any) -> str:
    messages = [{"role": role, "content": text} for role, text in dialogue]
    tokenizer = byte_level_tokenizer()
    tokenizer.pad_token, tokenizer.unk_token = None, "<|im_start|>"
    found = tokenizer.apply_chat_template(
        messages, chat_template=template, tokenize=False, add_generation_prompt=True, **values
    )
    return str(found)


def ours(template: str, dialogue: list[tuple[str, str]], **values: Any) -> str:
    named = {"bos_token": "<|endoftext|>", "eos_token": "<|im_end|>", "unk_token": "<|im_start|>"}
    return render_messages(template, dialogue, values=named | values)


@pytest.mark.parametrize("dialogue", DIALOGUES)
@pytest.mark.parametrize("template", TEMPLATES)
def test_a_template_renders_as_in_transformers(template: str, dialogue: str) -> None:
    text, said = TEMPLATES[template], DIALOGUES[dialogue]
    assert ours(text, said) == theirs(text, said)


@pytest.mark.parametrize("begun", ["So 3", "<think>\nno\n</think>\n\nThe answer is: ", "  x"])
@pytest.mark.parametrize("template", ["chatml", "generation", "thinking", "lines", "llama 3", "gemma 3", "qwen 3"])
def test_an_answer_that_has_begun_goes_on_as_in_transformers(template: str, begun: str) -> None:
    """Issues 28089 of vLLM and 3403 of lm-evaluation-harness: a template writes an answer otherwise than its start."""
    said = [("user", "Is 3 < 4?"), ("assistant", begun)]
    messages = [{"role": role, "content": text} for role, text in said]
    try:
        wanted = byte_level_tokenizer().apply_chat_template(
            messages, chat_template=TEMPLATES[template], tokenize=False, continue_final_message=True
        )
    except ValueError:  # the template takes a part of the answer away
        with pytest.raises(ExplorerError, match="changes an answer that has begun"):
            render_begun(TEMPLATES[template], said)
        return
    named = {"bos_token": "<|endoftext|>", "eos_token": "<|im_end|>"}
    assert render_begun(TEMPLATES[template], said, named) == wanted


SCHEMA = {
    "type": "object",
    "properties": {
        "unit": {"enum": ["°C", "<F>"]},
        "days": {"type": ["integer", "null"]},
        "at": {"type": "array", "items": {"type": "array", "items": {"type": "string"}}},
    },
    "required": ["at"],
}


@pytest.mark.parametrize("template", ["a schema in types", "tools", "harmony"])
def test_a_schema_of_a_tool_reaches_the_template_as_in_transformers(template: str) -> None:
    tools = [{"type": "function", "function": {"name": "weather", "description": "", "parameters": SCHEMA}}] * 2
    said, text = DIALOGUES["system"], TEMPLATES[template]
    assert ours(text, said, tools=tools) == theirs(text, said, tools=tools) != ours(text, said)


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


# roles whose messages a template wants in parts -> template; of the others it wants the text
IN_PARTS = {
    "assistant user": (
        "{% for m in messages %}{% if m.role == 'system' %}{{ m.content | trim }}{% else %}{% for p in m.content %}"
        "{% if 'text' in p %}{{ p['text'] }}{% endif %}{% endfor %}{% endif %}|{% endfor %}"
    ),
    "system": (
        "{% for m in messages %}{{ m.content[0].text if m.role == 'system' else m.role ~ ': ' ~ m.content.strip() }}|"
        "{% endfor %}"
    ),
    "assistant system user": (
        "{% for m in messages %}{{ m.content | selectattr('type', 'equalto', 'text') | map(attribute='text') | join }}"
        "{{ m.content | map(attribute='type') | join }}|{% endfor %}"
    ),
    "": (
        "{% for m in messages %}{% if m.content is string %}{{ m.content }}{% elif m.content is sequence %}"
        "{{ raise_exception('no parts') }}{% endif %}|{% endfor %}"
    ),
}


@pytest.mark.parametrize("roles", IN_PARTS)
def test_each_role_has_the_form_that_the_template_wants(roles: str) -> None:
    said = [("system", "Be brief."), ("user", "hi"), ("assistant", "hello"), ("user", "why?")]
    messages = [
        {"role": role, "content": [{"type": "text", "text": text}] if role in roles.split() else text}
        for role, text in said
    ]
    wanted = byte_level_tokenizer().apply_chat_template(
        messages, chat_template=IN_PARTS[roles], tokenize=False, add_generation_prompt=True
    )
    assert ours(IN_PARTS[roles], said) == wanted
    assert all(text in str(wanted) for _, text in said)


@pytest.mark.parametrize(
    ("template", "cause"),
    [
        ("{% for i in range(10 ** 9) %}{% endfor %}{{ messages[0].content }}", "OverflowError"),
        ("{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}", "recursion"),
        ("{% include 'other.jinja' %}", "template fails"),
        ("{% do messages.append(1) %}", "unknown tag 'do'"),
        ("{{ messages.append(1) }}", "template fails"),
        ("{{ messages[0].update(role='x') }}", "template fails"),
        ("{{ strftime_now(3) }}", "TypeError"),
        ("{{ [1, messages[0].content] | sort }}", "TypeError"),
        ("{{ raise_exception() }}", "TypeError"),
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


class Fake:
    """A session as far as a prompt needs one."""

    chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}{{ pad_token }}{{ eos_token }}"
    chat_templates: ClassVar[dict[str, str]] = {"default": chat_template, "tool_use": "TOOLS " + chat_template}
    special_tokens: ClassVar[dict[str, str]] = {"pad_token": "<p>", "eos_token": "<e>"}
    bos_token, eos_token = "", "<e>"


def test_tools_choose_the_template_that_is_for_them_as_in_transformers() -> None:
    session: Any = Fake()
    tools = {"tools": [{"type": "function", "function": {"name": "add"}}]}
    assert prompt_of(session, Generate(prompt="hi", system=None)) == "hi<p><e>"
    asked = Generate(prompt="hi", system=None, template_values=tools)
    assert prompt_of(session, asked) == "TOOLS hi<p><e>" and template_name(session, asked) == "tool_use"
    named = Generate(prompt="hi", system=None, template_values=tools, template="default")
    assert prompt_of(session, named) == "hi<p><e>" and template_name(session, named) == "default"
