"""Lessons: predict, move, see, check, do. One page draws any of them."""

from __future__ import annotations

from typing import Any, Literal

import msgspec
import streamlit as st

from core.learn import progress, takeaways
from core.learn.lesson import Lesson, Scene, get, names, unfit
from core.learn.recorded import RECORDED_MACHINE
from core.learn.recorded import device as recorded_device
from core.models import catalogue
from core.paths import data_dir
from core.types import ModelSpec
from hardware import catalogue as hardware
from hardware.detect import usable_cores
from hardware.device import Device
from pages.ui import lecture, text
from pages.ui.ceilings import THIS, kept, this_machine
from pages.ui.choices import select
from pages.ui.lesson_view import KINDS, draw_step, finished, own_numbers
from pages.ui.models import model_picker, spec_of
from pages.ui.page import page
from pages.ui.share import Form, download
from pages.ui.state import adopt, adopt_value, publish

ABOUT = "Predict, move, see, check, do: short lessons whose answers are computed for your model and device."
ALL, DEFAULT_MODEL = "all", "smollm2-135m"


def devices() -> dict[str, Device]:
    """This machine first, where it was measured; else the recorded run's; then the data sheets."""
    here, shipped = this_machine(kept(usable_cores())), recorded_device()
    found = {THIS: here} if here is not None else {}
    if shipped is not None:
        found[RECORDED_MACHINE] = shipped
    return found | {d.name: d for d in hardware.devices(data_dir() / "devices")}


def subject() -> tuple[ModelSpec, Device, str]:
    """The model and the device that the lessons speak of, and the model's id."""
    known = devices()
    with st.popover("Model and device", icon=":material/tune:"):
        model = model_picker("lesson-model") or DEFAULT_MODEL
        device = select("Device", list(known), str, "lesson-device")
        if THIS not in known:
            st.caption("Measure this machine on the page Devices, and the lessons speak of it.")
        entry = catalogue.find(model)
        spec = spec_of(entry)
        if reason := unfit(spec):
            st.warning(text.escape(reason), title=f"The lessons use {DEFAULT_MODEL} instead")
            model, entry = DEFAULT_MODEL, catalogue.find(DEFAULT_MODEL)
            spec = spec_of(entry)
    assert device is not None
    return msgspec.structs.replace(spec, name=entry.label.split(" (")[0]), known[device], model


def open_lesson(name: str) -> None:
    adopt_value("lesson", name)
    begin()


def begin() -> None:
    """A lesson begins with its first step, and with its own numbers."""
    adopt_value("step", "1")
    own_numbers()


def turn(name: str, by: int) -> None:
    """One step on or back from where the address is: a key may be pressed before the last step is drawn whole."""
    at, last = st.query_params.get("step", "1"), len(get(name).steps)
    now = text.natural(at, last) or 1
    adopt_value("step", str(min(max(now + by, 1), last)))


def forget() -> None:
    progress.forget(data_dir())
    st.toast("All lessons begin anew.", icon=":material/restart_alt:")


def draw_list() -> None:
    """All lessons with what is done of each, and what there is to take home."""
    done = progress.done(data_dir())
    with st.grid(3, min_column_width=270):
        for name in names():
            lesson = get(name)
            with st.container(border=True, height="stretch"):
                st.markdown(f"**{lesson.order}. {text.escape(lesson.title)}** :gray[{lesson.minutes} min]")
                st.caption(text.escape(lesson.about))
                count = finished(lesson.steps, done.get(name, frozenset()))
                st.button(
                    "Open" if count.startswith("0 ") else f"Go on, {count} done",
                    key=f"open-{name}",
                    icon=":material/school:",
                    on_click=open_lesson,
                    args=(name,),
                    help=f"Lesson {lesson.order}: {lesson.title}",
                )
    with st.container(horizontal=True):
        download(Form("Takeaways of all lessons, on one page", "takeaways.html", takeaways.page), "takeaways")
        if done:
            st.button("Forget what is done", icon=":material/restart_alt:", type="tertiary", on_click=forget)


def draw_lesson(name: str, lesson: Lesson, bar: Any) -> None:
    """One step of it, and the ways to the others. bar: where its controls stand."""
    places = [str(n) for n in range(1, len(lesson.steps) + 1)]
    adopt("step", places, "1")
    done = progress.done(data_dir()).get(name, frozenset())

    def label(place: str) -> str:
        mark = " ✓" if int(place) in done else ""
        return place if lecture.on() else f"{place} {KINDS[lesson.steps[int(place) - 1].kind][1]}{mark}"

    with bar:
        chosen = st.segmented_control(
            "Step", places, format_func=label, key="step", required=True, label_visibility=labels()
        )
        spec, device, model = subject()
    publish("step", chosen, None)
    place = int(chosen or "1")
    draw_step(name, lesson, place, Scene(spec, device, lesson.control.default), model)
    draw_ways(name, lesson, place)


def labels() -> Literal["visible", "collapsed"]:
    """In a lecture the controls stand in one row, and what they choose says what they are."""
    return "collapsed" if lecture.on() else "visible"


def draw_ways(name: str, lesson: Lesson, place: int) -> None:
    """Back and on, with the arrow keys too; behind the last step the next lesson."""
    follows = names()[names().index(name) + 1 :]
    with st.container(horizontal=True, horizontal_alignment="distribute", key="lesson-ways"):
        st.button(
            "Back",
            key="lesson-back",
            icon=":material/arrow_back:",
            shortcut="Left",
            disabled=place == 1,
            on_click=turn,
            args=(name, -1),
        )
        last = place == len(lesson.steps)
        if not last or follows:  # one button, so that who goes on by keys stays on it
            st.button(
                f"Next lesson: {get(follows[0]).title}" if last else "Next",
                key="lesson-on",
                icon=":material/arrow_forward:",
                shortcut="Right",
                on_click=open_lesson if last else turn,
                args=(follows[0],) if last else (name, 1),
            )


def row(key: str | None = None) -> Any:
    return st.container(horizontal=True, vertical_alignment="bottom", horizontal_alignment="distribute", key=key)


with page("Lessons", "" if lecture.on() else ABOUT):
    bar = row("lesson-bar")
    with bar:
        name = select(
            "Lesson",
            [ALL, *names()],
            lambda n: "All lessons" if n == ALL else f"{get(n).order}. {get(n).title}",
            "lesson",
            ALL,
            on_change=begin,
            width=380,
            label_visibility=labels(),
        )
        if not lecture.on():
            st.button(
                "Lecture mode",
                key="lecture-begin",
                icon=":material/open_in_full:",
                on_click=lecture.switch,
                args=(True,),
                help="Large type, one step per screen. Arrow keys turn the steps, D starts the run of the last one, L "
                "shows the recorded run in place of your own, Escape leaves.",
            )
    if name is None or name == ALL:
        draw_list()
    else:
        draw_lesson(name, get(name), bar if lecture.on() else row())
