"""The Architectures page: forms make plans, buttons start them, and a search of either kind is shown."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest
from streamlit.testing.v1 import AppTest

from core.studies import architectures, free_shapes, ledger, study_store
from core.studies.architecture_found import Found
from core.studies.architecture_proxies import proxies
from core.studies.plan import Architectures, FreeShapes
from pages.plan import _architectures_view as architectures_view
from tests.pages.conftest import sound
from tests.studies.test_architectures import row

Open = Callable[..., AppTest]
PAGE = "pages/plan/architectures.py"
FREE = "From scratch, for a device"


def said(at: AppTest) -> str:
    kinds = (at.markdown, at.caption, at.warning, at.error, at.info)
    return "\n".join(str(e.value) + str(getattr(e.proto, "title", "")) for kind in kinds for e in kind)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Architectures | FreeShapes]:
    """What the button starts; free searches are carried out at once and in this process."""
    plans: list[Architectures | FreeShapes] = []

    def start(plan: Architectures | FreeShapes, minutes: float, *more: str) -> None:
        plans.append(plan)
        if isinstance(plan, FreeShapes):
            free_shapes.carry_out(plan, minutes, lambda words: None)

    monkeypatch.setattr(study_store, "start_sweep", start)
    monkeypatch.setattr(study_store, "RECORDED", study_store.RECORDED / "none")
    return plans


def test_a_cut_is_asked_for(app: Open, started: list[Architectures | FreeShapes]) -> None:
    at = sound(app(PAGE))
    assert "No search yet" in said(at)
    at.number_input(key="architectures-limit-n_params").set_value(100.0)
    at.number_input(key="architectures-finished").set_value(5)
    at = sound(at.run())
    at = sound(at.button(key="architectures-start").click().run())
    (plan,) = started
    assert isinstance(plan, Architectures) and plan.model == "smollm2-135m" and plan.finished == 5
    assert plan.constraints[0].measure == "n_params" and plan.constraints[0].limit == 100e6
    assert plan.training["minutes"] == 2.0 and plan.engines[0] == "llama_cpp"
    at.number_input(key="architectures-checks").set_value(9)
    assert "leaves none to choose" in said(sound(at.run()))


def test_decoders_for_a_device_are_found_and_shown(app: Open, started: list[Architectures | FreeShapes]) -> None:
    at = sound(app(PAGE))
    at = sound(at.segmented_control(key="architectures-mode").set_value(FREE).run())
    assert "Optuna asks for sizes" in said(at)
    at.number_input(key="architectures-free-trials").set_value(10)
    at.slider(key="architectures-free-blocks").set_value((2, 4))
    at = sound(at.button(key="architectures-start").click().run())
    (plan,) = started
    assert isinstance(plan, FreeShapes) and plan.trials == 10
    assert "on the front for RTX 4090" in said(at).replace("\\", "") and len(at.get("vega_lite_chart")) == 1
    assert "tok/s" in at.dataframe[0].value["Decode"].iloc[0]


def test_a_search_is_shown_with_its_proxies(app: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [row(i, 100e6 + i, masked=0.1 * i, kl=0.2 * i + 0.1, ratio=1.5 - 0.1 * i) for i in range(4)]
    plan = architectures.planned("smollm2-135m", ("llama_cpp",))
    plan = msgspec.structs.replace(plan, engines=("e",))
    found = Found(
        plan=plan, date="2026-11-27", machine=None, versions={}, spent_s=60.0, shapes=40, possible=39, masked=12,
        rows=tuple(rows), proxies=proxies(rows, ("e",)), best="s0", words=("s0: 1.5 times [as fast].", "It costs."),
        quantized=None, complete=True,
    )  # fmt: skip
    monkeypatch.setattr(ledger, "names", lambda kind: ("architectures-x",))
    monkeypatch.setattr(architectures_view, "own", lambda folder, version: found)
    at = sound(app(PAGE))
    words = said(at)
    assert "s0\\: 1.5 times \\[as fast\\]." in words and "40 shapes priced, 12 masked" in words
    assert len(at.get("vega_lite_chart")) == 2
    table, orders = at.dataframe[0].value, at.dataframe[1].value
    assert list(table["KL trained"]) == ["0.1", "0.3", "0.5", "0.7"]
    assert orders["Verdict"].iloc[0] == "4 models are too few to tell"
    assert orders["Ranked by"].iloc[-1] == "Random order"
