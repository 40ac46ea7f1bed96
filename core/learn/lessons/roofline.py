"""The roofline: whether memory or arithmetic is the limit, and how fast decode can be."""

from __future__ import annotations

from core.analysis.roofline import predicted_phase, roofs_of
from core.charts.chart import Chart
from core.charts.roofline import roofline
from core.learn.lesson import Beside, Choice, Control, Lesson, Mistake, Number, Option, Scene, Step, Told
from core.learn.lessons._common import bytes_per_token, forward, one_answer, si

INTENSITIES = tuple(2.0**n for n in range(-2, 12))


def ridge(scene: Scene) -> float:
    return scene.ceiling().ridge


def most_tok_per_s(scene: Scene) -> float:
    """Tokens per second that reading the weights in bf16 allows."""
    return scene.device.mem_bandwidth_bytes_per_s / bytes_per_token(scene)


def chart(scene: Scene) -> Chart:
    ceiling = scene.ceiling()
    point = predicted_phase("decode", scene.at, 1.0, ceiling.ideal_s(scene.at, 1.0), ceiling)
    main = next(d for d, peak in scene.device.peak_flop_per_s.items() if peak == ceiling.flop_per_s)
    roofs = [r for r in roofs_of(scene.device, main) if r.main]
    return roofline(roofs, [point], "bound", height=420, pick=False)


def seen(scene: Scene) -> str:
    ceiling = scene.ceiling()
    decode = forward(scene, n_past=0)
    side = "left" if scene.at < ceiling.ridge else "right"
    return (
        f"{scene.device.name} reads {si(ceiling.bytes_per_s, 'B/s')} and computes "
        f"{si(ceiling.flop_per_s, 'FLOP/s')}, so "
        f"the ridge is at {ceiling.ridge:.3g} FLOP per byte. Your point at {scene.at:g} lies {side} of it. "
        "Decoding one "
        f"token has {decode.flops / decode.bytes:.2g} FLOP per byte in bf16, far to the left: there the time is bytes "
        "over bandwidth, whatever the FLOP/s are."
    )


def measured(told: Told, scene: Scene) -> Beside | None:
    result = told.result
    phase = next((p for p in result.phases if p.name == "decode"), None)
    if result.tok_per_s is None or phase is None or not phase.bytes:
        return None
    limit = scene.device.mem_bandwidth_bytes_per_s / (phase.bytes / max(1, phase.n_forward))
    return Beside(
        "Decoded tokens per second",
        result.tok_per_s,
        limit * result.batch,
        "tok/s",
        "Computed is bandwidth over the bytes of one forward pass of that run: no run can be faster.",
    )


lesson = Lesson(
    order=2,
    title="The roofline",
    minutes=6,
    about="Is it memory or arithmetic that limits the speed?",
    control=Control("Arithmetic intensity", INTENSITIES, 1.0, "FLOP per byte"),
    chart=chart,
    steps=(
        Step(
            "predict",
            "Twice the arithmetic",
            "A new processor does twice the FLOP/s at the same memory bandwidth.",
            Choice(
                "How much faster does it decode for one user?",
                (
                    Option(
                        "Twice as fast",
                        "FLOP/s do not decide decode: it waits for the weights, and these come no faster.",
                    ),
                    Option("Hardly faster", "Yes: at one token per forward pass memory is the limit."),
                    Option(
                        "Faster by the square root of two",
                        "There is no mean of the two limits: the slower one decides alone.",
                    ),
                ),
                1,
            ),
        ),
        Step(
            "move",
            "Move the point",
            "Raise the FLOP per byte. Up to the ridge the speed grows with it; beyond, it stays.",
            takeaway="Attainable FLOP/s are the smaller of the peak and bandwidth times intensity.",
        ),
        Step(
            "see",
            "Left and right of the ridge",
            seen,
            takeaway="Left of the ridge memory limits, right of it arithmetic.",
        ),
        Step(
            "check",
            "The ridge",
            check=Number(
                lambda s: (
                    f"{s.device.name}: {si(s.ceiling().flop_per_s, 'FLOP/s')} and "
                    f"{si(s.ceiling().bytes_per_s, 'B/s')}. "
                    "Where is its ridge?"
                ),
                "FLOP per byte",
                ridge,
                (
                    Mistake(lambda s: 1 / ridge(s), "Turned round: FLOP/s over bytes per second, not the other way."),
                    Mistake(
                        lambda s: s.ceiling().bytes_per_s / 1e9,
                        "That is the bandwidth alone. The ridge is where both limits meet: divide one by the other.",
                    ),
                    Mistake(
                        lambda s: ridge(s) / 2,
                        "You divided by two bytes per weight. The ridge belongs to the machine, not to a format.",
                    ),
                ),
                lambda s: (
                    f"{si(s.ceiling().flop_per_s, 'FLOP/s')} / {si(s.ceiling().bytes_per_s, 'B/s')} = "
                    f"{ridge(s):.3g} FLOP "
                    "per byte."
                ),
            ),
            takeaway="The ridge is peak FLOP/s over bandwidth.",
        ),
        Step(
            "check",
            "The fastest decode",
            check=Number(
                lambda s: (
                    f"{s.device.name} reads {si(s.device.mem_bandwidth_bytes_per_s, 'B/s')}. At most how many tokens "
                    f"per second can {s.spec.name}, of {si(s.spec.n_params, '')} weights, decode there in bf16, for "
                    "one user?"
                ),
                "tok/s",
                most_tok_per_s,
                (
                    Mistake(
                        lambda s: s.ceiling().flop_per_s / forward(s).flops,
                        "FLOP/s over FLOPs per token: that is the other limit. Decode lies left of the ridge, so "
                        "divide the bandwidth by the bytes of a token.",
                    ),
                    Mistake(
                        lambda s: s.device.mem_bandwidth_bytes_per_s / s.spec.n_params,
                        "One byte per weight; bf16 has two.",
                    ),
                ),
                lambda s: (
                    f"{si(s.device.mem_bandwidth_bytes_per_s, 'B/s')} / {si(bytes_per_token(s), 'B')} = "
                    f"{most_tok_per_s(s):.3g} tok/s."
                ),
            ),
            takeaway="Decode can be no faster than bandwidth over bytes per token.",
        ),
        Step("do", "Run it", "Run the model and compare its speed with what the memory allows."),
    ),
    do=one_answer(measured),
)
