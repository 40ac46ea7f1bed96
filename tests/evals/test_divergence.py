"""Divergence against hand-computed values, of a model with itself, and of a quantized model with its source."""

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
from core.evals import perplexity
from core.evals.divergence import METRICS, Settings, compare, plugin
from core.models import catalogue
from core.models import spec as specs
from core.stats.scores import scores
from core.types import Item, Request, Session
from core.worker.subject import ModelUnderTest
from hardware.errors import ExplorerError
from tests.support.beside import beside
from tests.support.embedded import embedded
from tests.support.tiny import MAX_CONTEXT, hf_folder
from tests.support.tiny import llama_cpp as tiny_gguf

TEXTS = ("The cat in the hat ate an ant, and then the hat.", "Nothing in here is the same: 3.14 and é.")


def quiet(note: str, done: float | None = None, total: float | None = None, unit: str = "") -> None:
    pass


def opened(backend: str, path: str, fmt: str) -> Session:
    request = Request(model="tiny", backend=backend, threads=1)
    session: Session = plugins.get("backend", backend).open(path, specs.read(path, fmt), request, quiet)
    return session


def under_test(session: Session, reference: Session) -> ModelUnderTest:
    return ModelUnderTest(session, reference, plugins.get("strategy", "autoregressive"), None)


def written(folder: Path, *texts: str) -> str:
    file = folder / "texts.jsonl"
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return str(file)


def measured(subject: Any, **given: Any) -> list[Item]:
    return list(plugin.measure(subject, Settings(**given)))


def values(items: Sequence[Item]) -> dict[str, float]:
    return {score.name: score.value for score in scores(items, METRICS)}


def log(*p: float) -> NDArray[np.float32]:
    return np.log(np.array(p, np.float32))


def test_two_distributions_by_hand() -> None:
    kl, agree, theirs, ours = compare(log(0.5, 0.25, 0.25), log(0.25, 0.5, 0.25), token=1)
    assert kl == pytest.approx(0.5 * math.log(2) - 0.25 * math.log(2), rel=1e-6)
    assert (agree, theirs, ours) == pytest.approx((0, math.log(0.25), math.log(0.5)), rel=1e-6)


def test_the_reference_comes_first() -> None:
    """KL(p || q) and KL(q || p) differ: 0.9 ln 9 + ... by hand."""
    p, q = log(0.9, 0.1), log(0.5, 0.5)
    assert compare(p, q, 0)[0] == pytest.approx(0.9 * math.log(1.8) + 0.1 * math.log(0.2), rel=1e-5)
    assert compare(q, p, 0)[0] == pytest.approx(0.5 * math.log(5 / 9) + 0.5 * math.log(5), rel=1e-5)


def test_none_is_below_zero() -> None:
    """Seen: -1.8e-09, "better" than 0, as float32 does not sum to one."""
    row = log(*([1e-4] * 10_000))
    other = row + np.float32(1e-6)
    assert compare(row, row, 0)[0] == 0 and all(
        0 <= compare(*two, 0)[0] < 1e-11 for two in ((row, other), (other, row))
    )


def test_a_padded_vocabulary_is_compared_over_the_common_ids() -> None:
    padded = np.append(log(0.4, 0.4), log(0.1, 0.1))
    kl, _, theirs, ours = compare(padded, log(0.5, 0.5), token=0)
    assert kl == pytest.approx(0, abs=1e-6) and theirs == pytest.approx(ours, rel=1e-6)


def test_a_masked_token_leaves_the_numbers_finite() -> None:
    with np.errstate(divide="ignore"):
        masked = log(1.0, 0.0)
    assert compare(masked, masked, 0)[0] == 0
    assert math.isfinite(compare(log(0.5, 0.5), masked, 1)[0])


class Given:
    """A subject that predicts the same distributions everywhere, in chunks of its own size."""

    def __init__(self, ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> None:
        self.session, self.reference = Letters("ours"), Letters("theirs")
        self._rows = {id(self.session): (ours, 2), id(self.reference): (theirs, 3)}

    def logprobs(self, session: Any, ids: Sequence[int], first: int) -> Iterator[NDArray[np.float32]]:
        row, step = self._rows[id(session)]
        rows = np.tile(row, (len(ids) - first, 1))
        yield from (rows[i : i + step] for i in range(0, len(rows), step))


class Letters:
    """Ids 0 and 1 for a and b."""

    max_context, shift = 64, 0
    opening: tuple[int, ...] = ()

    def __init__(self, name: str) -> None:
        self.spec = SimpleNamespace(name=name)

    def encode(self, text: str) -> list[int]:
        return [(ord(c) - ord("a") + self.shift) % 2 for c in text]


def test_the_scores_of_a_text_by_hand(tmp_path: Path) -> None:
    """After the first letter: a, b, a, b. The reference is sure of neither, the model prefers a."""
    subject = Given(ours=log(0.75, 0.25), theirs=log(0.5, 0.5))
    (item,) = measured(subject, text=written(tmp_path, "babab"), context=64)
    kl = 0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25)
    assert item.values["tokens"] == 4
    found = values([item])
    assert found.pop("kl_p99") == pytest.approx(kl, rel=0.006), "a bin of its sketch is 1 % wide"
    assert found == pytest.approx(
        {
            "kl": kl,
            "agreement": 1.0,  # a tie goes to the first id
            "ln_ratio": kl,  # as many a as b, as the reference has it
            "rms_dp": 0.25,
        },
        rel=1e-5,
    )


