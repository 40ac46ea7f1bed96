"""What a benchmark says, against values worked out by hand."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from core import plugins
from core.plugins import settings
from core.report import benchmark
from core.stats.intervals import Interval
from core.studies import study_store
from core.studies.decoding import claim, decoding, easy
from core.studies.plan import Benchmark
from core.studies.standings import Standing, Standings, _energy, _forwards, latency_ratio, speed_ratio
from core.types import Counts, Energy, Item, to_json
from hardware.detect import machine
from hardware.errors import ExplorerError


def item(name: str, n: int, seconds: float, ttft_s: float = 0.0, **ran: int) -> Item:
    """n: tokens of the answer, the first one too."""
    counts = Counts(tokens=n - 1, **ran)
    return Item(t_s=0, id=name, cluster=name, values={"acc": 1.0}, counts=counts, seconds=seconds, ttft_s=ttft_s)


def test_speed_counts_the_tokens_after_the_first_on_common_questions() -> None:
    slow = [item("a", 11, 1.0), item("b", 21, 2.0), item("only", 5, 9.0)]
    fast = [item("b", 31, 1.0), item("a", 11, 0.5)]
    ratio = speed_ratio(slow, fast)
    assert ratio is not None and ratio.n == 2
    assert ratio.value == pytest.approx((40 / 1.5) / (30 / 3.0))


def test_an_answer_of_one_token_has_no_speed_but_a_latency() -> None:
    a, b = [item("a", 1, 0.0, 0.4)], [item("a", 1, 0.0, 0.2)]
    assert speed_ratio(a, b) is None
    latency = latency_ratio(a, b)
    assert latency is not None and latency.value == pytest.approx(2.0)


def test_forwards_are_those_of_decoding() -> None:
    found = _forwards([item("a", 9, 0.4, forwards=2, inputs=32), item("b", 5, 0.2, forwards=2, inputs=16)])
    assert found == (pytest.approx(3.0), pytest.approx(0.15), pytest.approx(12.0))
    assert _forwards([item("a", 1, 0.0)]) == (None, None, None)


def test_joules_per_token_are_a_forwards_joules_over_the_tokens_it_gives_on_the_questions() -> None:
    spent = Energy(
        phase="decode",
        seconds=1.0,
        n_tokens=40,
        joules=8.0,
        low_j=4.0,
        high_j=16.0,
        joules_per_token=0.2,
        low_j_per_token=0.1,
        high_j_per_token=0.4,
        method="estimate",
        provenance="estimated",
    )
    detail: Any = SimpleNamespace(energy=(spent,), tokens_per_forward=2.0)
    found = _energy(detail, 4.0)  # 0.4 J per forward, which gives 4 tokens on the questions
    assert found is not None
    assert (found.joules_per_token, found.low_j_per_token, found.high_j_per_token) == pytest.approx((0.1, 0.05, 0.2))
    assert _energy(None, 4.0) is None and _energy(detail, None) == spent


@pytest.mark.parametrize("plan", [decoding(), claim(), easy()], ids=lambda p: p.name)
def test_the_plan_names_only_what_exists(plan: Benchmark) -> None:
    recipes, ids = {r.id for r in plan.recipes}, {c.id for c in plan.configurations}
    assert {c.recipe for c in plan.configurations} | {c.drafts for c in plan.configurations} <= recipes | {""}
    closely = {plan.quality.baseline, plan.quality.candidate} if plan.quality else set()
    assert {c.own for c in plan.configurations} | {plan.baseline, plan.candidate} | closely <= ids
    assert all(plan.configuration(c.own).strategy == "autoregressive" for c in plan.configurations)
    for c in plan.configurations:
        settings(plugins.get("strategy", c.strategy).Params, c.params, c.label)
    for name, given in (step for r in plan.recipes for step in r.steps):
        settings(plugins.get("transform", name).Params, given, name)
    evaluations = [(plan.eval, plan.settings), *([(plan.away.eval, plan.away.settings)] if plan.away else [])]
    for name, given in evaluations:
        settings(plugins.get("eval", name).Params, given, name)


def standings() -> Standings:
    plan = decoding()
    rows = tuple(
        Standing(id=c.id, label=c.label, backend=c.backend, strategy=c.strategy, reason="It was not asked.")
        for c in plan.configurations
    )
    return Standings(
        plan=plan,
        rows=rows,
        fastest=plan.baseline,
        curves=(),
        machine=machine(),
        begun="2026-11-22",
        spent_s=60.0,
    )


def test_the_report_of_a_benchmark_that_went_wrong_says_why() -> None:
    page, table = benchmark.html(standings()).decode(), benchmark.markdown(standings())
    assert "It was not asked." in page and "It was not asked." in table
    assert "default-src 'none'" in page, "it opens without a network"


def test_the_report_says_why_a_configuration_loses() -> None:
    slow = Standing(
        id="cllm-q4_1-jacobi-16",
        label="Jacobi",
        backend="llama_cpp",
        strategy="jacobi",
        n=9,
        accuracy=1.0,
        tokens_per_forward=4.2,
        predicted=0.7,
        over_autoregressive=Interval(value=0.68, low=0.6, high=0.7, n=9),
    )
    rows = tuple(slow if r.id == slow.id else r for r in standings().rows)
    words = benchmark.words(msgspec.structs.replace(standings(), rows=rows))
    assert any("cost 6.0 times one of a single token and give 4.20 tokens." in w for w in words)


def test_disturbed_rounds_are_marked_with_every_ratio_that_they_are_in() -> None:
    ratio = Interval(value=0.68, low=0.6, high=0.7, n=9)

    def row(name: str, disturbed: int) -> Standing:
        c = decoding().configuration(name)
        return Standing(
            id=name,
            label=c.label,
            backend=c.backend,
            strategy=c.strategy,
            n=9,
            tok_per_s=50.0,
            speedup=ratio,
            over_autoregressive=ratio,
            disturbed=disturbed,
        )

    def told(noisy: str) -> tuple[str, list[str]]:
        quiet = {r.id: r for r in standings().rows}
        quiet |= {name: row(name, int(name == noisy)) for name in (mine, own)}
        s = msgspec.structs.replace(standings(), rows=tuple(quiet.values()))
        cells = benchmark.cells(s, quiet[mine])
        return " ".join(cells), [w for w in benchmark.words(s) if w.startswith("Rounds that were disturbed")]

    mine = "cllm-q4_1-jacobi-16"
    own = decoding().configuration(mine).own
    assert "~50.0 ~0.68" in told(mine)[0] and len(told(mine)[1]) == 1
    assert " 50.0 0.68 [0.60, 0.70] ~0.68" in told(own)[0], "a ratio with a disturbed one below"
    assert "~" not in told("")[0] and told("")[1] == []


def test_the_study_store_reads_what_a_study_left(home: Path) -> None:
    folder = home / "data" / "studies" / "decoding-x"
    folder.mkdir(parents=True)
    (folder / "findings.json").write_bytes(to_json(standings()))
    own = next(s for s in study_store.studies() if s.name == "decoding-x")
    assert not own.recorded and study_store.read(own.path) == standings()
    (folder / "findings.json").write_bytes(to_json(standings())[:200])
    with pytest.raises(ExplorerError, match="cannot be read"):
        study_store.read(own.path)


def test_recorded_studies_can_be_read() -> None:
    for study in study_store.studies():
        assert study.recorded and study_store.read(study.path).rows
