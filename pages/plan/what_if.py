"""A device that might be: what binds, what twice the bandwidth or twice the FLOP/s would buy, and at what price."""

from __future__ import annotations

import shlex
from typing import Any, NamedTuple

import msgspec
import streamlit as st

from core import plugins
from core.analysis import cost, designs, what_if
from core.analysis.designs import FLOPS, Case, Design, Phase, PhaseName
from core.analysis.time_parts import BANDWIDTH, POWER, Cache
from core.analysis.what_if import BETTER, Metric
from core.charts import what_if as charts
from core.models import catalogue as models
from core.paths import data_dir
from core.types import ModelSpec
from hardware import catalogue, prices
from hardware.device import Device
from hardware.errors import ExplorerError
from hardware.prices import Price
from pages.ui import text
from pages.ui.ceilings import THIS
from pages.ui.choices import select
from pages.ui.figure import figure
from pages.ui.models import architecture_line, model_picker, spec_of
from pages.ui.page import fault, page
from pages.ui.panes import panes
from pages.ui.pickers import backend_label
from pages.ui.predict_here import here, own_backends
from pages.ui.table import table
from pages.ui.tile import tile

ABOUT = "Change a device's bandwidth, FLOP/s, cache, memory and price, and see what binds and what would help."
WEIGHTS = ("as the file has them", "q4_0", "q4_k_m", "q8_0", "fp16", "bf16", "fp32")
CACHES = ("fp16", "q8_0", "q4_0", "fp32")
VIEWS = ("What binds", "Lines of equal time", "Models and batches", "Cost")
BATCHES = (1, 4, 16, 64, 256)
BESIDE = ("llama-3.1-8b", "mixtral-8x7b", "bert-base-uncased")
PHASES = {"prefill": "First token", "decode": "Each token"}
METRICS: dict[Metric, tuple[str, str]] = {
    "decode_tok_per_s": ("Generated tokens per second", "tok/s"),
    "ttft_s": ("Time to first token", "s"),
}


class Asked(NamedTuple):
    """What the form says. base: the device as it is; now: as it was changed. named: the model for the command line."""

    spec: ModelSpec
    named: str
    case: Case
    base: Design
    now: Design
    factors: dict[str, float]


# ---------------------------------------------------------------- the form


def choose_case() -> tuple[ModelSpec, str, Case] | None:
    chosen = model_picker("what-if-model")
    if not chosen:
        return None
    entry = models.find(chosen)
    spec = msgspec.structs.replace(spec_of(entry), name=entry.label)
    st.caption(architecture_line(spec, entry.size_bytes))
    one, two = st.columns(2)
    weights = one.selectbox("Weights", WEIGHTS, index=4, key="what-if-weights", bind="query-params")
    cache = two.selectbox("KV cache", CACHES, key="what-if-kv", bind="query-params")
    one, two, three = st.columns(3)
    prompt = one.number_input("Prompt", 1, 1_000_000, 512, key="what-if-prompt", bind="query-params", help="Tokens")
    new = two.number_input("New", 1, 1_000_000, 128, key="what-if-new", bind="query-params", help="Tokens")
    batch = three.number_input("Batch", 1, 4096, 1, key="what-if-batch", bind="query-params", help="Sequences")
    case = Case(
        prompt_tokens=prompt,
        new_tokens=new,
        batch=batch,
        weights=None if weights == WEIGHTS[0] else weights,
        kv_dtype=cache,
    )
    return spec, chosen, case


def choose_device(spec: ModelSpec, case: Case) -> tuple[Design, Case]:
    """The device to start from: of the catalogue, or this machine as it was measured; and the case as it runs it."""
    known = {d.name: d for d in catalogue.devices(data_dir() / "devices")}
    machine = here()
    names = [*known, *([THIS] if machine is not None else [])]
    default = "H100 SXM5 80GB" if "H100 SXM5 80GB" in known else names[0]
    chosen = select("Device", names, lambda name: name, "what-if-device", default)
    if chosen != THIS or machine is None:
        if machine is None:
            st.caption("This machine joins them once its ceilings are measured, on the Devices page.")
        return designs.design(known[chosen or default]), case
    backend = select("Backend", own_backends(), backend_label, "what-if-backend")
    if backend is None:
        raise ExplorerError("No backend is installed here.", "Choose a device of the catalogue.")
    design, case = machine.design(spec, plugins.get("backend", backend), case, THIS)
    overhead = machine.overhead(backend, case.weights or spec.dtype)
    fitted = f"fitted to {overhead.n_runs} forward passes measured here" if overhead.n_runs else "a guess without runs"
    st.caption(f"What {text.escape(backend_label(backend))} adds to the ceilings is {fitted}.")
    return design, case


