"""The search for architectures on the fake backend, whose shapes lose what a table says: resumed, limited, told."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner
from filelock import FileLock

from core.analysis.cuts import Cut, Space, parsed
from core.cli import cli
from core.paths import data_dir
from core.report.architectures import markdown
from core.runs.store import Store
from core.stats.intervals import Interval, Ratio
from core.studies import architectures
from core.studies.architecture_findings import findings
from core.studies.architecture_found import FILE, Found, Shaped, Speed, read
from core.studies.architecture_proxies import proxies
from core.studies.architecture_state import chosen, finishers
from core.studies.architectures import carry_out, contrast, planned, progress, rounds_s
from core.studies.ledger import IN_USE, Ledger, State, folder_of, load, names
from core.studies.plan import Architectures, Recipe
from core.types import from_json, to_json
from hardware.errors import ExplorerError
from tests.studies.fake_cells import quiet

CALIBRATE = architectures._calibrate
SPACE = Space(deepest=3, narrowest=0.5, step=384, kv_heads=1, queries=0)


def plan(**changes: Any) -> Architectures:
    asked = {
        "engines": ("fake",),
        "space": SPACE,
        "scored": 8,
        "finished": 2,
        "checks": 1,
        "texts": 2,
        "judge": "fake",
        "prompt_tokens": 4,
        "new_tokens": 3,
        "rounds": 1,
        "repeats": 1,
        "threads": 1,
        **changes,
    }
    return planned("smollm2-135m", **asked)


@pytest.fixture(autouse=True)
def workshop(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Models are the embedded one under other names, and what a shape loses follows from what was taken out."""
    asked: list[str] = []

    def make(ledger: Ledger[Any], recipe: Recipe) -> str:
        return "smollm2-135m"

    def score(ledger: Ledger[Any], whole: str, asks: Mapping[str, Mapping[str, Any]]) -> None:
        state = ledger.state
        state.scores |= {f"influence/{i}": 1.0 + i for i in range(30)}
        for key, ask in asks.items():
            if key in state.scores:
                continue
            asked.append(key)
            w = ask.get("widths", {"blocks": 29, "d_ff": 1536, "kv_heads": 3})
            lost = 0.1 * (30 - w["blocks"]) + (1536 - w["d_ff"]) / 1000 + 0.5 * (3 - w["kv_heads"])
            state.scores[key] = lost
        ledger.save()

    monkeypatch.setattr(architectures, "make", make)
    monkeypatch.setattr(architectures, "_score", score)
    monkeypatch.setattr(architectures, "_roofs", lambda ledger: None)
    monkeypatch.setattr(architectures, "_calibrate", lambda ledger, whole: None)
    return asked


def told(of: Architectures) -> Found:
    return findings(load(folder_of(of), Architectures), Store(data_dir()))


