"""Many tokens per forward pass: what one of n tokens costs here, what guessing would bring, and what it brought."""

from __future__ import annotations

from collections.abc import Sequence as Rows

import msgspec
import streamlit as st

from core.analysis.decoding import (
    Beside,
    beside,
    fastest_autoregressive,
    over_run,
    prediction_error,
    prospects,
    relative,
    relative_cost,
    roof_left_unused,
)
from core.analysis.under_roof import ideal_seconds
from core.analysis.work import work
from core.charts.decoding import CostCurve, accepted_bars, forward_cost, speedup_curve
from core.charts.labels import distinct
from core.runs.store import Run
from core.types import Request, Result
from hardware.detect import machine_id
from pages.ui import marks, text
from pages.ui.ceilings import kept_of, own_name, reference_of, this_machine
from pages.ui.figure import figure
from pages.ui.guess_view import timed_steps
from pages.ui.live import live
from pages.ui.page import guard, nothing_yet, page
from pages.ui.panes import panes
from pages.ui.pickers import backend_label, elsewhere, strategy_label
from pages.ui.rival_form import rival_form
from pages.ui.run_view import draw_header, draw_stage
from pages.ui.sequence import Sequence
from pages.ui.state import open_run, readable, result_of, runner, shared, store
from pages.ui.studies import draw_busy
from pages.ui.tile import tile

_SEARCHED, _SHOWN_CURVES = 200, 5
_PAIRS = 5


# ---------------------------------------------------------------- v(n)


def measured_costs() -> list[tuple[Run, Result]]:
    """The newest run with a measured v(n) for each configuration, of those that were not disturbed if there are any."""
    found: dict[tuple[str, ...], tuple[Run, Result]] = {}
    for run_id in store().ids()[:_SEARCHED]:
        if len(found) == _SHOWN_CURVES and not any(result.disturbed for _, result in found.values()):
            break
        if not readable(run_id) or "forward_cost" not in open_run(run_id).request.profilers:
            continue
        run = open_run(run_id)
        result = result_of(run)
        if result.forward_cost is None:
            continue
        known = found.get(configuration(result))
        if len(found) < _SHOWN_CURVES if known is None else known[1].disturbed and not result.disturbed:
            found[configuration(result)] = (run, result)
    return list(found.values())


def configuration(result: Result) -> tuple[str, ...]:
    """What decides the cost of a forward, but for the context; the machine last, if it is another one."""
    step = "fused" if result.setup and result.setup.fused else ""
    threads = f"{result.threads} threads"
    return result.model, backend_label(result.backend), result.dtype or "", step, threads, elsewhere(result)


def context(result: Result) -> str:
    past = result.forward_cost.n_past if result.forward_cost else 0
    return f"after {past} tokens" if past else ""


def roof_curve(run: Run, result: Result) -> tuple[tuple[int, float], ...]:
    """The same sizes as the roof of the machine that ran it allows; empty while it is not measured."""
    found, cost = kept_of(result), result.forward_cost
    device = this_machine(found, own_name(result))
    spec, setup = run.recording().spec, result.setup
    if found is None or device is None or cost is None or spec is None or setup is None:
        return ()
    reference = reference_of(device, result, found)
    activation, kv = setup.activation_dtype, setup.kv_dtype
    seconds = {
        t.n: ideal_seconds(work(spec, t.n, cost.n_past, activation_dtype=activation, kv_dtype=kv), reference.ceiling)
        for t in cost.times
    }
    return tuple((n, v) for n in seconds if (v := relative(seconds, n)) is not None)


