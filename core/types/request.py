"""What is asked of a run."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec

from core.types.record import Record, Scalar, to_json


class Sampling(Record):
    """temperature 0 is greedy. Seeded by the request's seed."""

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None


class Generate(Record, tag="generate"):
    """Generate from a prompt. Either `prompt` (text) or `prompt_tokens` (that many random ids).

    chat: wrap the prompt with the model's chat template when it has one.
    system: the system message; empty for none, None for the template's own default (a hidden
    persona that can change the answer more than a quantization does).
    history: the dialogue before the prompt, as (role, text).
    template: the name of the chat template; None takes the one called "default".
    thinking: whether the template is told that the model may think first; None leaves it to the template.
    template_values: what else the chat template is given: {"tools": [...]}, {"enable_thinking": false}.
    ignore_eos: always produce max_new_tokens (benchmarks; implied by prompt_tokens).
    """

    prompt: str | None = None
    prompt_tokens: int | None = None
    max_new_tokens: int = 64
    chat: bool = True
    system: str | None = ""
    ignore_eos: bool = False
    sampling: Sampling = Sampling()
    history: tuple[tuple[str, str], ...] = ()
    template_values: dict[str, Any] = msgspec.field(default_factory=dict)
    template: str | None = None
    thinking: bool | None = None


class Evaluate(Record, tag="evaluate"):
    """Measure quality. `settings` go to the eval plugin; the request's strategy decodes its answers.

    margin: how much worse a rate may be than another run's and still count as no worse (0.01: a point), stated before
    the answers are known. None: none was stated, and nothing is called non-inferior afterwards.
    """

    eval: str
    settings: dict[str, Scalar] = msgspec.field(default_factory=dict)
    margin: float | None = None


class Derive(Record, tag="derive"):
    """Make a model from the request's model. `settings` go to the transform plugin.

    name: the new model's catalogue id; None: made from the parent's and the transform's settings.
    """

    transform: str
    settings: dict[str, Scalar] = msgspec.field(default_factory=dict)
    name: str | None = None


Task = Generate | Evaluate | Derive


class Request(Record):
    """All that determines a run. `options` go to the backend, `params` to the strategy.

    live: somebody watches: a pass to look at comes first, and the screens rest while the timing passes run.
    retries: how many timing passes may be repeated because something disturbed them.
    """

    model: str
    backend: str
    task: Task = Generate()
    strategy: str = "autoregressive"
    dtype: str | None = None  # None: the backend's default for this model
    threads: int | None = None  # None: all physical cores
    batch: int = 1
    profilers: tuple[str, ...] = ("memory", "layers")
    warmup: int = 1
    repeats: int = 1
    seed: int = 0
    fresh_process: bool = False
    allow_oversize: bool = False  # "run anyway" when the model may not fit in memory
    options: dict[str, Scalar] = msgspec.field(default_factory=dict)
    params: dict[str, Scalar] = msgspec.field(default_factory=dict)
    live: bool = False
    retries: int = 2

    def key(self) -> str:
        """Hash of everything that determines the outcome."""
        return hashlib.sha256(to_json(self)).hexdigest()[:16]