def test_the_funnel_prices_masks_trains_and_measures_and_goes_on_after_a_stop(
    workshop: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(architectures, "_calibrate", CALIBRATE)
    wanted = plan()

    def stop(words: str) -> None:
        if "judging" in words and len([w for w in seen if "judging" in w]) == 1:
            raise KeyboardInterrupt
        seen.append(words)

    seen: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        carry_out(wanted, 10, stop)
    half, asked = load(folder_of(wanted), Architectures), len(workshop)
    assert half.items["shapes"] == 4 * 3 * 2 == 1 + half.items["possible"], "blocks, MLP widths, key/value heads"
    assert 0 < progress(half).share < 1 and progress(half).eta is not None
    ledger = carry_out(wanted, 10, quiet)
    assert len(workshop) == asked, "nothing is masked twice"
    found = told(wanted)
    assert from_json(to_json(found), Found) == found and read(to_json(found)) == found
    assert found.complete and len(found.finished) == 2 and found.masked >= 4
    assert [r.role for r in found.rows].count("random") == 1 and found.rows[0].role == "whole"
    assert all(r.kl is not None and r.kl.value >= 0 and r.speeds[0].ratio is not None for r in found.finished)
    assert ledger.state.runs.keys() >= {f"{r.id}/speed/fake/0" for r in found.finished} | {"whole/speed/fake/0"}
    n = len(Store(data_dir()).ids())
    carry_out(wanted, 10, quiet)
    assert len(Store(data_dir()).ids()) == n == 2 * 3 + 2 + 3, "what is done is not done again"
    fitted = {key.partition("/")[0] for key in ledger.state.runs if "/calibrate/fake/" in key}
    assert fitted == {"whole", "b27-f1536-kv3-q3", "b30-f768-kv3-q3"}, "the whole, the shallowest, the narrowest"
    assert progress(load(folder_of(wanted), Architectures)).failed == 0
    table = markdown(found)
    assert "| Whole model · 30 blocks · MLP 1536 · 9/3 heads |" in table and "Random order" in table
    assert "Depth against width: " in table


HOUR = {  # mean seconds of the recorded hour of two cores; its 135 answers in the rounds took 773 s
    "cut": 13.9, "train": 187.0, "judge": 22.4,
    "llama_cpp": (8.6, 2.4), "onnxruntime": (24.7, 3.1), "pytorch": (6.5, 6.1),
}  # fmt: skip


def test_what_is_kept_for_the_rounds_is_what_they_take() -> None:
    of = plan(engines=("llama_cpp", "onnxruntime", "pytorch"), rounds=5)
    state: State[Architectures] = State(plan=of, minutes=60.0, begun="2026-11-27 20:51")
    before = rounds_s(state, 9)
    state.took_s |= {"b22-f512-kv2-q2/make/1": HOUR["cut"], "b22-f512-kv2-q2/make/2": HOUR["train"]}  # type: ignore[dict-item]
    state.took_s |= {"b22-f512-kv2-q2/judge": HOUR["judge"]}  # type: ignore[dict-item]
    for engine in of.engines:
        first, again = HOUR[engine]  # type: ignore[misc]
        state.took_s |= {f"whole/calibrate/{engine}/0": first, f"whole/calibrate/{engine}/1": again}
    making = 13.9 + 187.0 + 22.4
    assert rounds_s(state, 9) - making == pytest.approx(773, rel=0.05)
    assert rounds_s(state, 9) < before, "what is guessed before anything was timed is more"
    quantized = msgspec.structs.replace(state, plan=msgspec.structs.replace(of, quantize="Q8_0"))
    assert rounds_s(quantized, 9) - rounds_s(state, 9) == pytest.approx(22.4 + 10 * 2.4)


def test_steps_are_counted_once_and_come_to_an_end() -> None:
    of = plan(engines=("llama_cpp",), rounds=2)
    carry_out(of, 1e-9, quiet)
    state = load(folder_of(of), Architectures)
    finals = [cut.id for cut in finishers(state)]
    keys = ["whole/make/1", "b27-f1536-kv3-q3/make/1", "whole/speed/llama_cpp/0", "whole/speed/llama_cpp/1"]
    keys += [f"{name}/calibrate/llama_cpp/{n}" for name in ("whole", "b27-f1536-kv3-q3") for n in (0, 1)]
    for name in finals:
        keys += [f"{name}/{step}" for step in ("make/1", "make/2", "judge", "speed/llama_cpp/0", "speed/llama_cpp/1")]
    for done, key in enumerate(keys):
        assert progress(state).share < 1, f"{done} of {len(keys)} are done"
        state.runs[key], state.took_s[key] = f"run-{done}", 1.0
    told = progress(state)
    assert told.share == 1 and told.eta is None
    assert told.total == len(state.scores.keys() & chosen(state)) + sum(
        k.split("/")[0] in ("block", "d_ff", "kv_heads", "queries") for k in state.scores
    ) + len(set(keys)), "each step once, one that two things need as well"


def test_a_second_process_is_kept_away_and_time_ends_the_search() -> None:
    wanted = plan()
    folder_of(wanted).mkdir(parents=True)
    with FileLock(folder_of(wanted) / IN_USE), pytest.raises(ExplorerError, match="Another process"):
        carry_out(wanted, 10, quiet)
    said: list[str] = []
    carry_out(wanted, 1e-9, said.append)
    assert any("time is over" in words for words in said)
    found = told(wanted)
    assert not found.complete and found.best == "" and "no shape is finished yet" in found.words[0]


def test_limits_choose_among_shapes_and_say_who_is_nearest() -> None:
    wanted = plan(at_most={"n_params": 120e6}, checks=0, finished=2)
    carry_out(wanted, 1e-9, quiet)
    state = load(folder_of(wanted), Architectures)
    assert state.items["possible"] < state.items["shapes"]
    sizes = {n: state.ranges[f"{n}@"]["n_params"].likely for n in chosen(state)}
    assert sizes and max(sizes.values()) <= 120e6
    with pytest.raises(ExplorerError, match=r"No shape can meet the limits on fake: nearest is 27 blocks"):
        carry_out(plan(at_most={"n_params": 1e6}), 10, quiet)


def test_a_device_of_the_catalogue_has_a_say() -> None:
    wanted = plan(device="RTX 4090", at_least={"tok_per_s": 1.0})
    assert wanted.target == wanted.device and wanted.places == ("fake", wanted.device)
    carry_out(wanted, 1e-9, quiet)
    state = load(folder_of(wanted), Architectures)
    name = next(iter(chosen(state)))
    there = state.ranges[f"{name}@{wanted.device}"]
    assert there["tpot_s"].low < there["tpot_s"].likely < there["tpot_s"].high
    assert there["latency_s"].likely == pytest.approx(there["ttft_s"].likely + 2 * there["tpot_s"].likely)


def test_bad_requests() -> None:
    for changes, sentence in (
        ({"at_most": {"colour": 1.0}}, "cannot be limited by 'colour'"),
        ({"engines": ()}, "needs an engine"),
        ({"engines": ("no_such",)}, "no_such"),
        ({"device": "abacus"}, "no device called 'abacus'"),
        ({"checks": 2}, "leaves none to choose"),
        ({"quantize": "Q99"}, "type must be one of"),
        ({"training": {"minutes": "soon"}}, "minutes must be a number"),
        ({"training": {"colour": 1}}, "no setting 'colour'"),
    ):
        with pytest.raises(ExplorerError, match=sentence):
            plan(**changes)
    with pytest.raises(ExplorerError, match="no search for architectures"):
        load(Path("nowhere"), Architectures)
    with pytest.raises(ExplorerError, match="cannot be read"):
        read(b"{}")


def test_depth_against_width_at_one_size() -> None:
    whole = Cut(blocks=4, d_ff=100, kv_heads=2, queries=1)
    names = {
        "deep": Cut(blocks=3, d_ff=100, kv_heads=2, queries=1),
        "wide": Cut(blocks=4, d_ff=70, kv_heads=2, queries=1),
    }
    names |= {"both": Cut(blocks=3, d_ff=70, kv_heads=2, queries=1)}
    assert contrast(whole, names, {"deep": 76.0, "wide": 75.0, "both": 60.0}) == ("deep", "wide")
    assert contrast(whole, {"both": names["both"]}, {"both": 60.0}) == ()
    assert parsed(whole.id) == whole


# ------------------------------------------------------------ proxies


def row(i: int, n_params: float, masked: float, kl: float, ratio: float = 1.0) -> Shaped:
    figures = dict.fromkeys(("body_params", "weight_bytes"), n_params)
    speed = Speed(
        engine="e",
        tok_per_s=ratio,
        ratio=Ratio(value=ratio, low=None, high=None, n=3),
        peak_memory_bytes=None,
        predicted=None,
        disturbed=0,
    )
    return Shaped(
        id=f"s{i}", label=f"s{i}", role="chosen", n_params=n_params, estimate=masked, masked=masked,
        kl=Interval(value=kl, low=None, high=None, n=2), perplexity=None, agreement=None, speeds=(speed,), predicted={},
        **figures,
    )  # fmt: skip


def test_a_proxy_that_beats_counting_and_one_that_loses_to_it_are_shown_so() -> None:
    kl = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8]
    shuffled = [5.0, 4, 6, 3, 7, 2, 8, 1]
    good = proxies([row(i, shuffled[i], masked=2 * v, kl=v) for i, v in enumerate(kl)], ("e",))
    by_name = {p.name: p for p in good if p.of == "quality"}
    assert by_name["masked"].tau is not None and by_name["masked"].tau.value == pytest.approx(1.0)
    assert by_name["masked"].verdict == "better than counting parameters"
    assert by_name["masked"].regret is not None and by_name["masked"].regret.place == 1
    assert by_name["n_params"].verdict == "baseline" and by_name["n_params"].partial is None
    assert by_name["random"].regret is not None and by_name["random"].regret.value == pytest.approx(0.35)
    bad = proxies(
        [row(i, -v, masked=shuffled[i], kl=v) if False else row(i, 9 - v, shuffled[i], v) for i, v in enumerate(kl)],
        ("e",),
    )
    worst = {p.name: p for p in bad if p.of == "quality"}["masked"]
    assert worst.verdict.startswith("loses to counting parameters")
    assert proxies([row(0, 1, 1, 1)], ("e",)) == ()
    few = {p.name: p for p in proxies([row(i, 9 - i, float(i), float(i)) for i in range(3)], ("e",))}
    assert few["masked"].verdict == "3 models are too few to tell"