def draw_costs(found: Rows[tuple[Run, Result]]) -> None:
    """The curves, and the prospect at an acceptance rate."""
    st.header("What a forward pass of n tokens costs", anchor=False)
    names, shared = distinct([(*configuration(result), context(result)) for _, result in found])
    curves = [
        CostCurve(name, result.forward_cost, roof_curve(run, result))
        for name, (run, result) in zip(names, found, strict=True)
        if result.forward_cost is not None
    ]
    figure(forward_cost(curves), key="forward-cost")
    st.caption(
        (f"All of them: {text.escape(shared)}. " if shared else "")
        + f"Lines: {text.provenance('measured')} median and quartiles. Dashed: {text.provenance('computed')} from the "
        "machine's roof. Dotted: n forward passes of one token; above it guessing can never pay. A memory-bound pass "
        "reads the weights once, however many tokens it carries, so an ideal curve stays flat until the ridge point."
    )
    chosen = st.selectbox("Of this configuration", range(len(curves)), format_func=lambda i: curves[i].name, key="of")
    left, right = st.columns([1, 1.6], gap="large")
    with left:
        alpha = st.slider(
            "Acceptance rate",
            0.0,
            0.99,
            0.7,
            0.01,
            key="alpha",
            bind="query-params",
            help="The probability that a guess is accepted, each independently of the others (Leviathan).",
        )
        draft = st.slider(
            "Cost of one guess",
            0.0,
            1.0,
            0.0,
            0.01,
            key="draft-cost",
            bind="query-params",
            help="In passes of one token: 0 for Jacobi, lookahead and prompt lookup; a draft model has its own.",
        )
        rows = prospects(curves[chosen].cost, alpha, draft)
    with right:
        figure(speedup_curve(rows, alpha), key="prospect")
    if rows:
        best = max(rows, key=lambda p: p.speedup)
        machine = elsewhere(found[chosen][1])
        where = f"on {text.escape(machine)}, which made this run" if machine else "here"
        result = found[chosen][1]
        st.markdown(_advice(best.n, best.speedup, curves[chosen], where))
        if result.disturbed:
            st.markdown(
                f"{marks.badge(result)} Something else had the machine in this run, so its curve tells little. "
                "Measure again.",
                help=marks.explained(result),
            )


def _advice(n: int, speedup: float, curve: CostCurve, where: str) -> str:
    """where: which machine it holds for."""
    v16, roof = relative_cost(curve.cost, 16), roof_left_unused(curve.cost, dict(curve.roof), 16)
    more = f" A window of 16 must give {v16:.1f} tokens per forward pass to break even." if v16 is not None else ""
    if roof is not None:
        more += (
            f" The machine's roof would allow {roof:.1f} {text.provenance('computed')}: what costs is this engine's "
            "way with a few tokens at once in this precision. Another precision or engine may do better."
        )
    if n == 1 or speedup < 1.02:
        return f"Guessing does not pay {where}: one token per forward pass is the fastest.{more}"
    fast = f"**{speedup:.2f} times** as fast {text.provenance('computed')}"
    return f"Forward passes of **{n}** tokens would be {fast} {where}.{more}"


# ---------------------------------------------------------------- pairs


def draw_pairs(pairs: Sequence, rival: Request) -> None:
    """Measured speed-up with its interval, the predicted one beside it, and how many guesses were accepted."""
    whole = _whole(pairs)
    results = [(result_of(a), result_of(b)) for a, b in whole]
    tpot_s = [(a.tpot_s, b.tpot_s) for a, b in results if a.tpot_s and b.tpot_s]
    if not tpot_s:
        st.caption("No pair has ended yet.")
        return
    cost = next((a.forward_cost for a, _ in results if a.forward_cost), None)
    found = beside(tpot_s, timed_steps(whole[0][0]), timed_steps(whole[0][1]), cost)
    st.header(f"{text.escape(strategy_label(rival.strategy))} and autoregressive decoding", anchor=False)
    draw_beside(found)
    if found.guesses:
        figure(accepted_bars(found.guesses.histogram), key="accepted")
    disturbed = [r for pair in results for r in pair if r.disturbed]
    if disturbed:
        st.markdown(
            f"{marks.badge(disturbed[0])} {len(disturbed)} of {text.counted(2 * len(results), 'run')} were disturbed "
            "while they were timed, so their ratio tells little.",
            help=marks.explained(disturbed[0]),
        )
    draw_fastest(rival, [b.tok_per_s for _, b in results if b.tok_per_s])
    match = (
        "the two texts are the same"
        if found.differs is None
        else f"the two texts differ from token {found.differs + 1} on"
    )
    st.caption(f"Output match: {match}. {text.counted(found.speedup.n, 'pair')}. {text.provenance('measured')}")


def _whole(pairs: Sequence) -> list[tuple[Run, Run]]:
    """The pairs that have ended, the autoregressive run first: every other one began with the rival."""
    runs = [pairs.run(place) for place in range(pairs.total)]
    return [
        (a, b) if place % 4 == 0 else (b, a)
        for place in range(0, len(runs) - 1, 2)
        for a, b in [(runs[place], runs[place + 1])]
        if a is not None and b is not None
    ]


