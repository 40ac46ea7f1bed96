"""The decoding study: a consistency model against its teacher and the rivals, in three engines.

The teacher is tuned to text-to-SQL; the consistency model is trained from it. Questions come from tables that neither
has seen.
"""

from __future__ import annotations

from core.studies.plan import Contender, Contest, Exam, Recipe
from core.types import Scalar

Steps = tuple[tuple[str, dict[str, Scalar]], ...]
ALL, SOME = 8, 1  # rounds


def decoding(model: str = "smollm2-135m") -> Contest:
    """The plan for a model that PyTorch trains and every engine runs."""
    teacher: Steps = (("finetune", {"minutes": 8.0}),)
    consistency: dict[str, Scalar] = {
        "minutes": 50.0,
        "probe_minutes": 5.0,
        "examples": 24_000,
        "window": 16,
        "learning_rate": 3e-4,
    }
    trained: Steps = (*teacher, ("consistency", consistency))
    more: dict[str, Scalar] = {"domain": "sql_names", "minutes": 3.0}
    further: dict[str, Scalar] = {**consistency, **more, "minutes": 13.0, "learning_rate": 2e-4}
    named: Steps = (*trained, ("consistency", further))
    return Contest(
        name=f"decoding-{model}",
        title=f"Many tokens per forward: {model} on text to SQL",
        model=model,
        recipes=(
            Recipe(id="teacher", label="Teacher", backend="pytorch", steps=teacher),
            Recipe(id="cllm", label="CLLM", backend="pytorch", steps=trained),
            Recipe(
                id="teacher-names",
                label="Teacher, on invented names too",
                backend="pytorch",
                steps=(*teacher, ("finetune", more)),
            ),
            Recipe(id="cllm-names", label="CLLM, on invented names too", backend="pytorch", steps=named),
            Recipe(
                id="medusa",
                label="Teacher with Medusa heads",
                backend="pytorch",
                steps=(*teacher, ("medusa_heads", {"questions": 1000, "epochs": 4})),
            ),
            Recipe(
                id="exits",
                label="Teacher with exit heads",
                backend="pytorch",
                steps=(*teacher, ("exit_heads", {"questions": 400, "minutes": 3.0})),
            ),
            Recipe(
                id="draft",
                label="The teacher's first blocks, tuned",
                backend="pytorch",
                steps=(*teacher, ("drop_layers", {"keep_first": 4}), ("finetune", {"minutes": 4.0})),
            ),
            Recipe(
                id="teacher-q4",
                label="Teacher Q4_1",
                backend="llama_cpp",
                steps=(*teacher, ("gguf_quantize", {"type": "Q4_1"})),
            ),
            Recipe(
                id="cllm-q4",
                label="CLLM Q4_1",
                backend="llama_cpp",
                steps=(*trained, ("gguf_quantize", {"type": "Q4_1"})),
            ),
            Recipe(
                id="cllm-names-q8",
                label="CLLM+names Q8_0",
                backend="llama_cpp",
                steps=(*named, ("gguf_quantize", {"type": "Q8_0"})),
            ),
        ),
        contenders=(*_pytorch(), *_llama_cpp(), *_onnxruntime()),
        baseline="teacher-names",
        champion="cllm-names-jacobi",
        away=Exam(eval="dialogue", label="Dialogue", metric="recalled", settings={"n": 20}, generates=True),
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
            own=recipe if recipe in ("cllm", "teacher-names", "cllm-names") else "teacher",
            rounds=rounds,
            strategy=strategy,
            drafts=drafts,
            params=params,
        )

    return (
        bf16("teacher-names", "Teacher+names, one by one", "teacher-names", "autoregressive", ALL),
        bf16("cllm-names", "CLLM+names, one by one", "cllm-names", "autoregressive"),
        bf16("cllm-names-jacobi", "CLLM+names, Jacobi", "cllm-names", "jacobi", ALL, window=16, fill="end"),
        bf16(
            "cllm-names-early",
            "CLLM+names, Jacobi, guessing from the prompt on",
            "cllm-names",
            "jacobi",
            window=16,
            fill="end",
            early=True,
        ),
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
    def gguf(id: str, label: str, recipe: str, own: str, strategy: str, **params: Scalar) -> Contender:
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
        gguf("q4-teacher", "Teacher Q4_1, one by one", "teacher-q4", "q4-teacher", "autoregressive"),
        gguf("q4-cllm", "CLLM Q4_1, one by one", "cllm-q4", "q4-cllm", "autoregressive"),
        gguf(
            "q4-cllm-jacobi-4",
            "CLLM Q4_1, Jacobi, window 4",
            "cllm-q4",
            "q4-cllm",
            "jacobi",
            window=4,
            fill="end",
        ),
        gguf(
            "q4-cllm-jacobi-16",
            "CLLM Q4_1, Jacobi, window 16",
            "cllm-q4",
            "q4-cllm",
            "jacobi",
            window=16,
            fill="end",
        ),
        gguf("q8-cllm-names", "CLLM+names Q8_0, one by one", "cllm-names-q8", "q8-cllm-names", "autoregressive"),
        gguf(
            "q8-cllm-names-jacobi",
            "CLLM+names Q8_0, Jacobi, window 4",
            "cllm-names-q8",
            "q8-cllm-names",
            "jacobi",
            window=4,
            fill="end",
        ),
    )


def _onnxruntime() -> tuple[Contender, ...]:
    def fp32(id: str, label: str, strategy: str, **params: Scalar) -> Contender:
        return Contender(
            id=id,
            label=label,
            recipe="cllm-names",
            backend="onnxruntime",
            own="ort-cllm-names",
            rounds=SOME,
            strategy=strategy,
            params=params,
        )

    return (
        fp32("ort-cllm-names", "CLLM+names fp32, one by one", "autoregressive"),
        fp32("ort-cllm-names-jacobi", "CLLM+names fp32, Jacobi, window 8", "jacobi", window=8, fill="end"),
    )
