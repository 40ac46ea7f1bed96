"""SQuAD as lm-evaluation-harness asks it, over files of one's own, judged without a network.

The harness's task takes its data and its judge from the hub. Here the prompt is the harness's, and exact match and F1
are those of SQuAD's own script for every question, so that they are means over documents. Its thresholds on the
probability of "unanswerable", which need all questions at once, are left out.
"""

from __future__ import annotations

from typing import Any

from core.evals._overlap import exact, f1, normalise

KINDS = ("HasAns_exact", "HasAns_f1", "NoAns_exact", "NoAns_f1")
NOT_ASKED = float("nan")


def scores(answer: str, gold: list[str]) -> dict[str, float]:
    """Of one answer from 0 to 1: over all questions, those with an answer and those without one, which want silence."""
    right = [text for text in gold if normalise(text)] or [""]
    found = {"exact": exact(answer, right), "f1": f1(answer, right)}
    for kind, counts in (("HasAns", bool(gold)), ("NoAns", not gold)):
        found |= {f"{kind}_{name}": found[name] if counts else NOT_ASKED for name in ("exact", "f1")}
    return found


def task(name: str, documents: Any) -> Any:
    """The harness's task over a DatasetDict with the splits validation and, for solved examples, train."""
    from lm_eval.api.metrics import mean, nanmean
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.tasks.squadv2.task import SQuAD2

    class Local(SQuAD2):  # type: ignore[misc]
        def __init__(self) -> None:
            ConfigurableTask.__init__(self, config={"task": name, "metadata": {}})

        def download(self, *_: Any, **__: Any) -> None:
            self.dataset = documents

        def construct_requests(self, doc: Any, ctx: Any, **given: Any) -> Any:
            return super().construct_requests(doc, ctx, **given)[:1]

        def process_results(self, doc: Any, results: Any) -> dict[str, float]:
            return scores(results[0], doc["answers"]["text"])

        def aggregation(self) -> dict[str, Any]:
            both = {"exact": mean, "f1": mean}
            return both if name == "squad" else both | dict.fromkeys(KINDS, nanmean)  # 1.1 has an answer to all

        def higher_is_better(self) -> dict[str, bool]:
            return dict.fromkeys(self.aggregation(), True)

    return Local()
