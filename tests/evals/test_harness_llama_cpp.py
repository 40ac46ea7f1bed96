"""The harness over a llama.cpp session, and its own Hugging Face model, which lives in a process of PyTorch."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from core import plugins
from core.evals.harness import Settings, plugin
from core.models import spec as specs
from core.types import Request, Session
from core.worker.subject import ModelUnderTest
from tests.support import elsewhere
from tests.support.benchmarks import WORDS
from tests.support.harness import judged
from tests.support.tiny import MAX_CONTEXT, hf_folder, llama_cpp

pytestmark = pytest.mark.engine("llama_cpp")


def test_every_document_is_judged_as_by_the_harness(tmp_path: Path) -> None:
    lines = [f'a "{word}" of a film with {"no " * i}end\t{i % 2}\n' for i, word in enumerate(WORDS * 2)]
    (tmp_path / "sst2_dev.tsv").write_text("".join(lines))
    folder = hf_folder(tmp_path)
    theirs = elsewhere.call("pytorch", judged, str(folder), "sst2", str(tmp_path), 0, MAX_CONTEXT)
    path, fmt = llama_cpp.make(tmp_path)
    request = Request(model="tiny", backend="llama_cpp", threads=1)
    session: Session = plugins.get("backend", "llama_cpp").open(path, specs.read(path, fmt), request, lambda *_: None)
    strategy: Any = plugins.get("strategy", "autoregressive")
    subject = ModelUnderTest(session, None, strategy, strategy.Params())
    items = list(plugin.measure(subject, Settings(tasks="sst2", data=str(tmp_path), limit=0)))
    session.close()
    assert "torch" not in sys.modules, "one native engine per process"
    assert [item.id for item in items] == list(theirs) and len(items) == len(lines)
    for item in items:
        found = [float(line.rsplit(": ", 1)[1]) for line in item.output.split("\n")]
        assert found == pytest.approx(theirs[item.id]["likelihoods"], rel=5e-3, abs=0.02), item.id
        one, other = theirs[item.id]["likelihoods"]
        if abs(one - other) > 0.1:
            assert item.values == theirs[item.id]["values"], item.id
    assert {item.values["sst2/acc"] for item in items} == {0.0, 1.0}
