"""Roofscope: page set-up, menu, and what stands on every page. Start it with `streamlit run app.py`."""

from __future__ import annotations

from pathlib import Path

import streamlit as st

ROOT = Path(__file__).parent
Entry = tuple[str, str, str, str]  # page file, title, icon, what it is for
MENU: dict[str, tuple[Entry, ...]] = {
    "Measure": (
        ("measure/run.py", "Run", "play_arrow", "Run a model and watch its text, speed and memory live."),
        ("measure/chat.py", "Chat", "chat", "Talk to two configurations at once: what an optimization costs and buys."),
        ("measure/evaluate.py", "Evaluate", "fact_check", "How good its answers are, item by item, with statistics."),
        ("measure/transform.py", "Transform", "deployed_code", "Quantize, prune or shrink a model."),
        ("measure/load.py", "Load test", "speed", "Many requests at once: latency, throughput, goodput."),
        ("measure/train.py", "Train", "model_training", "Fine-tune, train for parallel decoding, distil."),
    ),
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
        ("understand/decoding.py", "Decoding", "fast_forward", "Many tokens per forward: when it pays, and why."),
        ("understand/jacobi.py", "Jacobi, live", "animation", "A window of tokens converging, in a race."),
    ),
    "Compare": (
        ("compare/history.py", "History", "history", "All runs: find, open, compare, import, export, delete."),
        ("compare/compare.py", "Side by side", "compare_arrows", "Two runs: ratios, texts and layers."),
        ("compare/many.py", "Many runs", "table_chart", "Models, backends and devices in one view."),
        (
            "compare/community.py",
            "Community",
            "groups",
            "Machines of many people beside this one, doubtful rows apart.",
        ),
        ("compare/tradeoffs.py", "Trade-offs", "balance", "Speed, memory, energy and quality of many variants."),
    ),
    "Plan": (
        ("plan/devices.py", "Devices", "developer_board", "Data sheets of processors and accelerators, and your own."),
        ("plan/predict.py", "Predict", "query_stats", "Speed and memory of a model on a device, before having either."),
        (
            "plan/what_if.py",
            "What if",
            "tune",
            "Change bandwidth, FLOP/s, caches and memory: what binds, what would help.",
        ),
        (
            "plan/architectures.py",
            "Architectures",
            "schema",
            "Which shape of a model buys the most speed for the least loss.",
        ),
        ("plan/sweep.py", "Sweep", "grid_on", "Every combination of the settings you choose, measured."),
        ("plan/advice.py", "Advice", "lightbulb", "What to change, what it should bring, and whether it did."),
    ),
    "Learn": (
        ("learn/lessons.py", "Lessons", "school", "Predict, try, see and check: how inference spends its time."),
        ("learn/literature.py", "Literature", "menu_book", "What the papers report, and what independent runs found."),
        ("learn/glossary.py", "Glossary", "dictionary", "Every term of this app in a sentence or two."),
    ),
    "Manage": (
        ("manage/endpoints.py", "Endpoints", "lan", "Model servers to measure: find, add and forget them."),
        ("manage/storage.py", "Storage", "hard_drive", "What lies on the disk, what made it, and what can go."),
    ),
}


def main() -> None:
    """One run of the app: frame, menu, what stands on every page, and the chosen page."""
    from core.paths import data_dir
    from core.runs.screens import drew
    from pages.ui import lecture, rest
    from pages.ui.access import access
    from pages.ui.first_start import tour_strip
    from pages.ui.lesson_view import way_back
    from pages.ui.page import guard
    from pages.ui.panes import look
    from pages.ui.shell import machine_line, missing_run_notice, run_strip
    from pages.ui.state import keep_run_in_address

    st.set_page_config(page_title="Roofscope", page_icon=str(ROOT / "pages/ui/icon.svg"), layout="wide")
    look()
    access()
    st.logo(ROOT / "pages/ui/logo.svg", size="large")
    menu = {section: [*map(_page, filter(_is_there, entries))] for section, entries in MENU.items()}
    menu["Measure"].append(st.Page(_to_run, title="Run", url_path="run", visibility="hidden"))
    chosen = st.navigation({section: found for section, found in menu.items() if found}, expanded=True)
    if chosen.visibility == "hidden":
        chosen.run()
    with guard():
        keep_run_in_address()
        note = rest.resting()
        rest.line(note)
        if note is not None:
            st.stop()
        lecture.frame(chosen.title)
        with st.container():  # what comes and goes in it does not move the page: moved, all of it would be seen twice
            tour_strip()
            way_back(on_lessons=chosen.title == "Lessons")
            missing_run_notice()
            run_strip(on_run_page=chosen.title == "Run")
        machine_line()
    try:
        with guard():
            chosen.run()
    finally:
        drew(data_dir())


def _to_run() -> None:
    """The main page has no name in its address: who types `/run`, or has it from a link, is led there."""
    st.switch_page(f"pages/{MENU['Measure'][0][0]}", query_params=st.query_params.to_dict())


def _is_there(entry: Entry) -> bool:
    return (ROOT / "pages" / entry[0]).is_file()


def _page(entry: Entry) -> st.Page:
    path, title, icon, about = entry
    main = title == "Run"
    name = "" if main else None  # its own would be that of _to_run
    return st.Page(f"pages/{path}", title=title, icon=f":material/{icon}:", help=about, default=main, url_path=name)


if __name__ == "__main__":  # Streamlit runs this file as the script of every page
    main()
else:  # `streamlit run` imports it once, to get the server
    from starlette.middleware import Middleware

    from pages.ui import watch, words
    from pages.ui.door import Door
    from pages.ui.server import lifespan

    app = st.App(__file__, lifespan=lifespan, routes=[*watch.ROUTES, *words.ROUTES], middleware=[Middleware(Door)])
