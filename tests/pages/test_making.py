"""The pages that make, train, evaluate, talk and race, clicked through in AppTest on the fake backend."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from core.models import catalogue, derived
from core.runs import chats
from core.runs.chats import Chat, Turn
from core.runs.store import Store
from core.types import Derive, Evaluate, Generate, Made, Request, Score
from pages.measure._evaluate_view import interval_text
from pages.ui.derive_view import larger
from tests.pages.conftest import sound
from tests.support.tiny import hf_folder

Open = Callable[..., AppTest]
pytestmark = pytest.mark.usefixtures("unrepeated")


def until(at: AppTest, done: Callable[[], bool], timeout_s: float = 180) -> AppTest:
    """Draw the page anew until something is so."""
    end = time.monotonic() + timeout_s
    while not done():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.4)  # drawing takes what the worker needs
        sound(at.run())
    return sound(at.run())


def button(at: AppTest, label: str) -> AppTest:
    found = [b for b in at.button if b.label == label]
    assert found, [b.label for b in at.button]
    return found[0].click().run()


def runs(home: Path, kind: type) -> list[str]:
    store = Store(home / "data")
    return [i for i in store.ids() if isinstance(store.open(i).request.task, kind)]


def ended(home: Path, kind: type, n: int) -> Callable[[], bool]:
    store = Store(home / "data")
    return lambda: sum(store.open(i).status() == "done" for i in runs(home, kind)) >= n


def test_a_model_is_made_listed_and_deleted(app: Open, home: Path, tmp_path: Path) -> None:
    catalogue.add_folder(str(hf_folder(tmp_path)))
    at = sound(
        app("pages/measure/transform.py", model="tiny-llama", transform="drop_layers", **{"t-drop_layers-n": "1"})
    )
    sound(button(at, "Make it"))
    until(at, ended(home, Derive, 1))
    (made,) = [e for e in catalogue.entries(refresh=True) if e.family == "derived"]
    assert any(made.id in s.proto.title.replace("\\", "") for s in at.success)
    assert any(made.id in set(frame.value.get("Model", ())) for frame in at.dataframe)


def test_a_model_that_outweighs_its_source_is_said_to() -> None:
    made = Made(t_s=1, model="m", label="m", note="", size_bytes=104_000_000, n_params=1, bits_per_weight=6.2)
    assert "104 MB against 98.4 MB" in larger(made, 98_362_432)
    assert larger(made, 104_000_000) == larger(made, None) == ""


def test_an_interval_of_thousands_is_written_out() -> None:
    score = Score(name="x", label="x", unit="", value=50.8, low=1.0, high=2984.0, n=2, better="lower")
    assert interval_text(score) == "1 to 2,980"


def test_training_and_transforming_offer_different_methods(app: Open) -> None:
    first = {}

    def methods(page: str) -> set[str]:
        box = next(b for b in sound(app(page)).selectbox if b.label == "Method")
        first[page] = str(box.value)
        return set(box.options)

    made, trained = methods("pages/measure/transform.py"), methods("pages/measure/train.py")
    assert made and trained and not made & trained
    assert "Consistency training" in trained
    assert list(first.values()) == ["gguf_quantize", "finetune"], "what the hints recommend comes first"


def test_a_training_shows_its_curves_and_what_to_do_with_the_model(app: Open, home: Path, tmp_path: Path) -> None:
    folder = hf_folder(tmp_path)
    config = (folder / "config.json").read_text()
    (folder / "config.json").write_text(
        config.replace('"max_position_embeddings": 96', '"max_position_embeddings": 640')
    )
    catalogue.add_folder(str(folder))
    given = {"domain": "sql_easy", "examples": "30", "steps": "3", "batch": "1", "window": "4", "probe_questions": "2"}
    query = {f"t-consistency-{name}": value for name, value in given.items()}
    at = sound(app("pages/measure/train.py", model="tiny-llama", transform="consistency", **query))
    sound(button(at, "Train"))
    at = until(at, ended(home, Derive, 1))
    headings = [m.value.split("**")[1] for m in at.markdown if m.value.startswith("**")]
    assert headings.index("Accuracy") < headings.index("Tokens per forward") < headings.index("Consistency loss")
    links = {link.proto.label for link in at.get("page_link")}
    assert {"Run it", "Race it"} <= links


def test_an_evaluation_is_made_and_compared(app: Open, home: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("The sea is wide.\n\nThe boats are small and many.\n")
    query = {"backend": "fake", "eval": "perplexity", "e-perplexity-text": str(text)}
    at = sound(app("pages/measure/evaluate.py", **query))
    sound(button(at, "Evaluate"))
    until(at, ended(home, Evaluate, 1))
    assert any(m.label == "Perplexity" for m in at.metric)
    sound(button(at, "Evaluate"))
    until(at, ended(home, Evaluate, 2))
    assert any("Verdict" in frame.value.columns for frame in at.dataframe), "the two runs are compared"
    exports = {b.label for b in at.get("download_button")}
    assert "Items as CSV" in exports and not exports & {"Layers as CSV", "Steps as CSV", "Training curves as CSV"}


def test_both_sides_answer_one_after_the_other_and_remember(app: Open, home: Path) -> None:
    query = {"a-backend": "fake", "b-backend": "fake", "a-limit": "6", "b-limit": "8", "b-joules": "false"}
    query |= {"a-silent": "false", "b-silent": "false"}
    at = sound(app("pages/measure/chat.py", **query))
    sound(button(at, "What is the capital of France?"))
    until(at, ended(home, Generate, 2))
    at.chat_input[0].set_value("And of Italy?").run()
    until(at, ended(home, Generate, 4))
    store = Store(home / "data")
    tasks = [store.open(i).request.task for i in reversed(runs(home, Generate))]
    assert [len(t.history) for t in tasks if isinstance(t, Generate)] == [0, 0, 2, 2]
    assert {t.max_new_tokens for t in tasks if isinstance(t, Generate)} == {6, 8}
    again = sound(app("pages/measure/chat.py", **query, chat=query_of(at, "chat")))  # as after a reload
    asked = [t.value for t in again.text]
    assert "What is the capital of France?" in asked and "And of Italy?" in asked
    assert not [c for c in again.caption if "No answer" in c.value], "the answers are there as well"
    again.button(key="regenerate").click().run()
    until(again, ended(home, Generate, 6))
    task = store.open(runs(home, Generate)[0]).request.task
    assert isinstance(task, Generate) and task.prompt == "And of Italy?" and len(task.history) == 2
    at.run()
    assert [t.value for t in sound(at).text] == [t.value for t in again.text], "the first tab follows"


def test_an_earlier_chat_is_offered_and_a_damaged_one_is_said(app: Open, home: Path) -> None:
    hostile = "](http://x) <b>What</b> :red[now]?"
    for i, question in enumerate((hostile, "Second")):
        side = Request(model="tiny-moe", backend="fake", task=Generate(prompt=None))
        chats.save(home / "data", f"2026112{i}-080000-abcdef", Chat(sides=(side,), turns=(Turn(question=question),)))
    at = sound(app("pages/measure/chat.py"))
    at.button(key="chat-20261120-080000-abcdef").click().run()
    assert hostile in [t.value for t in sound(at).text] and query_of(at, "chat") == "20261120-080000-abcdef"
    (home / "data" / "chats" / "20261120-080000-abcdef.json").write_text("{")
    at = sound(app("pages/measure/chat.py", chat="20261120-080000-abcdef"))
    assert "cannot be read" in at.error[0].proto.title
    assert "names no chat" in sound(app("pages/measure/chat.py", chat="../../x")).error[0].proto.title


def query_of(at: AppTest, name: str) -> str:
    found = at.query_params[name]
    return str(found[0] if isinstance(found, list) else found)


def test_a_trained_model_is_asked_what_it_was_trained_for_and_as_it_was(app: Open, home: Path, tmp_path: Path) -> None:
    facts = {"domain": "sql_names", "dtype": "bf16", "window": 5, "fill": "end"}
    with derived.building("trained") as folder:
        shutil.copytree(hf_folder(tmp_path), folder, dirs_exist_ok=True)
        derived.write_about(folder, {"label": "Trained", "facts": facts})
    at = sound(app("pages/understand/jacobi.py", backend="pytorch", model="trained").run())
    chosen = {widget.label: widget.value for widget in at.segmented_control}
    assert chosen["Prompt"] == "sql" and chosen["Weights as"] == "bf16"
    assert {n.label: n.value for n in at.number_input}["Window (tokens)"] == 5


def test_a_race_runs_both_and_says_how_they_fared(app: Open, home: Path) -> None:
    at = sound(app("pages/understand/jacobi.py", backend="fake", limit="16"))
    sound(button(at, "Race"))
    until(at, ended(home, Generate, 2))
    store = Store(home / "data")
    assert {store.open(i).request.strategy for i in runs(home, Generate)} == {"autoregressive", "jacobi"}
    assert {m.label for m in at.metric} >= {
        "Speed-up over autoregressive",
        "Tokens per forward",
        "Right before their turn",
    }


def test_a_stop_of_one_run_ends_the_race(app: Open, home: Path) -> None:
    from pages.ui import state

    query = {"backend": "fake", "limit": "512", "rival-o-fake-delay_s": "0.2"}
    sound(button(sound(app("pages/understand/jacobi.py", **query)), "Race"))
    (only,) = runs(home, Generate)
    state.runner().cancel(only)
    state.runner().wait(only)
    at = sound(app("pages/understand/jacobi.py", **query))
    assert Store(home / "data").open(only).status() == "cancelled" and runs(home, Generate) == [only]
    assert not next(b for b in at.button if b.label == "Race").disabled


def test_pairs_are_measured_in_alternating_order_beside_a_prediction(app: Open, home: Path) -> None:
    at = sound(app("pages/understand/decoding.py", backend="fake", limit="16", pairs="2"))
    sound(button(at, "Measure"))
    until(at, ended(home, Generate, 4))
    store = Store(home / "data")
    order = [store.open(i).request.strategy for i in reversed(runs(home, Generate))]
    assert order == ["autoregressive", "jacobi", "jacobi", "autoregressive"]
    reloaded = sound(app("pages/understand/decoding.py", backend="fake", limit="16", pairs="2"))
    shown = {m.label: m.value for m in reloaded.metric}
    assert shown["Speed-up over autoregressive"] != "–" and shown["Predicted speed-up"] != "–"


def test_trade_offs_without_a_study_says_how_to_get_one(app: Open) -> None:
    at = sound(app("pages/compare/tradeoffs.py"))
    assert any("study" in m.value.lower() for m in (*at.markdown, *at.caption))


def test_what_is_behind_a_variant_is_reached_by_its_name(app: Open) -> None:
    at = sound(app("pages/compare/tradeoffs.py"))
    names = at.selectbox(key="ladder-variant")
    before = {m.value for m in at.markdown}
    sound(names.select_index(1).run())
    shown = {m.value for m in at.markdown} - before
    assert [m for m in shown if names.options[1].split(" · ")[-1] in m], shown


@pytest.mark.parametrize("page", ["decoding", "jacobi"])
def test_two_ways_to_decode_are_refused_before_they_are_measured(app: Open, page: str) -> None:
    """As on the page Run: what the backend cannot get at, with the one that can at hand."""
    at = sound(app(f"pages/understand/{page}.py", model="gpt2", backend="llama_cpp"))
    assert at.button(key="start").disabled
    assert any("architecture without weights" in w.proto.title for w in at.warning)
    at.button(key="use-backend").click().run()
    assert not sound(at).button(key="start").disabled and not at.warning
