"""The FLOP check on the screen: the verdict, the tables, and what to do where a run has none."""

from __future__ import annotations

from streamlit.testing.v1 import AppTest

from core.models.spec import from_config
from core.runs.summarize import summarize
from core.types import Count, Counted, Event, Loaded, OpCount, Request, to_json
from tests.pages.conftest import sound

CONFIG = {
    "model_type": "llama",
    "hidden_size": 8,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "vocab_size": 32,
    "tie_word_embeddings": False,
}


def screen(*events: Event) -> AppTest:
    spec = from_config(CONFIG, name="tiny")
    loaded = Loaded(
        t_s=0, seconds=1, warm=False, spec=spec, n_prompt_tokens=4, prompt_text="", environment={}, capabilities=()
    )
    result = summarize("r", Request(model="t", backend="fake"), [loaded, *events], "done")

    def page(result: bytes, spec: bytes) -> None:
        from core.types import ModelSpec, Result, from_json
        from pages.ui.crosscheck import draw_counts

        draw_counts(from_json(result, Result), from_json(spec, ModelSpec), "decode")

    return sound(AppTest.from_function(page, args=(to_json(result), to_json(spec))).run())


def test_a_run_without_the_check_says_how_to_get_it() -> None:
    at = screen()
    assert "profiler FLOP check" in at.caption[0].value and not at.dataframe


def test_a_check_shows_agreement_difference_and_what_is_uncounted() -> None:
    ops = (
        OpCount(layer="blocks.0.mlp.up_proj", op="aten::mm", calls=1, flops=256.0, product=True),
        OpCount(layer="blocks.0.mlp.gate_proj", op="aten::mm", calls=1, flops=512.0, product=True),
        OpCount(layer="lm_head", op="mine::product", calls=1, flops=None),
    )
    count = Count(source="dispatch", n_new=1, n_past=4, batch=1, ops=ops, note="Masked scores are counted.")
    at = screen(Counted(t_s=1, pass_no=2, phase="decode", count=count))
    assert "1 of 9 " in at.markdown[1].value and "gate" in at.markdown[1].value
    totals, layers = (frame.value.set_index(frame.value.columns[0]) for frame in at.dataframe)
    assert totals.loc["Linear", "Difference"] == "+50.00 %" and totals.loc["Linear", "Counted layers"] == 2
    assert totals.loc["Linear", "Uncounted operators"] == "mine::product"
    assert layers.loc["blocks.0.mlp.up_proj", "Difference"] == "0 %"
    assert layers.loc["lm_head", "Counted"] == "–" and layers.loc["lm_head", "Difference"] == "–"
    assert "1 after 4 tokens" in at.caption[0].value and "Masked scores" in at.caption[0].value
