"""The openai package, and clients that behave badly, against our server over the fake backend."""

from __future__ import annotations

import asyncio
import http.client
import io
import json
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from core import plugins
from core.models import catalogue, spec
from core.runs.measuring import holder, measuring
from core.runs.store import Store
from core.service.app import Manner, build
from core.service.desk import Desk
from core.service.offer import Offer
from core.service.problems import ProblemError
from core.types import Request
from core.worker import answering, frames
from core.worker.answering import Question
from core.worker.subject import ModelUnderTest
from tests.service.server import LONG_S, Server

FAKE = Offer(backend="fake", threads=1)
SLOW = Offer(backend="fake", threads=1, options={"delay_s": 0.02})
MODEL = "smollm2-135m"
HELLO: Any = [{"role": "user", "content": "Hello"}]
LONG = 7000  # tokens that nobody waits for: minutes


class Kept:
    """Servers of this module, made by the first test that wants them: each has a process that takes a second."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._servers = folder, dict[str, Server]()

    def server(self, name: str, offer: Offer, manner: Manner) -> Server:
        if name not in self._servers:
            root = self._folder / name
            self._servers[name] = Server(build(Store(root), manner, offer), root).__enter__()
        return self._servers[name]

    def close(self) -> None:
        for server in self._servers.values():
            server.__exit__(None, None, None)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kept]:
    found = Kept(tmp_path_factory.mktemp("service"))
    yield found
    found.close()


@pytest.fixture
def quick(kept: Kept, home: Path) -> Server:
    return kept.server("quick", FAKE, Manner())


@pytest.fixture
def slow(kept: Kept, home: Path) -> Server:
    """One may wait."""
    return kept.server("slow", SLOW, Manner(depth=1))


def client(server: Server) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0, timeout=LONG_S)


def get(server: Server, path: str) -> bytes:
    asked = http.client.HTTPConnection("127.0.0.1", server.port, timeout=LONG_S)
    asked.request("GET", path)
    found = asked.getresponse().read()
    asked.close()
    return found


def post(server: Server, path: str, body: Any) -> tuple[int, Any, Any]:
    """(status, headers, JSON) of an answer."""
    asked = http.client.HTTPConnection("127.0.0.1", server.port, timeout=LONG_S)
    asked.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
    answer = asked.getresponse()
    found = answer.status, answer.headers, json.loads(answer.read())
    asked.close()
    return found


def metric(server: Server, name: str) -> int:
    lines = get(server, "/metrics").decode().splitlines()
    return int(next(line for line in lines if line.startswith(f"roofscope:{name} ")).split()[-1])


def until(condition: Callable[[], Any]) -> Any:
    end = time.monotonic() + LONG_S
    while not (found := condition()):
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)
    return found


def hold(server: Server) -> socket.socket:
    """A stream that goes on for minutes, its first chunks read."""
    body = json.dumps({"model": MODEL, "messages": HELLO, "max_tokens": LONG, "stream": True}).encode()
    about = ("Host: localhost", "Content-Type: application/json", f"Content-Length: {len(body)}")
    head = "\r\n".join(("POST /v1/chat/completions HTTP/1.1", *about, "", ""))
    stream = socket.create_connection(("127.0.0.1", server.port), timeout=LONG_S)
    stream.sendall(head.encode() + body)
    seen = b""
    while seen.count(b"data: ") < 3:
        seen += stream.recv(4096)
    assert seen.startswith(b"HTTP/1.1 200")
    return stream


def own() -> ModelUnderTest:
    """The fake model beside us: what the answers must be."""
    kind, path = next(iter(catalogue.find(MODEL).files.items()))
    found: Any = plugins.get("backend", "fake").open(
        path, spec.read(path, kind), Request(model=MODEL, backend="fake", threads=1), lambda *_, **__: None
    )
    greedy = plugins.get("strategy", "autoregressive")
    return ModelUnderTest(found, None, greedy, greedy.Params())


# ---------------------------------------------------------------- the openai package


def test_models_are_offered_with_every_way_to_decode_them(quick: Server) -> None:
    names = [model.id for model in client(quick).models.list().data]
    assert names[0] == MODEL and {f"{MODEL}:jacobi", f"{MODEL}:prompt_lookup"} <= set(names)
    assert not any("speculative" in name or "encode" in name for name in names), "no draft is named; no text is written"
    assert client(quick).models.retrieve(f"{MODEL}:jacobi").owned_by == "roofscope"
    with pytest.raises(openai.NotFoundError, match="no model 'gpt-4'"):
        client(quick).models.retrieve("gpt-4")


@pytest.mark.parametrize("strategy", ["", ":jacobi", ":lookahead", ":native"])
def test_an_answer_is_the_models_own_whole_and_streamed(quick: Server, strategy: str) -> None:
    subject = own()
    answer = subject.generate(subject.session.encode("Hello"), 24)
    asked: dict[str, Any] = {"model": MODEL + strategy, "messages": HELLO, "max_tokens": 24}
    whole: Any = client(quick).chat.completions.create(**asked)
    said = whole.choices[0]
    assert (said.message.content, said.finish_reason) == (answer.text, "length")
    assert (whole.usage.completion_tokens, whole.model) == (24, MODEL + strategy)
    assert whole.usage.prompt_tokens_details.cached_tokens == 0
    assert whole.timings["predicted_n"] == 24 and 1 <= whole.timings["n_forward"] <= 24 + 1

    options = {"include_usage": True, "continuous_usage_stats": True}
    chunks: list[Any] = list(client(quick).chat.completions.create(**asked, stream=True, stream_options=options))
    first, *rest, last = chunks
    assert first.choices[0].delta.role == "assistant" and not first.choices[0].delta.content
    assert "".join(c.choices[0].delta.content or "" for c in rest) == answer.text
    assert rest[-1].choices[0].finish_reason == "length" and not last.choices
    assert last.usage == whole.usage and last.timings["n_forward"] == whole.timings["n_forward"]
    counts = [c.usage.completion_tokens for c in rest]
    assert counts == sorted(counts) and counts[-1] == 24, "each chunk says how many tokens there are"
    assert {c.id for c in chunks} == {first.id} and {c.object for c in chunks} == {"chat.completion.chunk"}


@pytest.mark.parametrize("strategy", ["", ":jacobi"])
@pytest.mark.parametrize("stream", [False, True])
def test_a_stop_text_ends_an_answer_and_is_not_said(quick: Server, strategy: str, stream: bool) -> None:
    subject = own()
    text = subject.generate(subject.session.encode("Hello"), 24).text
    stop = text[10:13]
    made: Any = client(quick).chat.completions.create(
        model=MODEL + strategy, messages=HELLO, max_tokens=24, stop=["never", stop], stream=stream
    )
    if stream:
        chunks = list(made)
        said = "".join(c.choices[0].delta.content or "" for c in chunks)
        finish = chunks[-1].choices[0].finish_reason
    else:
        said, finish = made.choices[0].message.content, made.choices[0].finish_reason
        assert made.usage.completion_tokens == text.index(stop) + 3, "tokens behind the stop text do not count"
    assert (said, finish) == (text[: text.index(stop)], "stop")


def test_a_seed_draws_the_same_answer_again(quick: Server) -> None:
    def drawn(**more: Any) -> str:
        few = {"top_k": 8}  # of the likeliest tokens, which are letters
        made = client(quick).completions.create(
            model=MODEL, prompt="Hello", max_tokens=16, temperature=1.0, extra_body=few, **more
        )
        return made.choices[0].text

    assert drawn(seed=7) == drawn(seed=7) != drawn(seed=8)
    assert drawn() != drawn(), "without a seed they differ"


def test_log_probabilities_are_the_models(quick: Server) -> None:
    subject = own()
    ids = subject.session.encode("Hello world")
    made: Any = client(quick).completions.create(model=MODEL, prompt="Hello world", max_tokens=3, logprobs=2, echo=True)
    said = made.choices[0]
    whole = [*ids, *subject.session.encode(said.text)[len(ids) :]]
    rows = [row for chunk in subject.logprobs(subject.session, whole, 1) for row in chunk]
    wanted = [float(row[token]) for row, token in zip(rows, whole[1:], strict=True)]
    assert said.text[:11] == "Hello world" and said.logprobs.tokens == list(said.text)
    assert said.logprobs.token_logprobs[0] is None and said.logprobs.token_logprobs[1:] == pytest.approx(wanted)
    assert [max(top.values()) for top in said.logprobs.top_logprobs[1:]] == pytest.approx([max(r) for r in rows])
    assert said.logprobs.text_offset == list(range(14))
    party: Any = client(quick).completions.create(model=MODEL, prompt="a🎉é!", max_tokens=0, logprobs=1, echo=True)
    assert party.choices[0].logprobs.text_offset == [0, 1, 1, 1, 1, 2, 2, 3], "places in the text, not in its bytes"
    scored: Any = client(quick).completions.create(model=MODEL, prompt=ids, max_tokens=0, logprobs=1, echo=True)
    assert scored.choices[0].text == "Hello world" and scored.usage.completion_tokens == 0
    assert scored.choices[0].logprobs.token_logprobs == said.logprobs.token_logprobs[: len(ids)]
    dialogue: Any = client(quick).chat.completions.create(
        model=f"{MODEL}:jacobi", messages=HELLO, max_tokens=3, logprobs=True, top_logprobs=2
    )
    for row in dialogue.choices[0].logprobs.content:
        assert row.logprob == row.top_logprobs[0].logprob > row.top_logprobs[1].logprob, "greedy takes the likeliest"


def test_several_prompts_are_answered_in_their_order(quick: Server) -> None:
    prompts = ["abc", "xyz"]
    both = client(quick).completions.create(model=MODEL, prompt=prompts, max_tokens=5)
    alone = [client(quick).completions.create(model=MODEL, prompt=p, max_tokens=5).choices[0].text for p in prompts]
    assert [(c.index, c.text) for c in both.choices] == list(enumerate(alone)) and alone[0] != alone[1]
    assert both.usage is not None and (both.usage.prompt_tokens, both.usage.completion_tokens) == (6, 10)
    chunks: list[Any] = list(client(quick).completions.create(model=MODEL, prompt=prompts, max_tokens=5, stream=True))
    said = ["".join(c.choices[0].text for c in chunks if c.choices[0].index == i) for i in (0, 1)]
    assert said == alone


@pytest.mark.parametrize(
    ("fields", "error", "says"),
    [
        ({"model": "gpt-4"}, openai.NotFoundError, "no model 'gpt-4'"),
        ({"n": 2}, openai.BadRequestError, "One answer"),
        ({"max_tokens": 9000}, openai.BadRequestError, "exceed the context of 8192"),
        ({"messages": []}, openai.BadRequestError, "last message"),
        ({"max_tokens": "many"}, openai.UnprocessableEntityError, "max_tokens"),
        ({"stream": True, "logprobs": True}, openai.BadRequestError, "not streamed"),
        ({"stream": True, "max_tokens": 9000}, openai.BadRequestError, "exceed the context"),
    ],
)
def test_errors_are_the_clients_own_kinds_before_any_stream(
    quick: Server, fields: Any, error: type[openai.APIStatusError], says: str
) -> None:
    with pytest.raises(error, match=says):
        client(quick).chat.completions.create(**({"model": MODEL, "messages": HELLO, "max_tokens": 4} | fields))


def test_an_id_that_is_no_token_and_a_prompt_of_nothing(quick: Server) -> None:
    for prompt in ([5, 10**7], [-1], ""):
        with pytest.raises(openai.BadRequestError, match=r"is not a token|prompt is empty"):
            client(quick).completions.create(model=MODEL, prompt=prompt, max_tokens=4)  # type: ignore[arg-type]


# ---------------------------------------------------------------- beside answers


def test_tokens_to_and_fro(quick: Server) -> None:
    _, _, found = post(quick, "/tokenize", {"prompt": "abc", "model": f"{MODEL}:jacobi"})
    assert found == {"tokens": [97, 98, 99], "count": 3, "max_model_len": 8192}
    assert post(quick, "/tokenize", {"content": "abc"})[2]["tokens"] == [97, 98, 99], "as llama.cpp calls it"
    assert post(quick, "/detokenize", {"tokens": [97, 98]})[2]["prompt"] == "ab"
    info = json.loads(get(quick, "/tokenizer_info"))
    assert info["max_context"] == 8192 and info["eos_ids"] == [256] and info["chat_template"] is None


def test_counts_for_prometheus(quick: Server) -> None:
    before = {
        name: metric(quick, name) for name in ("generation_tokens_total", "forwards_total", "prompt_tokens_total")
    }
    made: Any = client(quick).completions.create(model=f"{MODEL}:jacobi", prompt="Hello", max_tokens=9)
    after = {name: metric(quick, name) - n for name, n in before.items()}
    assert (after["generation_tokens_total"], after["prompt_tokens_total"]) == (9, 5)
    assert after["forwards_total"] == made.timings["n_forward"]


def test_lm_evals_local_completions_gives_the_harness_numbers_over_the_same_session(
    quick: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its requests, our routes: sums of log-probabilities, greedy or not, and generated texts."""
    from lm_eval.models import api_models
    from lm_eval.models.openai_completions import LocalCompletionsAPI
    from tqdm import tqdm

    from core.evals._harness_model import language_model

    if not hasattr(api_models, "retry"):  # tenacity, which tries again what failed; here nothing fails
        monkeypatch.setattr(api_models, "find_spec", lambda _: True)
        monkeypatch.setattr(api_models, "retry", lambda **_: lambda call: call, raising=False)
        for name in ("stop_after_attempt", "wait_exponential"):
            monkeypatch.setattr(api_models, name, lambda *_, **__: None, raising=False)
        monkeypatch.setattr(api_models, "RetryError", OSError, raising=False)
        monkeypatch.setattr(api_models, "tqdm", tqdm, raising=False)
    remote = LocalCompletionsAPI(
        base_url=f"{quick.url}/v1/completions", model=f"{MODEL}:jacobi", tokenizer_backend="remote", max_retries=1
    )
    near = language_model(own(), bos=False)
    greedy = near.generate_until([_instance("generate_until", ("abc", {"until": ["\n"], "max_gen_toks": 3}))])[0]
    pairs = [("The cat sat", " on the mat"), ("a", "b"), ("abc", greedy), ("", "xyz")]
    asked = [_instance("loglikelihood", pair) for pair in pairs[:3]]
    found, wanted = remote.loglikelihood(asked, disable_tqdm=True), near.loglikelihood(asked)
    assert [x[0] for x in found] == pytest.approx([x[0] for x in wanted], rel=1e-5)
    assert [x[1] for x in found] == [x[1] for x in wanted] == [False, False, True]
    texts = [("Once upon", {"until": ["e"], "max_gen_toks": 12}), ("abc", {"until": [], "max_gen_toks": 12})]
    generating = [_instance("generate_until", text) for text in texts]
    assert remote.generate_until(generating, disable_tqdm=True) == near.generate_until(generating)


