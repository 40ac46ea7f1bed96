"""One prediction for this machine, wherever it is asked for: pages, command line, plans, What if and the advice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from msgspec import structs

from core import plugins
from core.advice.evidence import Evidence
from core.analysis import designs, what_if
from core.analysis.capacity import USABLE
from core.analysis.predict_here import typical
from core.cli import cli
from core.models import catalogue, spec
from core.paths import data_dir
from core.runs import overheads
from core.runs.check import estimate
from core.runs.forecast import Here
from core.runs.foresight import Foresight
from core.runs.resolve import resolve
from core.runs.store import Store
from core.types import Generate, Request
from hardware import ceilings as roofs
from hardware.detect import machine_id
from tests.runs.test_overheads import MADE

BACKENDS = ("llama_cpp", "pytorch")
SIZES = {"prompt_tokens": 700, "new_tokens": 40, "batch": 1}


@pytest.fixture
def store(home: Path) -> Store:
    """Ceilings of one thread, and runs that were three times slower than anybody would guess."""
    roofs.save(MADE, data_dir() / "ceilings")
    fitted = [
        structs.replace(typical(name, arithmetic), reading=4.5, layer_s=1e-4, n_runs=4, weights=weights)
        for name, arithmetic, weights in (("llama_cpp", "int8", "q4_0"), ("pytorch", "fp32", "fp32"))
    ]
    kept = overheads.Overheads(
        machine_id=machine_id(), threads=1, date="x", ceilings_date=MADE.date, fitted=tuple(fitted)
    )
    overheads.save(kept, data_dir() / overheads.FOLDER)
    return Store(data_dir())


def figures(of: Any) -> tuple[float, ...]:
    """Time to first token and time per token with their ranges, and the memory."""
    tpot = of["tpot_s"] if isinstance(of, dict) else of.tpot_s
    ttft = of["ttft_s"] if isinstance(of, dict) else of.ttft_s
    peak = of["peak_memory_bytes"] if isinstance(of, dict) else of.peak_memory_bytes
    read = (lambda f, name: f[name]) if isinstance(of, dict) else getattr
    return (*(read(f, name) for f in (ttft, tpot) for name in ("calibrated", "low", "high")), read(peak, "calibrated"))


@pytest.mark.parametrize(("backend", "weights"), [("llama_cpp", "q4_0"), ("llama_cpp", "q8_0"), ("pytorch", "fp32")])
def test_everybody_predicts_the_same(store: Store, backend: str, weights: str) -> None:
    entry = catalogue.find("smollm2-135m")
    model = spec.read(*reversed(next(iter(entry.files.items()))))
    here, plugin = Here.at(store, 1), plugins.get("backend", backend)
    assert here is not None
    found = here.predict(model, plugin, weights=weights, kv_dtype="fp16", **SIZES)
    expected = figures(found)

    arguments = ["--model", entry.id, "--backend", backend, "--weights", weights, "--threads", "1", "--json"]
    sizes = [f"--{name.replace('_', '-')}={value}" for name, value in SIZES.items()]
    told = CliRunner().invoke(cli, ["predict", "--device", "here", *arguments, *sizes])
    assert told.exit_code == 0, told.output
    assert figures(json.loads(told.stdout)) == pytest.approx(expected)

    beside = here.beside_devices(found, "This machine", {})
    assert figures(beside) == pytest.approx(expected) and beside.inputs["backend"] == backend

    case = designs.Case(weights=weights, **SIZES)
    design, case = here.design(model, plugin, case, "This machine")
    prefill, decode = designs.times(designs.loaded(model, case, design), design)
    for phase, figure in ((prefill, found.ttft_s), (decode, found.tpot_s)):
        assert figure is not None
        wanted = (figure.calibrated, figure.low, figure.high)
        assert (phase.seconds, phase.low_s, phase.high_s) == pytest.approx(wanted), phase.name
    least = what_if.least_memory_bytes(model, case, design) * USABLE["cpu"]
    assert least == pytest.approx(found.peak_memory_bytes.calibrated)

    told = CliRunner().invoke(cli, ["what-if", "--device", "here", *arguments, *sizes])
    assert told.exit_code == 0, told.output
    seconds = {p["name"]: p["seconds"] for p in json.loads(told.stdout)["phases"]}
    assert found.tpot_s is not None
    assert seconds == pytest.approx({"prefill": found.ttft_s.calibrated, "decode": found.tpot_s.calibrated})


def test_plans_and_advice_predict_as_the_pages(store: Store) -> None:
    """A request names its number format itself; the advice knows the run's."""
    task = Generate(prompt_tokens=700, max_new_tokens=40)
    request = Request(model="smollm2-135m", backend="pytorch", dtype="fp32", threads=1, task=task)
    wanted, here = resolve(request), Here.at(store, 1)
    assert here is not None
    expected = here.predict(wanted.spec, plugins.get("backend", "pytorch"), weights="fp32", **SIZES)
    planned = Foresight(store).predict(wanted)
    assert planned is not None and figures(planned) == pytest.approx(figures(expected))
    ranges = Foresight(store).ranges(wanted)
    assert ranges["ttft_s"].likely == pytest.approx(expected.ttft_s.calibrated)

    class Ran:
        """What of a result the prediction reads."""

        n_prompt_tokens, n_new_tokens, batch, setup = 700, 40, 1, None

    advised = Evidence(
        run_id="r", request=request, result=Ran(), spec=wanted.spec, ceilings=here.ceilings,  # type: ignore[arg-type]
        overheads={"pytorch": (here.overhead("pytorch", "fp32"), wanted.spec)},
    ).predicted()  # fmt: skip
    assert advised is not None and figures(advised)[:6] == pytest.approx(figures(expected)[:6])


