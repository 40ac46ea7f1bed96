"""A run on the Run page: start, watch, stop, come back to it; and what happens when it cannot run."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

import msgspec
import pytest
from streamlit.testing.v1 import AppTest

from core import plugins
from core.runs.about import About
from core.runs.store import Store
from core.types import Done, Generate, Request, Sampling
from pages.measure._again import widgets_of
from tests.pages.conftest import sound

Open = Callable[..., AppTest]
SLOW = 0.15
pytestmark = pytest.mark.usefixtures("unrepeated")


def start(at: AppTest, delay_s: float = SLOW, tokens: int = 12, crash: str = "", live: bool = False) -> str:
    """Press Run with the fake backend on a tiny preset; the run's id. live: with a pass to look at first."""
    at.selectbox(key="model").set_value("tiny-moe")
    at.selectbox(key="backend").set_value("fake").run()
    at.number_input(key="max_new_tokens").set_value(tokens)
    at.number_input(key="warmup").set_value(0)
    at.number_input(key="threads").set_value(1)
    at.toggle(key="live").set_value(live)
    at.number_input(key="o-fake-delay_s").set_value(delay_s)
    at.text_input(key="o-fake-crash").set_value(crash).run()
    at.button(key="start").click().run()
    sound(at)
    return str(at.query_params["run"][0] if isinstance(at.query_params["run"], list) else at.query_params["run"])


def until(at: AppTest, condition: Callable[[AppTest], bool], seconds: float = 120) -> AppTest:
    """Tick until it holds."""
    end = time.monotonic() + seconds
    while not condition(sound(at)):
        assert time.monotonic() < end, [p.text for p in at.get("progress")]
        time.sleep(0.4)  # drawing takes what the worker needs
        at.run()
    return at


def over(at: AppTest) -> bool:
    """While the screen rests, the page has not even a title."""
    return bool(at.title) and not any(b.key == "stop" for b in at.button)


def number(at: AppTest, label: str) -> str:
    return str(next((m.value for m in at.metric if m.label == label), "–"))


def test_a_whole_run(app: Open, store: Store) -> None:
    at = app()
    run_id = start(at, 0.4, live=True)
    until(at, lambda at: number(at, "Decode").startswith("~"))
    assert "of 12 tokens" in at.get("progress")[0].proto.text
    until(at, over)
    assert store.open(run_id).status() == "done"
    assert number(at, "Decode").endswith("tok/s") and "~" not in number(at, "Decode")
    assert store.open(run_id).result().text in [t.value for t in at.text]
    assert any("Finished" in p.proto.text for p in at.get("progress"))


def test_a_live_chart_is_fed_and_never_rebuilt(app: Open) -> None:
    at = app()
    start(at, 0.15, 16, live=True)
    specs: dict[str, set[str]] = {}

    def watch(at: AppTest) -> bool:
        for chart in at.get("vega_lite_chart"):
            names = " ".join(d.name for d in chart.proto.datasets)
            if chart.proto.alt.endswith(", live"):  # the words count: Streamlit makes them a part of the view
                specs.setdefault(names, set()).add(chart.proto.spec + chart.proto.alt)
        return over(at)

    until(at, watch)
    assert len(specs) >= 2 and all(len(found) == 1 for found in specs.values()), {k: len(v) for k, v in specs.items()}


def test_stop_keeps_what_was_measured(app: Open, store: Store) -> None:
    at = app()
    run_id = start(at, 0.2, 200, live=True)
    until(at, lambda at: number(at, "Decode") != "–")
    at.button(key="stop").click().run()
    until(at, over)
    assert store.open(run_id).status() == "cancelled"
    assert number(at, "Decode") != "–"
    assert any("Stopped" in p.proto.text for p in at.get("progress"))


def test_a_run_is_found_again_and_a_second_one_is_refused(app: Open, store: Store) -> None:
    first = app()
    run_id = start(first, 0.3, 200, live=True)
    second = sound(app())  # another tab
    assert any(b.key == "stop" for b in second.button), "the run that is going is shown"
    second.selectbox(key="backend").set_value("fake").run()
    second.button(key="start").click().run()
    assert [w.proto.title for w in sound(second).warning] == ["A run is going already"]
    assert len(store.ids()) == 1
    elsewhere = sound(app("pages/compare/history.py"))
    assert any(b.key == "strip-stop" for b in elsewhere.button), "every page shows that a run is going"
    first.button(key="stop").click().run()
    until(first, over)
    assert store.open(run_id).status() == "cancelled"


def test_a_crash_is_one_sentence_and_the_app_lives(app: Open) -> None:
    at = app()
    start(at, crash="SIGSEGV")
    until(at, over)
    assert "crashed" in at.error[0].proto.title
    assert at.error[0].value
    start(at, 0.0)
    until(at, over)
    assert number(at, "Decode").endswith("tok/s")


