"""Searches on the fake backend: choice, finals, stops, limits that nobody meets, and what cannot be predicted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner

from core import plugins
from core.analysis.search import Outcome
from core.cli import cli
from core.paths import data_dir
from core.runs.store import Store
from core.studies.grid import cells
from core.studies.ledger import Ledger, State, folder_of, load, names
from core.studies.plan import Axis, Search
from core.studies.search import (
    SearchReport,
    _nearest,
    _over,
    baseline,
    floor_of,
    report,
    searching,
    seek,
)
from core.types import Scalar, from_json, to_json
from hardware.errors import ExplorerError
from tests.studies.fake_cells import BASE, quiet

DELAYS = Axis(name="fake.delay_s", values=(0.2, 0.05, 0.0))


def plan(**changes: object) -> Search:
    asked = {"goals": ("tok_per_s",), "total": 3, "final_rounds": 1, **changes}
    return searching(BASE, (DELAYS,), **asked)  # type: ignore[arg-type]


def told(of: Search) -> SearchReport:
    return report(load(folder_of(of), Search), Store(data_dir()))


def test_it_chooses_measures_anew_and_says_why_after_a_stop_too() -> None:
    wanted = plan(at_most={"latency_s": 60.0})
    seen: list[str] = []

    def stop(words: str) -> None:
        seen.append(words)
        if len(seen) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        seek(wanted, 10, stop)
    half = told(wanted)
    assert half.measured == 2 and not half.complete and len(half.rows) == 3
    ledger = seek(wanted, 10, quiet)
    found = told(wanted)
    assert from_json(to_json(found), SearchReport) == found
    # three cells, then the winner and the baseline once more
    assert found.measured == 3 and found.complete and len(ledger.state.runs) == 5
    best = next(row for row in found.rows if row.id == found.answer.cell)
    assert best.label == "delay per step 0.0" and best.stage == "finalist"
    assert best.final["tok_per_s"].n == 1 and best.shrinkage["tok_per_s"] > 0
    words = " ".join(found.answer.words)
    assert "times the baseline's (delay per step 0.2)" in words
    assert "Whole answer at most 60 s costs nothing here." in words
    assert "Measured anew" in words
    store = Store(data_dir())
    finals = [i for k, i in ledger.state.runs.items() if k.startswith("final-")]
    assert all(store.open(i).request.fresh_process for i in finals) and len(finals) == 2
    seek(wanted, 10, quiet)
    assert len(store.ids()) == 5, "what is done is not done again"


def test_the_baseline_is_compared_round_by_round() -> None:
    """A machine that slows down from round to round slows both, so that the interval of the ratio is narrow."""
    finals = {
        "first": {n: {"tok_per_s": 40.0 / (1 + n)} for n in range(5)},
        "best": {n: {"tok_per_s": 80.0 / (1 + n)} for n in range(5)},
        "late": {n: {"tok_per_s": 60.0 / (1 + n)} for n in (3, 4)},
        "none": {},
    }
    found = _over("first", "tok_per_s", finals)
    ratio = found["best"]
    assert (ratio.value, ratio.low, ratio.high) == pytest.approx((2.0, 2.0, 2.0)) and ratio.n == 5
    assert found["late"].value == pytest.approx(1.5) and found["late"].low is None, "two rounds have no interval"
    assert found.keys() == {"best", "late"}


def test_the_baseline_is_the_cell_nearest_to_what_does_not_vary() -> None:
    """The cells of one load come in a random order, so the first of them says nothing."""
    axes = (
        Axis(name="backend", values=("pytorch", "fake")),
        Axis(name="strategy", values=("jacobi", "native", "autoregressive")),
        Axis(name="batch", values=(4, 2)),
        Axis(name="fake.delay_s", values=(0.1, 0.2)),
    )
    wanted = searching(BASE, axes, ("tok_per_s",))
    every = cells(wanted.grid)
    assert baseline(wanted, every).at == {
        "backend": "fake", "strategy": "autoregressive", "batch": 4, "fake.delay_s": 0.1,
    }, "its options differ from those asked for, which are none; its backend is the one asked for"  # fmt: skip
    without = [c for c in every if c.at["backend"] != "fake"]
    assert baseline(wanted, without).at == {"backend": "pytorch", "strategy": "autoregressive", "batch": 4}


def test_a_search_that_has_not_looked_at_its_cells_yet_says_so() -> None:
    wanted = plan()
    found = report(State(plan=wanted, minutes=1.0, begun=""), Store(data_dir()))
    assert found.answer.words == ("Nothing is measured yet.",) and not found.complete


def test_a_limit_that_nobody_meets_names_the_nearest() -> None:
    wanted = plan(at_most={"latency_s": 1e-6})
    seek(wanted, 10, quiet)
    found = told(wanted)
    assert found.answer.cell == "" and "Nearest is delay per step 0.0: whole answer of" in found.answer.words[0]
    assert "s where at most 1 µs is asked." in found.answer.words[0] and wanted.title.endswith("at most 1 µs")
    assert not any(row.final for row in found.rows)


def test_of_several_limits_it_says_what_nearest_means_and_what_one_alone_would_have_to_be() -> None:
    wanted = plan(at_most={"latency_s": 1.0, "peak_memory_bytes": 1e9})
    seen = {
        "a": {"latency_s": 1.5, "peak_memory_bytes": 1.2e9, "tok_per_s": 1.0},
        "b": {"latency_s": 1.6, "peak_memory_bytes": 0.9e9, "tok_per_s": 1.0},
        "c": {"latency_s": 0.9, "peak_memory_bytes": 3e9, "tok_per_s": 1.0},
    }
    every: dict[str, Any] = {n: {} for n in ("counts", "first", "dropped", "ranges")}
    every |= dict.fromkeys(("audited", "missed", "failed", "order", "finalists"), ())
    found = _nearest(wanted, Outcome(seen=seen, nearest="a", **every), {n: n.upper() for n in seen})
    assert found == (
        "Nothing that was measured meets the constraints. Nearest is A: whole answer of 1.5 s where at most 1 s is "
        "asked; peak memory of 1.2 GB where at most 1 GB is asked.",
        "Nearest means: it meets every limit once each is loosened by one and the same factor, ×1.5, and nothing else "
        "that was measured needs a smaller one.",
        "One limit alone would have to be loosened: whole answer to 1.6 s (B); or peak memory to 3 GB (C).",
    )


def test_limits_of_what_was_not_measured_and_time() -> None:
    wanted = plan(at_most={"joules": 5.0}, total=1)
    seek(wanted, 10, quiet)
    assert "energy, which was not measured" in told(wanted).answer.words[0]
    short = plan(total=2)
    assert seek(short, 1e-9, quiet).state.runs == {}
    assert told(short).answer.words == ("Nothing is measured yet.",)


@pytest.mark.parametrize("number", [1, 2, 3, 5])
def test_killed_at_any_write_it_finds_the_same_and_measures_nothing_twice(
    number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted, count, save = plan(total=2), 0, Ledger.save

    def killed(self: Ledger[Any]) -> None:
        nonlocal count
        count += 1
        if count == number:
            raise SystemExit("killed")
        if count < number:
            save(self)

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "save", killed)
        with pytest.raises(SystemExit):
            seek(wanted, 10, quiet)
    ledger = seek(wanted, 10, quiet)
    found = told(wanted)
    assert found.complete and found.measured == 2 and found.answer.cell
    n = len(Store(data_dir()).ids())
    assert n - len(ledger.state.runs) <= 1, "at most the run whose id could not be written down"
    seek(wanted, 10, quiet)
    assert len(Store(data_dir()).ids()) == n


def test_bad_requests() -> None:
    for changes, sentence in (
        ({"goals": ("speed",)}, "no measure called 'speed'"),
        ({"goals": ()}, "needs something to make better"),
        ({"at_least": {"colour": 1.0}}, "no measure called 'colour'"),
    ):
        with pytest.raises(ExplorerError, match=sentence):
            plan(**changes)
    with pytest.raises(ExplorerError, match="Energy cannot be predicted"):
        seek(plan(goals=("joules",)), 10, quiet)
    with pytest.raises(ExplorerError, match="No cell of this grid can run"):
        seek(searching(BASE, (Axis(name="dtype", values=("int3",)),), ("tok_per_s",)), 10, quiet)


@pytest.mark.usefixtures("unrepeated")
def test_the_command_line(tmp_path: Path) -> None:
    def core(*args: str) -> tuple[int, str]:
        done = CliRunner().invoke(cli, ["search", "--backend", "fake", "--threads", "1", "--warmup", "0", *args])
        return done.exit_code, done.output

    common = ("--profilers", "", "--axis", "batch=1,2", "--measurements", "1", "--final-rounds", "1")
    code, out = core(*common, "--goal", "tok_per_s")
    assert code == 0 and "finalist" in out and "has the best decode speed" in out
    (name,) = names(Search)
    (tmp_path / "plan.json").write_bytes(to_json(load(data_dir() / "studies" / name, Search).plan))
    code, out = core("--plan", str(tmp_path / "plan.json"), "--json")
    assert code == 0 and from_json(out[out.index("{") :], SearchReport).complete
    for limit in ("quick", "nan", "inf"):
        assert core(*common, "--at-most", f"latency_s={limit}")[0] == 2
    assert core("--plan", str(tmp_path / "none.json"))[0] == 2
    with pytest.raises(ExplorerError, match="There is no search"):
        load(tmp_path, Search)


def test_a_floor_of_quality_is_evaluated_once_and_counts_by_the_end_of_its_interval() -> None:
    threads = (Axis(name="threads", values=(1, 2)), Axis(name="batch", values=(1, 2)))
    settings: dict[str, Scalar] = {"n": 3, "context": 32}

    def asked(limit: float) -> Search:
        floor = floor_of("perplexity", limit, "perplexity", settings)
        return searching(BASE, threads, ("tok_per_s",), total=4, final_rounds=1, floor=floor)

    wanted = asked(1e12)
    ledger = seek(wanted, 10, quiet)
    found = told(wanted)
    store = Store(data_dir())
    judged = [i for key, i in ledger.state.runs.items() if key.startswith("quality-")]
    assert len(judged) == 1, "threads and batch change nothing of what is said"
    score = next(s for s in store.open(judged[0]).result().scores if s.name == "perplexity")
    assert score.high is not None and score.high > score.value
    measured = [row for row in found.rows if row.n]
    assert len(measured) >= 2 and {row.measured["quality"] for row in measured} == {score.high}
    assert found.complete and any("Perplexity at most 1,000,000,000,000 costs nothing" in w for w in found.answer.words)

    strict = asked((score.value + score.high) / 2)
    seek(strict, 10, quiet)
    assert "Nearest is" in told(strict).answer.words[0] and "perplexity of" in told(strict).answer.words[0]


def test_what_an_evaluation_cannot_see_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugins.get("strategy", "jacobi"), "exact", False)
    base = msgspec.structs.replace(BASE, strategy="jacobi")
    floor = floor_of("perplexity", 100.0, settings={"n": 3, "context": 32})
    wanted = searching(base, (Axis(name="threads", values=(1,)),), ("tok_per_s",), total=1, final_rounds=1, floor=floor)
    seek(wanted, 10, quiet)
    found = told(wanted)
    assert found.rows[0].reason == "Perplexity reads texts and writes none, so it does not see what Jacobi does."
    assert "perplexity, which was not measured" in found.answer.words[0]


def test_a_floor_needs_an_evaluation_and_its_metric() -> None:
    with pytest.raises(ExplorerError, match="no evaluation called 'taste'"):
        floor_of("taste", 1.0)
    with pytest.raises(ExplorerError, match="has no metric 'taste'"):
        floor_of("perplexity", 1.0, "taste")
    assert floor_of("qa", 0.5).better == "higher"
