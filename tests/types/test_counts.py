"""What sessions note of their forwards, how equal ones become one row, and what is counted of them."""

from __future__ import annotations

from core.types import Counts, Forwards, Ledger, counted, from_json, to_json, together
from core.types.counts import Joining, spans


def test_equal_forwards_with_a_rising_past_are_one_row() -> None:
    ledger = Ledger()
    for past in (8, 9, 10):
        ledger.note(1, 1, past, 2)
    for past in (11, 11):  # a window that accepted nothing
        ledger.note(16, 16, past, 2)
    ledger.note(1, 1, 12, 2)
    assert ledger.take() == (
        Forwards(n_new=1, n_logits=1, n_past=8, n_sequences=2, times=3, rise=1),
        Forwards(n_new=16, n_logits=16, n_past=11, n_sequences=2, times=2, rise=0),
        Forwards(n_new=1, n_logits=1, n_past=12, n_sequences=2),
    )
    assert ledger.take() == ()


def test_what_rises_unevenly_or_falls_is_not_joined() -> None:
    ledger = Ledger()
    for past in (4, 5, 7, 6):
        ledger.note(1, 1, past, 1)
    rows = ledger.take()
    assert [(f.n_past, f.times, f.rise) for f in rows] == [(4, 2, 1), (7, 1, 0), (6, 1, 0)]
    assert [past for f in rows for past in f.pasts] == [4, 5, 7, 6]


def test_pasts_are_those_of_every_forward() -> None:
    assert list(Forwards(n_new=1, n_logits=1, n_past=5, times=4, rise=3).pasts) == [5, 8, 11, 14]
    assert list(Forwards(n_new=1, n_logits=1, n_past=5, times=2).pasts) == [5, 5]


def test_single_forwards_of_many_steps_are_joined_as_they_come() -> None:
    joining = Joining()
    shapes = [(1, 3, "model"), (1, 4, "model"), (1, 5, "model"), (1, 7, "model"), (4, 8, "model"), (4, 8, "draft")]
    for n_new, n_past, of in shapes:
        joining.add(Forwards(n_new=n_new, n_logits=1, n_past=n_past, of=of))  # type: ignore[arg-type]
    row = Forwards(n_new=1, n_logits=1, n_past=9, times=3, rise=2)
    joining.add(row)
    assert joining.all() == (
        Forwards(n_new=1, n_logits=1, n_past=3, times=3, rise=1),
        Forwards(n_new=1, n_logits=1, n_past=7),
        Forwards(n_new=4, n_logits=1, n_past=8),
        Forwards(n_new=4, n_logits=1, n_past=8, of="draft"),
        row,
    )
    assert [past for f in joining.all()[:2] for past in f.pasts] == [3, 4, 5, 7]


def test_blocks_are_kept_as_stretches() -> None:
    assert spans([0, 1, 2, 7, 8]) == ((0, 3), (7, 9)) and spans(range(3, 6)) == ((3, 6),) == spans([3, 4, 5])
    assert spans([]) == () == spans(range(0))
    ledger = Ledger()
    ledger.note(1, 1, 0, 1, "model", [0, 1, 5])
    (row,) = ledger.take()
    assert row.blocks == ((0, 2), (5, 6)) and from_json(to_json(row), Forwards) == row


def test_counts_are_of_the_models_own_forwards() -> None:
    ran = (
        Forwards(n_new=5, n_logits=5, n_past=8),
        Forwards(n_new=1, n_logits=1, n_past=8, of="blocks", blocks=((0, 3),), times=4, rise=1),
        Forwards(n_new=1, n_logits=1, n_past=8, of="draft", times=2),
        Forwards(n_new=3, n_logits=3, n_past=0, of="heads"),
    )
    assert counted(ran, 6, tokens=3) == Counts(tokens=3, forwards=1, inputs=5, drafts=6)


def test_depth_is_the_share_of_the_blocks_that_ran() -> None:
    ran = (
        Forwards(n_new=1, n_logits=1, n_past=8, blocks=((0, 2), (5, 6)), times=3),
        Forwards(n_new=1, n_logits=1, n_past=11),
        Forwards(n_new=1, n_logits=0, n_past=8, of="fill", blocks=((2, 5),)),
    )
    assert counted(ran, 6).depth == (3 * 0.5 + 1) / 4 and counted(ran, 6).forwards == 4
    assert counted(ran[1:2], 6).depth is None


def test_counts_of_several_are_their_sum_and_the_mean_depth() -> None:
    parts = [Counts(tokens=3, forwards=1, inputs=4, depth=0.5), Counts(tokens=1, forwards=3, inputs=3, drafts=2)]
    assert together(parts) == Counts(tokens=4, forwards=4, inputs=7, drafts=2, depth=(0.5 + 3) / 4)
    assert together([]) == Counts() and together([Counts(tokens=2)]).depth is None
