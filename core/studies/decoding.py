"""The decoding studies: a consistency model against its teacher and the rivals, in three engines.

The teacher is tuned to text-to-SQL, and the consistency model is trained from it, in an hour together. Most tables
have invented names, which teaches them to copy a name instead of knowing it; questions come from tables that none has
seen. `decoding` holds every way to decode side by side; `claim` makes the claim, with its accuracy asked closely;
`easy` makes it where it is easy to make.
"""

from __future__ import annotations

from typing import Any

from core.domains import load
from core.studies.plan import Benchmark, Configuration, Evaluation, Quality, Recipe, name_for
from core.types import Scalar

Steps = tuple[tuple[str, dict[str, Scalar]], ...]
ALL, SOME = 8, 3  # rounds: of the claim, and of the others; processes differ, so one is not enough


TEACHER: Steps = (("finetune", {"minutes": 8.0}),)
CONSISTENCY: dict[str, Scalar] = {
    "minutes": 50.0,
    "probe_minutes": 5.0,
    "examples": 24_000,
    "window": 16,
    "learning_rate": 3e-4,
}
CLLM: Steps = (*TEACHER, ("consistency", CONSISTENCY))
AWAY = Evaluation(eval="dialogue", label="Dialogue", metric="recalled", settings={"n": 20}, generates=True)


def _way(
    id: str,
    label: str,
    strategy: str = "autoregressive",
    *,
    of: str = "",
    recipe: str = "",
    backend: str = "pytorch",
    rounds: int = SOME,
    drafts: str = "",
    fused: bool = False,
    dtype: str = "bf16",
    **params: Scalar,
) -> Configuration:
    """A configuration; dtype: of PyTorch's weights, the others have their file's.

    of: the configuration that decodes the same model autoregressively, if not itself. recipe: of the model, if not
    named so.
    fused: with PyTorch's fused step, against a configuration that has it too.
    """
    return Configuration(
        id=f"{id}-fused" if fused else id,
        label=f"{label}, fused step" if fused else label,
        recipe=recipe or of or id,
        backend=backend,
        own=f"{of or id}-fused" if fused else of or id,
        rounds=rounds,
        strategy=strategy,
        drafts=drafts,
        params=params,
        dtype=dtype if backend == "pytorch" else None,
        options={"fused": fused} if backend == "pytorch" else {},
    )


def _jacobi(label: str, of: str, id: str = "", window: int = 16, **more: Any) -> Configuration:
    """The model of `of`, which was trained for it, with Jacobi decoding."""
    return _way(id or f"{of}-jacobi", label, "jacobi", of=of, window=window, fill="end", **more)


def _question(domain: str) -> str:
    """One that no round asks."""
    return load(domain, "test", 1, 1000)[0].prompt


def _quantized(id: str, label: str, windows: tuple[int, ...]) -> tuple[Configuration, ...]:
    """A model in llama.cpp, autoregressive and with Jacobi decoding."""
    return (
        _way(id, f"{label}, autoregressive", backend="llama_cpp"),
        *(_jacobi(f"{label}, Jacobi, window {n}", id, f"{id}-jacobi-{n}", n, backend="llama_cpp") for n in windows),
    )


_UNTRAINED = (
    _way("teacher", "Teacher, autoregressive", rounds=ALL),
    _way("teacher-jacobi", "Teacher, Jacobi", "jacobi", of="teacher", window=16),
    _way("teacher-lookahead", "Teacher, lookahead", "lookahead", of="teacher"),
    _way("teacher-lookup", "Teacher, prompt lookup", "prompt_lookup", of="teacher"),
)
_CLLM = (
    _way("cllm", "CLLM, autoregressive"),
    _jacobi("CLLM, Jacobi", "cllm", rounds=ALL),
    _jacobi("CLLM, Jacobi with a pool", "cllm", "cllm-jacobi-pool", pool=4),
    _jacobi("CLLM, Jacobi, guessing from the prompt on", "cllm", "cllm-jacobi-early", early=True),
)
_FUSED = (
    _way("teacher", "Teacher, autoregressive", fused=True),
    _way("cllm", "CLLM, autoregressive", fused=True),
    _jacobi("CLLM, Jacobi", "cllm", rounds=ALL, fused=True),
    _jacobi("CLLM, Jacobi, guessing from the prompt on", "cllm", "cllm-jacobi-early", early=True, fused=True),
)
_ORT = (
    _way("ort", "CLLM fp32, autoregressive", recipe="cllm", backend="onnxruntime"),
    _jacobi("CLLM fp32, Jacobi, window 8", "ort", recipe="cllm", backend="onnxruntime", window=8),
)
_RECIPES = (
    Recipe(id="teacher", label="Teacher", backend="pytorch", steps=TEACHER),
    Recipe(id="cllm", label="CLLM", backend="pytorch", steps=CLLM),
    Recipe(
        id="medusa",
        label="Teacher with Medusa heads",
        backend="pytorch",
        steps=(*TEACHER, ("medusa_heads", {"questions": 1000, "epochs": 4})),
    ),
    Recipe(
        id="exits",
        label="Teacher with exit heads",
        backend="pytorch",
        steps=(*TEACHER, ("exit_heads", {"questions": 400, "minutes": 3.0})),
    ),
    Recipe(
        id="draft",
        label="The teacher's first blocks, tuned",
        backend="pytorch",
        steps=(*TEACHER, ("drop_layers", {"keep_first": 4}), ("finetune", {"minutes": 4.0})),
    ),
    *(
        Recipe(
            id=f"{id}-{type.lower()}",
            label=f"{label} {type}",
            backend="llama_cpp",
            steps=(*steps, ("gguf_quantize", {"type": type})),
        )
        for id, label, steps, type in (
            ("teacher", "Teacher", TEACHER, "Q4_1"),
            ("teacher", "Teacher", TEACHER, "Q8_0"),
            ("cllm", "CLLM", CLLM, "Q4_1"),
            ("cllm", "CLLM", CLLM, "Q8_0"),
            ("cllm", "CLLM", CLLM, "BF16"),
        )
    ),
)


