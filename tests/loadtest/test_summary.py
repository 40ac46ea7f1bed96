"""What came back and what it says, against values that were computed by hand."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from core.loadtest import checks
from core.loadtest.events import CLIENT, OURS, Answered, Began, Broken, Done, Ended, Event, Opened, Outcome
from core.loadtest.level import Level, Point, counts, in_flight, point, under_way, verdict
from core.loadtest.objectives import Objectives
from core.loadtest.plan import Plan
from core.loadtest.report import levels, report, request_rows, rows, status_of
from core.loadtest.search import Probe, answer, following, largest, saturated
from core.stats.intervals import Interval

ONE = Outcome(
    index=0,
    begun_s=1.0,
    sent_s=1.1,
    connect_s=0.1,
    first_s=1.6,
    last_s=3.6,
    ended_s=3.7,
    n_tokens=9,
    first_tokens=1,
    asked_tokens=9,
    prompt_tokens=20,
    cached_tokens=0,
    counted_by="chunks",
    single=True,
    gaps_s=(0.25,) * 8,
)
PLAN = Plan(address="http://127.0.0.1:1", levels=(2.0,))


def at(begun: float, lasts: float = 1.0, **change: Any) -> Outcome:
    """A request that began then, had its first token after a tenth of `lasts` and ended after all of it."""
    times = {"begun_s": begun, "sent_s": begun, "first_s": begun + lasts / 10, "last_s": begun + lasts}
    return msgspec.structs.replace(ONE, **{**times, "ended_s": begun + lasts, **change})


def level(outcomes: list[Outcome], **change: Any) -> Level:
    whole: dict[str, Any] = {"load": 2.0, "repeat": 0, "mode": "closed", "open_s": 0.0, "close_s": 10.0}
    return Level(**{**whole, "outcomes": tuple(outcomes), **change})


def test_one_request() -> None:
    assert ONE.ttft_s == pytest.approx(0.5) and ONE.e2e_s == pytest.approx(2.5) and ONE.delay_s is None
    assert ONE.tpot_s == pytest.approx(0.25)  # 2 s over the 8 tokens behind the first chunk
    several = msgspec.structs.replace(ONE, first_tokens=5)
    assert several.tpot_s == pytest.approx(0.5)
    due = msgspec.structs.replace(ONE, scheduled_s=0.4)
    assert due.ttft_s == pytest.approx(1.2) and due.e2e_s == pytest.approx(3.2) and due.delay_s == pytest.approx(0.6)
    for change in ({"n_tokens": 1}, {"n_tokens": None}, {"failure": "cut"}, {"first_tokens": 9}):
        assert msgspec.structs.replace(ONE, **change).tpot_s is None
    failed = msgspec.structs.replace(ONE, failure="cut")
    assert failed.e2e_s is None and failed.ttft_s == pytest.approx(0.5)


def test_closed_loop_counts_what_ended_in_the_window_and_open_loop_what_was_due_in_it() -> None:
    early, across, inside, late = at(-2.0), at(-0.5), at(5.0), at(9.5)
    assert counts(level([early, across, inside, late])) == [across, inside]
    due = [msgspec.structs.replace(o, scheduled_s=o.begun_s) for o in (early, across, inside, late)]
    assert counts(level(due, mode="open")) == due[2:]
    assert counts(level([inside], open_s=None)) == []


def test_throughput_and_goodput_are_over_the_window() -> None:
    slow = at(2.0, 4.0)
    failed = at(3.0, failure="timeout", reason="It was too slow.", n_tokens=None)
    unknown = at(4.0, n_tokens=None)
    ours = at(5.0, failure=OURS, n_tokens=None)
    found = point([level([at(0.0), at(1.0), slow, failed, unknown, ours])], Objectives(e2el=2000, tpot=900))
    assert (found.counted, found.good, found.bad, found.undetermined, found.n_cut) == (5, 2, 2, 1, 1)
    assert found.failures == {"timeout": 1} and found.reasons == ("It was too slow.",)
    assert found.requests_per_s == pytest.approx(0.4) and found.goodput == pytest.approx(0.2)
    assert found.tokens_per_s is None, "one answer's tokens are not known"
    assert found.attainment is not None and found.attainment.value == pytest.approx(0.5) and found.attainment.n == 4
    assert found.e2e.n == 4 and found.e2e.mean == pytest.approx((1 + 1 + 4 + 1) / 4)
    without = point([level([at(0.0), at(1.0)])], Objectives())
    assert without.goodput is None and without.attainment is None and without.tokens_per_s == pytest.approx(1.8)


def test_repeats_are_pooled_over_all_their_windows() -> None:
    both = point([level([at(0.0)]), level([at(0.0), at(1.0), at(2.0)], close_s=30.0, repeat=1)], Objectives())
    assert both.repeats == 2 and both.window_s == 40.0 and both.requests_per_s == pytest.approx(0.1)


def test_a_quantile_that_the_sample_cannot_give_says_why() -> None:
    few = point([level([at(i / 20, 0.5) for i in range(60)])], Objectives()).e2e
    assert few.p50.value == pytest.approx(0.5) and few.p50.low is not None
    assert few.p95.value is not None and few.p95.high is not None
    assert few.p99.value is None and "299" in few.p99.reason and few.p99.n == 60


def test_pooled_gaps_have_no_interval_and_itl_needs_single_tokens() -> None:
    found = point([level([at(0.0), at(1.0, single=False, gaps_s=(1.0,) * 20)])], Objectives())
    assert found.itl.n == 8 and found.itl.p50.value == 0.25 and found.itl.p50.low is None
    assert "independent" in found.itl.p50.reason
    assert found.icl.n == 28 and found.icl.p50.value == 1.0


def test_requests_under_way_on_average() -> None:
    assert under_way([at(0.0, 5.0), at(4.0, 2.0), at(-3.0, 4.0)], 0.0, 10.0) == pytest.approx(0.8)
    assert in_flight(level([at(0.0, 5.0)])) == pytest.approx(0.5)
    assert in_flight(level([], close_s=None)) is None


def test_a_request_that_we_cut_is_bad_only_if_it_was_late_already() -> None:
    waiting = at(0.0, 3.0, failure=OURS, first_s=None, last_s=None, scheduled_s=0.0)
    assert verdict(waiting, Objectives(ttft=2000)) == "bad"
    assert verdict(waiting, Objectives(ttft=5000)) == "undetermined"
    assert verdict(waiting, Objectives(e2el=2900)) == "bad"


# ---------------------------------------------------------------- checks


def names(found: Level, **where: Any) -> set[str]:
    return {flag.name for flag in checks.flags(found, **where)}


def steady(n: int = 2, rounds: int = 40) -> list[Outcome]:
    """Users that ask again at once: each answer takes a quarter of a second."""
    return [at(i * 0.25, 0.25) for _ in range(n) for i in range(rounds)]


def test_a_steady_level_has_no_flag() -> None:
    assert not names(level(steady(), cpu_s=0.1), cores=2, local=True)
    assert checks.little(level(steady())) == pytest.approx(1.0, rel=0.03)


def test_waiting_that_grows_is_not_steady() -> None:
    growing = [at(i * 0.25, 0.25, first_s=i * 0.25 + 0.02 * (1 + i / 10)) for i in range(39)]
    assert "unsteady" in names(level(growing))
    drift = checks.ttft_drift(level(growing))
    assert drift is not None and drift.shown and 1.1 < drift.change < 1.3 and drift.low < drift.change < drift.high
    assert checks.ttft_drift(level(growing[:5])) is None, "too few to tell"


def test_a_queue_that_grows_is_not_steady() -> None:
    queue = [at(i * 0.1, 0.2 + i * 0.05, scheduled_s=i * 0.1) for i in range(100)]
    assert "unsteady" in names(level(queue, mode="open"))
    flat = [at(i * 0.1, 0.3, scheduled_s=i * 0.1) for i in range(-5, 110)]
    assert not names(level(flat, mode="open"))


def test_waiting_longer_than_the_window_is_not_steady_however_few_there_are() -> None:
    """Seen: first tokens after 55 s in a window of 20 s, and no word of it."""
    few = [at(i * 2.0, 60.0, scheduled_s=i * 2.0, first_s=i * 2.0 + 50.0) for i in range(5)]
    assert "unsteady" in names(level(few, mode="open"))
    assert "unsteady" not in names(level([at(2.0, 5.0, scheduled_s=2.0)], mode="open"))


def test_a_client_that_starves_the_server_breaks_littles_law() -> None:
    pauses = [at(i * 0.5, 0.25) for _ in range(2) for i in range(20)]
    assert checks.little(level(pauses)) == pytest.approx(0.5)
    assert "Little's law" in names(level(pauses))


def test_late_and_missing_requests_are_flagged_in_open_loop() -> None:
    late = [at(i * 0.1 + 0.05, 0.1, scheduled_s=i * 0.1) for i in range(100)]
    assert "schedule" in names(level(late, mode="open"))
    missing = [at(i * 0.1, 0.1, scheduled_s=i * 0.1, **({"failure": CLIENT} if i % 2 else {})) for i in range(100)]
    assert checks.sent_share(level(missing, mode="open")) == pytest.approx(0.5)
    assert "rate" in names(level(missing, mode="open"))


def test_the_clients_own_processor_time_is_flagged() -> None:
    assert "client" in names(level(steady(), cpu_s=6.0))
    assert "client" not in names(level(steady(), cpu_s=3.0), cores=2, local=False)
    assert "client" in names(level(steady(), cpu_s=3.0), cores=2, local=True)


def test_short_answers_cached_prompts_and_users_that_wait_are_flagged() -> None:
    short = [msgspec.structs.replace(o, n_tokens=4) for o in steady()]
    assert names(level(short)) == {"lengths"}
    cached = [msgspec.structs.replace(o, cached_tokens=15) for o in steady()]
    assert names(level(cached)) == {"cache"}
    assert names(level(steady(), waiting=1)) == {"warm-up"}


# ---------------------------------------------------------------- search


def test_a_search_doubles_and_then_halves() -> None:
    tried: list[Probe] = []
    while (load := following(tried, 1.0, 64.0, whole=True)) is not None:
        tried.append(Probe(load, "met" if load <= 11 else "missed"))
    assert [p.load for p in tried] == [1, 2, 4, 8, 16, 12, 10, 11]
    found = largest(tried, "users", 0.9)
    assert (found.load, found.above) == (11, 12) and "11 users met" in found.sentence


def test_a_search_of_rates_ends_within_a_tenth() -> None:
    tried: list[Probe] = []
    while (load := following(tried, 0.5, 8.0, whole=False)) is not None:
        tried.append(Probe(load, "met" if load <= 3.3 else "missed"))
    found = largest(tried, "requests per second", 0.9)
    assert found.load is not None and found.above is not None
    assert found.load <= 3.3 < found.above <= 1.1 * found.load


def test_a_search_that_ends_at_once_or_at_its_limit() -> None:
    assert following([Probe(1, "missed")], 1, 8, whole=True) is None
    assert "Already 1 user did not" in largest([Probe(1, "missed")], "users", 0.9).sentence
    assert following([Probe(1, "met"), Probe(2, "met"), Probe(3, "met")], 1, 3, whole=True) is None
    assert "more was not tried" in largest([Probe(3, "met")], "users", 0.9).sentence
    unclear = largest([Probe(1, "met"), Probe(2, "unclear")], "users", 0.9)
    assert unclear.unclear == (2,) and "measure longer" in unclear.sentence
    assert largest([], "users", 0.9).load is None


def judged_point(low: float, high: float, **change: Any) -> Point:
    plain = point([level([at(0.0)])], Objectives(ttft=1))
    return msgspec.structs.replace(
        plain, attainment=Interval(value=(low + high) / 2, low=low, high=high, n=9), **change
    )


def test_a_probe_counts_where_its_interval_lies_on_one_side() -> None:
    assert answer(judged_point(0.91, 0.99), 0.9) == "met"
    assert answer(judged_point(0.5, 0.89), 0.9) == "missed"
    assert answer(judged_point(0.8, 0.95), 0.9) == "unclear"


def test_more_load_without_more_throughput_is_saturation() -> None:
    before, after = (judged_point(0.9, 1.0, requests_per_s=r) for r in (10.0, 10.2))
    slower = msgspec.structs.replace(after, e2e=msgspec.structs.replace(after.e2e, mean=9.0))
    assert saturated(before, slower) and not saturated(before, after)
    assert not saturated(before, msgspec.structs.replace(slower, requests_per_s=12.0))


# ---------------------------------------------------------------- events


def told(*more: Event) -> list[Event]:
    answers = [Answered(t_s=1.0 + o.ended_s, level=0, outcome=o) for o in steady()]
    return [Began(t_s=0.0, level=0, load=2.0), Opened(t_s=1.0, level=0, at_s=0.0), *answers, *more]


def test_events_make_a_report() -> None:
    events = told(Ended(t_s=11.0, level=0, close_s=10.0, cpu_s=0.2), Done(t_s=11.5))
    found = report("x", PLAN, events, "done")
    (only,) = found.points
    assert only.point.counted == 78 and only.cpu == pytest.approx(0.02) and not only.flags  # the last two end at 10.0
    assert found.best == 2.0 and found.found is None and found.n_requests == 80 and found.spent_s == 11.5
    assert msgspec.json.decode(msgspec.json.encode(found), type=type(found)) == found
    (row,) = rows(found)
    assert row["n"] == 78 and row["e2e_p50_s"] == pytest.approx(0.25) and row["e2e_p99_s"] is None
    requests = request_rows(events)
    assert len(requests) == 80 and requests[0]["load"] == 2.0 and "gaps_s" not in requests[0]


def test_a_test_that_died_keeps_what_was_measured() -> None:
    found = report("x", PLAN, told(), "interrupted")
    assert found.points[0].point.counted == 78 and found.points[0].point.window_s == pytest.approx(10.0)
    assert levels([Began(t_s=0.0, level=0, load=2.0)], "closed")[0].window_s == 0.0
    assert report("x", PLAN, [], "queued").points == ()


def test_a_level_that_is_going_is_no_point_yet() -> None:
    assert report("x", PLAN, told(), "running").points == ()


def test_the_end_that_is_written_down() -> None:
    assert status_of(told()) is None
    assert status_of(told(Done(t_s=1.0))) == "done" and status_of(told(Done(t_s=1.0, stopped=True))) == "cancelled"
    broken = told(Broken(t_s=1.0, message="It is down.", hint="Start it."))
    assert status_of(broken) == "failed" and report("x", PLAN, broken, "failed").error == "It is down."


def test_a_search_reports_what_it_found() -> None:
    plan = msgspec.structs.replace(PLAN, find=True, levels=(2.0, 8.0), objectives=Objectives(ttft=100))
    found = report("x", plan, told(Ended(t_s=11.0, level=0, close_s=10.0)), "done")
    assert found.found is not None and found.found.load == 2.0 and "more was not tried" in found.found.sentence
