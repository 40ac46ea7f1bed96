"""Energy counters of this machine: joules since some moment, where the hardware counts them and lets us read.

Linux powercap (RAPL): the package and DRAM zones. Sub-zones such as core and uncore are parts of the package,
and psys contains it, so they are never added to it. NVIDIA cards since Volta count millijoules (NVML).
A counter covers the whole chip and everything that runs on it. Estimates are not made here: see
core.analysis.energy.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

# A container may have the host's folder mounted elsewhere: its own /sys hides it.
_POWERCAP = Path(os.environ.get("ROOFSCOPE_POWERCAP", "/sys/class/powercap"))
_PACKAGE_OR_DRAM = re.compile(r"(package|dram)(-\d+)?$")


class Counter:
    """A counter that grows; a wrap-around between two reads is made good if it is read often enough.

    RAPL wraps after 2**18 J and more: minutes to hours at a processor's power.
    """

    def __init__(self, name: str, method: str, read_j: Callable[[], float], wraps_at_j: float | None = None) -> None:
        self.name, self.method = name, method
        self._read_j, self._wraps_at_j = read_j, wraps_at_j
        self._last_j = read_j()
        self._sum_j = 0.0

    def read_j(self) -> float:
        """Joules since the counter was opened or last reset; raises OSError when it can no longer be read."""
        now = self._read_j()
        grown = now - self._last_j
        if grown < 0 and self._wraps_at_j is not None:
            grown += self._wraps_at_j
        self._last_j = now
        self._sum_j += max(0.0, grown)
        return self._sum_j

    def reset(self) -> None:
        """Count from now on."""
        self.read_j()
        self._sum_j = 0.0


def counters(root: Path = _POWERCAP) -> tuple[Counter, ...]:
    """Every counter that can be read here; empty in most virtual machines."""
    return (*_rapl(root), *_nvml())


def unavailable(root: Path = _POWERCAP) -> str | None:
    """None when there is a counter, else one sentence that says why there is none and what would help."""
    if counters(root):
        return None
    zones = [zone for zone in _zones(root) if _PACKAGE_OR_DRAM.match(_name(zone))]
    if zones:
        return (
            f"The energy counter {zones[0] / 'energy_uj'} may be read by root only: "
            "let this user read it, or run as root, to measure energy."
        )
    return "This machine shows no energy counter (no RAPL under /sys/class/powercap, no NVIDIA card): only an estimate."


def _zones(root: Path) -> list[Path]:
    """RAPL zones by their path; AMD and Intel share the name intel-rapl."""
    return sorted(root.glob("intel-rapl:*"))


def _name(zone: Path) -> str:
    try:
        return (zone / "name").read_text().strip()
    except OSError:
        return ""


def _rapl(root: Path) -> list[Counter]:
    found = []
    for zone in _zones(root):
        name = _name(zone)
        # The same zones may be listed a second time under intel-rapl-mmio: that glob leaves them out.
        if not _PACKAGE_OR_DRAM.match(name):
            continue
        # dram zones are called the same in every package, so the zone's number tells them apart
        label = name if name.startswith("package") else f"{name} {zone.name.removeprefix('intel-rapl:')}"
        try:
            limit = int((zone / "max_energy_range_uj").read_text()) / 1e6
            found.append(Counter(label, "RAPL", _microjoules(zone / "energy_uj"), limit))
        except (OSError, ValueError):
            continue
    return found


def _microjoules(path: Path) -> Callable[[], float]:
    def read() -> float:
        text = path.read_text()
        try:
            return int(text) / 1e6
        except ValueError as error:
            raise OSError(f"{path} holds no number") from error

    return read


def _nvml() -> list[Counter]:
    try:
        import pynvml
    except ImportError:
        return []
    try:
        pynvml.nvmlInit()
        handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
    except pynvml.NVMLError:
        return []
    found = []
    for i, handle in enumerate(handles):
        try:
            found.append(Counter(f"gpu {i}", "NVML", _millijoules(pynvml, handle)))
        except (pynvml.NVMLError, OSError):
            continue
    return found


def _millijoules(pynvml: object, handle: object) -> Callable[[], float]:
    def read() -> float:
        try:
            return float(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)) / 1e3  # type: ignore[attr-defined]
        except pynvml.NVMLError as error:  # type: ignore[attr-defined]
            raise OSError(f"NVML: {error}") from error

    return read
