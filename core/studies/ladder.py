"""The compression ladder: one model, quantized, pruned, shortened and healed, over three backends.

Everything is compared with the model in 16 bits in llama.cpp. Perplexity and divergence are read against the model's
own weights in 32 bits in PyTorch, so that all backends have one reference.
"""

from __future__ import annotations

from core.studies.plan import Evaluation, Plan, Recipe, name_for
from core.studies.validate import Group
from core.types import Scalar

GGUF = ("F16", "Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q3_K_M", "Q2_K")


def ladder(model: str = "smollm2-135m") -> Plan:
    """The plan for a model that llama.cpp, ONNX Runtime and PyTorch all run."""
    return Plan(
        name=name_for("ladder", model),
        title=f"What compression really buys: {model}",
        model=model,
        baseline="gguf-f16",
        recipes=(*_llama_cpp(), *_onnxruntime(), *_pytorch(model)),
        evaluations=(
            Evaluation(eval="choice", label="Multiple choice", metric="acc", chance=0.25),
            Evaluation(eval="sentiment", label="Sentiment", metric="acc", chance=0.5),
            Evaluation(eval="qa", label="Question answering", metric="f1", generates=True),
            Evaluation(eval="perplexity", label="Perplexity", metric="perplexity", task=False),
            Evaluation(
                eval="divergence",
                label="KL divergence",
                metric="kl",
                settings={"reference": model, "reference_backend": "pytorch", "n": 12},
                task=False,
            ),
        ),
        groups=(
            Group(name="quantization ladder", ids=tuple(f"gguf-{kind.lower()}" for kind in GGUF), cost="equal"),
            Group(
                name="sparsity",
                ids=("torch-bf16", "torch-wanda30", "torch-wanda50", "torch-wanda70"),
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
    def quantized(name: str, label: str, method: str) -> Recipe:
        return Recipe(id=name, label=label, backend="onnxruntime", steps=(("onnx_quantize", {"method": method}),))

    return (
        Recipe(id="onnx-fp32", label="ONNX fp32", backend="onnxruntime", base=True),
        quantized("onnx-int8", "ONNX dynamic int8", "dynamic_int8"),
        quantized("onnx-w8", "ONNX 8-bit weights", "weights_8bit"),
        quantized("onnx-w4", "ONNX 4-bit weights", "weights_4bit"),
    )


def _pytorch(model: str) -> tuple[Recipe, ...]:
    """In bf16, which is twice as fast here as fp32 and as good, so that more can be evaluated in the time."""

    def made(name: str, label: str, *steps: tuple[str, dict[str, Scalar]], dtype: str | None = "bf16") -> Recipe:
        return Recipe(id=f"torch-{name}", label=label, backend="pytorch", steps=steps, dtype=dtype)

    drop: tuple[str, dict[str, Scalar]] = ("drop_layers", {"n": 4})
    heal: dict[str, Scalar] = {"teacher": model, "texts": 300, "length": 64, "minutes": 3.0, "probe_minutes": 1.5}
    return (
        made("fp32", "PyTorch fp32", dtype="fp32"),
        Recipe(id="torch-bf16", label="PyTorch bf16", backend="pytorch", dtype="bf16", base=True),
        made("int8-dynamic", "PyTorch dynamic int8", ("torch_quantize", {"method": "int8_dynamic"}), dtype=None),
        made("int8", "PyTorch int8 weights", ("torch_quantize", {"method": "int8"}), dtype=None),
        made("wanda30", "Wanda 30 %", ("prune", {"sparsity": 0.3})),
        made("wanda50", "Wanda 50 %", ("prune", {"sparsity": 0.5})),
        made("wanda70", "Wanda 70 %", ("prune", {"sparsity": 0.7})),
        made("2to4", "Wanda 2:4", ("prune", {"pattern": "2:4"})),
        made("drop4", "4 blocks dropped", drop),
        made("drop4-healed", "4 blocks dropped, healed", drop, ("distill", heal)),
    )
