"""A search for architectures on the screen: its answer, the front in each engine, every shape, and the proxies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import streamlit as st

from core.charts.architectures import free, taus, trade
from core.report.architectures import free_spots, orders, spots
from core.report.studies import export_study
from core.stats.intervals import in_words
from core.studies import architecture_findings, architecture_found, free_shapes, ledger
from core.studies.architecture_found import Found, Proxy, Shaped
from core.studies.plan import Architectures, FreeShapes
from pages.ui import text
from pages.ui.figure import figure
from pages.ui.panes import table_height
from pages.ui.pickers import backend_label
from pages.ui.share import Form, download, study_menu
from pages.ui.state import store
from pages.ui.table import table

_ROLES = {"whole": "Whole model", "chosen": "Chosen", "random": "Drawn at random", "masked": "Masked only"}


@st.cache_data(max_entries=4, show_spinner="Reading the search's runs")
def own(folder: str, version: float) -> Found:
    """Of a search on this machine; changes with the ledger."""
    return architecture_findings.findings(ledger.load(Path(folder), Architectures), store())


@st.cache_data(max_entries=4, show_spinner=False)
def recorded(folder: str) -> Found:
    """Of a search that came with the project."""
    return architecture_found.read((Path(folder) / architecture_found.FILE).read_bytes())


def draw(found: Found, name: str, key: str, recorded: bool = False) -> None:
    """Everything of one search for shapes cut from a model. recorded: it came with the project, without its runs."""
    with st.container(border=True):
        first, *rest = found.words
        st.markdown(f"**{text.escape(first)}**")
        for words in rest:
            st.markdown(text.escape(words))
        if not found.complete:
            st.caption(
                f"{len(found.finished)} of {found.plan.finished} shapes are trained and measured; with more minutes "
                "the search goes on with the others."
            )
    st.caption(
        f"{found.shapes:,} shapes priced, {found.masked} masked, {len(found.finished)} trained and measured in "
        f"{text.seconds(found.spent_s)}. Prices are {text.provenance('estimated')}, KL and speed of trained shapes "
        f"{text.provenance('measured')}.",
        help=text.provenance_help(),
    )
    engines = list(found.plan.engines)
    engine = engines[0]
    if len(engines) > 1:
        chosen = st.segmented_control(
            "Engine",
            engines,
            default=engine,
            format_func=lambda name: text.escape(backend_label(name)),
            key=f"{key}-engine",
            required=True,
        )
        engine = chosen or engine
    figure(trade(spots(found, engine), backend_label(engine)), key=f"{key}-front")
    st.caption(
        "Trained shapes stand where they were measured, with 95 % intervals; masked ones at their predicted speed, "
        "with the KL before any training, on other texts."
    )
    rows = [_cells(row, found) for row in found.rows]
    table(
        rows,
        height=table_height(len(rows), 520),
        alt="Shapes with parameters, losses before and after training, and speed in each engine",
    )
    _draw_proxies(found, key)
    _draw_share(name, key, bundled=not recorded)


def _draw_share(name: str, key: str, bundled: bool) -> None:
    with st.container(horizontal=True, vertical_alignment="center"):
        download(Form("JSON", f"{name}.json", lambda: export_study(name, "json", store())), f"{key}-json")
        study_menu(name, f"{key}-share", lambda fmt: export_study(name, fmt, store()), bundled)


def _cells(row: Shaped, found: Found) -> dict[str, Any]:
    whole = row.role == "whole"
    cells: dict[str, Any] = {
        "Shape": row.label,
        "Stage": _ROLES[row.role],
        "Parameters": f"{row.n_params / 1e6:.1f} M",
        "KL masked": None if row.masked is None else f"{row.masked:.3g}",
        "KL trained": None if whole or row.kl is None else in_words(row.kl),
        "Perplexity ×": None if row.perplexity is None else in_words(row.perplexity),
    }
    for engine in found.plan.engines:
        speed = next((s for s in row.speeds if s.engine == engine), None)
        told = row.predicted.get(engine, {}).get("tok_per_s")
        name = backend_label(engine)
        cells[f"{name}, predicted"] = None if told is None else f"{told.low:.0f} to {told.high:.0f} tok/s"
        if speed is None or speed.tok_per_s is None:
            cells[f"{name}, measured"] = None
            continue
        marks = (" ★" if speed.on_front and not whole else "") + (" ~" if speed.disturbed else "")
        times = "" if whole or speed.ratio is None else f" · × {in_words(speed.ratio)}"
        cells[f"{name}, measured"] = f"{speed.tok_per_s:.1f} tok/s{times}{marks}"
    return {**cells, "Model": row.model or None, "Why not": row.reason or None}


def _draw_proxies(found: Found, key: str) -> None:
    st.header("Did the proxies earn their place?", anchor=False)
    if not found.proxies:
        st.caption("Once a few shapes are trained, what was cheap to know is compared with them here.")
        return
    names = list(dict.fromkeys(p.of for p in found.proxies))
    of = names[0]
    if len(names) > 1:
        of = (
            st.segmented_control(
                "What they rank",
                names,
                default=of,
                format_func=lambda of: of[:1].upper() + of[1:],
                key=f"{key}-of",
                required=True,
                wrap=True,
            )
            or of
        )
    mine = [p for p in found.proxies if p.of == of]
    figure(taus(orders(mine), of), key=f"{key}-taus")
    table(
        [_proxy(p) for p in mine],
        alt="Proxies: tau, tau given log parameters, difference from counting, regret, verdict",
    )
    drawn = sum(row.role == "random" for row in found.finished)
    st.caption(
        f"Kendall's τ-b with 95 % bootstrap intervals over {len(found.finished)} finished shapes, {drawn} of them "
        "drawn at random over all sizes. KL when masked: before any training; sum of single KLs: of each part that is "
        "cut, alone; body parameters: without the embedding. Given log parameters: what is left when size is known. "
        "Regret: what its favourite loses against the best. So few models can show that an order is better than "
        "chance, not that it is good."
    )


def _proxy(p: Proxy) -> dict[str, Any]:
    place = None if p.regret is None or p.regret.place is None else f"{p.regret.place} of {p.regret.n}"
    return {
        "Ranked by": p.label,
        "τ": in_words(p.tau, ".2g") if p.tau else None,
        "Given log parameters": in_words(p.partial, ".2g") if p.partial else None,
        "τ over parameters": in_words(p.over, ".2g") if p.over else None,
        "Regret": None if p.regret is None else f"{p.regret.value:.3g}",
        "Favourite's place": place,
        "Verdict": p.verdict,
    }


# ------------------------------------------------------------ from scratch


@st.cache_data(max_entries=4, show_spinner="Reading the search")
def own_free(folder: str, version: float) -> free_shapes.Found:
    """Of a search for decoders on this machine; changes with the ledger."""
    return free_shapes.findings(ledger.load(Path(folder), FreeShapes))


def draw_free(found: free_shapes.Found, name: str, key: str) -> None:
    """Everything of one search for decoders from scratch."""
    with st.container(border=True):
        first, *rest = found.words
        st.markdown(f"**{text.escape(first)}**")
        for words in rest:
            st.markdown(text.escape(words))
        if found.volume is not None and found.random_volume:
            times = found.volume / found.random_volume
            none = "" if times > 1 else ", so that asking Optuna brought nothing here"
            st.caption(
                f"Its front covers {times:.2f} times what as many random shapes do{none} "
                f"{text.provenance('estimated')}.",
                help=text.provenance_help(),
            )
    if points := free_spots(found):
        figure(free(points, found.plan.device), key=f"{key}-plane")
    rows = [_free_cells(row) for row in found.rows if row.on_front]
    if rows:
        table(rows, height=table_height(len(rows), 420), alt="Shapes on the front, quickest first")
    st.caption(
        f"{found.asked} shapes asked for, {found.impossible} of them no models, {len(rows)} on the front. Vocabulary "
        "in units of 1,024."
    )
    _draw_share(name, key, bundled=True)


def _free_cells(row: free_shapes.Row) -> dict[str, Any]:
    told = row.figures
    return {
        "Shape": row.sizes.label,
        "Parameters": text.count(told["n_params"]),
        "Without embedding": text.count(told["body_params"]),
        "Decode": f"{told['tok_per_s']:,.0f} tok/s",
        "First token": text.seconds(told["ttft_s"]),
        "Memory": text.size(told["peak_memory_bytes"]),
    }
