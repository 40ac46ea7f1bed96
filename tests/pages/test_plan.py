"""Devices and Predict: the catalogue and its doubts, devices of one's own, predictions, and bad input."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from streamlit.testing.v1 import AppTest

from core.cli import cli
from core.paths import data_dir
from hardware import catalogue
from hardware.ceilings import Ceilings
from pages.ui import text
from pages.ui.predict_here import measured_words
from tests.pages.conftest import sound
from tests.pages.test_understand import ceilings_here
from tests.support.gguf_bytes import LLAMA, file, header

__all__ = ["ceilings_here"]  # a fixture
Open = Callable[..., AppTest]
N_SHIPPED = len(catalogue.devices())
DEVICES, PREDICT = "pages/plan/devices.py", "pages/plan/predict.py"
OWN = {
    "name": "My card",
    "kind": "gpu",
    "mem_bandwidth_bytes_per_s": 900e9,
    "mem_bytes": 24 * 2**30,
    "peak_flop_per_s": {"fp16": 100e12},
    "sources": ["Its data sheet"],
}


def words(at: AppTest) -> str:
    kinds = (at.markdown, at.caption, at.info, at.error, at.code)
    return "\n".join(str(e.value) + str(getattr(e.proto, "title", "")) for kind in kinds for e in kind)


def own() -> list[str]:
    return [d.name for d in catalogue.devices(data_dir() / "devices")][N_SHIPPED:]


# ---------------------------------------------------------------- Devices


def test_the_catalogue_marks_doubts(app: Open) -> None:
    at = sound(app(DEVICES))
    assert "~ marks a doubtful figure" in words(at)
    assert len(at.dataframe[0].value) == N_SHIPPED
    doubtful = at.dataframe[0].value.set_index("Device").loc["A10G", "Doubtful"]
    assert "int8" in doubtful


def test_a_disturbed_run_beside_a_prediction_is_marked() -> None:
    assert measured_words({"tok_per_s": 16.4, "disturbed": "Others had half of it."}) == "~ 16.4 tok/s"
    assert measured_words({"tok_per_s": 16.4}) == "16.4 tok/s" and measured_words(None) == "–"


def test_kinds_filter(app: Open) -> None:
    at = sound(app(DEVICES))
    pills = next(p for p in at.get("button_group") if p.label == "Kind")
    pills.set_value(["cpu"]).run()
    assert set(sound(at).dataframe[0].value["Kind"]) == {"CPU"}


def fill(at: AppTest, **changes: object) -> AppTest:
    values = {"name": "My card", "mem": 24.0, "rate": 900.0, "fp16": 100.0, "source": "Its data sheet", **changes}
    for field, value in values.items():
        widget = at.text_input if field in ("name", "source") else at.number_input
        widget(key=f"d-{field}-new").set_value(value)
    return next(b for b in at.button if b.label == "Save").click().run()


def test_add_a_device(app: Open) -> None:
    at = fill(sound(app(DEVICES)))
    assert not sound(at).error
    assert own() == ["My card"]
    kept = catalogue.find("My card", data_dir() / "devices")
    assert (kept.mem_bytes, kept.mem_bandwidth_bytes_per_s) == (24e9, 900e9)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"source": ""}, "has no source"),
        ({"name": " "}, "has no name"),
        ({"fp16": None}, "has no peak at all"),
        ({"rate": 900e9}, "The unit is probably wrong"),
        ({"mem": None}, "must be above zero"),
        ({"mem": 24e9}, "give it in GB."),
    ],
)
def test_a_faulty_device_is_one_sentence(app: Open, changes: dict[str, object], sentence: str) -> None:
    at = fill(sound(app(DEVICES)), **changes)
    assert sentence in words(sound(at))
    assert own() == []


def test_a_fault_goes_with_the_next_change(app: Open) -> None:
    at = fill(sound(app(DEVICES)), source="")
    assert "has no source" in words(at)
    at.text_input(key="d-source-new").set_value("Its data sheet").run()
    assert not sound(at).error


def test_memory_is_in_the_same_unit_everywhere(app: Open) -> None:
    table = sound(app(DEVICES)).dataframe[0].value
    assert table.set_index("Device").at["RTX 4090", "Memory (GB)"] == pytest.approx(25.77, abs=0.01)


def test_import_a_file(app: Open) -> None:
    at = sound(app(DEVICES))
    at.get("file_uploader")[0].upload("own.json", json.dumps([OWN]).encode(), "application/json").run()
    next(b for b in at.button if b.label == "Import").click().run()
    assert own() == ["My card"], words(sound(at))


@pytest.mark.parametrize("data", [b"{", b"[1]", b'{"name": "x"}', json.dumps({**OWN, "mem_bytes": -1}).encode()])
def test_a_faulty_file_is_one_sentence(app: Open, data: bytes) -> None:
    at = sound(app(DEVICES))
    at.get("file_uploader")[0].upload("own.json", data, "application/json").run()
    next(b for b in at.button if b.label == "Import").click().run()
    assert len(sound(at).error) == 1
    assert own() == []


def test_a_broken_device_file_on_disk_is_named(app: Open, home: Path) -> None:
    folder = data_dir() / "devices"
    folder.mkdir(parents=True)
    (folder / "bad.json").write_text("{")
    at = sound(app(DEVICES))
    assert "bad.json" in words(at)
    assert len(at.dataframe[0].value) == N_SHIPPED


# ---------------------------------------------------------------- Predict


def test_a_prediction_is_an_interval_with_its_assumptions(app: Open) -> None:
    at = sound(app(PREDICT))
    decode = next(m for m in at.metric if m.label == "Decode")
    assert decode.value.startswith("~ ") and " to " in decode.delta
    assert "Every weight is read once per forward" in words(at)
    assert "python -m core predict --model smollm2-135m" in words(at) and " --weights q4_0 " in words(at)
    assert "estimated" in words(at)


def test_a_prediction_as_the_file_has_it_is_repeated_as_it_has_it(app: Open) -> None:
    """Files mix formats: the main one for all weights would be another model (gpt-oss: 11.2 GB instead of 13.8)."""
    at = sound(app(PREDICT))
    at = sound(at.selectbox(key="predict-weights").select("as the file has them").run())
    assert "python -m core predict --model smollm2-135m" in words(at) and "--weights" not in words(at)


def test_the_error_table_is_shown(app: Open) -> None:
    at = sound(app(PREDICT))
    table = next(d.value for d in at.dataframe if "Method" in d.value.columns)
    assert {"decode", "prefill"} == set(table["Phase"])


def test_a_larger_request_costs_more(app: Open) -> None:
    at = sound(app(PREDICT))

    def row() -> float:
        table = next(d.value for d in at.dataframe if "First token (s)" in d.value.columns)
        return float(table["First token (s)"].iloc[0])

    before = row()
    at.number_input(key="predict-prompt").set_value(8192).run()
    assert row() > before
    assert not sound(at).error


def test_it_says_when_it_does_not_fit(app: Open) -> None:
    at = sound(app(PREDICT))
    at.selectbox(key="predict-model").set_value("llama-3.1-70b").run()
    at.multiselect(key="predict-devices").set_value(["T4"]).run()
    assert "does not fit" in words(sound(at))


def test_an_encoder_does_not_decode(app: Open) -> None:
    at = sound(app(PREDICT))
    at.selectbox(key="predict-model").set_value("bert-base-uncased").run()
    assert next(m for m in sound(at).metric if m.label == "Decode").value == "–"


def upload(at: AppTest, data: bytes) -> AppTest:
    at.segmented_control(key="predict-from").set_value("A config.json of my own").run()
    at.get("file_uploader")[0].upload("config.json", data, "application/json").run()
    return at


def test_a_configuration_of_ones_own(app: Open) -> None:
    config = {
        "model_type": "llama",
        "hidden_size": 512,
        "intermediate_size": 1024,
        "num_hidden_layers": 4,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "vocab_size": 1000,
        "max_position_embeddings": 2048,
        "torch_dtype": "bfloat16",
    }
    at = upload(sound(app(PREDICT)), json.dumps(config).encode())
    assert "--config config.json" in words(sound(at))
    assert any(m.label == "Decode" for m in at.metric)


@pytest.mark.parametrize(
    "data", [b"{", b"[]", b"{}", b'{"model_type": "llama", "hidden_size": "wide"}', b'{"model_type": "no-such"}']
)
def test_a_faulty_configuration_is_one_sentence(app: Open, data: bytes) -> None:
    at = upload(sound(app(PREDICT)), data)
    assert len(sound(at).error) == 1


def test_no_device_and_no_model_ask_for_one(app: Open) -> None:
    at = sound(app(PREDICT))
    at.multiselect(key="predict-devices").set_value([]).run()
    assert "at least one device" in words(sound(at))


def test_what_a_file_leaves_open_stands_beside_the_prediction(app: Open, tmp_path: Path) -> None:
    entries = {key.replace("llama.", "nobody."): value for key, value in LLAMA.items()}
    entries |= {"general.architecture": "nobody", "nobody.attention.sliding_window": 32}
    path = file(tmp_path / "m.gguf", header(entries))
    at = sound(app(PREDICT, **{"predict-model": str(path)}))
    assert "which of its blocks see a window only (none is counted)" in words(at).replace("\\", "")
    assert "as its tensors tell them" in next(c.proto.help for c in at.caption if "parameters" in c.value)


def test_this_machine_by_backend(app: Open, ceilings_here: Ceilings) -> None:
    at = sound(app(PREDICT))
    table = next(d.value for d in at.dataframe if "Calibrated with" in d.value.columns)
    assert {"llama.cpp", "PyTorch", "ONNX Runtime"} <= set(table["Backend"])
    assert all(w == "nothing yet: a guess" for w in table["Calibrated with"])
    assert "This machine" in at.multiselect(key="predict-devices").value
    assert "Devices page" not in words(at)


def test_this_machine_needs_its_ceilings(app: Open) -> None:
    assert "Measure this machine's ceilings" in words(sound(app(PREDICT)))


# ---------------------------------------------------------------- What if


WHAT_IF = "pages/plan/what_if.py"


@pytest.mark.parametrize("view", ["What binds", "Lines of equal time", "Models and batches", "Cost"])
def test_what_if_answers_in_every_view(app: Open, view: str) -> None:
    at = sound(app(WHAT_IF, **{"what-if-model": "llama-3.1-8b", "what-if-view": view, "what-if-x-bandwidth": "2"}))
    assert "H100 SXM5 80GB, changed" in words(at) and "twice the bandwidth buys" in words(at)
    assert "--change bandwidth=2" in at.code[-1].value
    assert not at.error


def test_what_if_on_this_machine(app: Open, ceilings_here: Ceilings) -> None:
    at = sound(app(WHAT_IF, **{"what-if-model": "smollm2-135m", "what-if-device": "This machine"}))
    assert "adds to the ceilings is a guess" in words(at) and "on This machine" in words(at)
    assert not at.error


@pytest.mark.parametrize(("key", "value", "sentence"), [
    ("what-if-dollars", 0.0, "price"), ("what-if-memory-H100 SXM5 80GB", 0.0, "memory"),
    ("what-if-cache-mb", 50.0, "cache"),
])  # fmt: skip
def test_what_if_with_figures_that_cannot_be(app: Open, key: str, value: float, sentence: str) -> None:
    at = sound(app(WHAT_IF, **{"what-if-model": "llama-3.1-8b"}))
    at.number_input(key=key).set_value(value).run()
    assert len(sound(at).error) == 1 and sentence in at.error[0].proto.title


def asked_again(at: AppTest) -> dict[str, Any]:
    """What the command under the page answers; its times are those of the page."""
    told = shlex.split(at.code[-1].value)
    assert told[:4] == ["python", "-m", "core", "what-if"]
    found: dict[str, Any] = json.loads(CliRunner().invoke(cli, [*told[3:], "--json"]).output)
    times = {m.value for m in at.metric}
    for phase in found["phases"]:
        assert f"~ {text.seconds(phase['seconds'])}" in times
    return found


def test_the_command_under_what_if_asks_the_same(app: Open) -> None:
    at = sound(app(WHAT_IF, **{"what-if-model": "llama-3.1-8b", "what-if-x-bandwidth": "1.5"}))
    changed = {"memory-H100 SXM5 80GB": 120.0, "cache-mb": 50.0, "cache-gbs": 20_000.0, "dollars": 9000.0}
    for name, value in changed.items():
        at.number_input(key=f"what-if-{name}").set_value(value)
    found = asked_again(sound(at.run()))
    assert found["mem_bytes"] == 120e9 and found["front"][0]["dollars"] == 9000


def test_the_command_under_what_if_names_the_backend_of_this_machine(app: Open, ceilings_here: Ceilings) -> None:
    here = {"what-if-model": "smollm2-135m", "what-if-device": "This machine", "what-if-backend": "pytorch"}
    at = sound(app(WHAT_IF, **here))
    assert "--backend pytorch" in at.code[-1].value
    asked_again(at)


def test_prices_are_kept_and_a_bad_one_is_said(app: Open) -> None:
    from hardware import prices

    prices.save((prices.Price(item="RTX 4090", dollars=1600, date="2026-05", source="a shop"),), data_dir())
    at = sound(app(WHAT_IF, **{"what-if-model": "llama-3.1-8b", "what-if-view": "Cost"}))
    assert "RTX 4090" in words(at) and "of 2,000 draws" in words(at)
    (data_dir() / prices.FILE).write_text('[{"item": "RTX 4090", "dollars": 0, "date": "2026-05", "source": "a shop"}]')
    assert "must be above zero" in sound(at.run()).error[0].proto.title