def test_a_cache_format_counts_only_where_it_can_be_chosen(store: Store) -> None:
    here = Here.at(store, 1)
    assert here is not None
    model = spec.read(*reversed(next(iter(catalogue.find("smollm2-135m").files.items()))))

    def step_s(backend: str, kv_dtype: str) -> float:
        found = here.predict(model, plugins.get("backend", backend), kv_dtype=kv_dtype, **SIZES)
        assert found.tpot_s is not None
        return found.tpot_s.calibrated

    assert step_s("llama_cpp", "q8_0") < step_s("llama_cpp", "fp16")
    assert step_s("pytorch", "q8_0") == step_s("pytorch", "fp16")


@pytest.mark.parametrize("backend", BACKENDS)
def test_memory_is_what_the_backend_tells_before_it_loads(store: Store, backend: str) -> None:
    """While it is timed: the second context of a profiler is no part of it. llama.cpp allocates its whole context."""
    task = Generate(prompt_tokens=20, max_new_tokens=16)
    wanted = resolve(Request(model="smollm2-135m", backend=backend, task=task, threads=1))
    found = Foresight(store).predict(wanted)
    assert found is not None
    told = estimate(resolve(structs.replace(wanted.request, profilers=())))
    assert found.peak_memory_bytes.calibrated == told.total_bytes == found.memory.total_bytes
    assert found.memory.kv_bytes == told.kv_bytes and found.peak_memory_bytes.low < told.total_bytes
    here = Here.at(store, 1)
    assert here is not None
    again = here.predict(wanted.spec, wanted.backend, prompt_tokens=20, new_tokens=16)
    assert again.peak_memory_bytes == found.peak_memory_bytes


def test_a_text_longer_than_the_usual_context_is_predicted_with_room_for_it(store: Store) -> None:
    here, wanted = Here.at(store, 1), resolve(Request(model="smollm2-135m", backend="llama_cpp", task=Generate()))
    assert here is not None
    usual, long = (
        here.predict(wanted.spec, wanted.backend, prompt_tokens=n, new_tokens=96).memory.kv_bytes for n in (4000, 8096)
    )
    assert long == 2 * usual


def test_what_a_backend_cannot_have_is_predicted_by_its_architecture(store: Store) -> None:
    """An encoder in llama.cpp: what its memory would be, no backend tells."""
    files = catalogue.find("bert-base-uncased").files
    here, encoder = Here.at(store, 1), spec.read(*reversed(next(iter(files.items()))))
    assert here is not None
    found = here.predict(encoder, plugins.get("backend", "llama_cpp"), prompt_tokens=20, new_tokens=1)
    assert found.peak_memory_bytes.calibrated > (encoder.weight_bytes or 0)


def test_a_cache_that_the_backend_does_not_have_is_the_one_of_its_runs_everywhere(store: Store) -> None:
    """llama.cpp has no cache in fp8: What if must not count one either."""
    here, wanted = Here.at(store, 1), resolve(Request(model="smollm2-135m", backend="llama_cpp", task=Generate()))
    assert here is not None
    model, backend = wanted.spec, wanted.backend
    own, other = (here.predict(model, backend, kv_dtype=kv, **SIZES) for kv in (None, "fp8"))
    assert own == other
    assert here.predict(model, backend, kv_dtype="q8_0", **SIZES).memory.kv_bytes < own.memory.kv_bytes
    design, case = here.design(model, backend, designs.Case(kv_dtype="fp8", **SIZES), "This machine")
    _, decode = designs.times(designs.loaded(model, case, design), design)
    assert own.tpot_s is not None and decode.seconds == pytest.approx(own.tpot_s.calibrated)
