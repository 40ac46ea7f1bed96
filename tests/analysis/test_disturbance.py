"""Verdicts on numbers made by hand."""

from __future__ import annotations

from typing import Any

import pytest

from core.analysis.disturbance import Verdict, drift, judge, times_as_long, unrest
from core.types import Disturbance

EQUAL = [0.010] * 64


def reading(**more: Any) -> Disturbance:
    """Two threads on two cores for a second, nearly all of it at work."""
    known = {"seconds": 1.0, "cpu_s": 1.96, "waited_s": 0.004, "others_s": 0.02, "stolen_s": 0.0, **more}
    return Disturbance(t_s=0, pass_no=1, n_cores=2, n_threads=2, **known)


def test_a_quiet_pass_is_clean() -> None:
    found = judge(reading(), EQUAL)
    assert not found.disturbed and found.reasons == ()
    assert found.lost_share == pytest.approx(0.004 / 1.964) and found.stolen_share == 0
    assert found.others_cores == pytest.approx(0.02) and found.burst == pytest.approx(1.0)


def test_waiting_for_a_core_disturbs() -> None:
    found = judge(reading(cpu_s=1.4, waited_s=0.6, others_s=0.6), EQUAL)
    assert found.disturbed and found.lost_share == pytest.approx(0.3)
    assert "30%" in found.reasons[0]


def test_what_the_hypervisor_takes_disturbs() -> None:
    found = judge(reading(cpu_s=1.7, stolen_s=0.3), EQUAL)
    assert found.disturbed and found.stolen_share == pytest.approx(0.3 / 2.004)


def test_a_few_milliseconds_in_a_short_pass_are_no_alarm() -> None:
    short = judge(reading(seconds=0.05, cpu_s=0.09, waited_s=0.006, stolen_s=0.01), [0.01] * 4)
    assert short.lost_share is not None and short.lost_share > 0.1 and not short.disturbed


def test_bursts_disturb_and_a_slope_does_not() -> None:
    bursts = judge(reading(), [0.006] * 56 + [0.120] * 8)
    assert bursts.disturbed and bursts.burst == pytest.approx((0.006 * 56 + 0.120 * 8) / 64 / 0.006)
    assert not judge(reading(), [0.006 + 0.0001 * i for i in range(64)]).disturbed, "a context that grows"
    assert judge(reading(), [0.006] * 5 + [0.120]).burst is None, "too few steps for a median"


def test_a_pass_in_which_the_worker_stood_still_is_disturbed_however_few_its_steps() -> None:
    found = judge(reading(seconds=4.0, stops=1), [0.01] * 3)
    assert found.disturbed and "stopped for a while" in found.reasons[0]
    assert not judge(reading(seconds=4.0, stops=0), [0.01] * 3).disturbed


def test_without_a_run_queue_others_tell() -> None:
    """Of two cores others had most of one, and two threads wanted both."""
    found = judge(Disturbance(t_s=0, pass_no=1, seconds=1, n_cores=2, n_threads=2, cpu_s=1.2, others_s=0.8), EQUAL)
    assert found.disturbed and found.lost_share == pytest.approx(0.4)
    spare = judge(Disturbance(t_s=0, pass_no=1, seconds=1, n_cores=4, n_threads=2, cpu_s=2, others_s=0.8), EQUAL)
    assert not spare.disturbed and spare.lost_share == 0
    unknown = judge(Disturbance(t_s=0, pass_no=1, seconds=1, n_cores=2, n_threads=2, cpu_s=2), EQUAL)
    assert not unknown.disturbed and unknown.lost_share is None


def test_others_who_take_much_disturb_though_no_thread_seems_to_have_waited() -> None:
    """A library whose threads sleep and wake all the time hides the wait for a core in its waking."""
    found = judge(reading(cpu_s=1.6, waited_s=0.0, others_s=0.4), EQUAL)
    assert found.disturbed and "0.4 of the processors" in found.reasons[0]
    assert not judge(reading(seconds=0.3, cpu_s=0.5, waited_s=0.0, others_s=0.09), EQUAL).disturbed, "a few ticks"
    host = Disturbance(t_s=0, pass_no=1, seconds=1, n_cores=64, n_threads=2, cpu_s=1.96, waited_s=0.004, others_s=30.0)
    assert not judge(host, EQUAL).disturbed, "a container's neighbours on other cores"


def test_a_pass_that_the_watched_one_beats_is_disturbed_though_no_counter_moved() -> None:
    """What takes a core's speed and not its time: a host's other guests, memory, heat."""
    slower = times_as_long([(0.068, 0.031)] * 5 + [(0.030, 0.031)])
    assert slower == pytest.approx(0.068 / 0.031)
    found = judge(reading(), [0.068] * 6, slower)
    assert found.disturbed and "2.19 times as long as in the pass that was watched" in found.reasons[0]
    assert not judge(reading(), EQUAL, 1.15).disturbed, "a processor that has warmed up"
    assert times_as_long([(0.068, 0.031)] * 3) is None and times_as_long([(2e-5, 1e-5)] * 64) is None, "too little"


def test_nothing_is_judged_without_a_reading() -> None:
    assert judge(None, [0.006] * 56 + [0.120] * 8).reasons == ()
    assert unrest([], None, 1, 0) is None


def test_drift_is_the_slowest_over_the_fastest() -> None:
    assert drift([0.010, 0.012, None]) == pytest.approx(0.2)
    assert drift([0.010]) is None and drift([]) is None


def test_what_is_told_of_passes_together() -> None:
    clean, noisy = judge(reading(), EQUAL), judge(reading(cpu_s=1.4, waited_s=0.6), EQUAL)
    told = unrest([clean, clean], 0.01, 3, 1)
    assert told is not None and not told.disturbed and told.sentence == ""
    assert (told.n_passes, told.n_disturbed, told.drift) == (3, 1, 0.01)
    told = unrest([noisy, noisy], 0.01, 2, 2)
    assert told is not None and told.disturbed and told.lost_share == pytest.approx(0.3)
    assert told.sentence.startswith("Disturbed while it was timed: ") and told.sentence.endswith(".")
    told = unrest([clean, clean], 0.5, 2, 0)
    assert told is not None and told.disturbed and "50%" in told.sentence
    assert unrest([Verdict()], None, 1, 0) is not None
