"""A second model beside the first: whole runs, and every way in which the two may not fit."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from core import plugins
from core.analysis.decoding import acceptance
from core.runs import companions
from core.runs.check import check, estimate
from core.runs.companions import draft_request, reference_request, same_tokenizer
from core.runs.resolve import resolve
from core.runs.runner import Runner
from core.types import Evaluate, ForwardCost, Generate, Loaded, Pass, Request, Step
from hardware.errors import ExplorerError
from tests.support.tiny import hf_folder

PARAMS: dict[str, Any] = {"draft": "smollm2-135m", "draft_length": 3}


def replaced(request: Request, **changes: Any) -> Request:
    return msgspec.structs.replace(request, **changes)


@pytest.fixture
def drafted(fake_request: Request) -> Request:
    task = Generate(prompt="Hello", max_new_tokens=13)
    return replaced(fake_request, strategy="speculative", params=PARAMS, task=task, profilers=())


def timing_steps(run: Any) -> list[Step]:
    numbers = {e.number for e in run.events() if isinstance(e, Pass) and e.kind == "timing"}
    return [e for e in run.events() if isinstance(e, Step) and e.pass_no in numbers]


def test_a_run_with_a_draft_model(runner: Runner, drafted: Request) -> None:
    plain = runner.wait(runner.start(replaced(drafted, strategy="autoregressive", params={}))).result()
    run = runner.wait(runner.start(drafted))
    result = run.result()
    assert result.status == "done", result.error
    assert result.text == plain.text and plain.tokens_per_forward == 1.0
    assert result.tokens_per_forward == 4.0, "the fake's draft is always right: three and one"
    found = acceptance(timing_steps(run))
    assert found and found.n_draft == 9 and found.fast_forwarded == 9 and found.rate == 1.0
    assert any("draft model's time" in warning for warning in result.warnings)
    text = bytes(token for step in timing_steps(run) for token in step.tokens).decode()
    assert text == result.text, "steps carry the ids of the text"


def test_the_draft_stays_open_and_changes_with_its_name(runner: Runner, drafted: Request) -> None:
    def is_warm(request: Request) -> tuple[bool, bool]:
        events = runner.wait(runner.start(request)).events()
        loaded = next(e for e in events if isinstance(e, Loaded))
        return loaded.warm, loaded.seconds > 0

    assert is_warm(drafted) == (False, True)
    assert is_warm(drafted) == (True, False)
    other = replaced(drafted, params={**PARAMS, "draft": "gpt2"})
    assert is_warm(other) == (True, True), "the new draft is opened"
    assert is_warm(replaced(drafted, strategy="autoregressive", params={})) == (True, False)


def test_memory_counts_both_models(drafted: Request) -> None:
    alone = estimate(resolve(replaced(drafted, strategy="autoregressive", params={})))
    both = estimate(resolve(drafted))
    assert both.weights_bytes == 2 * alone.weights_bytes and both.kv_bytes == 2 * alone.kv_bytes
    assert both.runtime_bytes == alone.runtime_bytes, "one library"


def test_memory_counts_the_library_of_a_reference_apart(fake_request: Request) -> None:
    def overhead(backend: str) -> int:
        task = Evaluate(eval="divergence", settings={"reference_backend": backend})
        return estimate(resolve(replaced(fake_request, task=task))).runtime_bytes

    library = plugins.get("backend", "llama_cpp").runtime_bytes
    assert library <= overhead("llama_cpp") - overhead("") < library + 30_000_000, "with its vocabulary"


def test_the_draft_is_opened_like_the_model(drafted: Request) -> None:
    wanted = draft_request(replaced(drafted, options={"n_ctx": 64}, threads=2))
    assert wanted and wanted.model == "smollm2-135m" and wanted.options == {"n_ctx": 64} and wanted.threads == 2
    assert draft_request(replaced(drafted, strategy="jacobi", params={})) is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"params": {}}, "no draft model"),
        ({"params": {"draft": "nobody/nothing"}}, "nobody/nothing"),
        ({"params": {**PARAMS, "draft_length": 0}}, "draft_length"),
        ({"batch": 2}, "one sequence"),
        ({"strategy": "jacobi", "params": {"form": "round"}}, "form"),
        ({"strategy": "jacobi", "params": {"window": 0}}, "window"),
        ({"strategy": "lookahead", "params": {"ngram": 1}}, "ngram"),
    ],
)
def test_refused_before_anything_is_loaded(drafted: Request, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ExplorerError, match=message) as refused:
        check(replaced(drafted, **changes))
    assert refused.value.hint


def model(name: str, shift: int = 0, vocab_size: int = 300) -> Any:
    return SimpleNamespace(
        spec=SimpleNamespace(name=name, vocab_size=vocab_size),
        encode=lambda text: [b + shift for b in text.encode()],
        decode=lambda ids: bytes((i - shift) % 256 for i in ids).decode("latin-1"),
    )


def test_another_tokenizer_is_refused_and_another_padding_is_not() -> None:
    same_tokenizer(model("big"), model("small", vocab_size=280), "text")
    with pytest.raises(ExplorerError, match="small has another tokenizer than big"):
        same_tokenizer(model("big"), model("small", shift=1), "text")
    swapped = model("small")
    swapped.decode = lambda ids: model("x").decode([{65: 66, 66: 65}.get(i, i) for i in ids])
    with pytest.raises(ExplorerError, match="tokenizer"):
        same_tokenizer(model("big"), swapped, "text")


def test_a_real_draft_with_another_tokenizer_ends_with_a_sentence(runner: Runner, tmp_path: Path) -> None:
    target = hf_folder(tmp_path)
    draft = tmp_path / "bytes-only" / "config.json"  # a bare configuration: each byte is a token
    draft.parent.mkdir()
    draft.write_text((target / "config.json").read_text())
    request = Request(
        model=str(target),
        backend="pytorch",
        task=Generate(prompt="Hello", max_new_tokens=4, chat=False),
        strategy="speculative",
        params={"draft": str(draft)},
        threads=1,
        profilers=(),
    )
    run = runner.wait(runner.start(request))
    assert run.status() == "failed"
    failed = run.failure()
    assert failed and "another tokenizer" in failed.message and failed.hint and failed.user_error
    assert not [e for e in run.events() if isinstance(e, Step)]


def test_a_window_larger_than_the_context_could_not_run_at_all(
    runner: Runner, fake_request: Request, tmp_path: Path
) -> None:
    folder = hf_folder(tmp_path)
    assert json.loads((folder / "config.json").read_text())["max_position_embeddings"] < 200
    request = replaced(fake_request, model=str(folder), strategy="jacobi", params={"window": 200})
    run = runner.wait(runner.start(request))
    failed = run.failure()
    assert failed and "larger than the context" in failed.message and failed.user_error


def test_the_cost_of_a_forward_is_measured_after_the_prompt(runner: Runner, fake_request: Request) -> None:
    request = replaced(fake_request, profilers=("forward_cost",), options={"delay_s": 0.002})
    run = runner.wait(runner.start(request))
    cost = run.result().forward_cost
    assert cost is not None and cost.n_past == 6 and cost.repeats >= 5
    assert [t.n for t in cost.times] == [1, 2, 4, 8, 16, 32, 64]
    assert all(t.low_s <= t.seconds <= t.high_s and t.seconds >= 0.002 for t in cost.times)
    assert cost.pass_no not in {e.pass_no for e in timing_steps(run)}


def test_the_cost_of_a_forward_says_why_it_is_missing(runner: Runner, fake_request: Request) -> None:
    for changes in ({"strategy": "encode"}, {"batch": 2}):
        run = runner.wait(runner.start(replaced(fake_request, profilers=("forward_cost",), **changes)))
        result = run.result()
        assert result.status == "done" and not [e for e in run.events() if isinstance(e, ForwardCost)]
        assert result.forward_cost is None and any("ost of a forward" in w for w in result.warnings)


@pytest.mark.parametrize(
    ("origin", "dtype", "of_the_reference"),
    [("child", "bf16", None), ("child", "q8_0", None), ("parent", "bf16", "bf16"), ("parent", "q8_0", None)],
)
def test_a_number_format_is_compared_with_the_stored_weights(
    monkeypatch: pytest.MonkeyPatch, origin: str, dtype: str, of_the_reference: str | None
) -> None:
    """A model is never compared with itself in the same format; an origin shares the format unless it loses much."""
    monkeypatch.setattr(companions, "origin", lambda model: origin)
    asked = Request(model="child", backend="pytorch", dtype=dtype, task=Evaluate(eval="divergence"))
    found = reference_request(asked)
    assert found is not None and (found.model, found.dtype) == (origin, of_the_reference)
