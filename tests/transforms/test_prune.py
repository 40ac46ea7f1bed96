"""Pruning: which weights go, by hand and by the definitions of the papers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core import plugins
from core.models import spec as specs
from core.plugins import settings
from core.transforms import _torch_model as torch_model
from core.transforms import prune
from core.transforms._calibration import sequences
from core.types import Request
from hardware.errors import ExplorerError
from tests.support.tiny import hf_folder
from tests.support.workshop import Job, make, source_of

pytestmark = pytest.mark.engine("pytorch")

plugin = plugins.get("transform", "prune")


def pruned(weight: list[list[float]], scores: list[list[float]], by_row: bool, **params: Any) -> list[list[float]]:
    import torch

    matrix = torch.tensor(weight)
    prune.prune(matrix, torch.tensor(scores), prune.Pruning(**params), by_row)
    return matrix.tolist()  # type: ignore[no-any-return]


def loaded(path: Path, tmp_path: Path) -> tuple[Any, dict[str, Any]]:
    source = source_of(path)
    model = torch_model.load(source, Job(tmp_path))
    return model, torch_model.matrices(model, source.spec)


def test_a_row_loses_its_lowest_scores() -> None:
    weight = [[1.0, -2.0, 3.0, -4.0], [5.0, 6.0, 7.0, 8.0]]
    scores = [[1.0, 9.0, 2.0, 8.0], [4.0, 3.0, 2.0, 1.0]]
    assert pruned(weight, scores, by_row=True, sparsity=0.5) == [[0, -2, 0, -4], [5, 6, 0, 0]]


def test_a_matrix_loses_its_lowest_scores_wherever_they_are() -> None:
    weight = [[1.0, -2.0, 3.0, -4.0], [5.0, 6.0, 7.0, 8.0]]
    assert pruned(weight, np.abs(weight).tolist(), by_row=False, sparsity=0.5) == [[0, 0, 0, 0], [5, 6, 7, 8]]


def test_two_of_every_four_stay() -> None:
    weight = [[1.0, -2.0, 3.0, -4.0, 8.0, 7.0, 6.0, 5.0]]
    assert pruned(weight, np.abs(weight).tolist(), by_row=True, pattern="2:4") == [[0, 0, 3, -4, 8, 7, 0, 0]]


def test_nothing_goes_at_a_sparsity_of_zero() -> None:
    assert pruned([[1.0, 2.0]], [[1.0, 2.0]], by_row=True, sparsity=0.0) == [[1, 2]]


def test_one_threshold_takes_the_smallest_of_all_matrices(tmp_path: Path) -> None:
    _, matrices = loaded(hf_folder(tmp_path), tmp_path)
    before = np.concatenate([np.abs(m.weight.numpy()).ravel() for m in matrices.values()])
    wanted = round(0.3 * before.size)
    limit = np.sort(before)[wanted - 1]
    prune.smallest_of_all(list(matrices.values()), 0.3, Job(tmp_path))
    after = np.concatenate([m.weight.numpy().ravel() for m in matrices.values()])
    assert (after == 0).sum() == wanted
    assert ((after == 0) == (before <= limit)).all()


def test_wanda_goes_by_weight_times_input(tmp_path: Path) -> None:
    """The first projection's input is the normed embedding of the calibration text, whatever is pruned later."""
    import torch

    path = hf_folder(tmp_path)
    source = source_of(path)
    model, matrices = loaded(path, tmp_path)
    first = matrices["blocks.0.attn.q_proj"]
    with torch.no_grad():
        x = model.model.layers[0].input_layernorm(model.model.embed_tokens(torch.tensor(sequences(path, source.spec))))
    scores = first.weight.abs() * x.reshape(-1, x.shape[-1]).norm(dim=0)
    expected = np.argsort(scores.numpy(), axis=1)[:, :16]
    prune.wanda(model, matrices, prune.Pruning(sparsity=0.25), source, Job(tmp_path))
    assert ((first.weight == 0).sum(1) == 16).all()
    assert (np.take_along_axis(first.weight.numpy(), expected, axis=1) == 0).all()


def test_wanda_judges_a_matrix_by_what_the_pruned_ones_before_it_leave(tmp_path: Path) -> None:
    import torch

    source = source_of(hf_folder(tmp_path))
    model, matrices = loaded(hf_folder(tmp_path), tmp_path)
    prune.wanda(model, matrices, prune.Pruning(sparsity=0.5), source, Job(tmp_path))
    seen = {}
    last = matrices["blocks.1.mlp.down_proj"]
    last.register_forward_pre_hook(lambda _, inputs: seen.update(x=inputs[0]))
    torch_model.calibrate(model, source, Job(tmp_path), "Again")
    dense = loaded(hf_folder(tmp_path), tmp_path)[1]["blocks.1.mlp.down_proj"].weight
    scores = dense.abs() * seen["x"].reshape(-1, dense.shape[1]).norm(dim=0)
    gone = torch.zeros_like(dense, dtype=torch.bool).scatter_(1, scores.topk(64, largest=False).indices, True)
    assert ((last.weight == 0) == gone).float().mean() > 0.999  # the same norms up to rounding


