"""Which of a model's answers count for a line over lengths, and what two sources of its size give."""

from __future__ import annotations

import msgspec
import pytest

from core.analysis.implied import Timing
from core.models import catalogue, spec
from core.runs.over_lengths import behind, of, timings
from core.runs.recording import Recording
from core.runs.store import Store
from core.runs.summarize import summarize
from core.types import Account, Request, Result
from tests.analysis.test_implied import DEVICE, EXACT

SERVED = Account(t_s=0.0, n_prompt=100, n_tokens=10)


def result(served: Account | None, **more: object) -> Result:
    plain = summarize("r", Recording(Request(model="m", backend="endpoint"), ()), "done")
    return msgspec.structs.replace(plain, ttft_s=0.1, tpot_s=0.01, served=served, n_new_tokens=10, **more)


def test_what_counts_of_an_answer() -> None:
    assert of(result(SERVED)) == Timing(n_prompt=100, n_context=105, ttft_s=0.1, itl_s=0.01)
    cached = of(result(msgspec.structs.replace(SERVED, cached=64)))
    assert cached is not None and cached.ttft_s is None and cached.itl_s == 0.01
    whole = msgspec.structs.replace(SERVED, streamed=False)
    for without in (None, whole, msgspec.structs.replace(SERVED, n_prompt=None)):
        assert of(result(without)) is None


def test_no_runs_give_no_timings(store: Store) -> None:
    assert timings(store, "m") == ()


def test_the_configuration_counts_before_what_the_server_says() -> None:
    """1 GB in 10 ms is 100 GB/s; of GPT-2's own bytes the same times say something else."""
    told = behind(EXACT, DEVICE, None, 10**9, 5 * 10**8)
    assert told.implied.bandwidth is not None and told.implied.bandwidth.value == pytest.approx(1e11)
    assert (told.at, told.of, told.step) == (1005, 1000, ())
    model = spec.read(catalogue.find("gpt2").files["config"], "config")
    own = behind(EXACT, DEVICE, model, 10**9)
    assert own.implied.bandwidth is not None
    kv = 12 * 2 * 768 * 2  # blocks, keys and values, width, bytes of fp16
    assert own.implied.bandwidth.value == pytest.approx(kv / 1e-6)
    assert sum(part.seconds.value for part in own.step) == pytest.approx(0.011005)
    assert sum(part.seconds.value for part in own.prompt) == pytest.approx(1.03)
