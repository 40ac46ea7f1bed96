"""What a study is going to do, written down before it does it: variants, evaluations, margin, and what is known."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from core.analysis.cuts import Space
from core.analysis.search import Constraint
from core.stats.pareto import Direction
from core.studies.validate import Group
from core.types import Record, Request, Scalar

Name = Annotated[str, Meta(pattern=r"\A[^./\\\x00][^/\\\x00]{0,199}\Z")]  # of a study, and of its folder
Count = Annotated[int, Meta(ge=1)]
Rounds = Annotated[int, Meta(ge=1, le=50)]
ENGINES = ("llama_cpp", "onnxruntime", "pytorch")  # in which shapes are measured where none is named


class Recipe(Record):
    """One way to run the study's model: what is made of it, and how that is opened.

    steps: transforms and their settings, one after the other, each on what the one before it made; without any the
    model itself runs. base: this is what its backend runs without any optimization.
    """

    id: str
    label: str
    backend: str
    steps: tuple[tuple[str, dict[str, Scalar]], ...] = ()
    dtype: str | None = None
    options: dict[str, Scalar] = msgspec.field(default_factory=dict)
    base: bool = False


class Evaluation(Record):
    """One evaluation of every variant.

    metric: the one that the report shows. task: whether it judges answers; the variants' quality is the mean of the
    tasks' items. chance: what guessing gives on an item. generates: whether answers are written, token by token.
    """

    eval: str
    label: str
    metric: str
    settings: dict[str, Scalar] = msgspec.field(default_factory=dict)
    task: bool = True
    chance: float = 0.0
    generates: bool = False

    @property
    def key(self) -> str:
        """Of its run, behind the recipe's id, in the ledgers of studies."""
        return f"evaluation/{self.eval}"


class Plan(Record, tag="ladder", omit_defaults=False):
    """A study before it begins.

    baseline: the recipe that everything is compared with. margin: of quality, within which it counts as equal.
    prompt_tokens, new_tokens: of the standard answer whose time is the speed. rounds: in each, every variant answers
    once in a fresh process, in a new random order; as many of `rounds` as time allows, and at least `least_rounds`.
    """

    name: Name
    title: str
    model: str
    recipes: tuple[Recipe, ...]
    evaluations: tuple[Evaluation, ...]
    baseline: str
    groups: tuple[Group, ...] = ()
    margin: float = 0.05
    prompt_tokens: int = 64
    new_tokens: int = 32
    least_rounds: int = 5
    rounds: int = 10
    repeats: int = 2
    threads: int | None = None

    def recipe(self, name: str) -> Recipe:
        return next(r for r in self.recipes if r.id == name)

    def base_of(self, recipe: Recipe) -> Recipe | None:
        """The unoptimized recipe of the same backend."""
        return next((r for r in self.recipes if r.base and r.backend == recipe.backend), None)


class Configuration(Record):
    """A model under a way to decode it, in one backend.

    recipe: of the model. own: the configuration that decodes the same model in the same backend autoregressively.
    rounds: how many of the benchmark's rounds it takes part in. drafts: the recipe of the model that drafts for it.
    """

    id: str
    label: str
    recipe: str
    backend: str
    own: str
    rounds: int
    strategy: str = "autoregressive"
    drafts: str = ""
    params: dict[str, Scalar] = msgspec.field(default_factory=dict)
    dtype: str | None = None
    options: dict[str, Scalar] = msgspec.field(default_factory=dict)

    @property
    def is_autoregressive(self) -> bool:
        return self.own == self.id


class Quality(Record):
    """Two configurations on many more questions than the rounds ask, for their accuracy alone: no speed is taken."""

    baseline: str
    candidate: str
    questions: int


class Benchmark(Record, tag="benchmark", omit_defaults=False):
    """Ways to decode against each other on the same questions.

    In each round every configuration answers `questions` new ones of `eval` in a fresh process, in a random order of
    the round's own. looks: in so many of the rounds the cost of a forward is measured too, of those that decode
    autoregressively, in a process of its own. settings: of the eval, beside their number and seed. baseline: what
    quality must be kept of and speed is compared with. candidate: the configuration whose claim it is. margin: of
    accuracy, stated before. quality: whose accuracy is asked closely, too. away: an eval out of domain, for the
    baseline and the candidate. question: whose answer memory and energy are measured on.
    """

    name: Name
    title: str
    model: str
    recipes: tuple[Recipe, ...]
    configurations: tuple[Configuration, ...]
    baseline: str
    candidate: str
    eval: str = "sql"
    settings: dict[str, Scalar] = msgspec.field(default_factory=dict)
    questions: int = 40
    looks: int = 3
    margin: float = 0.01
    quality: Quality | None = None
    away: Evaluation | None = None
    question: str = ""
    threads: int | None = None

    def configuration(self, name: str) -> Configuration:
        return next(c for c in self.configurations if c.id == name)

    def drafter(self, c: Configuration) -> Configuration | None:
        """The configuration that decodes the model that drafts, autoregressively in the same backend."""
        found = (
            d for d in self.configurations if d.is_autoregressive and (d.recipe, d.backend) == (c.drafts, c.backend)
        )
        return next(found, None)


class Axis(Record):
    """What varies in a sweep, and its values in the order given; None is the backend's own choice.

    name: of a request's setting ("threads", see core.studies.grid), or of a plugin's own one ("llama_cpp.flash_attn",
    "jacobi.window"), which varies only in the cells of that plugin.
    """

    name: str
    values: tuple[Scalar, ...]


class Limits(Record):
    """When a sweep ends before all of its grid is measured, beside its minutes. None: not limited so.

    cells: that many cells. width: further rounds follow until each cell's 95 % interval is narrower than this share
    of its value.
    """

    cells: Count | None = None
    width: Annotated[float, Meta(gt=0, le=1)] | None = None


