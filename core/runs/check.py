"""Reasons why a request cannot run, found before anything is loaded."""

from __future__ import annotations

from pathlib import Path

from core import plugins
from core.endpoints import store
from core.models import catalogue, derived
from core.models.templates import templates_of
from core.runs.lineage import is_of
from core.runs.resolve import Resolved, resolve
from core.tokenizers import chat
from core.tokenizers.folder import Unread, check_settings, tokenizer_file
from core.types import (
    Backend,
    Derive,
    Evaluate,
    Generate,
    ModelEntry,
    ModelSpec,
    ReadsQuantized,
    Record,
    Request,
    Task,
    generates,
)
from hardware.errors import ExplorerError
from hardware.memory import available_bytes

TIGHT = 0.85  # of the free memory


class MemoryEstimate(Record):
    """What a request will hold in memory, as its backends tell before loading, beside what a process may take now."""

    weights_bytes: int
    packed_bytes: int
    kv_bytes: int
    workspace_bytes: int
    runtime_bytes: int
    available_bytes: int
    buffers_bytes: int = 0  # what the libraries will say that they allocated, touched or not

    @property
    def total_bytes(self) -> int:
        """Resident, of all parts; buffers_bytes counts what no run touches and is no part of it."""
        return self.weights_bytes + self.packed_bytes + self.kv_bytes + self.workspace_bytes + self.runtime_bytes

    @property
    def verdict(self) -> str:
        """fits, tight or no"""
        if self.total_bytes > self.available_bytes:
            return "no"
        return "tight" if self.total_bytes > TIGHT * self.available_bytes else "fits"


def estimate(wanted: Resolved) -> MemoryEstimate:
    """At the full length asked for, the companions' too; a library that several share counts once.

    A transform needs its source's weights at least.
    """
    n_tokens = _length(wanted.request.task)
    told = [
        (r.backend.name, r.backend.reserve(r.spec, r.request, n_tokens)) for r in (wanted, *wanted.companions.values())
    ]
    runtime: dict[str, int] = {}
    for name, reserve in told:
        runtime[name] = max(runtime.get(name, 0), reserve.runtime_bytes)
    runs = not isinstance(wanted.request.task, Derive)
    return MemoryEstimate(
        weights_bytes=sum(reserve.weights_bytes for _, reserve in told) if runs else _loaded_bytes(wanted),
        packed_bytes=sum(reserve.packed_bytes for _, reserve in told if runs),
        kv_bytes=sum(reserve.kv_bytes for _, reserve in told if runs),
        workspace_bytes=sum(reserve.workspace_bytes for _, reserve in told if runs),
        runtime_bytes=sum(runtime.values()),
        available_bytes=available_bytes(),
        buffers_bytes=sum(sum(reserve.buffers_bytes.values()) for _, reserve in told if runs),
    )


def foretold_buffers(spec: ModelSpec, request: Request) -> dict[str, int]:
    """What the backend's library will say that it allocated for a request, by use; empty where it says nothing, and
    for a request of another version of Roofscope."""
    try:
        backend = plugins.get("backend", request.backend)
        return backend.reserve(spec, request, _length(request.task)).buffers_bytes
    except ExplorerError:
        return {}


def _loaded_bytes(source: Resolved) -> int:
    """A transform's source: PyTorch's load it in fp32, others work on the file as it is.

    Weights that another program has quantized are read a tensor at a time and written a shard at a time.
    """
    plain = 4 * source.spec.n_params
    task = source.request.task
    if isinstance(task, Derive) and isinstance(plugins.get("transform", task.transform), ReadsQuantized):
        return min(plain, (2 << 30) + 12 * max(layer.n_params for layer in source.spec.layers))
    return plain if source.backend.dtypes else source.spec.weight_bytes or 0


