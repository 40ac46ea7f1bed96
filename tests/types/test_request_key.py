"""One key for equal requests, whether Python built them or JSON was read, over every setting of every plugin."""

from __future__ import annotations

import hashlib

import msgspec
import pytest

from core.types import Evaluate, Generate, Request, Sampling, from_json, to_json
from tests.test_bounds import PLUGINS, asked, edges, settings_of, shape

PLAIN = Request(model="m", backend="fake", params={"window": 8}, task=Generate(prompt="Hello", max_new_tokens=300))


def read(request: Request) -> Request:
    return from_json(to_json(request), Request)


@pytest.mark.parametrize(("kind", "name"), PLUGINS)
def test_every_setting_of_a_plugin_has_one_form(kind: str, name: str) -> None:
    """Whole numbers as int and as float, the rest as they are; other values give other keys."""
    for field in msgspec.structs.fields(settings_of(kind, name)):
        values = [*edges(shape(field)), True, "words", 3, 0.25, None]
        keys = set()
        for value in values:
            request = asked(kind, name, {field.name: value})
            key = request.key()
            keys.add(key)
            assert read(request).key() == key, (field.name, value)
            if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 2**53 and value % 1 == 0:
                for same in (int(value), float(value)):
                    other = asked(kind, name, {field.name: same})
                    assert other == request and other.key() == key, (field.name, same)
        assert len(keys) == len({(isinstance(value, bool), value) for value in values}), field.name


@pytest.mark.parametrize(
    "same",
    [
        Request(model="m", backend="fake", params={"window": 8.0}, task=Generate(prompt="Hello", max_new_tokens=300)),
        msgspec.structs.replace(PLAIN, strategy="".join(["auto", "regressive"])),
        msgspec.structs.replace(PLAIN, seed=0, retries=2, profilers=("memory", "layers"), options={}),
        msgspec.structs.replace(PLAIN, task=Generate(prompt="Hello", max_new_tokens=300, sampling=Sampling())),
        msgspec.structs.replace(
            PLAIN, task=Generate(prompt="Hello", max_new_tokens=300, sampling=Sampling(temperature=float("0")))
        ),
    ],
)
def test_defaults_that_are_written_out_and_whole_numbers_change_no_key(same: Request) -> None:
    assert same == PLAIN and same.key() == PLAIN.key() == read(same).key()


def test_what_json_reads_otherwise_has_the_same_key() -> None:
    """A temperature of 1 comes back as 1.0, tuples of a template's values as lists."""
    sampled = Generate(prompt="a", sampling=Sampling(temperature=1), template_values={"tools": ("x", 1.0)})
    request = msgspec.structs.replace(PLAIN, task=sampled)
    assert to_json(read(request)) != to_json(request) and read(request).key() == request.key()
    margin = msgspec.structs.replace(PLAIN, task=Evaluate(eval="qa", margin=1))
    assert read(margin).key() == margin.key()


def test_keys_of_old_runs_hold_where_nothing_was_in_two_forms() -> None:
    assert PLAIN.key() == hashlib.sha256(to_json(PLAIN)).hexdigest()[:16]
    others = [
        msgspec.structs.replace(PLAIN, seed=1),
        msgspec.structs.replace(PLAIN, params={"window": 8.5}),
        msgspec.structs.replace(PLAIN, params={"window": True}),
        msgspec.structs.replace(PLAIN, params={"window": "8"}),
        msgspec.structs.replace(PLAIN, task=Evaluate(eval="qa")),
    ]
    assert len({PLAIN.key(), *(other.key() for other in others)}) == 1 + len(others)
