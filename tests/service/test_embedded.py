"""The embedded model behind our server, against the same model beside us: texts, forwards, log-probabilities."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from core import plugins
from core.models import catalogue, spec
from core.runs.store import Store
from core.service.app import Manner, build
from core.service.offer import Offer
from core.types import Request
from core.worker.subject import ModelUnderTest
from tests.service.server import LONG_S, Server

pytestmark = [pytest.mark.engine("llama_cpp"), pytest.mark.model]

OPTIONS: dict[str, Any] = {"n_ctx": 512}
QUESTION = "What is the capital of France?"


@pytest.fixture
def client(store: Store) -> Iterator[openai.OpenAI]:
    offer = Offer(threads=1, options=OPTIONS)
    with Server(build(store, Manner(), offer)) as server:
        yield openai.OpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0, timeout=LONG_S)


@pytest.fixture
def near(home: Path) -> Iterator[ModelUnderTest]:
    kind, path = next(iter(catalogue.find("smollm2-135m").files.items()))
    request = Request(model="smollm2-135m", backend="llama_cpp", threads=1, options=OPTIONS)
    backend: Any = plugins.get("backend", "llama_cpp")
    session = backend.open(path, spec.read(path, kind), request, lambda *_, **__: None)
    greedy = plugins.get("strategy", "autoregressive")
    yield ModelUnderTest(session, None, greedy, greedy.Params())
    session.close()


def test_the_same_model_by_http(client: openai.OpenAI, near: ModelUnderTest) -> None:
    # a run's empty system message keeps the template's own away, and so does ours
    answer = near.generate(near.render([("system", ""), ("user", QUESTION)]), 16)
    asked: Any = {"messages": [{"role": "user", "content": QUESTION}], "max_tokens": 16}
    for name in ("smollm2-135m", "smollm2-135m:jacobi"):
        made: Any = client.chat.completions.create(model=name, **asked)
        assert made.choices[0].message.content == answer.text and "Paris" in answer.text
        assert (
            made.usage.completion_tokens
            == len(answer.ids)
            <= made.timings["n_forward"] + made.timings.get("draft_n_accepted", 0)
        )
        assert made.choices[0].finish_reason == ("stop" if answer.ids[-1] in near.session.eos_ids else "length")

    context, continuation = near.session.encode("The capital of France is"), near.session.encode(" Paris")
    scored: Any = client.completions.create(
        model="smollm2-135m", prompt=[*context, *continuation], max_tokens=1, logprobs=1, echo=True, temperature=0
    )
    likely = scored.choices[0].logprobs
    total, greedy = near.loglikelihood(context, continuation)
    # llama.cpp computes a chunk of logits in other shapes than one forward's last rows: 8-bit activations
    assert sum(likely.token_logprobs[len(context) : -1]) == pytest.approx(total, abs=0.05)
    tops = [max(top.values()) for top in likely.top_logprobs[len(context) : -1]]
    assert (tops == likely.token_logprobs[len(context) : -1]) is greedy
