"""Verdicts are made when a run is read: of today's ceilings, and in place of those that an old run wrote down."""

from __future__ import annotations

import time

import msgspec
import pytest

from core.runs import verdicts
from core.runs.store import Store
from core.runs.verdicts import _WRITTEN, with_verdicts
from core.types import Done, Request, Warned
from tests.runs.test_summarize import SPEC, loaded

OLD = (
    "In decode the 210 matrix layers in bf16 reach 3.1 GB/s of weights, 45 times slower than fp32 could be on this "
    "machine: this processor has no bf16 instructions, so every product is emulated.",
    "Lm_head was left in fp32 while the rest is int8: it shares the table of embed, which quantizers pass over; that "
    "is 55% of the weight bytes that a decode step reads.",
    "12 matrices, blocks.0.mlp.down_proj among them, were left in fp16 while the rest is q4_k; that is 30% of the "
    "weight bytes that a decode step reads.",
    "The file calls itself Q4_K - Medium, which is 4.5 bits per weight, but its matrices hold 6.1: part of them is "
    "stored in a higher precision.",
)


def test_an_old_runs_own_verdicts_give_way(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    run = store.create(Request(model="m", backend="fake"))
    for event in (loaded(), *(Warned(t_s=2, message=words) for words in (*OLD, "Hot.")), Done(t_s=3)):
        run.append(event)
    assert run.result().warnings == ("Hot.",)
    monkeypatch.setattr(verdicts.fallback, "warnings", lambda *given: ("Today's word.",))
    assert run.result().warnings == ("Hot.", "Today's word.")
    evaluated = msgspec.structs.replace(run.result(), task="evaluate", warnings=())
    assert with_verdicts(evaluated, SPEC, None).warnings == (), "only generations are judged"


def test_a_warning_made_to_hold_it_up_does_not(store: Store) -> None:
    """A bundle may hold a megabyte of what such a sentence begins with."""
    began = time.process_time()
    words = "x was left in " * 70_000
    run = store.create(Request(model="m", backend="fake"))
    for event in (loaded(), Warned(t_s=2, message=words), Done(t_s=3)):
        run.append(event)
    assert run.result().warnings == (words,) and time.process_time() - began < 5


def test_no_other_warning_is_taken_for_a_verdict() -> None:
    for words in (
        "The context of 9000 tokens is longer than the 8192 the model was trained on.",
        "This CPU has no bf16 instructions: bf16 is emulated and slower than fp32.",
        "3 weights are not in the files and were made up: a, b, c.",
    ):
        assert not _WRITTEN.match(words)
