"""Talk to two configurations of a model at once: each answer with its speed, memory and joules."""

from __future__ import annotations

import streamlit as st

from core.paths import data_dir
from core.runs import chats
from core.runs.dialogue import ask
from core.runs.store import Run
from core.types import GOING, Generate, Request, Result
from hardware.errors import ExplorerError
from pages.measure._chat_form import side_form, side_label
from pages.measure._chat_state import Conversation, conversation, open_chat, publish
from pages.ui import marks, text
from pages.ui.energy_view import energy_line
from pages.ui.links import link
from pages.ui.live import live
from pages.ui.page import guard, page
from pages.ui.state import result_of, runner
from pages.ui.studies import draw_busy

EARLIER = 20  # chats of before that are offered
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
    about = marks.about(result, result.status in GOING)
    parts = (
        f"**{about}{text.token_rate(result.tok_per_s)}**" if result.tok_per_s else "",
        f"first token {text.seconds(result.ttft_s)}",
        f"{text.size(result.peak_memory_bytes)} of memory",
        f"{result.tokens_per_forward:.2f} tokens per forward"
        if result.tokens_per_forward and result.tokens_per_forward > 1.001
        else "",
        f"depth {text.percent(result.depth)}" if result.depth is not None else "",
    )
    told = " ".join(filter(None, (text.provenance("measured"), marks.badge(result))))
    why = "\n\n".join(filter(None, (marks.explained(result), text.provenance_help())))
    st.caption(" · ".join(p for p in parts if p) + " " + told, help=why)
    for energy in result.energy:
        if energy.phase == "decode":
            st.caption(energy_line(energy))
    if result.status not in GOING:
        link("pages/measure/run.py", "This run", ":material/open_in_new:", run.id)


def draw_turn(talk: Conversation, number: int) -> None:
    """The question, and the answers beside each other."""
    turn = talk.turns[number]
    runs = turn.runs
    with st.chat_message("user"):
        st.text(turn.question)
    columns = st.columns(max(1, len(talk.sides)), gap="large")
    for place, (side, column) in enumerate(zip(talk.sides, columns, strict=True)):
        with column, st.chat_message("assistant"), guard():
            st.caption(side_label(side))
            run = runs.run(place)
            if run is not None:
                live(run, draw_answer)
            elif place < runs.total:
                st.caption("Waits for the other one: two at once would spoil both.")
            else:
                st.caption("No answer: it was stopped, or its run was deleted.")
    if number == len(talk.turns) - 1 and not runs.going:
        drawn = any(isinstance(s.task, Generate) and s.task.sampling.temperature > 0 for s in talk.sides)
        st.button(
            "Regenerate",
            icon=":material/refresh:",
            key="regenerate",
            type="tertiary",
            on_click=talk.regenerate,
            disabled=runner().active() is not None,
            help="Ask this question once more. "
            + ("Another seed is drawn from." if drawn else "At temperature 0 the words stay, and the times are new."),
        )


def earlier_chats(talk: Conversation) -> None:
    """A way to the dialogues of before."""
    known = [chat_id for chat_id in chats.ids(data_dir()) if chat_id != talk.id][:EARLIER]
    if not known:
        return
    with st.popover("Earlier chats", icon=":material/history:"):
        for chat_id in known:
            try:
                title = chats.load(data_dir(), chat_id).title
            except ExplorerError:
                title = "damaged; free it on the page Storage"
            words = text.escape(text.cut(title, 60))
            st.button(words, key=f"chat-{chat_id}", type="tertiary", on_click=open_chat, args=(chat_id,))


def go_on(talk: Conversation) -> None:
    """Start the next configuration's answer when the one before has ended."""
    if not talk.turns:
        return

    def request(place: int) -> Request:
        earlier = [(turn.question, turn.runs.run(place)) for turn in talk.turns[:-1]]
        before = [(question, result_of(run)) for question, run in earlier if run is not None]
        last = talk.turns[-1]
        return ask(chats.again(talk.sides[place], last.attempt), last.question, talk.text, before)

    talk.turns[-1].runs.go_on(request, keep=len(talk.sides))


def send(talk: Conversation, sides: list[Request], question: str, pasted: str) -> None:
    """A new question; changed configurations or another text begin a new dialogue."""
    if talk.turns and (talk.sides != sides or talk.text != pasted):
        talk.clear()
    talk.sides, talk.text = sides, pasted
    talk.add(question)
    publish(talk)


with page("Chat", "One question, two configurations: what each says, how fast, and at what cost in memory and energy."):
    talk = conversation()
    first = second = None
    two, pasted = True, ""
    with st.container(border=True), guard():
        left, right = st.columns(2, gap="large")
        with left:
            first = side_form("a", "pytorch", "First")
        below = st.container(horizontal=True, vertical_alignment="center")
        with below:
            two = st.toggle("Second configuration", True, key="two", bind="query-params")
        with right:
            second = side_form("b", "llama_cpp", "Second") if two else None
        with below:
            with st.popover("Text to answer from", icon=":material/article:"):
                pasted = st.text_area(
                    "Text", "", key="pasted", height=200, placeholder="Paste a text; questions are then about it."
                )
            if talk.turns and st.button("New dialogue", icon=":material/refresh:", type="tertiary"):
                talk.clear()
                publish(talk)
                st.rerun()
            earlier_chats(talk)
            if talk.turns and talk.turns[-1].runs.going:
                st.button("Stop", icon=":material/stop_circle:", key="chat-stop", on_click=talk.turns[-1].runs.stop)
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
    if not (talk.turns and talk.turns[-1].runs.going):
        draw_busy()
    question = st.chat_input("Ask both" if two else "Ask", disabled=not ready or runner().active() is not None)
    if question and question.strip():
        send(talk, sides, question.strip(), pasted)
    with guard():
        go_on(talk)
