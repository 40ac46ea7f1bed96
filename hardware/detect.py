"""This machine: processor, caches, instruction sets, memory, accelerators.

It asks the operating system only and imports no model library, so it is cheap enough for a page.
What a virtual machine claims (caches, sockets) is the host's word: the measured ceilings tell the truth.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import msgspec
import psutil

from hardware.memory import limit_bytes

_SYS = Path("/sys")
_PROC = Path("/proc")

# Flags that decide which matrix kernels a library can use: /proc/cpuinfo's names (x86, Arm) -> ours.
_ISA = {
    "avx2": "avx2",
    "fma": "fma",
    "f16c": "f16c",
    "avx_vnni": "avx_vnni",
    "avx512f": "avx512",
    "avx512_vnni": "avx512_vnni",
    "avx512_bf16": "avx512_bf16",
    "avx512_fp16": "avx512_fp16",
    "amx_tile": "amx",
    "amx_bf16": "amx_bf16",
    "amx_int8": "amx_int8",
    "asimd": "neon",
    "asimdhp": "neon_fp16",
    "asimddp": "dotprod",
    "i8mm": "i8mm",
    "bf16": "bf16",
    "sve": "sve",
    "sve2": "sve2",
    "sme": "sme",
}
_APPLE_ISA = {
    "hw.optional.arm.AdvSIMD": "neon",
    "hw.optional.arm.FEAT_DotProd": "dotprod",
    "hw.optional.arm.FEAT_I8MM": "i8mm",
    "hw.optional.arm.FEAT_BF16": "bf16",
    "hw.optional.arm.FEAT_SME": "sme",
}


class Cache(msgspec.Struct, frozen=True):
    """A data cache. size_bytes: of one instance; n_instances: how many of them the processor has."""

    level: int
    size_bytes: int
    n_instances: int


class Gpu(msgspec.Struct, frozen=True):
    """An accelerator that its driver names."""

    index: int
    name: str
    mem_bytes: int | None
    driver: str


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """What the operating system says. None: it does not say.

    usable_cores: what this process may run on (affinity and control group), the right default for threads.
    virtualisation: "kvm", "docker" and the like; None on bare metal.
    """

    machine_id: str
    cpu: str
    arch: str
    os: str
    physical_cores: int | None
    logical_cores: int
    usable_cores: int
    mem_bytes: int
    caches: tuple[Cache, ...] = ()
    isa: tuple[str, ...] = ()
    gpus: tuple[Gpu, ...] = ()
    virtualisation: str | None = None
    python: str = platform.python_version()

    @property
    def llc_bytes(self) -> int | None:
        """Last-level cache as claimed, all instances together."""
        return max((c.size_bytes * c.n_instances for c in self.caches), default=None)


@cache
def machine() -> Machine:
    """This machine; asked once per process."""
    cpu, mem, gpus = _cpu_name(), psutil.virtual_memory().total, _gpus()
    logical = psutil.cpu_count(logical=True) or 1
    return Machine(
        machine_id=_identity(cpu, logical, mem, gpus),
        cpu=cpu,
        arch=platform.machine(),
        os=f"{platform.system()} {platform.release()}",
        physical_cores=psutil.cpu_count(logical=False),
        logical_cores=logical,
        usable_cores=usable_cores(),
        mem_bytes=min(mem, limit_bytes()),
        caches=_caches(),
        isa=_isa(),
        gpus=gpus,
        virtualisation=_virtualisation(),
    )


def machine_id() -> str:
    """Stable hash of processor, memory and accelerators: measurements are stored under it."""
    return machine().machine_id


def usable_cores() -> int:
    """Cores this process may use: affinity mask and control-group quota. Logical cores of one core count once."""
    affinity = len(os.sched_getaffinity(0)) if sys.platform == "linux" else (psutil.cpu_count(logical=True) or 1)
    cores = min(affinity, psutil.cpu_count(logical=False) or affinity)
    quota = _cpu_quota()
    return max(1, cores if quota is None else min(cores, int(quota)))


def steal_seconds() -> float | None:
    """Processor seconds that the host took from this virtual machine since it started; None elsewhere."""
    return getattr(psutil.cpu_times(), "steal", None)


def _identity(cpu: str, cores: int, mem: int, gpus: tuple[Gpu, ...]) -> str:
    # Kernel versions change the reported memory by some megabytes, so it is rounded to GB.
    parts = [cpu, str(cores), str(round(mem / 2**30)), *(gpu.name for gpu in gpus)]
    return hashlib.sha256("|".join(parts).encode()).hexdigest()[:12]


def _text(path: Path) -> str | None:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return None


def _output(*command: str) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _cpuinfo() -> dict[str, str]:
    """The first processor's fields of /proc/cpuinfo."""
    first = (_text(_PROC / "cpuinfo") or "").split("\n\n")[0]
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in first.splitlines())}