def test_another_tokenizer_is_refused(tmp_path: Path) -> None:
    subject = Given(log(0.5, 0.5), log(0.5, 0.5))
    subject.reference.shift = 1  # type: ignore[misc]
    with pytest.raises(ExplorerError, match="theirs reads '1' as other tokens than ours"):
        measured(subject, text=written(tmp_path, "abab"), context=64)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tiny")


@pytest.fixture(scope="module")
def tiny(folder: Path) -> Iterator[Session]:
    session = opened("pytorch", str(hf_folder(folder)), "hf")
    yield session
    session.close()


@pytest.mark.engine("pytorch")
def test_a_model_does_not_differ_from_itself(tiny: Session, folder: Path, tmp_path: Path) -> None:
    again = opened("pytorch", str(hf_folder(folder)), "hf")
    found = values(measured(under_test(tiny, again), text=written(tmp_path, *TEXTS), context=MAX_CONTEXT))
    again.close()
    assert found["agreement"] == 1
    assert all(abs(found[name]) < 1e-6 for name in ("kl", "kl_p99", "ln_ratio", "rms_dp"))


# ---------------------------------------------------------------- a reference in another library


def nll_of(session: Any, text: str) -> float:
    """The sum that perplexity takes, over the same windows."""
    read = perplexity.plugin.measure(under_test(session, session), perplexity.Settings(text=text, context=32))
    return sum(item.values["nll"] for item in read)


@pytest.mark.engine("llama_cpp")
def test_the_same_weights_in_another_library_differ_by_rounding_only(folder: Path, tmp_path: Path) -> None:
    """llama.cpp keeps keys and values in fp16, so the rest is small but not nothing."""
    session, text = opened("llama_cpp", *tiny_gguf.make(folder)), written(tmp_path, *TEXTS)
    with beside(str(hf_folder(folder)), "pytorch") as reference:
        items = measured(under_test(session, reference), text=text, context=32)
        nll = nll_of(reference, text)
    found = values(items)
    assert 0 < found["kl"] < 1e-4 and found["agreement"] > 0.95
    n = sum(item.values["tokens"] for item in items)
    assert found["ln_ratio"] == pytest.approx((nll_of(session, text) - nll) / n, abs=1e-6)
    session.close()


@pytest.mark.engine("pytorch")
def test_a_changed_model_diverges(tiny: Any, folder: Path, tmp_path: Path) -> None:
    """Noise on the head, by the size of the noise."""
    import torch

    text, found = written(tmp_path, *TEXTS), []
    for size in (0.01, 0.1, 1.0):
        other: Any = opened("pytorch", str(hf_folder(folder)), "hf")
        with torch.no_grad():
            torch.manual_seed(1)
            weight = other._model.lm_head.weight
            weight += size * weight.std() * torch.randn_like(weight)
        found.append(values(measured(under_test(other, tiny), text=text, context=MAX_CONTEXT)))
        other.close()
    kls, agreements = [f["kl"] for f in found], [f["agreement"] for f in found]
    assert 1e-6 < kls[0] < kls[1] < kls[2] and kls[0] < 0.01 < kls[2]
    assert agreements[0] > agreements[2]


@pytest.mark.model
@pytest.mark.engine("llama_cpp")
def test_llama_cpp_is_near_the_weights_it_was_given() -> None:
    """Q4_1 in llama.cpp against the same weights dequantized: what is left is the int8 rounding of activations."""
    kind, path = embedded("gguf")
    session = opened("llama_cpp", path, kind)
    embedded("hf")  # converted once for all tests
    with beside(catalogue.EMBEDDED, "pytorch") as reference:
        found = values(measured(under_test(session, reference), n=2))
    session.close()
    assert 1e-5 < found["kl"] < 0.03
    assert found["agreement"] > 0.9 and abs(found["ln_ratio"]) < 0.05
