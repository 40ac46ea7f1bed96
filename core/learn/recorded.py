"""What was recorded once and ships with the project: the run, the two studies. It stands in on a fresh machine."""

from __future__ import annotations

import zipfile
from functools import cache

import msgspec

from core.runs.demo import BUNDLE
from core.studies import study_store
from core.studies.findings import Findings
from core.studies.standings import Standings
from hardware.ceilings import Ceilings
from hardware.device import Device

RECORDED_MACHINE = "The recorded machine"


@cache
def device() -> Device | None:
    """The measured ceilings of the machine that made the recorded run, as a device; None where they are not shipped."""
    if not BUNDLE.is_file():
        return None
    with zipfile.ZipFile(BUNDLE) as file:
        if "ceilings.json" not in file.namelist():
            return None
        return msgspec.json.decode(file.read("ceilings.json"), type=Ceilings).as_device(RECORDED_MACHINE)


@cache
def benchmark() -> Standings | None:
    """The recorded decoding benchmark."""
    return next((f for f in _shipped("decoding-smollm2") if isinstance(f, Standings)), None)


@cache
def ladder() -> Findings | None:
    """The recorded compression ladder."""
    return next((f for f in _shipped("ladder") if isinstance(f, Findings)), None)


def _shipped(start: str) -> list[Findings | Standings]:
    folders = sorted(p for p in study_store.RECORDED.glob(f"{start}*") if (p / "findings.json").is_file())
    return [study_store.read(str(p)) for p in folders]
