"""The compression ladder: one model, quantized, pruned, shortened and healed, over three backends.

Everything is compared with the model in 16 bits in llama.cpp. Perplexity and divergence are read against the model's
own weights in 32 bits in PyTorch, so that all backends have one reference.
"""

from __future__ import annotations

from core.analysis.validate import Group
from core.studies.plan import Exam, Plan, Recipe
from core.types import Scalar

GGUF = ("F16", "Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q3_K_M", "Q2_K")


def ladder(model: str = "smollm2-135m") -> Plan:
    """The plan for a model that llama.cpp, ONNX Runtime and PyTorch all run."""
    return Plan(
        name=f"ladder-{model}",
        title=f"What compression really buys: {model}",
        model=model,
        baseline="gguf-f16",
        recipes=(*_llama_cpp(), *_onnxruntime(), *_pytorch()),
        exams=(
            Exam(eval="choice", label="Multiple choice", metric="acc", chance=0.25),
            Exam(eval="sentiment", label="Sentiment", metric="acc", chance=0.5),
            Exam(eval="qa", label="Question answering", metric="f1", generates=True),
            Exam(eval="perplexity", label="Perplexity", metric="perplexity", task=False),
            Exam(
                eval="divergence",
                label="KL divergence",
                metric="kl",
                settings={"reference": model, "reference_backend": "pytorch"},
                task=False,
            ),
        ),
        groups=(
            Group(name="quantization ladder", ids=tuple(f"gguf-{kind.lower()}" for kind in GGUF), cost="equal"),
            Group(
                name="sparsity",
                ids=("torch-fp32", "torch-wanda30", "torch-wanda50", "torch-wanda70"),
                cost="actual",
            ),
        ),
    )


def _llama_cpp() -> tuple[Recipe, ...]:
    made = [
        Recipe(
            id=f"gguf-{kind.lower()}",
            label=f"GGUF {kind}",
            backend="llama_cpp",
            steps=(("gguf_quantize", {"type": kind}),),
            base=kind == "F16",
        )
        for kind in GGUF
    ]
    return (*made, Recipe(id="gguf-shipped", label="GGUF as shipped", backend="llama_cpp"))


def _onnxruntime() -> tuple[Recipe, ...]:
    return (
        Recipe(id="onnx-fp32", label="ONNX fp32", backend="onnxruntime", base=True),
        Recipe(
            id="onnx-int8",
            label="ONNX dynamic int8",
            backend="onnxruntime",
            steps=(("onnx_quantize", {"method": "dynamic_int8"}),),
        ),
        Recipe(
            id="onnx-q8",
            label="ONNX MatMulNBits 8",
            backend="onnxruntime",
            steps=(("onnx_quantize", {"method": "matmul_8bit"}),),
        ),
        Recipe(
            id="onnx-q4",
            label="ONNX MatMulNBits 4",
            backend="onnxruntime",
            steps=(("onnx_quantize", {"method": "matmul_4bit"}),),
        ),
    )


def _pytorch() -> tuple[Recipe, ...]:
    def pruned(name: str, label: str, **settings: str | float) -> Recipe:
        return Recipe(id=name, label=label, backend="pytorch", steps=(("prune", dict(settings)),), dtype="fp32")

    drop: tuple[str, dict[str, Scalar]] = ("drop_layers", {"n": 4})
    return (
        Recipe(id="torch-fp32", label="PyTorch fp32", backend="pytorch", dtype="fp32", base=True),
        Recipe(id="torch-bf16", label="PyTorch bf16", backend="pytorch", dtype="bf16"),
        Recipe(
            id="torch-int8",
            label="PyTorch int8 weights",
            backend="pytorch",
            steps=(("torch_quantize", {"method": "int8"}),),
        ),
        pruned("torch-wanda30", "Wanda 30 %", sparsity=0.3),
        pruned("torch-wanda50", "Wanda 50 %", sparsity=0.5),
        pruned("torch-wanda70", "Wanda 70 %", sparsity=0.7),
        pruned("torch-2to4", "Wanda 2:4", pattern="2:4"),
        Recipe(id="torch-drop4", label="4 blocks dropped", backend="pytorch", steps=(drop,), dtype="fp32"),
        Recipe(
            id="torch-drop4-healed",
            label="4 blocks dropped, healed",
            backend="pytorch",
            steps=(drop, ("distill", {"minutes": 4.0})),
            dtype="fp32",
        ),
    )
