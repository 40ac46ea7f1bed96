"""What comes from SciPy and statsmodels is what Roofscope's own code gave before, to the last digits that it had."""

import subprocess
import sys

import pytest

from core.stats.intervals import wilson
from core.stats.proportions import mcnemar
from core.stats.quantiles import quantile, student_t
from core.stats.sample_size import detectable_paired


def test_what_we_computed_ourselves_stays_as_it_was() -> None:
    assert mcnemar(3, 17) == pytest.approx(0.0025768280029296875, rel=1e-12)
    assert mcnemar(40, 61) == pytest.approx(0.046044066929342806, rel=1e-12)
    found = wilson(81, 263)
    assert (found.low, found.high) == (pytest.approx(0.2552885198782743), pytest.approx(0.3662095769828001))
    assert student_t(0.975, 7) == pytest.approx(2.364624251592783)
    assert student_t(0.95, 3) == pytest.approx(2.353363434801821)
    middle = quantile(list(range(1, 501)), 0.95)
    assert (middle.value, middle.low, middle.high) == (475.0, 465.0, 485.0)


@pytest.mark.parametrize(
    ("n", "discordance", "least"),
    [
        (57, 0.2, 0.1625421958669848),
        (98, 0.2, 0.12504619804080555),
        (300, 0.05, 0.03602636203879063),
        (1000, 0.1, 0.02798283630447352),
    ],
)
def test_so_do_detectable_differences(n: int, discordance: float, least: float) -> None:
    assert detectable_paired(n, discordance) == pytest.approx(least, rel=1e-6)


def test_the_room_itself_loads_neither() -> None:
    """They take more than a second, which the app's start does not have and the measuring worker must not spend."""
    rooms = "intervals, paired, pareto, proportions, quantiles, sample_size, scores"
    code = f"import sys; from core.stats import {rooms}; print(sorted({{'scipy', 'statsmodels'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
