"""What the platform says of an endpoint's replicas: Cloud Monitoring's samples for a window of time.

One sample a minute per replica, seen up to six minutes later: memory, load and latencies of whatever the replicas did
then, not of one request. So these samples stand under their own name and never beside or inside a request's numbers.
Knows Vertex AI's metrics and Monitoring's form of a series.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from statistics import median
from typing import Any, Literal

from core.endpoints import google
from core.types import Record
from hardware.errors import ExplorerError

PREFIX = "aiplatform.googleapis.com/prediction/online/"
SAMPLE_S = 60.0
DELAY_S = 360.0  # until the samples of a moment can be seen
STEADY_S = 180.0  # a window shorter than this has hardly a sample of its own
MOST_POINTS = 20_000
Unit = Literal["bytes", "share", "ms", "count", "bytes/s"]


class Metric(Record):
    """One of the platform's metrics. aligner: how Monitoring makes a sample a minute of it; of: for its name."""

    name: str
    label: str
    unit: Unit
    aligner: str = "ALIGN_MEAN"


METRICS = (
    Metric(name="accelerator/memory/bytes_used", label="Accelerator memory", unit="bytes"),
    Metric(name="memory/bytes_used", label="Memory", unit="bytes"),
    Metric(name="accelerator/duty_cycle", label="Accelerator duty cycle", unit="share"),
    Metric(name="cpu/utilization", label="CPU utilization", unit="share"),
    Metric(name="prediction_latencies", label="Latency, median", unit="ms", aligner="ALIGN_PERCENTILE_50"),
    Metric(name="prediction_latencies", label="Latency, p95", unit="ms", aligner="ALIGN_PERCENTILE_95"),
    Metric(name="prediction_count", label="Predictions", unit="count", aligner="ALIGN_DELTA"),
    Metric(name="error_count", label="Errors", unit="count", aligner="ALIGN_DELTA"),
    Metric(name="network/received_bytes_count", label="Received", unit="bytes/s", aligner="ALIGN_RATE"),
    Metric(name="network/sent_bytes_count", label="Sent", unit="bytes/s", aligner="ALIGN_RATE"),
    Metric(name="replicas", label="Replicas", unit="count"),
)


class Series(Record):
    """One metric of one replica ("" for the whole endpoint). points: (seconds since 1970 at a sample's end, value)."""

    metric: str
    label: str
    unit: Unit
    replica: str = ""
    model: str = ""
    kind: str = ""
    points: tuple[tuple[float, float], ...] = ()


class Platform(Record):
    """The samples of a window. fetched_s: when they were asked for. missing: labels of what had no sample."""

    endpoint: str
    start_s: float
    end_s: float
    fetched_s: float
    series: tuple[Series, ...] = ()
    missing: tuple[str, ...] = ()

    @property
    def replicas(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(s.replica for s in self.series if s.replica))

    @property
    def brief(self) -> bool:
        """Whether the window is too short to have more than a sample or two of its own."""
        return self.end_s - self.start_s < STEADY_S


class Row(Record, omit_defaults=False):
    """A series in one line."""

    what: str
    replica: str
    unit: Unit
    n: int
    low: float
    middle: float
    high: float


def ready_s(end_s: float) -> float:
    """From when on the samples of a window that ends then are all there, in seconds since 1970."""
    return end_s + DELAY_S


def platform(project: str, endpoint: str, start_s: float, end_s: float) -> Platform:
    """The samples of an endpoint in a window. Raises ExplorerError, also while they are not there yet."""
    now = time.time()
    if now < ready_s(end_s):
        when = time.strftime("%H:%M", time.localtime(ready_s(end_s) + 59))
        raise ExplorerError(
            "The platform's samples are not there yet: they can be seen up to six minutes behind the load.",
            f"Fetch them at {when} or later.",
        )
    found = tuple(series for metric in METRICS for series in _series(metric, project, endpoint, start_s, end_s))
    have = {series.label for series in found}
    return Platform(
        endpoint=endpoint,
        start_s=start_s,
        end_s=end_s,
        fetched_s=now,
        series=found,
        missing=tuple(dict.fromkeys(m.label for m in METRICS if m.label not in have)),
    )


def _series(metric: Metric, project: str, endpoint: str, start_s: float, end_s: float) -> Iterator[Series]:
    query = {
        "filter": f'metric.type="{PREFIX}{metric.name}" AND resource.type="aiplatform.googleapis.com/Endpoint" '
        f'AND resource.labels.endpoint_id="{endpoint}"',
        "interval.startTime": _stamp(start_s),
        "interval.endTime": _stamp(end_s + SAMPLE_S),
        "aggregation.alignmentPeriod": f"{SAMPLE_S:.0f}s",
        "aggregation.perSeriesAligner": metric.aligner,
    }
    path = f"/v3/projects/{project}/timeSeries"
    for row in google.pages(google.monitoring_api(), path, "timeSeries", query, "monitoring.timeSeries.list"):
        labels = row.get("metric")
        labels = labels.get("labels") if isinstance(labels, dict) else None
        labels = labels if isinstance(labels, dict) else {}
        points = tuple(sorted(_points(row)))[-MOST_POINTS:]
        if points:
            yield Series(
                metric=metric.name,
                label=metric.label,
                unit=metric.unit,
                replica=str(labels.get("replica_id", ""))[:100],
                model=str(labels.get("deployed_model_id", ""))[:100],
                kind=str(labels.get("latency_type", labels.get("response_code", "")))[:40],
                points=points,
            )


def _points(row: Mapping[str, Any]) -> Iterator[tuple[float, float]]:
    """Newest first, as they come. An int64Value is a string; a distribution stands for its mean."""
    for point in row.get("points") or ():
        try:
            when = datetime.fromisoformat(point["interval"]["endTime"]).timestamp()
            held = point["value"]
        except (KeyError, TypeError, ValueError):
            continue
        if not isinstance(held, dict):
            continue
        found = held.get("distributionValue", held)
        name = next((n for n in ("doubleValue", "int64Value", "mean") if isinstance(found, dict) and n in found), None)
        value = None if name is None else google.number(found[name])
        if value is not None:
            yield when, value


def rows(found: Platform) -> tuple[Row, ...]:
    """Every series in one line: its number of samples, and the least, the middle and the largest of them."""
    return tuple(
        Row(
            what=f"{series.label} ({series.kind})" if series.kind else series.label,
            replica=series.replica,
            unit=series.unit,
            n=len(series.points),
            low=min(value for _, value in series.points),
            middle=median(value for _, value in series.points),
            high=max(value for _, value in series.points),
        )
        for series in found.series
    )


def _stamp(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
