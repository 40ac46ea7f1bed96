"""What can be asked for by a model's id: models, and ways to decode them: smollm2-135m, smollm2-135m:jacobi."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from core import plugins
from core.runs.resolve import resolve
from core.service.problems import ProblemError
from core.types import Generate, Record, Request, Scalar

PLAIN = "autoregressive"


class Offer(Record):
    """models: catalogue ids or paths. params: of strategies, by name. dtype, options, threads: of the backend."""

    models: tuple[str, ...] = ("smollm2-135m",)
    backend: str = "llama_cpp"
    dtype: str | None = None
    options: dict[str, Scalar] = msgspec.field(default_factory=dict)
    threads: int | None = None
    params: dict[str, dict[str, Scalar]] = msgspec.field(default_factory=dict)


def requests(offer: Offer) -> Mapping[str, Request]:
    """Model id -> what opens and decodes it, the plain models first.

    A strategy is offered where the backend can do what it needs, it writes text, and its draft model, if it has one, is
    named. Raises ExplorerError for a model, an option or a parameter that stands for nothing here.
    """
    backend = plugins.get("backend", offer.backend)
    strategies = [PLAIN]
    for name in plugins.names("strategy"):
        plugin, given = plugins.get("strategy", name), offer.params.get(name, {})
        drafts = "draft" in plugin.Params.__struct_fields__ and not given.get("draft")
        writes = plugin.needs & {"cache", "stream"}
        if name != PLAIN and writes and plugin.needs <= backend.capabilities and not drafts:
            strategies.append(name)
    for name in offer.params:
        plugins.get("strategy", name)
    found = {}
    for name in strategies:
        for model in offer.models:
            request = Request(
                model=model,
                backend=offer.backend,
                task=Generate(),
                strategy=name,
                dtype=offer.dtype,
                threads=offer.threads,
                options=offer.options,
                params=offer.params.get(name, {}),
                profilers=(),
            )
            resolve(request)
            found[model if name == PLAIN else f"{model}:{name}"] = request
    return found


def wanted(offered: Mapping[str, Request], name: str | None) -> Request:
    """What a client means by a model's id; without one, the first. Raises ProblemError."""
    if not name:
        return next(iter(offered.values()))
    if name not in offered:
        raise ProblemError(
            404,
            f"There is no model '{name[:100]}' here.",
            f"GET /v1/models lists them: {', '.join(list(offered)[:8])}.",
            param="model",
            code="model_not_found",
        )
    return offered[name]
