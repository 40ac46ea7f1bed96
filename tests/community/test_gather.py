"""A row of one's own runs: what it takes from them, what it leaves out, and where none can be made; the commands."""

from __future__ import annotations

import datetime
import json
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from core.cli import cli
from core.community.checks import doubts
from core.community.gather import row_of
from core.community.row import encoded
from core.community.row_store import RowStore
from core.paths import data_dir
from core.report import private
from core.runs.runner import Runner
from core.runs.store import Run, Store
from core.types import Generate, Request
from hardware import ceilings
from hardware.ceilings import Ceilings, Gemm, ReadPoint
from hardware.detect import machine_id
from hardware.errors import ExplorerError
from tests.community.rows import ME, honest

USER = "ada-lovelace"
ASKED = Request(
    model="tiny-moe", backend="fake", task=Generate(prompt_tokens=4, max_new_tokens=4), threads=1, warmup=0, retries=0,
    repeats=2, profilers=(), params={},
)  # fmt: skip


@pytest.fixture
def run(store: Store, runner: Runner) -> Run:
    """A finished run with the ceilings of its machine."""
    reads = (ReadPoint(1_000_000, 9e10, 9e10), ReadPoint(4_000_000, 4e10, 4e10), ReadPoint(64_000_000, 2e10, 2e10))
    found = Ceilings(
        machine_id=machine_id(), device="cpu", threads=1, date="2026-11-27T05:00:00Z", quick=True, seconds=1.0,
        gemms=(Gemm("fp32", 64, 64, 64, 1e11, "x"),), reads=reads,
    )  # fmt: skip
    ceilings.save(found, store.root / "ceilings")
    return runner.wait(runner.start(ASKED))


def test_a_row_takes_rounds_work_and_ceilings_along_and_no_name(
    run: Run, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    row, result = row_of([run], store.root, ME), run.result()
    assert [r.tpot_s for r in row.rounds] == list(result.tpot_samples_s) and len(row.rounds) == 2
    assert row.tok_per_s == pytest.approx(1 / row.tpot_s) and row.n_tokens == 4
    decode = next(p for p in result.phases if p.name == "decode")
    assert row.work.bytes_per_forward == pytest.approx(decode.bytes / decode.n_forward)
    assert row.roofs.reads[0] == (1e6, 9e10) and row.roofs.cache_bytes is not None
    assert row.text_sha256 is not None and row.machine.system in ("Linux", "Darwin")
    words = encoded(row).decode()
    for name in (str(Path.home()), str(store.root), *private.names()):
        assert name.casefold() not in words.casefold()
    assert {d.check for d in doubts(row, datetime.date(2026, 11, 27))} >= {"rounds", "tokens"}
    both = row_of([run, run], store.root, ME)
    assert len(both.rounds) == 4, "rounds of several runs stand together"
    monkeypatch.setattr(private.getpass, "getuser", lambda: USER)
    named = msgspec.structs.replace(ASKED, options={"delay_s": 0.0}, model="tiny-moe")
    (run.path / "request.json").write_bytes(
        msgspec.json.encode(named).replace(b"tiny-moe", b"/srv/" + USER.encode() + b"/x.gguf")
    )
    assert row_of([Run(run.path)], store.root, ME).model.name == "…/x.gguf"


def test_where_no_row_can_be_made_it_is_said(run: Run, store: Store, runner: Runner, tmp_path: Path) -> None:
    with pytest.raises(ExplorerError, match="needs a run"):
        row_of([], store.root, ME)
    other = runner.wait(runner.start(msgspec.structs.replace(ASKED, batch=2)))
    with pytest.raises(ExplorerError, match="not of one configuration"):
        row_of([run, other], store.root, ME)
    came = Store(tmp_path / "other").load(run.bundle())
    with pytest.raises(ExplorerError, match="came from another machine"):
        row_of([came], store.root, ME)
    for file in (store.root / "ceilings").glob("*.json"):
        file.unlink()
    with pytest.raises(ExplorerError, match="ceilings of the machine that ran it, with 1 thread, are not known"):
        row_of([run], store.root, ME)


def test_the_commands(run: Run, tmp_path: Path) -> None:
    def core(*args: str) -> tuple[int, str]:
        done = CliRunner().invoke(cli, ["community", *args], prog_name="roofscope")
        return done.exit_code, done.output

    code, out = core("row", run.id)
    assert code == 0 and "doubtful" in out and "2 rounds; at least 3" in out
    (mine,), _ = RowStore(data_dir()).rows()
    file = tmp_path / "rows.json"
    changed = msgspec.json.decode(encoded(honest())) | {"n_tokens": 5}
    file.write_bytes(msgspec.json.encode([honest(), honest(tok_per_s=333_336.0), changed]))
    code, out = core("add", str(file))
    assert code == 1 and "2 new, 0 here already, 1 refused" in out and "id does not fit" in out
    code, out = core("board")
    assert code == 0 and "A desktop" in out and "340,003 tok/s would read 1.36 PB/s" in out and mine.id in out
    code, out = core("board", "--json")
    assert len(json.loads(out)["standings"]) == 1 and len(json.loads(out)["doubtful"]) == 2
    assert core("forget", mine.id)[0] == 0 and core("forget", mine.id)[0] == 2
    assert core("add", str(tmp_path / "none"))[0] == 2
