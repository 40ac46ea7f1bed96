"""Which passes count, from hand-made events."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import pytest

from core.runs.passes import Headline, verdicts
from core.runs.recording import Recording
from core.types import Counts, Disturbance, Done, Event, Generate, Item, Loaded, Pass, PassKind, Request, Step
from tests.support.facts import NOTHING, setup

OPENED = Loaded(
    t_s=0, seconds=0, warm=False, spec=NOTHING, n_prompt_tokens=9, prompt_text="", setup=setup(), capabilities=()
)
REQUEST = Request(model="m", backend="fake", task=Generate(prompt="x"))


def headline(events: Sequence[Event]) -> Headline:
    return Recording(REQUEST, [OPENED, *events]).headline


def begun(number: int, kind: PassKind) -> Pass:
    return Pass(t_s=0, number=number, kind=kind)


def steps(number: int, seconds: Sequence[float] = (0.01,) * 20) -> list[Event]:
    return [
        Step(
            t_s=0, pass_no=number, phase="decode", seconds=s, counts=Counts(tokens=1, forwards=1, inputs=1), n_context=9
        )
        for s in seconds
    ]


def reading(number: int | None, waited_s: float = 0.0) -> Disturbance:
    return Disturbance(t_s=0, pass_no=number, seconds=1, n_cores=2, n_threads=2, cpu_s=1.9, waited_s=waited_s)


LIVE: list[Event] = [begun(0, "live"), *steps(0)]


def test_a_watched_pass_speaks_until_a_timing_pass_has_ended() -> None:
    assert headline(LIVE) == ((0,), True, None)
    waiting = [*LIVE, begun(1, "warmup"), *steps(1)]
    assert headline(waiting) == ((0,), True, None)
    timing = [*waiting, begun(2, "timing"), *steps(2)]
    assert headline(timing) == ((0,), True, None)
    ended = headline([*timing, reading(2)])
    assert ended.numbers == (2,) and not ended.provisional
    assert headline([*timing, Done(t_s=1, cancelled=True)])[:2] == ((2,), False), "what was measured is kept"
    assert headline([*waiting, begun(2, "timing"), Done(t_s=1, cancelled=True)])[:2] == ((0,), True)
    going = headline([*timing, reading(2), begun(3, "timing"), *steps(3)])
    assert going.numbers == (2,)


def test_a_timing_pass_that_the_watched_one_beats_gives_way_to_a_repeat() -> None:
    slow = [*LIVE, begun(1, "timing"), *steps(1, (0.02,) * 20), reading(1)]
    alone = headline(slow)
    assert alone.numbers == (1,) and alone.unrest is not None and alone.unrest.disturbed
    assert "2.00 times as long" in alone.unrest.sentence and verdicts(slow)[1].slower == 2.0
    again = headline([*slow, begun(2, "timing"), *steps(2), reading(2)])
    assert again.numbers == (2,) and again.unrest is not None and not again.unrest.disturbed
    longer: list[Event] = [
        msgspec.structs.replace(step, n_context=99) for step in steps(1, (0.02,) * 20) if isinstance(step, Step)
    ]
    other = headline([*LIVE, begun(1, "timing"), *longer, reading(1)])
    assert other.unrest is not None and not other.unrest.disturbed, "other work is not compared"


def test_elsewhere_a_pass_counts_that_is_going() -> None:
    assert headline([begun(0, "warmup"), *steps(0)])[:2] == ((), False)
    assert headline([begun(0, "warmup"), *steps(0), begun(1, "timing"), *steps(1)])[:2] == ((1,), False)


def test_disturbed_passes_do_not_count_beside_clean_ones() -> None:
    events = [begun(0, "timing"), *steps(0), reading(0, waited_s=1.9)]
    alone = headline(events)
    assert alone.numbers == (0,) and alone.unrest is not None and alone.unrest.disturbed
    assert alone.unrest.lost_share == 0.5 and (alone.unrest.n_disturbed, alone.unrest.n_passes) == (1, 1)
    both = headline([*events, begun(1, "timing"), *steps(1), reading(1)])
    assert both.numbers == (1,) and both.unrest is not None and not both.unrest.disturbed
    assert both.unrest.sentence == "" and (both.unrest.n_disturbed, both.unrest.n_passes) == (1, 2)


def test_runs_without_readings_are_not_judged() -> None:
    assert headline([begun(0, "timing"), *steps(0, [0.01] * 19 + [9.0])]) == ((0,), False, None)


def test_an_evaluation_that_times_its_answers_has_one_reading() -> None:
    item = Item(t_s=0, id="a", cluster="a", values={"acc": 1.0})
    assert headline([item, reading(None, waited_s=1.9)]).unrest is None, "nothing was timed"
    timed = msgspec.structs.replace(item, seconds=1.0, counts=Counts(tokens=8))
    found = headline([timed, reading(None, waited_s=1.9)]).unrest
    assert found is not None and found.disturbed and found.lost_share == 0.5


@pytest.mark.parametrize(
    ("passes", "counts"),
    [
        # Not simply the quickest: the second lost more. The fourth lost as little as the third, nearly.
        (((0.5, 0.01, 1.0), (0.3, 0.0095, 1.0), (0.1, 0.01, 1.0), (0.12, 0.0101, 1.0)), (2, 3)),
        # Seen: 134 ms a token beside 30 and 33, because it had waited least.
        (((0.1, 0.134, 2.7), (0.3, 0.030, 0.6), (0.2, 0.033, 0.7)), (1, 2)),
        # The same where no step is one token by one forward (Jacobi), or a long prompt takes all the time.
        (((0.1, None, 4.0), (0.3, None, 1.0), (0.9, None, 1.1)), (1,)),
    ],
)
def test_of_disturbed_passes_those_count_that_hold_least_of_others(
    passes: tuple[tuple[float, float | None, float], ...], counts: tuple[int, ...]
) -> None:
    """passes: seconds waited, of a step, of the whole pass."""
    events: list[Event] = []
    for number, (waited_s, step_s, seconds) in enumerate(passes):
        lasted = msgspec.structs.replace(reading(number, waited_s), seconds=seconds)
        events += [begun(number, "timing"), *steps(number, (step_s,) * 20 if step_s else ()), lasted]
    found = headline(events)
    assert found.numbers == counts and found.unrest is not None and found.unrest.disturbed
    assert found.unrest.n_disturbed == found.unrest.n_passes == len(passes)


def test_a_stopped_pass_never_beats_a_loaded_one() -> None:
    stopped = msgspec.structs.replace(reading(0), seconds=61.0, stops=1)
    found = headline([begun(0, "timing"), *steps(0), stopped, begun(1, "timing"), *steps(1), reading(1, 0.4)])
    assert found.numbers == (1,)


def test_a_quicker_pass_that_does_not_count_raises_a_doubt() -> None:
    quicker = msgspec.structs.replace(reading(0, 0.3), seconds=0.5)
    found = headline([begun(0, "timing"), *steps(0), quicker, begun(1, "timing"), *steps(1), reading(1)])
    assert found.numbers == (1,) and found.unrest is not None
    assert found.unrest.sentence == "Disturbed while it was timed: its passes differ by 100%."
