"""Where a run stands, from hand-made events."""

from __future__ import annotations

import msgspec
import pytest

from core.runs.progress import decode_rates, elapsed_s, journey, memory_line, stage
from core.runs.recording import Recording
from core.types import Counts, Done, Event, Failed, Generate, Loaded, Memory, ModelSpec, Pass, Phase, Request, Step
from tests.support.facts import setup

REQUEST = Request(model="m", backend="fake", task=Generate(prompt="x", max_new_tokens=4), profilers=("memory",))
SPEC = ModelSpec(name="m", architecture="a", d_model=1, n_blocks=1, vocab_size=1, max_context=None, layers=())
LOADING = Phase(t_s=1, name="loading", note="Loading m", done=5, total=10, unit="bytes")
LOADED = Loaded(
    t_s=2, seconds=1, warm=False, spec=SPEC, n_prompt_tokens=8, prompt_text="", setup=setup(), capabilities=()
)


def a_pass(number: int, kind: str, profiler: str | None = None) -> Pass:
    return Pass(t_s=2, number=number, kind=kind, profiler=profiler)  # type: ignore[arg-type]


def step(pass_no: int, phase: str, seconds: float = 0.5, n_tokens: int = 1, n_input: int = 1) -> Step:
    return Step(
        t_s=3,
        pass_no=pass_no,
        phase=phase,
        seconds=seconds,
        counts=Counts(tokens=n_tokens, forwards=1, inputs=n_input),
        n_context=9,
    )  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("events", "name", "detail", "fraction"),
    [
        ([], "queued", "Waiting for the worker", None),
        ([LOADING], "loading", "Loading m", 0.5),
        ([LOADING, LOADED], "warm-up", "", None),
        ([LOADED, a_pass(0, "warmup"), step(0, "decode")], "warm-up", "decode", None),
        ([LOADED, a_pass(0, "timing"), step(0, "prefill", n_tokens=0, n_input=2)], "timing", "prefill", 0.25),
        ([LOADED, a_pass(0, "timing"), step(0, "prefill", n_input=8), step(0, "decode")], "timing", "decode", 0.5),
        ([LOADED, a_pass(0, "timing"), a_pass(1, "profile", "memory")], "profiling", "memory, prefill", 0.0),
        ([LOADED, Done(t_s=9)], "finished", "", None),
    ],
)
def test_stage(events: list[Event], name: str, detail: str, fraction: float | None) -> None:
    found = stage(Recording(REQUEST, events))
    assert (found.name, found.detail, found.fraction) == (name, detail, fraction)


def test_a_profiler_says_what_it_does_behind_its_steps() -> None:
    """It reads two tokens of the answer and then measures by itself: not "2 of 64" for half a minute."""
    request = msgspec.structs.replace(
        REQUEST, task=Generate(prompt="x", max_new_tokens=64), profilers=("forward_cost",)
    )
    events: list[Event] = [LOADED, a_pass(0, "timing"), a_pass(1, "profile", "forward_cost")]
    events += [step(1, "prefill", n_input=8), step(1, "decode")]
    assert (stage(Recording(request, events)).done, stage(Recording(request, events)).total) == (2, 2)
    events.append(
        Phase(t_s=4, name="profiling", note="forward passes of 1 to 64 tokens", done=3, total=16, unit="rounds")
    )
    found = stage(Recording(request, events))
    assert (found.detail, found.done, found.total) == ("forward_cost, forward passes of 1 to 64 tokens", 3, 16)
    assert dict(journey(Recording(request, events)))["forward_cost"] == "now"
    assert stage(Recording(request, [*events, a_pass(2, "timing")])).detail == "prefill"


def test_passes_are_counted_without_the_warm_up() -> None:
    events: list[Event] = [LOADED, a_pass(0, "warmup"), a_pass(1, "timing"), a_pass(2, "profile", "memory")]
    found = stage(Recording(REQUEST, events))
    assert (found.pass_no, found.n_passes) == (2, 2)


def test_a_second_attempt_starts_over() -> None:
    assert stage(Recording(REQUEST, [LOADED, a_pass(0, "timing"), LOADING])).name == "loading"


def test_waiting_for_silence_is_part_of_timing_until_the_next_pass() -> None:
    resting = Phase(t_s=2, name="resting", note="The processor is busy")
    events: list[Event] = [LOADED, a_pass(0, "live"), resting]
    found = stage(Recording(REQUEST, events))
    assert (found.name, found.detail) == ("timing", "The processor is busy")
    assert stage(Recording(REQUEST, [*events, a_pass(1, "timing")])).detail == "prefill"
    assert stage(Recording(REQUEST, [*events, LOADING])).detail == "Loading m"


def test_an_attempt_that_died_while_loading_reached_what_the_last_loaded_one_did() -> None:
    crashed: list[Event] = [LOADED, a_pass(0, "timing"), LOADED, Failed(t_s=5, message="x")]
    assert journey(Recording(REQUEST, crashed)) == (("loading", "done"), ("timing", "ahead"), ("memory", "ahead"))


def test_journey() -> None:
    assert journey(Recording(REQUEST, [LOADING])) == (("loading", "now"), ("timing", "ahead"), ("memory", "ahead"))
    events: list[Event] = [LOADED, a_pass(0, "warmup"), a_pass(1, "timing")]
    assert journey(Recording(REQUEST, events)) == (
        ("loading", "done"),
        ("warm-up", "done"),
        ("timing", "now"),
        ("memory", "ahead"),
    )
    done = journey(Recording(REQUEST, [*events, a_pass(2, "profile", "memory"), Done(t_s=5)]))
    assert {state for _, state in done} == {"done"}
    assert journey(Recording(REQUEST, [*events, Done(t_s=5)]))[3] == ("memory", "skipped"), "no pass of it was run"
    assert journey(Recording(REQUEST, [*events, Failed(t_s=5, message="x")]))[2] == ("timing", "ahead")


def test_clock_stops_at_the_end() -> None:
    assert elapsed_s([LOADING], 7.5) == 7.5
    assert elapsed_s([LOADING, Done(t_s=4.5)], 7.5) == 4.5


def test_rates_come_from_the_last_timing_pass() -> None:
    events: list[Event] = [
        LOADED,
        a_pass(0, "timing"),
        step(0, "decode", seconds=9),
        a_pass(1, "timing"),
        step(1, "prefill"),
        step(1, "decode", seconds=0.5, n_tokens=2),
        step(1, "decode", seconds=0.25),
        a_pass(2, "profile", "memory"),
        step(2, "decode", seconds=3),
    ]
    assert decode_rates(Recording(REQUEST, events)) == (4.0, 4.0)
    assert decode_rates(Recording(REQUEST, events), n_points=1) == (4.0,)


def test_memory_keeps_the_peaks() -> None:
    events: list[Event] = [
        Memory(t_s=i, pass_no=0, phase="decode", rss_bytes=i, peak_bytes=90 if i == 3 else None) for i in range(10)
    ]
    assert memory_line(Recording(REQUEST, events), n_points=5) == (1.0, 90.0, 5.0, 7.0, 9.0)
