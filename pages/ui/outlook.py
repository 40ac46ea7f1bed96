"""How far a whole run is, and what is left of it as earlier runs of the same model tell: one bar everywhere."""

from __future__ import annotations

import time
from functools import lru_cache
from pathlib import Path

import streamlit as st

from core.paths import data_dir
from core.runs.progress import Stage, elapsed_s, stage
from core.runs.stages import Learned, Left, Outlook, learned, outlook
from core.runs.store import Run, Store
from hardware.detect import machine_id
from pages.ui import text

WORTH_S = 2.0  # a wait that is longer says how long it has lasted


def foreseen(run: Run) -> Outlook:
    """Of a run that is going, now."""
    return outlook(run.recording(), spent_s(run), _learned(data_dir(), run.id))


@lru_cache(maxsize=16)
def _learned(root: Path, run_id: str) -> Learned:
    """What was known when it began: looked up once for each run."""
    store = Store(root)
    return learned(store.history(), store.open(run_id).request, machine_id())


def spent_s(run: Run) -> float:
    """Seconds since it was asked for, or until its end."""
    return elapsed_s(run.events(), time.time() - run.created_s)


def draw_bar(run: Run) -> None:
    """The bar over the whole run: what it does now, how far that is, the clock, and what is left."""
    now, seen = stage(run.recording()), foreseen(run)
    words = (stage_line(now, seen), text.clock(spent_s(run)), left_words(seen.left))
    st.progress(seen.fraction, text=" · ".join(filter(None, words)))


def stage_line(now: Stage, seen: Outlook | None) -> str:
    """`Pass 1 of 3: timing · decode 34 of 64 tokens`, `Loading · Importing PyTorch, 7 s of about 18 s`."""
    where = f"Pass {now.pass_no} of {now.n_passes}: {now.name}" if now.pass_no else now.name.capitalize()
    what = text.escape(now.detail)
    if now.done is not None and now.total:
        if now.unit == "bytes":
            what += f" {text.size(now.done)} of {text.size(now.total)}"
        else:
            what += f" {now.done:,.0f} of {now.total:,.0f} {now.unit}"
    elif seen is not None and seen.wait_s > WORTH_S:
        lasts = f", {seen.wait_s:.0f} s"
        about = seen.expected_s
        what += lasts + (f" of about {about:.0f} s" if about is not None and about > seen.wait_s else "")
    return f"**{where}** · {what}" if what else f"**{where}**"


def left_words(left: Left | None) -> str:
    """`about 40 s left (30 s to 1 min)`; nothing where nothing is known."""
    if left is None:
        return ""
    words = f"about {text.roughly(left.likely_s)} left"
    low, high = text.roughly(left.low_s), text.roughly(left.high_s)
    if left.n_runs == 0:
        return f"{words} at this pace"
    if left.n_runs == 1:
        return f"{words}, by one earlier run"
    return f"{words} ({low} to {high})" if low != high else words
