"""Events as earlier versions wrote them, as today's records. The only place that knows what they looked like.

Until November 2026 a dictionary called `environment` held what is now Setup and Host, and steps and items had
numbers of their own where there is one Counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from core.dtypes import canonical_dtype
from core.types import Asked, Counts, Event, Forwards, Host, Metric, Request, Setup, from_json
from hardware.detect import Machine

HALVES = ("bf16", "fp16")
_decoder = msgspec.json.Decoder(Event)


def event(line: bytes) -> Event | None:
    """An event that today's decoder refuses; None for a damaged line."""
    found: Event
    try:
        raw = from_json(line, dict[str, Any])
        match raw.get("type"):
            case "loaded":
                told = raw.pop("environment")
                raw |= {"setup": setup(told), "host": host(told)}
            case "step":
                raw |= step(raw)
            case "item":
                raw["counts"] = answered(raw)
        found = _decoder.decode(msgspec.json.encode(raw))
        return found
    except (msgspec.DecodeError, KeyError, TypeError, ValueError, AttributeError):
        return None


def request(data: bytes) -> Request:
    """A request with numbers that are refused today (a seed of -1), as it was. Raises msgspec.ValidationError."""
    raw = from_json(data, dict[str, Any])
    odd = {name: raw[name] for name in ("seed", "threads", "retries") if isinstance(raw.get(name), int)}
    found = msgspec.convert({name: value for name, value in raw.items() if name not in odd}, Request)
    return msgspec.structs.replace(found, **odd)


def asked(event: Asked) -> Asked:
    """What an evaluation asked, its metrics by what they are: the 99th percentile of KL was once taken of each text,
    and the most that one can be was not told."""
    return msgspec.structs.replace(event, metrics=tuple(map(_metric, event.metrics)))


_MOST = {"f1": 1.0, "span_f1": 1.0, "recall": 1.0, "p_right": 1.0, "agreement": 1.0, "chrf": 100.0, "bleu": 100.0}


def _metric(m: Metric) -> Metric:
    if m.name == "kl_p99" and m.kind == "mean" and not m.label.endswith("mean"):
        return msgspec.structs.replace(m, label=f"{m.label} of a text, mean")
    return msgspec.structs.replace(m, most=_MOST.get(m.name)) if m.kind == "mean" and m.most is None else m


def step(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Its counts, and the forwards that they tell of: the same number of tokens in each, logits of all of them where a
    guess was verified. The batch and a draft model's shapes are not told."""
    n, fed = raw["n_forward"], raw["n_input"]
    counts = _counts(raw, raw["n_tokens"])
    ran: list[Forwards] = []
    if n:
        each = max(1, fed // n)
        past = raw["n_context"] - (fed if raw["phase"] == "prefill" else raw["n_tokens"])
        n_logits = 1 + len(raw.get("guess", ())) if raw["phase"] == "decode" and each > 1 else 1
        ran = [Forwards(n_new=each, n_logits=min(each, n_logits), n_past=max(0, past), n_sequences=0, times=n)]
    return {"counts": counts, "ran": ran}


def answered(raw: Mapping[str, Any]) -> Counts | None:
    """Of an item: its decoding after the first token, which n_tokens counts too."""
    return None if raw["n_tokens"] is None else _counts(raw, max(0, raw["n_tokens"] - 1))


def _counts(raw: Mapping[str, Any], tokens: int) -> Counts:
    return Counts(
        tokens=tokens,
        forwards=raw.get("n_forward") or 0,
        inputs=raw.get("n_input") or 0,
        drafts=raw.get("n_draft") or 0,
        depth=raw.get("depth"),
    )


def setup(environment: Mapping[str, Any]) -> Setup:
    """What the dictionary tells. Activations and cache, which most backends did not tell, follow from the dtype that
    was computed in: in half precision they were in it too, but in a GGUF file's case, which llama.cpp ran in fp32."""
    known, dtype = dict(environment), str(environment.get("dtype") or "fp32")
    half = dtype if dtype in HALVES and "file_type" not in environment else "fp32"
    activation = str(known.pop("activation_dtype", None) or half)
    kv = str(known.pop("kv_dtype", None) or known.pop("type_k", None) or activation)
    known.pop("type_v", None)
    bf16 = known.get("bf16_instructions") is False and not known.get("amx")
    size = known.pop("file_bytes", None)
    return Setup(
        weight_dtype=known.pop("dtype", dtype),
        activation_dtype=canonical_dtype(activation),
        kv_dtype=canonical_dtype(kv),
        threads=known.pop("threads", None),
        device=known.pop("device", "cpu"),
        device_name=known.pop("device_name", ""),
        kernels=known.pop("kernels", ""),
        emulated=("bf16",) if bf16 else (),
        file_type=known.pop("file_type", ""),
        fused=bool(known.pop("fused", False)),
        n_context=known.pop("n_ctx", None),
        n_batch=known.pop("n_batch", None),
        buffers_bytes=known.pop("buffers_bytes", {}),
        versions={name: v for name, v in known.pop("versions", {}).items() if name != "python"},
        facts={name: v for name, v in known.items() if isinstance(v, str | int | float | bool)}
        | ({"file_bytes": size} if size else {}),
    )


def host(environment: Mapping[str, Any]) -> Host | None:
    """None where the machine is not told."""
    if not (machine := environment.get("machine")):
        return None
    return Host(
        machine=msgspec.convert(machine, Machine),
        load_average=environment.get("load_average"),
        python=(environment.get("versions") or {}).get("python", ""),
        date=environment.get("date", ""),
    )
