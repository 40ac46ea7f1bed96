"""Energy: counters on a made-up sysfs, and what is measured against what is only estimated."""

from __future__ import annotations

import json
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest

from core.analysis.energy import HIGH, LOW, estimated, measured, of_phase
from core.profilers import energy as profiler
from core.runs.runner import Runner
from core.types import EnergyReading, Generate, Request, to_json
from hardware import energy
from tests.support.facts import setup


def zone(root: Path, number: str, name: str, joules: float, limit_j: float = 1000.0) -> Path:
    folder = root / f"intel-rapl:{number}"
    folder.mkdir(parents=True)
    (folder / "name").write_text(name + "\n")
    (folder / "max_energy_range_uj").write_text(f"{int(limit_j * 1e6)}\n")
    (folder / "energy_uj").write_text(f"{int(joules * 1e6)}\n")
    return folder


def put(folder: Path, joules: float) -> None:
    """At once or not at all, as the kernel does it."""
    part = folder / "part"
    part.write_text(f"{int(joules * 1e6)}\n")
    part.replace(folder / "energy_uj")


@pytest.fixture(autouse=True)
def no_card(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)


def test_packages_and_memory_are_counted_and_their_parts_are_not(tmp_path: Path) -> None:
    for number, name in (("0", "package-0"), ("0:0", "core"), ("0:1", "uncore"), ("0:2", "dram"), ("1", "psys")):
        zone(tmp_path, number, name, 5)
    zone(tmp_path, "2", "package-1", 5)
    zone(tmp_path, "2:0", "dram", 5)
    assert [c.name for c in energy.counters(tmp_path)] == ["package-0", "dram 0:2", "package-1", "dram 2:0"]
    assert energy.unavailable(tmp_path) is None


def test_joules_since_the_start_over_a_wrap(tmp_path: Path) -> None:
    folder = zone(tmp_path, "0", "package-0", 990)
    (counter,) = energy.counters(tmp_path)
    assert counter.read_j() == 0
    put(folder, 995)
    assert counter.read_j() == pytest.approx(5)
    put(folder, 10)  # 5 J up to the limit of 1000 J, and 10 J after it
    assert counter.read_j() == pytest.approx(20)
    put(folder, 12)
    counter.reset()
    put(folder, 13)
    assert counter.read_j() == pytest.approx(1)


def test_a_counter_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As for an ordinary user since CVE-2020-8694; simulated, because root may read everything."""
    folder = zone(tmp_path, "0", "package-0", 5)
    read = Path.read_text

    def refuse(path: Path, *args: object, **kwargs: object) -> str:
        if path.name == "energy_uj":
            raise PermissionError(13, "Permission denied", str(path))
        return read(path, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(Path, "read_text", refuse)
    assert energy.counters(tmp_path) == ()
    sentence = energy.unavailable(tmp_path)
    assert sentence is not None and "root only" in sentence and str(folder) in sentence


def test_no_counter_at_all(tmp_path: Path) -> None:
    assert energy.counters(tmp_path / "nothing") == ()
    sentence = energy.unavailable(tmp_path / "nothing")
    assert sentence is not None and "no energy counter" in sentence


def test_a_damaged_zone_is_left_out(tmp_path: Path) -> None:
    (zone(tmp_path, "0", "package-0", 5) / "energy_uj").write_text("what?\n")
    zone(tmp_path, "1", "package-1", 5)
    assert [c.name for c in energy.counters(tmp_path)] == ["package-1"]


def test_cards_count_millijoules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class NVMLError(Exception):
        pass

    used = {"new": 1000, "old": None}

    def total(handle: str) -> int:
        if used[handle] is None:
            raise NVMLError("Not Supported")
        return used[handle]  # type: ignore[return-value]

    fake = SimpleNamespace(
        NVMLError=NVMLError,
        nvmlInit=lambda: None,
        nvmlDeviceGetCount=lambda: 2,
        nvmlDeviceGetHandleByIndex=lambda i: ["new", "old"][i],
        nvmlDeviceGetTotalEnergyConsumption=total,
    )
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    (counter,) = energy.counters(tmp_path)
    assert (counter.name, counter.method) == ("gpu 0", "NVML")
    used["new"] = 3500
    assert counter.read_j() == pytest.approx(2.5)
    used["new"] = None
    with pytest.raises(OSError, match="Not Supported"):
        counter.read_j()


def reading(seconds: float = 10.0, cpu_s: float = 20.0, **changes: object) -> EnergyReading:
    made = EnergyReading(t_s=0, pass_no=3, phase="decode", seconds=seconds, cpu_s=cpu_s)
    return msgspec.structs.replace(made, **changes)


def test_measured_energy_has_no_range() -> None:
    counted = {"RAPL package-0": 40.0, "RAPL dram 0:2": 10.0}
    e = of_phase(reading(seconds=2.0, counted_j=counted, idle_w=15.0), 10, setup(), None)
    assert e is not None and e.joules == e.low_j == e.high_j == 50.0
    assert e.comparable and e.provenance == "measured" and e.method == "RAPL package-0, RAPL dram 0:2"
    assert e.net_j == 20.0
    assert (e.low_j_per_token, e.joules_per_token, e.high_j_per_token) == (5.0, 5.0, 5.0)
    without = measured(reading(counted_j=counted), 0)
    assert without is not None and without.joules_per_token is None and without.net_j is None


def test_nothing_can_be_said() -> None:
    assert measured(reading(), 10) is None
    assert of_phase(reading(counted_j={"RAPL package-0": 0.0}), 10, setup(), None) is None, (
        "a counter that stands still"
    )
    assert estimated(reading(seconds=0.0), 10, 0.0) is None
    assert estimated(reading(cpu_s=0.0), 10, 0.0) is None
    assert of_phase(reading(), 10, setup(device="cuda"), None) is None, "processor time tells nothing of a card"


def test_an_estimate_is_labelled_and_has_a_range() -> None:
    """2.5 W for each of 2 threads busy for 10 s: 5 W; 16 GiB of memory: 1.6 W."""
    e = estimated(reading(), 10, mem_bytes=16 * 2**30)
    assert e is not None and e.joules == pytest.approx(66) and e.joules_per_token == pytest.approx(6.6)
    assert (e.low_j, e.high_j) == pytest.approx((LOW * 66, HIGH * 66))
    assert e.provenance == "estimated" and not e.comparable and "unknown processor" in e.method
    assert e.idle_j == pytest.approx(10 * (0.1 * 5 + 1.6))


# ---------------------------------------------------------------- whole runs


SLOW = {"delay_s": 0.1}


def test_a_run_with_a_counter(
    tmp_path: Path, runner: Runner, fake_request: Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A counter that grows by 40 J a second."""
    folder = zone(tmp_path / "powercap", "0", "package-0", 0, limit_j=200)
    zone(tmp_path / "powercap", "0:0", "core", 0)
    monkeypatch.setenv("ROOFSCOPE_POWERCAP", str(tmp_path / "powercap"))
    stop, started = threading.Event(), time.monotonic()

    def count() -> None:
        while not stop.wait(0.002):
            put(folder, (time.monotonic() - started) * 40 % 200)

    thread = threading.Thread(target=count)
    thread.start()
    try:
        task = Generate(prompt="Hello", max_new_tokens=7)
        request = msgspec.structs.replace(fake_request, profilers=("energy",), options=SLOW, task=task)
        result = runner.wait(runner.start(request)).result()
    finally:
        stop.set()
        thread.join()
    prefill, decode = result.energy
    assert (prefill.phase, prefill.n_tokens, decode.phase, decode.n_tokens) == ("prefill", 5, "decode", 6)
    assert decode.provenance == "measured" and decode.method == "RAPL package-0" and decode.missing == ""
    assert decode.seconds >= 6 * 0.1
    assert decode.joules == pytest.approx(40 * decode.seconds, rel=0.5)  # the thread that counts may come late
    assert decode.joules_per_token == pytest.approx(decode.joules / 6)
    assert decode.idle_j == pytest.approx(40 * decode.seconds, rel=0.5), "this counter never rests"


