"""Roofline, Layers and Memory: what they show of a run, and what they do with nonsense."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from streamlit.testing.v1 import AppTest

from core.paths import data_dir
from core.runs.store import Store
from core.types import Done, Evaluate, Event, Failed, ForwardCost, ForwardTime, LayerTimes, Memory, Pass, Step
from hardware import catalogue, ceilings
from hardware.ceilings import Ceilings, Gemm, ReadPoint
from hardware.detect import machine_id, usable_cores
from hardware.errors import ExplorerError
from pages.ui.ceilings import jobs
from pages.ui.pickers import run_lines
from tests.pages.conftest import TINY, sound
from tests.pages.test_marks import rewritten
from tests.runs.test_passes import OPENED, begun, reading, steps

Open = Callable[..., AppTest]
ROOFLINE, LAYERS, MEMORY = (f"pages/understand/{name}.py" for name in ("roofline", "layers", "memory"))
MB = 2**20


@pytest.fixture(autouse=True)
def no_old_measurement() -> None:
    """The last measurement belongs to the process, so a test must not see another's."""
    jobs().clear()


@pytest.fixture
def ceilings_here(home: Path) -> Ceilings:
    """Ceilings of this machine at one thread, as if they had been measured: 100 GFLOP/s, a cache, 10 GB/s."""
    reads = [(1, 100e9), (4, 100e9), (16, 98e9), (64, 10.2e9), (256, 10e9), (512, 10e9)]
    found = Ceilings(
        machine_id=machine_id(),
        device="cpu",
        threads=1,
        date="2026-01-02T03:04:05Z",
        quick=True,
        seconds=30.0,
        gemms=(
            Gemm(dtype="fp32", m=512, k=512, n=512, flop_per_s=100e9, kernel="sgemm"),
            Gemm(dtype="bf16", m=512, k=512, n=512, flop_per_s=200e9, kernel="bf16"),
        ),
        reads=tuple(ReadPoint(working_set_bytes=n * MB, bytes_per_s=b, median_bytes_per_s=b) for n, b in reads),
        mem_bytes=16 * 2**30,
    )
    for threads in {1, usable_cores()}:
        ceilings.save(msgspec.structs.replace(found, threads=threads), data_dir() / "ceilings")
    return found


def words(at: AppTest) -> str:
    """Everything that is written on the page."""
    kinds = (at.markdown, at.caption, at.info, at.warning, at.metric, at.expander, at.latex)
    return "\n".join(str(getattr(e, "value", "")) + str(getattr(e, "label", "")) for kind in kinds for e in kind)


def option(at: AppTest) -> dict[str, object]:
    found: dict[str, object] = json.loads(at.get("echarts_chart")[0].proto.spec)
    return found


@pytest.mark.parametrize("page", [ROOFLINE, LAYERS, MEMORY])
def test_another_run_is_chosen_in_one_widget(app: Open, filled: Store, page: str) -> None:
    """One that is made anew with every choice loses the focus of who chooses by keys."""
    newest, older = filled.ids()[:2]
    at = sound(app(page))
    key = f"{page.rpartition('/')[2].removesuffix('.py')}-run"
    assert at.selectbox(key=key).value == newest
    sound(at.selectbox(key=key).set_value(older).run())
    assert at.selectbox(key=key).value == older and at.query_params["run"] == older


# ---------------------------------------------------------------- Roofline


def test_without_ceilings_it_offers_to_measure_them(app: Open, filled: Store) -> None:
    at = sound(app(ROOFLINE))
    assert any("Measure this machine" in b.label for b in at.button)
    assert "not measured yet" in words(at)
    assert "no reference roofline" in at.info[0].proto.title
    assert not at.get("vega_lite_chart")


