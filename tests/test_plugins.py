"""Settings of a plugin: typed text in, a struct or one sentence out."""

import pytest

from core import plugins
from core.plugins import settings
from core.types import Record
from hardware.errors import ExplorerError


class Example(Record):
    depth: int = 3
    fast: bool = False


def test_text_becomes_what_the_field_wants() -> None:
    assert settings(Example, {"depth": "7", "fast": "true"}, "It") == Example(depth=7, fast=True)
    assert settings(Example, {}, "It") == Example()


@pytest.mark.parametrize(("given", "says"), [({"dept": 1}, "no setting 'dept'"), ({"depth": "deep"}, "depth")])
def test_a_wrong_setting_is_one_sentence(given: dict[str, object], says: str) -> None:
    with pytest.raises(ExplorerError, match=says) as error:
        settings(Example, given, "It")
    assert "depth, fast" in error.value.hint


@pytest.mark.parametrize("name", plugins.names("backend"))
def test_every_backend_refuses_a_setting_it_does_not_know(name: str) -> None:
    plugin = plugins.get("backend", name)
    with pytest.raises(ExplorerError, match="no setting 'colour'"):
        settings(plugin.Options, {"colour": "red"}, plugin.label)


@pytest.mark.parametrize("kind", ["backend", "strategy", "profiler"])
def test_every_plugin_has_the_attributes_of_its_contract(kind: str) -> None:
    import core.types

    contract = getattr(core.types, kind.capitalize())
    wanted = {n for n in (*contract.__annotations__, *vars(contract)) if not n.startswith("_")}
    for name in plugins.names(kind):
        plugin = plugins.get(kind, name)
        assert plugin.name == name
        assert not {attribute for attribute in wanted if not hasattr(plugin, attribute)}, name


def test_only_models_behind_a_server_are_served() -> None:
    assert [name for name in plugins.names("backend") if plugins.served(name)] == ["endpoint"]
    assert not plugins.served("of another version")


def test_a_label_is_read_without_its_brackets_and_an_unknown_name_stays() -> None:
    assert plugins.label("backend", "llama_cpp") == "llama.cpp"
    assert plugins.label("backend", "from-elsewhere") == "from-elsewhere"
    assert all(
        plugins.label(kind, n) and "(" not in plugins.label(kind, n)
        for kind in plugins.KINDS
        for n in plugins.names(kind)
    )