def _cpu_name() -> str:
    if sys.platform == "darwin":
        return _output("sysctl", "-n", "machdep.cpu.brand_string") or platform.machine()
    info = _cpuinfo()
    name = info.get("model name") or info.get("Model") or _text(_PROC / "device-tree/model") or platform.processor()
    family = f" (family {info['cpu family']} model {info['model']})" if {"cpu family", "model"} <= info.keys() else ""
    # A hypervisor may hide the model ("AMD EPYC"): family and model still tell the generation.
    return (name or platform.machine()).rstrip("\0") + family


def _isa() -> tuple[str, ...]:
    if sys.platform == "darwin":
        return tuple(label for key, label in _APPLE_ISA.items() if _output("sysctl", "-n", key) == "1")
    info = _cpuinfo()
    flags = set((info.get("flags") or info.get("Features") or "").split())
    return tuple(label for flag, label in _ISA.items() if flag in flags)


def _caches(root: Path = _SYS) -> tuple[Cache, ...]:
    """Data and unified caches, smallest level first."""
    instances: dict[tuple[int, int], set[str]] = {}
    for index in root.glob("devices/system/cpu/cpu[0-9]*/cache/index[0-9]*"):
        level, kind, size = _text(index / "level"), _text(index / "type"), _text(index / "size")
        sized = re.fullmatch(r"(\d+)([KM]?)", size or "")
        if level is None or kind == "Instruction" or sized is None:
            continue
        size_bytes = int(sized[1]) * {"": 1, "K": 2**10, "M": 2**20}[sized[2]]
        instances.setdefault((int(level), size_bytes), set()).add(_text(index / "shared_cpu_list") or str(index))
    return tuple(Cache(level, size, len(owners)) for (level, size), owners in sorted(instances.items()))


def _gpus() -> tuple[Gpu, ...]:
    listed = _output(
        "nvidia-smi", "--query-gpu=index,name,memory.total,driver_version", "--format=csv,noheader,nounits"
    )
    found = []
    for line in (listed or "").splitlines():
        cells = [cell.strip() for cell in line.split(",")]
        if len(cells) == 4 and cells[0].isdigit():
            mem = int(cells[2]) * 2**20 if cells[2].isdigit() else None
            found.append(Gpu(int(cells[0]), cells[1], mem, cells[3]))
    return tuple(found)


def _cpu_quota(root: Path = _SYS) -> float | None:
    """Cores' worth of processor time that the control group (version 2 or 1) grants; None without a limit."""
    both = (_text(root / "fs/cgroup/cpu.max") or "").split()
    if len(both) != 2:
        quota, period = (_text(root / f"fs/cgroup/cpu/cpu.cfs_{name}_us") for name in ("quota", "period"))
        both = [quota or "", period or ""]
    if all(part.isdigit() for part in both) and int(both[1]) > 0:
        return int(both[0]) / int(both[1])
    return None


def _virtualisation() -> str | None:
    if Path("/.dockerenv").exists():
        return "docker"
    found = _output("systemd-detect-virt")
    if found and found != "none":
        return found
    return "virtual machine" if "hypervisor" in (_text(_PROC / "cpuinfo") or "").split() else None
