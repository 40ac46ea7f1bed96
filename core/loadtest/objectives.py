"""When an answer counts as good: vLLM's names (ttft, tpot, e2el, in milliseconds), and MLPerf's limits as presets.

A request that failed is bad. One that lacks the number which an objective asks for is neither: it is counted apart.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, NamedTuple

from core.types import Record
from hardware.errors import ExplorerError

NAMES = ("ttft", "tpot", "e2el")
LABELS = {"ttft": "Time to first token", "tpot": "Time per output token", "e2el": "End-to-end latency"}
MOST_MS = 3_600_000.0
Verdict = Literal["good", "bad", "undetermined"]


class Objectives(Record):
    """Limits in milliseconds; None: none. share: of the requests that must keep them."""

    ttft: float | None = None
    tpot: float | None = None
    e2el: float | None = None
    share: float = 0.9

    @property
    def stated(self) -> dict[str, float]:
        """The limits that there are, by name."""
        return {name: value for name in NAMES if (value := getattr(self, name)) is not None}

    def __str__(self) -> str:
        return " ".join(f"{name}:{value:g}" for name, value in self.stated.items())


class Preset(NamedTuple):
    """Published limits and where they stand."""

    label: str
    objectives: Objectives
    source: str


_MLPERF = "MLPerf Inference v5/v6, loadgen mlperf.conf (2026-08): limits at p99, Poisson arrivals, at least 600 s"


def _mlperf(label: str, ttft: float, tpot: float) -> Preset:
    return Preset(label, Objectives(ttft=ttft, tpot=tpot, share=0.99), _MLPERF)


PRESETS: dict[str, Preset] = {
    "mlperf-llama3.1-8b-server": _mlperf("MLPerf Llama 3.1 8B, server", 2000, 100),
    "mlperf-llama3.1-8b-interactive": _mlperf("MLPerf Llama 3.1 8B, interactive", 500, 30),
    "mlperf-llama2-70b-server": _mlperf("MLPerf Llama 2 70B, server", 2000, 200),
    "mlperf-llama2-70b-interactive": _mlperf("MLPerf Llama 2 70B, interactive", 450, 40),
    "mlperf-llama3.1-405b-server": _mlperf("MLPerf Llama 3.1 405B, server", 6000, 175),
    "mlperf-llama3.1-405b-interactive": _mlperf("MLPerf Llama 3.1 405B, interactive", 4500, 80),
    "mlperf-deepseek-r1-server": _mlperf("MLPerf DeepSeek-R1, server", 2000, 80),
    "mlperf-deepseek-r1-interactive": _mlperf("MLPerf DeepSeek-R1, interactive", 1500, 15),
    "mlperf-gpt-oss-120b-server": _mlperf("MLPerf gpt-oss-120b, server", 3000, 80),
}


def objectives(words: Iterable[str], share: float | None = None) -> Objectives:
    """`ttft:200`, `tpot:50`, `e2el:5000` in milliseconds, and at most one preset by name, which they change.

    share: of the requests that must keep them; None: the preset's, else 0.9. Raises ExplorerError.
    """
    found = Objectives()
    given: dict[str, float] = {}
    for word in (w for several in words for w in several.replace(",", " ").split()):
        name, colon, value = word.partition(":")
        if not colon and name in PRESETS:
            found = PRESETS[name].objectives
            continue
        try:
            number = float(value)
        except ValueError:
            number = -1.0
        if name not in NAMES or not 0 < number <= MOST_MS:
            raise ExplorerError(
                f"'{word}' is not an objective.",
                "Write `ttft:200`, `tpot:50` or `e2el:5000` in milliseconds, or one of "
                f"{', '.join(f'`{preset}`' for preset in PRESETS)}.",
            )
        given[name] = number
    chosen = found.share if share is None else share
    if not 0 < chosen < 1:
        raise ExplorerError(
            f"{chosen:g} is not a share of the requests that must keep the objectives.",
            "Choose one between 0 and 1; with MLPerf's limits 0.99.",
        )
    return Objectives(**{**found.stated, **given}, share=chosen)


def judged(
    limits: Objectives, ttft_s: float | None, tpot_s: float | None, e2e_s: float | None, failed: bool
) -> Verdict:
    """Whether one request was good. Without any limit every answer that came is."""
    if failed:
        return "bad"
    measured = {"ttft": ttft_s, "tpot": tpot_s, "e2el": e2e_s}
    known = {name: measured[name] for name in limits.stated}
    if any(value is not None and value * 1e3 > limits.stated[name] for name, value in known.items()):
        return "bad"
    return "undetermined" if None in known.values() else "good"