def test_without_the_ceilings_of_another_machine_nobody_is_asked_to_measure_this_one_for_it(
    app: Open, filled: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pages.ui.ceilings.machine_id", lambda: "another one")
    for page in (ROOFLINE, None):
        told = words(sound(app(page)))
        assert "Another machine made this run" in told and "Press Measure" not in told


def test_the_arithmetic_of_a_point_is_reached_by_its_name(app: Open, filled: Store, ceilings_here: Ceilings) -> None:
    at = sound(app(ROOFLINE))
    names = at.selectbox(key="roofline-point")
    assert names.options[:2] == ["Prefill as a whole", "Decode as a whole"] and not at.latex
    sound(names.select("Decode as a whole").run())
    assert at.latex and "Decode as a whole" in words(at)


def test_measuring_shows_progress_and_keeps_the_result(
    app: Open, filled: Store, ceilings_here: Ceilings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The measuring itself is replaced: it waits until the page has shown how far it is."""
    seen, go_on = threading.Event(), threading.Event()

    def measure(
        threads: int, quick: bool, progress: Callable[..., None], stop: Callable[[], bool], *, device: str, probe: bool
    ) -> Ceilings:
        progress("matrix products in fp32", 3.0, 12.0)
        seen.set()
        assert go_on.wait(60)
        return msgspec.structs.replace(ceilings_here, date="2026-06-07T08:09:10Z", threads=threads)

    monkeypatch.setattr(ceilings, "measure", measure)
    at = sound(app(ROOFLINE))
    at.button(key="ceilings-start").click().run()
    assert seen.wait(60)
    at.run()
    assert "matrix products in fp32" in str(at.get("progress")[0].proto.text)
    assert any(b.key == "ceilings-stop" for b in at.button)
    go_on.set()
    jobs()["job"].thread.join(60)
    sound(at.run())
    kept = ceilings.load(data_dir() / "ceilings", machine_id(), 1)
    assert kept is not None and kept.date.startswith("2026-06-07")


def test_a_check_tells_what_moved(
    app: Open, filled: Store, ceilings_here: Ceilings, monkeypatch: pytest.MonkeyPatch
) -> None:
    slower = tuple(msgspec.structs.replace(r, bytes_per_s=r.bytes_per_s / 2) for r in ceilings_here.reads)
    probe = msgspec.structs.replace(ceilings_here, reads=slower)
    monkeypatch.setattr(ceilings, "measure", lambda *a, **k: probe)
    at = sound(app(ROOFLINE))
    at.button(key="ceilings-check").click().run()
    jobs()["job"].thread.join(60)
    sound(at.run())
    assert any("memory bandwidth is now 50% lower" in w.value for w in at.warning)


def test_a_failed_measurement_is_one_sentence(app: Open, filled: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def measure(*args: object, **more: object) -> Ceilings:
        raise ExplorerError("The ceilings could not be measured: no torch.", "PyTorch is needed for it.")

    monkeypatch.setattr(ceilings, "measure", measure)
    at = sound(app(ROOFLINE))
    at.button(key="ceilings-start").click().run()
    jobs()["job"].thread.join(60)
    assert "no torch" in sound(at.run()).error[0].proto.title


def test_a_data_sheet_is_a_roof_too(app: Open, filled: Store) -> None:
    at = sound(app(ROOFLINE))
    at.selectbox(key="roofline-device").set_value("RTX 4090").run()
    sound(at)
    alt = at.get("vega_lite_chart")[0].proto.alt
    assert "decode is memory-bound" in alt
    assert "RTX 4090" in words(at) and "stated" in words(at)


def test_measured_ceilings_are_dated_and_old_ones_questioned(app: Open, filled: Store, ceilings_here: Ceilings) -> None:
    at = sound(app(ROOFLINE))
    assert "100 GFLOP/s" in words(at) and "10.0 GB/s" in words(at)
    assert any("days old" in w.value for w in at.warning)
    assert "memory-bound" in at.get("vega_lite_chart")[0].proto.alt
    assert any("Bandwidth over working set" in e.label for e in at.expander)


def test_sliders_move_the_predicted_points_only(app: Open, filled: Store, ceilings_here: Ceilings) -> None:
    at = sound(app(ROOFLINE))

    def chart() -> tuple[str, bytes]:
        proto = at.get("vega_lite_chart")[0].proto
        return proto.spec, next(d.data.data for d in proto.datasets if d.name == "marks")

    spec, before = chart()
    slider = next(s for s in at.select_slider if s.label == "Batch")
    slider.set_value(64).run()
    sound(at)
    moved_spec, after = chart()
    assert moved_spec == spec, "the chart is fed, not rebuilt"
    assert after != before


@pytest.mark.parametrize("level", ["Phases", "Layers", "Operators"])
def test_levels(app: Open, filled: Store, ceilings_here: Ceilings, level: str) -> None:
    at = sound(app(ROOFLINE))
    at.segmented_control(key="roofline-level").set_value(level).run()
    assert len(sound(at).get("vega_lite_chart")) >= 1


def test_other_devices_are_laid_over(app: Open, filled: Store, ceilings_here: Ceilings) -> None:
    at = sound(app(ROOFLINE))
    before = at.get("vega_lite_chart")[0].proto.spec
    at.multiselect(key="roofline-overlay").set_value(["H100 SXM5 80GB", "T4"]).run()
    assert sound(at).get("vega_lite_chart")[0].proto.spec == before


# ---------------------------------------------------------------- Layers


def test_bottlenecks_graph_and_bars(app: Open, filled: Store) -> None:
    at = sound(app(LAYERS))
    assert "of the time in layers" in "".join(str(e.proto.text) for e in at.get("progress"))
    nodes = option(at)["series"][0]["data"]  # type: ignore[index]
    assert nodes[0]["name"] == "embed" and any(n["id"] == "block 0" for n in nodes)
    assert len(at.get("vega_lite_chart")) == 3


@pytest.mark.parametrize("detail", ["Collapsed", "Blocks", "Layers"])
def test_detail_of_the_graph(app: Open, filled: Store, detail: str) -> None:
    at = sound(app(LAYERS))
    at.segmented_control(key="layers-detail").set_value(detail).run()
    names = [n["name"] for n in option(sound(at))["series"][0]["data"]]  # type: ignore[index]
    wanted = {"Collapsed": "blocks 0-3", "Blocks": "block 3", "Layers": "blocks.3.mlp.router"}[detail]
    assert wanted in names, names


def test_the_graph_is_walked_by_names(app: Open, filled: Store) -> None:
    """What a click does in the graph, a list of its nodes does for the keyboard."""
    at = sound(app(LAYERS))
    at.selectbox(key="node-Blocks").set_value("block 1").run()
    names = [n["name"] for n in option(sound(at))["series"][0]["data"]]  # type: ignore[index]
    assert "blocks.1.attn.q_proj" in names and "block 0" in names
    assert " parameters]" not in words(at)
    at = sound(at.selectbox(key="node-Blocks").set_value("blocks.1.attn.q_proj").run())
    assert " parameters]" in words(at), "its arithmetic, line by line"


def test_blocks_open_by_the_address(app: Open, filled: Store) -> None:
    names = [n["name"] for n in option(sound(app(LAYERS, open="1,x,999")))["series"][0]["data"]]  # type: ignore[index]
    assert "blocks.1.attn.q_proj" in names and "block 1" not in names and "block 0" in names


@pytest.mark.parametrize("colour", ["Time", "Of the roof", "Bytes", "FLOPs", "Weights"])
def test_colours(app: Open, filled: Store, ceilings_here: Ceilings, colour: str) -> None:
    at = sound(app(LAYERS))
    at.segmented_control(key="layers-colour").set_value(colour).run()
    assert option(sound(at))["visualMap"]["max"] > 0  # type: ignore[index]


def test_both_phases(app: Open, filled: Store) -> None:
    at = sound(app(LAYERS))
    at.segmented_control(key="layers-phase").set_value("prefill").run()
    assert "for the whole prompt" in words(sound(at))


def test_the_difference_of_two_runs(app: Open, filled: Store) -> None:
    at = sound(app(LAYERS))
    other = next(s for s in at.selectbox if s.label == "The other run")
    other.set_value(filled.ids()[1]).run()
    assert "layers that both timed" in words(sound(at))
    low, high = (option(at)["visualMap"][k] for k in ("min", "max"))  # type: ignore[index]
    assert low == -high


def test_two_runs_are_named_in_the_words_in_which_they_differ(app: Open, filled: Store) -> None:
    at = sound(app(LAYERS, **{"layers-other": filled.ids()[1]}))
    assert "**Native**" in words(at) and "**Autoregressive**" in words(at)
    assert not any(t.key == "layers-against" for t in at.toggle), "choosing the run is enough"
    next(s for s in at.selectbox if s.label == "The other run").set_value("").run()
    assert "The network" in words(sound(at))


def test_a_run_without_layer_times_is_named_where_it_cannot_be_compared(app: Open, filled: Store) -> None:
    shown, other = filled.ids()[:2]
    bare = rewritten(filled, lambda event: [] if isinstance(event, LayerTimes) else [event], other)
    at = sound(app(LAYERS, run=shown, **{"layers-other": bare.id}))
    (said,) = [i.value for i in at.info if "no layer times in this phase" in i.value]
    assert said.startswith("Autoregressive has ") and "Native" not in said, "which of the two, and what to do"


def test_runs_of_one_minute_are_told_apart_in_a_list(filled: Store) -> None:
    first = filled.open(filled.ids()[0])
    twin = filled.folder / "20990101-000000-abcdef0"
    shutil.copytree(filled.folder / first.id, twin)
    lines = run_lines([first, filled.open(twin.name)])
    assert len(set(lines.values())) == 2 and lines[twin.name].endswith(" · abcdef0")


def test_a_choice_goes_along_to_another_page(app: Open, filled: Store) -> None:
    at = sound(app("pages/understand/decoding.py"))
    assert at.selectbox(key="rival-strategy").value == "jacobi"
    at = sound(at.switch_page("pages/understand/jacobi.py").run())
    assert at.selectbox(key="rival-strategy").value == "jacobi" and not at.warning


def test_a_disturbed_curve_says_so_and_gives_way_to_a_calm_one(app: Open, store: Store) -> None:
    """Seen: forward passes of 8 tokens "3.06 times as fast here", from a run that had a fifth of the machine."""

    def measured(waited_s: float) -> None:
        run = store.create(msgspec.structs.replace(TINY, profilers=("forward_cost",)))
        times = tuple(ForwardTime(n=n, seconds=s, low_s=s, high_s=s) for n, s in ((1, 0.02), (8, 0.02)))
        cost = ForwardCost(t_s=0, pass_no=2, n_past=9, repeats=8, times=times)
        profile = Pass(t_s=0, number=2, kind="profile", profiler="forward_cost")
        for event in (OPENED, begun(1, "timing"), *steps(1), reading(1, waited_s), profile, cost, Done(t_s=1)):
            run.append(event)

    measured(1.9)
    assert "so its curve tells little" in words(sound(app("pages/understand/decoding.py")))
    measured(0.0)
    at = sound(app("pages/understand/decoding.py"))
    assert "times** as fast" in words(at) and "tells little" not in words(at)


def test_two_different_runs_stand_side_by_side(app: Open, filled: Store) -> None:
    """Also where the newest run is an evaluation, which the page cannot show."""
    run = filled.create(msgspec.structs.replace(TINY, task=Evaluate(eval="arithmetic")))
    at = sound(app("pages/compare/compare.py"))
    first, second = (at.selectbox(key=k).value for k in ("first", "second"))
    assert {first, second} == set(filled.ids()) - {run.id}


@pytest.mark.parametrize("page", [ROOFLINE, LAYERS, MEMORY])
def test_a_run_that_failed_before_its_model_was_open_says_so(app: Open, store: Store, page: str) -> None:
    run = store.create(TINY)
    run.append(Failed(t_s=0.1, message="The file is cut.", hint="Copy it again."))
    at = sound(app(page, run=run.id))
    assert "ended before its model was open" in words(at) and "not open yet" not in words(at)
    assert [e.proto.title for e in at.error] == ["The file is cut."]


def test_two_identical_views_draw_an_identical_graph(app: Open, filled: Store) -> None:
    """An equal option keeps the viewport when something is clicked."""
    at = sound(app(LAYERS))
    before = at.get("echarts_chart")[0].proto.spec
    assert at.run().get("echarts_chart")[0].proto.spec == before


# ---------------------------------------------------------------- Memory


def test_computed_beside_measured(app: Open, filled: Store) -> None:
    at = sound(app(MEMORY))
    n = len(catalogue.devices())
    assert {"Computed", "Measured"} <= {m.label for m in at.metric}
    assert f"It fits on {n} of {n} devices" in words(at)
    assert len(at.get("vega_lite_chart")) == 4


@pytest.mark.parametrize("axis", ["context", "batch", "vocabulary", "precision"])
def test_growth_over(app: Open, filled: Store, axis: str) -> None:
    at = sound(app(MEMORY))
    at.segmented_control(key="memory-axis").set_value(axis).run()
    assert any("Memory over" in c.proto.alt for c in sound(at).get("vega_lite_chart"))


def test_what_if_changes_the_verdict(app: Open, filled: Store) -> None:
    at = sound(app(MEMORY))
    at.selectbox(key="memory-weights").set_value("fp32").run()
    slider = next(s for s in at.select_slider if s.label == "Batch")
    slider.set_value(256).run()
    assert "batch 256" in words(sound(at))


def stopped(store: Store, n: int) -> None:
    """The newest run, as if it had been stopped after so many samples of its memory."""
    run = store.open(store.ids()[0])
    kept: list[Event] = []
    for event in run.events():
        n_seen = sum(isinstance(e, Memory) for e in kept)
        if n_seen == n and isinstance(event, Step | Memory):
            break
        kept.append(event)
    kept.append(Done(t_s=kept[-1].t_s, cancelled=True))
    (run.path / "events.jsonl").write_bytes(b"".join(msgspec.json.encode(event) + b"\n" for event in kept))


def timelines(at: AppTest) -> list[Any]:
    return [chart.proto for chart in at.get("vega_lite_chart") if "over time" in chart.proto.alt]


def test_a_run_that_was_stopped_after_one_sample_shows_it(app: Open, filled: Store) -> None:
    stopped(filled, 1)
    at = sound(app(MEMORY))
    (chart,) = timelines(at)
    assert next(d for d in chart.datasets if d.name == "alone").data.data, "its points"
    assert "over before a second sample was due" in words(at)


def test_a_run_that_was_stopped_before_its_first_sample_says_so(app: Open, filled: Store) -> None:
    stopped(filled, 0)
    at = sound(app(MEMORY))
    assert not timelines(at) and "There is no sample: the run ended before its first step" in words(at)


def test_bad_choices_in_the_address_fall_back(app: Open, filled: Store) -> None:
    for page in (ROOFLINE, LAYERS, MEMORY):
        nonsense = {
            "roofline-device": "x",
            "roofline-level": "?",
            "layers-roof": "x",
            "memory-weights": "q99",
            "open": "-1,,",
        }
        sound(app(page, **nonsense))
