"""What a lesson is: a question, one control, a chart, checks with computed answers, and a run that shows it.

A lesson is one file of core/learn/lessons and exposes `lesson`; its name is the file's name. Its texts are functions
of a scene (model, device, where the control stands), so that every number in them follows from functions of the
project, for whatever model and device are chosen. Knows how answers are read and judged; draws nothing.
"""

from __future__ import annotations

import importlib
import math
import pkgutil
import re
import zlib
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

from core.analysis.bottlenecks import Ceiling
from core.analysis.device_time import compute_peak
from core.charts.chart import Chart
from core.types import Attention, Generate, ModelSpec, Provenance, Request, Result
from core.types import Step as Taken
from hardware.device import Device
from hardware.errors import ExplorerError

Kind = Literal["predict", "move", "see", "check", "do"]
Source = Literal["ladder", "benchmark", "trace"]
Value = float | str
T = TypeVar("T")
PROMPT = "Why is the sky blue? Explain it to a child."
_PREFIXES = {"k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12}
_NUMBER = re.compile(r"\s*([-+]?\d[\d  '_]*(?:[.,]\d+)?(?:e[-+]?\d+)?)\s*([kKmMgGtT]?)\s*[^\d]*\s*")


class Scene(NamedTuple):
    """What a lesson speaks of. value: where its control stands; seed: which numbers it asks with, 0 for the usual."""

    spec: ModelSpec
    device: Device
    value: Value = 0.0
    seed: int = 0

    @property
    def at(self) -> float:
        """The control's value as a number."""
        return float(self.value)

    def draw(self, what: str, values: Sequence[T]) -> T:
        """The first of the values, as the lesson is written; with a seed one of the others, the same for equal seeds.

        what: the name of the draw, so that two of one seed do not go together.
        """
        if self.seed == 0:
            return values[0]
        return values[1 + zlib.crc32(f"{self.seed} {what}".encode()) % (len(values) - 1)]

    def ceiling(self, dtype: str = "bf16") -> Ceiling:
        """The device's roof for weights of this format."""
        _, peak = compute_peak(self.device, dtype)
        return Ceiling(flop_per_s=peak, bytes_per_s=self.device.mem_bandwidth_bytes_per_s, source=self.device.name)


def unfit(spec: ModelSpec) -> str:
    """Why the lessons cannot speak of this model, in a sentence; empty where they can."""
    if not spec.causal:
        return f"{spec.name} is an encoder: it writes no tokens, and most lessons are about writing them."
    if not any(isinstance(layer.op, Attention) for layer in spec.layers):
        return f"{spec.name} has no attention, so it has no KV cache to speak of."
    return ""


Words = str | Callable[[Scene], str]


class Control(NamedTuple):
    """The one thing to move. default: one of the options."""

    label: str
    options: tuple[Value, ...]
    default: Value
    unit: str = ""


class Mistake(NamedTuple):
    """A usual wrong number and what it comes from."""

    value: Callable[[Scene], float]
    sentence: str


class Number(NamedTuple):
    """A question whose answer is a number. unit: in which it is asked; working: the computation, written out."""

    question: Words
    unit: str
    answer: Callable[[Scene], float]
    mistakes: tuple[Mistake, ...]
    working: Words
    tolerance: float = 0.03


class Option(NamedTuple):
    """One answer to choose, and what there is to say when it is chosen."""

    text: str
    sentence: Words


class Choice(NamedTuple):
    """A question with answers to choose from. right: the place of the right one."""

    question: Words
    options: tuple[Option, ...]
    right: int


class Step(NamedTuple):
    """One screen. takeaway: what to keep of it, in one sentence."""

    kind: Kind
    title: str
    text: Words = ""
    check: Number | Choice | None = None
    takeaway: str = ""


class Beside(NamedTuple):
    """A measured number beside a computed one, both in `unit`, and what they are."""

    what: str
    measured: float | None
    computed: float | None
    unit: str
    words: str


class Told(NamedTuple):
    """A finished run, the steps of its last timing pass, and where a lesson compares two, the baseline's result."""

    result: Result
    steps: Sequence[Taken] = ()
    baseline: Result | None = None


class Own(NamedTuple):
    """What a run says. fits: which runs it is about, the newest of them is taken.

    made_by: transforms. Then it is about a run of a model that one of them made of the lesson's, and its baseline is
    the newest run of the lesson's model in the same backend, one token at a time. Without: about the lesson's model.
    """

    fits: Callable[[Request], bool]
    compare: Callable[[Told, Scene], Beside | None]
    made_by: frozenset[str] = frozenset()


class Recorded(NamedTuple):
    """What stands in while there is no such run. compare: of Findings, Standings or the steps of a trace."""

    source: Source
    compare: Callable[[Any, Scene], Beside | None]


class Do(NamedTuple):
    """What is done for real. page, query: where it is set up, ready to run.

    recorded: None where the run that ships with the project stands in. here: one run with these settings is all, so
    that it can be started from the lesson itself.
    """

    label: str
    page: str
    query: Callable[[Scene], dict[str, str]]
    own: Own
    recorded: Recorded | None = None
    here: bool = False

    def request(self, scene: Scene, model: str) -> Request | None:
        """The run that shows it, of a model by its id; None where more than one run, or a choice, is needed."""
        if not self.here:
            return None
        asked = self.query(scene)
        usual = Request(model=model, backend=asked["backend"])
        return Request(
            model=model,
            backend=usual.backend,
            strategy=asked.get("strategy", usual.strategy),
            batch=int(asked.get("batch", usual.batch)),
            repeats=int(asked.get("repeats", usual.repeats)),
            profilers=(asked["profilers"],) if "profilers" in asked else usual.profilers,
            task=Generate(prompt=PROMPT),
            live=True,
        )


class Lesson(NamedTuple):
    """A lesson. order: its number; about: its question in a sentence."""

    order: int
    title: str
    minutes: int
    about: str
    control: Control
    chart: Callable[[Scene], Chart]
    steps: tuple[Step, ...]
    do: Do
    stepper: bool = False  # beside the chart the recorded trace can be stepped through
    drawn_from: str = ""  # what the chart shows, where it is not computed for the scene's device
    drawn_is: Provenance = "computed"


class Verdict(NamedTuple):
    right: bool
    sentence: str


# ---------------------------------------------------------------- lessons by name


@cache
def names() -> tuple[str, ...]:
    """The lessons' names, in their order."""
    folder = Path(__file__).parent / "lessons"
    found = [m.name for m in pkgutil.iter_modules([str(folder)]) if not m.name.startswith("_")]
    return tuple(sorted(found, key=lambda name: _load(name).order))


def get(name: str) -> Lesson:
    """The lesson; raises ExplorerError with the known names."""
    if name not in names():
        raise ExplorerError(f"There is no lesson called '{name}'.", f"Known: {', '.join(names())}.")
    return _load(name)


@cache
def _load(name: str) -> Lesson:
    found: Lesson = importlib.import_module(f"core.learn.lessons.{name}").lesson
    return found


def said(words: Words, scene: Scene) -> str:
    """The words for this scene."""
    return words if isinstance(words, str) else words(scene)


# ---------------------------------------------------------------- answers


def number(text: str) -> float | None:
    """A number as people write it: `23 040`, `1,5 k`, `0.269 G`, `2e9`; None when it is none."""
    found = _NUMBER.fullmatch(text)
    if found is None:
        return None
    digits = re.sub(r"[  '_]", "", found[1])
    if re.fullmatch(r"[-+]?\d{1,3}(,\d{3})+", digits) and not re.fullmatch(r"[-+]?0,\d+", digits):
        digits = digits.replace(",", "")
    value = float(digits.replace(",", ".")) * _PREFIXES.get(found[2].lower(), 1.0)
    return value if math.isfinite(value) else None


def near(a: float, b: float, tolerance: float) -> bool:
    """Whether two numbers are equal within a share of the second."""
    return abs(a - b) <= tolerance * abs(b) + 1e-12


def judge(check: Number | Choice, scene: Scene, given: float | int) -> Verdict:
    """Right, or the sentence of the mistake that leads there. given: a number in the check's unit, or an option."""
    if isinstance(check, Choice):
        option = check.options[int(given)]
        return Verdict(int(given) == check.right, said(option.sentence, scene))
    answer = check.answer(scene)
    if near(given, answer, check.tolerance):
        return Verdict(True, said(check.working, scene))
    for mistake in check.mistakes:
        if near(given, mistake.value(scene), check.tolerance):
            return Verdict(False, mistake.sentence)
    if answer and 0.2 < abs(given / answer) < 5:
        return Verdict(False, "Close, but not it. Write the computation down and look at every factor.")
    return Verdict(False, "That is far from it. Look at the unit, and at every factor of the computation.")
