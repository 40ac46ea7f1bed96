"""A search for architectures as one HTML file that opens without a network, and as Markdown. Words and layout only.

The page draws the same points; only the choice of engine is a person's there.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from core.charts.architectures import Spot, Tau, free, taus, trade
from core.charts.labels import plain, si
from core.report import page
from core.report.figures import NONE, engine
from core.report.page import Section, Table
from core.report.tables import as_markdown
from core.stats.intervals import in_words
from core.studies import free_shapes
from core.studies.architecture_found import Found, Proxy, Shaped

MOST_SPOTS = 1000  # of decoders from scratch in a file: more would make it too large
MARKS = "* on the front of decode speed and KL in that engine · ~ a round was disturbed"


def html(found: Found) -> bytes:
    """The whole report, in the shape of all reports."""
    return page.html(found.plan.title, "\n".join([*found.words, _counted(found), _when(found)]), sections(found))


def sections(found: Found) -> list[Section]:
    """The front in each engine, every finished shape, and whether the proxies earned their place."""
    drawn = []
    for name in found.plan.engines:
        if points := spots(found, name):
            words = (
                "Trained shapes stand where they were measured, with 95 % intervals; masked ones at their predicted "
                "speed, with the KL before any training, on other texts."
            )
            title = f"Speed against loss in {engine(name)}"
            drawn.append(Section(title=title, words=words, chart=trade(points, engine(name))))
    head, rows = shape_table(found)
    best = tuple(n for n, row in enumerate(_told(found)) if row.id == found.best)
    shapes = Section(title="Shapes", words=MARKS, table=Table(header=head, rows=rows, strong=best))
    return [*drawn, shapes, *_proxies(found)] if rows else drawn


def spots(found: Found, where: str) -> list[Spot]:
    """Every shape in the plane of speed and loss: where it was measured, or where it is expected."""
    placed = []
    base = found.rows[0].predicted.get(where, {}).get("tok_per_s") if found.rows else None
    for row in found.rows:
        speed = next((s for s in row.speeds if s.engine == where), None)
        if row.role == "whole":
            placed.append(Spot(row.label, "whole model", 1.0, 0.0))
        elif speed is not None and speed.ratio is not None and row.kl is not None:
            stage = "on the front" if speed.on_front else "drawn at random" if row.role == "random" else "trained"
            ratio, kl = speed.ratio, row.kl
            note = f"{row.n_params / 1e6:.1f} M parameters" + (", drawn at random" if row.role == "random" else "")
            placed.append(Spot(row.label, stage, ratio.value, kl.value, ratio.low, ratio.high, kl.low, kl.high, note))
        elif row.masked is not None and base is not None and (told := row.predicted.get(where, {}).get("tok_per_s")):
            note = f"{row.n_params / 1e6:.1f} M parameters, speed predicted"
            placed.append(Spot(row.label, "masked, untrained", told.likely / base.likely, row.masked, note=note))
    return placed


def orders(found: Sequence[Proxy]) -> list[Tau]:
    """Proxies as the chart takes them; those that rank nothing are left out."""
    return [Tau(p.label, p.counts, p.tau.value, p.tau.low, p.tau.high, p.verdict) for p in found if p.tau is not None]


def markdown(found: Found) -> str:
    """The answer, the finished shapes and the proxies as Markdown, for documentation."""
    lines = [_when(found), "", *(f"- {words}" for words in (*found.words, _counted(found)))]
    lines += ["", as_markdown(*shape_table(found)), "", f"\\{MARKS}", "", as_markdown(*proxy_table(found.proxies))]
    return "\n".join(lines) + "\n"


def shape_table(found: Found) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    """Head and rows: the whole model and every shape that was to be finished."""
    engines = (f"{engine(name)} ×" for name in found.plan.engines)
    head = ("Shape", "Parameters", "Bytes", "KL masked", "KL trained", "Perplexity ×", *engines)
    return head, tuple(map(_shape, _told(found)))


def _told(found: Found) -> list[Shaped]:
    return [row for row in found.rows if row.role != "masked"]


def _shape(row: Shaped) -> tuple[str, ...]:
    whole = row.role == "whole"
    cells = [
        row.label + (" (random)" if row.role == "random" else ""),
        f"{row.n_params / 1e6:.1f} M",
        f"{row.weight_bytes / 1e6:.0f} MB",
        NONE if row.masked is None else f"{row.masked:.3g}",
        "0" if whole else in_words(row.kl),
        "1" if whole else in_words(row.perplexity),
    ]
    for speed in row.speeds:
        marks = ("*" if speed.on_front else "") + ("~" if speed.disturbed else "")
        cells.append(("1" if whole else in_words(speed.ratio)) + marks)
    return tuple(cells)


def proxy_table(found: Sequence[Proxy]) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    """Head and rows: what each cheap figure ranks, how well, and whether better than counting parameters."""
    head = ("Ranks", "By", "Kendall's τ", "given log parameters", "Regret", "Place of its favourite", "Verdict")
    rows = []
    for p in found:
        lost = NONE if p.regret is None else f"{p.regret.value:.3g}"
        place = NONE if p.regret is None or p.regret.place is None else f"{p.regret.place} of {p.regret.n}"
        rows.append((p.of, p.label, in_words(p.tau, ".2g"), in_words(p.partial, ".2g"), lost, place, p.verdict))
    return head, tuple(rows)


def _proxies(found: Found) -> list[Section]:
    if not found.proxies:
        return []
    head, rows = proxy_table(found.proxies)
    words = (
        "Kendall's τ-b with the finished shapes, with 95 % bootstrap intervals; given log parameters: what is left "
        "when size is known; regret: what its favourite loses against the best."
    )
    names = dict.fromkeys(p.of for p in found.proxies)
    charts = ((of, orders([p for p in found.proxies if p.of == of])) for of in names)
    return [
        *(Section(title=f"What ranks {of}", chart=taus(listed, of)) for of, listed in charts if listed),
        Section(
            title="Did the proxies earn their place?", words=words, table=Table(header=head, rows=rows, prose=(1, 6))
        ),
    ]


def _counted(found: Found) -> str:
    n = len(found.finished)
    return f"{found.shapes:,} shapes were priced, {found.masked} masked, {n} trained and measured."


def _when(found: Found) -> str:
    where = f" on {found.machine.cpu}" if found.machine is not None else ""
    return f"Measured on {found.date}{where}, in {found.spent_s / 60:.0f} minutes."


# ------------------------------------------------------------ from scratch


def free_html(found: free_shapes.Found) -> bytes:
    """The report of a search for decoders from scratch."""
    plan, points = found.plan, free_spots(found)[:MOST_SPOTS]
    lead = [*found.words, f"{found.asked} shapes asked for, {found.impossible} of them no models. All is estimated."]
    chart = free(points, plan.device) if points else None
    head = ("Shape", "Parameters", "Without embedding", "Decode", "First token", "Memory")
    rows = tuple(_free_shape(row) for row in found.rows if row.on_front)
    about = (
        f"{plan.prompt_tokens} prompt tokens, {plan.new_tokens} new ones, batch {plan.batch}, weights in "
        f"{plan.weights}. Drawn are {len(points)} shapes, those on the front among them."
    )
    listed = [Section(title="On the front", table=Table(header=head, rows=rows))] if rows else []
    return page.html(
        plan.title,
        "\n".join(lead),
        [Section(title="Size against speed", words=about, chart=chart), *listed],
        f"Made by Roofscope on {time.strftime('%Y-%m-%d')}. Nothing in it was measured.",
    )


def free_spots(found: free_shapes.Found) -> list[Spot]:
    """Every shape that is a model, in the plane of speed and size."""
    placed = []
    for row in found.rows:
        if row.figures:
            stage = "on the front" if row.on_front else "misses a limit" if row.missed else "beaten"
            note = f"misses {', '.join(row.missed)}" if row.missed else ""
            x, y = row.figures["tok_per_s"], row.figures["body_params"]
            placed.append(Spot(row.sizes.label, stage, x, y, note=note))
    return placed


def _free_shape(row: free_shapes.Row) -> tuple[str, ...]:
    told = row.figures
    return (
        row.sizes.label,
        si(told["n_params"], ""),
        si(told["body_params"], ""),
        f"{plain(told['tok_per_s'])} tok/s",
        si(told["ttft_s"], "s"),
        si(told["peak_memory_bytes"], "B"),
    )
