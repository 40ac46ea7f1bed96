"""The studies that can be carried out, with their plans and the time each is meant to take."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from core.studies.decoding import claim, decoding, easy
from core.studies.ladder import ladder
from core.studies.plan import Benchmark, Plan


class Kind(NamedTuple):
    """plan: model id -> what to do. minutes: for all of it, on two cores."""

    label: str
    minutes: float
    plan: Callable[[str], Plan | Benchmark]


KINDS: Mapping[str, Kind] = {
    "ladder": Kind("Compression ladder", 50.0, ladder),
    "decoding": Kind("Decoding benchmark", 150.0, decoding),
    "consistency": Kind("Consistency training", 120.0, claim),
    "decoding-easy": Kind("Decoding benchmark, the easy setting", 40.0, easy),
}
