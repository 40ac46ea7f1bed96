"""What stands behind a sequence's end is padding: it is neither shown nor counted."""

from __future__ import annotations

from core.worker.ends import Ends


def test_every_sequence_counts_up_to_its_own_end() -> None:
    ends = Ends(3, {9})
    assert ends.up_to_end([[1], [2], [9]]) == ((1,), (2,), (9,)) and ends.going == 2
    assert ends.up_to_end([[9], [3], [4]]) == ((9,), (3,), ()) and ends.going == 1
    assert ends.up_to_end([[5], [9], [9]]) == ((), (9,), ()) and ends.going == 0


def test_an_end_inside_a_step_cuts_it() -> None:
    ends = Ends(1, {9})
    assert ends.up_to_end([[1, 9, 2]]) == ((1, 9),) and ends.going == 0


def test_nothing_ends_where_nothing_stops() -> None:
    ends = Ends(2, ())
    assert ends.up_to_end([[1], [9]]) == ((1,), (9,)) and ends.up_to_end([]) == () and ends.going == 2
