"""What this machine's own runs say about prediction: runs become observations, observations become overheads.

`known` is what the command line, the pages and the bench predict with: fitted to the runs of the store and to those
that the bench has left here. The fit itself is core.analysis.predict_here's.
"""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from core.analysis.predict_here import Observation, Overhead, arithmetic_dtype, fit_overhead, observe, typical
from core.dtypes import canonical_dtype
from core.runs.ceilings import ran_on
from core.runs.recording import Recording
from core.runs.store import Run, Store
from core.types import Forwards, Generate, Record, Step, from_json, to_json
from hardware.ceilings import Ceilings
from hardware.errors import ExplorerError
from hardware.files import write_whole

FOLDER = "overheads"
NEWEST = 60  # runs of the store that are looked at


class Overheads(Record):
    """The fitted overheads of every backend and dtype of weights on one machine at one thread count.

    ceilings_date: of the ceilings they were fitted against; with others they do not fit. observed: by backend, what
    they were fitted to, so that more can be added; a file of before has none.
    """

    machine_id: str
    threads: int
    date: str
    ceilings_date: str
    fitted: tuple[Overhead, ...]
    observed: dict[str, tuple[Observation, ...]] = msgspec.field(default_factory=dict)

    def of(self, backend: str, arithmetic: str, weights: str = "") -> Overhead:
        """That of weights of this dtype, else of others multiplied alike, else the typical one with its wide range."""
        found = [o for o in self.fitted if (o.backend, o.arithmetic) == (backend, arithmetic)]
        same = [o for o in found if weights and o.weights == canonical_dtype(weights)]
        return next(iter(same + found), typical(backend, arithmetic))


def known(store: Store, ceilings: Ceilings) -> Overheads:
    """What this machine's own runs tell: the bench's, and the newest finished ones of the store at these threads.

    A run that something disturbed tells of what ran beside it, and is left out.
    """
    kept = load(store.root / FOLDER, ceilings)
    observed = {backend: list(found) for backend, found in kept.observed.items()}
    for run_id in store.ids()[:NEWEST]:
        with contextlib.suppress(ExplorerError, OSError, msgspec.DecodeError):  # a damaged folder tells nothing
            run = store.open(run_id)
            request = run.request
            wanted = request.backend != "fake" and isinstance(request.task, Generate)
            if not wanted or run.origin or run.status() != "done":  # another machine may have the same id
                continue
            result = run.result()
            if result.disturbed:
                continue
            if result.threads == ceilings.threads and ran_on(result) == ceilings.machine_id:
                observed.setdefault(request.backend, []).extend(observe_run(run, ceilings))
    fresh = calibrate({backend: found for backend, found in observed.items() if found}, ceilings)
    seen = {(o.backend, o.weights) for o in fresh.fitted}
    older = tuple(o for o in kept.fitted if (o.backend, o.weights) not in seen)
    return msgspec.structs.replace(fresh, fitted=(*fresh.fitted, *older))


def observe_run(run: Run, ceilings: Ceilings) -> tuple[Observation, ...]:
    """The forwards of a run's timing passes: every prompt chunk, and the mean step of decode.

    Medians over the passes. Empty for a run without timing, of another kind of decoding than one token per
    forward, or on an accelerator.
    """
    recording = run.recording()
    loaded = recording.loaded
    if loaded is None or loaded.setup.device != "cpu":
        return ()
    passes = [] if recording.headline.provisional else recording.timing
    arithmetic = arithmetic_dtype(loaded.spec.dtype, ceilings)

    def seen(seconds: Sequence[float], ran: Forwards, n_past: int, decode: bool) -> Observation:
        return observe(
            loaded.spec,
            ceilings,
            "decode" if decode else "prefill",
            statistics.median(seconds),
            n_new=ran.n_new,
            n_past=n_past,
            batch=ran.n_sequences,
            compute_dtype=arithmetic,
            activation_dtype=loaded.setup.activation_dtype,
            kv_dtype=loaded.setup.kv_dtype,
            n_logits=ran.n_logits,
        )

    found = []
    prompts = [[s for s in steps if s.phase == "prefill" and _one(recording, s)] for steps in passes]
    for chunk in zip(*prompts, strict=False):
        (ran,) = recording.forwards(chunk[:1])
        found.append(seen([s.seconds for s in chunk], ran, ran.n_past, decode=False))
    decoded = [[s for s in steps if s.phase == "decode" and _one(recording, s, 1)] for steps in passes]
    decoded = [steps for steps in decoded if steps]
    if decoded:
        forwards = recording.forwards(decoded[0])
        n_past = round(statistics.mean(f.n_past for f in forwards))
        seconds = [statistics.mean(s.seconds for s in steps) for steps in decoded]
        found.append(seen(seconds, forwards[0], n_past, decode=True))
    return tuple(found)


def _one(recording: Recording, step: Step, n_new: int | None = None) -> bool:
    """Whether the step was one forward of the whole model and nothing else, of so many tokens per sequence."""
    ran = recording.forwards([step])
    whole = len(ran) == 1 and ran[0].times == 1 and ran[0].of == "model" and not ran[0].blocks
    return whole and n_new in (None, ran[0].n_new)


def alike(observations: Sequence[Observation]) -> tuple[tuple[Observation, ...], ...]:
    """The observations apart by the dtype of their weights, each of which has overheads of its own."""
    kinds = dict.fromkeys(o.weights for o in observations)
    return tuple(tuple(o for o in observations if o.weights == kind) for kind in kinds)


def calibrate(observed: Mapping[str, Sequence[Observation]], ceilings: Ceilings) -> Overheads:
    """Fit every backend and dtype of weights that was observed. observed: by backend."""
    fitted = [fit_overhead(backend, same) for backend, found in observed.items() for same in alike(found)]
    return Overheads(
        machine_id=ceilings.machine_id,
        threads=ceilings.threads,
        date=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        ceilings_date=ceilings.date,
        fitted=tuple(fitted),
        observed={backend: tuple(found) for backend, found in observed.items()},
    )


def save(overheads: Overheads, folder: Path) -> Path:
    """Keep them; the latest replaces the former."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / _file_name(overheads.machine_id, overheads.threads)
    write_whole(path, to_json(overheads))
    return path


def load(folder: Path, ceilings: Ceilings) -> Overheads:
    """Those kept for the machine and threads of these very ceilings; without fitted ones when there are none."""
    nothing = Overheads(
        machine_id=ceilings.machine_id, threads=ceilings.threads, date="", ceilings_date=ceilings.date, fitted=()
    )
    try:
        data = (folder / _file_name(ceilings.machine_id, ceilings.threads)).read_bytes()
        found = from_json(data, Overheads)
    except (OSError, msgspec.DecodeError):
        return nothing
    return found if found.ceilings_date == ceilings.date else nothing


def _file_name(machine_id: str, threads: int) -> str:
    return f"{machine_id}-overheads-{threads}.json"
