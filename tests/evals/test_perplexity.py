"""Perplexity against hand-computed values, transformers' own loss, and the same model in other libraries."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from core import plugins
from core.evals._texts import Window, documents, windows
from core.evals.perplexity import METRICS, Settings, plugin
from core.models import spec as specs
from core.stats.scores import scores
from core.types import Item, Request, Session
from core.worker.subject import ModelUnderTest
from hardware.errors import ExplorerError
from tests.support import elsewhere
from tests.support.embedded import embedded
from tests.support.tiny import MAX_CONTEXT, hf_folder

TEXTS = ("The cat in the hat ate an ant, and then the hat.", "Nothing in here is the same: 3.14 and é.")


class Uniform:
    """Every byte is a token, and all of four ids are equally likely."""

    max_context, bos_token = 64, "^"
    capabilities = frozenset({"forward", "cache"})
    opening: tuple[int, ...] = ()
    spec = SimpleNamespace(name="uniform")

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def decode(self, ids: Sequence[int]) -> str:
        return bytes(i for i in ids if i != ord("^")).decode(errors="replace")


class Subject:
    def __init__(self) -> None:
        self.session = Uniform()
        self.asked: list[tuple[int, int]] = []

    def logprobs(self, session: Any, ids: Sequence[int], first: int) -> Iterator[NDArray[np.float32]]:
        self.asked.append((len(ids), first))
        rows = np.full((len(ids) - first, 256), math.log(0.25), np.float32)
        yield from (rows[i : i + 3] for i in range(0, len(rows), 3))


def written(folder: Path, *texts: str) -> str:
    file = folder / "texts.jsonl"
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return str(file)


def measured(subject: Any, context: int = 64, **given: Any) -> list[Item]:
    return list(plugin.measure(subject, Settings(context=context, **given)))


def values(items: Sequence[Item]) -> dict[str, float]:
    return {score.name: score.value for score in scores(items, METRICS)}


def test_four_equal_choices_are_a_perplexity_of_four(tmp_path: Path) -> None:
    items = measured(Subject(), text=written(tmp_path, "ab cd efg", "uv w"))
    assert [item.values["tokens"] for item in items] == [8, 3]  # the first byte of each is given, not predicted
    assert [item.values["words"] for item in items] == [2, 1]
    assert values(items) == pytest.approx(
        {"perplexity": 4, "bits_per_byte": 2, "word_perplexity": 4 ** (11 / 3)}, rel=1e-6
    )


def test_with_a_start_token_the_first_token_counts_too(tmp_path: Path) -> None:
    items = measured(Subject(), text=written(tmp_path, "ab cd efg", "uv w"), bos=True)
    assert [item.values["tokens"] for item in items] == [9, 4]
    assert [item.values["bytes"] for item in items] == [9, 4]
    assert [item.values["words"] for item in items] == [3, 2]


def test_windows_score_every_token_once_with_enough_before_it() -> None:
    assert list(windows(10, 4, 2)) == [
        Window(begin=0, end=4, first=1),
        Window(begin=2, end=6, first=4),
        Window(begin=4, end=8, first=6),
        Window(begin=6, end=10, first=8),
    ]
    assert list(windows(3, 4, 2)) == [Window(begin=0, end=3, first=1)]
    assert list(windows(1, 4, 2)) == []
    for n in range(2, 40):
        scored = [i for w in windows(n, 8, 3) for i in range(w.first, w.end)]
        assert scored == list(range(1, n))


def test_one_long_text_gives_an_item_per_window(tmp_path: Path) -> None:
    file = tmp_path / "long.txt"
    file.write_text("abc é " * 20)
    subject = Subject()
    items = measured(subject, text=str(file), context=16, stride=8)
    assert len(items) > 10 and len({item.cluster for item in items}) == len(items)
    n = len(file.read_bytes())
    assert sum(item.values["tokens"] for item in items) == n - 1
    assert sum(item.values["bytes"] for item in items) == n - 1  # windows that cut a character in two included
    assert max(length for length, _ in subject.asked) == 16
    assert plugin.size(Settings(text=str(file))) is None


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    path = str(hf_folder(tmp_path_factory.mktemp("tiny")))
    backend = plugins.get("backend", "pytorch")
    request = Request(model="tiny", backend="pytorch", threads=1)
    session = backend.open(path, specs.read(path, "hf"), request, quiet)
    yield session
    session.close()


def quiet(note: str, done: float | None = None, total: float | None = None, unit: str = "") -> None:
    pass


def under_test(session: Session, reference: Session | None = None) -> ModelUnderTest:
    return ModelUnderTest(session, reference, plugins.get("strategy", "autoregressive"), None)


@pytest.mark.engine("pytorch")
def test_it_is_transformers_own_loss(tiny: Any, tmp_path: Path) -> None:
    import torch

    items = measured(under_test(tiny), text=written(tmp_path, *TEXTS), context=MAX_CONTEXT)
    for text, item in zip(TEXTS, items, strict=True):
        ids = torch.tensor([tiny.encode(text)])
        tiny.reset()
        loss = tiny._model(ids, labels=ids).loss  # the mean over all tokens but the first
        assert item.values["nll"] / item.values["tokens"] == pytest.approx(loss.item(), rel=1e-5)
    assert values(items)["perplexity"] > 50  # random weights


@pytest.mark.engine("pytorch")
def test_overlapping_windows_are_those_of_hugging_face(tiny: Any, tmp_path: Path) -> None:
    """The loop of "Perplexity of fixed-length models", with labels of -100 for what a window only reads."""
    import torch

    text, context, stride = " ".join(TEXTS), 24, 9
    ids, total, before = torch.tensor([tiny.encode(text)]), 0.0, 0
    for begin in range(0, ids.shape[1], stride):
        end = min(begin + context, ids.shape[1])
        part = ids[:, begin:end]
        labels = part.clone()
        labels[:, : before - begin] = -100 if before > begin else labels[:, : before - begin]
        n = int((labels[:, 1:] != -100).sum())
        total += tiny._model(part, labels=labels).loss.item() * n
        before = end
        if end == ids.shape[1]:
            break
    items = measured(under_test(tiny), text=written(tmp_path, text), context=context, stride=stride)
    assert len(items) > 2 and sum(item.values["nll"] for item in items) == pytest.approx(total, rel=1e-5)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("gone.txt", None, "cannot be read"),
        ("a.csv", b"a", "neither a .txt nor"),
        ("a.jsonl", b'{"text": "a b"}\nnot json\n', "Line 2 of a.jsonl is not JSON"),
        ("a.jsonl", b'{"words": "a b"}\n', "Line 1 of a.jsonl has no text"),
        ("a.jsonl", b'{"text": "a b", "more": ' + b"[" * 100_000, "Line 1 of a.jsonl is not JSON"),
        ("a.jsonl", b'{"text": "half \\ud83d of it"}\n', "Line 1 of a.jsonl is not JSON"),
        ("a.jsonl", b"[]\n", "Line 1 of a.jsonl is not JSON"),
        ("a.jsonl", b'{"id": 1, "text": "a b"}\n{"id": 1, "text": "a c"}\n', "the same id"),
        ("a.jsonl", b"\n", "empty document, or none"),
        ("a.txt", b"  \n", "empty document, or none"),
        ("a.txt", b"\xff\xfe\xfa", "not UTF-8"),
        ("a.txt", b"a", "a single token"),
    ],
)
def test_a_text_that_cannot_be_read_is_one_sentence(
    tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ExplorerError, match=message):
        measured(Subject(), text=str(tmp_path / name), context=32)


def test_a_line_of_json_ends_where_its_file_says_so(tmp_path: Path) -> None:
    """A text may hold Unicode's own ends of lines, which JSON need not escape."""
    file = tmp_path / "a.jsonl"
    file.write_bytes('{"text": "one\u2028two\x85three"}\r\n{"text": "four"}'.encode())
    assert [d.text for d in documents(str(file))] == ["one\u2028two\x85three", "four"]


