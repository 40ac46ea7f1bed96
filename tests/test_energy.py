"""Energy: counters on a made-up sysfs, and what is measured against what is only estimated."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from core.analysis.energy import HIGH, LOW, estimated, measured
from hardware import energy


def zone(root: Path, number: str, name: str, joules: float, limit_j: float = 1000.0) -> Path:
    folder = root / f"intel-rapl:{number}"
    folder.mkdir(parents=True)
    (folder / "name").write_text(name + "\n")
    (folder / "max_energy_range_uj").write_text(f"{int(limit_j * 1e6)}\n")
    (folder / "energy_uj").write_text(f"{int(joules * 1e6)}\n")
    return folder


def put(folder: Path, joules: float) -> None:
    (folder / "energy_uj").write_text(f"{int(joules * 1e6)}\n")


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


def test_measured_energy_has_no_range() -> None:
    e = measured("decode", {"package-0": 40.0, "dram 0:2": 10.0}, seconds=2.0, method="RAPL", idle_w=15.0)
    assert e is not None and e.joules == e.low_j == e.high_j == 50.0
    assert e.comparable and e.provenance == "measured" and e.method == "RAPL package-0, dram 0:2"
    assert e.net_j == 20.0 and e.per_token(10) == (5.0, 5.0, 5.0) and e.per_token(0) is None


def test_nothing_can_be_said() -> None:
    assert measured("decode", {}, 1.0, "RAPL") is None
    assert measured("decode", {"package-0": 0.0}, 1.0, "RAPL") is None
    assert estimated("decode", 0.0, 2) is None
    assert estimated("decode", 1.0, 0) is None


def test_an_estimate_is_labelled_and_has_a_range() -> None:
    """200 W over 100 threads, 2 busy for 10 s: 4 W; 16 GiB of memory: 1.6 W."""
    e = estimated("decode", 10.0, 2, tdp_w=200, host_threads=100, mem_bytes=16 * 2**30)
    assert e is not None and e.joules == pytest.approx(56)
    assert (e.low_j, e.high_j) == pytest.approx((LOW * 56, HIGH * 56))
    assert e.provenance == "estimated" and not e.comparable and "200 W over 100 threads" in e.method
    assert e.idle_j == pytest.approx(10 * (0.1 * 4 + 1.6))


def test_half_a_description_of_the_host_is_not_used() -> None:
    """The whole socket's power charged to two of its threads would be wrong by the number of the others."""
    whole, unknown = estimated("decode", 10.0, 2, tdp_w=350), estimated("decode", 10.0, 2)
    assert whole is not None and unknown is not None and whole.joules == unknown.joules
    assert "unknown processor" in whole.method
