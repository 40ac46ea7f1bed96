"""Makes a row of the community benchmark of finished runs of one configuration."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import msgspec

from core.analysis.work import n_active_params
from core.community.row import SCHEMA, Engine, Joules, Machine, Model, Roofs, Round, Row, Work, Workload, identified
from core.models import catalogue, identity
from core.report.bundle_for_others import clean
from core.runs.ceilings import ceilings_of, ran_on
from core.runs.store import Run
from core.studies.many_runs import configuration
from core.types import Generate, Host, ModelSpec, PhaseResult, Request, Result, Setup, from_json, to_json
from hardware.ceilings import Ceilings
from hardware.errors import ExplorerError

_HINT = "Measure one with random prompt tokens, at least 3 repeats of 16 tokens or more, and a second each."
_SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 4096)  # GiB


def row_of(runs: Sequence[Run], root: Path, contributor: str) -> Row:
    """The row of these runs, whose rounds it takes together. root: of the data folder, for the ceilings.

    Raises ExplorerError where they are not one configuration on this machine, where they were never timed, or where
    its ceilings are not known.
    """
    if not runs:
        raise ExplorerError("A row needs a run.", "Name one; History lists them.")
    if any(run.origin for run in runs):  # its ceilings, and whose it is, are known there
        raise ExplorerError("A run that came from another machine is no row of yours.", "Make its row over there.")
    found = [(run.request, run.result()) for run in runs]
    if len({(configuration(request).key(), ran_on(result)) for request, result in found}) > 1:
        raise ExplorerError("These runs are not of one configuration on one machine.", "Make a row of each.")
    request, last = found[-1]
    task, spec, setup, host = request.task, runs[-1].recording().spec, last.setup, last.host
    if not isinstance(task, Generate) or any(r.status != "done" or r.provisional for _, r in found):
        raise ExplorerError("Only finished generations that were timed can be a row.", _HINT)
    phases = {phase.name: phase for phase in last.phases}
    decode, prefill = phases.get("decode"), phases.get("prefill")
    if spec is None or setup is None or host is None or decode is None or prefill is None or not decode.n_forward:
        raise ExplorerError("This run does not tell enough of model, machine or work for a row.", _HINT)
    ceilings = ceilings_of(root, last)
    if ceilings is None or not ceilings.reads:
        plural = "" if setup.threads == 1 else "s"
        raise ExplorerError(
            f"The ceilings of the machine that ran it, with {setup.threads} thread{plural}, are not known.",
            f"Measure them on the page Roofline, or run: roofscope ceilings --threads {setup.threads}",
        )
    rounds = [r for _, result in found for r in _rounds(result)]
    if not rounds or not last.n_prompt_tokens or last.n_new_tokens < 2:
        raise ExplorerError("This run generated too little for a row.", _HINT)
    row = Row(
        schema=SCHEMA,
        id="0" * 16,
        day=time.strftime("%Y-%m-%d", time.gmtime(runs[-1].created_s)),
        contributor=contributor,
        tool=f"roofscope {_version()}".strip(),
        request_key=configuration(request).key(),
        model=_model(request, last, spec),
        engine=Engine(
            name=request.backend,
            versions=dict(sorted(setup.versions.items())),
            kernels=setup.kernels[:2000],
            device=setup.device,
        ),
        workload=_workload(request, task, last, setup),
        work=_work(last, decode, prefill),
        machine=_machine(host, setup),
        roofs=_roofs(ceilings),
        rounds=tuple(rounds),
        n_tokens=last.n_new_tokens,
        peak_memory_bytes=max((float(r.peak_memory_bytes) for _, r in found if r.peak_memory_bytes), default=None),
        energy=_energy(last),
        text_sha256=_text(task, last),
        warnings=_warnings([result for _, result in found]),
    )
    try:  # what somebody typed is in names and options: out with paths and names, in with what the types allow
        return identified(from_json(to_json(clean(msgspec.to_builtins(row))), Row))
    except msgspec.ValidationError as error:
        raise ExplorerError(f"This run cannot be a row: {error}.", _HINT) from error


def _workload(request: Request, task: Generate, result: Result, setup: Setup) -> Workload:
    return Workload(
        strategy=request.strategy,
        params=dict(sorted(request.params.items())),
        options=dict(sorted(result.options.items())),
        threads=setup.threads or 1,
        batch=request.batch,
        prompt_tokens=result.n_prompt_tokens or 0,
        new_tokens=task.max_new_tokens,
        random_prompt=task.prompt_tokens is not None,
        greedy=task.sampling.temperature == 0,
        seed=request.seed,
        activation_dtype=setup.activation_dtype,
        kv_dtype=setup.kv_dtype,
    )


def _machine(host: Host, setup: Setup) -> Machine:
    machine = host.machine
    return Machine(
        cpu=machine.cpu[:200],
        cores=machine.usable_cores,
        memory_gib=_tier(machine.mem_bytes),
        cache_bytes=machine.llc_bytes,
        accelerator="" if setup.device == "cpu" else (setup.device_name or setup.device)[:200],
        system=machine.os.split(" ")[0],
        virtual=machine.virtualisation is not None,
    )


def _rounds(result: Result) -> list[Round]:
    n = result.n_new_tokens - 1
    return [
        Round(ttft_s=ttft, tpot_s=tpot, seconds=ttft + tpot * n)
        for ttft, tpot in zip(result.ttft_samples_s, result.tpot_samples_s, strict=False)
    ]


def _work(result: Result, decode: PhaseResult, prefill: PhaseResult) -> Work:
    return Work(
        bytes_per_forward=decode.bytes / decode.n_forward,
        flops_per_forward=decode.flops / decode.n_forward,
        prompt_flops=prefill.flops,
        tokens_per_forward=max(1.0, result.tokens_per_forward or 1.0),
    )


def _model(request: Request, result: Result, spec: ModelSpec) -> Model:
    setup = result.setup
    assert setup is not None
    size = spec.weight_bytes or sum(x.weight_bytes for x in result.layers if x.phase == "prefill")
    return Model(
        name=request.model,
        architecture=spec.architecture,
        n_params=spec.n_params,
        n_active=n_active_params(spec),
        weight_bytes=float(size),
        weight_dtype=setup.weight_dtype,
        file_type=setup.file_type,
        sha256=_sha256(request.model),
        random_weights=spec.random_weights,
    )


def _sha256(model: str) -> str | None:
    """The first 12 digits of the model's files as they are now; None for one that is not here."""
    try:
        entry = catalogue.find(model)
        fmt, path = next((f, entry.files[f]) for f in ("gguf", "hf", "onnx") if f in entry.files)
        whole = hashlib.sha256()
        for file in identity.files(fmt, path):
            with file.open("rb") as opened:
                whole.update(hashlib.file_digest(opened, "sha256").digest())
    except (ExplorerError, StopIteration, OSError):
        return None
    return whole.hexdigest()[:12]


