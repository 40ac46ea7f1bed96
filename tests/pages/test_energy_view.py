"""Joules per token on a page: the label and the range are never left out."""

from __future__ import annotations

from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from core.types import Energy
from pages.ui.energy_view import energy_line


def energy(**changes: Any) -> Energy:
    fields: dict[str, Any] = {
        "phase": "decode", "seconds": 10.0, "n_tokens": 20, "joules": 10.0, "low_j": 5.0, "high_j": 15.0,
        "joules_per_token": 0.5, "low_j_per_token": 0.25, "high_j_per_token": 0.75,
        "method": "estimate: 2.5 W", "provenance": "estimated",
    }  # fmt: skip
    return Energy(**{**fields, **changes})


def test_an_estimate_shows_its_range_and_its_badge() -> None:
    line = energy_line(energy())
    assert "0.500 J per token" in line and "0.250 J to 0.750 J" in line and "estimated" in line


def test_a_measurement_has_no_range_and_tells_what_is_above_idle() -> None:
    line = energy_line(energy(provenance="measured", method="RAPL package-0", idle_j=4.0))
    assert " to " not in line and "6.00 J above idle" in line and "measured" in line


def test_without_tokens_there_is_a_dash() -> None:
    assert "**– per token**" in energy_line(energy(n_tokens=0, joules_per_token=None))


@pytest.mark.parametrize("asked", [True, False])
def test_it_is_drawn_where_energy_was_asked_for(asked: bool) -> None:
    def page(asked: bool) -> None:
        from types import SimpleNamespace

        from pages.ui.energy_view import draw_energy
        from tests.pages.test_energy_view import energy

        draw_energy(SimpleNamespace(energy=(energy(),) if asked else ()))  # type: ignore[arg-type]

    at = AppTest.from_function(page, kwargs={"asked": asked}).run()
    assert not at.exception
    assert any("per token" in m.value for m in at.markdown) is asked
