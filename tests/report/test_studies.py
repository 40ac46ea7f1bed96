"""Reports and bundles of sweeps, searches, comparisons and studies: one shape, nobody's names, words where wanted."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner

from core.analysis.search import Range
from core.cli import cli
from core.paths import data_dir
from core.report import benchmark, ladder, searches, study_bundle
from core.report import many_runs as many_report
from core.report import sweeps as sweep_report
from core.report.page import MOST_BYTES
from core.report.studies import export_study, names
from core.runs.store import Run, Store
from core.stats.intervals import Ratio
from core.studies import architectures, free_shapes, ledger, many_runs, study_store
from core.studies import search as searching
from core.studies import sweep as sweeping
from core.studies.findings import Findings
from core.studies.ledger import State
from core.studies.plan import Architectures, Axis, FreeShapes, Study, Sweep
from core.studies.search import Answer, Found, SearchReport
from core.types import Generate, Request, from_json, to_json
from hardware.catalogue import find as find_device
from hardware.errors import ExplorerError
from tests.report.test_report import EVIL, HOST, USER, Parsed, made, somebody  # noqa: F401 - a fixture

SECRET = f"{EVIL} What did {USER} say on {HOST}?"
BASE = Request(
    model=f"/srv/models/{USER}/tiny.gguf", backend="fake", threads=2, retries=0,
    task=Generate(prompt=SECRET, system="Be brief", max_new_tokens=4),
)  # fmt: skip
AXES = (Axis(name="strategy", values=("autoregressive", "native")), Axis(name="batch", values=(1, 2)))


def kept(store: Store, plan: Study, runs: dict[str, Run], **more: object) -> State[Any]:
    """The ledger of a study with these runs, in its folder."""
    state = State(plan=plan, minutes=30.0, begun="2026-11-27 07:00", **more)  # type: ignore[arg-type]
    for key, run in runs.items():
        state.runs[key], state.took_s[key] = run.id, 1.0
    folder = store.root / "studies" / plan.name
    folder.mkdir(parents=True)
    (folder / ledger.FILE).write_bytes(to_json(state))
    return state


@pytest.fixture
def swept(store: Store) -> Iterator[str]:
    """A sweep of four cells: two measured, one failed, one left; and its runs as if they had been made."""
    plan = from_json(to_json(sweeping.planned(BASE, AXES, title=f"Batches of {USER}", reference_every=0)), Sweep)
    every = sweeping.cells(plan)
    runs = {f"{c.id}/0": made(store, SECRET, c.request.strategy, scale=1 + n) for n, c in enumerate(every[:2])}
    kept(store, plan, runs, failures={f"{every[2].id}/0": f"The file {Path.home()}/x.gguf is gone."})
    yield plan.name


def opened(data: bytes) -> str:
    """All text of a file, of the files of a zip, and of the zips in it."""
    if not data.startswith(b"PK"):
        return data.decode()
    with zipfile.ZipFile(io.BytesIO(data)) as found:
        return "\n".join(opened(found.read(name)) for name in found.namelist())


@pytest.mark.parametrize("fmt", ["html", "notexts.html", "zip", "notexts.zip"])
def test_a_sweep_for_others_says_nothing_of_who_made_it(store: Store, swept: str, fmt: str) -> None:
    words = opened(export_study(swept, fmt, store))
    for name in (str(Path.home()), USER, HOST, "/srv/models"):
        assert name.casefold() not in words.casefold(), name
    assert "tiny.gguf" in words and ("What did" in words) == ("notexts" not in fmt)
    assert ("Be brief" in words) == ("notexts" not in fmt)
    before = (store.root / "studies" / swept / ledger.FILE).read_text()
    assert all(name in before for name in (USER, HOST, "What did")), "what is searched for is there before"


def test_a_sweeps_page_has_maps_cells_and_reasons(store: Store, swept: str) -> None:
    found = Parsed(export_study(swept, "html", store).decode())
    words = export_study(swept, "notexts.html", store).decode()
    scripts = [a for tag, a in found.tags if tag == "script"]
    assert sum("data-chart" in a for a in scripts) >= 3 and not any(a.get("src") for a in scripts)
    assert not [tag for tag, _ in found.tags if tag == "img"], "the prompt cannot break out"
    assert "2 done, 1 failed, 0 cannot run, 1 left" in words and "x.gguf is gone" in words
    assert "<td>Native</td>" in words and "Decode speed" in words
    assert "; 0.0 of 30 minutes used" in words
    assert all(label in words for label in ("Weights as", "Warm-up passes", "Repeats")), "as forms have them"


def test_a_bundle_of_a_sweep_comes_home_on_another_machine(
    store: Store, swept: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = sweeping.report(ledger.load(store.root / "studies" / swept, Sweep), store)
    data = {texts: study_bundle.bundle(swept, store, texts) for texts in (True, False)}
    for texts, bundle in data.items():
        monkeypatch.setenv("ROOFSCOPE_HOME", str(tmp_path / f"other-{texts}"))
        there = Store(data_dir())
        name = study_bundle.load_any(bundle, there)
        assert isinstance(name, str) and study_bundle.load(bundle, there) == name, "it is there once"
        after = sweeping.report(ledger.load(there.root / "studies" / name, Sweep), there)
        assert after.progress.done == 2 and after.plan.title.endswith(", imported")
        for a, b in zip(before.rows, after.rows, strict=True):
            assert (a.at, a.status, a.values) == (b.at, b.status, b.values)
        assert USER not in name and name in names()
    run = store.open(before.rows[0].runs[0])
    assert isinstance(study_bundle.load_any(run.bundle(), store), Run)


@pytest.mark.parametrize("study", ["ladder-smollm2-135m", "decoding-smollm2-135m"])
def test_findings_that_no_page_can_show_are_not_taken_in(
    store: Store, swept: str, study: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = json.loads((study_store.RECORDED / study / "findings.json").read_bytes())
    with zipfile.ZipFile(io.BytesIO(study_bundle.bundle(swept, store, texts=True))) as whole:
        files = {name: whole.read(name) for name in whole.namelist()}
    monkeypatch.setenv("ROOFSCOPE_HOME", str(tmp_path / "other"))
    there = Store(data_dir())
    for odd in ({"plan": good["plan"] | {"recipes": []}}, {"rows": {}}, {"plan": None}):
        with pytest.raises(ExplorerError, match="damaged: its findings"):
            study_bundle.load(zipped(files | {"findings.json": json.dumps(good | odd).encode()}), there)
        assert not there.ids() and not study_store.studies()[0].name.startswith("sweep")
    name = study_bundle.load(zipped(files | {"findings.json": json.dumps(good).encode()}), there)
    assert study_store.studies()[0].name == name


def zipped(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as found:
        for name, data in files.items():
            found.writestr(name, data)
    return out.getvalue()


def test_what_is_no_bundle_of_a_study_is_said(store: Store, swept: str) -> None:
    about = to_json({"format": study_bundle.FORMAT, "name": "../up"})
    whole = study_bundle.bundle(swept, store, texts=True)
    for data in (
        b"",
        whole[:900],
        zipped({"study.json": b"{}"}),
        zipped({"study.json": b"{}", "roofscope.json": about}),
    ):
        with pytest.raises(ExplorerError) as caught:
            study_bundle.load(data, store)
        assert caught.value.hint
    for name, fmt in (("no-such-study", "html"), (study_store.studies()[0].name, "zip"), (swept, "layers.csv")):
        with pytest.raises(ExplorerError) as caught:
            export_study(name, fmt, store)
        assert caught.value.hint


def strange_zips() -> dict[str, bytes]:
    """What zipfile raises differs from one to the next."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as zipped:
        zipped.writestr("ä.json", b"{}")
    good = out.getvalue()
    newer = bytearray(good)
    newer[good.rindex(b"PK\x01\x02") + 6] = 255
    found = {"a name that is no UTF-8": good.replace("ä".encode(), b"\xff\xfe"), "a version to come": bytes(newer)}
    for label, way in (("LZMA", zipfile.ZIP_LZMA), ("bzip2", zipfile.ZIP_BZIP2)):
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w", way) as other:
            other.writestr("roofscope.json", b"{" + b" " * 1000)
            other.writestr(ledger.FILE, b"{" + b" " * 1000)
        data = bytearray(out.getvalue())
        data[50:58] = bytes(8)
        found[label] = bytes(data)
    return found