def _roofs(ceilings: Ceilings) -> Roofs:
    knees = ceilings.knees
    return Roofs(
        day=ceilings.date[:10],
        threads=ceilings.threads,
        reads=tuple((float(p.working_set_bytes), p.bytes_per_s) for p in ceilings.reads),
        cache_bytes=float(max(knees)) if knees else None,
        flop_per_s=dict(sorted(ceilings.flop_per_s.items())),
    )


def _energy(result: Result) -> Joules | None:
    """Only what a counter measured."""
    found = next((e for e in result.energy if e.phase == "decode" and e.comparable and e.joules_per_token), None)
    return (
        None
        if found is None or not found.joules_per_token
        else Joules(per_token=found.joules_per_token, method=found.method[:200])
    )


def _text(task: Generate, result: Result) -> str | None:
    """Of random tokens by the seed, greedily continued: the same for everybody whose arithmetic is the same."""
    if task.prompt_tokens is None or task.sampling.temperature != 0 or not result.text:
        return None
    return hashlib.sha256(result.text.encode()).hexdigest()[:16]


def _warnings(results: Sequence[Result]) -> tuple[str, ...]:
    """Of the machine's state alone: other warnings may name files."""
    told = (r.disturbance.sentence for r in results if r.disturbance is not None and r.disturbance.disturbed)
    return tuple(dict.fromkeys(words[:500] for words in told))[:20]


def _tier(n_bytes: int) -> int:
    """Rounded up to a size that is sold; a machine keeps a little of it for itself."""
    gib = n_bytes / 2**30
    return next((size for size in _SIZES if gib <= size * 1.02), _SIZES[-1])


def _version() -> str:
    try:
        return version("roofscope")
    except PackageNotFoundError:
        return ""
