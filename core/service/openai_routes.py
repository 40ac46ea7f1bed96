"""The OpenAI-compatible routes over the desk: one answer at a time, streamed as its steps end, or whole.

A step that accepts several tokens is one chunk: with continuous usage each chunk says how many tokens there are, and
nothing is spread over time to look smooth.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

from fastapi import APIRouter
from starlette.requests import Request as Http
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from core.service import openai_forms as forms
from core.service import strict
from core.service.desk import Asking, Desk
from core.service.document import body, says
from core.service.offer import wanted
from core.service.openai_forms import Chat, Completion, Detokenize, Show, Tokenize
from core.service.problems import ProblemError, openai_error
from core.types import Generate, Request, to_json
from core.worker.answering import Ended, Piece, Question, Value

T = TypeVar("T")
STREAM = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
GONE = 499  # nginx's: the client closed the connection; nobody reads it


def routes(offered: Mapping[str, Request], desk: Desk) -> APIRouter:
    """offered: what can be asked for, by model id."""
    router = APIRouter(tags=["OpenAI-compatible"])
    began_s = int(time.time())

    @router.get("/v1/models", summary="The models, and the ways to decode them: MODEL, MODEL:STRATEGY", **says(Any))
    async def models() -> Response:
        rows = [forms.model_row(name, request, began_s) for name, request in offered.items()]
        return _json({"object": "list", "data": rows})

    @router.get("/v1/models/{name:path}", summary="One of them", **says(Any))
    async def model(name: str) -> Response:
        return _json(forms.model_row(name, wanted(offered, name), began_s))

    @router.post("/v1/chat/completions", summary="Answer a dialogue", **says(Any), **body(Chat))
    async def chat(http: Http) -> Response:
        form = strict.read(await http.body(), Chat, strict=False)
        question = forms.of_chat(form, wanted(offered, form.model))
        return await _answered(http, desk, (question,), forms.show(form, form.model or next(iter(offered))), _Chat)

    @router.post("/v1/completions", summary="Continue a text", **says(Any), **body(Completion))
    async def completion(http: Http) -> Response:
        form = strict.read(await http.body(), Completion, strict=False)
        questions = forms.of_completion(form, wanted(offered, form.model))
        return await _answered(http, desk, questions, forms.show(form, form.model or next(iter(offered))), _Completion)

    @router.post("/tokenize", summary="A text or a dialogue as token ids", **says(Any), **body(Tokenize))
    async def tokenize(http: Http) -> Response:
        form = strict.read(await http.body(), Tokenize, strict=False)
        found = await _beside(http, desk, forms.of_tokenize(form, wanted(offered, form.model)))
        return _json({"tokens": found["tokens"], "count": len(found["tokens"]), "max_model_len": found["max_context"]})

    @router.post("/detokenize", summary="Token ids as text", **says(Any), **body(Detokenize))
    async def detokenize(http: Http) -> Response:
        form = strict.read(await http.body(), Detokenize, strict=False)
        question = Question(request=_some(wanted(offered, form.model)), do="decode", ids=tuple(form.tokens))
        text = await _beside(http, desk, question)
        return _json({"prompt": text, "content": text})

    @router.get("/tokenizer_info", summary="The tokenizer's special tokens and chat template", **says(Any))
    async def tokenizer_info(http: Http) -> Response:
        request = wanted(offered, http.query_params.get("model"))
        return _json(await _beside(http, desk, Question(request=_some(request), do="about")))

    @router.get("/metrics", summary="Counts and times for Prometheus", response_class=PlainTextResponse)
    async def metrics() -> Response:
        return PlainTextResponse(desk.tally.text(desk.running, desk.waiting), media_type="text/plain; version=0.0.4")

    return router


def _some(request: Request) -> Request:
    """Of a question that asks for no answer."""
    return Request(
        model=request.model,
        backend=request.backend,
        task=Generate(chat=False),
        dtype=request.dtype,
        threads=request.threads,
        options=request.options,
        profilers=request.profilers,
    )


async def _beside(http: Http, desk: Desk, question: Question) -> Any:
    asking = desk.ask(question)
    try:
        found = await unless_gone(http, asking.begun())
        assert isinstance(found, Value)
        return found.value
    finally:
        asking.leave()


# ---------------------------------------------------------------- the forms of an answer


class _Form:
    """How answers of one route look. index: which prompt's."""

    whole, part, prefix = "", "", ""

    def __init__(self, show: Show) -> None:
        self.show = show
        self.id, self.created_s = f"{self.prefix}-{secrets.token_hex(12)}", int(time.time())

    def chunk(self, index: int, delta: Any, finish: str | None = None, **more: Any) -> dict[str, Any]:
        choice = {"index": index, **self.said(delta), "logprobs": None, "finish_reason": finish}
        return self.head(self.part) | {"choices": [choice], **more}

    def head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created_s, "model": self.show.name}

    def opening(self) -> list[dict[str, Any]]:
        """What stands before the first step."""
        return []

    def said(self, delta: Any) -> dict[str, Any]:
        raise NotImplementedError

    def choice(self, index: int, text: str, ended: Ended, ids: Sequence[int]) -> dict[str, Any]:
        raise NotImplementedError


class _Chat(_Form):
    whole, part, prefix = "chat.completion", "chat.completion.chunk", "chatcmpl"

    def opening(self) -> list[dict[str, Any]]:
        return [{"role": "assistant", "content": ""}]

    def said(self, delta: Any) -> dict[str, Any]:
        return {"delta": {"content": delta} if isinstance(delta, str) else delta}

    def choice(self, index: int, text: str, ended: Ended, ids: Sequence[int]) -> dict[str, Any]:
        return {
            "index": index,
            "message": {"role": "assistant", "content": text},
            "logprobs": forms.chat_logprobs(ended.likely),
            "finish_reason": ended.finish,
        }