def test_what_cannot_run_says_so_before(app: Open) -> None:
    at = app()
    at.selectbox(key="backend").set_value("fake").run()
    at.text_area(key="prompt").set_value("   ").run()
    assert at.button(key="start").disabled
    assert "The prompt is empty" in [w.proto.title for w in sound(at).warning]
    at.text_area(key="prompt").set_value("Hello").run()
    assert not at.button(key="start").disabled
    at.selectbox(key="backend").set_value("pytorch")
    at.selectbox(key="model").set_value("deepseek-v3").run()
    assert at.button(key="start").disabled, "it does not fit"
    at.toggle(key="allow_oversize").set_value(True).run()
    assert not at.button(key="start").disabled, "run anyway"


def test_a_prompt_that_is_too_long_is_not_dropped(app: Open) -> None:
    at = app(model="tiny-moe", backend="fake")
    at.text_area(key="prompt").set_value("word " * 30_000).run()
    assert any("150,000 characters" in w.proto.title for w in sound(at).warning)
    assert at.button(key="start").disabled and len(at.text_area(key="prompt").value) == 150_000


def test_a_long_run_says_how_long_and_too_many_threads_that_they_wait(app: Open) -> None:
    at = app(model="tiny-moe", backend="fake", repeats="1000", max_new_tokens="2000", threads="512")
    said = " ".join(c.value for c in sound(at).caption)
    assert " passes, a rough guess" in said and "512 threads on" in said
    assert re.search(r"\*\*About \d[\d.]* (s|min|h)\*\* for 2,000 new tokens: ", said), "no digit that nobody knows"


def test_more_tokens_than_the_context_has_are_refused_before_the_run(app: Open) -> None:
    at = sound(app(model="tiny-moe", backend="fake", max_new_tokens="100000"))
    assert at.button(key="start").disabled
    assert any("100,000 new tokens exceed the context of 2,048 tokens" in w.proto.title for w in at.warning)


def test_an_unknown_model_in_the_address(app: Open) -> None:
    for model, words in (("/no/such/model.gguf", "no file or folder"), ("owner/name", "no model called")):
        at = sound(app(model=model))
        assert at.button(key="start").disabled
        assert any(words in w.proto.title for w in at.warning)


@pytest.mark.parametrize(("model", "offered"), [("org/unknown", True), ("/nowhere/m.gguf", False), ("unknown", False)])
def test_what_may_be_of_the_hub_is_offered_from_there(app: Open, model: str, offered: bool) -> None:
    at = app(model=model)
    assert any(button.key == "get-model" for button in at.button) == offered


def test_an_encoder_is_offered_what_it_can_do(app: Open) -> None:
    at = sound(app(model="bert-base-uncased", backend="fake"))
    assert at.button(key="start").disabled
    assert any("an encoder cannot do" in w.proto.title for w in at.warning)
    at.button(key="use-strategy").click().run()
    assert sound(at).selectbox(key="strategy").value == "encode"
    assert not at.button(key="start").disabled


def test_a_configuration_comes_from_the_address(app: Open) -> None:
    at = sound(app(model="gpt2", backend="fake", strategy="native", prompt="Bonjour", max_new_tokens="7", batch="3"))
    assert at.selectbox(key="model").value == "gpt2"
    assert at.selectbox(key="backend").value == "fake"
    assert at.selectbox(key="strategy").value == "native"
    assert at.text_area(key="prompt").value == "Bonjour"
    assert at.number_input(key="max_new_tokens").value == 7
    assert at.number_input(key="batch").value == 3


def test_the_form_survives_another_page(app: Open, filled: Store) -> None:
    at = app()
    at.selectbox(key="model").set_value("gpt2").run()
    at.switch_page("pages/compare/history.py").run()
    at.switch_page("pages/measure/run.py").run()
    assert sound(at).selectbox(key="model").value == "gpt2"


def test_an_asked_run_is_shown(app: Open, filled: Store) -> None:
    newest, older = filled.ids()
    at = sound(app(run=older))
    assert any("Autoregressive" in m.value for m in at.markdown)
    at = sound(app(run=newest))
    assert any("Native" in m.value for m in at.markdown)


@pytest.mark.parametrize("strategy", plugins.names("strategy"))
def test_every_strategy_has_its_settings(app: Open, strategy: str) -> None:
    fields = plugins.get("strategy", strategy).Params.__struct_fields__
    assert {f"p-{strategy}-{field}" for field in fields} <= keys(sound(app(strategy=strategy, backend="fake")))


