"""Train exit heads: what a model's early blocks need to predict the next token as its last one does.

The unembedding is the model's own; in place of the final norm stands a norm of the exit's own and a low-rank
correction, y + B A y with y = norm(h), which is the final norm before the training (B is zero). They learn the
model's own distribution over its own answers in a domain, KL(last || exit), as LayerSkip's early exits learn the
text (Elhoushi et al., 2404.16710, section 4.1.2); the model itself does not change. They serve the strategies
early_exit and self_speculative. The file's layout is that of core.backends.pytorch.depth.
"""

from __future__ import annotations

import copy
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from msgspec import Meta

from core.training import greedy
from core.training.examples import Batches, Example
from core.training.loop import Objective, train
from core.transforms import _torch_model, _tuning
from core.types import Job, ModelSpec, Outcome, Record, Source, Transform, Words
from hardware.errors import ExplorerError

FILE, KEY = "exit_heads.safetensors", "exit_heads"
FAMILIES = ("llama", "mistral", "qwen2", "qwen3")  # those that can leave early
ROWS = 256  # tokens learned from in a step, at most: their logits at every exit are held at once


class ExitHeads(Record):
    """Where exits are and what they learn, for `steps` or `minutes`, whichever comes first; empty is no limit.

    domain: sql, sql_easy, arithmetic, or the path of a .jsonl file with prompts.
    questions: prompts that the model answers for the training.
    answer_tokens: of an answer at most.
    first_exit: blocks before the first exit; 0 takes half of them.
    every: blocks from one exit to the next. Each exit that is asked costs a token the head once.
    rank: of the correction.
    minutes: of training.
    steps: of the optimizer.
    batch: answers per step.
    learning_rate: at its highest; it rises in the beginning and falls to zero as a cosine.
    probe_questions: held-out questions that show how often an exit agrees with the whole model.
    """

    domain: Words = "sql"
    questions: Annotated[int, Meta(ge=8, le=20_000)] = 400
    answer_tokens: Annotated[int, Meta(ge=8, le=1024)] = 96
    first_exit: Annotated[int, Meta(ge=0, le=1_000_000)] = 0
    every: Annotated[int, Meta(ge=1, le=1_000_000)] = 5
    rank: Annotated[int, Meta(ge=1, le=4096)] = 64
    minutes: Annotated[float, Meta(gt=0, le=10_000)] | None = 10.0
    steps: Annotated[int, Meta(ge=1, le=1_000_000)] | None = None
    batch: Annotated[int, Meta(ge=1, le=256)] = 8
    learning_rate: Annotated[float, Meta(gt=0, le=1)] = 2e-3
    probe_questions: Annotated[int, Meta(ge=1, le=1000)] = 20


class ExitHeadTraining:
    name = "exit_heads"
    label = "Train exit heads"
    backend = "pytorch"
    formats: tuple[str, ...] = ("hf",)
    trains = True
    Params = ExitHeads

    def unavailable(self) -> str | None:
        return _torch_model.unavailable()

    def check(self, spec: ModelSpec, params: ExitHeads) -> None:
        _tuning.check_decoder(spec, self.label)
        _tuning.budget(params.steps, params.minutes)
        if spec.architecture not in FAMILIES:
            raise ExplorerError(
                f"Roofscope cannot leave a model of the family '{spec.architecture}' early.",
                f"Choose one of: {', '.join(FAMILIES)}.",
            )
        if not exits(spec.n_blocks, params):
            raise ExplorerError(
                f"No exit lies before the last of {spec.n_blocks} blocks.",
                f"Set first_exit to at most {spec.n_blocks - 1}.",
            )

    def suffix(self, params: ExitHeads) -> str:
        return f"exits-{Path(params.domain).stem}"

    def run(self, source: Source, params: ExitHeads, out: Path, job: Job) -> Outcome:
        import torch

        model = _torch_model.load(source, job)
        pupil = _tuning.Pupil(model, source, job, params.domain, params.questions, params.probe_questions)
        model.requires_grad_(False)
        held_out, learned = _answered(pupil, params, source.spec.max_context, job)
        places = exits(source.spec.n_blocks, params)
        torch.manual_seed(job.seed)
        heads = torch.nn.ModuleDict({str(place): new_head(model.model.norm, params.rank) for place in places})
        batches = Batches(learned, params.batch, job.seed)

        def loss(step: int) -> tuple[Any, Mapping[str, float]]:
            states = _states(model, batches[step], places)
            n = len(states[0])
            rows = np.random.default_rng([job.seed, 5, step]).permutation(n)[:ROWS]
            wanted, found = _log_probabilities(model, heads, [state[rows] for state in states], places)
            each = [torch.nn.functional.kl_div(q, wanted, reduction="batchmean", log_target=True) for q in found]
            return sum(each), {f"kl_{place}": float(kl.detach()) for place, kl in zip(places, each, strict=True)}

        def look() -> Mapping[str, float]:
            seen = judge(model, heads, held_out, places)
            return {
                "agreement": float(np.mean([share for share, _ in seen])),
                "kl": float(np.mean([k for _, k in seen])),
            }

        before = judge(model, heads, held_out, places)
        objective = Objective(loss, look, score="agreement")
        report = train(heads, objective, _tuning.budget(params.steps, params.minutes), job, params.learning_rate)
        after = judge(model, heads, held_out, places)
        _write(source, out, heads, params, places, job)
        return Outcome(
            note=f"Exit heads trained on {Path(params.domain).name}; the model itself is its parent.",
            facts=_tuning.facts(report, params.domain)
            | {
                "exits": list(places),
                "agreement_untrained": [round(share, 4) for share, _ in before],
                "agreement": [round(share, 4) for share, _ in after],
                "kl_untrained": [round(kl, 4) for _, kl in before],
                "kl": [round(kl, 4) for _, kl in after],
                "train_answers": len(learned),
                "test_answers": len(held_out),
                "head_params": sum(p.numel() for p in heads.parameters()),
            },
        )