def test_the_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    real = architectures.planned

    def small(model: str, engines: Any, device: str, *limits: Any, **rest: Any) -> Architectures:
        found = real(model, engines, device, *limits, **{**rest, "space": SPACE, "judge": "fake"})
        return msgspec.structs.replace(found, repeats=1)

    monkeypatch.setattr(architectures, "planned", small)
    common = ["architectures", "cut", "--engine", "fake", "--scored", "6", "--finished", "2", "--checks", "0"]
    common += ["--texts", "2", "--threads", "1", "--minutes", "0.00001"]
    done = CliRunner().invoke(cli, common)
    assert done.exit_code == 0, done.output
    assert "| Whole model" in done.output and "no shape is finished yet" in done.output
    (name,) = names(Architectures)
    folder = data_dir() / "studies" / name
    assert read((folder / FILE).read_bytes()).masked >= 4 and (folder / "table.md").exists()
    assert CliRunner().invoke(cli, [*common, "--at-most", "colour=1"]).exit_code == 2


def test_finishers_wait_until_all_is_masked() -> None:
    wanted = plan()
    carry_out(wanted, 1e-9, quiet)
    state = load(folder_of(wanted), Architectures)
    assert len(finishers(state)) == 2
    del state.scores[next(iter(chosen(state)))]
    assert finishers(state) == ()
    assert math.isfinite(progress(state).share)
