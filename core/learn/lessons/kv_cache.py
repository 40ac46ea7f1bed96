"""The KV cache: what it holds, how it grows, and when it outweighs the weights."""

from __future__ import annotations

from core.analysis.memory_seen import reported
from core.analysis.work import kv_bytes_per_token, kv_cache_bytes
from core.charts.chart import Chart
from core.charts.memory import growth
from core.learn.lesson import Beside, Choice, Control, Do, Lesson, Mistake, Number, Option, Own, Scene, Step, Told
from core.learn.lessons._common import RUN, generates, si, weight_bytes
from core.types import Attention

CONTEXTS = tuple(float(2**n) for n in range(7, 18))


def attention(scene: Scene) -> Attention:
    """The first attention layer; every model of the lessons has one."""
    return next(layer.op for layer in scene.spec.layers if isinstance(layer.op, Attention))


def per_token(scene: Scene) -> float:
    return kv_bytes_per_token(scene.spec)


def shared(scene: Scene) -> float:
    """Query heads per head of keys and values."""
    return attention(scene).n_heads / attention(scene).n_kv_heads


def as_large_as_the_weights(scene: Scene) -> float:
    return weight_bytes(scene) / per_token(scene)


def chart(scene: Scene) -> Chart:
    rows = [(n, {"weights": weight_bytes(scene), "KV cache": kv_cache_bytes(scene.spec, int(n))}) for n in CONTEXTS]
    return growth(rows, "Tokens of context", scene.at)


def seen(scene: Scene) -> str:
    op = attention(scene)
    cache = kv_cache_bytes(scene.spec, int(scene.at))
    return (
        f"Each of {scene.spec.n_blocks} blocks keeps a key and a value of {op.n_kv_heads} heads of {op.qk_dim} "
        "numbers: "
        f"{si(per_token(scene), 'B')} per token in fp16. {scene.at:,.0f} tokens are {si(cache, 'B')}. The cache "
        "is read "
        f"for every token, like the weights; it is as large as these in bf16 at {as_large_as_the_weights(scene):,.0f} "
        "tokens, and every sequence of a batch has its own."
    )


def measured(told: Told, scene: Scene) -> Beside | None:
    result = told.result
    setup = result.setup
    held = reported(setup).get("KV cache") if setup else None
    if setup is None or held is None or setup.n_context is None:
        return None
    return Beside(
        f"KV cache for {setup.n_context:,} tokens",
        float(held),
        kv_cache_bytes(scene.spec, setup.n_context, result.batch, setup.kv_dtype, windowed=False),
        "B",
        "Measured is what the library says it reserved for its whole context.",
    )


lesson = Lesson(
    order=4,
    title="The KV cache",
    minutes=6,
    about="What does a longer conversation cost in memory?",
    control=Control("Tokens of context", CONTEXTS, 2048.0, "tokens"),
    chart=chart,
    steps=(
        Step(
            "predict",
            "Fewer heads of keys and values",
            "Grouped-query attention lets several query heads share one head of keys and values.",
            Choice(
                "What becomes smaller by it?",
                (
                    Option(
                        "The number of tokens that the model can see",
                        "It sees as many as before; it stores less for each.",
                    ),
                    Option("The cache, by how many heads share one", "Yes: only the shared heads are stored."),
                    Option("The cache, by the number of query heads", "Only if all of them shared a single head."),
                    Option("Nothing: keys and values are recomputed", "Recomputing them is what the cache avoids."),
                ),
                1,
            ),
        ),
        Step(
            "move",
            "Lengthen the context",
            "Move the context and watch when the cache is as large as the weights.",
            takeaway="The KV cache grows with every token; the weights do not.",
        ),
        Step(
            "see",
            "Two numbers per head, block and token",
            seen,
            takeaway="Cache per token: 2 × blocks × KV heads × head size × bytes.",
        ),
        Step(
            "check",
            "Per token",
            check=Number(
                lambda s: (
                    f"{s.spec.name}: {s.spec.n_blocks} blocks, {attention(s).n_heads} query heads, "
                    f"{attention(s).n_kv_heads} heads of keys and values of {attention(s).qk_dim} numbers. How "
                    "many bytes "
                    "does one token add to the cache in fp16?"
                ),
                "bytes",
                per_token,
                (
                    Mistake(lambda s: per_token(s) / 2, "You counted keys or values. Both are kept."),
                    Mistake(
                        lambda s: per_token(s) / s.spec.n_blocks, "That is one block. Each has a cache of its own."
                    ),
                    Mistake(
                        lambda s: per_token(s) * shared(s),
                        "You counted the query heads. Only heads of keys and values are kept.",
                    ),
                ),
                lambda s: (
                    f"2 × {s.spec.n_blocks} × {attention(s).n_kv_heads} × {attention(s).qk_dim} × 2 B = "
                    f"{per_token(s):,.0f} B."
                ),
            ),
            takeaway="Both keys and values are kept, in every block.",
        ),
        Step(
            "check",
            "As large as the weights",
            check=Number(
                lambda s: (
                    f"{s.spec.name} has {si(s.spec.n_params, '')} weights and keeps {si(per_token(s), 'B')} per token "
                    "in fp16. At how many tokens is the cache as large as the weights in bf16?"
                ),
                "tokens",
                as_large_as_the_weights,
                (
                    Mistake(
                        lambda s: as_large_as_the_weights(s) / shared(s),
                        "That would be so without shared heads.",
                    ),
                    Mistake(
                        lambda s: as_large_as_the_weights(s) / 2,
                        "You took one byte per weight. bf16 has two, like the cache's fp16.",
                    ),
                    Mistake(
                        lambda s: float(s.spec.max_context or 0),
                        "That is the longest context of the model. Divide the weights by the bytes per token.",
                    ),
                ),
                lambda s: (
                    f"{si(weight_bytes(s), 'B')} / {si(per_token(s), 'B')} = {as_large_as_the_weights(s):,.0f} tokens."
                ),
            ),
            takeaway="The cache is not small: a long conversation can outweigh the model.",
        ),
        Step("do", "Run it", "Run the model in llama.cpp, which says how much it reserved for its cache."),
    ),
    do=Do(
        "Run one answer",
        RUN,
        lambda s: {"backend": "llama_cpp"},
        Own(lambda request: generates(request) and request.backend == "llama_cpp", measured),
        here=True,
    ),
)
