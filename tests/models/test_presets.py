"""Presets: our count of every layer's parameters against the modules that transformers builds."""

import json
from collections import Counter
from pathlib import Path

import pytest

from core.layer_names import canonical_hf, within
from core.models.architectures import model_types
from core.models.presets import n_params, presets
from core.models.spec import from_config, read

pytestmark = pytest.mark.engine("pytorch")

IDS = [entry.id for entry in presets()]


def _entry(preset_id):
    return next(e for e in presets() if e.id == preset_id)


def test_presets_are_unique_complete_and_say_that_their_weights_are_random():
    assert len(set(IDS)) == len(IDS) >= 25
    for entry in presets():
        assert entry.random_weights and "Random weights" in entry.note
        assert Path(entry.files["config"]).is_file()
        assert entry.size_bytes >= 2 * n_params(entry.id)
    files = {p.stem for p in Path(presets()[0].files["config"]).parent.glob("*.json")} - {"index"}
    assert files == set(IDS)


@pytest.mark.parametrize("preset_id", IDS)
def test_every_parameter_of_transformers_model_is_in_the_same_layer_of_ours(preset_id):
    """Parameters are counted per canonical layer, tied tables once, on the meta device."""
    import torch
    import transformers

    path = _entry(preset_id).files["config"]
    spec = read(path, "config")
    assert spec.random_weights
    config = transformers.AutoConfig.from_pretrained(path)
    encoder = not spec.causal
    auto = transformers.AutoModelForMaskedLM if encoder else transformers.AutoModelForCausalLM
    with torch.device("meta"):
        model = auto.from_config(config)
    theirs = Counter()
    for name, parameter in model.named_parameters():
        layer = canonical_hf(name, spec.architecture)
        assert layer is not None, name
        theirs[layer] += parameter.numel()
    ours = Counter({layer.name: layer.n_params for layer in spec.layers if layer.n_params})
    for group in [g for g in theirs if g.endswith((".experts.gate_up_proj", ".experts.down_proj"))]:
        if group in ours:
            continue
        parts = [n for n in ours if n in (group.replace("gate_up", "gate"), group.replace("gate_up", "up"))]
        ours[group] = sum(ours.pop(n) for n in parts)
    assert ours == theirs
    assert spec.n_params == sum(theirs.values()) == n_params(preset_id)


@pytest.mark.parametrize("preset_id", IDS)
def test_every_module_that_owns_parameters_has_a_layer(preset_id):
    """What a profiler hooks in PyTorch lines up with the layers of the analysis."""
    import torch
    import transformers

    path = _entry(preset_id).files["config"]
    spec = read(path, "config")
    config = transformers.AutoConfig.from_pretrained(path)
    auto = transformers.AutoModelForCausalLM if spec.causal else transformers.AutoModelForMaskedLM
    with torch.device("meta"):
        model = auto.from_config(config)
    names = {layer.name for layer in spec.layers}
    for path, module in model.named_modules():
        if any(True for _ in module.parameters(recurse=False)):
            layer = canonical_hf(path, spec.architecture)
            assert layer is not None, path
            assert any(within(name, layer) for name in names), (path, layer)


def test_the_files_are_plain_configurations():
    for entry in presets():
        config = json.loads(Path(entry.files["config"]).read_text())
        assert config["model_type"] == entry.lineage["architecture"]
        assert "auto_map" not in config, "a preset must never need code from elsewhere"


@pytest.mark.parametrize("model_type", model_types())
def test_transformers_own_defaults_give_the_same_parameters(model_type):
    """Each model_type as transformers' configuration class makes it, including families without a preset."""
    import torch
    import transformers

    config = transformers.CONFIG_MAPPING[model_type]()
    if getattr(config, "num_experts_per_tok", 1) is None:
        config.num_experts_per_tok = 2
    spec = from_config(config.to_dict())
    auto = transformers.AutoModelForCausalLM if spec.causal else transformers.AutoModelForMaskedLM
    with torch.device("meta"):
        model = auto.from_config(config)
    assert spec.n_params == sum(p.numel() for p in model.parameters())
