"""The widgets for a model's chat template: which of several, and whether the model may think first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import streamlit as st

from core.models import catalogue
from core.models.templates import templates_of
from core.tokenizers.chat import thinks
from core.types import ModelEntry
from pages.ui.choices import select

_THINKING = {"": "the template's", "on": "on", "off": "off"}


@st.cache_data(max_entries=64, show_spinner=False)
def _templates(model: str, changed: float) -> dict[str, str]:
    return templates_of(catalogue.find(model))


def template_form(entry: ModelEntry | None, prefix: str = "") -> dict[str, Any]:
    """What was chosen, as fields of a Generate; there is nothing to choose where the model has one plain template."""
    if entry is None:
        return {}
    place = Path(next(iter(entry.files.values())))
    known = _templates(entry.id, place.stat().st_mtime if place.exists() else 0.0)
    chosen: dict[str, Any] = {}
    if known.keys() - {"default"}:
        names = sorted(known, key=lambda name: (name != "default", name))
        usual = "" if "default" not in known else "default"
        name = select(
            "Template",
            names if usual else ["", *names],
            lambda n: n or "none",
            f"{prefix}template",
            usual,
            help="The model has several chat templates; transformers takes the one called default.",
        )
        chosen["template"] = name if name and name != "default" else None
    if any(map(thinks, known.values())):
        thinking = select(
            "Thinking",
            list(_THINKING),
            _THINKING.__getitem__,
            f"{prefix}thinking",
            "",
            help="What the chat template is told: whether the model may think before it answers.",
        )
        chosen["thinking"] = {"on": True, "off": False}.get(thinking or "")
    return chosen
