"""Jacobi decoding by hand: a recorded trace, step by step."""

from __future__ import annotations

from collections.abc import Sequence

from core.analysis.decoding import Acceptance, acceptance, expected_tokens_per_forward
from core.charts.chart import Chart
from core.charts.decoding import accepted_bars
from core.learn.lesson import (
    Beside,
    Choice,
    Control,
    Do,
    Lesson,
    Mistake,
    Number,
    Option,
    Own,
    Recorded,
    Scene,
    Step,
    Told,
)
from core.learn.lessons._common import generates
from core.learn.trace import WINDOW, trace
from core.types import Step as Taken

STEPS = tuple(float(n) for n in range(1, 1 + sum(s.phase == "decode" for s in trace())))

PARTS = (STEPS[-1], 24.0, 32.0, 40.0)  # forward passes that the question can be about


def so_far(scene: Scene) -> Acceptance:
    """Of the first steps of the trace, as many as the control says."""
    decode = [s for s in trace() if s.phase == "decode"]
    found = acceptance(decode[: int(scene.at)])
    assert found is not None
    return found


def part(scene: Scene) -> Acceptance:
    """The forward passes that the question is about: all of the trace, or its first ones."""
    return so_far(scene._replace(value=scene.draw("steps", PARTS)))


def chart(scene: Scene) -> Chart:
    return accepted_bars(so_far(scene).histogram)


def seen(scene: Scene) -> str:
    found = so_far(scene)
    return (
        f"After {found.n_forward} forward passes there are {found.n_tokens} tokens: {found.tokens_per_forward:.2f} per "
        f"forward pass. {found.fast_forwarded} were guessed right and came along for free; {found.stationary} of "
        "these had "
        f"been right already behind a wrong one, and had to wait for it. The window has {WINDOW} places, but only the "
        "part up to the first wrong guess counts."
    )


def own(told: Told, scene: Scene) -> Beside | None:
    guessed = [len(step.guess) for step in told.steps if step.phase == "decode"]
    return compare(told.steps, scene, max(guessed, default=0))


def compare(steps: Sequence[Taken], scene: Scene, guesses: int = WINDOW - 1) -> Beside | None:
    """guesses: of a window, beside the known token."""
    found = acceptance(steps)
    if found is None or found.rate is None or not guesses:
        return None
    return Beside(
        "Tokens per forward pass",
        found.tokens_per_forward,
        expected_tokens_per_forward(found.rate, guesses),
        "tokens",
        "Computed from the acceptance rate, as if guesses were right independently of each other.",
    )


lesson = Lesson(
    order=10,
    title="Jacobi decoding by hand",
    minutes=7,
    about="A window of guesses, corrected all at once: how many tokens does that give?",
    control=Control("Steps so far", STEPS, STEPS[len(STEPS) // 2], "steps"),
    chart=chart,
    stepper=True,
    drawn_from="Of a recorded answer of the embedded model.",
    drawn_is="measured",
    steps=(
        Step(
            "predict",
            f"A window of {WINDOW}",
            f"Each forward pass looks at {WINDOW} places at once and corrects them all. The model is an ordinary one.",
            Choice(
                "How many tokens does a forward pass give?",
                (
                    Option(
                        f"{WINDOW}",
                        "A window is not a harvest: only guesses that stand behind right ones are accepted.",
                    ),
                    Option(f"About half, {WINDOW // 2}", "An ordinary model rarely guesses several places ahead."),
                    Option("A little more than one", "Yes: an ordinary model corrects mainly the first wrong place."),
                    Option("Less than one", "Each forward pass gives at least the model's own next token."),
                ),
                2,
            ),
        ),
        Step(
            "move",
            "Step through it",
            "A real trace of the embedded model. Move on and watch what is accepted.",
            takeaway="Every forward pass gives at least one token, so it never takes more than autoregressively.",
        ),
        Step(
            "see", "Fast-forwarded and stationary", seen, takeaway="Only the guesses before the first wrong one count."
        ),
        Step(
            "check",
            "Count the trace",
            check=Number(
                lambda s: (
                    f"The first {part(s).n_forward} forward passes of the trace after the prompt give "
                    f"{part(s).n_tokens} tokens. How many of the tokens were guessed right (fast-forwarded)?"
                ),
                "tokens",
                lambda s: float(part(s).fast_forwarded),
                (
                    Mistake(
                        lambda s: float(part(s).n_tokens),
                        "These are all tokens. Each forward pass gives one that is not a guess.",
                    ),
                    Mistake(lambda s: float(part(s).n_forward), "These are the forward passes."),
                    Mistake(
                        lambda s: float(part(s).stationary),
                        "These are the stationary ones, which were right before their turn: a part of them.",
                    ),
                ),
                lambda s: f"{part(s).n_tokens} − {part(s).n_forward} = {part(s).fast_forwarded}.",
                tolerance=0.0,
            ),
            takeaway="Fast-forwarded tokens: tokens minus forward passes.",
        ),
        Step("do", "Race it", "On the page Jacobi, live the window races against one token at a time."),
    ),
    do=Do(
        "Start a race",
        "pages/understand/jacobi.py",
        lambda s: {"backend": "llama_cpp", "rival-strategy": "jacobi"},
        Own(lambda request: generates(request, "jacobi"), own),
        Recorded("trace", compare),
    ),
)
