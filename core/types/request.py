"""What is asked of a run."""

from __future__ import annotations

import hashlib
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from core.types.record import Record, Scalar, Words, normal, to_json

Text = Annotated[str, Meta(max_length=10_000_000)]
Tokens = Annotated[int, Meta(ge=1, le=1_000_000)]
Passes = Annotated[int, Meta(ge=0, le=1000)]
# what chat templates call the switch `Generate.thinking`: Qwen 3's, DeepSeek's and Granite's, Command A's
THINKING = ("enable_thinking", "thinking", "reasoning")


class Sampling(Record):
    """temperature 0 is greedy. Seeded by the request's seed."""

    temperature: Annotated[float, Meta(ge=0, le=1000)] = 0.0
    top_k: Annotated[int, Meta(ge=0, le=10_000_000)] | None = None
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None


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

    prompt: Text | None = None
    prompt_tokens: Annotated[int, Meta(ge=1, le=10_000_000)] | None = None
    max_new_tokens: Tokens = 64
    chat: bool = True
    system: Text | None = ""
    ignore_eos: bool = False
    sampling: Sampling = Sampling()
    history: tuple[tuple[Words, Text], ...] = ()
    template_values: dict[str, Any] = msgspec.field(default_factory=dict)
    template: Words | None = None
    thinking: bool | None = None


class Evaluate(Record, tag="evaluate"):
    """Measure quality. `settings` go to the eval plugin; the request's strategy decodes its answers.

    margin: how much worse a rate may be than another run's and still count as no worse (0.01: a point), stated before
    the answers are known. None: none was stated, and nothing is called non-inferior afterwards.
    """

    eval: Words
    settings: dict[str, Scalar] = msgspec.field(default_factory=dict)
    margin: Annotated[float, Meta(gt=0, le=1)] | None = None


class Derive(Record, tag="derive"):
    """Make a model from the request's model. `settings` go to the transform plugin.

    name: the new model's catalogue id; None: made from the parent's and the transform's settings.
    """

    transform: Words
    settings: dict[str, Scalar] = msgspec.field(default_factory=dict)
    name: Words | None = None


Task = Generate | Evaluate | Derive


class Request(Record):
    """All that determines a run. `options` go to the backend, `params` to the strategy.

    live: somebody watches: a pass to look at comes first, and the screens rest while the timing passes run.
    retries: how many timing passes may be repeated because something disturbed them.
    """

    model: Words
    backend: Words
    task: Task = Generate()
    strategy: Words = "autoregressive"
    dtype: Words | None = None  # None: the backend's default for this model
    threads: Annotated[int, Meta(ge=1, le=512)] | None = None  # None: all physical cores; llama.cpp takes no more
    batch: Annotated[int, Meta(ge=1, le=1024)] = 1
    profilers: tuple[Words, ...] = ("memory", "layers")
    warmup: Passes = 1
    repeats: Annotated[int, Meta(ge=1, le=1000)] = 1
    seed: Annotated[int, Meta(ge=0, le=2**32 - 1)] = 0  # what every library's generator takes
    fresh_process: bool = False
    allow_oversize: bool = False  # "run anyway" when the model may not fit in memory
    options: dict[str, Scalar] = msgspec.field(default_factory=dict)
    params: dict[str, Scalar] = msgspec.field(default_factory=dict)
    live: bool = False
    retries: Passes = 2

    @property
    def plugin(self) -> str:
        """The name of the plugin that does it: a strategy, an evaluation or a transform."""
        match self.task:
            case Evaluate():
                return self.task.eval
            case Derive():
                return self.task.transform
        return self.strategy

    def key(self) -> str:
        """Hash of everything that determines the outcome, the same for equal requests, whoever built them."""
        return hashlib.sha256(to_json(normal(self))).hexdigest()[:16]
