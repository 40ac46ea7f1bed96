"""The decoding studies: a consistency model against its teacher and the rivals, in three engines.

The teacher is tuned to text-to-SQL; the consistency model is trained from it. Questions come from tables that neither
has seen. `decoding` holds every way to decode side by side. `names` goes on with its two models on tables of invented
names, which teaches them to copy a name instead of knowing it, and makes the claim of speed at equal quality. `easy`
makes it where it is easy to make.
"""

from __future__ import annotations

from core.studies.plan import Contender, Contest, Exam, Recipe
from core.types import Scalar

Steps = tuple[tuple[str, dict[str, Scalar]], ...]
ALL, SOME = 8, 1  # rounds


TEACHER: Steps = (("finetune", {"minutes": 8.0}),)
CONSISTENCY: dict[str, Scalar] = {
    "minutes": 50.0,
    "probe_minutes": 5.0,
    "examples": 24_000,
    "window": 16,
    "learning_rate": 3e-4,
}
CLLM: Steps = (*TEACHER, ("consistency", CONSISTENCY))
AWAY = Exam(eval="dialogue", label="Dialogue", metric="recalled", settings={"n": 20}, generates=True)


def decoding(model: str = "smollm2-135m") -> Contest:
    """The plan for a model that PyTorch trains and every engine runs."""
    return Contest(
        name=f"decoding-{model}",
        title=f"Many tokens per forward: {model} on text to SQL",
        model=model,
        recipes=(
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
            Recipe(
                id="teacher-q4",
                label="Teacher Q4_1",
                backend="llama_cpp",
                steps=(*TEACHER, ("gguf_quantize", {"type": "Q4_1"})),
            ),
            Recipe(
                id="cllm-q4",
                label="CLLM Q4_1",
                backend="llama_cpp",
                steps=(*CLLM, ("gguf_quantize", {"type": "Q4_1"})),
            ),
        ),
        contenders=(*_pytorch(), *_llama_cpp(), *_onnxruntime()),
        baseline="teacher",
        champion="cllm-jacobi",
        away=AWAY,
    )


def names(model: str = "smollm2-135m") -> Contest:
    """Teacher and consistency model go on with invented names; only what the claim needs takes part."""
    more: dict[str, Scalar] = {"domain": "sql_names", "minutes": 3.0}
    further: dict[str, Scalar] = {**CONSISTENCY, "domain": "sql_names", "minutes": 13.0, "learning_rate": 2e-4}
    cllm: Steps = (*CLLM, ("consistency", further))

    def way(id: str, label: str, own: str, strategy: str, rounds: int = SOME, **params: Scalar) -> Contender:
        recipe, backend = {"q8": ("cllm-q8", "llama_cpp"), "ort": ("cllm", "onnxruntime")}.get(own, (own, "pytorch"))
        dtype = "bf16" if backend == "pytorch" else None
        return Contender(
            id=id,
            label=label,
            recipe=recipe,
            backend=backend,
            dtype=dtype,
            own=own,
            rounds=rounds,
            strategy=strategy,
            params=params,
        )

    return Contest(
        name=f"decoding-names-{model}",
        title=f"Many tokens per forward at equal quality: {model} on text to SQL, trained on invented names too",
        model=model,
        recipes=(
            Recipe(id="teacher", label="Teacher", backend="pytorch", steps=(*TEACHER, ("finetune", more))),
            Recipe(id="cllm", label="CLLM", backend="pytorch", steps=cllm),
            Recipe(
                id="cllm-q8",
                label="CLLM Q8_0",
                backend="llama_cpp",
                steps=(*cllm, ("gguf_quantize", {"type": "Q8_0"})),
            ),
        ),
        contenders=(
            way("teacher", "Teacher, one by one", "teacher", "autoregressive", ALL),
            way("cllm", "CLLM, one by one", "cllm", "autoregressive"),
            way("cllm-jacobi", "CLLM, Jacobi", "cllm", "jacobi", ALL, window=16, fill="end"),
            way("cllm-jacobi-pool", "CLLM, Jacobi with a pool", "cllm", "jacobi", window=16, fill="end", pool=4),
            way(
                "cllm-jacobi-early",
                "CLLM, Jacobi, guessing from the prompt on",
                "cllm",
                "jacobi",
                window=16,
                fill="end",
                early=True,
            ),
            way("q8", "CLLM Q8_0, one by one", "q8", "autoregressive"),
            way("q8-jacobi", "CLLM Q8_0, Jacobi, window 4", "q8", "jacobi", window=4, fill="end"),
            way("ort", "CLLM fp32, one by one", "ort", "autoregressive"),
            way("ort-jacobi", "CLLM fp32, Jacobi, window 8", "ort", "jacobi", window=8, fill="end"),
        ),
        baseline="teacher",
        champion="cllm-jacobi",
        away=AWAY,
    )


