"""The other models that a request brings: a strategy's draft, an eval's reference. Which ones, and whether they fit."""

from __future__ import annotations

from typing import Any

import msgspec

from core import plugins
from core.dtypes import is_quantized
from core.plugins import settings
from core.types import Evaluate, Generate, Request, Session
from hardware.errors import ExplorerError

PROBE = "The quick brown fox: 3.14 + x_1 = {'é': [世界]}\n\n\tdef f(n):\r\n  return n**2  # 🌍"
N_PROBED_IDS = 512


def companions(request: Request) -> dict[str, Request]:
    """Role ("draft", "reference") -> what opens that model. Raises ExplorerError when one is needed and not named."""
    found = {"draft": draft_request(request), "reference": reference_request(request)}
    return {role: wanted for role, wanted in found.items() if wanted is not None}


def draft_request(request: Request) -> Request | None:
    """What opens the draft model: the request with its model; None when the strategy drafts without one.

    Raises ExplorerError when the strategy needs a draft model and none is named.
    """
    strategy = plugins.get("strategy", request.strategy)
    if "draft" not in {field.name for field in msgspec.structs.fields(strategy.Params)}:
        return None
    name = str(request.params.get("draft") or "")
    if not name:
        raise ExplorerError(
            f"{strategy.label}: no draft model is chosen.",
            "Set the parameter draft to a smaller model with the same tokenizer; `python -m core models` lists them.",
        )
    return msgspec.structs.replace(request, model=name, task=Generate(), strategy="autoregressive", params={})


def reference_request(request: Request) -> Request | None:
    """What opens the model that an eval compares with; None when it compares with none.

    Without a name it is the model's origin: the one that all its transforms started from, or the model itself, as it is
    stored. An origin that is another model has the request's number format, unless that is a loss to be seen: integers.
    """
    if not isinstance(request.task, Evaluate):
        return None
    plugin = plugins.get("eval", request.task.eval)
    if "reference" not in plugin.Params.__struct_fields__:
        return None
    params: Any = settings(plugin.Params, request.task.settings, plugin.label)
    backend = params.reference_backend or request.backend
    same = backend == request.backend
    model = params.reference or origin(request.model)
    alike = same and not params.reference and model != request.model and not is_quantized(request.dtype or "fp32")
    return msgspec.structs.replace(
        request,
        model=model,
        backend=backend,
        task=Generate(),
        dtype=request.dtype if alike else None,
        options=request.options if same else {},
        strategy="autoregressive",
        params={},
    )


def origin(model: str) -> str:
    """The catalogue id that a derived model goes back to; its own when it is not derived."""
    from core.models import catalogue

    seen = {model}
    while (parent := str(catalogue.find(model).lineage.get("parent") or "")) and parent not in seen:
        seen.add(parent)
        model = parent
    return model


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