def _instance(kind: Any, arguments: tuple[Any, ...]) -> Any:
    from lm_eval.api.instance import Instance

    return Instance(request_type=kind, doc={}, arguments=arguments, idx=0)


# ---------------------------------------------------------------- the queue, and who goes away


def test_a_client_that_goes_in_the_middle_of_a_stream_ends_its_answer(slow: Server) -> None:
    stream = hold(slow)
    assert metric(slow, "num_requests_running") == 1
    stream.close()
    answer = client(slow).completions.create(model=MODEL, prompt="Hi", max_tokens=2)
    assert answer.choices[0].text
    assert b'finished_reason="abort"} 0' not in get(slow, "/metrics")


def test_a_client_that_does_not_stream_and_goes_ends_its_answer_too(slow: Server) -> None:
    asked = http.client.HTTPConnection("127.0.0.1", slow.port, timeout=LONG_S)
    body = json.dumps({"model": MODEL, "messages": HELLO, "max_tokens": LONG})
    asked.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"})
    until(lambda: metric(slow, "num_requests_running") == 1)
    asked.close()
    until(lambda: metric(slow, "num_requests_running") == 0)


def test_a_full_queue_says_when_to_come_back_and_who_waits_may_go(slow: Server) -> None:
    with hold(slow):
        waiting = http.client.HTTPConnection("127.0.0.1", slow.port, timeout=LONG_S)
        body = json.dumps({"model": MODEL, "prompt": "Hi", "max_tokens": 2})
        waiting.request("POST", "/v1/completions", body, {"Content-Type": "application/json"})
        until(lambda: metric(slow, "num_requests_waiting") == 1)
        status, headers, told = post(slow, "/v1/completions", {"prompt": "Hi"})
        assert status == 503 and int(headers["Retry-After"]) >= 1 and "in the queue" in told["error"]["message"]
        waiting.close()
        until(lambda: metric(slow, "num_requests_waiting") == 0)
    assert post(slow, "/v1/completions", {"prompt": "Hi", "max_tokens": 2})[0] == 200