def times_input(place: Any, label: str, key: str, now: str) -> float:
    """A factor, with what it comes to beneath."""
    factor: float = place.number_input(
        f"{label} ×", 0.01, 1000.0, 1.0, 0.25, format="%.4g", key=key, bind="query-params"
    )
    place.caption(now)
    return factor


def change(base: Design) -> tuple[Design, dict[str, float]]:
    """The widgets that change the device, and the device they make."""
    device = base.device
    st.markdown("**Change it**")
    one, two = st.columns(2)
    factors = {
        BANDWIDTH: times_input(
            one, "Bandwidth", "what-if-x-bandwidth", f"today {text.bandwidth(device.mem_bandwidth_bytes_per_s)}"
        ),
        FLOPS: times_input(two, "FLOP/s", "what-if-x-flops", f"in all {len(device.peak_flop_per_s)} number formats"),
    }
    memory = one.number_input(
        "Memory (GB)",
        0.0,
        1e6,
        round(device.mem_bytes / 1e9, 2),
        key=f"what-if-memory-{device.name}",
        help="Of 10⁹ bytes. A data sheet counts memory in 2³⁰: its 80 GB are 85.9 GB here.",
    )
    dollars = two.number_input(
        "Price ($)", 0.0, 1e9, None, key="what-if-dollars", help="Of the changed device; empty when it is unknown."
    )
    with st.expander("Formats, cache, power, starting kernels", icon=":material/tune:"):
        names = [r for r in designs.resources(base) if r != BANDWIDTH]
        places = st.columns(2)
        for i, name in enumerate(names):
            peak = device.peak_flop_per_s.get(name)
            now = text.compute(peak) if peak else f"{device.tdp_w:g} W" if name == POWER else "as fitted"
            label = designs.word(name).removesuffix(" FLOP/s").capitalize()
            factors[name] = times_input(places[i % 2], label, f"what-if-x-{name}", f"today {now}")
        cache = None
        if base.measured is None:
            one, two = st.columns(2)
            size = one.number_input("Cache (MB)", 0.0, 1e6, 0.0, key="what-if-cache-mb", help="0: none to speak of.")
            speed = two.number_input("Cache (GB/s)", 0.0, 1e7, 0.0, key="what-if-cache-gbs")
            cache = Cache(size_bytes=size * 1e6, bytes_per_s=speed * 1e9) if size or speed else None
            st.caption("A model that fits the cache is another regime: it is read at the cache's bandwidth.")
    factors = {name: factor for name, factor in factors.items() if factor != 1.0}
    moved = abs(memory * 1e9 / device.mem_bytes - 1) > 0.001
    return designs.altered(base, factors, memory * 1e9 if moved else None, cache, dollars), factors


def ask() -> Asked | None:
    found = choose_case()
    if found is None:
        st.info("Choose a model.", icon=":material/tune:")
        return None
    spec, named, case = found
    base, case = choose_device(spec, case)
    now, factors = change(base)
    return Asked(spec, named, case, base, now, factors)


# ---------------------------------------------------------------- what it comes to


def draw_answer(asked: Asked) -> None:
    """The designer's sentences and the times, beside those of the device as it is."""
    now = asked.now
    load = designs.loaded(asked.spec, asked.case, now)
    before = {p.name: p for p in designs.times(designs.loaded(asked.spec, asked.case, asked.base), asked.base)}
    phases = designs.times(load, now)
    with st.container(border=True):
        st.markdown(f"**{text.escape(now.device.name)}** {text.provenance('estimated')}", help=text.provenance_help())
        for phase in reversed(phases):
            st.markdown(text.escape(what_if.sentence(load, now, phase.name)))
        if words := what_if.regime(load, now):
            st.info(text.escape(words), icon=":material/memory:")
        draw_times(phases, before, asked)
    if now.device.doubts():
        st.caption(text.escape(now.device.doubts()))


