"""What to change after a run, what it should bring, one click that tries it, and how good the advice was so far."""

from __future__ import annotations

import msgspec
import streamlit as st

from core import plugins
from core.advice.book import Book
from core.advice.gather import evidence_of
from core.advice.record import METRICS, Advice, Case, Lack, Loss, Silence
from core.advice.rules import LABELS, advise
from core.advice.score import Score, ordered, scores
from core.advice.trial import ROUNDS
from core.paths import data_dir
from core.runs.ceilings import ran_on
from core.runs.store import Run
from core.stats.intervals import Interval
from core.types import GOING
from hardware.detect import machine_id
from hardware.errors import ExplorerError
from pages.plan._trial_view import begin, going, trial_panel
from pages.ui import text
from pages.ui.ceilings import THIS, kept_of, measure_panel, own_name, threads_of
from pages.ui.links import link
from pages.ui.live import live
from pages.ui.page import fault, nothing_yet, page
from pages.ui.pickers import profiler_label, run_picker
from pages.ui.predict_here import overheads_here
from pages.ui.run_view import draw_stage
from pages.ui.start import start
from pages.ui.state import choose_run, result_of, runner, store
from pages.ui.studies import draw_busy
from pages.ui.table import table
from pages.ui.tile import tile

ABOUT = "What a run's bottleneck suggests, what it should bring, and a trial that tells whether it did."
ELSEWHERE = (
    ":material/devices_other: Another machine ran this: what is promised stands on that machine's figures, and a trial "
    "runs on this one. For advice on this machine, make the same run here."
)
OUTCOMES = {
    "kept": ("green", "check_circle"),
    "less than promised": ("orange", "trending_flat"),
    "none": ("gray", "horizontal_rule"),
    "harmful": ("red", "dangerous"),
    "could not run": ("red", "block"),
    "undecided": ("gray", "help"),
}


@st.cache_data(max_entries=8, show_spinner="Looking at the run and at what is known around it")
def judged(
    root: str, run_id: str, newest: tuple[str, ...], ceilings_date: str
) -> tuple[tuple[Advice, ...], tuple[Silence, ...]]:
    """Every rule's word on a run. Changes with the runs and the ceilings that are here."""
    found = kept_of(store().open(run_id).result())
    return advise(evidence_of(store(), run_id, overheads_here(found) if found is not None else None))


def outcome_badge(case: Case) -> str:
    if case.verdict is None:
        return ":gray-badge[:material/pending: not tried]"
    colour, icon = OUTCOMES[case.verdict.outcome]
    return f":{colour}-badge[:material/{icon}: {case.verdict.outcome}]"


def draw_case(case: Case, book: Book, demoted: str, of: str) -> None:
    """One advice on the run `of`: what was found, what to change, the promise, and the receipt."""
    given, gain = case.advice, case.advice.gain
    with st.container(border=True):
        against = " :red-badge[:material/thumb_down: advice against]" if given.against else ""
        st.markdown(f"**{text.escape(LABELS[given.rule])}** {outcome_badge(case)}{against}")
        st.markdown(f"{text.escape(given.finding)} **{text.escape(given.change)}**")
        with st.grid(3, min_column_width=150):
            tile(
                "Promised gain",
                f"× {gain.likely:.3g}",
                f"In {METRICS[given.metric]}: how many times as good; below 1 is worse. Nine in ten lie in the range.",
                under=f"{gain.low:.3g} to {gain.high:.3g}",
            )
            ratio = case.verdict.ratio if case.verdict else None
            between = f"{ratio.low:.3g} to {ratio.high:.3g}" if ratio and ratio.low and ratio.high else "no interval"
            tile(
                "Measured gain",
                f"× {ratio.value:.3g}" if ratio else text.NONE,
                "Baseline and change in interleaved pairs, as a ratio with its 95 % interval.",
                under=between if ratio else "not tried" if case.verdict is None else "no pair counts",
            )
            same = case.verdict.same_text if case.verdict else None
            tile(
                "Quality",
                "measured" if isinstance(given.quality, Loss) else given.quality,
                "Unknown: measure it on the page Evaluate. The same text says something, another text little.",
                under={True: "same text", False: "another text", None: "no text compared"}[same],
            )
        if isinstance(given.quality, Loss):
            st.caption(f"{text.provenance('measured')} Quality: {text.prose(given.quality.words)}.")
        st.caption(f"{text.provenance('estimated')} Gain in {METRICS[given.metric]}. {text.prose(gain.basis)}")
        if case.verdict is not None:
            st.markdown(text.prose(case.verdict.sentence))
        if demoted:
            st.caption(f":material/arrow_downward: {text.escape(demoted)}")
        with st.container(horizontal=True, vertical_alignment="center"):
            draw_button(case, book, of)
            for run_id in given.evidence[:3]:
                link("pages/measure/run.py", "Evidence", ":material/receipt_long:", run_id)
            if isinstance(given.quality, Loss):
                link("pages/measure/evaluate.py", "Quality", ":material/grading:", given.quality.run_id)


