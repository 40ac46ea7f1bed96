"""Runs of earlier versions, as they are in the repository, open as today's records."""

from __future__ import annotations

import json
import zipfile

import pytest

from core.evals.divergence import METRICS
from core.runs import old_form
from core.runs.demo import BUNDLE
from core.runs.store import Store
from core.types import Asked, Loaded, Metric


def lines() -> list[bytes]:
    with zipfile.ZipFile(BUNDLE) as bundle:
        return bundle.read("events.jsonl").splitlines()


def test_the_recorded_run_loses_nothing(store: Store) -> None:
    run = store.load(BUNDLE.read_bytes())
    assert len(run.events()) == len(lines())
    (found,) = (e for e in run.events() if isinstance(e, Loaded))
    said, host = found.setup, found.host
    assert (said.weight_dtype, said.activation_dtype, said.kv_dtype) == ("q4_1", "fp32", "fp16")
    assert (said.threads, said.device, said.n_context, said.n_batch) == (2, "cpu", 4096, 512)
    assert said.buffers_bytes["CPU KV"] == 94371840 and said.versions == {"llama-cpp-python": "0.3.36"}
    assert said.file_type == "Q4_1" and said.facts["flash_attention"] is True
    assert host is not None and host.machine.machine_id == "adf90d1a6bcc" and host.machine.mem_bytes == 25276510208
    assert host.load_average == (0.3935546875, 0.57470703125, 0.724609375) and host.python == "3.11.7"
    result = run.result()
    assert result.setup == said and result.host == host and result.threads == 2


@pytest.mark.parametrize(
    ("environment", "activation", "kv"),
    [
        ({"dtype": "bf16", "torch": "2.13", "bf16_instructions": False}, "bf16", "bf16"),  # PyTorch
        ({"dtype": "fp32", "torch": "2.13"}, "fp32", "fp32"),
        ({"dtype": "fp16", "onnxruntime": "1.20"}, "fp16", "fp16"),
        ({"dtype": "bf16", "file_type": "BF16", "type_k": "f16"}, "fp32", "fp16"),  # a GGUF file in bf16
        ({"dtype": "q4_1", "file_type": "Q4_1", "kv_dtype": "q8_0"}, "fp32", "q8_0"),
        ({}, "fp32", "fp32"),
    ],
)
def test_what_earlier_backends_left_unsaid(environment: dict[str, object], activation: str, kv: str) -> None:
    said = old_form.setup(environment)
    assert (said.activation_dtype, said.kv_dtype) == (activation, kv)
    assert said.emulated == (("bf16",) if "bf16_instructions" in environment else ())
    assert old_form.host(environment) is None


def test_a_damaged_line_is_no_event() -> None:
    whole = next(line for line in lines() if b'"type":"loaded"' in line)
    assert isinstance(old_form.event(whole), Loaded)
    raw = json.loads(whole)
    for damaged in (whole[:-40], b"[]", b'{"type": "loaded"}', json.dumps({**raw, "environment": 3}).encode()):
        assert old_form.event(damaged) is None


def test_a_percentile_of_each_text_is_called_that() -> None:
    """Until November 2026 the 99th percentile of KL was the mean over texts; the label now says so."""
    metric = Metric(name="kl_p99", label="KL divergence, 99th percentile", value="kl_p99", unit="nat")
    told = old_form.asked(Asked(t_s=0.0, n_items=1, metrics=(metric, *METRICS)))
    assert told.metrics[0].label == "KL divergence, 99th percentile of a text, mean"
    assert told.metrics[1:] == METRICS, "today's is over all tokens"
    assert old_form.asked(told) == told