def draw_beside(found: Beside) -> None:
    """Four figures: measured and predicted speed-up, tokens per forward pass, acceptance rate."""
    ratio, guesses = found.speedup, found.guesses
    interval = f"{ratio.low:.2f} to {ratio.high:.2f}" if ratio.low is not None and ratio.high is not None else None
    how = "Tokens per forward pass over v(n): what one of n tokens through all blocks costs in passes of one."
    if found.predicted is None and guesses and guesses.n_draft:
        how = "What the draft model itself costs is not in v(n), the cost of a forward pass of n tokens."
    with st.grid(4, min_column_width=200, row_height=148):
        for label, value, under, words in (
            (
                "Speed-up over autoregressive",
                text.ratio(ratio.value),
                interval or text.counted(ratio.n, "pair"),
                "In interleaved pairs.",
            ),
            (
                "Predicted speed-up",
                text.ratio(found.predicted),
                _error(prediction_error(found.predicted, ratio.value)),
                how,
            ),
            ("Tokens per forward", f"{guesses.tokens_per_forward:.2f}" if guesses else text.NONE, None, None),
            (
                "Acceptance rate",
                text.percent(guesses.rate) if guesses else text.NONE,
                f"{guesses.stationary} right before their turn" if guesses else None,
                "Accepted guesses among those that were decided: one behind a wrong guess was not.",
            ),
        ):
            tile(label, value, words, under=under)


def _error(share: float | None) -> str | None:
    """In words, of a prediction that is off by this share."""
    if share is None:
        return None
    return f"{'over' if share > 0 else 'under'}predicted by {100 * abs(share):.0f} %"


def draw_fastest(rival: Request, speeds: Rows[float]) -> None:
    """The rival beside the fastest run of this model decoding autoregressively, in any engine and precision."""
    best = fastest_autoregressive(store().history(), rival.model, machine_id())
    if best is None or not speeds:
        return
    how = " · ".join(str(p) for p in (backend_label(best["backend"]), best["dtype"]) if p)
    st.markdown(
        f"**{over_run(speeds, best):.2f} times** the fastest autoregressive run of this model on this machine: "
        f"{best['tok_per_s']:.1f} tok/s in {text.escape(how)} {text.provenance('computed')}"
    )
    st.caption("Of all runs in the history; the two were not measured side by side, so load of the machine may differ.")


def draw_going(run: Run, result: Result) -> None:
    draw_header(run, result)
    draw_stage(run, result)


with page("Decoding", "Many tokens per forward pass: what it costs on this machine decides whether guessing pays."):
    left, view = panes()
    pairs = shared("pairs", Sequence)
    asked = shared("pairs-asked", list[Request])
    with left, guard():
        requests = rival_form()
        free = requests is not None and runner().active() is None
        n_pairs = st.number_input("Pairs", 1, 100, _PAIRS, key="pairs", bind="query-params")
        if st.button(
            "Measure", type="primary", icon=":material/speed:", key="start", width="stretch", disabled=not free
        ):
            assert requests is not None
            asked[:] = requests
            pairs.runs, pairs.total = [], 2 * int(n_pairs)
        if pairs.going:
            st.button("Stop", icon=":material/stop_circle:", key="stop-pairs", on_click=pairs.stop, width="stretch")
        else:
            draw_busy()
    with view, guard():
        found = measured_costs()
        if not found and not pairs.runs:
            nothing_yet(
                "Nothing measured yet",
                "Press Measure: the cost of a forward pass, then pairs of both ways to decode.",
                ":material/speed:",
            )
        if found:
            draw_costs(found)
        if pairs.runs:
            if pairs.going:
                st.caption(f"Run {len(pairs.runs)} of {pairs.total}")
                if (run := pairs.run(len(pairs.runs) - 1)) is not None:
                    live(run, draw_going)
            draw_pairs(pairs, asked[1])
    with guard():

        def nth(place: int) -> Request:
            """Pairs in alternating order; the first run measures v(n) as well."""
            which = (place % 2) ^ (place // 2 % 2)
            profilers = ("forward_cost",) if place == 0 else ()
            return msgspec.structs.replace(asked[which], profilers=profilers)

        pairs.go_on(nth)