def test_windows_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    text = written(tmp_path, "abc")
    with pytest.raises(ExplorerError, match="more than the 64"):
        measured(Subject(), text=text, context=65)
    with pytest.raises(ExplorerError, match="stride is longer"):
        measured(Subject(), text=text, context=32, stride=33)


def test_the_shipped_texts_are_many_and_of_one_size() -> None:
    found = documents("")
    assert len(found) >= 30 and plugin.size(Settings()) == len(found) and plugin.size(Settings(n=5)) == 5
    assert all(150 <= len(document.text.split()) <= 300 for document in found)
    assert 30_000 < sum(len(document.text.encode()) for document in found) < 45_000


@pytest.mark.model
def test_the_embedded_model_reads_the_same_in_every_library() -> None:
    """fp32 in PyTorch and ONNX Runtime are one model; llama.cpp reads the same weights as Q4_1."""
    found = {}
    for name in ("pytorch", "onnxruntime", "llama_cpp"):
        items = elsewhere.call(name, read_by, name, *embedded(*plugins.get("backend", name).formats))
        found[name] = values(items)["perplexity"]
    assert 5 < found["pytorch"] < 40
    assert found["onnxruntime"] == pytest.approx(found["pytorch"], rel=1e-3)
    assert found["llama_cpp"] == pytest.approx(found["pytorch"], rel=0.03)


def read_by(backend: str, fmt: str, path: str) -> list[Item]:
    request = Request(model="smollm2-135m", backend=backend, threads=1)
    session = plugins.get("backend", backend).open(path, specs.read(path, fmt), request, quiet)
    try:
        return measured(under_test(session), context=512, n=1)
    finally:
        session.close()
