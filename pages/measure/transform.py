"""Make a smaller or faster model out of a model: quantize, prune, drop layers, export."""

from __future__ import annotations

from pages.ui.derive_page import derive_page

derive_page(
    "Transform",
    "Make a smaller model out of a model, and see what it really weighs.",
    trains=False,
    button="Make it",
    nothing="Nothing was made yet",
    first="Press Make it: quantizing the embedded model takes seconds.",
)