@pytest.mark.parametrize("backend", plugins.names("backend"))
def test_every_backend_has_its_settings(app: Open, backend: str) -> None:
    fields = plugins.get("backend", backend).Options.__struct_fields__
    assert {f"o-{backend}-{field}" for field in fields} <= keys(sound(app(backend=backend)))


def keys(at: AppTest) -> set[str | None]:
    return {w.key for kind in ("number_input", "toggle", "selectbox", "text_input") for w in at.get(kind)}


def test_a_model_that_the_backend_cannot_get_at_offers_one_that_can(app: Open) -> None:
    at = app()
    at.selectbox(key="model").set_value("gpt2").run()
    at.selectbox(key="backend").set_value("llama_cpp").run()
    assert at.button(key="start").disabled
    assert any("architecture without weights" in w.proto.title for w in sound(at).warning)
    at.button(key="use-backend").click().run()
    assert at.selectbox(key="backend").value == "pytorch" and not at.button(key="start").disabled
    at.number_input(key="threads").set_value(500)
    at.number_input(key="repeats").set_value(1000).run()
    said = [c.value for c in sound(at).caption]
    assert any("500 threads on" in c for c in said) and any(" passes, a rough guess" in c for c in said), said
    at.text_area(key="prompt").set_value("a" * 100_001).run()
    assert at.button(key="start").disabled and any("100,001 characters" in w.proto.title for w in sound(at).warning)


def test_a_run_is_begun_again_named_and_its_settings_fill_the_form(app: Open, filled: Store) -> None:
    request = Request(
        model="tiny-moe",
        backend="fake",
        strategy="jacobi",
        task=Generate(
            prompt="Say it",
            max_new_tokens=5,
            chat=False,
            system="Be brief.",
            sampling=Sampling(temperature=0.5, top_k=7),
        ),
        threads=1,
        warmup=2,
        repeats=3,
        seed=9,
        profilers=("memory",),
        params={"window": 5},
        options={"delay_s": 0},
    )
    run = filled.create(request)
    run.append(Done(t_s=1.0))
    at = sound(app(run=run.id))
    at.button(key="use-settings").click().run()
    sound(at)
    assert [t.value for t in at.toast][-1].endswith("Not in the form: the system message.")
    assert (at.selectbox(key="strategy").value, at.text_area(key="prompt").value) == ("jacobi", "Say it")
    numbers = {
        name: at.number_input(key=name).value for name in ("max_new_tokens", "warmup", "repeats", "seed", "top_k")
    }
    assert numbers == {"max_new_tokens": 5, "warmup": 2, "repeats": 3, "seed": 9, "top_k": 7}
    assert at.number_input(key="p-jacobi-window").value == 5 and not at.toggle(key="chat").value
    at.button(key="start").click().run()
    started = sound(at).query_params["run"]
    asked = filled.open(started[0] if isinstance(started, list) else started).request
    task = msgspec.structs.replace(request.task, system="")  # the form has none
    wanted = msgspec.structs.replace(request, task=task, options={}, retries=0)
    assert asked == wanted, "a default is left out"
    until(at, over)
    at.text_input(key=f"about-name-{asked_run(at)}").set_value("First :red[try]")
    at.text_area(key=f"about-note-{asked_run(at)}").set_value("[a](http://x) note")
    next(b for b in at.button if b.key == f"about-keep-{asked_run(at)}" or b.label == "Keep").click().run()
    assert filled.open(asked_run(at)).about == About(name="First :red[try]", note="[a](http://x) note")
    head = next(m.value for m in sound(at).markdown if "tiny-moe" in m.value)
    assert r"First \:red\[try\]" in head or ":red[" not in head
    before = len(filled.ids())
    at.button(key="run-again").click().run()
    assert len(filled.ids()) == before + 1 and filled.open(asked_run(sound(at))).request == asked
    until(at, over)


def asked_run(at: AppTest) -> str:
    found = at.query_params["run"]
    return str(found[0] if isinstance(found, list) else found)


@pytest.mark.parametrize("backend", plugins.names("backend"))
@pytest.mark.parametrize("strategy", plugins.names("strategy"))
def test_every_setting_has_a_widget_of_the_right_kind(backend: str, strategy: str) -> None:
    """What a number box holds as a fraction stays one: an integer from JSON would be refused."""
    task = Generate(prompt_tokens=3)
    found = widgets_of(Request(model="m", backend=backend, strategy=strategy, task=task))
    for kind, key in (
        (plugins.get("backend", backend).Options, f"o-{backend}"),
        (plugins.get("strategy", strategy).Params, f"p-{strategy}"),
    ):
        for field in msgspec.structs.fields(kind):
            value = found[f"{key}-{field.name}"]
            if isinstance(field.default, float):
                assert isinstance(value, float)
            elif field.default is not msgspec.NODEFAULT and field.default is not None:
                assert value == field.default