@pytest.mark.parametrize(
    ("params", "share"),
    [
        ({"sparsity": 0.3}, 0.3),
        ({"method": "magnitude", "sparsity": 0.1}, 0.1),
        ({"method": "magnitude", "sparsity": 0.6, "scope": "global"}, 0.6),
        ({"pattern": "2:4"}, 0.5),
        ({"method": "magnitude", "pattern": "2:4"}, 0.5),
    ],
)
def test_the_facts_are_what_the_file_holds(tmp_path: Path, params: dict[str, Any], share: float) -> None:
    from safetensors.numpy import load_file

    path = hf_folder(tmp_path)
    made, outcome = make("prune", path, tmp_path / "out", **params)
    before, after = load_file(path / "model.safetensors"), load_file(tmp_path / "out" / "model.safetensors")
    assert before.keys() == after.keys()
    inside = {k: v for k, v in after.items() if k.endswith("_proj.weight")}
    zeros = sum(int((v == 0).sum()) for v in inside.values())
    size = sum(v.size for v in inside.values())
    assert outcome.facts["sparsity"] == zeros / size == pytest.approx(share, abs=0.01)
    assert outcome.facts["zeros_of_all_parameters"] == zeros / made.spec.n_params
    layer = (after["model.layers.1.mlp.up_proj.weight"] == 0).mean()
    assert outcome.facts["sparsity_by_layer"]["blocks.1.mlp.up_proj"] == pytest.approx(layer)
    for name, values in before.items():
        left = after[name] != 0 if name in inside else np.ones_like(values, dtype=bool)
        assert (after[name][left] == values[left]).all(), "what stays is as it was"
    assert "no faster" in outcome.note


def test_what_makes_no_sense_is_told_in_one_sentence(tmp_path: Path) -> None:
    tiny = source_of(hf_folder(tmp_path)).spec
    with pytest.raises(ExplorerError, match="sparsity"):
        settings(plugin.Params, {"sparsity": 1.5}, plugin.label)
    with pytest.raises(ExplorerError, match="no global scope"):
        plugin.check(tiny, prune.Pruning(scope="global"))
    with pytest.raises(ExplorerError, match="no global scope"):
        plugin.check(tiny, prune.Pruning(method="magnitude", pattern="2:4", scope="global"))
    odd = specs.from_config({"model_type": "llama", **LLAMA, "intermediate_size": 130})
    with pytest.raises(ExplorerError, match="four does not divide"):
        plugin.check(odd, prune.Pruning(pattern="2:4"))
    experts = {"num_local_experts": 4, "num_experts_per_tok": 2}
    with pytest.raises(ExplorerError, match="experts"):
        plugin.check(specs.from_config({"model_type": "mixtral", **LLAMA, **experts}), prune.Pruning())


LLAMA = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 320,
}


def test_a_damaged_folder_is_told(tmp_path: Path) -> None:
    path = hf_folder(tmp_path)
    source = source_of(path)
    (path / "model.safetensors").write_bytes((path / "model.safetensors").read_bytes()[:5000])
    with pytest.raises(ExplorerError, match="cannot be loaded"):
        plugin.run(source, prune.Pruning(), tmp_path, Job(tmp_path))


@pytest.mark.model
def test_wanda_harms_less_than_magnitude(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At half of the weights, on a text that neither has seen (Sun et al. 2306.11695, table 2: the same order).

    Calibrated on a quarter of the text: Wanda needs few samples (the same paper, on how many it takes).
    """
    from core.models import artifacts, catalogue

    monkeypatch.setattr(torch_model, "sequences", lambda *source: sequences(*source)[::4])
    _, path = artifacts.provide(catalogue.find("smollm2-135m"), ("hf",), lambda *_, **__: None)
    nll = {}
    for method in ("wanda", "magnitude"):
        make("prune", Path(path), home / method, method=method)
        nll[method] = surprise(home / method)
    assert surprise(Path(path)) < nll["wanda"] < nll["magnitude"]


UNSEEN = (
    "The lighthouse on the northern cape was built in 1841 after a brig had been lost on the rocks with all hands. "
    "Its keeper lived there with his family and a cow, rowed to the village for flour and news, and wrote the weather "
    "into a large book every four hours. Today the lamp is electric and nobody lives there. Visitors climb the hundred "
    "and twelve steps, look out over the sea, and wonder how anyone could bear the noise of the wind."
)


def surprise(folder: Path) -> float:
    """Mean nats per token of a text."""
    session = plugins.get("backend", "pytorch").open(
        str(folder), source_of(folder).spec, Request(model="x", backend="pytorch", threads=1), lambda *_, **__: None
    )
    ids = np.array([session.encode(UNSEEN)])
    logits = session.forward(ids).numpy()[0].astype(np.float64)
    session.close()
    logits -= logits.max(-1, keepdims=True)
    logits -= np.log(np.exp(logits).sum(-1, keepdims=True))
    return float(-logits[np.arange(ids.shape[1] - 1), ids[0, 1:]].mean())
