"""The cells of a sweep: their number before they are listed, their requests, and their order."""

from __future__ import annotations

import itertools
import math

import pytest

from core.paths import data_dir
from core.runs.foresight import foreseen
from core.runs.store import Store
from core.studies.grid import (
    MOST_CELLS,
    Cell,
    axis_inside,
    axis_words,
    cells,
    known_axes,
    ordered,
    parsed_axis,
    size,
)
from core.studies.plan import Axis, Sweep
from core.studies.sweep import foretold
from core.types import Generate, Request, Scalar
from hardware.errors import ExplorerError

BASE = Request(model="smollm2-135m", backend="fake", task=Generate(prompt_tokens=8, max_new_tokens=4), threads=1)


def grid(base: Request = BASE, **axes: tuple[Scalar, ...]) -> Sweep:
    named = tuple(Axis(name=name.replace("__", "."), values=values) for name, values in axes.items())
    return Sweep(name="s", title="s", base=base, axes=named)


def test_no_axis_is_one_cell() -> None:
    (only,) = cells(grid())
    assert only.request == BASE and only.id == BASE.key() and only.label == "the only cell"


def test_an_axis_of_a_plugin_multiplies_only_its_own_cells() -> None:
    # llama.cpp 2 x 3, PyTorch 1; autoregressive 1, jacobi 2; threads 2: (6 + 1) x (1 + 2) x 2 = 42
    found = grid(
        backend=("llama_cpp", "pytorch"),
        llama_cpp__flash_attn=("on", "off"),
        llama_cpp__kv_dtype=("f16", "q8_0", "q4_0"),
        strategy=("autoregressive", "jacobi"),
        jacobi__window=(4, 8),
        threads=(1, 2),
    )
    assert size(found) == 42
    listed = cells(found)
    assert len(listed) == len({c.id for c in listed}) == 42
    assert {tuple(c.request.options) for c in listed if c.request.backend == "pytorch"} == {()}
    assert {c.request.params.get("window") for c in listed if c.request.strategy == "jacobi"} == {4, 8}
    assert all("jacobi.window" not in c.at for c in listed if c.request.strategy == "autoregressive")


def test_options_that_exclude_each_other_are_refused_before_anything_runs() -> None:
    """In llama.cpp a quantized cache needs flash attention; found at loading, such cells failed a whole sweep."""
    found = cells(
        grid(backend=("llama_cpp",), llama_cpp__flash_attn=("auto", "off"), llama_cpp__kv_dtype=("f16", "q8_0"))
    )
    refused, _ = foretold(found, foreseen([c.request for c in found], Store(data_dir())))
    assert [c.at for c in found if c.id in refused] == [
        {"backend": "llama_cpp", "llama_cpp.flash_attn": "off", "llama_cpp.kv_dtype": "q8_0"}
    ]
    assert "needs flash attention, which is switched off. Set flash_attn to auto" in next(iter(refused.values()))


def test_values_become_the_request() -> None:
    found = grid(dtype=(None, "bf16"), kv_dtype=("q8_0",), batch=(3,), prompt_tokens=(16,), new_tokens=(5,))
    (own, half) = cells(found)
    assert (own.request.dtype, half.request.dtype) == (None, "bf16")
    assert half.request.options == {"kv_dtype": "q8_0"} and half.request.batch == 3
    task = half.request.task
    assert isinstance(task, Generate) and (task.prompt_tokens, task.max_new_tokens) == (16, 5)
    assert half.label == "weights as bf16", "what all have in common tells nothing"
    axes = ("dtype", "kv_dtype", "new_tokens", "jacobi.window", "llama_cpp.flash_attn")
    assert [axis_words(a) for a in axes] == [
        "Weights as", "KV cache as", "New tokens", "Jacobi: window", "llama.cpp: flash attention"
    ], "as forms and comparisons have it"  # fmt: skip
    assert [axis_inside(a) for a in axes[:4]] == ["weights as", "KV cache as", "new tokens", "Jacobi window"]
    named = {c.label for c in cells(grid(backend=("llama_cpp",), strategy=("native", "prompt_lookup")))}
    assert named == {"Native", "Prompt lookup"}, "a plugin by its label"
    (only,) = cells(grid(batch=(3,), new_tokens=(5,)))
    assert only.label == "batch 3 · new tokens 5"


def loads(found: tuple[Cell, ...]) -> list[tuple[object, ...]]:
    keys = [(c.request.model, c.request.backend, c.request.threads, tuple(c.request.options.items())) for c in found]
    return [key for key, _ in itertools.groupby(keys)]


def test_what_loads_anew_varies_slowest_and_the_rest_is_shuffled_by_the_seed() -> None:
    found = grid(
        prompt_tokens=(8, 16, 32, 64),
        new_tokens=(4, 8),
        threads=(1, 2),
        backend=("fake", "llama_cpp"),
        llama_cpp__flash_attn=("on", "off"),
    )
    listed = cells(found)
    assert len(loads(listed)) == len(set(loads(listed))) == 6
    first = [(c.at["prompt_tokens"], c.at["new_tokens"]) for c in listed[:8]]
    assert sorted(first, key=str) == sorted(itertools.product((8, 16, 32, 64), (4, 8)), key=str)
    assert first != list(itertools.product((8, 16, 32, 64), (4, 8)))
    assert cells(found) == listed
    later = ordered(listed, 0, 1)
    assert loads(later) == loads(listed) and {c.id for c in later} == {c.id for c in listed} and later != listed


def test_a_million_cells_are_counted_and_refused() -> None:
    found = grid(prompt_tokens=tuple(range(1, 1025)), new_tokens=tuple(range(1, 1025)))
    assert size(found) == math.prod((1024, 1024))
    with pytest.raises(ExplorerError, match="1,048,576 cells, and at most 5,000") as caught:
        cells(found)
    assert "1,024" in caught.value.hint and MOST_CELLS == 5000


@pytest.mark.parametrize(
    ("axes", "sentence"),
    [
        ({"colour": ("red",)}, "No backend and no strategy has an axis 'colour'"),
        ({"fake__colour": ("red",)}, "No backend and no strategy has an axis 'fake.colour'"),
        ({"threads": ()}, "The axis threads has no value"),
        ({"threads": (1, 2, 1)}, "has a value twice"),
        ({"jacobi__window": (4,)}, "belongs to jacobi, which this sweep does not use"),
    ],
)
def test_axes_that_are_none(axes: dict[str, tuple[Scalar, ...]], sentence: str) -> None:
    with pytest.raises(ExplorerError, match=sentence):
        size(grid(**axes))


def test_axes_as_text() -> None:
    assert parsed_axis("threads = 1, 2,2") == Axis(name="threads", values=(1, 2))
    assert parsed_axis("dtype=own,bf16") == Axis(name="dtype", values=(None, "bf16"))
    assert parsed_axis("fake.delay_s=0.5,1") == Axis(name="fake.delay_s", values=(0.5, 1))
    assert parsed_axis("pytorch.fused=true,false") == Axis(name="pytorch.fused", values=(True, False))
    assert parsed_axis("model=1e3") == Axis(name="model", values=("1e3",))
    for text in ("threads", "threads=", "=1", "threads=1,,2"):
        with pytest.raises(ExplorerError, match="is not an axis"):
            parsed_axis(text)
    with pytest.raises(ExplorerError, match="'two' is not a number of threads"):
        parsed_axis("threads=two")


def test_every_setting_of_a_plugin_is_an_axis() -> None:
    assert {"llama_cpp.kv_dtype", "pytorch.fused", "jacobi.window", "model", "new_tokens"} <= set(known_axes())
