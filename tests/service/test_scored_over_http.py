"""Evaluations over our own service as over any other server: the same numbers as in the session behind it."""

from __future__ import annotations

from pathlib import Path

import pytest

from core import plugins
from core.endpoints import store as endpoints
from core.models import spec
from core.runs.store import Store
from core.service.app import Manner, build
from core.types import Item, Request, Session
from core.worker.subject import ModelUnderTest
from tests.service.server import Server
from tests.service.test_openai_routes import FAKE, MODEL
from tests.support.progress import silent


def asked(session: Session, name: str, **given: object) -> list[Item]:
    plugin = plugins.get("eval", name)
    subject = ModelUnderTest(session, None, plugins.get("strategy", "autoregressive"), None)
    return list(plugin.measure(subject, plugin.Params(**given)))


def test_perplexity_and_choices_over_http_are_those_of_the_session(home: Path, tmp_path: Path) -> None:
    from core.models import catalogue

    entry = catalogue.find(MODEL)
    fake = plugins.get("backend", "fake")
    fmt = next(f for f in fake.formats if f in entry.files)
    local = fake.open(entry.files[fmt], spec.read(entry.files[fmt], fmt), Request(model=MODEL, backend="fake"), silent)
    with Server(build(Store(tmp_path / "there"), Manner(), FAKE)) as server:
        endpoint = endpoints.add(server.url)
        assert (endpoint.flavour, endpoint.scores) == ("openai", "echo")
        file, _ = next((f, m) for f, m in endpoints.files(endpoint) if m.id == MODEL)
        request = Request(model="m", backend="endpoint")
        far = plugins.get("backend", "endpoint").open(str(file), spec.read(file, "endpoint"), request, silent)
        text = tmp_path / "text.txt"
        text.write_text("The sea is wide and blue.")
        for name, given in (("perplexity", {"text": str(text), "context": 64}), ("choice", {"n": 1})):
            here, there = asked(local, name, **given), asked(far, name, **given)
            assert [item.fingerprint for item in here] == [item.fingerprint for item in there]
            for one, other in zip(here, there, strict=True):
                assert other.values == pytest.approx(one.values, rel=1e-4)