class Sweep(Record, tag="sweep", omit_defaults=False):
    """Every combination of the axes' values, each measured as `base` says.

    rounds: how often each cell is measured. reference_every: so many cells stand between two measurements of the
    reference cell, which show how the machine drifts; 0: none. seed: of the order within a loaded model.
    """

    name: Name
    title: str
    base: Request
    axes: tuple[Axis, ...]
    rounds: Rounds = 1
    reference_every: Annotated[int, Meta(ge=0)] = 10
    limits: Limits = Limits()
    seed: int = 0


class Floor(Record):
    """The quality that a search asks for: a metric of an evaluation, and the worst that it may be.

    It is met where the worse end of the metric's 95 % interval meets it, so that few items do not pass for good ones.
    label: of the metric.
    """

    eval: str
    metric: str
    label: str
    better: Direction
    limit: float
    settings: dict[str, Scalar] = msgspec.field(default_factory=dict)


class Search(Record, tag="search", omit_defaults=False):
    """The best cells of a grid under constraints, found with fewer measurements than the grid has cells.

    goals: measures (core.studies.measures), the first decides. total: measurements it may make before the finalists
    are measured anew, `final_rounds` times each in fresh processes beside the baseline, the cell nearest to `base`.
    floor: of quality; None: it is not looked at.
    """

    name: Name
    title: str
    base: Request
    axes: tuple[Axis, ...]
    goals: tuple[str, ...]
    constraints: tuple[Constraint, ...] = ()
    total: Count = 40
    final_rounds: Rounds = 5
    seed: int = 0
    floor: Floor | None = None

    @property
    def grid(self) -> Sweep:
        return Sweep(name=self.name, title=self.title, base=self.base, axes=self.axes, seed=self.seed)


class Architectures(Record, tag="architectures", omit_defaults=False):
    """Shapes cut from a trained model that are worth their cost, found by masking, then trained and measured.

    engines: where winners are measured, the first is what limits are for unless a `device` of the catalogue is named.
    speedup: over the whole model, that the answer must reach. score_tokens: of text on which masked shapes are
    compared with the whole model; scored: shapes compared so. finished: shapes that are cut, distilled and measured,
    `checks` of them drawn at random over all sizes, against which the proxies are held. training: settings of distill.
    texts: documents on which finished shapes are judged, in the backend `judge`; shapes are scored on others.
    quantize: a GGUF type in which the answer is measured and judged once more; "" for none.
    """

    name: Name
    title: str
    model: str
    engines: tuple[str, ...] = ENGINES
    device: str = ""
    constraints: tuple[Constraint, ...] = ()
    space: Space = Space()
    speedup: Annotated[float, Meta(ge=1)] = 1.3
    score_tokens: Annotated[int, Meta(ge=16, le=8192)] = 1024
    scored: Annotated[int, Meta(ge=2)] = 40
    finished: Count = 9
    checks: Annotated[int, Meta(ge=0)] = 3
    training: dict[str, Scalar] = msgspec.field(default_factory=dict)
    texts: Annotated[int, Meta(ge=2)] = 12
    judge: str = "pytorch"
    quantize: str = ""
    prompt_tokens: Count = 64
    new_tokens: Count = 32
    rounds: Rounds = 5
    repeats: Count = 2
    threads: Count | None = None
    seed: int = 0

    @property
    def target(self) -> str:
        """What limits are for: the device, or the first engine."""
        return self.device or self.engines[0]

    @property
    def places(self) -> tuple[str, ...]:
        """Everywhere that a shape's cost is predicted."""
        return (*self.engines, *((self.device,) if self.device else ()))


class FreeShapes(Record, tag="free-shapes", omit_defaults=False):
    """Decoders from scratch for a device of the catalogue, by what they would cost there; none is trained.

    blocks, widths, head_dims, groups, ratios, vocabularies: what may be chosen. groups: query heads on each key/value
    head. ratios: MLP channels over the width. weights: how they are stored. trials: shapes that are asked for.
    """

    name: Name
    title: str
    device: str
    blocks: tuple[int, int] = (4, 48)
    widths: tuple[int, ...] = (256, 384, 512, 640, 768, 1024, 1280, 1536, 2048)
    head_dims: tuple[int, ...] = (64, 128)
    groups: tuple[int, ...] = (1, 2, 4)
    ratios: tuple[float, ...] = (2.0, 8 / 3, 4.0)
    vocabularies: tuple[int, ...] = (8192, 16384, 32768, 49152)
    weights: str = "fp16"
    prompt_tokens: Count = 512
    new_tokens: Count = 128
    batch: Count = 1
    constraints: tuple[Constraint, ...] = ()
    trials: Annotated[int, Meta(ge=1, le=20_000)] = 400
    seed: int = 0


def catalogue_name(model: str) -> str:
    """A model's id as a part of a folder's name."""
    return "".join(c if c.isalnum() or c in "-." else "-" for c in Path(model).name)[:40].strip("-.") or "model"


def name_for(kind: str, model: str) -> str:
    """Of the one study of this kind of a model, which may be a path or have a publisher before its name."""
    if re.fullmatch(r"[\w.-]{1,100}", model):
        return f"{kind}-{model}"
    return f"{kind}-{catalogue_name(model)}-{hashlib.sha256(model.encode()).hexdigest()[:8]}"


Study = Plan | Benchmark | Sweep | Search | Architectures | FreeShapes
NAMED: dict[type, str] = {  # each in a sentence
    Plan: "ladder",
    Benchmark: "benchmark",
    Sweep: "sweep",
    Search: "search",
    Architectures: "search for architectures",
    FreeShapes: "search for decoders",
}
