"""How likely a server's model finds a given text, token by token: real log-probabilities of a prompt, or none.

vLLM gives them with `prompt_logprobs`; a server with OpenAI's old completions gives them with `echo` and `logprobs`,
if it means it: llama.cpp accepts `echo` and passes over it, which a harness would not notice. So whoever does not
answer with exactly one number for each token but the first is refused. Tokens are the server's own: its /tokenize.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from core.endpoints import client, failures
from core.endpoints.address import Address
from core.endpoints.failures import Failure
from core.types import Record
from hardware.errors import ExplorerError

Way = Literal["prompt_logprobs", "echo"]
READ_S = 600.0
PROBE = "The sea is wide"


class Scores(Record):
    """Of every token but the first, in nats: how likely it was, and whether no other one was likelier."""

    logprobs: tuple[float, ...]
    greedy: tuple[bool, ...]


def way(address: Address, flavour: str, model: str) -> Way | None:
    """How this server gives log-probabilities of a prompt; None where it does not. Asks it, but only one that has
    /tokenize, for what a server at a price does not have."""
    if flavour not in ("vllm", "openai"):
        return None
    try:
        ids = tokenize(address, model, PROBE)
    except ExplorerError:
        return None
    for name in ("prompt_logprobs", "echo") if flavour == "vllm" else ("echo",):
        try:
            scores(address, model, ids, name)
        except ExplorerError:
            continue
        return name
    return None


def tokenize(address: Address, model: str, text: str, special: bool = False) -> list[int]:
    """The server's ids of a text. special: with what it puts before one. Raises ExplorerError."""
    asked = {"model": model, "prompt": text, "add_special_tokens": special}
    found = client.ask(address, "/tokenize", asked, read_s=60)
    ids = found.get("tokens") if isinstance(found, dict) else None
    if not isinstance(ids, list) or not all(isinstance(i, int) and not isinstance(i, bool) for i in ids):
        raise _none(address, "does not tokenize")
    return ids


def detokenize(address: Address, model: str, ids: Sequence[int]) -> str:
    """The text of a server's ids. Raises ExplorerError."""
    found = client.ask(address, "/detokenize", {"model": model, "tokens": list(ids)}, read_s=60)
    text = found.get("prompt") if isinstance(found, dict) else None
    if not isinstance(text, str):
        raise _none(address, "does not turn tokens into text")
    return text


def scores(address: Address, model: str, ids: Sequence[int], how: Way, read_s: float = READ_S) -> Scores:
    """Log-probabilities of ids[1:], each given those before it. Raises ExplorerError where the answer has none."""
    body: dict[str, Any] = {"model": model, "prompt": list(ids), "max_tokens": 1, "temperature": 0, "stream": False}
    body |= {"prompt_logprobs": 0} if how == "prompt_logprobs" else {"echo": True, "logprobs": 1}
    found = client.ask(address, "completions", body, read_s=read_s)
    error = failures.error_in(found) if isinstance(found, dict) else None
    if error is not None:
        raise failures.in_stream(error, address, 0.0)
    choices = found.get("choices") if isinstance(found, dict) else None
    choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}
    read = _of_prompt(choice.get("prompt_logprobs"), ids) if how == "prompt_logprobs" else _of_echo(choice, len(ids))
    if read is None:
        raise _none(address, "gives no log-probabilities of a prompt")
    return read


def _of_prompt(found: Any, ids: Sequence[int]) -> Scores | None:
    """vLLM's: for each token a map of ids to their logprob and rank, the token's own among them; the first is null."""
    if not isinstance(found, list) or len(found) != len(ids):
        return None
    logprobs, greedy = [], []
    for token, row in zip(ids[1:], found[1:], strict=True):
        own = row.get(str(token)) if isinstance(row, dict) else None
        value = _logprob(own.get("logprob")) if isinstance(own, dict) else None
        if value is None or own is None:
            return None
        logprobs.append(value)
        greedy.append(own.get("rank") == 1)
    return Scores(logprobs=tuple(logprobs), greedy=tuple(greedy))


def _of_echo(choice: Mapping[str, Any], n: int) -> Scores | None:
    """OpenAI's old form: lists over prompt and answer, whose first is null."""
    held = choice.get("logprobs")
    values = held.get("token_logprobs") if isinstance(held, dict) else None
    tops = held.get("top_logprobs") if isinstance(held, dict) else None
    if not isinstance(values, list) or not n <= len(values) <= n + 1 or (values and values[0] is not None):
        return None
    logprobs = [_logprob(value) for value in values[1:n]]
    if any(value is None for value in logprobs):
        return None
    known = [value for value in logprobs if value is not None]
    tops = tops if isinstance(tops, list) and len(tops) == len(values) else [None] * len(values)
    return Scores(
        logprobs=tuple(known), greedy=tuple(_is_best(v, top) for v, top in zip(known, tops[1:n], strict=True))
    )


def _is_best(value: float, top: Any) -> bool:
    found = [v for x in top.values() if (v := _logprob(x)) is not None] if isinstance(top, dict) else []
    return bool(found) and value >= max(found)


def _logprob(found: object) -> float | None:
    """A log-probability; none is above zero. vLLM writes what cannot be as -9999 or null."""
    if isinstance(found, bool) or not isinstance(found, int | float) or not found <= 0.0:
        return None
    return float(found) if found > -1e6 else None


def _none(address: Address, what: str) -> Failure:
    hint = "Run the model in a backend of this machine, or behind a server that gives them (vLLM, `roofscope serve`)."
    return Failure("malformed", f"{address.root} {what}.", hint)
