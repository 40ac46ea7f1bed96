"""The dialogue of this tab: its configurations, its questions, and the runs that answered them. Kept on the disk under
the id in the address, so that a reload and another tab find it again."""

from __future__ import annotations

from dataclasses import dataclass, field

import streamlit as st

from core.paths import data_dir
from core.runs import chats
from core.runs.chats import Chat, Turn
from core.types import Request
from hardware.errors import ExplorerError
from pages.ui.page import fault
from pages.ui.sequence import Sequence
from pages.ui.state import remembered

CHAT = "chat"  # its id in the address


@dataclass
class Asked:
    """A question, one run per configuration in their order, and how often the answers were asked for anew."""

    question: str
    runs: Sequence
    attempt: int = 0


@dataclass
class Conversation:
    """id: empty before the first question. sides: requests without a question."""

    id: str = ""
    sides: list[Request] = field(default_factory=list)
    text: str = ""
    turns: list[Asked] = field(default_factory=list)
    seen: Chat = field(default_factory=Chat)  # as it lies on the disk, as far as this tab knows

    def add(self, question: str) -> None:
        self.id = self.id or chats.new_id()
        self.turns.append(Asked(question, Sequence(total=len(self.sides))))

    def regenerate(self) -> None:
        """Ask the last question once more; the earlier answers stay in History."""
        last = self.turns[-1]
        self.turns[-1] = Asked(last.question, Sequence(total=len(self.sides)), last.attempt + 1)

    def clear(self) -> None:
        """Begin anew; the old one stays on the disk."""
        self.__init__()  # type: ignore[misc]

    def keep(self) -> None:
        """Write what is new here, or else take over what another tab wrote. Raises ExplorerError (a full disk)."""
        if not self.id:
            return
        own = self._chat()
        if own != self.seen:
            chats.save(data_dir(), self.id, own)
            self.seen = own
            return
        there = chats.load(data_dir(), self.id)
        if there != self.seen:
            self.show(self.id, there)

    def show(self, chat_id: str, chat: Chat) -> None:
        """Hold this chat."""
        self.id, self.seen, self.sides, self.text = chat_id, chat, list(chat.sides), chat.text
        self.turns = [Asked(t.question, Sequence(total=t.total, runs=list(t.runs)), t.attempt) for t in chat.turns]

    def _chat(self) -> Chat:
        turns = [
            Turn(question=t.question, runs=tuple(t.runs.runs), total=t.runs.total, attempt=t.attempt)
            for t in self.turns
        ]
        return Chat(sides=tuple(self.sides), text=self.text, turns=tuple(turns))


def conversation() -> Conversation:
    """The one that the address names, or that the tab had; a chat that cannot be read is said and left."""
    talk = remembered("conversation", Conversation)
    asked = st.query_params.get(CHAT)
    try:
        if asked and asked != talk.id:
            talk.show(asked, chats.load(data_dir(), asked))
        else:
            talk.keep()
    except ExplorerError as error:
        fault(error)
        if asked != talk.id or not talk.turns or talk.id not in chats.ids(data_dir()):
            talk.clear()
    publish(talk)
    return talk


def publish(talk: Conversation) -> None:
    """Put the chat into the address."""
    if talk.id and st.query_params.get(CHAT) != talk.id:
        st.query_params[CHAT] = talk.id
    elif not talk.id:
        st.query_params.pop(CHAT, None)


def open_chat(chat_id: str) -> None:
    """Show this chat, from a callback."""
    st.query_params[CHAT] = chat_id
