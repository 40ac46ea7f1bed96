"""One number in a frame, as high as its row; a few words and a small chart may stand under it."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from pages.ui import marks


def tile(
    label: str,
    value: str,
    about: str | None = None,
    *,
    under: str | None = None,
    line: Sequence[float] = (),
    bars: bool = False,
) -> None:
    """about: for the tooltip. under: words that are no change, and stand out only where they warn (marks.DISTURBED).

    line: drawn if there are two values or more, as bars if so asked.
    """
    st.metric(
        label,
        value,
        border=True,
        height="stretch",
        help=about or None,
        delta=under,
        delta_color="orange" if under == marks.DISTURBED else "off",
        delta_arrow="off",
        chart_data=list(line) if len(line) > 1 else None,
        chart_type="bar" if bars else "line",
    )
