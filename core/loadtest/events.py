"""What happened in a load test, one line each in its `events.jsonl`: the truth from which everything is computed.

Times are seconds of one monotonic clock: of a level and its requests since the level began (`_s`), of an event since
the test was asked for (`t_s`).
"""

from __future__ import annotations

from core.types import Record

OURS = "stopped"  # the failure of a request that we ended: the level was over, or the user stopped the test

CLIENT = "client"  # of one that failed for a reason of the load generator's own


class Outcome(Record):
    """One request.

    scheduled_s: when it was due (open loop). sent_s: when its body went out, after connecting, which took connect_s;
    None: it never was. first_s, last_s: the first and the last token of any channel. ended_s: the end of the stream or
    the failure. n_tokens: of the answer, counted as counted_by says; first_tokens: of its first chunk. single: every
    chunk was one token. gaps_s: between chunks. failure: its kind; empty: none, "stopped": we ended it.
    """

    index: int
    ended_s: float
    begun_s: float
    scheduled_s: float | None = None
    sent_s: float | None = None
    connect_s: float | None = None
    first_s: float | None = None
    last_s: float | None = None
    n_tokens: int | None = None
    first_tokens: int | None = None
    asked_tokens: int | None = None
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    counted_by: str = ""
    single: bool = False
    gaps_s: tuple[float, ...] = ()
    failure: str = ""
    reason: str = ""

    @property
    def origin_s(self) -> float | None:
        """From where latency counts: in open loop from when it was due, else from when it was sent."""
        return self.scheduled_s if self.scheduled_s is not None else self.sent_s

    @property
    def ttft_s(self) -> float | None:
        return None if self.first_s is None or self.origin_s is None else self.first_s - self.origin_s

    @property
    def e2e_s(self) -> float | None:
        """To the last token; None for an answer that did not come whole."""
        if self.failure or self.last_s is None or self.origin_s is None:
            return None
        return self.last_s - self.origin_s

    @property
    def tpot_s(self) -> float | None:
        """(last - first token) / tokens after the first chunk; None where there are none, or nobody counted them."""
        if self.failure or self.n_tokens is None or self.first_s is None or self.last_s is None:
            return None
        after = self.n_tokens - (self.first_tokens or 1)
        return (self.last_s - self.first_s) / after if after > 0 and self.n_tokens >= 2 else None

    @property
    def delay_s(self) -> float | None:
        """How much later than scheduled it was begun."""
        return None if self.scheduled_s is None else self.begun_s - self.scheduled_s


class Began(Record, tag="began"):
    """A level begins. probe: of a search."""

    t_s: float
    level: int
    load: float
    repeat: int = 0
    probe: bool = False


class Opened(Record, tag="opened"):
    """The warm-up is over: from `at_s` on it counts."""

    t_s: float
    level: int
    at_s: float


class Answered(Record, tag="answered"):
    t_s: float
    level: int
    outcome: Outcome


class Ended(Record, tag="ended"):
    """A level is over. close_s: the end of its window; cpu_s: what this process used from the window's start to there.

    why: "time", "requests" (the limit of requests), "stopped" or "clock" (the limit of minutes). waiting: users who
    had not had an answer when the window opened.
    """

    t_s: float
    level: int
    close_s: float
    cpu_s: float | None = None
    why: str = "time"
    waiting: int = 0


class Told(Record, tag="told"):
    """Something worth knowing: which server it is, why levels are left out."""

    t_s: float
    words: str


class Done(Record, tag="done"):
    t_s: float
    stopped: bool = False


class Broken(Record, tag="broken"):
    t_s: float
    message: str
    hint: str = ""


Event = Began | Opened | Answered | Ended | Told | Done | Broken
