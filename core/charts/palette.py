"""Colours that everyone can tell apart, light and dark, and what each one means everywhere.

Okabe and Ito's palette (2008) without its black and yellow, which vanish on one of the two
backgrounds. A colour never stands alone: shapes, dashes, labels or positions repeat it.
"""

from __future__ import annotations

BLUE = "#0072B2"
ORANGE = "#E69F00"
GREEN = "#009E73"
PINK = "#CC79A7"
SKY = "#56B4E9"
RED = "#D55E00"
OLIVE = "#A6A02E"
GREY = "#8A8D91"

KINDS = {
    "attention": BLUE,
    "mlp": ORANGE,
    "norm": SKY,
    "head": RED,
    "embedding": GREEN,
    "ssm": PINK,
    "router": OLIVE,
    "other": GREY,
}
BACKENDS = {"llama.cpp": BLUE, "ONNX Runtime": GREEN, "PyTorch": ORANGE}
PHASES = {"prefill": ORANGE, "decode": BLUE}
PHASE_SHAPES = {"prefill": "triangle-up", "decode": "circle"}
BOUNDS = {"memory": BLUE, "compute": RED}
BANDS = {
    "preparing": GREY,
    "loading": GREEN,
    "warm-up": OLIVE,
    "prefill": ORANGE,
    "decode": BLUE,
    "profiling": PINK,
    "other": GREY,
}
SERIES = (BLUE, ORANGE, GREEN, PINK, SKY, RED, OLIVE, GREY)
DASHES = ([1, 0], [6, 3], [2, 2], [8, 3, 2, 3], [10, 4], [1, 3])

# dark to light: reads as "more" on both backgrounds because both ends keep contrast with them
SEQUENTIAL = ("#3B528B", "#31688E", "#26828E", "#1F9E89", "#35B779", "#6DCD59", "#B4DE2C", "#E8D51E")
DIVERGING = (BLUE, "#4F97C3", "#8FB6CC", "#A5A8AB", "#D9B07C", "#DE8840", RED)
