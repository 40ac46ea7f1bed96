"""What one request of a load test says, and what came of it: between the plan's asks and the endpoints' client.

The client stamps times and counts tokens (core.endpoints); here they become an Outcome on the level's clock.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

from core.endpoints import bodies, client, flavours, store
from core.endpoints.address import Address, address
from core.endpoints.chunks import Chunk
from core.endpoints.client import Stream
from core.endpoints.failures import Failure
from core.endpoints.flavours import Flavour
from core.endpoints.measured import measured
from core.loadtest.events import Outcome
from core.loadtest.lengths import Ask
from core.loadtest.plan import Plan
from hardware.errors import ExplorerError

CONNECT_S = 10.0
NAMELESS: tuple[Flavour, ...] = ("llama_cpp", "tgi")  # answer whatever the model is called in a request


class Target(NamedTuple):
    """The server, which of its models, and how long it may keep silent. plain: say no more than the standard has.

    about: the server in words.
    """

    where: Address
    model: str
    silent_s: float
    flavour: Flavour = "openai"
    plain: bool = False
    about: str = ""

    def call(self, ask: Ask) -> Call:
        """The request, which goes out when it is performed."""
        path, said = body(self.flavour, self.model, ask, self.plain)
        return Call(client.stream(self.where, said, path, connect_s=CONNECT_S, read_s=self.silent_s), ask)

    def plainer(self) -> Target | None:
        """The same server, asked without what an unknown one may refuse; None where that is no way out."""
        return self._replace(plain=True) if self.flavour == "openai" and not self.plain else None


def body(flavour: Flavour, model: str, ask: Ask, plain: bool = False) -> tuple[str, dict[str, Any]]:
    """(path, body): greedy, of the length that was asked for, not from a cache, with exact counts where there are some.

    A server of no known kind is asked for all of that: most pass over fields that they do not know.
    """
    path, said = bodies.chat(flavour, model, [("user", ask.prompt)], ask.answer_tokens, ignore_eos=True)
    if flavour == "openai" and not plain:
        said |= {
            "max_tokens": ask.answer_tokens,
            "ignore_eos": True,
            "cache_prompt": False,
            "stream_options": {"include_usage": True, "continuous_usage_stats": True},
        }
    return path, said


def target(plan: Plan) -> Target:
    """Whom the plan means, found by asking: what kind of server, and its first model where the plan names none.

    The key comes from the plan's variable, else from where the user said when the endpoint was added. Raises
    ExplorerError.
    """
    where = address(plan.address, key_of(plan.key))
    known = next((e for e in store.endpoints() if e.url == where.api), None)
    if known is not None and not plan.key:
        where = store.address_of(known)
    found = store.asked(known) if known is not None and known.cloud is not None else flavours.probe(where)
    model = plan.model or next((m.id for m in flavours.usable(found.models)), "")
    if not model:
        raise ExplorerError(f"{where.root} lists no model that writes text.", "Load one there, or name the model.")
    names = [store.short(m.id) for m in found.models]
    if found.flavour in NAMELESS and model not in (*names, *(m.id for m in found.models)):
        raise ExplorerError(
            f"{where.root} has no model '{model[:100]}', and would answer with another one.",
            f"It lists: {', '.join(names[:8])}.",
        )
    slots = "" if found.slots is None else f", {found.slots} slot{'s' if found.slots != 1 else ''}"
    about = f"{flavours.LABELS[found.flavour]} {found.version}".strip() + slots
    return Target(where, model, plan.timeout_s, found.flavour, about=f"{about}; model {store.short(model)}")


def key_of(name: str, environ: Mapping[str, str] = os.environ) -> str | None:
    """The key in that environment variable; None without a name. Raises ExplorerError when it is not set."""
    if not name:
        return None
    if not environ.get(name):
        raise ExplorerError(f"The environment variable {name} is not set.", "Set it to the key of the server.")
    return environ[name]


class Call:
    """One request to a server."""

    def __init__(self, stream: Stream, ask: Ask) -> None:
        self._stream, self._ask = stream, ask

    def close(self) -> None:
        """Drop its connection, from any thread."""
        self._stream.close()

    def perform(self, due_s: float | None, zero_s: float) -> Outcome:
        """From its beginning to its end, in this thread. due_s: since zero_s, when the level began."""
        began_s = time.perf_counter()
        chunks: list[Chunk] = []
        failure: Failure | None = None
        try:
            for chunk in self._stream:
                chunks.append(chunk)
        except Failure as error:
            failure = error
        return _outcome(self._stream, self._ask, chunks, failure, began_s, due_s, zero_s)


def _outcome(
    stream: Stream,
    ask: Ask,
    chunks: list[Chunk],
    failure: Failure | None,
    began_s: float,
    due_s: float | None,
    zero_s: float,
) -> Outcome:
    ended_s = stream.ended_s if stream.ended_s is not None else time.perf_counter()
    sent_s = stream.sent_s
    found = measured(chunks, sent_s if sent_s is not None else zero_s)
    kind, reason = ("", "") if failure is None else (failure.kind, str(failure))
    if failure is None and found.ttft_s is None:
        kind, reason = "empty", "The server answered without a text."

    def on_clock(since_sent_s: float | None) -> float | None:
        return None if since_sent_s is None or sent_s is None else round(sent_s + since_sent_s - zero_s, 7)

    return Outcome(
        index=ask.number,
        begun_s=round(began_s - zero_s, 7),
        scheduled_s=due_s,
        sent_s=on_clock(0.0),
        connect_s=None if stream.connect_s is None else round(stream.connect_s, 7),
        first_s=on_clock(found.ttft_s),
        last_s=on_clock(found.e2e_s),
        ended_s=round(ended_s - zero_s, 7),
        n_tokens=found.n_tokens,
        first_tokens=found.first_tokens,
        asked_tokens=ask.answer_tokens,
        prompt_tokens=found.n_prompt,
        cached_tokens=found.cached,
        counted_by=found.counted_by or "",
        single=found.itl_s is not None,
        gaps_s=tuple(round(g, 6) for g in found.icl_s),
        failure=kind,
        reason=reason,
    )