def draw_button(case: Case, book: Book, of: str) -> None:
    busy = going() is not None or runner().active() is not None
    first = not case.changed_runs
    words = f"Try it: {ROUNDS} pairs of runs" if first else f"{ROUNDS} more pairs"
    if st.button(
        words,
        icon=":material/science:",
        key=f"advice-try-{case.advice.id}",
        disabled=busy,
        type="primary" if first else "secondary",
        help="Runs the baseline and the change in turns, on this machine. Fewer than five pairs have no interval.",
    ):
        begin(case, book, ROUNDS)
        choose_run(of)  # the trial's own runs are newer
        st.rerun()


def draw_silences(silences: tuple[Silence, ...], run: Run) -> None:
    short, others = ([s for s in silences if s.short is wanted] for wanted in (True, False))
    if short:
        st.markdown("**Short of evidence**")
        draw_reasons(short)
        draw_missing({s.lacks for s in short}, run)
    if others:
        with st.expander(f"{len(others)} rules looked and found nothing", icon=":material/done_all:"):
            draw_reasons(others)


def draw_missing(lacks: set[Lack | None], run: Run) -> None:
    """The buttons that measure what the silent rules lack: this machine's ceilings, and the run with more profilers."""
    result = result_of(run)
    here = own_name(result) == THIS
    if "ceilings" in lacks and here:
        measure_panel(threads_of(result))
    profilers = [name for name in plugins.names("profiler") if name in lacks]
    if not profilers and (here or "ceilings" not in lacks):
        return
    told = ", ".join(map(profiler_label, profilers))
    words = f"Run it {'again' if here else 'on this machine'}" + (f" with: {told}" if told else "")
    about = "The same request; what it tells is advised on as soon as it has ended."
    if st.button(words, icon=":material/replay:", key="advice-again", help=about):
        start(msgspec.structs.replace(run.request, profilers=(*run.request.profilers, *profilers)))


def draw_reasons(silences: list[Silence]) -> None:
    """Each reason once, with the rules that it keeps silent."""
    lines = []
    for reason in dict.fromkeys(s.reason for s in silences):
        named = ", ".join(LABELS[s.rule] for s in silences if s.reason == reason)
        lines.append(f"- **{text.escape(named)}**: {text.prose(reason)}")
    st.markdown("\n".join(lines))


def share(of: Interval | None, n: int, tried: int) -> str:
    """A share with its interval; counts where there are too few tries for a percentage."""
    if of is None or of.low is None or of.high is None:
        return f"{n} of {tried}" if tried else text.NONE
    return f"{text.percent(of.value)} ({text.percent(of.low)} to {text.percent(of.high)})"


def draw_scores(found: tuple[Score, ...]) -> None:
    st.markdown("**How good was the advice?**")
    if not found[0].offered:
        nothing_yet("No record yet", "Every advice shown is noted, and every trial of it.", ":material/grading:")
        return
    table(
        [
            {
                "Rule": LABELS.get(s.rule, "All rules"),
                "Offered": s.offered,
                "Tried": s.tried,
                "Kept": share(s.kept, s.n_kept, s.tried),
                "Error of prediction": text.percent(s.error),
                "Inside the range": text.NONE if s.coverage is None else share(s.coverage, 0, 0),
                "Outcomes": ", ".join(f"{n} {name}" for name, n in s.outcomes.items()) or text.NONE,
                "Note": s.demoted,
            }
            for s in found
        ],
        alt="The adviser's record, rule by rule: offered, tried, kept, error of prediction, coverage",
    )
    st.caption(
        "Kept: of those tried, with Wilson's interval; below five tries only counts. Error: the median of "
        "|ln(measured / promised)|. Inside the range: nominal 90 %. Error and range leave out models that the fitted "
        "equation had seen, which would flatter."
    )


def draw_advice(run: Run, book: Book) -> None:
    """What the rules say of a run that has ended; raises ExplorerError for one on which nothing can be said."""
    found = kept_of(run.result())
    newest = tuple(store().ids()[:60])
    advices, silences = judged(str(store().root), run.id, newest, found.date if found is not None else "")
    cases = book.offer(advices)
    if ran_on(result_of(run)) != machine_id():
        st.caption(ELSEWHERE)
    past = scores(book.cases())
    demoted = {s.rule: s.demoted for s in past}
    if cases and going() is None:
        draw_busy()
    for case in ordered(cases, past):
        draw_case(case, book, demoted.get(case.advice.rule, ""), run.id)
    if not cases and any(s.short for s in silences):
        st.info("Nothing can be advised on this run yet.", icon=":material/hourglass_empty:")
    elif not cases:
        st.info("No rule has anything to advise on this run.", icon=":material/thumb_up:")
    draw_silences(silences, run)


def draw() -> None:
    book = Book(data_dir())
    trial_panel()
    run = run_picker("advice")
    if run is not None and run.status() in GOING:
        live(run, draw_stage, "strip", key="advice")
        st.caption("What to change is said when the run has ended.")
    elif run is not None:
        try:
            draw_advice(run, book)
        except ExplorerError as error:
            fault(error, hindrance=True)
    draw_scores(scores(book.cases()))


with page("Advice", ABOUT):
    draw()
