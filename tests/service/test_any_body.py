"""Whatever a body holds, it is answered or refused in a sentence: nothing is a failure of the service."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.testclient import TestClient

from core.runs.store import Store
from core.service import openai_forms as forms
from core.service import strict
from core.service.app import Manner, build
from core.service.openai_forms import Chat, Completion, Tokenize
from core.types import Request
from hardware.errors import ExplorerError

ODD: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2**31, 2**63, -(2**63), 2**70, 1e308, -0.0, 1.5, float("nan"), float("inf")),
    *("", " ", "\x00", "é\u2028\U0001f30d", "../../etc/passwd", "/", "~nobody", "a" * 3000, "\udcff", "nan", "{}"),
    *([], [[]], [None], [1, "a"], {}, {"": 0}, {"type": "generate"}, {"type": None}, [{"role": "user"}]),
)
RUN = {
    "model": "smollm2-135m", "backend": "fake", "strategy": "jacobi", "dtype": None, "threads": 1, "batch": 1,
    "profilers": ["memory"], "warmup": 0, "repeats": 1, "seed": 0, "options": {"delay_s": 0}, "params": {"window": 4},
    "task": {"type": "generate", "prompt": "Hi", "max_new_tokens": 2, "sampling": {"temperature": 0}, "history": []},
}  # fmt: skip
ANALYSIS = {
    "model": "gpt2", "prompt_tokens": 8, "new_tokens": 4, "batch": 1, "weights": "q4_0", "kv_dtype": "fp16",
    "activation_dtype": "fp16", "device": "RTX 4090",
}  # fmt: skip
ASKED = {
    "model": "m", "max_tokens": 4, "temperature": 0.5, "top_p": 0.9, "top_k": 4, "seed": 1, "stop": ["a"], "n": 1,
    "stream": True, "stream_options": {"include_usage": True}, "ignore_eos": False, "min_tokens": 0,
    "presence_penalty": 0, "logit_bias": {}, "logprobs": None,
}  # fmt: skip
CHAT = ASKED | {"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}], "response_format": None}
COMPLETION = ASKED | {"prompt": ["Hi"], "echo": False, "best_of": 1, "suffix": None}
TOKENIZE = {"prompt": "Hi", "content": None, "messages": None, "add_special_tokens": True}


def mutations(body: Any, n: int) -> Iterator[bytes]:
    """The body with one place replaced by something odd, or a field too many."""
    rng = random.Random(0)
    places = list(_places(body))
    for _ in range(n):
        made = json.loads(json.dumps(body))
        at: Any = made
        *way, last = rng.choice(places)
        for key in way:
            at = at[key]
        at[last] = rng.choice(ODD)
        if rng.random() < 0.1:
            made[rng.choice(("", "x", "Model", "__class__"))] = rng.choice(ODD)
        yield json.dumps(made).encode("utf-8", "surrogatepass")


def _places(part: Any, way: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    for key, value in part.items() if isinstance(part, dict) else enumerate(part):
        yield (*way, key)
        if isinstance(value, dict | list):
            yield from _places(value, (*way, key))


@pytest.mark.parametrize(("body", "kind"), [(CHAT, Chat), (COMPLETION, Completion), (TOKENIZE, Tokenize)])
def test_openai_bodies(body: Any, kind: Any) -> None:
    request = Request(model="m", backend="fake")
    understood = refused = 0
    for data in mutations(body, 600):
        try:
            form = strict.read(data, kind, strict=False)
            if isinstance(form, Tokenize):
                forms.of_tokenize(form, request)
            else:
                forms.show(form, "m")
                forms.of_chat(form, request) if isinstance(form, Chat) else forms.of_completion(form, request)
            understood += 1
        except ExplorerError as error:
            assert error.message.endswith(".") and error.hint
            refused += 1
    assert understood > 50 and refused > 50


def test_bodies_of_our_own_api(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("core.runs.runner.Runner._submit", lambda *_, **__: None)  # nothing is run
    seen = set()
    app = build(store, Manner())
    with TestClient(app, base_url="http://localhost", raise_server_exceptions=False) as client:
        for path, body in (("/api/analyses", ANALYSIS), ("/api/foresights", RUN), ("/api/runs", RUN)):
            for one in mutations(body, 250):
                data = b"[" + one + b"]" if path == "/api/foresights" else one
                found = client.post(path, content=data, headers={"Content-Type": "application/json"})
                seen.add(found.status_code)
                assert found.status_code < 500, f"{path}\n{data!r}\n{found.text}"
                told = found.json()
                assert found.is_success or (told["detail"] and told["hint"]), f"{data!r}\n{told}"
    assert {200, 202, 422} <= seen