def test_a_long_phase_is_read_before_the_counter_wraps_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = zone(tmp_path, "0", "package-0", 0, limit_j=10)
    monkeypatch.setattr(profiler, "READ_EVERY_S", 0.005)
    monkeypatch.setattr(profiler, "IDLE_S", 0.0)
    counters = energy.counters(tmp_path)
    monkeypatch.setattr(energy, "counters", lambda: counters)
    attached = profiler.plugin.attach(SimpleNamespace(setup=setup()), 1)  # type: ignore[arg-type]
    attached.phase("prefill")
    for i in range(1, 11):  # 50 J in all: five wraps
        put(folder, 5 * i % 10)
        end = time.monotonic() + 60
        while counters[0]._last_j != 5 * i % 10:
            assert time.monotonic() < end, "the counter is not read"
            time.sleep(0.002)
    attached.close()
    (event,) = attached.events()
    assert event.counted_j == {"RAPL package-0": pytest.approx(50)}


def test_a_counter_that_fails_in_the_middle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of the joules would look like a very thrifty phase: that phase and all later ones are not measured."""
    folder = zone(tmp_path, "0", "package-0", 5)
    monkeypatch.setattr(profiler, "IDLE_S", 0.0)
    counters = energy.counters(tmp_path)
    monkeypatch.setattr(energy, "counters", lambda: counters)
    attached = profiler.plugin.attach(SimpleNamespace(setup=setup()), 1)  # type: ignore[arg-type]
    attached.phase("prefill")
    put(folder, 7)
    attached.phase("decode")
    (folder / "energy_uj").unlink()
    attached.close()
    prefill, decode = attached.events()
    assert prefill.counted_j == {"RAPL package-0": pytest.approx(2)}
    assert decode.counted_j == {} and "could no longer be read" in decode.missing


def test_the_processors_counters_do_not_stand_for_a_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    zone(tmp_path, "0", "package-0", 5)
    counters = energy.counters(tmp_path)
    monkeypatch.setattr(energy, "counters", lambda: counters)
    attached = profiler.plugin.attach(SimpleNamespace(setup=setup(device="cuda")), 1)  # type: ignore[arg-type]
    attached.phase("prefill")
    attached.close()
    (event,) = attached.events()
    assert event.counted_j == {} and "card" in event.missing


def test_a_run_without_a_counter(
    tmp_path: Path, runner: Runner, fake_request: Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROOFSCOPE_POWERCAP", str(tmp_path / "nothing"))
    request = msgspec.structs.replace(fake_request, profilers=("energy",), options=SLOW)
    run = runner.wait(runner.start(request))
    result = run.result()
    assert [e.phase for e in result.energy] == ["prefill", "decode"]
    for e in result.energy:
        assert e.provenance == "estimated" and not e.comparable and "no energy counter" in e.missing
        assert e.low_j_per_token and e.joules_per_token and e.high_j_per_token
        assert e.low_j_per_token < e.joules_per_token < e.high_j_per_token
    again = json.loads(to_json(result))
    assert again["energy"][1]["provenance"] == "estimated" and again["energy"][1]["method"].startswith("estimate")


def test_a_run_that_was_not_asked_for_energy_has_none(runner: Runner, fake_request: Request) -> None:
    result = runner.wait(runner.start(msgspec.structs.replace(fake_request, profilers=()))).result()
    assert result.energy == ()
