"""Decoders from scratch by Optuna: the same shapes after a stop as without one, limits, and what is no model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from core.analysis.free_shapes import Sizes, config, refused
from core.cli import cli
from core.models.spec import from_config
from core.paths import data_dir
from core.studies import free_shapes
from core.studies.free_shapes import Found, answered, carry_out, findings, planned
from core.studies.ledger import folder_of, load, names
from core.studies.plan import FreeShapes
from core.types import from_json, to_json
from hardware.catalogue import find
from hardware.errors import ExplorerError
from tests.studies.fake_cells import quiet

FEW = {"widths": (256, 512), "vocabularies": (8192, 16384), "blocks": (2, 6), "trials": 40}


def test_sizes_become_a_model_by_hand() -> None:
    sizes = Sizes(blocks=2, width=256, head_dim=64, group=2, ratio=8 / 3, vocabulary=8192)
    spec = from_config(config(sizes, 640), "a")
    # q and o of 256 x 256, k and v of 256 x 128, three MLP matrices of 256 x 672 (683 in steps of 32), two norms
    block = 2 * 256 * 256 + 2 * 256 * 128 + 3 * 256 * 672 + 2 * 256
    assert spec.n_params == 8192 * 256 + 2 * block + 256
    assert sizes.label == "2 × 256 · 4/2 heads · MLP ×2.67 · 8k words" and refused(sizes) == 0
    assert refused(Sizes(blocks=2, width=192, head_dim=128, group=1, ratio=4.0, vocabulary=8192)) > 0
    assert refused(Sizes(blocks=2, width=192, head_dim=64, group=2, ratio=4.0, vocabulary=8192)) > 0, "3 heads"
    told = answered(planned("RTX 4090"), find("RTX 4090"), {"blocks": 2, "width": 192, "head_dim": 64, "group": 2,
                                                            "ratio": 4.0, "vocabulary": 8192})  # fmt: skip
    assert told.figures == {}


def test_a_stopped_search_asks_for_the_same_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = planned("RTX 4090", **FEW)
    whole = carry_out(plan, 10, quiet).state
    assert len(whole.trials) == 80 and len({to_json(t.params) for t in whole.trials[:40]}) > 10
    known = list(whole.trials)
    (folder_of(plan) / "study.json").unlink()
    monkeypatch.setattr(free_shapes, "SAVE_EVERY", 10)

    def stop(words: str) -> None:
        if words.startswith("20 of"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        carry_out(plan, 10, stop)
    half = load(folder_of(plan), FreeShapes)
    assert 20 <= len(half.trials) < 40 and not findings(half).complete
    assert carry_out(plan, 10, quiet).state.trials == known
    assert free_shapes._rebuilt(plan, known, enqueue=True) is not None, "as it is done for another version of Optuna"
    found = findings(load(folder_of(plan), FreeShapes))
    assert from_json(to_json(found), Found) == found and found.complete and found.asked == 40
    on = [row for row in found.rows if row.on_front]
    assert len(on) >= 2 and on == sorted(on, key=lambda r: r.figures["body_params"]), "quicker is smaller on a front"
    assert found.volume is not None and found.random_volume and found.volume > 0


def test_limits_are_met_or_the_nearest_is_named() -> None:
    limit = 40e6
    plan = planned("RTX 4090", {"n_params": limit}, **FEW)
    found = findings(carry_out(plan, 10, quiet).state)
    on = [row for row in found.rows if row.on_front]
    assert on and all(row.figures["n_params"] <= limit for row in on)
    nobody = planned("RTX 4090", {"n_params": 1e3}, **FEW)
    words = findings(carry_out(nobody, 10, quiet).state).words
    assert "No shape meets the limits" in words[0] and "parameters of" in words[0]
    short = planned("RTX 4090", **{**FEW, "trials": 12})
    assert carry_out(short, 1e-12, quiet).state.trials == []
    assert findings(load(folder_of(short), FreeShapes)).words == ("No shape was asked for yet.",)


def test_bad_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    for arguments, sentence in (
        ({"device": "abacus"}, "no device called 'abacus'"),
        ({"device": "RTX 4090", "at_most": {"colour": 1.0}}, "cannot be limited by 'colour'"),
        ({"device": "RTX 4090", "widths": ()}, "The widths to choose from are not all positive"),
        ({"device": "RTX 4090", "blocks": (5, 2)}, "These numbers of blocks are not a range"),
        ({"device": "RTX 4090", "weights": "colour"}, "'colour' is not known"),
    ):
        with pytest.raises(ExplorerError, match=sentence):
            planned(**arguments)  # type: ignore[arg-type]
    with pytest.raises(ExplorerError, match="no search for decoders"):
        load(Path("nowhere"), FreeShapes)
    monkeypatch.setattr(free_shapes, "find_spec", lambda name: None)
    with pytest.raises(ExplorerError, match="Optuna is missing"):
        carry_out(planned("RTX 4090"), 1, quiet)


def test_the_command_line() -> None:
    common = ["architectures", "free", "--device", "RTX 4090", "--trials", "12", "--blocks", "2", "4"]
    done = CliRunner().invoke(cli, common)
    assert done.exit_code == 0 and "shapes are on the front for" in done.output and "random shapes do" in done.output
    (name,) = names(FreeShapes)
    plan = data_dir() / "studies" / name / "plan.json"
    plan.write_bytes(to_json(load(data_dir() / "studies" / name, FreeShapes).plan))
    done = CliRunner().invoke(cli, ["architectures", "free", "--plan", str(plan), "--json"])
    assert done.exit_code == 0 and json.loads(done.output)["complete"]
    assert CliRunner().invoke(cli, ["architectures", "free"]).exit_code == 2
