"""Pages about studies, load tests, endpoints, advice, lessons and the disk, on a data folder that somebody spoiled."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from core.advice.book import Book
from core.advice.record import Advice, Bottleneck, Case, Gain
from core.community.row import encoded
from core.community.row_store import RowStore
from core.endpoints import store as endpoints
from core.endpoints.flavours import ServedModel
from core.loadtest.events import Answered, Began, Broken, Ended, Opened, Outcome, Told
from core.loadtest.load_store import LoadStore
from core.loadtest.plan import Plan
from core.runs import about, chats
from core.runs.store import Store
from core.studies import study_store
from core.studies.grid import cells
from core.studies.ledger import FILE, State
from core.studies.plan import Architectures, Axis
from core.studies.search import searching
from core.studies.sweep import planned
from core.types import Generate, Request, to_json
from tests.community.rows import honest
from tests.pages.conftest import sound
from tests.pages.test_hostile import HOSTILE, KEPT, alive, outside
from tests.test_strange_files import CONTENTS, FILES

Open = Callable[..., AppTest]
NEW = (
    *("measure/run", "measure/load", "plan/sweep", "plan/advice", "plan/what_if", "learn/lessons", "learn/literature"),
    *("learn/glossary", "manage/endpoints", "manage/storage", "compare/tradeoffs"),
)
NAMES = (
    *(
        "study",
        "sweep",
        "sweep-shown",
        "sweep-mode",
        "load",
        "lesson",
        "step",
        "term",
        "q",
        "years",
        "advice",
        "endpoint",
    ),
    *("device", "model", "run", "kind", "open", "lecture"),
)


@pytest.fixture
def spoiled(home: Path) -> Path:
    """In each place another strange thing."""
    root = home / "data"
    contents = list(CONTENTS.values())
    for n, file in enumerate(FILES):
        place, content = root / file, contents[n % len(contents)]
        place.parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            place.mkdir()
        else:
            place.write_bytes(content)
    return root


@pytest.mark.parametrize("page", NEW)
def test_a_spoiled_folder_takes_no_page_down(app: Open, spoiled: Path, page: str) -> None:
    sound(app(f"pages/{page}.py"))


@pytest.mark.parametrize("value", [HOSTILE, "-1", "é" * 5000], ids=["hostile", "-1", "long"])
def test_a_strange_address_takes_no_page_down(app: Open, home: Path, value: str) -> None:
    for page in ("plan/sweep", "learn/lessons", "learn/glossary", "measure/load"):
        assert not alive(sound(app(f"pages/{page}.py", **dict.fromkeys(NAMES, value))))


@pytest.fixture
def hostile(filled: Store) -> Store:
    """Studies, a load test, an endpoint, an advice, a chat, a row of another machine, a device and the name of a run in
    which every free text is hostile."""
    root = filled.root
    base = Request(model="tiny-moe", backend="fake", task=Generate(prompt=HOSTILE, max_new_tokens=4), threads=1)
    axes = (Axis(name="new_tokens", values=(2, 3)), Axis(name="dtype", values=(None, HOSTILE)))
    sweep, search = planned(base, axes, title=HOSTILE), searching(base, axes, ("tok_per_s",))
    cut = Architectures(name="architectures-odd", title=HOSTILE, model=HOSTILE, engines=(HOSTILE, "pytorch"))
    for plan in (sweep, search, cut):
        ids = [cell.id for cell in cells(sweep)]
        state = State(plan=plan, minutes=1.0, begun=HOSTILE, refused={ids[0]: HOSTILE})
        state.runs[f"{ids[1]}/0"], state.failures[f"{ids[1]}/0"] = HOSTILE, HOSTILE
        folder = root / "studies" / plan.name
        folder.mkdir(parents=True)
        (folder / FILE).write_bytes(to_json(state))
        (folder / "study.log").write_text(HOSTILE)
    test = LoadStore(root).create(Plan(address="http://127.0.0.1:9", model=HOSTILE), local=True)
    failed = Outcome(index=0, begun_s=0.1, ended_s=0.2, sent_s=0.1, failure="status", reason=HOSTILE)
    told = (Told(t_s=0.1, words=HOSTILE), Began(t_s=0.2, level=0, load=1.0), Opened(t_s=0.2, level=0, at_s=0.0))
    ended = (Answered(t_s=0.3, level=0, outcome=failed), Ended(t_s=0.5, level=0, close_s=0.4, cpu_s=0.1, why="time"))
    events = (*told, *ended, Broken(t_s=1.0, message=HOSTILE, hint=HOSTILE))
    (test.path / "events.jsonl").write_bytes(b"".join(to_json(e) + b"\n" for e in events))
    served = ServedModel(id=HOSTILE, quantization=HOSTILE, architecture=HOSTILE, state=HOSTILE)
    known = endpoints.Endpoint(url="http://127.0.0.1:9/v1", flavour="openai", version=HOSTILE, models=(served,))
    place = endpoints.folder() / endpoints.name_of(known.url)
    place.mkdir(parents=True)
    (place / endpoints.ABOUT).write_bytes(to_json(known))
    Book(root).save(Case(advice=advice(base, filled.ids()[0])))
    (root / "studies" / "ladder-odd").mkdir()
    chats.save(root, chats.new_id(), chats.Chat(sides=(base,), text=HOSTILE, turns=(chats.Turn(question=HOSTILE),)))
    RowStore(root).take_in("x.json", encoded(honest(machine__cpu=HOSTILE, model__name=HOSTILE)))
    sheet = {"kind": "gpu", "mem_bytes": 8e9, "mem_bandwidth_bytes_per_s": 1e11}
    (root / "devices").mkdir()
    (root / "devices" / "odd.json").write_text(json.dumps(outside({"name": "", "notes": "", "sources": [""]}) | sheet))
    about.write(filled.folder / filled.ids()[0], about.About(name=HOSTILE[:60], note=HOSTILE))
    return filled


def advice(base: Request, run_id: str) -> Advice:
    return Advice(
        id="x",
        rule="quantize",
        evidence=(run_id, HOSTILE),
        bottleneck=Bottleneck(phase="decode", group=HOSTILE),
        finding=HOSTILE,
        change=HOSTILE,
        baseline=base,
        changed=base,
        metric="tpot_s",
        gain=Gain(likely=2.0, low=1.0, high=3.0, basis=HOSTILE),
        quality="unknown",
        against=False,
        made_at=time.time(),
    )


LITERAL = ("better", "test", "verdict", "cost", "provenance", "mark")


@pytest.mark.parametrize("study", [s.name for s in study_store.studies() if s.recorded])
def test_words_in_the_findings_of_an_imported_study_are_words(app: Open, home: Path, study: str) -> None:
    folder = home / "data" / "studies" / "imported"
    folder.mkdir(parents=True)
    told = json.loads((study_store.RECORDED / study / "findings.json").read_bytes())
    strange = outside(told, (*KEPT, *LITERAL))
    strange["plan"]["name"] = told["plan"]["name"]  # which names a folder: another one is refused
    (folder / "findings.json").write_text(json.dumps(strange))
    at = sound(app("pages/compare/tradeoffs.py"))
    assert not alive(at) and not at.error and at.header
    (folder / "findings.json").write_text(json.dumps(told | {"rows": [], "plan": told["plan"] | {"baseline": "gone"}}))
    at = sound(app("pages/compare/tradeoffs.py"))
    assert "cannot be read" in at.error[0].proto.title


def test_a_study_that_cannot_be_read_hides_no_other_one(app: Open, home: Path) -> None:
    folder = home / "data" / "studies" / "imported"
    folder.mkdir(parents=True)
    (folder / "findings.json").write_text("{}")
    at = sound(app("pages/learn/literature.py"))
    assert not at.error and any("ladder" in caption.value for caption in at.caption)


OWN = ("measure/chat", "compare/history", "compare/many", "compare/community", "plan/devices", "plan/architectures")


@pytest.mark.parametrize("page", [*(p for p in NEW if not p.startswith(("learn/", "compare/"))), *OWN])
def test_words_in_what_is_kept_here_are_words(app: Open, hostile: Store, page: str) -> None:
    assert not alive(sound(app(f"pages/{page}.py")))


def test_the_name_of_a_device_is_no_markdown_where_it_is_chosen(app: Open, hostile: Store) -> None:
    at = sound(app("pages/plan/predict.py"))
    at = sound(at.multiselect(key="predict-devices").set_value([HOSTILE, "T4"]).run())
    assert not alive(at) and len(at.get("button_group")) > 1
