"""Decodings of one prompt replayed beside each other against one clock: play, pause, step, slow motion.

The times are the measured ones of each run; the runs themselves went one after another.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
import streamlit as st

from core.analysis.decoding import Frame

_HERE = Path(__file__).parent
_component = st.components.v2.component(
    "roofscope-race", css=(_HERE / "race.css").read_text(), js=(_HERE / "race.js").read_text()
)


def race(
    lanes: Sequence[tuple[str, Sequence[Frame]]], key: str, autoplay: bool = False, steps: int | None = None
) -> None:
    """lanes: a label and the frames of one pass each; stepping follows the last lane.

    steps: how many of them behind the prompt are shown at first, and again whenever that changes; else all.
    """
    drawn = [{"label": label, "frames": msgspec.to_builtins(list(frames))} for label, frames in lanes]
    for one in drawn:
        for frame, source in zip(one["frames"], dict(lanes)[one["label"]], strict=True):
            frame.setdefault("pieces", list(source.pieces))
            frame.setdefault("guess", [])
    _component(data={"steps": steps, "lanes": drawn, "autoplay": autoplay}, key=key, height="content")
