"""Setup and Host as production makes them: of a session that the fake backend opened, and of this machine."""

from __future__ import annotations

import msgspec

from core import plugins
from core.types import Host, ModelSpec, Request, Setup
from core.worker.generate import this_host

NOTHING = ModelSpec(name="m", architecture="a", d_model=1, n_blocks=0, vocab_size=1, max_context=None, layers=())


def setup(spec: ModelSpec = NOTHING, **changes: object) -> Setup:
    request = Request(model=spec.name, backend="fake", threads=2)
    session = plugins.get("backend", "fake").open("", spec, request, lambda *_, **__: None)
    return msgspec.structs.replace(session.setup, **changes)


def host(**changes: object) -> Host:
    """changes: of the host, or of its machine."""
    found = this_host()
    own = {name: changes.pop(name) for name in Host.__struct_fields__ if name in changes}
    return msgspec.structs.replace(found, **own, machine=msgspec.structs.replace(found.machine, **changes))
