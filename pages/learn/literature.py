"""What the literature reports on cheaper inference, what independent runs found, and what this app has of it."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from core.charts.literature import bits_against_quality, over_the_years, reported_against_independent
from core.learn.ladder_points import TITLES, quantized
from core.learn.literature import (
    SEEN,
    STATUS,
    Work,
    chosen,
    families,
    literature,
    reported,
    reported_beside_independent,
    way,
    works,
)
from core.studies import study_store
from core.studies.findings import Findings
from pages.ui import text
from pages.ui.choices import select
from pages.ui.figure import figure
from pages.ui.links import link
from pages.ui.page import guard, page
from pages.ui.panes import table_height
from pages.ui.state import adopt_value, rows_key
from pages.ui.table import table

ABOUT = "What papers report, in which setting and where it was seen, and what independent runs found."
ALL = "all"


def draw_sentences() -> None:
    """Eight sentences, each with a button that shows the rows it rests on."""
    st.header("What the literature says together", anchor=False)
    for number, sentence in enumerate(literature().sentences, 1):
        with st.container(horizontal=True, vertical_alignment="center"):
            st.markdown(f"**{number}.** {text.escape(sentence.text)}")
            st.button(
                f"{len(sentence.works)} works behind sentence {number}",
                key=f"rows-{number}",
                icon=":material/filter_list:",
                type="tertiary",
                width="content",
                on_click=adopt_value,
                args=("sentence", str(number)),
                help=f"Show the works that sentence {number} rests on, in the table below.",
            )


def draw_independent() -> None:
    """Reported against independent, and the table of the one bench."""
    bench = literature().independent
    st.header("Reported against independent", anchor=False)
    figure(reported_against_independent(reported_beside_independent()), key="beside")
    st.caption(
        "Orange diamonds: what the authors report, each in its own setting. Blue circles: "
        f"{text.escape(bench.source)}, {text.escape(bench.setting)}, on an RTX 3090 and on an A100. "
        f"{text.provenance('stated')}"
    )
    with st.expander("The same in numbers: tokens accepted per step are the method's, seconds are the machine's"):
        table(
            [
                {"Method": r.method, "Card": r.card, "Speed-up": r.speedup, "Accepted per step": r.accepted}
                for r in bench.rows
            ],
            alt="Independent speed-ups and accepted tokens per step, on two cards",
        )
        st.caption(
            "Token Recycling accepts equally many tokens on both cards and gains very different speed-ups: what a "
            "forward pass of several tokens costs differs. The page Decoding measures that cost here."
        )
        link("pages/understand/decoding.py", "Measure it on this machine", ":material/fast_forward:")


def draw_bits() -> None:
    """Our own ladder's points; the works that report bits stand in the table."""
    st.header("Bits against quality, measured here", anchor=False)
    found = [f for f in study_store.readable() if isinstance(f, Findings)]
    if not found:
        st.caption("No ladder has been measured on this machine.")
        return
    kind = st.segmented_control(
        "Figure",
        list(TITLES),
        default="perplexity",
        required=True,
        key="bits-figure",
        wrap=True,
        format_func=lambda k: TITLES[k].split(" (")[0],
        bind="query-params",
    )
    assert kind is not None
    figure(bits_against_quality(quantized(found[0], kind), TITLES[kind]), key=f"bits-{kind}")
    st.caption(
        f"Variants of the study {text.escape(found[0].plan.name)} that differ by number format alone. A small model "
        f"has a large table, so it has more bits per weight than the format's name says. {text.provenance('measured')}"
    )
    link("pages/compare/tradeoffs.py", "The whole study", ":material/balance:")


