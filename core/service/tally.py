"""What the service has answered, as Prometheus reads it: vLLM's names under our prefix, and forwards beside tokens."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

PREFIX = "roofscope:"
SECONDS = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 640)
TIMES = {
    "time_to_first_token_seconds": "From the request to its first token, waiting included.",
    "request_time_per_output_token_seconds": "Seconds per token after the first step's.",
    "e2e_request_latency_seconds": "From the request to its last token, waiting included.",
    "request_queue_time_seconds": "From the request to the beginning of its answer.",
}


class Histogram:
    """Cumulative counts at upper bounds, as Prometheus has them."""

    def __init__(self, bounds: Sequence[float] = SECONDS) -> None:
        self._bounds, self._counts = tuple(bounds), [0] * (len(bounds) + 1)
        self.total, self.n = 0.0, 0

    def add(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self.total, self.n = self.total + value, self.n + 1

    def lines(self, name: str) -> list[str]:
        below, found = 0, []
        for bound, count in zip((*self._bounds, None), self._counts, strict=True):
            below += count
            found.append(f'{name}_bucket{{le="{"+Inf" if bound is None else f"{bound:g}"}"}} {below}')
        return [*found, f"{name}_sum {self.total:.9g}", f"{name}_count {self.n}"]


class Tally:
    """Counts since the service began."""

    def __init__(self) -> None:
        self.prompt_tokens = self.generation_tokens = self.forwards = 0
        self.guessed = self.right = 0
        self.ended: dict[str, int] = {"stop": 0, "length": 0, "abort": 0, "error": 0}
        self.sent_away = 0
        self.times = {name: Histogram() for name in TIMES}

    def answered_s(self, guess: float) -> float:
        """Mean seconds that an answer took, without its waiting; `guess` before there was one."""
        whole, waited = self.times["e2e_request_latency_seconds"], self.times["request_queue_time_seconds"]
        return max(0.0, whole.total - waited.total) / whole.n if whole.n else guess

    def text(self, running: int, waiting: int) -> str:
        """The exposition format."""
        lines: list[str] = []

        def put(name: str, kind: str, about: str, *rows: str) -> None:
            lines.extend((f"# HELP {PREFIX}{name} {about}", f"# TYPE {PREFIX}{name} {kind}", *rows))

        def one(name: str, kind: str, about: str, value: int) -> None:
            put(name, kind, about, f"{PREFIX}{name} {value}")

        one("num_requests_running", "gauge", "Answers that are being given.", running)
        one("num_requests_waiting", "gauge", "Questions in the queue.", waiting)
        one("prompt_tokens_total", "counter", "Tokens of prompts.", self.prompt_tokens)
        one("generation_tokens_total", "counter", "Tokens of answers.", self.generation_tokens)
        one("forwards_total", "counter", "Forward passes of the model, those of prompts too.", self.forwards)
        one("spec_decode_num_draft_tokens_total", "counter", "Tokens that were guessed.", self.guessed)
        one("spec_decode_num_accepted_tokens_total", "counter", "Guesses that were right.", self.right)
        one("requests_sent_away_total", "counter", "Questions for which the queue was full.", self.sent_away)
        rows = [f'{PREFIX}request_success_total{{finished_reason="{why}"}} {n}' for why, n in self.ended.items()]
        put("request_success_total", "counter", "Answers by how they ended.", *rows)
        for name, about in TIMES.items():
            put(name, "histogram", about, *self.times[name].lines(PREFIX + name))
        return "\n".join(lines) + "\n"
