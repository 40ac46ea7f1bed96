"""Talk to two configurations of a model at once: each answer with its speed, memory and joules."""

from __future__ import annotations

import streamlit as st

from core.errors import ExplorerError
from core.runs.dialogue import ask
from core.runs.store import Run
from core.types import Result
from pages.ui import text
from pages.ui.chat_form import Side, side_form
from pages.ui.chat_state import Conversation, conversation
from pages.ui.energy_view import energy_line
from pages.ui.links import link
from pages.ui.live import live
from pages.ui.page import fault, guard, page
from pages.ui.state import GOING, open_run, readable, result_of, runner

EXAMPLES = (
    "What is the capital of France?",
    "Explain what a cache is, in two sentences.",
    "Write one sentence about the sea.",
)


def draw_answer(run: Run, result: Result) -> None:
    """The text as it grows, and under it what it cost."""
    st.text(result.text or ("…" if result.status in GOING else "(no text)"))
    if result.status == "failed":
        st.error(
            text.escape(result.hint or ""), title=text.escape(result.error or "It failed."), icon=":material/error:"
        )
        return
    parts = (
        f"**{text.token_rate(result.tok_per_s)}**",
        f"first token {text.seconds(result.ttft_s)}",
        f"{text.size(result.peak_memory_bytes)}",
        f"{result.tokens_per_forward:.2f} tokens per forward"
        if result.tokens_per_forward and result.tokens_per_forward > 1.001
        else "",
        f"depth {text.percent(result.depth)}" if result.depth is not None else "",
    )
    st.caption(" · ".join(p for p in parts if p) + " " + text.provenance("measured"), help=text.provenance_help())
    for energy in result.energy:
        if energy.phase == "decode":
            st.caption(energy_line(energy))
    if result.status not in GOING:
        link("pages/measure/run.py", "This run", ":material/open_in_new:", run.id)


def draw_turn(talk: Conversation, number: int) -> None:
    """The question, and the answers beside each other."""
    turn = talk.turns[number]
    with st.chat_message("user"):
        st.text(turn.question)
    columns = st.columns(max(1, len(talk.sides)), gap="large")
    for place, (side, column) in enumerate(zip(talk.sides, columns, strict=True)):
        with column, st.chat_message("assistant"), guard():
            st.caption(side.label)
            run_id = turn.runs[place] if place < len(turn.runs) else None
            if run_id and readable(run_id):
                live(open_run(run_id), draw_answer, every_s=0.4)
            else:
                st.caption("Waits for the other one: two at once would spoil both." if run_id is None else "Deleted.")


def go_on(talk: Conversation) -> None:
    """Start the next configuration's answer when the one before has ended."""
    if not talk.turns or runner().active():
        return
    turn = talk.turns[-1]
    if len(turn.runs) == len(talk.sides):
        return
    place = len(turn.runs)
    before = [(t.question, result_of(open_run(t.runs[place]))) for t in talk.turns[:-1] if readable(t.runs[place])]
    request = ask(talk.sides[place].request, turn.question, talk.text, before)
    try:
        turn.runs.append(runner().start(request, keep=len(talk.sides)))
    except ExplorerError as error:
        turn.runs.append("")
        fault(error)
        return
    st.rerun()


def send(talk: Conversation, sides: list[Side], question: str, pasted: str) -> None:
    """A new question; changed configurations or another text begin a new dialogue."""
    if talk.turns and (talk.sides != sides or talk.text != pasted):
        talk.clear()
    talk.sides, talk.text = sides, pasted
    talk.add(question)


with page("Chat", "One question, two configurations: what each says, how fast, and at what cost in memory and energy."):
    talk = conversation()
    with st.container(border=True), guard():
        left, right = st.columns(2, gap="large")
        with left:
            first = side_form("a", "pytorch", "First")
        with right:
            two = st.toggle("Second configuration", True, key="two", bind="query-params")
            second = side_form("b", "llama_cpp", "Second") if two else None
        with st.container(horizontal=True, vertical_alignment="center"):
            with st.popover("Text to answer from", icon=":material/article:"):
                pasted = st.text_area(
                    "Text", "", key="pasted", height=200, placeholder="Paste a text; questions are then about it."
                )
            if talk.turns and st.button("New dialogue", icon=":material/refresh:", type="tertiary"):
                talk.clear()
                st.rerun()
            if talk.turns and runner().active() and st.button("Stop", icon=":material/stop_circle:", key="chat-stop"):
                runner().cancel(runner().active() or "")
    sides = [side for side in (first, second) if side is not None]
    ready = first is not None and (second is not None or not two)
    for number in range(len(talk.turns)):
        draw_turn(talk, number)
    if not talk.turns:
        st.caption("Ask something, or try one of these:")
        with st.container(horizontal=True):
            for example in EXAMPLES:
                if st.button(example, key=f"example-{example}", disabled=not ready or runner().active() is not None):
                    send(talk, sides, example, pasted)
    question = st.chat_input("Ask both", disabled=not ready or runner().active() is not None)
    if question and question.strip():
        send(talk, sides, question.strip(), pasted)
    with guard():
        go_on(talk)
