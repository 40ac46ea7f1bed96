"""Charts of a load test: what is in them, and that Vega-Lite takes them."""

from __future__ import annotations

import vl_convert

from core.charts.load import Quantile, Rate, goodput_over_load, latency_over_load, request_timeline

POINTS = [
    Quantile(1, "p50", 0.2, 0.19, 0.22, 80),
    Quantile(2, "p50", 0.3, None, 0.4, 9, "unsteady"),
    Quantile(2, "p99", 0.9, None, None, 400),
]
DOTS = [
    {"at_s": 0.1, "took_s": 0.5, "ttft_s": 0.1, "how": "good", "reason": ""},
    {"at_s": 0.2, "took_s": 0.1, "ttft_s": None, "how": "failed", "reason": "It broke off."},
]


def test_intervals_and_what_is_off_are_in_the_rows() -> None:
    chart = latency_over_load(POINTS, "Time to first token", "users", limit_s=0.5)
    rows = chart.spec["datasets"]["rows"]
    assert [r["text"] for r in rows] == ["200 ms [190 ms, 220 ms]", "300 ms, at most 400 ms", "900 ms"]
    assert [r["mark"] for r in rows] == ["sound", "off", "sound"] and rows[2]["low"] == rows[2]["high"] == 0.9
    assert chart.spec["datasets"]["limits"][0]["text"] == "objective 500 ms"
    assert chart.alt == "Time to first token over users: p99 900 ms at 2"


def test_rates_and_requests_say_what_they_show() -> None:
    rates = [Rate(1, "completed", 3.0), Rate(2, "completed", 4.5, "rate"), Rate(2, "good", 1.0)]
    assert goodput_over_load(rates, "users").alt == "Requests per second over users: at most 4.5 completed, at 2"
    chart = request_timeline(DOTS, 0.0, 1.0)
    assert chart.alt == "2 requests of a level over time, 1 of them failed"
    assert chart.spec["datasets"]["rows"][1]["first"] == "not measured"


def test_vega_lite_draws_them() -> None:
    for chart in (
        latency_over_load(POINTS, "Latency", "users", 0.5),
        latency_over_load([], "Latency", "users"),
        goodput_over_load([Rate(1, "completed", 3.0)], "requests per second"),
        goodput_over_load([], "users"),
        request_timeline(DOTS, 0.0, 1.0),
        request_timeline([], None, None),
    ):
        assert vl_convert.vegalite_to_vega(chart.spec, vl_version="6.1")["marks"]
