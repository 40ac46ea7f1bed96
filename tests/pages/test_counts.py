"""The FLOP check on the screen: the verdicts side by side, and what to do where there is none."""

from __future__ import annotations

from streamlit.testing.v1 import AppTest

from core.models.spec import from_config
from core.runs.store import Store
from core.types import Count, Counted, Done, Loaded, OpCount, Request
from tests.pages.conftest import sound
from tests.support.facts import setup

CONFIG = {
    "model_type": "llama",
    "hidden_size": 8,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "vocab_size": 32,
    "tie_word_embeddings": False,
}
OPS = (
    OpCount(layer="blocks.0.mlp.up_proj", op="aten::mm", calls=1, flops=256.0, product=True),
    OpCount(layer="blocks.0.mlp.gate_proj", op="aten::mm", calls=1, flops=512.0, product=True),
    OpCount(layer="lm_head", op="mine::product", calls=1, flops=None),
)


def a_run(store: Store, *counts: Count) -> str:
    run = store.create(Request(model="t", backend="fake"))
    spec = from_config(CONFIG, name="tiny")
    run.append(
        Loaded(
            t_s=0, seconds=1, warm=False, spec=spec, n_prompt_tokens=4, prompt_text="", setup=setup(), capabilities=()
        )
    )
    for count in counts:
        run.append(Counted(t_s=1, pass_no=2, phase="decode", count=count))
    run.append(Done(t_s=2))
    return run.id


def screen(run_id: str) -> AppTest:
    def page(run_id: str) -> None:
        from pages.ui.state import open_run, result_of
        from pages.understand._crosscheck import draw_counts

        draw_counts(result_of(open_run(run_id)), "decode")

    return sound(AppTest.from_function(page, args=(run_id,)).run())


def count(source: str, *ops: OpCount) -> Count:
    return Count(source=source, n_new=1, n_past=4, batch=1, ops=ops, note="Masked scores are counted.")


def test_a_model_without_the_check_says_how_to_get_it(store: Store) -> None:
    at = screen(a_run(store))
    assert "profiler FLOP check" in at.caption[0].value and not at.dataframe


def test_a_check_shows_agreement_difference_and_what_is_uncounted(store: Store) -> None:
    at = screen(a_run(store, count("dispatch", *OPS)))
    assert "1 of 9 " in at.markdown[1].value and "gate" in at.markdown[1].value
    assert "another run" not in at.markdown[1].value
    other = screen(a_run(store))
    assert "Counted in another run of this model: Fake" in other.markdown[1].value
    totals, layers = (frame.value.set_index(frame.value.columns[0]) for frame in at.dataframe)
    assert totals.loc["Linear", "Difference (dispatch)"] == "+50.00 %"
    assert totals.loc["Linear", "Uncounted operators"] == "mine::product"
    assert layers.loc["blocks.0.mlp.up_proj", "Difference"] == "0 %"
    assert layers.loc["lm_head", "Counted"] == "–" and layers.loc["lm_head", "Difference"] == "–"
    captions = " ".join(c.value for c in at.caption)
    assert "1 after 4 tokens" in captions and "Masked scores" in captions and "another backend" in captions


def test_other_runs_of_the_model_stand_beside_it(store: Store) -> None:
    a_run(store, count("ONNX graph", OPS[0]))
    at = screen(a_run(store, count("dispatch", *OPS)))
    totals = at.dataframe[0].value.set_index("Operator")
    assert totals.loc["Linear", "Difference (dispatch)"] == "+50.00 %"
    assert totals.loc["Linear", "Difference (ONNX graph)"] == "0 %"
