"""A model behind a server as a session: prompts go out, and pieces of text come back with the times they arrived.

Where the server tokenizes for us (llama.cpp), prompts are its own ids and its chat template is rendered here, as for
every other backend. Elsewhere a dialogue goes out as messages and the server puts it into its template; then a prompt
is one id that stands for its text. Generated ids stand for pieces of text, never for entries of a vocabulary: a server
gives text, and says at most how many tokens it was.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Annotated, Any, Literal, NoReturn

import msgspec
import numpy as np
from msgspec import Meta

from core.endpoints import bodies, client, flavours, prompt_scores, vertex
from core.endpoints.address import Address
from core.endpoints.chunks import Chunk, Timings
from core.endpoints.flavours import LABELS
from core.endpoints.measured import Measured, measured
from core.endpoints.store import Served
from core.models import token_counter
from core.tokenizers.folder import additions
from core.types import (
    Account,
    Count,
    GenerationConfig,
    Ids,
    Ledger,
    Logits,
    ModelSpec,
    Record,
    Setup,
    Trace,
    Words,
)
from hardware.errors import ExplorerError

PIECES = 1 << 40  # ids from here on stand for pieces of text
TOKENS = 1 << 41  # and from here on for the server's own tokens, where it says how likely they are
END, SILENT = PIECES, PIECES + 1  # the end of a text; a token whose text is in a neighbour's piece
TURN, SAID, SWITCH = "\x1e", "\x1f", "\x1d"  # of a dialogue on its way to messages
TEMPLATE = (
    "{% if enable_thinking is defined %}" + SWITCH + "{{ enable_thinking }}{% endif %}"
    "{% for m in messages %}" + TURN + "{{ m['role'] }}" + SAID + "{{ m['content'] }}{% endfor %}"
)
WORDS = (  # noqa: SIM905 - stand for random tokens where a server does not tokenize
    "time year people way day man thing woman life child world school state family student group country problem hand "
    "part place case week company system program question work government number night point home water room mother "
    "area money story fact month lot right study book eye job word business issue side kind head house service friend "
    "father power hour game line end member law car city name team minute idea kid body information back parent face "
    "others level office door health person art war history party result change morning reason research girl guy moment"
).split()
CACHES = ("ollama", "lm_studio", "sglang", "tgi", "vertex", "openai")  # cannot be told to read the whole prompt again
CANNOT = "A server gives text, not {what}."


class Options(Record):
    """api: "auto" takes the server's own tokens where it gives them (llama.cpp); "chat" always sends messages. On
    Vertex AI also "invoke" (the container's chat completions, through a dedicated address), "raw" (rawPredict) and
    "predict" (instances; no stream).

    read_s: seconds of silence after which a request has failed.
    tokenizer: a model of the catalogue with the same tokenizer, which counts the tokens of answers where the server
    does not.
    """

    api: Literal["auto", "chat", "invoke", "raw", "predict"] = "auto"
    read_s: Annotated[float, Meta(gt=0, le=86_400)] = 600.0
    tokenizer: Words = ""


class EndpointSession:
    capabilities: frozenset[str] = frozenset({"stream", "remote"})
    closing: tuple[int, ...] = ()
    n_committed = 0

    def __init__(self, spec: ModelSpec, served: Served, address: Address, options: Options) -> None:
        self.spec, self.max_context = spec, spec.max_context or 1 << 30
        self.ran = Ledger()
        self.took_s: float | None = None
        self.eos_ids = frozenset({END})
        self.chat_template: str | None = TEMPLATE
        self.bos_token = self.eos_token = ""
        self.opening: tuple[int, ...] = ()
        self._endpoint, self._model, self._address = served.endpoint, served.model, address
        self._options = options
        self._pieces: list[str] = ["", ""]
        self._known: dict[str, int] = {}
        self._last: Measured | None = None
        self._streamed = True
        self._arrived_s: float | None = None
        self._running: client.Stream | None = None
        self._closed = False
        self._tokenizes = served.endpoint.tokenizes and options.api == "auto"
        self._scores = served.endpoint.scores
        self._count = token_counter.counter(options.tokenizer) if options.tokenizer else None
        if self._tokenizes:
            self._take_over()
        if self._scores is not None:
            self.capabilities = self.capabilities | {"likelihood"}
            self.opening = additions(self._tokens)[0]
        flavour = served.endpoint.flavour
        cloud = self._cloud = served.endpoint.cloud
        if cloud is None and options.api not in ("auto", "chat"):
            raise ExplorerError(
                f"The option api={options.api} is Vertex AI's, and {LABELS[flavour]} does not know it.",
                "Set it to auto or chat.",
            )
        self.warnings = self._said_before()
        self.setup = Setup(
            weight_dtype=spec.dtype,
            activation_dtype="unknown",
            kv_dtype="unknown",
            device="server",
            device_name=served.endpoint.url,
            n_context=spec.max_context,
            versions={LABELS[flavour]: served.endpoint.version} if served.endpoint.version else {},
            facts={
                "server": LABELS[flavour],
                "address": served.endpoint.url,
                "model": served.model.id,
                "api": "tokens" if self._tokenizes else "chat" if options.api == "auto" else options.api,
                "read_s": options.read_s,
                **({"tokenizer": options.tokenizer} if options.tokenizer else {}),
                **({} if cloud is None else cloud.facts()),
            },
        )

    def _said_before(self) -> tuple[str, ...]:
        """What limits the numbers of this server's answers, a sentence each."""
        flavour, cloud, api = self._endpoint.flavour, self._cloud, self._options.api
        shared = cloud is not None and not cloud.dedicated
        return tuple(
            words
            for words, holds in (
                (
                    f"{LABELS[flavour]} may keep the beginning of a prompt that it has read before and cannot be told "
                    "not to: of a prompt that is asked again, TTFT is that of the rest.",
                    flavour in CACHES,
                ),
                (
                    "The server did not tell its context: a prompt that is too long is found by asking.",
                    not self.spec.max_context,
                ),
                (
                    f"A shared address of Vertex AI ends an answer after {vertex.SHARED_S:.0f} s.",
                    shared,
                ),
                (
                    "The answer comes in one piece: TTFT is that of all of it, and nothing is known of the time per "
                    "token.",
                    api == "predict" or (api == "raw" and shared),
                ),
            )
            if holds
        )

    def _take_over(self) -> None:
        """The server's own template and marks, so that a prompt is made as for every other backend."""
        props = client.ask(self._address, "/props")
        props = props if isinstance(props, dict) else {}
        template = props.get("chat_template")
        self.chat_template = template if isinstance(template, str) and template else None
        self.bos_token, self.eos_token = (
            value if isinstance(value := props.get(name), str) else "" for name in ("bos_token", "eos_token")
        )
        self.opening = tuple(self._tokenize("", special=True))

    # ------------------------------------------------------------ ids and text

    def encode(self, text: str) -> list[int]:
        if self._scores is not None and text and TURN not in text:
            return self._tokens(text, special=False)
        return self._tokenize(text) if self._tokenizes else [self._piece(text)]

    def _tokens(self, text: str, special: bool) -> list[int]:
        """The server's own tokens. special: with what it puts before a text."""
        return [TOKENS + i for i in prompt_scores.tokenize(self._address, self._model.id, text, special)]

    def _tokenize(self, text: str, special: bool = False) -> list[int]:
        asked = {"content": text, "add_special": special, "parse_special": True}
        found = client.ask(self._address, "/tokenize", asked, read_s=60)
        ids = found.get("tokens") if isinstance(found, dict) else None
        if not isinstance(ids, list) or not all(isinstance(i, int) for i in ids):
            raise ExplorerError(
                f"{self._address.root} does not tokenize as it should.", "Set the option api to chat, and run again."
            )
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        runs = [list(run) for _, run in groupby(map(int, ids), lambda i: (i >= PIECES) + (i >= TOKENS))]
        return "".join(map(self._text_of, runs))

    def _text_of(self, run: list[int]) -> str:
        """Ids of one kind as text."""
        if run[0] >= TOKENS:
            return prompt_scores.detokenize(self._address, self._model.id, [i - TOKENS for i in run])
        return "".join(self._pieces[i - PIECES] for i in run) if run[0] >= PIECES else self._detokenize(run)

    def _detokenize(self, ids: list[int]) -> str:
        if not self._tokenizes:
            return " ".join(WORDS[i % len(WORDS)] for i in ids)
        found = client.ask(self._address, "/detokenize", {"tokens": ids}, read_s=60)
        content = found.get("content") if isinstance(found, dict) else None
        return content if isinstance(content, str) else ""

    def readable(self, text: str) -> str:
        return text.partition(TURN)[2].replace(TURN, "\n\n").replace(SAID, ": ") if TURN in text else text

    def _piece(self, text: str) -> int:
        """The id that stands for a text; equal texts have equal ids."""
        if text not in self._known:
            self._known[text] = PIECES + len(self._pieces)
            self._pieces.append(text)
        return self._known[text]

    # ------------------------------------------------------------ the answer

    def stream(self, ids: Ids, config: GenerationConfig) -> Iterator[Ids]:
        """Yields (1, n) ids per piece of text that arrives, n being its tokens as the server counts them."""
        if self._closed:
            raise ExplorerError("The session is closed.", "Open the model again.")
        if len(ids) != 1:
            raise ExplorerError(
                "An endpoint answers one request at a time here.", "Set batch to 1; a load test asks more."
            )
        path, body = self._body(ids[0].tolist(), config)
        if self._cloud is not None:
            vertex.check(self._cloud, body)
            self._address = vertex.keyed(self._address)  # a session outlives a token
        self._last, self.took_s, self._arrived_s = None, None, None
        asked = self._running = client.stream(self._address, body, path, read_s=self._options.read_s)
        arrivals = _Arrivals(asked)
        chunks: list[Chunk] = []
        held: tuple[Chunk, int] | None = None  # the last piece waits for the count of all
        given, fresh = 0, 0
        try:
            for chunk in arrivals:
                chunks.append(chunk)
                fresh += chunk.tokens or 0
                if not chunk.text:
                    continue
                if held is not None:
                    yield self._given(held, asked)
                    given += held[1]
                held, fresh = (chunk, max(1, fresh)), 0
            own = self._count("".join(chunk.text for chunk in chunks)) if self._count is not None else None
            self._last = found = measured(chunks, asked.sent_s or 0.0, own_count=own, connect_s=asked.connect_s)
            if held is None:
                raise ExplorerError(
                    f"{self._address.root} ended its answer without any text "
                    f"({found.finish_reason or 'no reason given'}).",
                    "Look into the server's log, or ask something else.",
                )
            total = found.n_tokens if found.counted_by in ("usage", "tokenizer") else None
            yield self._given((held[0], max(held[1], (total or 0) - given)), asked)
        finally:
            asked.close()
            arrivals.join()
            self._running = None
            if self._last is None and chunks:
                self._last = measured(chunks, asked.sent_s or 0.0, connect_s=asked.connect_s)
            self._streamed = asked.streamed

    def _given(self, held: tuple[Chunk, int], asked: client.Stream) -> Ids:
        """The ids of a piece, whose step began when the piece before it arrived."""
        chunk, n = held
        before_s = asked.sent_s if self._arrived_s is None else self._arrived_s
        self.took_s, self._arrived_s = chunk.at_s - (before_s or chunk.at_s), chunk.at_s
        return np.array([[self._piece(chunk.text), *[SILENT] * (n - 1)]], dtype=np.int64)

    def _body(self, ids: list[int], config: GenerationConfig) -> tuple[str, dict[str, Any]]:
        flavour, model = self._endpoint.flavour, self._model.id
        how: dict[str, Any] = {"sampling": config.sampling, "seed": config.seed, "ignore_eos": not config.stop}
        if self._tokenizes:
            if len(ids) + config.limit > self.max_context:
                raise ExplorerError(
                    f"{len(ids)} prompt tokens and {config.limit} new ones exceed the context of {self.max_context} "
                    "tokens.",
                    "Use a shorter prompt or fewer tokens, or start the server with a longer context.",
                )
            return bodies.text(flavour, model, ids, config.limit, **how)
        if ids and min(ids) >= TOKENS:
            return bodies.text(flavour, model, [i - TOKENS for i in ids], config.limit, **how)
        prompt = self.decode(ids)
        head, turn, rest = prompt.partition(TURN)
        if self._cloud is not None:
            api: vertex.Api = "chat" if self._options.api == "auto" else self._options.api
            said = [(role, words) for role, _, words in _turns(rest) if words or role != "system"]
            return vertex.request(self._cloud, api, said if turn else [("user", prompt)], config.limit, **how)
        if not turn and flavour == "openai":  # most of them have no completions without a chat
            return bodies.chat(flavour, model, [("user", prompt)], config.limit, **how)
        if not turn:
            return bodies.text(flavour, model, prompt, config.limit, **how)
        thinking = {"True": True, "False": False}.get(head.removeprefix(SWITCH)) if head.startswith(SWITCH) else None
        messages = [(role, said) for role, _, said in _turns(rest) if said or role != "system"]
        return bodies.chat(flavour, model, messages, config.limit, thinking=thinking, **how)

    def account(self) -> Account | None:
        if (found := self._last) is None:
            return None
        return Account(
            t_s=time.perf_counter(),
            connect_s=found.connect_s,
            ttft_s=found.ttft_s,
            answer_s=found.answer_s,
            tpot_s=found.tpot_s,
            e2e_s=found.e2e_s,
            gaps_s=found.icl_s,
            single=found.itl_s is not None,
            n_chunks=found.n_chunks,
            n_tokens=found.n_tokens,
            counted_by=found.counted_by,
            n_prompt=found.n_prompt,
            cached=found.cached,
            finish_reason=found.finish_reason,
            reasoning=found.reasoning,
            streamed=self._streamed,
            server=_named(found.server),
            memory=flavours.memory(self._address, self._endpoint.flavour, self._model.id),
        )

    def close(self) -> None:
        self._closed = True
        if self._running is not None:
            self._running.close()

    def likelihoods(self, ids: Sequence[int]) -> tuple[Sequence[float], Sequence[bool]]:
        """Of ids[1:], each after those before it: log-probability in nats, and whether none is likelier."""
        if self._scores is None:
            self._refuse("log-probabilities", "Use a backend of this machine, or a server that gives them.")
        if min(ids) < TOKENS:
            raise ExplorerError("A server scores no text that begins with nothing.", "Put a word before it.")
        own = [i - TOKENS for i in ids]
        found = prompt_scores.scores(self._address, self._model.id, own, self._scores, self._options.read_s)
        return found.logprobs, found.greedy

    # ------------------------------------------------------------ what a server does not give

    def reset(self) -> None:
        """Every request begins anew."""

    def sync(self) -> None:
        """What has arrived has arrived."""

    def forward(self, ids: Ids, keep: int | None = None) -> Logits:
        self._refuse("logits", "Use the native strategy.")

    def commit(self, n: int) -> None:
        self._refuse("its cache", "Use the native strategy.")

    def rewind(self, n: int) -> None:
        self._refuse("its cache", "Use the native strategy.")

    def count(self, n_new: int, n_past: int = 0) -> Count:
        self._refuse("the work of a forward", "Leave out the FLOPs profiler.")

    def trace(self) -> Trace:
        self._refuse("the times of its layers", "Leave out the layers profiler.")

    def _refuse(self, what: str, hint: str) -> NoReturn:
        raise ExplorerError(CANNOT.format(what=what), hint)


def _turns(dialogue: str) -> list[tuple[str, str, str]]:
    """(role, mark, text) of each turn."""
    return [part.partition(SAID) for part in dialogue.split(TURN)]


def _named(timings: Timings | None) -> dict[str, float]:
    """The server's own account without what it does not say."""
    found = {} if timings is None else msgspec.to_builtins(timings)
    return {name: float(value) for name, value in found.items() if value is not None}


class _Arrivals:
    """Reads an answer in a thread of its own, so that a piece is stamped when it comes and not when we look."""

    def __init__(self, stream: client.Stream) -> None:
        self._queue: queue.SimpleQueue[Chunk | BaseException | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._read, args=(stream,), name="answer", daemon=True)
        self._thread.start()

    def _read(self, stream: client.Stream) -> None:
        try:
            for chunk in stream:
                self._queue.put(chunk)
        except BaseException as error:  # told where it is waited for
            self._queue.put(error)
        else:
            self._queue.put(None)

    def __iter__(self) -> Iterator[Chunk]:
        while (found := self._queue.get()) is not None:
            if isinstance(found, BaseException):
                raise found
            yield found

    def join(self) -> None:
        self._thread.join(60)
