"""Batching: more users per read of the weights, and what each of them pays."""

from __future__ import annotations

from core.charts.chart import Chart
from core.charts.lesson import lines
from core.learn.lesson import Beside, Choice, Control, Do, Lesson, Mistake, Number, Option, Own, Scene, Step, Told
from core.learn.lessons._common import CONTEXT, RUN, forward, generates, ideal_s, si

BATCHES = tuple(float(2**n) for n in range(0, 11))


def step_s(scene: Scene, batch: float) -> float:
    """Seconds that the roof allows for a token of every sequence."""
    return ideal_s(forward(scene, n_past=CONTEXT, batch=int(batch)), scene.ceiling())


def in_all(scene: Scene, batch: float) -> float:
    return batch / step_s(scene, batch)


def knee(scene: Scene) -> float:
    """Sequences at which arithmetic on the bf16 weights takes as long as reading them; caches left out."""
    one = forward(scene)
    return scene.ceiling().ridge / (one.flops / one.weight_bytes)


def chart(scene: Scene) -> Chart:
    return lines(
        {
            "all users together": [(b, in_all(scene, b)) for b in BATCHES],
            "each user": [(b, 1 / step_s(scene, b)) for b in BATCHES],
        },
        "Sequences in the batch",
        "Tokens per second, by the roof",
        scene.at,
        unit="tok/s",
    )


def seen(scene: Scene) -> str:
    b = scene.at
    return (
        f"At {b:g} sequences a step takes {si(step_s(scene, b), 's')}, alone {si(step_s(scene, 1), 's')}: all together "
        f"{in_all(scene, b):,.0f} tok/s, each {1 / step_s(scene, b):,.0f}. The weights are read once for all, so the "
        "first sequences are nearly free; but each brings a cache of its own to read, and from about "
        f"{knee(scene):.3g} sequences on arithmetic is the limit."
    )


def measured(told: Told, scene: Scene) -> Beside | None:
    result = told.result
    if result.tok_per_s is None:
        return None
    one = forward(scene, n_past=CONTEXT, batch=result.batch, dtype=None)
    return Beside(
        f"Tokens per second in all, batch of {result.batch}",
        result.tok_per_s,
        result.batch / ideal_s(one, scene.ceiling("fp32")),
        "tok/s",
        "Computed is the roof for the weights as the file stores them. Run batches of 1, 4 and 16 and compare.",
    )


lesson = Lesson(
    order=5,
    title="Batching",
    minutes=6,
    about="How do many users fit on one machine?",
    control=Control("Sequences in the batch", BATCHES, 8.0, "sequences"),
    chart=chart,
    steps=(
        Step(
            "predict",
            "Eight at once",
            "Eight users ask at the same time and their tokens go through the network together.",
            Choice(
                "How long does a step take, compared with one user?",
                (
                    Option(
                        "Eight times as long", "Only if arithmetic were the limit. The weights are read once for all."
                    ),
                    Option("Hardly longer", "Yes, left of the ridge: one read of the weights serves all eight."),
                    Option(
                        "Exactly as long, up to a full memory",
                        "A batch is not free until memory is full: each sequence has a cache to read, and the FLOPs "
                        "add up.",
                    ),
                ),
                1,
            ),
        ),
        Step(
            "move",
            "Fill the batch",
            "Add sequences. Watch all users together, and each of them.",
            takeaway="A batch shares the reads of the weights, not those of the caches.",
        ),
        Step(
            "see",
            "The knee",
            seen,
            takeaway="Throughput rises until arithmetic or the caches are the limit; each user only waits longer.",
        ),
        Step(
            "check",
            "Where the weights stop being the limit",
            check=Number(
                lambda s: (
                    f"Caches left out, weights in bf16, ridge {s.ceiling().ridge:.3g} FLOP per byte: at how many "
                    "sequences "
                    "does arithmetic take as long as reading the weights?"
                ),
                "sequences",
                knee,
                (
                    Mistake(lambda s: 2 * knee(s), "A weight does two FLOPs for each sequence. You counted one."),
                    Mistake(lambda s: knee(s) / 2, "In bf16 a weight has two bytes. You counted one."),
                    Mistake(lambda s: 1.0, "One sequence has about one FLOP per byte, far left of the ridge."),
                ),
                lambda s: (
                    f"b sequences do 2 b FLOPs per weight of 2 bytes, so b FLOP per byte: {knee(s):.3g} sequences."
                ),
            ),
            takeaway="In bf16 the knee of a batch is at as many sequences as the ridge has FLOP per byte.",
        ),
        Step("do", "Run it", "Run a batch in PyTorch and compare all users together with the roof."),
    ),
    do=Do(
        "Run a batch of four",
        RUN,
        lambda s: {"backend": "pytorch", "batch": "4", "strategy": "autoregressive"},
        Own(lambda request: generates(request, "autoregressive") and request.batch > 1, measured),
        here=True,
    ),
)
