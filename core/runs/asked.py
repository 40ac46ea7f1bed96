"""Whether a run is what was asked for: the request beside what the worker reported that it ran.

A record of a configuration that never ran is worse than none, so what is compared here is the session's own report
(Setup), the options it was opened with, and the tokens that went through it. `SEEN` says where each option of a
backend is reported; an option that no library tells stands in UNSEEN.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from core import plugins
from core.dtypes import canonical_dtype
from core.plugins import settings
from core.runs.recording import Recording, length
from core.types import Generate, Request, Setup
from hardware.errors import ExplorerError

Tell = Callable[[Setup], Any]


def _fact(name: str) -> Tell:
    return lambda setup: setup.facts.get(name)


def _kv(setup: Setup) -> str:
    return canonical_dtype(setup.kv_dtype)


SEEN: Mapping[str, Mapping[str, Tell]] = {
    "fake": {"delay_s": _fact("delay_s")},
    "llama_cpp": {
        "n_ctx": lambda setup: setup.n_context,
        "flash_attn": _fact("flash_attention"),
        "kv_dtype": _kv,
        "use_mmap": _fact("use_mmap"),
        "n_gpu_layers": _fact("n_gpu_layers"),
        "use_extra_bufts": _fact("use_extra_bufts"),
    },
    "pytorch": {
        "device": lambda setup: setup.device.partition(":")[0],
        "attention": _fact("attention"),
        "compile": lambda setup: bool(setup.facts.get("compile")),
        "fused": lambda setup: setup.fused,
    },
    "onnxruntime": {
        "provider": lambda setup: setup.device.partition(":")[0],
        "spinning": _fact("spinning"),
        "optimization": _fact("graph_optimization"),
    },
    "endpoint": {"api": _fact("api"), "read_s": _fact("read_s"), "tokenizer": _fact("tokenizer")},
}
UNSEEN: Mapping[str, frozenset[str]] = {"fake": frozenset({"crash"})}  # it ends the process
LEFT = (None, "auto")  # the library chooses: whatever it took is what was asked for
_WORDS = {"on": True, "off": False}


def unlike(request: Request, run: Recording) -> tuple[str, ...]:
    """One sentence for everything that ran otherwise than asked; empty when all that can be seen is as asked."""
    loaded, setup = run.loaded, run.setup
    if loaded is None or setup is None:
        return ("The worker did not report what it ran.",)
    found = list(settings_unlike(request, setup))
    if request.threads is not None and setup.threads is not None and setup.threads != request.threads:
        found.append(_sentence("threads", request.threads, setup.threads))
    if request.dtype is not None and canonical_dtype(setup.weight_dtype) != canonical_dtype(request.dtype):
        found.append(_sentence("weights", request.dtype, setup.weight_dtype))
    changed = {n: v for n, v in loaded.options.items() if request.options.get(n) != v}
    found += [_sentence(n, request.options.get(n, "the default"), v) for n, v in changed.items()]
    task = request.task
    if isinstance(task, Generate):
        if task.prompt_tokens is not None and loaded.n_prompt_tokens != task.prompt_tokens:
            found.append(_sentence("prompt tokens", task.prompt_tokens, loaded.n_prompt_tokens))
        made = {length(steps) for steps in run.timing}
        exact = (task.ignore_eos or task.prompt_tokens is not None) and request.strategy != "encode"
        if exact and loaded.spec.causal and made and made != {task.max_new_tokens}:
            found.append(_sentence("new tokens", task.max_new_tokens, min(made)))
        wide = {f.n_sequences for steps in run.timing for f in run.forwards(steps) if f.of == "model"}
        if wide and max(wide) != request.batch:
            found.append(_sentence("batch", request.batch, max(wide)))
    return tuple(dict.fromkeys(found))


def settings_unlike(request: Request, setup: Setup) -> tuple[str, ...]:
    """The options of the backend that the session reports otherwise than they were asked for."""
    backend = plugins.get("backend", request.backend)
    tell = SEEN.get(request.backend, {})
    asked = settings(backend.Options, request.options, backend.label)
    found = []
    for name in request.options:
        if name not in tell:
            continue
        wanted, told = getattr(asked, name), tell[name](setup)
        if wanted in LEFT or told is None or _same(wanted, told):
            continue
        found.append(_sentence(name, wanted, told))
    return tuple(found)


def _same(wanted: Any, told: Any) -> bool:
    if isinstance(told, bool):
        return bool(_WORDS.get(wanted, wanted)) == told
    if isinstance(wanted, str) and isinstance(told, str):
        return _canonical(wanted) == _canonical(told)
    return bool(wanted == told)


def _canonical(name: str) -> str:
    try:
        return canonical_dtype(name)
    except ExplorerError:
        return name


def _sentence(name: str, asked: Any, ran: Any) -> str:
    return f"Asked for {name.replace('_', ' ')} {_word(asked)}, and {_word(ran)} ran."


def _word(value: Any) -> str:
    return "nothing known" if value is None else ("on" if value else "off") if isinstance(value, bool) else str(value)
