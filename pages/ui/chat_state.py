"""The dialogue of this tab: its configurations, its questions, and the runs that answered them."""

from __future__ import annotations

from dataclasses import dataclass, field

from pages.ui.chat_form import Side
from pages.ui.state import remembered


@dataclass
class Turn:
    """runs: one id per configuration, in order; fewer while they are still to come."""

    question: str
    runs: list[str] = field(default_factory=list)


@dataclass
class Conversation:
    sides: list[Side] = field(default_factory=list)
    text: str = ""
    turns: list[Turn] = field(default_factory=list)

    def add(self, question: str) -> None:
        self.turns.append(Turn(question))

    def clear(self) -> None:
        self.turns.clear()


def conversation() -> Conversation:
    return remembered("conversation", Conversation)
