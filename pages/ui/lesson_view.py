"""One step of a lesson on the screen: its words, control and chart, its question, and the number of a real run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import msgspec
import streamlit as st

from core.analysis.decoding import frames
from core.learn import progress, recorded
from core.learn.lesson import (
    Beside,
    Choice,
    Lesson,
    Number,
    Own,
    Recorded,
    Scene,
    Step,
    Told,
    Value,
    Verdict,
    get,
    judge,
    names,
    number,
    said,
)
from core.learn.lessons._common import generates_autoregressively
from core.learn.trace import trace
from core.learn.variants import following as another
from core.learn.variants import varied
from core.models import catalogue, derived
from core.paths import data_dir
from core.runs.demo import recorded_id
from core.runs.store import Run
from core.types import GOING, Generate, Request, Result
from hardware.errors import ExplorerError
from pages.ui import lecture, text
from pages.ui.ceilings import kept_of, this_machine
from pages.ui.figure import figure
from pages.ui.links import go, link
from pages.ui.live import live
from pages.ui.page import fault
from pages.ui.panes import panes
from pages.ui.race import race
from pages.ui.run_report import draw_failure
from pages.ui.run_view import draw_stage
from pages.ui.state import adopt_value, open_run, readable, remembered, result_of, runner, store

KINDS = {
    "predict": ("psychology_alt", "Predict"),
    "move": ("tune", "Move"),
    "see": ("visibility", "See"),
    "check": ("quiz", "Check"),
    "do": ("play_arrow", "Do"),
}
LECTURE_PX = 400  # height of a chart in a lecture where its style, which fits it to the screen, is not there
CLOCK = "Recorded on a busy machine: what it accepts is exact, its clock is not the machine's own."
_VARIANT_DIGITS = 6
_SEARCHED = 60  # newest runs that are looked through for one that fits


def draw_step(name: str, lesson: Lesson, place: int, scene: Scene, model: str) -> None:
    """The step at this place (from 1); what needs no answer counts as done when it is shown."""
    step = lesson.steps[place - 1]
    icon, word = KINDS[step.kind]
    st.header(f":material/{icon}: {word}: {text.escape(step.title)}", anchor=False)
    if step.kind in ("move", "see"):
        draw_moving(name, lesson, step, scene)
    elif step.check is not None:
        now, variant = scene._replace(value=chosen(name, lesson)), asked_variant()
        asked, told = beside(3, 2)
        with asked:
            if step.text:
                st.markdown(text.escape(said(step.text, scene)))
            draw_check(name, place, step, varied(lesson, now, variant), told)
        with asked if lecture.on() else st.container():
            draw_variants(lesson, step, now, variant)
    else:
        draw_do(lesson, step, scene._replace(value=chosen(name, lesson)), model)
    if step.check is None:
        progress.mark(data_dir(), name, place)


def beside(first: int, second: int) -> tuple[Any, Any]:
    """Two places of a step: beside each other in a lecture, where all of it is to be seen at once, else in a column."""
    return panes(first, second) if lecture.on() else (st.container(), st.container())


# ---------------------------------------------------------------- move and see


def draw_moving(name: str, lesson: Lesson, step: Step, scene: Scene) -> None:
    """The control and its chart; the words follow the control."""

    @st.fragment
    def part() -> None:
        words, drawn = panes(5, 6) if lecture.on() else panes()
        with words:
            now = scene._replace(value=draw_control(name, lesson))
            st.markdown(text.escape(said(step.text, now)))
            if step.takeaway:
                st.info(text.escape(step.takeaway), icon=":material/bookmark:")
        with drawn:
            stepped = lesson.stepper and step.kind == "move"
            if stepped:
                race([("Jacobi, recorded", frames(trace()))], key=f"trace-{name}", steps=int(now.at))
                if not lecture.on():
                    st.caption(CLOCK)
            if not (stepped and lecture.on()):
                draw_chart(name, lesson, step, now)
        if stepped and lecture.on():
            with words:
                st.caption(CLOCK)
                with st.expander("The chart of these steps", icon=":material/bar_chart:"):
                    draw_chart(name, lesson, step, now)

    part()


def draw_chart(name: str, lesson: Lesson, step: Step, now: Scene) -> None:
    """The lesson's chart and what it is of; in a lecture as high as the screen leaves room."""
    key, chart = f"chart-{name}-{step.kind}", lesson.chart(now)
    if lecture.on():
        with st.container(height=LECTURE_PX, border=False, key="lecture-chart"):
            figure(chart, key, "stretch")
    else:
        figure(chart, key)
    about = lesson.drawn_from or f"Computed for: {now.device.name}."
    st.caption(f"{text.escape(about)} {text.provenance(lesson.drawn_is)}")


