"""Which server answers at an address, by its tell-tale, and what it says of its models and its memory.

Found by asking, never by the port. What a server does not say is None. Knows each server's paths and field names.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

from core.endpoints import client
from core.endpoints.address import Address
from core.endpoints.failures import Failure
from core.endpoints.vertex import Cloud
from core.types import Record, ServerMemory
from hardware.errors import ExplorerError

Flavour = Literal["llama_cpp", "ollama", "lm_studio", "sglang", "vllm", "tgi", "vertex", "openai"]
LABELS: Mapping[Flavour, str] = {
    "llama_cpp": "llama.cpp",
    "ollama": "Ollama",
    "lm_studio": "LM Studio",
    "sglang": "SGLang",
    "vllm": "vLLM",
    "tgi": "TGI",
    "vertex": "Vertex AI",
    "openai": "OpenAI-compatible",
}
ELSEWHERE = ("refused", "host", "down", "timeout", "tls", "loading", "redirect")  # no further question would help
MOST_MODELS = 200
SHOWN_OF_OLLAMA = 40  # models whose details are asked for, one request each
GB = 1e9


class ServedModel(Record):
    """A model as its server tells it. context: tokens of one request. state: loaded, unloaded, loading, sleeping."""

    id: str
    context: int | None = None
    trained_context: int | None = None
    n_params: int | None = None
    size_bytes: int | None = None
    quantization: str = ""
    architecture: str = ""
    vocab_size: int | None = None
    d_model: int | None = None
    n_blocks: int | None = None
    state: str = ""
    embeds: bool = False  # for embeddings, not for text


class Found(Record):
    """A server. tokenizes: it counts tokens for us and takes prompts as ids. slots: requests at once. cloud: where it
    is an endpoint of Vertex AI."""

    flavour: Flavour
    version: str = ""
    models: tuple[ServedModel, ...] = ()
    tokenizes: bool = False
    slots: int | None = None
    cloud: Cloud | None = None


def in_cloud(cloud: Cloud) -> Found:
    """An endpoint of Vertex AI as a server of one model: which of those deployed there answers, Google decides."""
    main = cloud.main
    name = cloud.label or (main.label or main.model if main else "") or cloud.id
    return Found(flavour="vertex", models=(ServedModel(id=name, state="loaded"),), cloud=cloud)


def probe(address: Address) -> Found:
    """Ask who is there. Raises Failure where nobody answers or wants a key, and ExplorerError for a stranger."""
    wants_key: Failure | None = None
    for flavour, path, knows, read in TELL_TALES:
        try:
            told = client.ask(address, path)
        except Failure as failure:
            if failure.kind in ELSEWHERE:
                raise
            if failure.kind == "key" and flavour == "openai":
                raise
            wants_key = wants_key or (failure if failure.kind == "key" else None)
            continue
        if isinstance(told, dict) and knows(told):
            return _complete(read(address, told), address)
    if wants_key is not None:
        raise wants_key
    raise ExplorerError(
        f"{address.root} answers, but is not a model server that is known here: it lists no models.",
        "Look at the address and its port. Known: " + ", ".join(LABELS.values()) + ".",
    )


def _complete(found: Found, address: Address) -> Found:
    if found.models:
        return found
    raise ExplorerError(
        f"{LABELS[found.flavour]} at {address.root} has no model.", "Load or pull one there, and try again."
    )


def memory(address: Address, flavour: Flavour, model: str) -> ServerMemory | None:
    """What the server says of its memory now; None where it says nothing."""
    try:
        match flavour:
            case "ollama":
                return _ollama_memory(client.ask(address, "/api/ps"), model)
            case "sglang":
                return _sglang_memory(client.ask(address, "/server_info"))
            case "vllm":
                return _vllm_memory(client.fetch(address, "/metrics").decode("utf-8", "replace"))
            case "llama_cpp":
                return _llama_memory(client.ask(address, "/slots"))
    except (Failure, ValueError, TypeError, AttributeError):
        pass  # a question beside the measurement: without an answer it is not known
    return None


# ---------------------------------------------------------------- llama.cpp


def _llama_cpp(address: Address, props: Mapping[str, Any]) -> Found:
    settings = props.get("default_generation_settings")
    n_ctx = _int(settings.get("n_ctx")) if isinstance(settings, dict) else None
    return Found(
        flavour="llama_cpp",
        version=_text(props.get("build_info")),
        models=tuple(_llama_model(m, n_ctx) for m in _listed(address)),
        tokenizes=True,
        slots=_int(props.get("total_slots")),
    )


def _llama_model(found: Mapping[str, Any], n_ctx: int | None) -> ServedModel:
    meta = found.get("meta") if isinstance(found.get("meta"), dict) else {}
    status = found.get("status")
    assert isinstance(meta, dict)
    return ServedModel(
        id=_text(found.get("id")),
        context=_int(meta.get("n_ctx")) or n_ctx,
        trained_context=_int(meta.get("n_ctx_train")),
        n_params=_int(meta.get("n_params")),
        size_bytes=_int(meta.get("size")),
        quantization=_text(meta.get("ftype")),
        vocab_size=_int(meta.get("n_vocab")),
        d_model=_int(meta.get("n_embd")),
        state=_text(status.get("value")) if isinstance(status, dict) else "loaded",
    )


def _llama_memory(slots: Any) -> ServerMemory | None:
    """Slots tell how long the contexts are and whether they work; no bytes."""
    known = [s for s in slots if isinstance(s, dict)]
    if not known:
        return None
    return ServerMemory(
        source="/slots",
        n_context=max((_int(s.get("n_ctx")) or 0 for s in known), default=0) or None,
        slots=len(known),
        slots_busy=sum(s.get("is_processing") is True for s in known),
    )


# ---------------------------------------------------------------- Ollama


def _ollama(address: Address, told: Mapping[str, Any]) -> Found:
    tags = _dicts(client.ask(address, "/api/tags"), "models")[:MOST_MODELS]
    try:
        running = {_text(m.get("name")): m for m in _dicts(client.ask(address, "/api/ps"), "models")}
    except Failure:
        running = {}
    with ThreadPoolExecutor(4) as pool:
        shown = list(pool.map(lambda m: _ollama_details(address, _text(m.get("name"))), tags[:SHOWN_OF_OLLAMA]))
    shown += [{}] * (len(tags) - len(shown))
    models = tuple(
        _ollama_model(tag, details, running.get(_text(tag.get("name"))))
        for tag, details in zip(tags, shown, strict=True)
    )
    return Found(flavour="ollama", version=_text(told.get("version")), models=models)


def _ollama_details(address: Address, name: str) -> dict[str, Any]:
    try:
        found = client.ask(address, "/api/show", {"model": name})
    except Failure:
        return {}
    return found if isinstance(found, dict) else {}


def _ollama_model(tag: Mapping[str, Any], shown: Mapping[str, Any], running: Mapping[str, Any] | None) -> ServedModel:
    info = shown.get("model_info") if isinstance(shown.get("model_info"), dict) else {}
    details = tag.get("details") if isinstance(tag.get("details"), dict) else {}
    assert isinstance(info, dict) and isinstance(details, dict)
    family = _text(info.get("general.architecture")) or _text(details.get("family"))
    abilities = shown.get("capabilities")
    return ServedModel(
        id=_text(tag.get("name")),
        context=_int(running.get("context_length")) if running else None,
        trained_context=_int(info.get(f"{family}.context_length")),
        n_params=_int(info.get("general.parameter_count")) or _n_params(_text(details.get("parameter_size"))),
        size_bytes=_int(tag.get("size")),
        quantization=_text(details.get("quantization_level")),
        architecture=family,
        d_model=_int(info.get(f"{family}.embedding_length")),
        n_blocks=_int(info.get(f"{family}.block_count")),
        state="loaded" if running else "unloaded",
        embeds=isinstance(abilities, list) and "completion" not in abilities and "embedding" in abilities,
    )


def _ollama_memory(told: Any, model: str) -> ServerMemory | None:
    for found in _dicts(told, "models"):
        if model in (found.get("name"), found.get("model")):
            return ServerMemory(
                source="/api/ps",
                total_bytes=_int(found.get("size")),
                device_bytes=_int(found.get("size_vram")),
                n_context=_int(found.get("context_length")),
            )
    return None


# ---------------------------------------------------------------- LM Studio


def _lm_studio(address: Address, told: Mapping[str, Any]) -> Found:
    return Found(flavour="lm_studio", models=tuple(map(_lm_studio_model, _dicts(told, "models")[:MOST_MODELS])))


def _lm_studio_model(found: Mapping[str, Any]) -> ServedModel:
    instances = [i for i in found.get("loaded_instances") or () if isinstance(i, dict)]
    config: dict[str, Any] = next((i["config"] for i in instances if isinstance(i.get("config"), dict)), {})
    quantization = found.get("quantization")
    return ServedModel(
        id=_text(found.get("key")) or _text(found.get("id")),
        context=_int(config.get("context_length")),
        trained_context=_int(found.get("max_context_length")),
        n_params=_n_params(_text(found.get("params_string"))),
        size_bytes=_int(found.get("size_bytes")),
        quantization=_text(quantization.get("name")) if isinstance(quantization, dict) else _text(quantization),
        architecture=_text(found.get("architecture")) or _text(found.get("arch")),
        state="loaded" if instances else "unloaded",
        embeds=found.get("type") in ("embedding", "embeddings"),
    )


def _lm_studio_v0(address: Address, told: Mapping[str, Any]) -> Found:
    return Found(flavour="lm_studio", models=tuple(map(_lm_studio_v0_model, _dicts(told, "data")[:MOST_MODELS])))


def _lm_studio_v0_model(found: Mapping[str, Any]) -> ServedModel:
    return ServedModel(
        id=_text(found.get("id")),
        context=_int(found.get("loaded_context_length")),
        trained_context=_int(found.get("max_context_length")),
        quantization=_text(found.get("quantization")),
        architecture=_text(found.get("arch")),
        state={"loaded": "loaded", "not-loaded": "unloaded"}.get(_text(found.get("state")), ""),
        embeds=found.get("type") == "embeddings",
    )


# ---------------------------------------------------------------- vLLM, SGLang, TGI, others


def _vllm(address: Address, told: Mapping[str, Any]) -> Found:
    return Found(flavour="vllm", version=_text(told.get("version")), models=_openai_models(address))


def _vllm_memory(metrics: str) -> ServerMemory | None:
    shares = [
        float(m[1]) for m in re.finditer(r"^vllm:kv_cache_usage_perc(?:\{[^}]*\})? ([0-9.eE+-]+)$", metrics, re.M)
    ]
    return ServerMemory(source="/metrics", kv_share=max(shares)) if shares else None


def _sglang(address: Address, told: Mapping[str, Any]) -> Found:
    models = _openai_models(address)
    context = _int(told.get("context_length"))
    if context is not None:
        models = tuple(m if m.context else _with_context(m, context) for m in models)
    return Found(flavour="sglang", version=_text(told.get("version")), models=models)


def _with_context(model: ServedModel, context: int) -> ServedModel:
    from msgspec.structs import replace

    return replace(model, context=context)


def _sglang_memory(told: Any) -> ServerMemory | None:
    states = told.get("internal_states")
    found = {**told, **(states[0] if isinstance(states, list) and states and isinstance(states[0], dict) else {})}
    usage = found.get("memory_usage")
    found = {**found, **(usage if isinstance(usage, dict) else {})}
    weights = _number(found.get("weight_memory_usage_gb"))
    weights = _number(found.get("weight")) if weights is None else weights
    kv = _number(found.get("kv_cache_memory_usage_gb"))
    kv = _number(found.get("kvcache")) if kv is None else kv
    share = _number(found.get("token_usage"))
    if weights is kv is share is None:
        return None
    return ServerMemory(
        source="/server_info",
        weights_bytes=None if weights is None else round(weights * GB),
        kv_bytes=None if kv is None else round(kv * GB),
        kv_share=share,
    )


def _tgi(address: Address, told: Mapping[str, Any]) -> Found:
    model = ServedModel(
        id=_text(told.get("model_id")),
        context=_int(told.get("max_total_tokens")),
        quantization=_text(told.get("model_dtype")).removeprefix("torch."),
        state="loaded",
    )
    return Found(
        flavour="tgi",
        version=_text(told.get("version")),
        models=(model,),
        slots=_int(told.get("max_concurrent_requests")),
    )


def _openai(address: Address, told: Mapping[str, Any]) -> Found:
    return Found(flavour="openai", models=tuple(map(_openai_model, _dicts(told, "data")[:MOST_MODELS])))


def _openai_models(address: Address) -> tuple[ServedModel, ...]:
    return tuple(map(_openai_model, _listed(address)))


def _openai_model(found: Mapping[str, Any]) -> ServedModel:
    return ServedModel(
        id=_text(found.get("id")),
        context=_int(found.get("max_model_len")) or _int(found.get("context_length")),
    )


def _listed(address: Address) -> list[dict[str, Any]]:
    return [m for m in _dicts(client.ask(address, "models"), "data")[:MOST_MODELS] if _text(m.get("id"))]


# path, what its answer must have, and who reads it. SGLang and TGI are asked before vLLM, whose /version others have.
Reads = Callable[[Address, Mapping[str, Any]], Found]
TELL_TALES: tuple[tuple[Flavour, str, Callable[[Mapping[str, Any]], bool], Reads], ...] = (
    ("llama_cpp", "/props", lambda t: "default_generation_settings" in t or "build_info" in t, _llama_cpp),
    ("ollama", "/api/version", lambda t: isinstance(t.get("version"), str), _ollama),
    ("lm_studio", "/api/v1/models", lambda t: isinstance(t.get("models"), list), _lm_studio),
    ("lm_studio", "/api/v0/models", lambda t: isinstance(t.get("data"), list), _lm_studio_v0),
    ("sglang", "/server_info", lambda t: "model_path" in t or "internal_states" in t, _sglang),
    ("tgi", "/info", lambda t: isinstance(t.get("model_id"), str), _tgi),
    ("vllm", "/version", lambda t: isinstance(t.get("version"), str), _vllm),
    ("openai", "models", lambda t: isinstance(t.get("data"), list), _openai),
)


def _dicts(told: Any, field: str) -> list[dict[str, Any]]:
    found = told.get(field) if isinstance(told, dict) else None
    return [x for x in found if isinstance(x, dict)] if isinstance(found, list) else []


def _text(found: object) -> str:
    return found[:300] if isinstance(found, str) else ""


def _int(found: object) -> int | None:
    return found if isinstance(found, int) and not isinstance(found, bool) and 0 < found < 2**62 else None


def _number(found: object) -> float | None:
    is_number = isinstance(found, int | float) and not isinstance(found, bool)
    return float(found) if is_number and 0 <= float(found) < 1e18 else None  # type: ignore[arg-type]


def _n_params(text: str) -> int | None:
    """ "7B", "134.52M" as a number, which is as round as the text."""
    match = re.fullmatch(r"([0-9.]+)\s*([KMBT])", text.strip(), re.I)
    if match is None or match[1].count(".") > 1 or match[1] == ".":
        return None
    return round(float(match[1]) * {"K": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}[match[2].upper()])


def usable(models: Iterable[ServedModel]) -> tuple[ServedModel, ...]:
    """Those that generate text."""
    return tuple(model for model in models if not model.embeds)
