"""The second model that some strategies draft with: which one a request names, and whether it fits."""

from __future__ import annotations

import msgspec

from core import registry
from core.errors import ExplorerError
from core.types import Request, Session

PROBE = "The quick brown fox: 3.14 + x_1 = {'é': [世界]}\n\n\tdef f(n):\r\n  return n**2  # 🌍"
N_PROBED_IDS = 512


def draft_request(request: Request) -> Request | None:
    """What opens the draft model: the request with its model; None when the strategy drafts without one.

    Raises ExplorerError when the strategy needs a draft model and none is named.
    """
    strategy = registry.get("strategy", request.strategy)
    if "draft" not in {field.name for field in msgspec.structs.fields(strategy.Params)}:
        return None
    name = str(request.params.get("draft") or "")
    if not name:
        raise ExplorerError(
            f"{strategy.label}: no draft model is chosen.",
            "Set the parameter draft to a smaller model with the same tokenizer; `python -m core models` lists them.",
        )
    return msgspec.structs.replace(request, model=name, strategy="autoregressive", params={})


def same_tokenizer(session: Session, draft: Session, text: str) -> None:
    """Raises ExplorerError when the two would read a text, or write a token, differently.

    Vocabularies that differ in their padding only are equal: sizes are not compared, ids are.
    """
    n = min(session.spec.vocab_size, draft.spec.vocab_size)
    ids = range(0, n, max(1, n // N_PROBED_IDS))
    same_text = all(session.encode(t) == draft.encode(t) for t in (PROBE, text))
    if not same_text or any(session.decode([i]) != draft.decode([i]) for i in ids):
        raise ExplorerError(
            f"{draft.spec.name} has another tokenizer than {session.spec.name}, so it cannot draft for it.",
            "Choose a draft model of the same family.",
        )
