"""Collections of garbage pass over what stays: a pytest plugin.

A session that is closed, as some tests do by the hundred, has all garbage collected, and with PyTorch, transformers or
Streamlit loaded each collection would look at a million objects of their modules. Once loaded, these are set aside.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator

import pytest

MANY = 50  # modules that were loaded since, for which it is worth doing again

_known = 0


def pytest_collection_finish() -> None:
    _set_aside()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> Iterator[None]:
    """Between two files, where no model of a test is there, which would then stay for ever."""
    result = yield
    if nextitem is not None and nextitem.path != item.path and len(sys.modules) > _known + MANY:
        _set_aside()
    return result


def _set_aside() -> None:
    global _known
    _known = len(sys.modules)
    gc.collect()
    gc.freeze()
