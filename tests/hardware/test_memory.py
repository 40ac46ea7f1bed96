"""The memory that a process may have, from files as control groups write them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from hardware import memory

MB = 2**20


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = SimpleNamespace(available=1000 * MB, total=2000 * MB)
    monkeypatch.setattr(memory.psutil, "virtual_memory", lambda: seen)


def write(root: Path, files: dict[str, object]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"{text}\n")


def test_without_groups_it_is_the_machines(tmp_path: Path) -> None:
    assert (memory.available_bytes(tmp_path), memory.limit_bytes(tmp_path)) == (1000 * MB, 2000 * MB)


def test_version_2_and_its_tightest_ancestor(tmp_path: Path) -> None:
    write(tmp_path, {
        "proc/self/cgroup": "0::/user.slice/app.scope",
        "sys/fs/cgroup/user.slice/memory.max": 600 * MB,
        "sys/fs/cgroup/user.slice/memory.current": 350 * MB,
        "sys/fs/cgroup/user.slice/memory.stat": f"anon 5\ninactive_file {40 * MB}\nactive_file {10 * MB}",
        "sys/fs/cgroup/user.slice/app.scope/memory.max": "max",
        "sys/fs/cgroup/user.slice/app.scope/memory.current": 300 * MB,
    })  # fmt: skip
    assert memory.limit_bytes(tmp_path) == 600 * MB
    assert memory.available_bytes(tmp_path) == 300 * MB, "pages of files that were only read can be dropped"


def test_version_1_in_a_container_that_shows_the_hosts_path(tmp_path: Path) -> None:
    write(tmp_path, {
        "proc/self/cgroup": "5:cpu,cpuacct:/x\n4:memory:/docker/abc\n0::/",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": 500 * MB,
        "sys/fs/cgroup/memory/memory.usage_in_bytes": 450 * MB,
        "sys/fs/cgroup/memory/memory.stat": f"inactive_file 1\ntotal_inactive_file {30 * MB}\ntotal_active_file 0",
    })  # fmt: skip
    assert (memory.available_bytes(tmp_path), memory.limit_bytes(tmp_path)) == (80 * MB, 500 * MB)
    write(tmp_path, {"sys/fs/cgroup/memory/memory.limit_in_bytes": 9223372036854771712})
    assert memory.available_bytes(tmp_path) == 1000 * MB, "that number stands for no limit"


def test_a_group_over_its_limit_leaves_nothing(tmp_path: Path) -> None:
    write(tmp_path, {
        "proc/self/cgroup": "0::/",
        "sys/fs/cgroup/memory.max": 100 * MB,
        "sys/fs/cgroup/memory.current": 120 * MB,
    })  # fmt: skip
    assert memory.available_bytes(tmp_path) == 0
