"""Whatever a plugin or a request is given: it runs, or one sentence says what is wrong, with exit status 2.

Every setting of every plugin takes its edges, values beside them, NaN, the infinities, wrong kinds and long text, in
the way of the command line and in the way of a page.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import msgspec
import pytest
from click.testing import CliRunner
from msgspec import inspect

from core import bounds, plugins
from core.cli import cli, making, running
from core.models import catalogue
from core.runs.check import check
from core.runs.resolve import resolve
from core.runs.store import Store
from core.types import Derive, Evaluate, Generate, Record, Request, Sampling, from_json, to_json
from hardware.errors import ExplorerError

MODEL = "tiny-moe"
LONG = "x" * 100_000
KINDS = {"backend": "Options", "strategy": "Params", "transform": "Params", "eval": "Params"}
PLUGINS = [(kind, name) for kind in KINDS for name in plugins.names(kind)]  # type: ignore[arg-type]
WRONG = (math.nan, math.inf, -math.inf, -1, 0, 2**31, 2**63, 2**200, True, None, "", "nan", LONG, "a\0b", [1], {"a": 1})


def settings_of(kind: Any, name: str) -> type[Record]:
    found: type[Record] = getattr(plugins.get(kind, name), KINDS[kind])
    return found


def shape(field: Any) -> Any:
    return bounds._plain(inspect.type_info(field.type))


def edges(found: Any) -> list[Any]:
    """The edges of a number and what lies just beyond them; the choices of a choice."""
    if isinstance(found, inspect.LiteralType):
        return [*found.values, "none of them"]
    if not isinstance(found, inspect.IntType | inspect.FloatType):
        return []
    step = 1 if isinstance(found, inspect.IntType) else 1e-9
    ends = [end for end in (found.ge, found.gt, found.le, found.lt) if end is not None]
    return [value for end in ends for value in (end - step, end, end + step)]


def asked(kind: str, name: str, given: dict[str, Any]) -> Request:
    """A request that sets this of a plugin."""
    match kind:
        case "backend":
            return Request(model=MODEL, backend=name, task=Generate(prompt="Hi"), options=given)
        case "strategy":
            return Request(model=MODEL, backend="pytorch", strategy=name, task=Generate(prompt="Hi"), params=given)
        case "eval":
            return Request(model=MODEL, backend="fake", task=Evaluate(eval=name, settings=given), profilers=())
    backend = plugins.get("transform", name).backend
    return Request(model=MODEL, backend=backend, task=Derive(transform=name, settings=given), profilers=())


def sound(error: ExplorerError) -> None:
    """One sentence and its next step."""
    for words in (error.message, error.hint):
        assert len(words) < 1000 and "\n" not in words and "Traceback" not in words, words
    assert error.message.endswith("."), error.message
    assert not {"`", "$."} & set(error.message), error.message


def test_of_a_word_without_end_the_middle_is_left_out() -> None:
    """Whoever quotes it: the names of devices, models and runs come from files of others."""
    error = ExplorerError(f"There is no device '{LONG}'.", f"Take another than {LONG}.")
    sound(error)
    assert error.message == f"There is no device '{'x' * 149}…{'x' * 48}'."
    path = "/a folder that is there" * 100
    assert ExplorerError(f"{path} is full.").message == f"{path} is full."


@pytest.mark.parametrize(("kind", "name"), PLUGINS)
def test_every_setting_declares_its_bounds(kind: str, name: str) -> None:
    for field in msgspec.structs.fields(settings_of(kind, name)):
        found = shape(field)
        if isinstance(found, inspect.IntType | inspect.FloatType):
            low, high = bounds.limits(settings_of(kind, name), field.name)
            assert low is not None and high is not None, f"{field.name} has no bounds: Annotated[..., Meta(ge=, le=)]"
        elif isinstance(found, inspect.StrType):
            assert found.max_length is not None, f"{field.name} may be of any length: use core.types.Words"
        else:
            assert isinstance(found, inspect.BoolType | inspect.LiteralType), f"{field.name} is {found}"


@pytest.mark.parametrize(("kind", "name"), PLUGINS)
def test_the_way_of_a_page(kind: str, name: str) -> None:
    """A page hands typed values over, and estimates the memory of the request's JSON."""
    plugin = plugins.get(kind, name)  # type: ignore[call-overload]
    for field in msgspec.structs.fields(settings_of(kind, name)):
        found = shape(field)
        for value in (*WRONG, *edges(found)):
            try:
                held = plugins.settings(settings_of(kind, name), {field.name: value}, plugin.label)
            except ExplorerError as error:
                sound(error)
                assert field.name in error.message, error.message
            else:
                told = getattr(held, field.name)
                assert not isinstance(told, float) or math.isfinite(told)
                assert msgspec.convert(msgspec.to_builtins(held), type(held)) == held
        odd = {field.name: math.nan}
        with pytest.raises(ExplorerError):
            resolve(asked(kind, name, odd))


