"""A prompt: one's own words, or a question of a domain that the models here can be trained for."""

from __future__ import annotations

import streamlit as st

from core.domains import current, load
from core.models import derived

OWN = "Own text"
_HOW_MANY = 20

_LABELS = {"sql": "SQL", "sql_easy": "SQL, easy", "arithmetic": "Arithmetic"}


def prompt_form(model: str | None) -> str | None:
    """The prompt; None while it is empty. Questions come from the test split, which no training has seen.

    model: its catalogue id; one that was trained on a domain is asked about that first.
    """
    trained = [d for d in map(current, map(str, derived.inherited(model or "", "domain").values())) if d in _LABELS]
    kind = st.segmented_control(
        "Prompt",
        [OWN, *_LABELS],
        default=[*trained, OWN][0],
        required=True,
        key="prompt-kind" + (f"-{model}" if trained else ""),
        bind="query-params",
        wrap=True,
        format_func=lambda n: _LABELS.get(n, n),
    )
    if kind == OWN:
        words = st.text_area(
            "Prompt text",
            "Write one sentence about the sea.",
            key="prompt",
            height=90,
            label_visibility="collapsed",
            bind="query-params",
        )
        return words.strip() or None
    questions = load(kind, "test", _HOW_MANY, 0)
    number = st.number_input("Question", 1, len(questions), 1, key="prompt-number", bind="query-params")
    chosen = questions[int(number) - 1]
    with st.container(border=True, height=150):
        st.text(chosen.prompt)
    return chosen.prompt