def easy(model: str = "smollm2-135m") -> Contest:
    """The same claim where it is easy to make: seven kinds of question, with fixed sentences around each query."""
    teacher: Steps = (("finetune", {"domain": "sql_easy", "minutes": 2.5}),)
    consistency: dict[str, Scalar] = {
        "domain": "sql_easy",
        "minutes": 10.0,
        "examples": 8_000,
        "window": 16,
        "learning_rate": 3e-4,
    }

    def bf16(id: str, recipe: str, label: str, strategy: str, **params: Scalar) -> Contender:
        return Contender(
            id=id,
            label=label,
            recipe=recipe,
            backend="pytorch",
            dtype="bf16",
            own=recipe,
            rounds=3,
            strategy=strategy,
            params=params,
        )

    return Contest(
        name=f"decoding-easy-{model}",
        title=f"Many tokens per forward, the easy setting: {model} on fixed sentences around simple queries",
        model=model,
        recipes=(
            Recipe(id="teacher", label="Teacher", backend="pytorch", steps=teacher),
            Recipe(id="cllm", label="CLLM", backend="pytorch", steps=(*teacher, ("consistency", consistency))),
        ),
        contenders=(
            bf16("teacher", "teacher", "Teacher, one by one", "autoregressive"),
            bf16("cllm", "cllm", "CLLM, one by one", "autoregressive"),
            bf16("cllm-jacobi", "cllm", "CLLM, Jacobi", "jacobi", window=16, fill="end"),
        ),
        baseline="teacher",
        champion="cllm-jacobi",
        settings={"easy": True},
    )


def _pytorch() -> tuple[Contender, ...]:
    def bf16(
        id: str, label: str, recipe: str, strategy: str, rounds: int = SOME, drafts: str = "", **params: Scalar
    ) -> Contender:
        return Contender(
            id=id,
            label=label,
            recipe=recipe,
            backend="pytorch",
            dtype="bf16",
            own="cllm" if recipe == "cllm" else "teacher",
            rounds=rounds,
            strategy=strategy,
            drafts=drafts,
            params=params,
        )

    return (
        bf16("teacher", "Teacher, one by one", "teacher", "autoregressive", ALL),
        bf16("teacher-jacobi", "Teacher, Jacobi", "teacher", "jacobi", window=16),
        bf16("teacher-lookahead", "Teacher, lookahead", "teacher", "lookahead"),
        bf16("teacher-lookup", "Teacher, prompt lookup", "teacher", "prompt_lookup"),
        bf16("drafted", "Teacher, speculative with a draft model", "teacher", "speculative", drafts="draft"),
        bf16("self", "Teacher, self-speculative with exit heads", "exits", "self_speculative"),
        bf16("medusa", "Teacher, Medusa heads", "medusa", "medusa"),
        bf16("cllm", "CLLM, one by one", "cllm", "autoregressive"),
        bf16("cllm-jacobi", "CLLM, Jacobi", "cllm", "jacobi", ALL, window=16, fill="end"),
        bf16("cllm-jacobi-8", "CLLM, Jacobi, window 8", "cllm", "jacobi", window=8, fill="end"),
        bf16("cllm-jacobi-pool", "CLLM, Jacobi with a pool", "cllm", "jacobi", window=16, fill="end", pool=4),
        bf16(
            "cllm-jacobi-early",
            "CLLM, Jacobi, guessing from the prompt on",
            "cllm",
            "jacobi",
            ALL,
            window=16,
            fill="end",
            early=True,
        ),
    )


def _llama_cpp() -> tuple[Contender, ...]:
    def q4(id: str, label: str, recipe: str, own: str, strategy: str, **params: Scalar) -> Contender:
        return Contender(
            id=id,
            label=label,
            recipe=recipe,
            backend="llama_cpp",
            own=own,
            rounds=SOME,
            strategy=strategy,
            params=params,
        )

    return (
        q4("q4-teacher", "Teacher Q4_1, one by one", "teacher-q4", "q4-teacher", "autoregressive"),
        q4("q4-cllm", "CLLM Q4_1, one by one", "cllm-q4", "q4-cllm", "autoregressive"),
        q4(
            "q4-cllm-jacobi-4",
            "CLLM Q4_1, Jacobi, window 4",
            "cllm-q4",
            "q4-cllm",
            "jacobi",
            window=4,
            fill="end",
        ),
        q4(
            "q4-cllm-jacobi-16",
            "CLLM Q4_1, Jacobi, window 16",
            "cllm-q4",
            "q4-cllm",
            "jacobi",
            window=16,
            fill="end",
        ),
    )


def _onnxruntime() -> tuple[Contender, ...]:
    def fp32(id: str, label: str, strategy: str, **params: Scalar) -> Contender:
        return Contender(
            id=id,
            label=label,
            recipe="cllm",
            backend="onnxruntime",
            own="ort-cllm",
            rounds=SOME,
            strategy=strategy,
            params=params,
        )

    return (
        fp32("ort-cllm", "CLLM fp32, one by one", "autoregressive"),
        fp32("ort-cllm-jacobi", "CLLM fp32, Jacobi, window 8", "jacobi", window=8, fill="end"),
    )