def filters() -> tuple[Work, ...]:
    """The works that pass what is chosen; all of it is in the address."""
    numbers = [str(n) for n in range(1, len(literature().sentences) + 1)]
    with st.grid(4, min_column_width=170):
        family = select("Family", [ALL, *families()], lambda f: "All families" if f == ALL else f, "family")
        status = select("In Roofscope", [ALL, *STATUS], lambda s: "All" if s == ALL else STATUS[s], "status")  # type: ignore[index]
        seen = select("Figure seen", [ALL, *SEEN], lambda s: "Anywhere" if s == ALL else SEEN[s], "seen")  # type: ignore[index]
        sentence = select(
            "Rows of sentence", [ALL, *numbers], lambda n: "All works" if n == ALL else f"Sentence {n}", "sentence"
        )
    set_ = {k: v for k, v in {"family": family, "status": status, "seen": seen}.items() if v != ALL}
    return chosen(**set_, sentence=int(sentence) if sentence and sentence != ALL else None)


def draw_table(found: Sequence[Work]) -> None:
    """One row per work; a chosen one opens below."""
    if not found:
        st.info("Set one of the filters back to all.", title="No work passes all four filters")
        return
    rows = [
        {
            "Work": w.title,
            "Year": w.year,
            "Family": w.family,
            "Reported": w.figure or text.NONE,
            "Idea": w.idea,
            "Setting": w.setting or text.NONE,
            "Seen": ", ".join(w.seen) or text.NONE,
            "Roofscope": STATUS[w.status],
        }
        for w in found
    ]
    picked = table(
        rows,
        height=table_height(len(rows), 480),
        on_select="rerun",
        selection_mode="single-row",
        key=rows_key("works", (w.id for w in found)),
        column_config={"Year": st.column_config.NumberColumn(format="%d", width="small")},
        alt="Works with year, family, idea, reported figure, setting and where it was seen",
    )
    chosen_rows = picked.selection.rows if picked else []
    names = {w.id: w.title for w in found}
    first = found[chosen_rows[0]].id if chosen_rows else next((w.id for w in found if w.where), found[0].id)
    shown = st.selectbox(
        "Look at",
        list(names),
        list(names).index(first),
        format_func=names.__getitem__,
        key=f"look-{first}-{len(found)}",
    )
    draw_work(next(w for w in found if w.id == shown))


def draw_work(work: Work) -> None:
    """Everything of one work, and the pages that do it."""
    with st.container(border=True):
        ids = " · ".join(f"[arXiv {i}](https://arxiv.org/abs/{i})" for i in work.arxiv) or text.escape(work.venue)
        st.markdown(f"**{text.escape(work.title)}** · {work.year}" + (f" · {ids}" if ids else ""))
        st.markdown(text.escape(work.idea[:1].upper() + work.idea[1:]) + ".")
        if work.figure:
            where = " and ".join(SEEN[s] for s in work.seen)
            setting = f" Setting: {text.escape(work.setting)}." if work.setting else " The setting was not seen."
            st.markdown(f"Reported: {text.escape(work.figure)} {text.provenance('stated')}")
            st.caption(f"Seen {where}.{setting}")
        else:
            st.caption("No figure of it was seen, so none is given.")
        note = f": {text.prose(work.note)}" if work.note else ""
        st.markdown(f"**{STATUS[work.status]}**{note}")
        with st.container(horizontal=True):
            for place in work.where:
                to = way(place)
                link(to.page, to.label, ":material/open_in_new:", query=to.query)


with page("Literature", ABOUT):
    n_have = sum(w.status == "have" for w in works())
    st.caption(
        f"{len(works())} works from {min(w.year for w in works())} to {max(w.year for w in works())}; Roofscope has "
        f"{n_have} of them. Nearly all figures are of GPUs at batch 1, against a slow loop: a processor without one "
        "answers otherwise."
    )
    draw_sentences()
    with st.container(key="cards"):
        left, right = st.columns(2, gap="large")
    with left, guard():
        draw_independent()
    with right, guard():
        draw_bits()
    st.header("All works", anchor=False)
    found = filters()
    figure(over_the_years(reported(found), families()), key="years")
    draw_table(found)