def draw_times(phases: tuple[Phase, ...], before: dict[PhaseName, Phase], asked: Asked) -> None:
    least = what_if.least_memory_bytes(asked.spec, asked.case, asked.now)
    has = asked.now.device.mem_bytes
    with st.grid(2, min_column_width=200):
        for phase in reversed(phases):
            faster = before[phase.name].seconds / phase.seconds
            tile(
                PHASES[phase.name],
                f"~ {text.seconds(phase.seconds)}",
                f"{text.seconds(phase.low_s)} to {text.seconds(phase.high_s)} hold nine in ten measured values. "
                f"Largest share: {designs.word(phase.binds)}, {text.percent(phase.shares[phase.binds])}.",
                under=f"{text.ratio(faster)} as fast" if asked.now.hypothetical else designs.word(phase.binds),
            )
        tile(
            "Least memory",
            text.size(least),
            "Of the device, with weights, KV cache, activations, and what the system keeps.",
            under="fits" if least <= has else f"does not fit: {text.size(has)}",
        )
        tile(
            "Energy per token",
            text.si(what_if.joules_per_token(phases[-1], asked.case, asked.now), "J"),
            "At the full design power of the data sheet, for the last phase.",
            under="at most",
        )


def draw_shares(asked: Asked) -> None:
    load = designs.loaded(asked.spec, asked.case, asked.now)
    for phase in reversed(designs.times(load, asked.now)):
        found = what_if.elasticities(load, asked.now, phase.name)
        st.markdown(f"**{PHASES[phase.name]}** · {text.seconds(phase.seconds)}")
        rows = [
            charts.Share(
                phase.name,
                designs.word(e.resource),
                e.share,
                e.doubled,
                f"a ridge is near: a tenth more counts {e.faster:.0%}, a tenth less {e.slower:.0%}" if e.ridge else "",
            )
            for e in found
        ]
        figure(charts.shares(rows), key=f"what-if-shares-{phase.name}")
    st.caption(
        "A share of the time is its elasticity: 1 % more of the resource shortens the time by that share of 1 %. "
        "The shares sum to 100 %."
    )
    st.markdown("**Where the regime changes**")
    for line in what_if.knees_in_words(what_if.knees(asked.spec, asked.case, asked.now)):
        st.markdown(f"- {text.escape(line)}")


def draw_plane(asked: Asked) -> None:
    load = designs.loaded(asked.spec, asked.case, asked.now)
    phases = [p.name for p in designs.times(load, asked.now)]
    phase = st.segmented_control(
        "Phase", phases, default=phases[-1], key="what-if-phase", required=True, label_visibility="collapsed"
    )
    lines = what_if.iso_latency(load, asked.now, phase or phases[-1])
    dtype, peak, bandwidth = what_if.reference(load, asked.now)
    speedups = (0.5, 1.0, 1.5, 2.0)
    named = [
        (f"{text.seconds(line.seconds)} ({'as it is' if s == 1 else f'×{s:g} as fast'})", line.points)
        for line, s in zip(lines, speedups, strict=True)
    ]
    points = [charts.Plane(asked.now.device.name, bandwidth, peak, True)]
    for device in catalogue.devices(data_dir() / "devices"):
        x, y = device.mem_bandwidth_bytes_per_s, device.peak_flop_per_s.get(dtype)
        if y and 1 / 8 < x / bandwidth < 8 and 1 / 8 < y / peak < 8 and device.name != asked.now.device.name:
            points.append(charts.Plane(device.name, x, y, False))
    chart = charts.plane(named, points, designs.word(dtype))
    figure(chart, key="what-if-plane")
    st.caption(
        "On a line every pair of bandwidth and FLOP/s takes the same time, all else as in this design, "
        "the FLOP/s of all formats moving together. "
        "Where a line runs upright, more FLOP/s buy nothing; where it lies flat, more bandwidth does. "
        "Dots: devices of the catalogue by their data sheets."
    )
    if missing := [name for name, found in named if not found]:
        st.caption(f"Not within a factor of eight: {', '.join(map(text.escape, missing))}.")