class _Completion(_Form):
    whole, part, prefix = "text_completion", "text_completion", "cmpl"

    def said(self, delta: Any) -> dict[str, Any]:
        return {"text": delta if isinstance(delta, str) else ""}

    def choice(self, index: int, text: str, ended: Ended, ids: Sequence[int]) -> dict[str, Any]:
        return {
            "index": index,
            "text": ended.prompt + text,
            "logprobs": forms.completion_logprobs(ended.likely),
            "finish_reason": ended.finish,
        }


async def _answered(
    http: Http, desk: Desk, questions: Sequence[Question], show: Show, form: Callable[[Show], _Form]
) -> Response:
    """The answer to every question, one after the other. What cannot be answered is an error before a stream begins."""
    made = form(show)
    if show.streamed and any(question.echo for question in questions):
        raise ProblemError(400, "An echo is not streamed.", "Leave out stream or echo.", param="echo")
    first = desk.ask(questions[0])
    try:
        await unless_gone(http, first.begun())
        if not show.streamed:
            return _json(await unless_gone(http, _whole(desk, first, questions[1:], made)))
    except BaseException:
        first.leave()
        raise
    return _Streamed(first, _stream(desk, first, questions[1:], made))


class _Streamed(StreamingResponse):
    """A stream whose question is left in any case, also when the client goes before its first chunk."""

    def __init__(self, asking: Asking, chunks: AsyncIterator[bytes]) -> None:
        super().__init__(chunks, headers=STREAM, media_type="text/event-stream")
        self._asking = asking

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._asking.leave()


async def _whole(desk: Desk, asking: Asking, others: Sequence[Question], form: _Form) -> dict[str, Any]:
    choices: list[dict[str, Any]] = []
    n_prompt = n_tokens = 0
    try:
        while True:
            text, ids = "", list[int]()
            async for said in asking.rest():
                text += said.text
                if isinstance(said, Piece):
                    ids += said.ids
                    continue
                choice = form.choice(len(choices), text, said, ids)
                if form.show.ids:
                    choice["token_ids"] = ids
                choices.append(choice)
                n_prompt, n_tokens, last = n_prompt + said.n_prompt, n_tokens + said.n_tokens, said
            if len(choices) > len(others):
                break
            asking = desk.ask(others[len(choices) - 1])
            await asking.begun()
    finally:
        asking.leave()
    found = form.head(form.whole) | {"choices": choices, "usage": forms.usage(n_prompt, n_tokens)}
    return found | ({"timings": forms.timings(last)} if len(choices) == 1 else {})


async def _stream(desk: Desk, asking: Asking, others: Sequence[Question], form: _Form) -> AsyncIterator[bytes]:
    """Chunks as the steps end. A failure in the middle is an event with an error, and the stream ends."""
    show, n_prompt, n_tokens, ended = form.show, 0, 0, None
    try:
        for index in range(len(others) + 1):
            if index:
                asking = desk.ask(others[index - 1])
                await asking.begun()
            for delta in form.opening():
                yield _event(form.chunk(index, delta))
            ids: list[int] = []
            async for said in asking.rest():
                more: dict[str, Any] = {}
                if isinstance(said, Ended):
                    ended = said
                    n_prompt, n_tokens = n_prompt + said.n_prompt, n_tokens + said.n_tokens
                    more = {"timings": forms.timings(said)}
                    if said.text:
                        yield _event(form.chunk(index, said.text))
                    if show.every:
                        more["usage"] = forms.usage(said.n_prompt, said.n_tokens)
                    yield _event(form.chunk(index, {}, said.finish, **more))
                    continue
                ids += said.ids
                if not said.text:
                    continue
                if show.every:
                    more["usage"] = forms.usage(asking.n_prompt, said.n_tokens)
                if show.timings:
                    more["timings"] = {"predicted_n": said.n_tokens, "n_forward": said.n_forward}
                chunk = form.chunk(index, said.text, **more)
                if show.ids:
                    chunk["choices"][0]["token_ids"], ids = ids, []
                yield _event(chunk)
        if show.usage and ended is not None:
            last = form.head(form.part) | {"choices": [], "usage": forms.usage(n_prompt, n_tokens)}
            yield _event(last | {"timings": forms.timings(ended)})
        yield b"data: [DONE]\n\n"
    except ProblemError as problem:
        yield _event(openai_error(problem))
    finally:
        asking.leave()


async def unless_gone(http: Http, work: Awaitable[T]) -> T:
    """What comes of the work, which is given up when the client goes. The body has been read. Raises ProblemError."""
    doing, gone = asyncio.ensure_future(work), asyncio.ensure_future(_gone(http))
    try:
        await asyncio.wait({doing, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not doing.done():
            raise ProblemError(GONE, "The client has gone.", "Nobody reads this.")
        return doing.result()
    finally:
        for task in (doing, gone):
            task.cancel()
        await asyncio.gather(doing, gone, return_exceptions=True)


async def _gone(http: Http) -> None:
    while (await http.receive())["type"] != "http.disconnect":
        pass


def _event(value: Any) -> bytes:
    return b"data: " + to_json(value) + b"\n\n"


def _json(value: Any) -> Response:
    return Response(to_json(value), media_type="application/json")
