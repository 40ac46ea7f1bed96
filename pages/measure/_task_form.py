"""The widgets for a task: prompt, number of tokens, sampling."""

from __future__ import annotations

from typing import Any

import msgspec
import streamlit as st

from core.bounds import limits
from core.labels import setting
from core.types import Generate, ModelEntry, Sampling
from pages.ui.template_form import template_form

PROMPT = "What is the capital of France?"
MOST_LETTERS = 100_000  # a browser grows slow with more in one field
TEXT, RANDOM = "text", "random"
_MOST_K = int(limits(Sampling, "top_k")[1] or 0)
_BOUND: dict[str, Any] = {"bind": "query-params"}


def task_form() -> Generate | None:
    """What to generate from, and how much; None while the prompt is empty."""
    left, right = st.columns([1.3, 1], gap="xsmall")
    kind = left.segmented_control(
        "Prompt",
        [TEXT, RANDOM],
        default=TEXT,
        required=True,
        key="prompt_kind",
        width="stretch",
        format_func={TEXT: "Text", RANDOM: "Random"}.__getitem__,
        help="A text, or a number of random tokens for measuring: then exactly the tokens asked for are produced.",
        **_BOUND,
    )
    n_new = int(
        right.number_input(
            setting("Generate", "max_new_tokens"),
            1,
            1_000_000,
            64,
            key="max_new_tokens",
            help="At most; a model may stop earlier.",
            **_BOUND,
        )
    )
    prompt, prompt_tokens = None, None
    if kind == RANDOM:
        prompt_tokens = int(st.number_input("Prompt tokens", 1, 1_000_000, 128, key="prompt_tokens", **_BOUND))
    else:
        prompt = st.text_area("Prompt text", PROMPT, key="prompt", height=80, label_visibility="collapsed", **_BOUND)
    if kind == TEXT and not (prompt or "").strip():
        st.warning("Type a prompt, or choose random tokens.", title="The prompt is empty", icon=":material/edit:")
        return None
    if prompt is not None and len(prompt) > MOST_LETTERS:
        st.warning(
            "Shorten it here, or give it on the command line, which takes up to ten million.",
            title=f"The prompt has {len(prompt):,} characters; this page takes {MOST_LETTERS:,}",
            icon=":material/edit:",
        )
        return None
    return Generate(prompt=prompt, prompt_tokens=prompt_tokens, max_new_tokens=n_new)


def sampling_form(task: Generate | None, entry: ModelEntry | None) -> Generate | None:
    """Ask how tokens are chosen and how the prompt is wrapped; the task with it. entry: the model, for templates."""
    with st.popover("Sampling", width="stretch"):
        temperature = st.slider(
            "Temperature",
            0.0,
            2.0,
            0.0,
            0.05,
            key="temperature",
            help="0 is greedy: the likeliest token each time.",
            **_BOUND,
        )
        greedy = temperature == 0
        top_k = st.number_input(
            setting("Sampling", "top_k"), 1, _MOST_K, None, key="top_k", disabled=greedy, placeholder="all", **_BOUND
        )
        top_p = st.number_input(
            "Top p", 0.01, 1.0, None, 0.05, key="top_p", disabled=greedy, placeholder="all", **_BOUND
        )
        chat = st.toggle(
            setting("Generate", "chat"), True, key="chat", help="Wrap a prompt as the model was trained.", **_BOUND
        )
        template = template_form(entry) if chat else {}
        ignore_eos = st.toggle(
            setting("Generate", "ignore_eos"), False, key="ignore_eos", help="Always produce all new tokens.", **_BOUND
        )
    if task is None:
        return None
    chosen = (
        Sampling() if greedy else Sampling(temperature=temperature, top_k=int(top_k) if top_k else None, top_p=top_p)
    )
    return msgspec.structs.replace(task, chat=chat, ignore_eos=ignore_eos, sampling=chosen, **template)
