"""`what-if`: sentences, elasticities, the front, and bad input in one sentence with exit status 2."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from core.cli import cli

ARGS = ("what-if", "--model", "llama-2-7b", "--device", "RTX 4090", "--weights", "q4_0")


def core(*args: str) -> Result:
    return CliRunner().invoke(cli, [*args])


def test_what_if(home: Path) -> None:
    done = core(*ARGS, "--change", "bandwidth=2", "--dollars", "2500", "--price", "T4=700@2026-05", "--json")
    found = json.loads(done.stdout)
    assert found["device"] == "RTX 4090, changed"
    assert "twice the bandwidth buys ×" in found["sentences"][1]
    decode = {p["name"]: p for p in found["phases"]}["decode"]
    assert decode["speedup"] > 1.5
    for phase in found["elasticities"].values():
        assert sum(e["share"] for e in phase) == pytest.approx(1.0)
    assert {c["name"] for c in found["front"] if c["on_front"]} == {"T4", "RTX 4090, changed"}
    told = core(*ARGS).stdout
    assert "twice buys" in told and "It needs a device of" in told


@pytest.mark.parametrize(
    "more",
    [
        ("--change", "bandwidth=0"),
        ("--change", "bandwidth"),
        ("--change", "wings=2"),
        ("--dollars", "0"),
        ("--price", "T4=0@2026"),
        ("--price", "T4=cheap@2026"),
        ("--memory-gb", "0"),
        ("--cache-mb", "10"),
        ("--prompt-tokens", "0"),
        ("--against", "abacus"),
        ("--weights", "float3"),
    ],
)
def test_what_if_refuses_what_cannot_be(home: Path, more: tuple[str, ...]) -> None:
    done = core(*ARGS, *more)
    assert done.exit_code == 2 and len(done.stderr.strip().splitlines()) == 2, done.stderr
