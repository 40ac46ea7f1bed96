"""Train a model on this machine: a teacher for a domain, consistency, heads, a smaller student."""

from __future__ import annotations

from pages.ui.derive_page import derive_page

derive_page(
    "Train",
    "Train on this machine for a faster model: pick a base, a domain and a budget, and watch the curves.",
    trains=True,
    button="Train",
    nothing="Nothing was trained yet",
    first="Fine-tune a teacher on a domain first; consistency training then starts from it.",
)
