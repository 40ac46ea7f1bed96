"""What a request for a streamed answer says to each server: one body per flavour, with only fields that it knows.

Every body asks for the most exact count of tokens that the server can give, and to read the whole prompt anew.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

from core.endpoints.client import CHAT, TEXT
from core.endpoints.flavours import Flavour
from core.types import THINKING, Sampling

Messages = Sequence[tuple[str, str]]  # (role, text)
IGNORES_EOS = ("llama_cpp", "vllm", "sglang", "vertex")


def chat(
    flavour: Flavour,
    model: str,
    messages: Messages,
    limit: int,
    *,
    sampling: Sampling | None = None,
    seed: int = 0,
    ignore_eos: bool = False,
    thinking: bool | None = None,
) -> tuple[str, dict[str, Any]]:
    """(path, body) for a dialogue, which the server puts into the model's chat template."""
    said = [{"role": role, "content": text} for role, text in messages]
    if flavour == "ollama":
        body = _ollama(model, limit, sampling, seed) | {"messages": said}
        return "/api/chat", body if thinking is None else body | {"think": thinking}
    body = _openai(flavour, model, limit, sampling, seed, ignore_eos) | {"messages": said}
    if flavour == "openai":
        body["max_completion_tokens"] = body.pop("max_tokens")
    if thinking is not None and flavour in ("llama_cpp", "vllm", "sglang"):
        body["chat_template_kwargs"] = dict.fromkeys(THINKING, thinking)
    return CHAT, body


def text(
    flavour: Flavour,
    model: str,
    prompt: str | Sequence[int],
    limit: int,
    *,
    sampling: Sampling | None = None,
    seed: int = 0,
    ignore_eos: bool = False,
) -> tuple[str, dict[str, Any]]:
    """(path, body) for a prompt as it stands, without a chat template; as ids for servers that tokenize for us."""
    given = prompt if isinstance(prompt, str) else list(prompt)
    if flavour == "ollama":
        return "/api/generate", _ollama(model, limit, sampling, seed) | {"prompt": given, "raw": True}
    body = _openai(flavour, model, limit, sampling, seed, ignore_eos)
    if flavour == "llama_cpp":
        del body["stream_options"]
        body["n_predict"] = body.pop("max_tokens")
        return "/completion", body | {"prompt": given, "return_tokens": True}
    return TEXT, body | {"prompt": given}


def _openai(
    flavour: Flavour, model: str, limit: int, sampling: Sampling | None, seed: int, ignore_eos: bool
) -> dict[str, Any]:
    sampling = sampling or Sampling()
    body: dict[str, Any] = {
        "model": "" if flavour == "vertex" else model,  # Vertex AI knows by the address which one
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": limit,
        "temperature": sampling.temperature,
        "seed": seed,
    }
    if sampling.top_p is not None:
        body["top_p"] = sampling.top_p
    if sampling.top_k is not None and flavour not in ("openai", "tgi"):
        body["top_k"] = sampling.top_k
    if flavour in ("vllm", "sglang", "vertex"):
        body["stream_options"]["continuous_usage_stats"] = True
    if flavour == "vllm":
        body["cache_salt"] = uuid.uuid4().hex
    if flavour == "llama_cpp":
        body |= {"timings_per_token": True, "cache_prompt": False}
        if sampling.temperature > 0:  # what a request leaves out comes from the server's own settings
            body |= {"min_p": 0.0, "top_k": sampling.top_k or 0, "top_p": sampling.top_p or 1.0}
    if ignore_eos and flavour in IGNORES_EOS:
        body["ignore_eos"] = True
    return body


def _ollama(model: str, limit: int, sampling: Sampling | None, seed: int) -> dict[str, Any]:
    sampling = sampling or Sampling()
    options: dict[str, Any] = {"num_predict": limit, "temperature": sampling.temperature, "seed": seed}
    options |= {"top_k": sampling.top_k} if sampling.top_k is not None else {}
    options |= {"top_p": sampling.top_p} if sampling.top_p is not None else {}
    return {"model": model, "stream": True, "options": options}
