"""What every eval must do, whatever it measures: items that pair up between models, and values its metrics find.

All evals are found by the registry. The subject is the real one over the fake backend, whose text means nothing.
"""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from core import plugins
from core.backends.fake import FakeSession
from core.plugins import settings
from core.types import Eval, Item, Record, Request, generates
from core.worker.subject import ModelUnderTest
from hardware.errors import ExplorerError

EVALS = plugins.names("eval")
TASK = """
task: mine
dataset_path: json
dataset_kwargs: {data_files: {test: docs.jsonl}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{prompt}}"
doc_to_target: "{{answer}}"
doc_to_choice: "{{choices}}"
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
"""


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What an eval cannot do without, by its name."""
    folder = tmp_path_factory.mktemp("evals")
    lines = [{"prompt": f"Say {i}", "answer": 0, "choices": [str(i), "no"]} for i in range(5)]
    (folder / "docs.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (folder / "mine.yaml").write_text(TASK)
    (folder / "own.jsonl").write_text("\n".join(json.dumps({**line, "answer": "no"}) for line in lines))
    return {
        "own": {"path": str(folder / "own.jsonl")},
        "harness": {"tasks": "mine", "include_path": str(folder), "limit": 3},
    }


@pytest.fixture(params=EVALS)
def plugin(request: pytest.FixtureRequest) -> Eval:
    found: Eval = plugins.get("eval", request.param)
    return found


@pytest.fixture
def params(plugin: Eval, given: dict[str, dict[str, Any]]) -> Record:
    """Its defaults, but few items."""
    few = {"n": 3} if "n" in plugin.Params.__struct_fields__ else {}
    return settings(plugin.Params, {**few, **given.get(plugin.name, {})}, plugin.label)


def subject() -> ModelUnderTest:
    spec: Any = SimpleNamespace(name="fake", max_context=16384, vocab_size=300, layers=(), dtype="fp32", n_blocks=1)
    sessions: list[Any] = [FakeSession(spec, Request(model="fake", backend="fake")) for _ in range(2)]
    strategy = plugins.get("strategy", "autoregressive")
    return ModelUnderTest(sessions[0], sessions[1], strategy, strategy.Params())


def measured(plugin: Eval, params: Record) -> list[Item]:
    return list(plugin.measure(subject(), params))


def timeless(item: Item) -> Item:
    return msgspec.structs.replace(item, ttft_s=None, seconds=None)


def test_an_eval_says_what_it_is(plugin: Eval) -> None:
    assert plugin.name in EVALS
    assert plugin.label and plugins.about("eval", plugin.name).endswith(".")
    assert plugin.Params()
    assert plugin.needs <= generates(FakeSession.capabilities)


def test_items_pair_up_and_hold_what_the_metrics_read(plugin: Eval, params: Record) -> None:
    items = measured(plugin, params)
    scored = [item for item in items if not item.id.endswith("/all")]
    assert len({item.id for item in items}) == len(items) > 0
    assert plugin.size(params) in (None, len(scored))
    assert all(item.cluster and item.t_s == 0 for item in items)
    metrics = plugin.metrics(params)
    assert len({metric.name for metric in metrics}) == len(metrics) > 0
    for metric in metrics:
        holders = [item for item in items if metric.value in item.values]
        assert holders, metric.name
        assert metric.over is None or all(item.values.get(metric.over, 0) > 0 for item in holders)
        if metric.kind == "rate":
            assert {item.values[metric.value] for item in holders} <= {0.0, 1.0}


def test_what_was_generated_is_timed_and_kept(plugin: Eval, params: Record) -> None:
    for item in measured(plugin, params):
        assert (item.seconds is None) == (item.ttft_s is None) == (item.counts is None)
        if item.counts is not None:
            assert item.prompt
            assert item.output
            assert item.counts.forwards == item.counts.inputs == item.counts.tokens  # one at a time, after the first


def test_equal_models_give_equal_items(plugin: Eval, params: Record) -> None:
    first, second = measured(plugin, params), measured(plugin, params)
    assert list(map(timeless, first)) == list(map(timeless, second))


def test_every_item_says_what_was_asked(plugin: Eval, params: Record) -> None:
    """Its fingerprint is its own, and another number of shown examples is another question."""
    items = [item for item in measured(plugin, params) if not item.id.endswith("/all")]
    assert len({item.fingerprint for item in items}) == len(items) and all(item.fingerprint for item in items)
    assert plugin.selects <= set(plugin.Params.__struct_fields__)
    shots = getattr(params, "shots", None)
    if shots is not None:
        other: Any = msgspec.structs.replace(params, shots=shots - 3 if shots >= 3 else shots + 1)
        assert not {i.fingerprint for i in measured(plugin, other)} & {i.fingerprint for i in items}


def test_fewer_items_are_the_first_of_more(plugin: Eval, params: Record) -> None:
    if "n" not in plugin.Params.__struct_fields__:
        assert plugin.size(params) is None, "what has a size can be asked for fewer"
        return
    fewer: Any = msgspec.structs.replace(params, n=2)
    assert [item.id for item in measured(plugin, fewer)] == [item.id for item in measured(plugin, params)][:2]


@pytest.mark.parametrize("wrong", [{"colour": 1}, {"n": -1, "limit": -1}, {"n": "many", "limit": "many"}])
def test_malformed_settings_are_named(plugin: Eval, wrong: dict[str, Any]) -> None:
    kept = {k: v for k, v in wrong.items() if k in plugin.Params.__struct_fields__} or wrong
    with pytest.raises(ExplorerError, match=plugin.label):
        settings(plugin.Params, kept, plugin.label)