def exits(n_blocks: int, params: ExitHeads) -> tuple[int, ...]:
    """How many blocks have run at each exit."""
    return tuple(range(params.first_exit or max(1, n_blocks // 2), n_blocks, params.every))


def new_head(norm: Any, rank: int) -> Any:
    """A module h -> y + B A y with y = norm(h); norm is copied and B zero."""
    from torch import nn

    class ExitHead(nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.scaling = copy.deepcopy(norm).requires_grad_(True)
            d = self.scaling.weight.shape[0]
            self.down = nn.Linear(d, rank, bias=False)
            self.up = nn.Linear(rank, d, bias=False)
            nn.init.zeros_(self.up.weight)

        def forward(self, hidden: Any) -> Any:
            y = self.scaling(hidden)
            return y + self.up(self.down(y))

    return ExitHead()


def judge(
    model: Any, heads: Any, held_out: Sequence[Example], places: Sequence[int]
) -> tuple[tuple[float, float], ...]:
    """Of each exit: the share of answer tokens it would choose as the whole model does, and its mean KL in nats."""
    import torch

    found, n = np.zeros((len(places), 2)), 0
    with torch.no_grad():
        for example in held_out:
            wanted, said = _log_probabilities(model, heads, _states(model, [example], places), places)
            n += len(wanted)
            for sums, q in zip(found, said, strict=True):
                agreed = (q.argmax(-1) == wanted.argmax(-1)).sum()
                kl = torch.nn.functional.kl_div(q, wanted, reduction="sum", log_target=True)
                sums += [float(agreed), float(kl)]
    return tuple((float(agreed), float(kl)) for agreed, kl in found / n)


def _states(model: Any, batch: Sequence[Example], places: Sequence[int]) -> list[Any]:
    """Hidden states (n, d) of the tokens that predict an answer's: behind each exit, then what the head reads."""
    import torch

    width = max(map(len, batch))
    ids, rows = np.zeros((len(batch), width), np.int64), np.zeros((len(batch), width), bool)
    for row, example in enumerate(batch):  # padded on the right, where no token looks
        ids[row, : len(example)] = example.ids
        rows[row, len(example.prompt) - 1 : len(example) - 1] = True
    with torch.no_grad():
        said = model.base_model(torch.from_numpy(ids), use_cache=False, output_hidden_states=True)
    picked = torch.from_numpy(rows)
    return [*(said.hidden_states[place][picked] for place in places), said.last_hidden_state[picked]]


def _log_probabilities(model: Any, heads: Any, states: Sequence[Any], places: Sequence[int]) -> tuple[Any, list[Any]]:
    """(n, vocab) of the whole model, and of each exit."""
    import torch

    unembed = model.get_output_embeddings()
    with torch.no_grad():
        wanted = torch.log_softmax(unembed(states[-1]).float(), -1)
    said = (unembed(heads[str(place)](state)) for place, state in zip(places, states[:-1], strict=True))
    return wanted, [torch.log_softmax(logits.float(), -1) for logits in said]


def _answered(
    pupil: _tuning.Pupil, params: ExitHeads, context: int | None, job: Job
) -> tuple[list[Example], list[Example]]:
    """The held-out questions and the others, with the model's own answers; kept in job.folder."""
    questions = [*pupil.held_out, *pupil.questions()]
    room = (context or 1 << 30) - params.answer_tokens
    prompts = [prompt for q in questions if len(prompt := pupil.prompt(q.prompt)) <= room]
    n_held_out = min(len(pupil.held_out), len(prompts) // 5)
    if len(prompts) < 2 or not n_held_out:
        raise ExplorerError(
            f"'{params.domain}' has too few prompts that fit into the context.", "Give it at least five."
        )
    kept = job.folder / "answers.json"
    if kept.is_file():
        answers = [tuple(answer) for answer in json.loads(kept.read_text("utf-8"))]
    else:

        def report(n: int) -> None:
            job.progress("The model answers", n, len(prompts), "questions")
            job.check()

        answers = greedy.answers(pupil.model, prompts, pupil.end, params.answer_tokens, done=report)
        part = kept.with_suffix(".part")
        part.write_text(json.dumps(answers), encoding="utf-8")
        os.replace(part, kept)
    found = [Example(tuple(prompt), answer) for prompt, answer in zip(prompts, answers, strict=True)]
    return found[:n_held_out], found[n_held_out:]


def _write(source: Source, out: Path, heads: Any, params: ExitHeads, places: Sequence[int], job: Job) -> None:
    from safetensors.torch import save_file

    job.progress("Writing the model")
    for file in sorted(Path(source.path).iterdir()):
        if file.is_file() and file.name not in ("config.json", "roofscope.json", "artifact.json", FILE):
            job.check()
            shutil.copyfile(file, out / file.name)
    config = _torch_model.config_of(source) | {KEY: {"blocks": list(places), "rank": params.rank}}
    (out / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    save_file(
        {f"{KEY}.{name}": tensor for name, tensor in heads.state_dict().items()}, out / FILE, metadata={"format": "pt"}
    )


plugin: Transform = ExitHeadTraining()