def decoding(model: str = "smollm2-135m") -> Benchmark:
    """The plan for a model that PyTorch trains and every engine runs."""
    return Benchmark(
        name=name_for("decoding", model),
        title=f"Many tokens per forward: {model} on text to SQL",
        model=model,
        recipes=tuple(r for r in _RECIPES if r.id != "teacher-q8_0"),  # which only the claim needs
        configurations=(
            *_UNTRAINED,
            _way("draft", "Draft model alone, autoregressive"),
            _way("drafted", "Teacher, speculative with the draft model", "speculative", of="teacher", drafts="draft"),
            _way("self", "Teacher, self-speculative with exit heads", "self_speculative", of="teacher", recipe="exits"),
            _way("medusa", "Teacher, Medusa heads", "medusa", of="teacher", recipe="medusa"),
            *_CLLM,
            _jacobi("CLLM, Jacobi, window 8", "cllm", "cllm-jacobi-8", window=8),
            *_FUSED,
            _way("teacher-q4_1", "Teacher Q4_1, autoregressive", backend="llama_cpp"),
            *(
                way
                for type, windows in (("Q4_1", (4, 16)), ("Q8_0", (4,)), ("BF16", (8,)))
                for way in _quantized(f"cllm-{type.lower()}", f"CLLM {type}", windows)
            ),
            *_ORT,
        ),
        baseline="teacher",
        candidate="cllm-jacobi",
        question=_question("sql"),
        away=AWAY,
    )


def claim(model: str = "smollm2-135m") -> Benchmark:
    """What consistency training buys over the teacher, over the library's own loop, and over the fastest engine.

    In the fastest form that keeps the answers: a fused step, low-bit weights, guesses from the prompt on.
    """
    early = "guessing from the prompt on"
    return Benchmark(
        name=name_for("consistency", model),
        title=f"What consistency training buys: {model} on text to SQL",
        model=model,
        recipes=tuple(r for r in _RECIPES if r.id in ("teacher", "cllm", "teacher-q8_0", "cllm-q8_0", "cllm-bf16")),
        configurations=(
            _way("teacher", "Teacher, autoregressive", rounds=ALL),
            _way("teacher-generate", "Teacher, transformers' own generate", "native", of="teacher"),
            _way("cllm", "CLLM, autoregressive"),
            _jacobi("CLLM, Jacobi", "cllm"),
            _jacobi(f"CLLM, Jacobi, {early}", "cllm", "cllm-jacobi-early", rounds=ALL, early=True),
            _way("teacher", "Teacher, autoregressive", fused=True),
            _way("cllm", "CLLM, autoregressive", fused=True),
            _jacobi("CLLM, Jacobi", "cllm", fused=True),
            _jacobi(f"CLLM, Jacobi, {early}", "cllm", "cllm-jacobi-early", rounds=ALL, early=True, fused=True),
            _way("cllm-int8", "CLLM q8_0, autoregressive", recipe="cllm", fused=True, dtype="q8_0"),
            _jacobi(
                f"CLLM q8_0, Jacobi, {early}",
                "cllm-int8",
                recipe="cllm",
                rounds=ALL,
                early=True,
                fused=True,
                dtype="q8_0",
            ),
            _way("teacher-q8_0", "Teacher Q8_0, autoregressive", backend="llama_cpp"),
            *_quantized("cllm-q8_0", "CLLM Q8_0", (4,)),
            *_quantized("cllm-bf16", "CLLM BF16", (8,)),
            *_ORT,
        ),
        baseline="teacher",
        candidate="cllm-jacobi-early",
        quality=Quality(baseline="teacher-fused", candidate="cllm-jacobi-early-fused", questions=2000),
        question=_question("sql"),
        away=AWAY,
    )


def easy(model: str = "smollm2-135m") -> Benchmark:
    """The same claim where it is easy to make: seven kinds of question, with fixed sentences around each query."""
    teacher: Steps = (("finetune", {"domain": "sql_easy", "minutes": 2.5}),)
    consistency: dict[str, Scalar] = {
        "domain": "sql_easy",
        "minutes": 10.0,
        "examples": 8_000,
        "window": 16,
        "learning_rate": 3e-4,
    }
    return Benchmark(
        name=name_for("decoding-easy", model),
        title=f"Many tokens per forward, the easy setting: {model} on fixed sentences around simple queries",
        model=model,
        recipes=(
            Recipe(id="teacher", label="Teacher", backend="pytorch", steps=teacher),
            Recipe(id="cllm", label="CLLM", backend="pytorch", steps=(*teacher, ("consistency", consistency))),
        ),
        configurations=(_UNTRAINED[0], *_CLLM, *_FUSED),
        baseline="teacher",
        candidate="cllm-jacobi",
        question=_question("sql_easy"),
        settings={"easy": True},
    )
