"""Every lesson: its answers are those of the analysis, its mistakes have their sentences, and all of its steps draw."""

from __future__ import annotations

import ast
import re
from concurrent.futures import ThreadPoolExecutor
from html import escape
from pathlib import Path

import msgspec
import numpy as np
import pytest

from app import MENU
from core import plugins
from core.analysis.decoding import acceptance, expected_tokens_per_forward
from core.analysis.work import kv_bytes_per_token
from core.learn import progress, recorded, takeaways, variants
from core.learn.lesson import Choice, Number, Scene, Told, get, judge, names, number, said, unfit
from core.learn.lessons import early_exit, guessing, kv_cache, pruning, really_faster, roofline, speculative
from core.learn.lessons._common import bytes_per_token, forward
from core.learn.trace import trace
from core.models.presets import presets
from core.models.spec import read
from core.runs.demo import BUNDLE
from core.runs.store import Store
from core.types import ModelSpec
from hardware import catalogue as hardware
from hardware.errors import ExplorerError

ROOT = Path(__file__).parents[2]


def spec_of(preset: str) -> ModelSpec:
    return read(next(p for p in presets() if p.id == preset).files["config"], "config")


@pytest.fixture(scope="module")
def smol() -> ModelSpec:
    return spec_of("smollm2-135m")


def scene(spec: ModelSpec, name: str, device: str = "H100 SXM5 80GB") -> Scene:
    return Scene(spec, hardware.find(device), get(name).control.default)


def test_thirteen_lessons_in_their_order() -> None:
    assert [get(n).order for n in names()] == list(range(1, 14))
    for name in names():
        lesson = get(name)
        kinds = [s.kind for s in lesson.steps]
        assert 4 <= len(kinds) <= 6 and list(dict.fromkeys(kinds)) == ["predict", "move", "see", "check", "do"], name
        assert lesson.control.default in lesson.control.options and 3 <= lesson.minutes <= 8, name
        assert all((s.check is not None) == (s.kind in ("predict", "check")) for s in lesson.steps), name
        assert all(s.takeaway.endswith(".") for s in lesson.steps if s.kind in ("move", "see", "check")), name
    with pytest.raises(ExplorerError, match="no lesson called 'nonsense'"):
        get("nonsense")


@pytest.mark.parametrize("name", names())
def test_right_answers_pass_and_each_mistake_gets_its_sentence(name: str, smol: ModelSpec) -> None:
    lesson = get(name)
    for value in {lesson.control.options[0], lesson.control.default, lesson.control.options[-1]}:
        at = scene(smol, name)._replace(value=value)
        for step in lesson.steps:
            check = step.check
            if isinstance(check, Choice):
                for place, option in enumerate(check.options):
                    assert judge(check, at, place) == (place == check.right, said(option.sentence, at))
                assert len({said(o.sentence, at) for o in check.options}) == len(check.options) >= 3
            elif isinstance(check, Number):
                assert judge(check, at, check.answer(at)) == (True, said(check.working, at)), step.title
                assert not judge(check, at, 1e30).right
                assert said(check.question, at)
                for mistake in check.mistakes:
                    verdict = judge(check, at, mistake.value(at))
                    assert verdict == (False, mistake.sentence), (step.title, mistake.value(at), check.answer(at))


@pytest.mark.parametrize("name", names())
def test_other_numbers_are_asked_and_judged_as_well(name: str, smol: ModelSpec) -> None:
    """Twelve variants: the right answer passes, no mistake does, and each of them is answered by name."""
    lesson, usual = get(name), scene(smol, name)
    for variant in range(1, 13):
        at = variants.varied(lesson, usual, variant)
        assert at == variants.varied(lesson, usual, variant) and at.seed == variant
        for check in (step.check for step in lesson.steps if isinstance(step.check, Number)):
            assert judge(check, at, check.answer(at)) == (True, said(check.working, at)), variant
            for mistake in check.mistakes:
                verdict = judge(check, at, mistake.value(at))
                assert verdict == (False, mistake.sentence), (variant, said(check.question, at), verdict)


def test_a_variant_asks_something_else(smol: ModelSpec) -> None:
    for name in names():
        lesson, usual = get(name), scene(smol, name)
        assert variants.varied(lesson, usual, 0) is usual
        for step in lesson.steps:
            if not isinstance(step.check, Number):
                assert variants.following(lesson, step, usual, 0) is None
                continue
            later = variants.following(lesson, step, usual, 0)
            assert (later is None) == (name == "consistency"), "one recorded training has no other numbers"
            if later is not None:
                other = variants.varied(lesson, usual, later)
                assert said(step.check.question, other) != said(step.check.question, usual)
                assert step.check.answer(other) != step.check.answer(usual), step.title


@pytest.mark.parametrize("name", names())
@pytest.mark.parametrize("preset", ["qwen3-0.6b"])
def test_every_lesson_speaks_of_another_model(name: str, preset: str) -> None:
    """Texts and chart follow; a right answer stays right on a device without a bf16 peak too."""
    lesson = get(name)
    at = scene(spec_of(preset), name, "V100 SXM2 32GB")
    assert lesson.chart(at).alt
    for step in lesson.steps:
        said(step.text, at)
        if isinstance(step.check, Number):
            assert judge(step.check, at, step.check.answer(at)).right


