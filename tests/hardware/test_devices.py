"""The catalogue of devices, a user's own files, and what is said about a wrong one."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from hardware import catalogue, detect, memory
from hardware.device import DTYPES, Device, validate
from hardware.errors import ExplorerError

GOOD = {
    "name": "My card",
    "kind": "gpu",
    "mem_bandwidth_bytes_per_s": 500e9,
    "mem_bytes": 16 * 2**30,
    "peak_flop_per_s": {"fp16": 50e12},
    "sources": ["its data sheet"],
}


def write(folder: Path, file_name: str, **changes: object) -> Path:
    path = folder / file_name
    path.write_text(json.dumps({**GOOD, **changes}))
    return path


def test_the_shipped_catalogue_is_whole() -> None:
    found = catalogue.devices()
    assert len(found) == 58
    assert len({device.name for device in found}) == 58
    for device in found:
        validate(device, "devices.csv")
        assert device.provenance == "stated" and device.confidence in {"A", "B", "C"}
        assert set(device.peak_flop_per_s) <= set(DTYPES)


def test_units_are_converted() -> None:
    card = catalogue.find("RTX 4090")
    assert card.mem_bandwidth_bytes_per_s == pytest.approx(1008e9)
    assert card.mem_bytes == 24 * 2**30
    assert card.peak_flop_per_s["fp16"] == pytest.approx(165.2e12)
    assert card.peak_flop_per_s["fp16_acc16"] == pytest.approx(330.4e12)
    assert "fp4" not in card.peak_flop_per_s
    assert catalogue.find("TPU v5e (chip)").tdp_w is None


def test_doubtful_figures_stay_doubtful() -> None:
    spark = catalogue.find("DGX Spark (GB10)")
    assert spark.is_uncertain("tdp_w") and spark.is_uncertain("int8") and not spark.is_uncertain("mem_bytes")
    assert "int8 peak" in spark.doubts() and "thermal design power" in spark.doubts()
    assert catalogue.find("T4").is_uncertain("mem_bandwidth_bytes_per_s")
    assert catalogue.find("RTX 3090").doubts() == ""


def test_find_is_lenient_about_spelling_and_strict_about_meaning() -> None:
    assert catalogue.find("rtx4090").name == "RTX 4090"
    assert catalogue.find("b580").name == "Arc B580"
    with pytest.raises(ExplorerError, match="several devices"):
        catalogue.find("H100")
    with pytest.raises(ExplorerError, match="RTX 4090") as caught:
        catalogue.find("RTX 4O90")
    assert "no device called" in caught.value.message
    with pytest.raises(ExplorerError):
        catalogue.find("")


def test_a_users_device_is_added_saved_and_replaces_a_shipped_one(tmp_path: Path) -> None:
    path = catalogue.save(Device(**{**GOOD, "sources": ("a sheet",), "uncertain_fields": ("tdp_w",)}), tmp_path)
    assert path.name == "my-card.json" and not list(tmp_path.glob("*.part"))
    assert catalogue.find("my card", tmp_path).is_uncertain("tdp_w")
    write(tmp_path, "t4.json", name="T4")
    assert catalogue.find("T4", tmp_path).mem_bandwidth_bytes_per_s == 500e9
    assert len(catalogue.devices(tmp_path)) == 59
    (tmp_path / "own.csv").write_text(
        "name,kind,memory_gb,bandwidth_gbs,fp16_tflops,source\nA,gpu,8,100,10,sheet\nB,cpu,64,80,1,sheet\n"
    )
    assert catalogue.find("B", tmp_path).mem_bandwidth_bytes_per_s == 80e9


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"mem_bandwidth_bytes_per_s": 900}, "unit is probably wrong"),
        ({"mem_bandwidth_bytes_per_s": 0}, "above zero"),
        ({"mem_bandwidth_bytes_per_s": -1e9}, "above zero"),
        ({"mem_bandwidth_bytes_per_s": 1e30}, "no device has"),
        ({"mem_bandwidth_bytes_per_s": "900 GB/s"}, "Expected `float`, got `str`"),
        ({"mem_bytes": 24}, "unit is probably wrong"),
        ({"peak_flop_per_s": {"fp16": 165.2}}, "operations per second"),
        ({"peak_flop_per_s": {"fp12": 1e12}}, "unknown dtype 'fp12'"),
        ({"peak_flop_per_s": {}}, "no peak"),
        ({"sources": []}, "no source"),
        ({"sources": [" "]}, "no source"),
        ({"tdp_w": 0}, "above zero"),
        ({"kind": "toaster"}, "Invalid enum value"),
        ({"name": " "}, "no name"),
        ({"bandwith": 1}, "unknown field `bandwith`"),
        ({"uncertain_fields": ["power"]}, "unknown field 'power'"),
    ],
)
def test_a_wrong_file_gets_one_clear_sentence(tmp_path: Path, changes: dict[str, object], words: str) -> None:
    path = write(tmp_path, "mine.json", **changes)
    with pytest.raises(ExplorerError) as caught:
        catalogue.read(path)
    assert words in str(caught.value) and caught.value.message.startswith("mine.json") and caught.value.hint
    assert len(catalogue.devices(tmp_path)) == 58, "the good devices stay"
    assert [str(e) for e in catalogue.problems(tmp_path)] == [str(caught.value)]


def test_broken_files(tmp_path: Path) -> None:
    cases = {
        "a.json": "{",
        "b.json": "[]",
        "c.csv": "name,speed\nA,1\n",
        "d.csv": "name,kind,memory_gb,bandwidth_gbs,fp16_tflops,source\nA,gpu,8,100 GB/s,10,sheet\n",
        "e.csv": "name,kind,memory_gb,bandwidth_gbs,fp16_tflops,source\nA,gpu,8,,10,sheet\n",
        "f.csv": "name,kind,memory_gb,bandwidth_gbs,fp16_tflops,source\nA,gpu,8,100e9,10,sheet\n",
        "g.csv": "name,kind,memory_gb,bandwidth_gbs,fp16_tflops,source\nA,gpu,8,nan,10,sheet\n",
    }
    for name, text in cases.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "h.json").write_bytes(b"\xff\xfe\x00")
    assert [e.message.split(":")[0].split(" ")[0] for e in catalogue.problems(tmp_path)] == [*cases, "h.json"]
    assert all(e.hint for e in catalogue.problems(tmp_path))


def test_saving_refuses_what_reading_would_refuse(tmp_path: Path) -> None:
    with pytest.raises(ExplorerError, match="unit"):
        catalogue.save(Device(**{**GOOD, "sources": ("x",), "mem_bandwidth_bytes_per_s": 500}), tmp_path)
    assert not list(tmp_path.glob("*.*"))


def test_this_machine() -> None:
    machine = detect.machine()
    assert machine.cpu and machine.os and machine.mem_bytes > 2**28
    assert 1 <= machine.usable_cores <= machine.logical_cores
    assert 0 < memory.available_bytes() <= machine.mem_bytes == memory.limit_bytes()
    assert detect.machine_id() == machine.machine_id and len(machine.machine_id) == 12


def test_limits_of_the_control_group(tmp_path: Path) -> None:
    group = tmp_path / "fs/cgroup"
    group.mkdir(parents=True)
    assert detect._cpu_quota(tmp_path) is None
    (group / "cpu.max").write_text("150000 100000\n")
    assert detect._cpu_quota(tmp_path) == 1.5
    (group / "cpu.max").write_text("max 100000\n")
    assert detect._cpu_quota(tmp_path) is None


def test_caches_are_counted_once(tmp_path: Path) -> None:
    for cpu in range(4):
        for index, (level, kind, size, shared) in enumerate(
            [("1", "Data", "48K", str(cpu)), ("1", "Instruction", "32K", str(cpu)), ("3", "Unified", "32M", "0-3")]
        ):
            folder = tmp_path / f"devices/system/cpu/cpu{cpu}/cache/index{index}"
            folder.mkdir(parents=True)
            for name, text in (("level", level), ("type", kind), ("size", size), ("shared_cpu_list", shared)):
                (folder / name).write_text(text + "\n")
    assert detect._caches(tmp_path) == (detect.Cache(1, 48 * 2**10, 4), detect.Cache(3, 32 * 2**20, 1))


def test_a_device_of_ones_own_can_go_and_others_stay(tmp_path: Path) -> None:
    write(tmp_path, "card.json")
    (tmp_path / "two.json").write_text(json.dumps([GOOD, {**GOOD, "name": "B"}]))
    table = "name,kind,memory_gb,bandwidth_gbs,fp16_tflops,source\nMy card,gpu,8,100,10,sheet\nC,cpu,64,80,1,sheet\n"
    (tmp_path / "rows.csv").write_text(table)
    (tmp_path / "faulty.json").write_text("{")
    assert set(catalogue.own(tmp_path)) == {"My card", "B", "C"}
    catalogue.remove("My card", tmp_path)
    assert set(catalogue.own(tmp_path)) == {"B", "C"}
    assert sorted(p.name for p in tmp_path.glob("*.*")) == ["faulty.json", "rows.csv", "two.json"]
    assert "My card" not in {d.name for d in catalogue.devices(tmp_path)}
    with pytest.raises(ExplorerError, match="not a device of your own"):
        catalogue.remove("RTX 4090", tmp_path)


def test_a_device_takes_nothing_away_from_another_one(tmp_path: Path) -> None:
    def saved(name: str, rate: float) -> None:
        catalogue.save(msgspec.convert({**GOOD, "name": name, "mem_bandwidth_bytes_per_s": rate}, Device), tmp_path)

    names = ("A 1", "a-1", "芯片", "显卡")  # two file names for four devices
    for n, name in enumerate(names, 1):
        saved(name, n * 1e11)
    (tmp_path / "zz.json").write_text(json.dumps([{**GOOD, "name": name} for name in ("Both", "Other")]))
    (tmp_path / "broken.json").write_text("{")
    saved("Both", 7e11)
    saved("Broken", 8e11)
    saved("a-1", 9e11)
    own = catalogue.own(tmp_path)
    rates = {d.name: d.mem_bandwidth_bytes_per_s for d in catalogue.devices(tmp_path) if d.name in own}
    assert rates == {
        "A 1": 1e11, "a-1": 9e11, "芯片": 3e11, "显卡": 4e11, "Both": 7e11, "Other": 500e9, "Broken": 8e11
    }  # fmt: skip
    assert (tmp_path / "broken.json").read_text() == "{"


@pytest.mark.parametrize(
    "cells", [f'"{"x" * 200_000}"', "My card,gpu,16,500,nan", "My card,gpu,inf,500,2020", "My card,gpu,1e400,500,2020"]
)
def test_a_table_that_no_one_means_gets_a_sentence(tmp_path: Path, cells: str) -> None:
    (tmp_path / "odd.csv").write_text(f"name,kind,memory_gb,bandwidth_gbs,year\n{cells}\n")
    (problem,) = catalogue.problems(tmp_path)
    assert problem.hint


def test_a_shipped_device_is_there_again_when_ones_own_goes(tmp_path: Path) -> None:
    write(tmp_path, "4090.json", name="RTX 4090")
    assert catalogue.find("RTX 4090", tmp_path).mem_bytes == 16 * 2**30
    catalogue.remove("RTX 4090", tmp_path)
    assert catalogue.find("RTX 4090", tmp_path).mem_bytes == 24 * 2**30


def test_a_form_is_answered_in_its_own_units() -> None:
    absurd = Device(**{**GOOD, "mem_bytes": 24e18})  # type: ignore[arg-type]
    with pytest.raises(ExplorerError) as form:
        validate(absurd, "This device", form=True)
    assert "is 2.4e+10 GB" in form.value.message and form.value.hint.endswith("give it in GB.")
    with pytest.raises(ExplorerError) as file:
        validate(absurd, "x.json")
    assert "24 * 2**30" in file.value.hint