def draw_matrix(asked: Asked) -> None:
    known = [e.id for e in models.entries() if e.family == "preset"]
    others = [n for n in BESIDE if n in known and n != asked.named]
    chosen = st.multiselect("Models beside it", known, others, key="what-if-beside", max_selections=8)
    specs = [asked.spec, *(spec_of(models.find(name)) for name in chosen if name != asked.named)]
    cells = what_if.matrix(specs, asked.case, asked.now, BATCHES)
    for phase, title in reversed(PHASES.items()):
        rows = [
            charts.Bind(
                c.model,
                c.batch,
                designs.word(c.binds),
                f"{text.seconds(c.seconds)}{'' if c.fits else ' ✗'}",
                f"{designs.word(c.binds)} {c.share:.0%}; twice the bandwidth ×{c.bandwidth_buys:.3g}, twice the FLOP/s "
                f"×{c.flops_buys:.3g}{'' if c.fits else '; it does not fit into the memory'}",
            )
            for c in cells
            if c.phase == phase
        ]
        if rows:
            st.markdown(f"**{title}**")
            figure(charts.binding(rows), key=f"what-if-matrix-{phase}")
    st.caption("The largest share of the time names the cell. ✗: does not fit into this memory.")
    with st.expander("As a table", icon=":material/table:"):
        table(
            [
                {
                    "Model": c.model,
                    "Phase": c.phase,
                    "Batch": c.batch,
                    "Time": text.seconds(c.seconds),
                    "Binds": designs.word(c.binds),
                    "Share": c.share,
                    "Twice the bandwidth": c.bandwidth_buys,
                    "Twice the FLOP/s": c.flops_buys,
                    "Fits": c.fits,
                    "Energy per token, at most (J)": c.joules_per_token,
                }
                for c in cells
            ],
            column_config={
                "Share": st.column_config.NumberColumn(format="percent"),
                **{
                    name: st.column_config.NumberColumn(format="× %.3g", help="How many times as fast")
                    for name in ("Twice the bandwidth", "Twice the FLOP/s")
                },
                "Energy per token, at most (J)": st.column_config.NumberColumn(format="%.3g"),
            },
            alt="What binds per model, phase and batch",
        )


# ---------------------------------------------------------------- cost


def draw_cost(asked: Asked) -> None:
    metrics = [m for m in METRICS if m == "ttft_s" or asked.spec.causal]
    metric = select("Wanted", metrics, lambda m: METRICS[m][0], "what-if-metric")  # type: ignore[index]
    wanted: Metric = "ttft_s" if metric == "ttft_s" else "decode_tok_per_s"
    given = edit_prices()
    draw_bill(asked)
    found, left_out = what_if.under_cost(asked.spec, asked.case, priced_designs(asked, given), wanted)
    if not found:
        st.info("No device here has a price and holds the model: enter a price above.", icon=":material/sell:")
    else:
        title, unit = METRICS[wanted]
        rows = [
            charts.Priced(
                c.name,
                c.dollars,
                c.value,
                c.low,
                c.high,
                "hypothetical" if c.hypothetical else "real",
                c.on_front,
                f"on the front in {c.stable:.0%} of the draws" + (f"; {c.beaten_by} beats it" if c.beaten_by else ""),
            )
            for c in found
        ]
        figure(charts.under_cost(rows, title, unit, BETTER[wanted] == "higher"), key="what-if-cost")
        for c in found:
            state = "on the front" if c.on_front else f"beaten by {c.beaten_by}"
            st.markdown(
                f"- **{text.escape(c.name)}**: {text.escape(state)}; with every price wrong by up to half, "
                f"on the front in {c.stable:.0%} of {what_if.DRAWS:,} draws."
            )
    for line in left_out:
        st.caption(text.escape(line))


def edit_prices() -> tuple[Price, ...]:
    """The prices to work with, shipped and own, in a table that can be changed and kept."""
    devices = [p for p in prices.prices(data_dir()).values() if p.unit == "device"]
    st.markdown("**Prices**")
    rows = st.data_editor(
        [{"Device": p.item, "Price ($)": p.dollars, "Date": p.date, "Source": p.source} for p in devices],
        num_rows="dynamic",
        hide_index=True,
        key="what-if-prices",
        alt="Prices of devices, each with its date and source",
        column_config={
            "Device": st.column_config.SelectboxColumn(
                options=[d.name for d in catalogue.devices(data_dir() / "devices")], required=True
            ),
            "Price ($)": st.column_config.NumberColumn(format="dollar", required=True),
            "Date": st.column_config.TextColumn(required=True, help="2026, 2026-05 or 2026-05-31"),
            "Source": st.column_config.TextColumn(required=True),
        },
    )
    st.caption("Prices are inputs, each with its date and source. The shipped ones are estimates of building costs.")
    given = tuple(
        prices.checked(
            Price(
                item=str(row["Device"] or ""),
                dollars=float(row["Price ($)"] or 0.0),
                date=str(row["Date"] or ""),
                source=str(row["Source"] or ""),
            )
        )
        for row in rows
    )
    if given != tuple(devices) and st.button("Keep these prices", icon=":material/save:", key="what-if-keep"):
        others = tuple(p for p in prices.own(data_dir()) if p.unit != "device")
        prices.save((*given, *others), data_dir())
        st.toast("The prices are kept.", icon=":material/check:")
    return given