def test_ten_thousand_questions_at_once(store: Store) -> None:
    async def asked() -> tuple[int, list[ProblemError]]:
        desk, refused, n = Desk(store.root, 16), [], 0
        question = Question(request=Request(model=MODEL, backend="fake"))
        for _ in range(10_000):
            try:
                desk.ask(question)
                n += 1
            except ProblemError as problem:
                refused.append(problem)
        return n, refused

    taken, refused = asyncio.run(asked())
    assert taken == 17 and len(refused) == 9_983
    assert {(problem.status, problem.retry_after_s) for problem in refused} == {(503, 85)}  # 17 answers of 5 s


def test_the_process_dies_and_the_service_lives(slow: Server) -> None:
    with hold(slow) as stream:
        assert slow.root is not None
        held = holder(slow.root)
        assert held is not None
        os.kill(held.owner.pid, signal.SIGKILL)
        seen = b""
        while b'"error"' not in seen:
            part = stream.recv(4096)
            assert part, seen[-500:]
            seen += part
    assert b"was killed" in seen and b"[DONE]" not in seen, "what was cut off does not look whole"
    assert client(slow).completions.create(model=MODEL, prompt="Hi", max_tokens=2).choices[0].text


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", {"prompt": "Hi", "max_tokens": 2, "temperature": 1e308}),
        ("/v1/completions", {"prompt": "Hi", "max_tokens": 2, "temperature": 0.5, "seed": 2**70}),
        ("/v1/completions", {"prompt": "Hi", "max_tokens": 2, "temperature": 0.5, "top_k": 2**70}),
        ("/v1/completions", {"prompt": [2**70], "max_tokens": 2}),
        ("/detokenize", {"tokens": [2**70]}),
    ],
)
def test_a_figure_out_of_its_bounds_is_refused_at_the_door(quick: Server, path: str, body: Any) -> None:
    status, _, told = post(quick, path, body)
    assert status == 400 and told["error"]["message"].startswith("A setting of the question is wrong:"), told
    assert post(quick, "/v1/completions", {"prompt": "Hi", "max_tokens": 2})[0] == 200


