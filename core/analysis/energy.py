"""Energy of a phase: measured where a counter covers it, else estimated with a range, else nothing.

An estimate is a linear function of time and load. It says nothing that the time does not say already, so it
never enters a significance test or a composite beside speed, and never stands unlabelled beside a measured value.
Meters disagree with such estimates by up to 40 % (arXiv 2509.22092); the range here is wider.
"""

from __future__ import annotations

from typing import Literal

from core.types import Record

# Half to one and a half times the middle: the disagreement above, and a share of a host that nobody knows.
LOW, HIGH = 0.5, 1.5
# What a processor takes when idle, as a share of its thermal design power, and memory per GiB (DDR4 and DDR5 DIMMs).
IDLE_SHARE = 0.1
MEMORY_W_PER_GIB = 0.1
# When nothing is known of the processor: server parts sell 1 to 5 W per hardware thread, laptops 1 to 3.
TYPICAL_W_PER_THREAD = 2.5


class Energy(Record, omit_defaults=False):
    """Joules of one phase. measured: low = joules = high. idle_j: the part that would have been used anyway."""

    phase: Literal["prefill", "decode"]
    joules: float
    low_j: float
    high_j: float
    seconds: float
    method: str  # "RAPL package-0, dram 0:0", "estimate from the thermal design power", ...
    provenance: Literal["measured", "estimated"]
    idle_j: float | None = None

    def per_token(self, n_tokens: int) -> tuple[float, float, float] | None:
        """(low, joules, high) per token; None without tokens."""
        return (self.low_j / n_tokens, self.joules / n_tokens, self.high_j / n_tokens) if n_tokens > 0 else None

    @property
    def net_j(self) -> float | None:
        """Without the idle part; None when that is not known."""
        return None if self.idle_j is None else max(0.0, self.joules - self.idle_j)

    @property
    def comparable(self) -> bool:
        """Whether it may enter a test or a composite: only what was measured."""
        return self.provenance == "measured"


def measured(
    phase: Literal["prefill", "decode"],
    joules: dict[str, float],
    seconds: float,
    method: str,
    idle_w: float | None = None,
) -> Energy | None:
    """From counters, by their names; None when there are none or nothing was counted.

    A counter is updated every millisecond (RAPL) to tenth of a second (NVML): below half a second it says little.
    idle_w: power of the same counters while nothing ran.
    """
    total = sum(joules.values())
    if not joules or total <= 0 or seconds <= 0:
        return None
    return Energy(
        phase=phase,
        joules=total,
        low_j=total,
        high_j=total,
        seconds=seconds,
        method=f"{method} {', '.join(joules)}",
        provenance="measured",
        idle_j=None if idle_w is None else idle_w * seconds,
    )


def estimated(
    phase: Literal["prefill", "decode"],
    seconds: float,
    busy_threads: float,
    *,
    tdp_w: float | None = None,
    host_threads: int | None = None,
    mem_bytes: float = 0.0,
) -> Energy | None:
    """P = idle share + (TDP / host's threads) * threads kept busy + memory; None when nothing was running.

    tdp_w and host_threads describe the whole processor: of a virtual machine that is the host's, and one
    without the other does not say what our share of it is, so both or neither are used. mem_bytes: of this
    machine. busy_threads: mean of threads at work.
    """
    if seconds <= 0 or busy_threads <= 0:
        return None
    if tdp_w is not None and host_threads is not None and host_threads > 0:
        per_thread = tdp_w / host_threads
        method = f"estimate: {tdp_w:g} W over {host_threads} threads"
    else:
        per_thread = TYPICAL_W_PER_THREAD
        method = f"estimate: {TYPICAL_W_PER_THREAD:g} W for a busy thread of an unknown processor"
    memory_w = MEMORY_W_PER_GIB * mem_bytes / 2**30
    idle_w = IDLE_SHARE * per_thread * busy_threads + memory_w
    power = idle_w + (1 - IDLE_SHARE) * per_thread * busy_threads
    joules = power * seconds
    return Energy(
        phase=phase,
        joules=joules,
        low_j=LOW * joules,
        high_j=HIGH * joules,
        seconds=seconds,
        method=method,
        provenance="estimated",
        idle_j=idle_w * seconds,
    )
