"""The page Community: empty, with rows of others, with one's own; nothing is sent before it was read."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from streamlit.testing.v1 import AppTest

from core.community import hub
from core.community.row import encoded
from core.community.row_store import RowStore
from core.runs.store import Store
from tests.community.rows import ME, honest
from tests.pages.conftest import sound
from tests.pages.test_plan import words

Open = Callable[..., AppTest]
PAGE = "pages/compare/community.py"


def test_empty_it_says_what_to_do(app: Open, store: Store) -> None:
    at = sound(app(PAGE))
    assert "No row yet" in words(at) and "No finished run is here" in words(at)


def test_machines_beside_each_other_and_the_doubtful_apart(
    app: Open, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    row_store = RowStore(store.root)
    mine = honest(contributor=ME, machine__cpu="My laptop", tok_per_s=6.0)
    row_store.keep(mine)
    others = (honest(), honest(tok_per_s=333_336.0), honest(machine__cpu="A server", tok_per_s=9.0))
    for n, row in enumerate(others):
        assert row_store.take_in(f"{n}.json", encoded(row)).n_new == 1
    at = sound(app(PAGE))
    table = at.dataframe[0].value
    assert [m.split(",")[0] for m in table["Machine"]] == ["A server", "A desktop", "★ My laptop"]
    assert len(at.get("vega_lite_chart")) == 1
    apart = at.dataframe[1].value
    assert len(apart) == 1 and "340,003 tok/s would read 1.36 PB/s" in apart["Why"][0]

    sent: list[tuple[str, dict[str, bytes]]] = []
    monkeypatch.setattr(hub, "send", lambda repo, files: sent.append((repo, dict(files))) or "http://pr")
    at.multiselect(key="community-send-rows").set_value([mine.id])
    at = sound(at.text_input(key="community-repo").set_value("org/rows").run())
    assert encoded(mine).decode().rstrip() in "\n".join(c.value for c in at.code), "every byte is shown"
    assert at.button(key="community-send").disabled and not sent
    at = sound(at.checkbox[0].check().run())
    at = sound(at.button(key="community-send").click().run())
    assert sent == [("org/rows", hub.payload([mine]))] and "http://pr" in [c.value for c in at.code]


def test_a_row_of_ones_own_is_looked_at_before_it_is_kept(app: Open, filled: Store) -> None:
    at = sound(app(PAGE))
    at = sound(at.button(key="community-look").click().run())
    told = [w.proto.title for w in at.warning]
    assert any("ceilings of the machine that ran it" in title for title in told), "without them nobody could judge it"
    assert not RowStore(filled.root).rows()[0]
