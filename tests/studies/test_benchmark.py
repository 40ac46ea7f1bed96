"""A whole benchmark on the fake backend, whose forwards all cost the same: what guessing brings there is known."""

from __future__ import annotations

import pytest

from core.report.benchmark import markdown
from core.studies.benchmark import hold
from core.studies.plan import Benchmark, Configuration, Evaluation, Quality, Recipe
from core.studies.standings import standings
from core.types import Scalar

pytestmark = pytest.mark.usefixtures("unrepeated")
SLOW: dict[str, Scalar] = {"delay_s": 0.005}


def way(id: str, strategy: str = "autoregressive", **more: object) -> Configuration:
    found = {"recipe": "model", "own": "plain", "backend": "fake", "options": SLOW, "rounds": 1, **more}
    return Configuration(id=id, label=id.capitalize(), strategy=strategy, **found)  # type: ignore[arg-type]


BENCHMARK = Benchmark(
    name="small-benchmark",
    title="A small benchmark",
    model="smollm2-135m",
    recipes=(
        Recipe(id="model", label="Model", backend="fake"),
        Recipe(id="second", label="The same as a draft", backend="fake"),
        Recipe(id="broken", label="Broken", backend="fake", steps=(("no_such_transform", {}),)),
    ),
    configurations=(
        way("plain"),
        way("guessing", "jacobi", params={"window": 4}),
        way("draft", recipe="second", own="draft"),
        way("drafted", "speculative", drafts="second", params={"draft_length": 4}),
        way("broken", recipe="broken", own="broken"),
    ),
    baseline="plain",
    candidate="guessing",
    questions=2,
    looks=1,
    quality=Quality(baseline="draft", candidate="drafted", questions=3),
    away=Evaluation(eval="arithmetic", label="Arithmetic", metric="acc", settings={"n": 2}, generates=True),
    question="How many rows are there?",
    threads=1,
)


def test_a_benchmark_measures_and_predicts_every_way_to_decode() -> None:
    said: list[str] = []
    found = standings(hold(BENCHMARK, 10, said.append))
    rows = {row.id: row for row in found.rows}
    assert [rows[name].n for name in ("plain", "guessing", "draft", "drafted", "broken")] == [2, 2, 2, 2, 0]
    assert "no transform called" in rows["broken"].reason
    assert all(row.reason == "" and row.memory_bytes and row.tok_per_s for row in found.rows if row.id != "broken")

    guessing, drafted = rows["guessing"], rows["drafted"]
    assert rows["plain"].speedup is None and rows["plain"].predicted is None
    assert guessing.same == drafted.same == 1.0
    # a forward waits as long for four tokens as for one
    assert guessing.predicted == pytest.approx(guessing.tokens_per_forward, rel=0.5)
    # a draft by the model itself is always right: five tokens for four forwards of it and one of the model
    assert drafted.tokens_per_forward is not None and 4 < drafted.tokens_per_forward <= 5
    assert drafted.predicted == pytest.approx(drafted.tokens_per_forward / 5, rel=0.5)

    assert found.fastest == "plain", "the draft alone is another model"
    assert found.away is not None and found.away.n == 2
    assert found.quality is not None and found.quality.n == 3
    assert "over 3 further questions about" in markdown(found)
    for row in found.rows:
        assert row.label in markdown(found)
    costs = [w.split()[-1] for w in said if "/cost/" in w]
    assert sorted(costs) == ["draft/cost/0", "plain/cost/0"]

    close = [w.split()[-1] for w in said if "/quality/" in w]
    assert sorted(close) == ["draft/quality/0", "drafted/quality/0"], "only those that the plan names"

    said.clear()
    again = standings(hold(BENCHMARK, 10, said.append))
    assert not [w for w in said if "/round/" in w] and again.rows == found.rows, "nothing is done twice"
