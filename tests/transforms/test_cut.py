"""Shapes cut from a model: masking is cutting, what does nothing goes first, and scores are those of the cut model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from core import plugins
from core.transforms import _cutting
from core.transforms import _torch_model as torch_model
from core.transforms._cut_scores import Ask, Asked, scores
from core.transforms._cutting import Cutting, left
from core.transforms._widths import shape_of
from hardware.errors import ExplorerError
from tests.support.tiny import hf_folder
from tests.support.workshop import Job, make, source_of
from tests.transforms.test_structured import IDS, folder_of, logits

pytestmark = pytest.mark.engine("pytorch")

SHAPE = {"blocks": 3, "d_ff": 64, "kv_heads": 1, "queries": 1}


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder_of(tmp_path_factory.mktemp("cut") / "parent", "llama", tie_word_embeddings=True)


def masked_logits(path: Path, **shape: int) -> Any:
    import torch

    source = source_of(path)
    model = torch_model.load(source, Job(path))
    found = _cutting.importance(model, source, Job(path))
    params = Cutting(**shape)
    dropped = found.least(source.spec.n_blocks - (params.blocks or source.spec.n_blocks))
    with torch.inference_mode():
        whole = model(torch.tensor(IDS)).logits.numpy()
        with _cutting.masked(model, source, found, dropped, left(shape_of(source.spec), params)):
            inside = model(torch.tensor(IDS), use_cache=False).logits.numpy()
        np.testing.assert_array_equal(model(torch.tensor(IDS)).logits.numpy(), whole, err_msg="it is as before")
    return inside


@pytest.mark.parametrize("shape", [SHAPE, {"blocks": 2}, {"d_ff": 96}, {"queries": 1}])
def test_masking_is_cutting(parent: Path, tmp_path: Path, shape: dict[str, int]) -> None:
    made, outcome = make("cut", parent, tmp_path / "out", **shape)
    np.testing.assert_allclose(masked_logits(parent, **shape), logits(tmp_path / "out"), atol=1e-4)
    assert made.spec.n_blocks == shape.get("blocks", 4) == len(outcome.facts["kept"])


def test_a_cut_shape_has_its_config_and_says_what_left(parent: Path, tmp_path: Path) -> None:
    made, outcome = make("cut", parent, tmp_path / "out", **SHAPE)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    kept = {"num_hidden_layers": 3, "intermediate_size": 64, "num_attention_heads": 1, "num_key_value_heads": 1}
    assert {name: config[name] for name in kept} == kept and config["head_dim"] == 16
    assert "3 of 4 blocks" in outcome.note and len(outcome.facts["dropped"]) == 1
    assert np.abs(logits(tmp_path / "out") - logits(parent)).max() > 0.01
    assert made.spec.n_params < source_of(parent).spec.n_params


def test_nothing_taken_out_is_a_copy(parent: Path, tmp_path: Path) -> None:
    made, outcome = make("cut", parent, tmp_path / "out")
    assert "nothing was taken out" in outcome.note and made.spec.n_params == source_of(parent).spec.n_params
    np.testing.assert_array_equal(logits(tmp_path / "out"), logits(parent))


def test_more_than_there_is_cannot_be_left(tmp_path: Path) -> None:
    cut, tiny = plugins.get("transform", "cut"), source_of(hf_folder(tmp_path)).spec
    for params, cause in (
        (Cutting(blocks=3), "has 2 blocks, and 3 are to be left"),
        (Cutting(d_ff=129), "128 MLP channels"),
        (Cutting(kv_heads=3), "2 key/value heads"),
        (Cutting(queries=3), "2 query heads on every"),
    ):
        with pytest.raises(ExplorerError, match=cause):
            cut.check(tiny, params)
    assert cut.suffix(Cutting(**SHAPE)) == "cut-b3-f64-kv1-q1" and cut.suffix(Cutting()) == "cut"


def test_scores_are_the_divergence_of_the_cut_model(parent: Path, tmp_path: Path) -> None:
    import torch
    from transformers import AutoTokenizer

    text = "the cat and the hat " * 8
    said: list[dict[str, Any]] = []
    asks = (Ask(key="whole"), Ask(key="one", dropped=(2,)), Ask(key="shape", dropped=1, widths=Cutting(**SHAPE)))
    asked = Asked(path=str(parent), label="parent", texts=(text,), tokens=40, threads=1, asks=asks)
    scores(msgspec.json.decode(msgspec.json.encode(asked), type=Asked), said.append)
    assert len(said[0]["influence"]) == 4 and [s["key"] for s in said[1:]] == ["whole", "one", "shape"]
    found = {s["key"]: s["kl"] for s in said[1:]}
    assert found["whole"] == pytest.approx(0, abs=1e-6) and found["one"] > 0
    assert all(s["tokens"] == 40 for s in said[1:])

    make("cut", parent, tmp_path / "out", **SHAPE)
    ids = AutoTokenizer.from_pretrained(parent).encode(text, add_special_tokens=False)[:40]
    rows = []
    for path in (parent, tmp_path / "out"):
        model = torch_model.load(source_of(path), Job(parent))
        with torch.inference_mode():
            rows.append(torch.log_softmax(model(torch.tensor([ids])).logits[0], -1).numpy().astype(np.float64))
    by_hand = (np.exp(rows[0]) * (rows[0] - rows[1])).sum(-1).mean()
    assert found["shape"] == pytest.approx(by_hand, rel=1e-3)


def test_no_text_is_said(parent: Path) -> None:
    with pytest.raises(ExplorerError, match="no text"):
        scores(Asked(path=str(parent), label="p", texts=("",), tokens=8, threads=1, asks=()), lambda said: None)