# ---------------------------------------------------------------- answers that can be worked out by hand


def test_one_token(smol: ModelSpec) -> None:
    at = scene(smol, "one_token")
    bytes_, flops = (s.check for s in get("one_token").steps if s.kind == "check")
    assert isinstance(bytes_, Number) and isinstance(flops, Number)
    assert bytes_.answer(at) == pytest.approx(134_515_008 * 2, rel=1e-3)
    assert flops.answer(at) == pytest.approx(134_515_008 * 2, rel=0.01)
    assert forward(at).flops / forward(at).bytes == pytest.approx(1, rel=0.02)


def test_roofline(smol: ModelSpec) -> None:
    at = scene(smol, "roofline")
    assert roofline.ridge(at) == pytest.approx(989.4e12 / 3350e9)  # 295 FLOP per byte
    slow = at._replace(device=msgspec.structs.replace(at.device, mem_bandwidth_bytes_per_s=25e9))
    assert roofline.most_tok_per_s(slow) == pytest.approx(93, rel=0.02)


def test_kv_cache(smol: ModelSpec) -> None:
    at = scene(smol, "kv_cache")
    assert kv_cache.per_token(at) == kv_bytes_per_token(smol) == 2 * 30 * 3 * 64 * 2 == 23_040
    assert kv_cache.as_large_as_the_weights(at) == pytest.approx(11_700, rel=0.01)
    assert kv_cache.shared(at) == 3


def test_guessing_and_pruning(smol: ModelSpec) -> None:
    assert expected_tokens_per_forward(guessing.ALPHA, guessing.GAMMA) == pytest.approx(3.20, abs=0.005)
    at = scene(smol, "pruning")
    head = 1 - pruning.blocks_share(at)
    assert head == pytest.approx(early_exit.head_share(at), abs=1e-9) == pytest.approx(0.21, abs=0.005)
    assert pruning.without(at, 4) == pytest.approx(1 / (1 - (1 - head) * 4 / 30))
    assert early_exit.time_left(at, 1.0) == pytest.approx(1)


def test_chance() -> None:
    assert really_faster.smallest_p(5) == pytest.approx(0.0625)
    assert really_faster.NOISE * really_faster.best_of(50) == pytest.approx(0.067, abs=0.001)
    draws = np.random.default_rng(1).normal(size=(4000, 50)).max(axis=1)
    assert really_faster.best_of(50) == pytest.approx(draws.mean(), rel=0.01)


def test_the_rule_of_acceptance_keeps_the_distribution() -> None:
    """10 000 draws of the project's own rule: a standard error is 0.5 points, and the draft's shares are 30 away."""
    assert speculative.frequencies(10_000) == pytest.approx(tuple(speculative.P), abs=0.02)
    assert speculative.accepted() == pytest.approx(0.7)


def test_the_trace_is_whole() -> None:
    found = acceptance(trace())
    assert found is not None and found.n_tokens - found.n_forward == found.fast_forwarded > 0
    assert all(len(s.guess) < 16 and s.pieces for s in trace() if s.phase == "decode")


# ---------------------------------------------------------------- what is done for real


def test_what_is_done_leads_to_a_page_with_known_names() -> None:
    menu = {f"pages/{entry[0]}" for entries in MENU.values() for entry in entries}
    kinds: dict[str, plugins.Kind] = {
        "strategy": "strategy",
        "rival-strategy": "strategy",
        "backend": "backend",
        "transform": "transform",
        "profilers": "profiler",
    }
    for name in names():
        do = get(name).do
        query = do.query(scene(spec_of("smollm2-135m"), name))
        assert do.page in menu and do.label, name
        assert all(query[k] in plugins.names(kind) for k, kind in kinds.items() if k in query), name


def test_one_run_from_the_lesson_is_one_that_the_lesson_reads(smol: ModelSpec) -> None:
    here = [name for name in names() if get(name).do.here]
    assert len(here) == 7
    for name in names():
        do, request = get(name).do, get(name).do.request(scene(smol, name), "smollm2-135m")
        assert (request is not None) == (name in here)
        if request is not None:
            asked = do.query(scene(smol, name))
            assert do.page == "pages/measure/run.py" and do.own.fits(request) and request.backend == asked["backend"]


def test_recorded_numbers_stand_beside_computed_ones(store: Store, smol: ModelSpec) -> None:
    run = store.load(BUNDLE.read_bytes())
    spec, device = run.recording().spec, recorded.device()
    assert spec is not None and device is not None
    sources = {"ladder": recorded.ladder(), "benchmark": recorded.benchmark(), "trace": trace()}
    told = Told(run.result())
    for name in names():
        do, at = get(name).do, Scene(spec, device, get(name).control.default)
        found = do.recorded.compare(sources[do.recorded.source], at) if do.recorded else do.own.compare(told, at)
        assert found is not None and found.measured is not None and found.computed, name
        assert 0.05 < found.measured / found.computed < 20, (name, found)
    beside = get("kv_cache").do.own.compare(told, Scene(spec, device))
    assert beside is not None and beside.measured == beside.computed  # llama.cpp reserves just that
    roof = get("roofline").do.own.compare(told, Scene(spec, device))
    assert roof is not None and roof.measured == run.result().tok_per_s


