"""What is left of a run, by hand-made events and rows whose times can be added up in the head."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from core.runs.progress import stage
from core.runs.recording import Recording
from core.runs.stages import Learned, Spent, learned, outlook, passes, spent
from core.types import (
    Counts,
    Derive,
    Done,
    Evaluate,
    Event,
    Generate,
    Loaded,
    Pass,
    Phase,
    Request,
    Step,
    Warned,
    to_json,
)
from tests.runs.test_progress import SPEC
from tests.support.facts import setup

REQUEST = Request(
    model="m", backend="fake", task=Generate(prompt="x", max_new_tokens=4), profilers=("memory",), live=True, repeats=2
)


def loaded(t_s: float, warm: bool = False) -> Loaded:
    return Loaded(
        t_s=t_s, seconds=1, warm=warm, spec=SPEC, n_prompt_tokens=8, prompt_text="", setup=setup(), capabilities=()
    )


def a_pass(t_s: float, number: int, kind: Any, profiler: str | None = None) -> list[Event]:
    """A second of prefill and four of decode, written as they end."""
    steps = [(1.0, "prefill", 1, 8), *((1.0, "decode", 1, 1) for _ in range(3))]
    found: list[Event] = [Pass(t_s=t_s, number=number, kind=kind, profiler=profiler)]
    for i, (seconds, phase, n_new, n_in) in enumerate(steps):
        counts = Counts(tokens=n_new, forwards=1, inputs=n_in)
        found.append(
            Step(t_s=t_s + i + 1, pass_no=number, phase=phase, seconds=seconds, counts=counts, n_context=9)  # type: ignore[arg-type]
        )
    return found


def whole(start: float = 0.0) -> list[Event]:
    """2 s to look, 10 s to import, 3 s to read, 4 s live, 2 s of rest, twice 4 s of timing, 5 s of memory."""
    return [
        Phase(t_s=1, name="preparing", note="Looking for m"),
        Phase(t_s=2, name="loading", note="Importing"),
        Phase(t_s=12, name="loading", note="Reading weights"),
        loaded(15),
        *a_pass(15, 0, "live"),
        Phase(t_s=19, name="resting", note="quiet"),
        *a_pass(21, 1, "timing"),
        *a_pass(25, 2, "timing"),
        *a_pass(29, 3, "profile", "memory"),
        Done(t_s=34),
    ]


def row(events: list[Event], request: Request = REQUEST, **more: Any) -> dict[str, Any]:
    found = {"model": "m", "backend": "fake", "machine_id": "here", "status": "done", "did": "autoregressive"}
    return (
        found
        | {"strategy": "autoregressive"}
        | {"batch": 1, "threads": 2, "stages": to_json(spent(request, events)).decode()}
        | more
    )


def test_a_run_is_cut_into_its_stages() -> None:
    found = {s.name: s for s in spent(REQUEST, whole())}
    seconds = {
        "starting": 1,
        "preparing": 1,
        "loading": 13,
        "opened": 0,
        "live": 4,
        "resting": 2,
        "timing": 8,
        "memory": 5,
    }
    assert {name: s.seconds for name, s in found.items()} == seconds
    assert found["loading"].notes == {"Importing": 10, "Reading weights": 3}
    timing = found["timing"]
    assert (timing.planned, timing.prefill_s, timing.n_prompt, timing.decode_s, timing.n_new) == (2, 2, 8, 6, 4)
    assert msgspec.convert(msgspec.to_builtins(timing), Spent) == timing, "a row of the history holds it"


@pytest.mark.parametrize(
    ("n_events", "now_s", "left_s"),
    [
        (2, 7.0, 8 + 4 + 2 + 8 + 5),  # half of the import is over
        (5, 15.0, 4 + 2 + 8 + 5),  # the live pass begins
        (9, 19.5, 2 + 8 + 5),  # its last step; the rest has not begun
        (10, 20.0, 1 + 8 + 5),  # a second of rest
        (11, 22.0, 7 + 5),  # a second of the first timing pass
        (22, 31.0, 3.0),  # in the profiler
    ],
)
def test_what_is_left_is_the_median_of_what_earlier_runs_took(n_events: int, now_s: float, left_s: float) -> None:
    known = learned([row(whole()), row(whole()), row(whole(), status="failed")], REQUEST, "here")
    assert known.n_runs == 2
    seen = outlook(Recording(REQUEST, whole()[:n_events]), now_s, known)
    assert seen.left is not None and seen.left.n_runs == 2
    assert seen.left.likely_s == pytest.approx(left_s, abs=0.6), "the stage that goes on is taken to be as long"
    assert seen.left.low_s <= seen.left.likely_s <= seen.left.high_s
    assert seen.fraction == pytest.approx(now_s / (now_s + seen.left.likely_s))


def test_before_it_begins_a_run_takes_what_earlier_ones_did() -> None:
    """13 s to load, 4 live, 2 of rest, 4 for each timing pass, 5 of memory."""
    assert passes(REQUEST) == 1 + 2 + 1, "live, twice timed, memory"
    assert {stage(Recording(REQUEST, whole()[:n])).n_passes for n in range(1, 40)} == {None, passes(REQUEST)}

    def likely_s(request: Request, **more: Any) -> float | None:
        left = outlook(Recording(request, ()), 0.0, learned([row(whole(), **more)], request, "here")).left
        return None if left is None else left.likely_s

    assert likely_s(REQUEST) == pytest.approx(13 + 4 + 2 + 2 * 4 + 5)
    assert likely_s(msgspec.structs.replace(REQUEST, repeats=1000)) == pytest.approx(13 + 4 + 2 + 1000 * 4 + 5)
    for change in ({"model": "n"}, {"backend": "c"}, {"status": "failed"}, {"machine_id": "there"}, {"batch": 4}):
        assert likely_s(REQUEST, **change) is None
    assert likely_s(msgspec.structs.replace(REQUEST, strategy="jacobi")) is None


def test_the_wait_says_how_long_it_lasts_by_its_own_words() -> None:
    known = learned([row(whole())], REQUEST, "here")
    seen = outlook(Recording(REQUEST, whole()[:2]), 5.0, known)
    assert (seen.wait_s, seen.expected_s) == (3.0, 10.0)
    assert outlook(Recording(REQUEST, whole()[:2]), 5.0, Learned()).expected_s is None


def test_nothing_is_said_where_nothing_is_known() -> None:
    events = whole()[:5]
    assert outlook(Recording(REQUEST, events), 15.0, Learned()).left is None
    assert 0 < outlook(Recording(REQUEST, events), 15.0, Learned()).fraction < 1, "the bar counts stages then"
    other = learned(
        [row(whole(), machine_id="there"), row(whole(), model="n"), row(whole(), backend="b")], REQUEST, "here"
    )
    assert other == Learned()
    never = msgspec.structs.replace(REQUEST, profilers=("memory", "layers"))
    known = learned([row(whole())], never, "here")
    assert outlook(Recording(never, events), 15.0, known).left is None, "nobody has seen this profiler"
    given_up = [*events, Warned(t_s=15, message="Layer times not measured: it cannot.")]
    assert outlook(Recording(never, given_up), 15.0, known).left is not None


def test_passes_are_scaled_to_the_tokens_and_only_learned_from_like_ones() -> None:
    longer = msgspec.structs.replace(REQUEST, task=Generate(prompt="x", max_new_tokens=8), repeats=1)
    known = learned([row(whole())], longer, "here")
    seen = outlook(Recording(longer, whole()[:5]), 15.0, known)
    # a pass is 1 s of prefill and 2 * 3 s of decode; rest 2 s; the profiler has a second beside its steps
    assert seen.left is not None and seen.left.likely_s == pytest.approx(7 + 2 + 7 + 8)
    guessing = learned([row(whole(), did="jacobi")], REQUEST, "here")
    assert set(guessing.stages) == {"starting", "preparing", "loading"}, "opening it is the same"
    assert outlook(Recording(REQUEST, whole()[:5]), 15.0, guessing).left is None


def test_a_slow_live_pass_makes_what_follows_slow() -> None:
    events = [*whole()[:5], *(msgspec.structs.replace(e, t_s=15 + 2 * (e.t_s - 15)) for e in a_pass(15, 0, "live")[1:])]
    events.append(Phase(t_s=23, name="resting", note="quiet"))  # it took eight seconds instead of four
    seen = outlook(Recording(REQUEST, events), 23.0, learned([row(whole())], REQUEST, "here"))
    assert seen.left is not None and seen.left.likely_s == pytest.approx(2 + 2 * 8 + 2 * 5)


def test_a_warm_worker_has_nothing_to_load() -> None:
    known = learned([row(whole())], REQUEST, "here")
    seen = outlook(Recording(REQUEST, [loaded(0.5, warm=True)]), 0.5, known)
    assert seen.left is not None and seen.left.likely_s == pytest.approx(4 + 2 + 8 + 5)


def test_an_evaluation_goes_on_at_its_pace() -> None:
    request = msgspec.structs.replace(REQUEST, task=Evaluate(eval="arithmetic"))
    told = [Phase(t_s=2 + i, name="evaluating", note="Asking", done=i, total=100, unit="items") for i in (0, 10)]
    seen = outlook(Recording(request, [loaded(2), *told]), 12.0, Learned())
    assert seen.left is not None and seen.left.likely_s == pytest.approx(90.0) and seen.left.n_runs == 0
    assert outlook(Recording(request, [loaded(2), told[0]]), 3.0, Learned()).left is None


def test_the_end_is_the_end() -> None:
    assert outlook(Recording(REQUEST, whole()), 99.0, Learned()).fraction == 1.0


def test_a_training_lasts_as_long_as_it_is_given() -> None:
    events = [Phase(t_s=1, name="training", note="Training", done=0, total=100, unit="steps"), Done(t_s=61)]
    for transform, known in (("finetune", False), ("prune", True)):
        request = msgspec.structs.replace(REQUEST, task=Derive(transform=transform))
        found = learned([row(events, request, did=transform)], request, "here")
        assert ("making" in found.stages) is known
        left = outlook(Recording(request, events[:1]), 1.0, found).left
        assert left is None if not known else left is not None and left.likely_s == pytest.approx(60.0)