def priced_designs(asked: Asked, given: tuple[Price, ...]) -> list[Design]:
    """The changed design with the form's price, and every device that has one."""
    priced = {p.item: p.dollars for p in given}
    now = asked.now
    if now.dollars is None:
        now = msgspec.structs.replace(now, dollars=priced.get(now.device.name))
    known: dict[str, Device] = {d.name: d for d in catalogue.devices(data_dir() / "devices")}
    others = [designs.design(known[n], dollars=d) for n, d in priced.items() if n in known and n != now.device.name]
    return [now, *others]


def draw_bill(asked: Asked) -> None:
    """What a design costs to build, from dated prices of its parts."""
    with st.expander("Work out a price from the parts", icon=":material/calculate:"):
        parts = prices.prices(data_dir())
        wafers = [p for p in parts.values() if p.unit == "wafer"]
        kinds = [p for p in parts.values() if p.unit == "GB"]
        one, two = st.columns(2)
        wafer = one.selectbox("Wafer", wafers, format_func=_priced, key="what-if-wafer")
        memory = two.selectbox("Memory", kinds, format_func=_priced, key="what-if-dram")
        one, two, three = st.columns(3)
        area = one.number_input("Die (mm²)", 1.0, cost.LARGEST_MM2, 400.0, key="what-if-die")
        n_dies = two.number_input("Dies", 1, 64, 1, key="what-if-dies")
        rest = three.number_input("Package and test ($)", 0.0, 1e6, 500.0, key="what-if-rest")
        if wafer is None or memory is None:
            return
        found = cost.bill(
            die_mm2=area,
            n_dies=n_dies,
            wafer_dollars=wafer.dollars,
            memory_bytes=asked.now.device.mem_bytes,
            dollars_per_gb=memory.dollars,
            rest_dollars=rest,
        )
        st.markdown(
            f"dies **\\${found.dies:,.0f}** + memory **\\${found.memory:,.0f}** + the rest **\\${found.rest:,.0f}** "
            f"= **\\${found.total:,.0f}** {text.provenance('estimated')}",
            help="Yield by the negative binomial with 0.1 defects per cm² and alpha 3; a die with a defect is lost.",
        )


def _priced(of: Price) -> str:
    return f"{of.item}: ${of.dollars:g} ({of.date})"


# ---------------------------------------------------------------- the page


def command(asked: Asked) -> str:
    """The same question on the command line."""
    now, case = asked.now, asked.case
    told: dict[str, object] = {
        "model": asked.named,
        "device": "here" if now.measured else asked.base.device.name,
        "backend": now.measured and now.measured.overhead.backend,
        "weights": case.weights,
        "kv-dtype": case.kv_dtype,
        "prompt-tokens": case.prompt_tokens,
        "new-tokens": case.new_tokens,
        "batch": case.batch,
        "memory-gb": _plain(now.device.mem_bytes / 1e9)
        if now.device.mem_bytes != asked.base.device.mem_bytes
        else None,
        "cache-mb": now.cache and _plain(now.cache.size_bytes / 1e6),
        "cache-gbs": now.cache and _plain(now.cache.bytes_per_s / 1e9),
        "dollars": None if now.dollars is None else _plain(now.dollars),
    }
    words = [part for name, value in told.items() if value is not None for part in (f"--{name}", str(value))]
    changes = [part for name, factor in asked.factors.items() for part in ("--change", f"{name}={_plain(factor)}")]
    return shlex.join(["python", "-m", "core", "what-if", *words, *changes])


def _plain(value: float) -> str:
    return f"{value:.10g}"


def draw(asked: Asked) -> None:
    draw_answer(asked)
    with st.container(border=True):
        view = st.segmented_control(
            "View",
            VIEWS,
            default=VIEWS[0],
            key="what-if-view",
            required=True,
            label_visibility="collapsed",
            bind="query-params",
        )
        drawn = {VIEWS[1]: draw_plane, VIEWS[2]: draw_matrix, VIEWS[3]: draw_cost}
        drawn.get(view or "", draw_shares)(asked)
    st.caption(
        "Efficiencies were fitted to devices that exist, or to this machine's runs: of a device that does not, "
        "the ratios are worth more than the seconds. The Predict page says how wrong the seconds were elsewhere."
    )
    st.code(command(asked), language="bash", wrap_lines=True)


with page("What if", ABOUT):
    try:
        form, view = panes()
        with form:
            asked = ask()
        if asked is not None:
            with view:
                draw(asked)
    except ExplorerError as error:
        fault(error)
