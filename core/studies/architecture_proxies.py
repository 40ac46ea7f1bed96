"""Whether figures that are cheap rank the finished shapes better than counting their parameters does.

Quality after training, and measured speed in each engine. A proxy that ranks no better than the number of parameters
is shown as such.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Literal

from core import plugins
from core.stats.intervals import Interval
from core.stats.rank import chance, difference, kendall, p_value, partial_kendall, random_regret, regret
from core.studies.architecture_found import Proxy, Shaped

PROXIES = {  # name -> what it is, whether it only counts
    "masked": ("KL when masked", False),
    "estimate": ("Sum of single KLs", False),
    "n_params": ("Parameters", True),
    "body_params": ("Body parameters", True),
    "weight_bytes": ("Bytes of weights", True),
}


def proxies(rows: Sequence[Shaped], engines: Sequence[str]) -> tuple[Proxy, ...]:
    """Of the quality after training, and of the measured speed in each engine."""
    done = [r for r in rows if r.finished]
    if len(done) < 2:
        return ()
    sizes = [math.log(r.n_params) for r in done]
    loss = {
        "masked": [-(r.masked or 0.0) for r in done],
        "estimate": [-(r.estimate or 0.0) for r in done],
        "n_params": [r.n_params for r in done],
        "body_params": [r.body_params for r in done],
        "weight_bytes": [r.weight_bytes for r in done],
    }
    found = _ranked("quality", loss, [r.lost for r in done], sizes, PROXIES, "lower")
    for i, engine in enumerate(engines):
        ready = [r for r in done if r.speeds[i].ratio is not None and r.speeds[i].predicted is not None]
        if len(ready) < 2:
            continue
        told = {
            "predicted": [p.likely for r in ready if (p := r.speeds[i].predicted) is not None],
            "n_params": [-r.n_params for r in ready],
            "weight_bytes": [-r.weight_bytes for r in ready],
        }
        labels = {"predicted": ("Predicted decode speed", False)} | {
            n: PROXIES[n] for n in ("n_params", "weight_bytes")
        }
        truth, logs = [r.speeds[i].gain for r in ready], [math.log(r.n_params) for r in ready]
        found += _ranked(f"speed in {plugins.label('backend', engine)}", told, truth, logs, labels, "higher")
    return tuple(found)


def _ranked(
    of: str,
    scores: Mapping[str, Sequence[float]],
    truth: Sequence[float],
    sizes: Sequence[float],
    labels: Mapping[str, tuple[str, bool]],
    better: Literal["higher", "lower"],
) -> list[Proxy]:
    good = [-t for t in truth] if better == "lower" else list(truth)
    found = []
    for name, values in scores.items():
        label, counts = labels[name]
        tau = _or_none(partial(kendall, values, good))
        over = None if counts else _or_none(partial(difference, values, scores["n_params"], good))
        found.append(
            Proxy(
                of=of,
                name=name,
                label=label,
                counts=counts,
                tau=tau,
                partial=None if counts else _or_none(partial(partial_kendall, values, good, sizes)),
                over=over,
                regret=regret(values, truth, better),
                p=None if tau is None else p_value(values, good),
                verdict=_verdict(tau, over, counts),
            )
        )
    random = Proxy(
        of=of,
        name="random",
        label="Random order",
        counts=True,
        tau=chance(len(truth)),
        partial=None,
        over=None,
        regret=random_regret(truth, better),
        p=None,
        verdict="baseline; the interval holds 95 % of random orders",
    )
    return [*found, random]


def _or_none(make: Callable[[], Interval]) -> Interval | None:
    try:
        return make()
    except ValueError:
        return None


def _verdict(tau: Interval | None, over: Interval | None, counts: bool) -> str:
    if tau is None:
        return "ranks nothing here"
    if counts:
        return "baseline"
    if over is None or over.low is None or over.high is None:
        return f"{tau.n} models are too few to tell"
    if over.low > 0:
        return "better than counting parameters"
    if over.value < 0:
        return "loses to counting parameters" + ("" if over.high < 0 else f", as far as {tau.n} models tell")
    return f"no better than counting parameters is shown by {tau.n} models"
