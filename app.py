"""Roofscope: page set-up, menu, and what stands on every page. Start it with `streamlit run app.py`."""

from __future__ import annotations

from pathlib import Path

import streamlit as st

from pages.ui.page import guard
from pages.ui.shell import machine_line, missing_run_notice, run_strip
from pages.ui.state import keep_run_in_address

ROOT = Path(__file__).parent
MENU = {
    "Measure": (("measure/run.py", "Run", "play_arrow", "Run a model and watch its text, speed and memory live."),),
    "Understand": (
        (
            "understand/roofline.py",
            "Roofline",
            "stacked_line_chart",
            "How far each layer is from what the machine can do.",
        ),
        (
            "understand/layers.py",
            "Layers",
            "account_tree",
            "The network as a graph: where time, bytes and FLOPs go.",
        ),
        ("understand/memory.py", "Memory", "memory", "Weights, KV cache and workspace, computed and measured."),
    ),
    "Compare": (
        ("compare/history.py", "History", "history", "All runs: find, open, compare, import, export, delete."),
        ("compare/compare.py", "Side by side", "compare_arrows", "Two runs: ratios, texts and layers."),
    ),
    "Plan": (
        ("plan/devices.py", "Devices", "developer_board", "Data sheets of processors and accelerators, and your own."),
        ("plan/predict.py", "Predict", "query_stats", "Speed and memory of a model on a device, before having either."),
    ),
}

st.set_page_config(page_title="Roofscope", page_icon=str(ROOT / "pages/ui/icon.svg"), layout="wide")
st.logo(ROOT / "pages/ui/logo.svg", size="large")

menu = {
    section: [
        st.Page(f"pages/{path}", title=title, icon=f":material/{icon}:", help=about, default=path == "measure/run.py")
        for path, title, icon, about in entries
        if (ROOT / "pages" / path).is_file()
    ]
    for section, entries in MENU.items()
}
chosen = st.navigation({section: found for section, found in menu.items() if found}, expanded=True)

with guard():
    keep_run_in_address()
    missing_run_notice()
    run_strip(on_run_page=chosen.title == "Run")
    machine_line()
with guard():
    chosen.run()