@pytest.mark.parametrize("name", strange_zips())
def test_a_strange_zip_is_one_sentence_whichever_bundle_it_may_be(store: Store, name: str) -> None:
    with pytest.raises(ExplorerError) as caught:
        study_bundle.load_any(strange_zips()[name], store)
    assert caught.value.hint


def test_of_a_bundle_with_a_run_that_cannot_be_taken_in_nothing_is_left(
    store: Store, swept: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = study_bundle.bundle(swept, store, texts=True)
    out = io.BytesIO(whole)
    with zipfile.ZipFile(out, "a") as found:
        found.writestr(f"{study_bundle.RUNS}zz.zip", b"no bundle")
    there = Store(tmp_path / "other")
    with pytest.raises(ExplorerError):
        study_bundle.load(out.getvalue(), there)
    assert there.ids() == []
    monkeypatch.setattr(study_bundle, "MOST_STUDY_BYTES", 1000)
    with pytest.raises(ExplorerError, match="no study does"):
        study_bundle.load(whole, there)
    assert there.ids() == []


def test_two_models_that_only_a_path_tells_apart_are_not_made_one(store: Store) -> None:
    axes = (Axis(name="model", values=("/one/tiny.gguf", "/two/tiny.gguf")),)
    plan = sweeping.planned(BASE, axes)
    kept(store, plan, {})
    with pytest.raises(ExplorerError, match="the same file name"):
        study_bundle.bundle(plan.name, store, texts=True)


def test_a_large_sweep_stays_small(store: Store) -> None:
    lengths = tuple(range(1, 1501))
    plan = sweeping.planned(msgspec.structs.replace(BASE, model="m"), (Axis(name="new_tokens", values=lengths),))
    found = sweeping.report(State(plan=plan, minutes=1.0, begun="2026-11-27 07:00"), store)
    value = Ratio(value=12.345678, low=11.1, high=13.3, n=5)
    figures = dict.fromkeys(("tok_per_s", "ttft_s", "latency_s", "peak_memory_bytes"), value)
    rows = tuple(msgspec.structs.replace(row, status="done", values=figures) for row in found.rows)
    data = sweep_report.report(msgspec.structs.replace(found, rows=rows))
    assert len(data) < MOST_BYTES - 950_000, "the libraries need the rest"
    assert b"Of 1500 cells the first 1000." in data


def test_a_searchs_page_says_why(store: Store) -> None:
    plan = searching.searching(BASE, AXES, ("tok_per_s", "peak_memory_bytes"), {"latency_s": 2.0})
    told = {
        "tok_per_s": Range(low=5.0, likely=9.0, high=12.0),
        "peak_memory_bytes": Range(low=1e8, likely=2e8, high=3e8),
    }
    seen = {"tok_per_s": 10.0, "peak_memory_bytes": 2e8, "latency_s": 1.5}
    final = {m: Ratio(value=v * 0.9, low=v * 0.8, high=v, n=5) for m, v in seen.items()}
    rows = (
        Found(id="a", label="batch 1", stage="finalist", reason="", predicted=told, measured=seen, n=3, final=final,
              shrinkage=dict.fromkeys(seen, 0.9)),
        Found(id="b", label="batch 2", stage="dropped", reason="latency", predicted=told, measured={}, n=0, final={},
              shrinkage={}),
    )  # fmt: skip
    found = SearchReport(
        plan=plan, rows=rows, answer=Answer(cell="a", words=("batch 1: the best.", "It costs nothing.")), measured=3,
        dropped=1, audited=1, missed=0, bound=0.95, spent_s=60.0, minutes=5.0, expected_s=600.0, complete=True,
    )  # fmt: skip
    words = searches.report(found, texts=False).decode()
    for part in ("batch 1: the best.", "It costs nothing.", "0 of 1 audited", "at most", "9 tok/s [8 tok/s, 10 tok/s]",
                 "0.9 ×", "[5 tok/s, 12 tok/s]", 'class="strong"'):  # fmt: skip
        assert part in words, part
    assert words.count("data-chart=") == 1 and "What did" not in words and "What did" in searches.report(found).decode()
    one = msgspec.structs.replace(found, plan=msgspec.structs.replace(plan, goals=("tok_per_s",)))
    assert "data-chart=" in searches.report(one).decode()


def test_many_runs_in_one_view(store: Store) -> None:
    runs = [made(store, SECRET), made(store, SECRET, scale=1.1), made(store, SECRET, "native", scale=2.0)]
    view = many_runs.view(many_runs.entries(runs))
    words = many_report.report(view).decode()
    assert "2 configurations, 3 runs." in words and words.count("data-chart=") >= 3
    assert "★" in words and "0.524 ×" in words, "the root of 1.1 over 2"
    assert "What did" not in words and USER not in words
    with pytest.raises(ExplorerError, match="no run to compare"):
        many_report.report(many_runs.view(()))


def test_recorded_studies_are_pages_of_the_same_shape(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    studies = study_store.studies()
    monkeypatch.undo()  # with the libraries
    found = [study_store.read(shelved.path) for shelved in studies]
    shapes = [export_study(name, "html", store) for name in study_store.recorded_architectures()]
    assert shapes and all(page.count(b"data-chart=") == 3 + 4 for page in shapes), "a front per engine, four orders"
    pages = (ladder.html(f) if isinstance(f, Findings) else benchmark.html(f) for f in found)
    for data in (*pages, *shapes):
        assert len(data) < MOST_BYTES and data.count(b"window.vegaEmbed=") == 1
        assert b"default-src 'none'" in data and b"data-chart=" in data


def test_searches_for_architectures_are_pages_and_bundles_too(store: Store, tmp_path: Path) -> None:
    plan = free_shapes.planned("RTX 4090", trials=8, blocks=(2, 4))
    device = find_device("RTX 4090", tmp_path)
    trials = [free_shapes.answered(plan, device, params) for params in free_shapes._random(plan, 8)]
    kept(store, plan, {}, trials=trials)
    words = export_study(plan.name, "html", store).decode()
    assert plan.title in words and words.count("data-chart=") == 1 and "8 shapes asked for" in words
    assert f"<td>{free_shapes.findings(ledger.load(ledger.folder_of(plan), FreeShapes)).rows[0].sizes.label}" in words
    cut = architectures.planned("smollm2-135m", ("fake",))
    kept(store, cut, {"whole/speed/fake/0": made(store, SECRET)})
    assert "Nothing is priced yet." in export_study(cut.name, "html", store).decode()
    for name, kind in ((plan.name, FreeShapes), (cut.name, Architectures)):
        data = export_study(name, "notexts.zip", store)
        assert SECRET not in opened(data) and USER not in opened(data)
        new = study_bundle.load_any(data, Store(store.root))
        assert isinstance(new, str) and ledger.load(store.root / "studies" / new, kind).plan.title.endswith("imported")
        assert len(names()) == len(set(names())) and new in names()


def test_the_command_line(store: Store, swept: str, tmp_path: Path) -> None:
    def core(*args: str) -> int:
        return CliRunner().invoke(cli, list(args), prog_name="roofscope").exit_code

    ids = store.ids()
    for args, start in (
        ((swept, "--format", "html"), b"<!doctype"),
        ((swept, "--format", "csv"), b"strategy,batch,status"),
        ((swept, "--format", "notexts.zip"), b"PK"),
        ((*ids, "--format", "many.html"), b"<!doctype"),
        ((*ids, "--format", "notexts.html"), b"<!doctype"),
    ):
        file = tmp_path / "out"
        assert core("export", *args, "--output", str(file)) == 0
        assert file.read_bytes().startswith(start)
    assert core("export", swept, "--format", "notexts.zip", "--output", str(tmp_path / "s.zip")) == 0
    assert core("import", str(tmp_path / "s.zip")) == 0 and len(ledger.names(Sweep)) == 2
    for wrong in (("import", str(tmp_path / "none.zip")), ("export", swept, "--format", "zip"),
                  ("export", *ids, "--format", "csv"), ("export", ids[0], "--format", "csv")):  # fmt: skip
        assert core(*wrong) == 2, wrong
