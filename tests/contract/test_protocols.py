"""Every plugin has the members of its typed protocol, and its verbs can be called as the protocol says."""

from __future__ import annotations

from typing import Any, Protocol, get_args

import pytest

from core import plugins
from core.types import Backend, Eval, Profiler, Record, Strategy, Transform
from tests.support.protocols import faults

PROTOCOLS = {"backend": Backend, "strategy": Strategy, "profiler": Profiler, "transform": Transform, "eval": Eval}


def test_every_kind_has_a_protocol() -> None:
    assert set(PROTOCOLS) == set(get_args(plugins.Kind)) == set(plugins.KINDS)


@pytest.mark.parametrize("kind", PROTOCOLS)
def test_every_plugin_keeps_its_protocol(kind: Any) -> None:
    found = {name: plugins.get(kind, name) for name in plugins.names(kind)}
    assert found and all(plugin.name == name for name, plugin in found.items())
    extra = {name: int("draft" in getattr(p, "Params", Record).__struct_fields__) for name, p in found.items()}
    wrong = {name: faults(plugin, PROTOCOLS[kind], extra=extra[name]) for name, plugin in found.items()}
    assert not {name: said for name, said in wrong.items() if said}


class Speaker(Protocol):
    name: str
    words: frozenset[str]

    def say(self, word: str, times: int = 1) -> str: ...


class Good:
    name, words = "good", frozenset({"a"})

    def say(self, word: str, times: int = 1, loud: bool = False) -> str:
        return word


class Bad:
    name, words = 3, frozenset({"a"})

    def say(self, text: str, times: int, aloud: bool) -> str:
        return text


def test_a_fault_is_seen() -> None:
    assert faults(Good(), Speaker) == []
    assert faults(object(), Speaker) == ["name is missing", "words is missing", "say is missing"]
    said = " ".join(faults(Bad(), Speaker))
    for words in ("name is 3", "'text' where 'word'", "demands 'times'", "demands aloud"):
        assert words in said
    assert "aloud" not in " ".join(faults(Bad(), Speaker, extra=1))
