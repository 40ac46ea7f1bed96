"""Log-probabilities of a prompt: both forms, who is refused, and what a session over such a server says of a text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from core import plugins
from core.endpoints import prompt_scores, store
from core.models import catalogue, spec
from core.models.token_counter import counter
from core.runs.check import can_evaluate, check
from core.types import Evaluate, GenerationConfig, Request, Session, likely
from core.worker.subject import ModelUnderTest
from hardware.errors import ExplorerError
from tests.support import model_servers
from tests.support.progress import silent
from tests.support.scripted_server import Answer, ScriptedServer, Seen, chat, json_answer

BOS = 1


def scored(seen: Seen) -> Any:
    """A model that finds token t as likely as -t/100, and greedy where t is even."""
    ids, body = seen.body["prompt"], seen.body
    if "prompt_logprobs" in body:
        rows = [{str(t): {"logprob": -t / 100, "rank": 1 + t % 2}, "0": {"logprob": -0.001, "rank": 1}} for t in ids]
        return {"choices": [{"text": "x", "prompt_logprobs": [None, *rows[1:]]}]}
    tops = [{"a": -t / 100, "b": -9.0 if t % 2 == 0 else -0.001} for t in ids]
    held = {"token_logprobs": [None, *[-t / 100 for t in ids[1:]], -0.5], "top_logprobs": [None, *tops[1:], {}]}
    return {"choices": [{"text": "x", "logprobs": held}]}


def speaks(flavour: str, answers: Any = scored) -> Any:
    def respond(seen: Seen) -> Answer:
        if seen.path == "/tokenize":
            opening = [BOS] if seen.body["add_special_tokens"] else []
            return json_answer({"tokens": [*opening, *map(ord, seen.body["prompt"])]})
        if seen.path == "/detokenize":
            return json_answer({"prompt": "".join(chr(i) for i in seen.body["tokens"] if i != BOS)})
        if seen.path == "/v1/completions" and not seen.body.get("stream"):
            return json_answer(answers(seen))
        if seen.path == "/v1/completions":
            return chat(["fine"], tokens_each=1)
        return model_servers.SERVERS[flavour].get(seen.path, json_answer({}, 404))

    return respond


def opened(server: ScriptedServer) -> Session:
    endpoint = store.add(server.url)
    file = next(store.files(endpoint))[0]
    request = Request(model="m", backend="endpoint")
    return plugins.get("backend", "endpoint").open(str(file), spec.read(file, "endpoint"), request, silent)


@pytest.mark.parametrize(("flavour", "way"), [("vllm", "prompt_logprobs"), ("openai", "echo")])
def test_a_text_is_scored_token_by_token(home: Path, flavour: str, way: str) -> None:
    with ScriptedServer(speaks(flavour)) as server:
        session = opened(server)
        assert store.endpoints()[0].scores == way
        far = likely(session)
        assert far is not None and session.decode(session.opening) == ""
        ids = session.encode("abcd")
        values, greedy = far.likelihoods(ids)
        assert values == (-0.98, -0.99, -1.0) and greedy == (True, False, True)
        assert session.decode(ids) == "abcd"
        subject = ModelUnderTest(session, None, plugins.get("strategy", "native"), None)
        assert subject.loglikelihood(ids[:2], ids[2:]) == (pytest.approx(-1.99), False)
        assert subject.loglikelihood(ids[:3], ids[3:]) == (-1.0, True)
        import numpy as np

        list(session.stream(np.array([ids]), GenerationConfig(limit=2, stop=frozenset({1}))))
        assert server.seen[-1].body["prompt"] == [97, 98, 99, 100], "a plain prompt goes out as the same tokens"
        with pytest.raises(ExplorerError, match="begins with nothing"):
            far.likelihoods([min(session.eos_ids), *ids])


def test_an_evaluation_is_allowed_where_the_server_scores(home: Path) -> None:
    backend = plugins.get("backend", "endpoint")
    for answers, able in ((scored, True), (lambda seen: {"choices": [{"text": "x"}]}, False)):
        with ScriptedServer(speaks("vllm", answers)) as server:
            endpoint = store.add(server.url)
            name = store.catalogue_id(endpoint, endpoint.models[0])
            (entry,) = [e for e in catalogue.entries(refresh=True) if e.id == name]
            assert ("likelihood" in can_evaluate(backend, entry)) is able
            request = Request(model=name, backend="endpoint", strategy="native", task=Evaluate(eval="perplexity"))
            if able:
                check(request)
            else:
                with pytest.raises(ExplorerError, match="log-probabilities of a prompt"):
                    check(request)
            store.forget(endpoint.url)


@pytest.mark.parametrize(
    "choice",
    [
        {},
        {"logprobs": {"content": [{"token": "a", "logprob": -1.0}]}},  # llama.cpp: of the answer, echo passed over
        {"logprobs": {"token_logprobs": [-0.1], "top_logprobs": [{}]}},  # of the answer alone
        {"logprobs": {"token_logprobs": [None, -0.1, None], "top_logprobs": None}},
        {"logprobs": {"token_logprobs": [None, 0.5, -1.0]}},
        {"prompt_logprobs": [None, {"1": {"logprob": -1.0}}, {"x": {}}]},
    ],
)
def test_who_does_not_score_every_token_is_refused(choice: dict[str, Any]) -> None:
    with ScriptedServer(json_answer({"choices": [choice]})) as server:
        for way in ("echo", "prompt_logprobs"):
            with pytest.raises(ExplorerError, match="no log-probabilities of a prompt") as caught:
                prompt_scores.scores(server.address(), "m", [1, 2, 3], way)  # type: ignore[arg-type]
            assert "roofscope serve" in caught.value.hint


def test_a_server_without_tokenize_is_not_asked_to_write(home: Path) -> None:
    with ScriptedServer(model_servers.OPENAI) as server:
        assert store.add(server.url).scores is None
        assert not [seen for seen in server.seen if "completions" in seen.path], "that may cost something"


# ---------------------------------------------------------------- our own tokenizer, the last source


def test_our_tokenizer_counts_where_the_server_does_not(home: Path) -> None:
    import numpy as np

    from core.types import remote

    paths = {**model_servers.OPENAI, "/v1/chat/completions": chat(["The capital", " of France"])}
    with ScriptedServer(paths) as server:
        endpoint = store.add(server.url)
        file = next(store.files(endpoint))[0]
        for name, expected in ((catalogue.EMBEDDED, (4, "tokenizer")), ("", (None, None))):
            request = Request(model="m", backend="endpoint", options={"tokenizer": name})
            session = plugins.get("backend", "endpoint").open(str(file), spec.read(file, "endpoint"), request, silent)
            ids = np.array([session.encode("\x1euser\x1fHi")], dtype=np.int64)
            steps = list(session.stream(ids, GenerationConfig(limit=9, stop=frozenset({1}))))
            far = remote(session)
            account = far.account() if far else None
            assert account is not None and (account.n_tokens, account.counted_by) == expected
            assert sum(step.shape[1] for step in steps) == (expected[0] or 2)
    assert counter(catalogue.EMBEDDED)("The capital of France") == 4
    with pytest.raises(ExplorerError):
        counter("no-such-model")