def draw_control(name: str, lesson: Lesson) -> Value:
    control = lesson.control
    kept = remembered("lesson-values", dict[str, Value])
    value: Value = st.select_slider(
        f"{control.label} ({control.unit})"
        if control.unit.casefold() not in control.label.casefold()
        else control.label,
        control.options,
        value=chosen(name, lesson),
        key=f"control-{name}",
        format_func=_shown,
    )
    kept[name] = value
    return value


def chosen(name: str, lesson: Lesson) -> Value:
    """Where the lesson's control stands, also on steps that do not show it."""
    kept = remembered("lesson-values", dict[str, Value])
    value = kept.get(name, lesson.control.default)
    return value if value in lesson.control.options else lesson.control.default


def _shown(value: Value) -> str:
    if isinstance(value, str):
        return value.replace("_", " ")
    return f"{value:,.0f}" if value >= 1000 else f"{value:g}"


# ---------------------------------------------------------------- check


def asked_variant() -> int:
    """Which numbers the address asks with; 0 for the lesson's own."""
    asked = st.query_params.get("variant", "")
    return int(asked) if asked.isdecimal() and len(asked) <= _VARIANT_DIGITS else 0


def draw_variants(lesson: Lesson, step: Step, scene: Scene, variant: int) -> None:
    """The way to the same question with other numbers, and back; who has its address is asked the same."""
    following = another(lesson, step, scene, variant)
    if following is None:
        return
    with st.container(horizontal=True, vertical_alignment="center"):
        st.button(
            "Ask with other numbers",
            key="lesson-variant",
            icon=":material/casino:",
            type="tertiary",
            on_click=adopt_value,
            args=("variant", str(following)),
            help="The same question about another model, device or size. The address says which: give it to others, "
            "and they are asked the same.",
        )
        if variant:
            st.button(
                "The lesson's own",
                key="lesson-own",
                icon=":material/undo:",
                type="tertiary",
                on_click=own_numbers,
                help="The question about your model and device, with the numbers of the lesson.",
            )


def own_numbers() -> None:
    """Ask with the lesson's own numbers again."""
    st.query_params.pop("variant", None)


class Tries:
    """What was answered to one question, and how often."""

    def __init__(self) -> None:
        self.count = 0
        self.given: float | None = None
        self.verdict: Verdict | None = None


def draw_check(name: str, place: int, step: Step, scene: Scene, told: Any) -> None:
    """The question as a form: Enter answers. Going on is never blocked. told: where the answer is judged."""
    check = step.check
    assert check is not None
    tries = remembered(f"tries-{name}-{place}-{scene.seed}-{scene.value}-{scene.device.name}-{scene.spec.name}", Tries)
    with st.form(f"check-{name}-{place}", border=True):
        given = draw_question(check, scene, f"{name}-{place}-{scene.seed}" if scene.seed else f"{name}-{place}")
        if st.form_submit_button("Check", icon=":material/check:", type="primary"):
            answer(check, scene, tries, given)
    with told:
        draw_verdict(name, place, step, scene, tries)


def draw_verdict(name: str, place: int, step: Step, scene: Scene, tries: Tries) -> None:
    """Right, with what to keep; or what leads to that answer, and after the second one the computation."""
    verdict, check = tries.verdict, step.check
    if verdict is None or check is None:
        return
    if verdict.right:
        progress.mark(data_dir(), name, place)
        st.success(text.escape(verdict.sentence), title="Right", icon=":material/check_circle:")
        if step.takeaway:
            st.info(text.escape(step.takeaway), icon=":material/bookmark:")
    else:
        st.warning(text.escape(verdict.sentence), title="Not quite", icon=":material/lightbulb:")
        if tries.count >= 2:
            with st.expander("Show the computation", icon=":material/calculate:"):
                right = check.options[check.right].sentence if isinstance(check, Choice) else check.working
                st.markdown(f"{text.escape(said(right, scene))} {text.provenance('computed')}")


def draw_question(check: Number | Choice, scene: Scene, key: str) -> str | int | None:
    question = text.escape(said(check.question, scene))
    if isinstance(check, Choice):
        place: int | None = st.radio(
            question,
            range(len(check.options)),
            index=None,
            format_func=lambda i: text.escape(check.options[i].text),
            key=f"choice-{key}",
        )
        return place
    st.markdown(question)
    given: str = st.text_input(
        f"Your answer in {check.unit}" if not check.unit.startswith("(") else f"Your answer {check.unit}",
        key=f"number-{key}",
        help="As you would write it: 23 040, 1,5 k, 0.269 G. Within 3 % counts as right where nothing is said.",
    )
    return given


def answer(check: Number | Choice, scene: Scene, tries: Tries, given: str | int | None) -> None:
    value = number(given) if isinstance(given, str) else given
    if value is None:
        tries.verdict = None
        st.caption(":material/edit: Write a number, or choose an answer; then press Check.")
        return
    tries.count += value != tries.given
    tries.given = value
    tries.verdict = judge(check, scene, value)


