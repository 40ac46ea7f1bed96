"""Shared by the transforms that train a causal model on a domain: its questions as token ids, and how it is watched."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from core import domains
from core.tokenizers.chat import render
from core.tokenizers.folder import additions, named
from core.tokenizers.library import library_tokenizer
from core.training import probe
from core.training.examples import Example, of_questions
from core.training.loop import Budget, Report
from core.training.packing import plain_attention
from core.training.questions import Questions
from core.types import Attention, Job, ModelSpec, Source
from hardware.errors import ExplorerError

TYPICAL = 100  # examples by whose answers the room for an answer is measured


class Pupil:
    """A model in fp32 with its tokenizer and a domain's questions (none without a domain).

    Up to n_probe of them, and no more than a fifth, are held out: never trained on.
    """

    def __init__(self, model: Any, source: Source, job: Job, domain: str | None, n: int, n_probe: int) -> None:
        self.model, self.source, self.domain = model.requires_grad_(True), source, domain or ""
        self.tokenizer = library_tokenizer(Path(source.path))
        plain_attention(model)
        self.end = _ends(model, self.tokenizer)
        self._questions = None if domain is None else Questions(domain, n, n_probe, job)
        self.held_out = list[domains.Question]() if self._questions is None else self._questions.held_out

    def prompt(self, text: str) -> list[int]:
        """Ids of a user's message as the app sends it: in the chat template, with no system message."""
        return prompt_ids(self.tokenizer, text, text + "\n")

    def encode(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(text, add_special_tokens=False))

    def decode(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True))

    @property
    def last(self) -> int:
        """The token that ends an answer. Raises ExplorerError when there is none."""
        found = self.tokenizer.eos_token_id
        if found is None:
            found = min(self.end, default=None)
        if found is None:
            raise ExplorerError(f"{self.source.entry.label} has no token that ends an answer.", "Choose a chat model.")
        return int(found)

    def questions(self) -> list[domains.Question]:
        """All of them at once, which may take a minute."""
        return [] if self._questions is None else self._questions.all()

    def examples(self, limit: int) -> Iterator[Example]:
        """Every question with its gold answer, up to `limit` tokens, each written when it is asked for.

        Raises ExplorerError when there is none.
        """
        questions = () if self._questions is None else self._questions
        return of_questions(questions, self.prompt, self.encode, self.last, limit)

    def longest(self, limit: int) -> int:
        """Tokens of the longest gold answer of the first examples."""
        return max(len(e.answer) for e in islice(self.examples(limit), TYPICAL))

    def look(self, limit: int, window: int | None = None, fill: int | None = None) -> Mapping[str, float]:
        """The model on the held-out questions as it decodes freely (see core.training.probe)."""
        prompts = [self.prompt(q.prompt) for q in self.held_out]

        def judge(i: int, text: str) -> bool | None:
            return domains.judge(self.domain, self.held_out[i], text)

        return probe.free_running(self.model, prompts, self.decode, judge, self.end, limit, window, fill)


def prompt_ids(tokenizer: Any, text: str, plain: str) -> list[int]:
    """Ids of a user's message in the chat template; without one, of the `plain` text as the tokenizer begins a text.

    tokenizer: of transformers.
    """
    if template := named(tokenizer.chat_template).get("default"):
        rendered = render(template, text, "", tokenizer.bos_token or "", tokenizer.eos_token or "")
        return list(tokenizer.encode(rendered, add_special_tokens=False))
    ids = list(tokenizer.encode(plain, add_special_tokens=False))
    opening, _ = additions(lambda t, special: list(tokenizer.encode(t, add_special_tokens=special)))
    return ids if tuple(ids[: len(opening)]) == opening else [*opening, *ids]


def _ends(model: Any, tokenizer: Any) -> frozenset[int]:
    found: set[int] = set()
    for owner in (getattr(model, "generation_config", None), model.config, tokenizer):
        ids = getattr(owner, "eos_token_id", None)
        found |= {ids} if isinstance(ids, int) else set(ids or ())
    return frozenset(found)


def check_decoder(spec: ModelSpec, what: str) -> None:
    """Raises ExplorerError for an encoder, and for a model that does not see all of its text at once."""
    if not spec.causal:
        raise ExplorerError(f"{spec.name} is an encoder, which writes no text.", "Choose a model that generates text.")
    cores = [layer.op for layer in spec.layers if isinstance(layer.op, Attention)]
    blocks = {layer.name.split(".")[1] for layer in spec.layers if isinstance(layer.op, Attention)}
    if len(blocks) < spec.n_blocks or any(core.window for core in cores):
        raise ExplorerError(
            f"{what} packs several texts into one by a mask, which {spec.name} cannot follow in every block.",
            "Choose a model with full attention in all blocks.",
        )


def budget(steps: int | None, minutes: float | None) -> Budget:
    if steps is None and minutes is None:
        raise ExplorerError("The training has no end.", "Set steps or minutes.")
    return Budget(steps, minutes)


def facts(report: Report, domain: str) -> dict[str, Any]:
    """What the result keeps of a training: what it was for, how long it was, and every probe."""
    probes = [{"step": step, **values} for step, values in report.points if "minutes" not in values]
    found: dict[str, Any] = {"domain": domain, "dtype": "bf16", "steps": report.steps}
    found |= {"training_s": round(report.seconds, 1), "probes": probes}
    found["kept_step"] = report.best_step or report.steps
    return found | ({"stopped": report.stopped} if report.stopped else {})


def room(folder: Path, n_params: int) -> None:
    """Raises ExplorerError when the disk has no room for a checkpoint, its successor and the best model."""
    needed = 2 * 12 * n_params + 4 * n_params
    if shutil.disk_usage(folder).free < needed:
        raise ExplorerError(
            f"The disk has too little room: the training's checkpoints take {needed / 1e9:.1f} GB.",
            f"Make room beside {folder}.",
        )