def as_typed(value: Any) -> str:
    return json.dumps(value) if isinstance(value, list | dict | bool) else str(value)


@contextmanager
def only_checked(request: Request) -> Iterator[None]:
    """In place of a run: what is checked before one."""
    check(request)
    raise click.exceptions.Exit(0)
    yield


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Types a command; what can be run is only checked."""
    monkeypatch.setattr(running, "performed", only_checked)
    monkeypatch.setattr(making, "performed", only_checked)

    def typed(*words: str) -> int:
        done = CliRunner().invoke(cli, list(words), catch_exceptions=False)
        assert done.exit_code in (0, 2), done.output[-500:]
        if done.exit_code == 2:
            assert "Traceback" not in done.stderr and 0 < len(done.stderr) < 2000 and len(done.stderr.splitlines()) <= 6
        return done.exit_code

    return typed


WAYS = {
    "backend": ("run", "--prompt", "Hi", "--backend", "NAME", "--option"),
    "strategy": ("run", "--prompt", "Hi", "--backend", "pytorch", "--strategy", "NAME", "--param"),
    "eval": ("eval", "NAME", "--backend", "fake", "--param"),
    "transform": ("transform", "NAME", "--param"),
}


@pytest.mark.parametrize(("kind", "name"), PLUGINS)
def test_the_way_of_the_command_line(kind: str, name: str, command: Any) -> None:
    catalogue.entries()
    for field in msgspec.structs.fields(settings_of(kind, name)):
        found = shape(field)
        text = isinstance(found, inspect.StrType)
        chosen = (LONG, "a\0b", "", "[" * 5000) if text else ("nan", "inf", 2**200, "", LONG, [1], *edges(found)[:2])
        for value in chosen:
            words = [name if word == "NAME" else word for word in WAYS[kind]]
            command(*words, f"{field.name}={as_typed(value)}", "--model", MODEL)


def test_what_is_within_bounds_would_run(command: Any) -> None:
    """The command above refuses what is wrong, and nothing else."""
    run = ("run", "--prompt", "Hi", "--model", MODEL, "--backend", "fake")
    assert command(*run, "--param", "prefill_chunk=1", "--option", "delay_s=0.5", "--threads", "512") == 0
    assert command("eval", "qa", "--backend", "fake", "--param", "n=1000000", "--model", MODEL) == 0
    assert command(*run, "--param", "prefill_chunk=1000001") == command(*run, "--threads", "513") == 2


REQUEST = {
    "threads": (0, -1, 513, 2**40),
    "batch": (0, -1, 1025, 2**70),
    "repeats": (0, 1001),
    "warmup": (-1, 1001),
    "retries": (-1, 1001),
    "seed": (-1, 2**32, 2**80),
    "temperature": ("nan", "inf", "-inf", -0.1, 1e9),
    "top-k": (-5, 2**40),
    "top-p": ("nan", 0, 1.1, -1),
    "max-new-tokens": (0, -1, 10**9),
    "model": (LONG, "", "a\0b", "../../etc", "x" * 5000),
    "backend": (LONG, "none", "../fake"),
    "strategy": (LONG, "none"),
    "dtype": (LONG, "none"),
    "profilers": (LONG, "none,none"),
    "template": (LONG,),
    "option": ("novalue", "a=b", f"{LONG}=1", "=1"),
    "param": ("novalue", "a=b", f"a={LONG}"),
    "template-value": ("novalue", "a=" + "[" * 100_000, "a=" + '{"a":' * 2000 + "1" + "}" * 2000),
    "margin": (),
}


@pytest.mark.parametrize("option", [name for name, values in REQUEST.items() if values])
def test_a_request_out_of_bounds(option: str, command: Any) -> None:
    for value in REQUEST[option]:
        words = {"--prompt": "Hi", "--model": MODEL, "--backend": "fake"} | {f"--{option}": str(value)}
        done = CliRunner().invoke(cli, ["run", *(word for pair in words.items() for word in pair)])
        assert done.exit_code == 2 and isinstance(done.exception, SystemExit), (value, done.output[-500:])
        assert "Traceback" not in done.output and len(done.output) < 2000


@pytest.mark.parametrize(
    "odd",
    [
        {"threads": 0},
        {"seed": -1},
        {"batch": 1.5},
        {"repeats": "3"},
        {"model": None},
        {"profilers": "memory"},
        {"options": {"a": [1]}},
        {"task": Generate(prompt="Hi", sampling=Sampling(temperature=math.nan))},
        {"task": Generate(prompt="Hi", sampling=Sampling(top_p=math.nan, temperature=1.0))},
        {"task": Generate(prompt="Hi", max_new_tokens=0)},
        {"task": Generate(prompt=5)},  # type: ignore[arg-type]
        {"task": Generate(prompt="\ud800")},
        {"task": Evaluate(eval="qa", margin=math.inf)},
        {"task": None},
    ],
)
def test_a_page_cannot_ask_for_it_either(odd: dict[str, Any]) -> None:
    good: dict[str, Any] = {"model": MODEL, "backend": "fake", "task": Generate(prompt="Hi")}
    check(Request(**good))
    with pytest.raises(ExplorerError) as refused:
        check(Request(**good | odd))
    sound(refused.value)


def test_the_sentence_says_what_it_may_be() -> None:
    with pytest.raises(ExplorerError) as refused:
        resolve(asked("strategy", "autoregressive", {"prefill_chunk": 0}))
    words = "A setting of Autoregressive is wrong: prefill_chunk must be a whole number from 1 to 1000000, not 0."
    assert refused.value.message == words
    with pytest.raises(ExplorerError, match="temperature must be a number from 0 to 1000, not nan"):
        sampling = Sampling(temperature=math.nan)
        resolve(Request(model=MODEL, backend="fake", task=Generate(prompt="Hi", sampling=sampling)))
    assert bounds.limits(Request, "threads") == (1, 512) and bounds.limits(Sampling, "top_p") == (0, 1)


def test_a_run_that_was_asked_for_before_there_were_bounds_is_still_read(store: Store) -> None:
    run = store.create(Request(model=MODEL, backend="fake", seed=7))
    file = run.path / "request.json"
    file.write_bytes(file.read_bytes().replace(b'"seed":7', b'"seed":-1'))
    assert run.request == Request(model=MODEL, backend="fake", seed=-1)
    with pytest.raises(msgspec.ValidationError):
        from_json(to_json(run.request), Request)


def test_a_data_folder_that_is_a_file_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "file"
    place.write_text("not a folder")
    monkeypatch.setenv("ROOFSCOPE_HOME", str(place))
    catalogue.entries(refresh=True)
    for words in (["runs"], ["storage"], ["storage", "--limit", "1GB"], ["run", "--prompt", "Hi", "--backend", "fake"]):
        done = CliRunner().invoke(cli, words)
        assert done.exit_code == 2, done.output
        assert "a file is in its place" in done.stderr or "Not a directory" in done.stderr
    assert CliRunner().invoke(cli, ["models"]).exit_code == 0


DEEP = "[" * 200_000


@pytest.mark.parametrize("content", [DEEP, "[1, 2]", "3", '"a"', "null", "", "{", "NaN", '{"a":' * 100_000])
@pytest.mark.parametrize("name", ["config.json", "model.safetensors.index.json", "tokenizer_config.json"])
def test_json_that_is_deep_or_no_object_is_one_sentence(tmp_path: Path, name: str, content: str) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "llama"}')
    (folder / name).write_text(content)
    with pytest.raises(ExplorerError) as refused:
        check(Request(model=str(folder), backend="pytorch", task=Generate(prompt="Hi")))
    sound(refused.value)