# ---------------------------------------------------------------- do


def draw_do(lesson: Lesson, step: Step, scene: Scene, model: str) -> None:
    """The way to do it for real, and the measured number beside the computed one."""
    do = lesson.do
    ways, numbers = beside(1, 1)
    own = fitting(lesson, model)
    shipped = Fit(run) if do.recorded is None and (run := stand_in()) is not None else None
    stands_in = shipped is not None or do.recorded is not None
    kept = remembered("lesson-recorded", dict[str, bool])
    shows_own = own is not None and not (stands_in and kept.get("on"))
    with ways:
        st.markdown(text.escape(said(step.text, scene)))
        draw_start(lesson, scene, model)
        if own is None and do.own.made_by:
            draw_way(lesson, model)
        if own is None and not stands_in:
            st.info(
                "Press the button above. When the run is done, its number stands here.",
                icon=":material/play_arrow:",
            )
        if own is not None and stands_in:
            st.button(
                "Show what was recorded" if shows_own else "Show my own run",
                key="lesson-which",
                icon=":material/swap_horiz:",
                shortcut="L",
                on_click=lambda: kept.update(on=not kept.get("on")),
            )
    with numbers:
        if shows_own and own is not None:
            draw_run(do.own, own, scene, f":material/check: Your run of {text.when(own.run.created_s)}.")
        elif do.recorded is not None:
            draw_recorded(do.recorded, scene)
        elif shipped is not None:
            words = "The recorded run that ships with this app"
            words += "." if own is not None else " stands in: nothing of your own fits yet."
            draw_run(do.own, shipped, scene, f":material/inventory_2: {words}")


def draw_start(lesson: Lesson, scene: Scene, model: str) -> None:
    """The button that does it: here where one run is all, else on the page where it is set up. D presses it."""
    do = lesson.do
    query = do.query(scene) | ({"model": model} if do.page.startswith("pages/measure") else {})
    request, kept = do.request(scene, model), remembered("lesson-runs", dict[str, str])
    with st.container(horizontal=True, vertical_alignment="center"):
        begins = st.button(
            do.label,
            key="lesson-do",
            icon=":material/play_arrow:",
            type="primary",
            shortcut="D",
            disabled=request is not None and runner().active() is not None,
        )
        if request is not None and st.button("Change its settings first", key="lesson-page", type="tertiary"):
            leave(lesson, do.page, query)
    if begins and request is None:
        leave(lesson, do.page, query)
    if begins and request is not None:
        try:
            kept[lesson.title] = runner().start(request)
        except ExplorerError as error:
            fault(error)
            return
        st.rerun()
    if (run_id := kept.get(lesson.title)) and readable(run_id) and (run := open_run(run_id)).status() != "done":
        live(run, draw_going, key="lesson")


def draw_going(run: Run, result: Result) -> None:
    """The lesson's own run on its way, and why it failed; the strip above stops it."""
    draw_stage(run, result)
    draw_failure(run, result)
    if result.status in GOING and result.text:
        st.text(result.text)


def leave(lesson: Lesson, page: str, query: dict[str, str]) -> None:
    """Go where it is set up; a line on the other pages leads back."""
    remembered("lesson-left", dict[str, str])["title"] = lesson.title
    go(page, query)


def way_back(on_lessons: bool) -> None:
    """On the other pages, after a lesson has sent somebody there: the way back to its step."""
    left = remembered("lesson-left", dict[str, str])
    if on_lessons:
        left.clear()
    if not left:
        return
    name = next(n for n in names() if get(n).title == left["title"])
    lesson = get(name)
    with st.container(
        border=True, horizontal=True, vertical_alignment="center", horizontal_alignment="distribute", key="way-back"
    ):
        st.markdown(
            f":material/school: **Lesson {lesson.order}: {text.escape(lesson.title)}.** Run it here, then go back: "
            "its number stands there.",
            width="content",
        )
        with st.container(horizontal=True, width="content"):
            if st.button("Back to the lesson", key="way-back-go", icon=":material/arrow_back:"):
                go("pages/learn/lessons.py", {"lesson": name, "step": str(len(lesson.steps))})
            st.button("Stay", key="way-back-stay", type="tertiary", on_click=left.clear)


