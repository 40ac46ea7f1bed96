"""A text as a model's own tokenizer reads it when it stands alone, with the special tokens that it adds.

A chat template writes its special tokens itself: what it has rendered is encoded as it is.
"""

from __future__ import annotations

from core.types.contracts import Session


def opened(session: Session, text: str) -> list[int]:
    """The ids of a text that goes on, after what the tokenizer puts before a text (BOS), which is never there twice."""
    ids = session.encode(text)
    n = len(session.opening)
    return ids if tuple(ids[:n]) == session.opening else [*session.opening, *ids]


def raw(session: Session, text: str) -> list[int]:
    """The ids of a whole text: with what the tokenizer puts before it (BOS) and behind it (EOS), never twice."""
    ids = opened(session, text)
    n = len(session.closing)
    return ids if not n or tuple(ids[-n:]) == session.closing else [*ids, *session.closing]