def test_a_question_that_its_process_does_not_understand_does_not_silence_it(tmp_path: Path) -> None:
    out = io.BytesIO()
    answering.serve(tmp_path, iter([(1, {"request": 5}), (2, {})]), set(), out)
    pipe = io.BytesIO(out.getvalue())
    told = [frame[0] for _ in range(2) if (frame := frames.receive(pipe)) is not None]
    assert [number for number, _ in told] == [1, 2], "the next one is heard, too"
    assert all("cannot be understood" in said["message"] for _, said in told)


def test_a_fault_of_our_own_ends_one_answer_and_not_the_service(quick: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(desk: Desk, key: bytes, request: Request) -> None:
        raise ValueError("of a kind that nobody thought of")

    with monkeypatch.context() as patch:
        patch.setattr(Desk, "_process_for", broken)
        status, _, told = post(quick, "/v1/completions", {"prompt": "Hi", "max_tokens": 2})
    assert status == 500 and told["error"]["message"].startswith("The service failed: ValueError.")
    assert post(quick, "/v1/completions", {"prompt": "Hi", "max_tokens": 2})[0] == 200


# ---------------------------------------------------------------- one measurement at a time


def test_an_answer_waits_for_no_measurement_but_a_load_test(slow: Server) -> None:
    root = slow.root
    assert root is not None
    with measuring(root, "a bench of somebody"):
        status, headers, told = post(slow, "/v1/completions", {"prompt": "Hi", "max_tokens": 2})
        assert status == 503 and headers["Retry-After"] and "bench of somebody" in told["error"]["message"]
    with measuring(root, "a load test", asks_service=True):
        assert post(slow, "/v1/completions", {"prompt": "Hi", "max_tokens": 2})[0] == 200


def test_no_run_begins_while_an_answer_is_given(slow: Server) -> None:
    run = {"model": MODEL, "backend": "fake", "task": {"type": "generate", "prompt": "Hi"}, "threads": 1}
    with hold(slow):
        status, _, told = post(slow, "/api/runs", run)
        assert status == 409 and "answer of the service" in told["detail"]