def draw_way(lesson: Lesson, model: str) -> None:
    """What is still to be done before one's own runs can speak."""
    made = [name for name in derived_of(model) if derived.about(name).get("transform") in lesson.do.own.made_by]
    if not made:
        st.info(
            f"Press the button above. Then run the new model and {model} in the same backend, and come back: their "
            "numbers stand here.",
            icon=":material/play_arrow:",
        )
        return
    st.info(
        f"Run {made[-1]} and {model} in the same backend, and come back: their numbers stand here.",
        icon=":material/play_arrow:",
    )
    query = {"model": made[-1], **({"strategy": "jacobi"} if "consistency" in lesson.do.own.made_by else {})}
    if st.button(f"Run {text.escape(made[-1])}", key="lesson-run-made", icon=":material/play_arrow:"):
        leave(lesson, "pages/measure/run.py", query)


def draw_recorded(found: Recorded, scene: Scene) -> None:
    """What was recorded stands in."""
    source = {"ladder": recorded.ladder, "benchmark": recorded.benchmark, "trace": trace}[found.source]()
    words = {
        "ladder": "From the compression ladder that was recorded with this project, on its own machine and model.",
        "benchmark": "From the decoding benchmark that was recorded with this project, on its own machine and model.",
        "trace": "From the trace that was recorded with this project.",
    }[found.source]
    draw_beside(found.compare(source, scene) if source is not None else None, f":material/inventory_2: {words}")


def draw_run(own: Own, fit: Fit, scene: Scene, words: str) -> None:
    """The numbers of a run, with the machine that made it as the device."""
    run, result = fit.run, result_of(fit.run)
    spec, steps = run.recording().spec, run.recording().timing
    found = kept_of(result)
    device = this_machine(found, scene.device.name) or scene.device
    named = msgspec.structs.replace(spec, name=scene.spec.name) if spec is not None else scene.spec
    told = Told(result, steps[-1] if steps else (), result_of(fit.baseline) if fit.baseline else None)
    draw_beside(own.compare(told, scene._replace(spec=named, device=device)), words)
    link("pages/measure/run.py", "Look at that run", ":material/open_in_new:", run.id)
    if fit.baseline is not None:
        link("pages/measure/run.py", "Look at the baseline", ":material/open_in_new:", fit.baseline.id)


class Fit(NamedTuple):
    """A run that a lesson can speak of, and the one it is compared with."""

    run: Run
    baseline: Run | None = None


def fitting(lesson: Lesson, model: str) -> Fit | None:
    """The newest finished run that the lesson can speak of, with its baseline where it needs one."""
    own = lesson.do.own
    if not own.made_by:
        run = newest(lambda r: r.model == model and own.fits(r))
        return Fit(run) if run is not None else None
    made = {n for n in derived_of(model) if derived.about(n).get("transform") in own.made_by}
    run = newest(lambda r: r.model in made and own.fits(r)) if made else None
    if run is None:
        return None
    backend = run.request.backend
    baseline = newest(lambda r: r.model == model and r.backend == backend and generates_autoregressively(r))
    return Fit(run, baseline) if baseline is not None else None


def newest(fits: Callable[[Request], bool]) -> Run | None:
    """Of the finished generations on this machine; not the recorded one."""
    for run_id in store().ids()[:_SEARCHED]:
        if run_id == recorded_id() or not readable(run_id):
            continue
        run = open_run(run_id)
        spoken_of = isinstance(run.request.task, Generate) and fits(run.request)
        if spoken_of and run.status() == "done" and run.recording().spec is not None:
            return run
    return None


def derived_of(model: str) -> list[str]:
    """The models that were made here of this one, oldest first."""
    found = [e.id for e in catalogue.entries() if derived.about(e.id).get("parent") == model]
    return sorted(found, key=lambda name: str(derived.about(name).get("made")))


def stand_in() -> Run | None:
    """The recorded run, where it has not been deleted."""
    run_id = recorded_id()
    return open_run(run_id) if run_id is not None and run_id in store().ids() and readable(run_id) else None


def draw_beside(found: Beside | None, words: str) -> None:
    st.caption(words)
    if found is None:
        st.caption("That number was not measured there.")
        return
    with st.container(border=True):
        st.markdown(f"**{text.escape(found.what)}**")
        one, two, three = st.columns(3)
        one.metric("Measured", _value(found.measured, found.unit))
        two.metric("Computed", _value(found.computed, found.unit))
        ratio = found.measured / found.computed if found.measured is not None and found.computed else None
        three.metric("Ratio", text.ratio(ratio), help="Measured over computed.")
        st.caption(f"{text.escape(found.words)} {text.provenance('measured')} {text.provenance('computed')}")


def _value(value: float | None, unit: str) -> str:
    if value is None:
        return text.NONE
    if unit == "":
        return f"{value:.1%}"
    if unit in ("×", "tokens", "tok/s"):
        return f"{value:,.3g} {unit}" if value < 1000 else f"{value:,.0f} {unit}"
    return text.si(value, unit)


def finished(steps: Sequence[Step], done: frozenset[int]) -> str:
    """`3 of 6`."""
    return f"{len(done & set(range(1, len(steps) + 1)))} of {len(steps)}"
