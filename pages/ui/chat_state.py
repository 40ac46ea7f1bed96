"""The dialogue of this tab: its configurations, its questions, and the runs that answered them."""

from __future__ import annotations

from dataclasses import dataclass, field

from pages.ui.chat_form import Side
from pages.ui.sequence import Sequence
from pages.ui.state import remembered


@dataclass
class Conversation:
    """turns: a question, and one run per configuration, in their order."""

    sides: list[Side] = field(default_factory=list)
    text: str = ""
    turns: list[tuple[str, Sequence]] = field(default_factory=list)

    def add(self, question: str) -> None:
        self.turns.append((question, Sequence(total=len(self.sides))))

    def clear(self) -> None:
        self.turns.clear()


def conversation() -> Conversation:
    return remembered("conversation", Conversation)
