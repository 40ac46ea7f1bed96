"""Two results side by side."""

from __future__ import annotations

import time

import msgspec

from core.runs.compare import differences, ratios, settings, unlike, words
from core.runs.recording import Recording
from core.runs.summarize import summarize
from core.types import Derive, Generate, Request, Result, Sampling, Unrest
from tests.support.facts import host, setup

A = Request(model="m", backend="fake", task=Generate(prompt="x"), options={"delay_s": 0.1})
B = msgspec.structs.replace(
    A, backend="pytorch", task=Generate(prompt="x", sampling=Sampling(temperature=0.5)), options={}
)


def result(request: Request, **more: object) -> Result:
    return msgspec.structs.replace(summarize("r", Recording(request, []), "done"), **more)


def test_differences_name_every_setting_that_differs() -> None:
    found = {d.name: (d.a, d.b) for d in differences(A, B, result(A), result(B))}
    assert found == {"backend": ("Fake", "PyTorch"), "temperature": ("0.0", "0.5"), "delay s": ("0.1", "–")}
    assert [d.label for d in differences(A, B, result(A), result(B)) if d.name == "delay s"] == ["Delay per step (s)"]


def test_a_setting_has_the_label_of_the_plugin_that_it_belongs_to() -> None:
    drawn = Generate(prompt="x", ignore_eos=True, sampling=Sampling(temperature=1.0, top_k=5))
    asked = Request(model="m", backend="fake", task=drawn, dtype="fp32", strategy="jacobi", params={"window": 4})
    told = settings(asked, result(asked, dtype="fp32"))
    wanted = ("Weights as", "fp32"), ("Ignore end of text", "yes"), ("Top k", "5"), ("Window (tokens)", "4")
    assert [told[name] for name in ("dtype", "ignore eos", "top k", "window")] == list(wanted)
    made = Request(model="m", backend="pytorch", task=Derive(transform="drop_layers", settings={"n": 2}))
    assert settings(made, result(made))["n"] == ("Blocks to leave out", "2")


def test_versions_and_what_the_worker_chose_count() -> None:
    a = result(A, dtype="fp32", setup=setup(versions={"torch": "1"}), host=host())
    b = result(A, dtype="bf16", setup=setup(versions={"torch": "2"}), host=host())
    assert {d.name for d in differences(A, A, a, b)} == {"dtype", "torch version"}


def test_ratios_are_second_over_first() -> None:
    a, b = result(A, tok_per_s=10.0, ttft_s=2.0), result(A, tok_per_s=20.0, ttft_s=3.0)
    speed, first = ratios(a, b)
    assert (speed.ratio, speed.improves) == (2.0, True)
    assert (first.ratio, first.improves) == (1.5, False)


def test_a_number_of_one_run_only_has_no_ratio() -> None:
    (speed,) = ratios(result(A), result(A, tok_per_s=20.0))
    assert speed.ratio is None and speed.improves is None


def test_words_put_together_give_both_texts() -> None:
    a, b = "The capital of France is Paris.\nYes", "The capital of Spain is Madrid.\nYes"
    pieces = words(a, b)
    assert "".join(t for k, t in pieces if k != "b") == a
    assert "".join(t for k, t in pieces if k != "a") == b
    assert ("a", "France ") in pieces and ("b", "Spain ") in pieces


def test_texts_that_repeat_themselves_are_compared_at_once() -> None:
    """As small models write: 8,000 times the same word, and 64 million pairs of them."""
    a, b = "the " * 8000, "so " + "the " * 7000 + "end"
    began = time.process_time()
    pieces = words(a, b)
    assert time.process_time() - began < 2
    assert "".join(t for k, t in pieces if k != "b") == a and "".join(t for k, t in pieces if k != "a") == b
    assert words(a + "x", a + "y") == (("same", a), ("a", "x"), ("b", "y"))
    assert words("x " + a, "y " + a) == (("a", "x "), ("b", "y "), ("same", a))
    assert words(a, a) == (("same", a),) and words(a, a + "end") == (("same", a), ("b", "end"))


def test_a_ratio_with_a_disturbed_or_a_watched_run_is_marked() -> None:
    clean = result(A, tok_per_s=10.0, peak_memory_bytes=100, disturbance=Unrest(disturbed=False))
    noisy = result(A, tok_per_s=5.0, peak_memory_bytes=100, disturbance=Unrest(disturbed=True, sentence="Disturbed."))
    speed, memory = ratios(clean, noisy)
    assert speed.doubt == "The second run was disturbed, so their ratio tells little." and speed.ratio == 0.5
    assert memory.doubt == "", "memory is not a time"
    assert ratios(noisy, clean)[0].doubt.startswith("The first run was disturbed, so")
    assert not any(r.doubt for r in ratios(clean, clean))
    watched = msgspec.structs.replace(clean, provisional=True)
    both = ratios(watched, noisy)[0].doubt
    assert both == "The first run was only watched and the second run was disturbed, so their ratio tells little."


def test_how_a_run_was_watched_is_no_setting_of_it() -> None:
    watched = msgspec.structs.replace(A, live=True, retries=0)
    assert differences(A, watched, result(A), result(watched)) == ()


def test_what_keeps_two_runs_from_being_compared() -> None:
    here = host()
    there = msgspec.structs.replace(here, machine=msgspec.structs.replace(here.machine, machine_id="elsewhere"))
    a, b = result(A, host=here), result(A, host=there)
    assert unlike(A, A, a, a) == () and unlike(A, A, a, result(A)) == (), "what is not known is no difference"
    assert unlike(A, A, a, b) == ("machine",)
    assert unlike(A, A, a, a, ("", "desk")) == ("machine",), "machines of one kind have one id"
    other = msgspec.structs.replace(A, task=Generate(prompt="y"), model="n")
    assert unlike(A, other, a, b) == ("machine", "model", "prompt")
