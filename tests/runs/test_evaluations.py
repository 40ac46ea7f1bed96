"""Two evaluations side by side: what may be compared, what is left out with its reason, and the stated margin."""

from __future__ import annotations

from typing import Any

import msgspec

from core.runs.evaluations import NOT_VERIFIED, compare_evaluations
from core.runs.recording import Recording
from core.runs.summarize import summarize
from core.types import Asked, Evaluate, Item, Metric, Request, Result, from_json, to_json

RIGHT = Metric(name="em", label="Exact match", value="em", kind="rate")
PPL = Metric(name="perplexity", label="Perplexity", value="nll", over="tokens", kind="exp", better="lower")


def asked(
    eval: str = "qa",
    settings: dict[str, Any] | None = None,
    right: int = 20,
    n: int = 20,
    marked: str = "q",
    margin: float | None = None,
    metrics: tuple[Metric, ...] = (RIGHT,),
    tokens: float = 7.0,
) -> tuple[Request, Result]:
    """A run of n items, the first `right` of them right. marked: the beginning of the fingerprints; empty for none."""
    given = settings or {}
    request = Request(model="m", backend="fake", task=Evaluate(eval=eval, settings=given, margin=margin))
    items = tuple(
        Item(
            t_s=2.0,
            id=f"i{k}",
            cluster=f"c{k}",
            values={"em": float(k < right), "nll": 10.0 + k, "tokens": tokens},
            fingerprint=f"{marked}{k}" if marked else "",
        )
        for k in range(n)
    )
    result = summarize("r", Recording(request, []), "done")
    made = Asked(t_s=1.0, n_items=n, metrics=metrics, settings=given)
    return request, msgspec.structs.replace(result, asked=made, items=items)


def test_equal_settings_and_questions_are_compared_within_the_stated_margin() -> None:
    found = compare_evaluations(*asked(), *asked(margin=0.2))
    (line,) = found.lines
    assert (line.comparison.n, line.verdict, found.margin, found.left_out) == (20, "non-inferior", 0.2, ())
    unstated = compare_evaluations(*asked(margin=0.2), *asked())  # the baseline's own margin is of another comparison
    assert (unstated.lines[0].verdict, unstated.margin) == ("no difference shown", None)
    worse = compare_evaluations(*asked(), *asked(right=5, margin=0.2))
    assert worse.lines[0].verdict == "worse"


def test_other_settings_are_not_compared() -> None:
    found = compare_evaluations(*asked(settings={"shots": 3}), *asked(settings={"shots": 0}))
    assert not found.lines and found.reason == "The two runs were asked in different ways: shots 3 and 0."
    default = compare_evaluations(*asked(settings={"shots": 3}), *asked())  # three are shown where nothing is said
    assert default.lines and not default.reason
    fewer = compare_evaluations(*asked(settings={"n": 20}), *asked(settings={"n": 10}, n=10, right=10))
    assert fewer.lines[0].comparison.n == 10  # which items are asked does not change what they mean
    assert fewer.left_out == ("10 items were left out: they are in one of the runs only.",)
    windows = compare_evaluations(
        *asked("perplexity", {"context": 512, "stride": 64}), *asked("perplexity", {"context": 256, "stride": 64})
    )
    assert "context 512 and 256" in windows.reason
    assert compare_evaluations(*asked("qa"), *asked("choice")).reason


def test_other_questions_under_the_same_ids_are_left_out() -> None:
    other = asked(marked="another file ")
    found = compare_evaluations(*asked(), *other)
    assert not found.lines and "no question in common" in found.reason
    request, result = asked()
    items = tuple(msgspec.structs.replace(i, fingerprint="new") if i.id == "i3" else i for i in result.items)
    one = compare_evaluations(*asked(), request, msgspec.structs.replace(result, items=items))
    assert one.lines[0].comparison.n == 19
    assert one.left_out == ("1 item was left out: it is not the same question in both runs.",)


def test_old_runs_are_paired_by_id_and_say_so() -> None:
    found = compare_evaluations(*asked(marked=""), *asked())
    assert found.lines[0].comparison.n == 20 and found.left_out == (NOT_VERIFIED,)
    unequal = compare_evaluations(*asked(marked="", settings={"shots": 1}), *asked())
    assert unequal.reason and not unequal.lines


def test_figures_per_token_need_one_tokenizer() -> None:
    found = compare_evaluations(*asked(metrics=(RIGHT, PPL)), *asked(metrics=(RIGHT, PPL), tokens=9.0))
    assert [line.comparison.metric for line in found.lines] == [RIGHT]
    assert "Perplexity is per token" in found.left_out[0]
    same = compare_evaluations(*asked(metrics=(RIGHT, PPL)), *asked(metrics=(RIGHT, PPL)))
    assert [line.comparison.metric for line in same.lines] == [RIGHT, PPL]
    renamed = msgspec.structs.replace(PPL, kind="mean")
    other = compare_evaluations(*asked(metrics=(RIGHT, PPL)), *asked(metrics=(RIGHT, renamed)))
    assert other.left_out == ("Perplexity is defined otherwise in the two runs.",)


def test_the_margin_is_part_of_the_request_and_old_ones_have_none() -> None:
    request, _ = asked(margin=0.01)
    assert from_json(to_json(request), Request) == request
    assert asked()[0].key() != request.key()
    old = from_json(b'{"model":"m","backend":"fake","task":{"type":"evaluate","eval":"qa"}}', Request)
    assert isinstance(old.task, Evaluate) and old.task.margin is None
