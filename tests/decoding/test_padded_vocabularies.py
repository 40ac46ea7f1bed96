"""A draft and its model whose tables have different numbers of rows for the same tokens, and which both like to say the
rows that no token has: whatever the draft guesses, the text is the model's own, in every engine."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from core import plugins
from core.models import artifacts, catalogue, spec
from core.runs.companions import same_tokenizer
from core.types import Generate, GenerationConfig, Request, Sampling, raw
from tests.support import elsewhere
from tests.support.cases import small
from tests.support.progress import silent
from tests.support.steps import taken
from tests.support.tiny import hf_folder
from tests.support.traced import once_each

pytestmark = pytest.mark.engine("pytorch")

ROWS = 320  # of the small model, of which its tokenizer has 264
PAIRS = [(384, 320), (320, 384), (321, 512), (512, 321)]  # rows of the model, rows of its draft
N = 24


def padded(folder: Path, n_rows: int) -> Path:
    """The small model with rows of its own behind the others, larger than those: they are said often."""
    from safetensors.numpy import load_file, save_file

    place = folder / f"rows-{n_rows}"
    shutil.copytree(hf_folder(folder), place)
    tensors, rng = load_file(place / "model.safetensors"), np.random.default_rng(n_rows)
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        more = rng.normal(0, 0.6, (n_rows - ROWS, tensors[name].shape[1])).astype(np.float32)
        tensors[name] = np.concatenate([tensors[name], more])
    save_file(tensors, place / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((place / "config.json").read_text())
    (place / "config.json").write_text(json.dumps(config | {"vocab_size": n_rows}))
    return place


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The models by their rows."""
    folder = tmp_path_factory.mktemp("padded")
    for n_rows in {n for pair in PAIRS for n in pair}:
        padded(folder, n_rows)
    return folder


@pytest.mark.parametrize("backend", ("pytorch", "onnxruntime", "llama_cpp"))
@pytest.mark.parametrize(("rows", "drafts_rows"), PAIRS)
def test_the_text_is_the_models_own(
    rows: int, drafts_rows: int, backend: str, places: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROOFSCOPE_HOME", str(places / "home"))  # what is converted once serves all pairs
    formats = plugins.get("backend", backend).formats
    found = []
    for n_rows in (rows, drafts_rows):
        entry = catalogue.find(str(places / f"rows-{n_rows}"))
        with once_each():
            found.append(artifacts.provide(entry, formats, silent, alone=True))
    alone, together, drawn = elsewhere.call(backend, texts, backend, found)
    assert together == alone and len(alone) == N
    assert len(drawn) == 3 * N and max(drawn) < rows
    if rows == 384:
        assert max(alone) >= ROWS, "the model says rows that its tokenizer has not"


def texts(backend: str, places: list[tuple[str, str]]) -> tuple[list[int], list[int], list[int]]:
    """Tokens of the first model: greedy, greedy with drafts of the second, and three texts drawn with such drafts."""
    request = Request(model="padded", backend=backend, task=Generate(), threads=1, options=small(backend))
    plugin = plugins.get("backend", backend)
    opened = [plugin.open(place, spec.read(place, fmt), request, silent) for fmt, place in places]
    session, draft = opened
    ends = frozenset[int]()
    try:
        same_tokenizer(session, draft, "hello")
        prompt = np.array([raw(session, "hello")])
        found = []
        hot = [GenerationConfig(limit=N, seed=i, sampling=Sampling(temperature=2.0), stop=ends) for i in range(3)]
        for config in (GenerationConfig(limit=N, stop=ends), *hot):
            for name, drafts in (("autoregressive", ()), ("speculative", (draft,))):
                strategy = plugins.get("strategy", name)
                for one in opened:
                    one.reset()
                steps = taken(strategy.decode(session, prompt, config, strategy.Params(), *drafts), session, *drafts)
                found.append([int(token) for step in steps for row in step.tokens[:1] for token in row])
        return found[0], found[1], [token for text in found[3::2] for token in text]
    finally:
        for one in opened:
            one.close()
