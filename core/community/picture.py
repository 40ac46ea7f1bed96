"""The board's picture: the machines of one configuration, and the rows of it that are set apart."""

from __future__ import annotations

from core.charts.chart import Chart
from core.charts.community import Mark, over_bandwidth
from core.community.board import Board


def picture(found: Board, configuration: str) -> Chart | None:
    """One configuration's machines; None where none has it."""
    shown = [s for s in found.standings if s.configuration == configuration]
    apart = [d for d in found.doubtful if d.row.configuration == configuration]
    if not shown:
        return None
    marks = [
        Mark(
            machine=s.machine,
            whose="mine" if s.own else "others",
            bandwidth=s.memory_bytes_per_s,
            tok_per_s=s.tok_per_s,
            low=s.low,
            high=s.high,
            note=f"{s.n} contributors" if s.n > 1 else "disturbed" if s.hot else "",
        )
        for s in shown
    ]
    marks += [
        Mark(
            machine=d.row.machine.label,
            whose="set apart",
            bandwidth=d.row.roofs.memory_bytes_per_s,
            tok_per_s=d.row.tok_per_s,
            low=d.row.tok_per_s,
            high=d.row.tok_per_s,
            note=d.doubts[0].reason,
        )
        for d in apart
    ]
    return over_bandwidth(marks, max(s.bytes_per_token for s in shown))
