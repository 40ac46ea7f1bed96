"""A lecture on its screens: every step of every lesson has to fit on one, without scrolling.

`python -m tests.browser.lecture` looks at all of them, from the first step to the last with one key, and prints those
that do not fit; test_lessons.py looks at the fullest ones.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from core.learn import recorded
from core.learn.lesson import Choice, Lesson, Number, Scene, Step, get, names, said
from core.models.presets import presets
from core.models.spec import read
from tests.browser.conftest import WAIT_MS, chromium, served, still

SCREENS = ((1440, 900), (1920, 1080))  # a laptop, a projector
FITS = """() => {
  const main = document.querySelector("[data-testid=stMain]");
  const ways = document.querySelector(".st-key-lesson-ways button").getBoundingClientRect();
  const inside = ways.bottom <= innerHeight; // they stand over the page's own lower margin
  return inside && main.scrollHeight <= innerHeight && main.scrollWidth <= innerWidth;
}"""


def fullest() -> list[tuple[str, int]]:
    """Of each kind of step the one with the most words, by its lesson and its place; the stepper too."""
    words = {(name, n): _words(get(name), step) for name in names() for n, step in enumerate(get(name).steps, 1)}
    kinds = {place: get(place[0]).steps[place[1] - 1].kind for place in words}
    most = [max((p for p in words if kinds[p] == kind), key=words.__getitem__) for kind in sorted(set(kinds.values()))]
    stepped = next((p for p in words if get(p[0]).stepper and kinds[p] == "move"), most[0])
    return list(dict.fromkeys([*most, stepped]))


def _words(lesson: Lesson, step: Step) -> int:
    """Letters of a step as it stands before it is answered."""
    device = recorded.device()
    assert device is not None
    preset = next(p for p in presets() if p.id == "smollm2-135m")
    scene = Scene(read(preset.files["config"], "config"), device, lesson.control.default)
    told = said(step.text, scene) + (step.takeaway if step.kind in ("move", "see") else "")
    check = step.check
    if isinstance(check, Number):
        told += said(check.question, scene)
    if isinstance(check, Choice):
        told += said(check.question, scene) + "".join(60 * " " + option.text for option in check.options)
    return len(told)


def main() -> int:
    """Print the steps that do not fit; 1 where there is one."""
    from playwright.sync_api import Error, expect

    expect.set_options(timeout=WAIT_MS)
    wrong = 0
    with tempfile.TemporaryDirectory() as folder, served(Path(folder)) as server, chromium() as (browser,):
        page = browser.new_page()
        page.goto(server.address("lessons", lesson=names()[0], lecture=1))
        for lesson in names():
            for place, step in enumerate(get(lesson).steps, 1):
                expect(page.get_by_role("heading", name=step.title, exact=False)).to_be_visible()
                still(page)
                for width, height in SCREENS:
                    page.set_viewport_size({"width": width, "height": height})
                    try:
                        page.wait_for_function(FITS, timeout=10_000)
                    except Error:
                        wrong += 1
                        print(f"{lesson}, step {place}: does not fit on {width} x {height}", flush=True)
                page.keyboard.press("ArrowRight")
    print(f"{sum(len(get(name).steps) for name in names())} steps, {wrong} that do not fit")
    return int(wrong > 0)


if __name__ == "__main__":
    raise SystemExit(main())