def test_lessons_of_made_models_compare_with_the_parent(store: Store, smol: ModelSpec) -> None:
    base = store.load(BUNDLE.read_bytes()).result()
    (phase,) = [p for p in base.phases if p.name == "decode"]
    assert base.tok_per_s is not None
    half = msgspec.structs.replace(phase, bytes=phase.bytes / 2)
    made = msgspec.structs.replace(base, model="half", tok_per_s=1.5 * base.tok_per_s, phases=(half,))
    for name in ("quantization", "pruning", "early_exit"):
        own = get(name).do.own
        assert own.made_by and own.made_by <= set(plugins.names("transform")), name
        at = scene(smol, name)
        assert own.compare(Told(made), at) is None, "no ratio without a baseline"
        found = own.compare(Told(made, (), base), at)
        assert found is not None and (found.measured, found.computed) == (pytest.approx(1.5), pytest.approx(2.0))
    own = get("consistency").do.own
    guessed = msgspec.structs.replace(made, tokens_per_forward=3.0)
    found = own.compare(Told(guessed, (), base), scene(smol, "consistency"))
    assert found is not None and (found.measured, found.computed) == (pytest.approx(1.5), 3.0)


def test_lessons_of_guessing_read_the_steps_of_the_run(store: Store, smol: ModelSpec) -> None:
    result = store.load(BUNDLE.read_bytes()).result()
    for name in ("jacobi", "speculative"):
        own, at = get(name).do.own, scene(smol, name)
        found = own.compare(Told(result, trace()), at)
        whole = acceptance(trace())
        assert found is not None and whole is not None and found.measured == whole.tokens_per_forward
        assert found.computed is not None and 1 < found.computed < 16
        assert own.compare(Told(result), at) is None


# ---------------------------------------------------------------- texts and answers


@pytest.mark.parametrize(
    ("given", "value"),
    [
        ("23 040", 23040),
        ("23,040", 23040),
        ("23.040", 23.04),
        ("1,5 k", 1500),
        ("0.269 G", 0.269e9),
        ("269 MB", 269e6),
        ("0,0625", 0.0625),
        ("3,2", 3.2),
        ("2e9", 2e9),
        ("298 FLOP per byte", 298),
        ("-4", -4),
        ("", None),
        ("many", None),
        ("1.2.3", None),
    ],
)
def test_numbers_as_people_write_them(given: str, value: float | None) -> None:
    assert number(given) == (None if value is None else pytest.approx(value))


def test_no_measured_figure_is_written_into_a_lesson() -> None:
    """Numbers of texts follow from functions: no literal with a unit of speed, or a decimal factor."""
    for file in (ROOT / "core" / "learn" / "lessons").glob("[a-z]*.py"):
        tree = ast.parse(file.read_text())
        texts = [n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)]
        assert not re.findall(r"\d+\.\d+|\d+ ?(?:tok/s|GB/s|MB|GFLOP)", " ".join(texts)), file.name


def test_models_without_tokens_or_cache_are_refused() -> None:
    assert "encoder" in unfit(spec_of("bert-base-uncased")) and "no attention" in unfit(spec_of("mamba-130m"))
    assert not unfit(spec_of("smollm2-135m"))


def test_takeaways_are_one_page() -> None:
    page = takeaways.page()
    assert all(escape(get(n).title) in page for n in names()) and page.count("<li>") > 30
    assert "http" not in page and "<script" not in page


def test_progress_is_kept_and_survives_damage(tmp_path: Path) -> None:
    progress.mark(tmp_path, "roofline", 2)
    progress.mark(tmp_path, "roofline", 1)
    progress.mark(tmp_path, "jacobi", 1)
    assert progress.done(tmp_path) == {"roofline": frozenset({1, 2}), "jacobi": frozenset({1})}
    (tmp_path / progress.FILE).write_text('{"roofline": 3')
    assert progress.done(tmp_path) == {}
    progress.mark(tmp_path, "roofline", 4)
    assert progress.done(tmp_path) == {"roofline": frozenset({4})}
    progress.forget(tmp_path)
    assert progress.done(tmp_path) == {}


def test_bytes_are_those_of_the_work(smol: ModelSpec) -> None:
    at = scene(smol, "quantization")
    assert bytes_per_token(at, "bf16") / bytes_per_token(at, "q4_0") == pytest.approx(16 / 4.5, rel=0.03)


def test_two_tabs_that_finish_steps_at_once_lose_none(tmp_path: Path) -> None:
    def tab(lesson: str) -> None:
        for step in range(1, 9):
            progress.mark(tmp_path, lesson, step)

    with ThreadPoolExecutor(3) as tabs:
        list(tabs.map(tab, ("one", "two", "three")))
    assert progress.done(tmp_path) == dict.fromkeys(("one", "two", "three"), frozenset(range(1, 9)))
