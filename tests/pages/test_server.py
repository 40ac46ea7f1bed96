"""What the server does beside drawing pages."""

from __future__ import annotations

import gc
import weakref
from types import SimpleNamespace

from streamlit.runtime.memory_session_storage import MemorySessionStorage
from streamlit.runtime.session_manager import SessionInfo

from pages.ui.server import end_left


class Tab:
    """A session, as far as its storage looks at it."""

    def __init__(self, name: str) -> None:
        self.id = name


def test_a_tab_that_does_not_come_back_in_time_is_let_go_without_another_one() -> None:
    now = SimpleNamespace(s=0.0)
    left = MemorySessionStorage(ttl_seconds=60)
    left._cache = type(left._cache)(maxsize=128, ttl=60, timer=lambda: now.s)
    tab = Tab("a")
    known = weakref.ref(tab)
    left.save(SessionInfo(client=None, session=tab))  # type: ignore[arg-type]
    del tab
    now.s = 59.0
    end_left(left)
    assert left.get("a") is not None
    now.s = 61.0
    gc.collect()
    assert left.get("a") is None and known() is not None, "Streamlit ends it by itself: this is needed no more"
    end_left(left)
    gc.collect()
    assert known() is None