def _length(task: Task) -> int:
    """Tokens in the KV cache at the end; for an eval, whose items differ, a plain guess."""
    if isinstance(task, Generate):
        n_characters = len(task.prompt or "") + sum(len(words) for _, words in task.history)
        return (task.prompt_tokens or n_characters // 3 + 32) + task.max_new_tokens
    return 1024 if isinstance(task, Evaluate) else 0


def check(request: Request) -> Resolved:
    """The request, resolved. Raises ExplorerError with the first reason why it cannot run."""
    wanted = resolve(request)
    backend, strategy = wanted.backend, wanted.strategy
    if reason := backend.unavailable():
        raise ExplorerError(f"{backend.label} is not installed.", reason)
    can = backend.capabilities
    if encoder := isinstance(request.task, Generate) and not wanted.spec.causal:
        can -= {"cache", "rollback", "stream"}
    other = strategy.name if encoder else default_strategy(backend)
    hint = "Choose another strategy or backend."
    if other != strategy.name:
        hint = f"{other} works there (--strategy {other})."
    plugins.require(strategy, can, "an encoder" if encoder else backend.label, hint)
    if strategy.single and request.batch > 1:
        raise ExplorerError(f"{strategy.label} runs one sequence at a time.", "Set batch to 1.")
    if request.dtype and request.dtype not in backend.dtypes:
        known = ", ".join(backend.dtypes) or "only what the file holds"
        raise ExplorerError(f"{backend.label} cannot load weights as {request.dtype}.", f"It knows: {known}.")
    _check_prompt(request)
    _check_task(wanted)
    if "hf" in wanted.entry.files:
        check_settings(Path(wanted.entry.files["hf"]))
    check_text(wanted)
    check_context(wanted)
    needed = estimate(wanted)
    if needed.verdict == "no" and not request.allow_oversize:
        raise ExplorerError(
            f"The run needs about {needed.total_bytes / 1e9:.1f} GB of memory, {_largest(needed)}, "
            f"and {needed.available_bytes / 1e9:.1f} GB are free.",
            "Choose a smaller model, dtype, batch or context, close other programs, or allow it to run anyway.",
        )
    return wanted


def can_evaluate(backend: Backend, entry: ModelEntry) -> frozenset[str]:
    """What an evaluation of this model may need: the backend's capabilities, and those of the server behind it."""
    found = generates(backend.capabilities)
    return found | store.abilities(entry.files) if "remote" in found else found


def default_strategy(backend: Backend) -> str:
    """The strategy that is taken where none is named: ours, or the library's own where ours cannot be."""
    ours = plugins.get("strategy", "autoregressive")
    return "autoregressive" if ours.needs <= backend.capabilities else "native"


def _largest(needed: MemoryEstimate) -> str:
    """The part that needs most: "24.2 GB of it for the KV cache"."""
    parts = {
        "the weights": needed.weights_bytes + needed.packed_bytes,
        "the KV cache": needed.kv_bytes,
        "activations": needed.workspace_bytes,
        "the libraries": needed.runtime_bytes,
    }
    name = max(parts, key=lambda part: parts[part])
    return f"{parts[name] / 1e9:.1f} GB of it for {name}"


def _check_task(wanted: Resolved) -> None:
    """What an eval or a transform can tell before anything is loaded."""
    request, task = wanted.request, wanted.request.task
    if isinstance(task, Evaluate):
        plugin = plugins.get("eval", task.eval)
        able = can_evaluate(wanted.backend, wanted.entry)
        if plugin.needs - able == {"likelihood"} and "remote" in wanted.backend.capabilities:
            raise ExplorerError(
                f"{plugin.label} needs the log-probabilities of a prompt, which this server does not give.",
                "Use a backend of this machine, or a server that gives them: vLLM, `roofscope serve`.",
            )
        plugins.require(plugin, able, wanted.backend.label, "Choose another backend.")
        plugin.size(wanted.task)  # reads the questions, if they are a file's
    elif isinstance(task, Derive):
        transform = plugins.get("transform", task.transform)
        if reason := transform.unavailable():
            raise ExplorerError(f"{transform.label} cannot run here.", reason)
        if request.backend != transform.backend:
            raise ExplorerError(
                f"{transform.label} is done by {plugins.label('backend', transform.backend)}.", "Set the backend to it."
            )
        transform.check(wanted.spec, wanted.task)
        if task.name is not None:
            derived.check_name(task.name)
            taken = task.name in {e.id for e in catalogue.entries(refresh=True)}
            if taken and not is_of(task.name, wanted):
                raise ExplorerError(f"There is a model called '{task.name}' already.", "Choose another name.")


def check_text(wanted: Resolved) -> None:
    """What the files tell of the model's text. Raises ExplorerError where a prompt cannot become tokens.

    Templates are compiled here and not rendered: what comes with a model runs in the worker alone.
    """
    task = wanted.request.task
    if not isinstance(task, Generate) or task.prompt_tokens is not None:
        return
    made = wanted.format == "gguf" and "gguf" not in wanted.entry.files  # of the folder, its tokenizer with it
    if (made or wanted.format in ("hf", "onnx")) and "hf" in wanted.entry.files:
        folder = Path(wanted.entry.files["hf"])
        if tokenizer_file(folder) is None and not wanted.spec.random_weights:
            Unread(wanted.entry.label).encode("")
    if task.chat:
        for name, template in templates_of(wanted.entry).items():
            if name == (task.template or "default"):
                chat.check(template)


def check_context(wanted: Resolved) -> None:
    """Raises ExplorerError where the tokens asked for are more than the context, whatever a typed prompt has."""
    task = wanted.request.task
    if not isinstance(task, Generate) or not (wanted.spec.causal and wanted.strategy.needs & {"cache", "stream"}):
        return
    limit = wanted.backend.reserve(wanted.spec, wanted.request, _length(task)).max_context
    if limit is None or (task.prompt_tokens or 1) + task.max_new_tokens <= limit:
        return
    prompt = f"{task.prompt_tokens:,} prompt tokens" if task.prompt_tokens else "The prompt"
    raised = " or raise the context in the backend's options" if limit < (wanted.spec.max_context or 0) else ""
    raise ExplorerError(
        f"{prompt} and {task.max_new_tokens:,} new tokens exceed the context of {limit:,} tokens.",
        f"Ask for fewer tokens{raised}.",
    )


def _check_prompt(request: Request) -> None:
    task = request.task
    if isinstance(task, Generate) and task.prompt_tokens is None and not (task.prompt or "").strip():
        raise ExplorerError("The prompt is empty.", "Type a prompt or set a number of prompt tokens.")
