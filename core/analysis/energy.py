"""Energy of a phase: measured where a counter covers it, else estimated with a range, else nothing.

An estimate is a linear function of time and load. It says nothing that the time does not say already, so it
never enters a significance test or a composite beside speed, and never stands unlabelled beside a measured value.
Meters disagree with such estimates by up to 40 % (arXiv 2509.22092); the range here is wider.
"""

from __future__ import annotations

from core.types import Energy, EnergyReading, Host, Setup

# Half to one and a half times the middle: the disagreement above, and a share of a host that nobody knows.
LOW, HIGH = 0.5, 1.5
# What a processor takes when idle, as a share of what it takes when busy, and memory per GiB (DDR4 and DDR5 DIMMs).
IDLE_SHARE = 0.1
MEMORY_W_PER_GIB = 0.1
# A busy thread of an unknown processor: server parts sell 1 to 5 W per hardware thread, laptops 1 to 3.
TYPICAL_W_PER_THREAD = 2.5


def of_phase(reading: EnergyReading, n_tokens: int, setup: Setup, host: Host | None) -> Energy | None:
    """What a phase used, `n_tokens` being those of all sequences: measured if any counter counted, else estimated.

    A run on an accelerator is never estimated, for its share of the card's power
    is not known.
    """
    if reading.counted_j:
        return measured(reading, n_tokens)
    if setup.device != "cpu":
        return None
    return estimated(reading, n_tokens, mem_bytes=float(host.machine.mem_bytes) if host else 0.0)


def measured(reading: EnergyReading, n_tokens: int) -> Energy | None:
    """From counters; None when there are none or nothing was counted.

    A counter is updated every millisecond (RAPL) to tenth of a second (NVML): below half a second it says little.
    """
    joules = sum(reading.counted_j.values())
    if joules <= 0 or reading.seconds <= 0:
        return None
    return _energy(
        reading,
        n_tokens,
        (joules, joules, joules),
        method=", ".join(reading.counted_j),
        measured=True,
        idle_j=None if reading.idle_w is None else reading.idle_w * reading.seconds,
    )


def estimated(reading: EnergyReading, n_tokens: int, mem_bytes: float) -> Energy | None:
    """Watts of a typical thread for every thread kept busy, and memory; None when nothing was running.

    Not of a data sheet: its power is the whole processor's, and of a virtual machine's host nobody knows our share.
    mem_bytes: of this machine.
    """
    if reading.seconds <= 0 or reading.cpu_s <= 0:
        return None
    processor_j = TYPICAL_W_PER_THREAD * reading.cpu_s
    memory_j = MEMORY_W_PER_GIB * mem_bytes / 2**30 * reading.seconds
    joules = processor_j + memory_j
    return _energy(
        reading,
        n_tokens,
        (LOW * joules, joules, HIGH * joules),
        method=f"estimate: {TYPICAL_W_PER_THREAD:g} W for a busy thread of an unknown processor",
        measured=False,
        idle_j=IDLE_SHARE * processor_j + memory_j,
    )


def _energy(
    reading: EnergyReading,
    n_tokens: int,
    low_middle_high: tuple[float, float, float],
    *,
    method: str,
    measured: bool,
    idle_j: float | None,
) -> Energy:
    low, middle, high = low_middle_high
    per_token = [joules / n_tokens if n_tokens > 0 else None for joules in low_middle_high]
    return Energy(
        phase=reading.phase,
        seconds=reading.seconds,
        n_tokens=n_tokens,
        joules=middle,
        low_j=low,
        high_j=high,
        joules_per_token=per_token[1],
        low_j_per_token=per_token[0],
        high_j_per_token=per_token[2],
        method=method,
        provenance="measured" if measured else "estimated",
        idle_j=idle_j,
        missing=reading.missing,
    )
