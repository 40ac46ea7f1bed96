"""Studies on the fake backend: whole ones, interrupted ones, ones whose variants fail; and the report they write."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from filelock import FileLock

from core.paths import data_dir
from core.report.ladder import html, line, markdown
from core.runs.measuring import LOCK
from core.runs.recording import Recording
from core.runs.runner import Runner
from core.runs.store import Store
from core.runs.summarize import summarize
from core.studies.conduct import Answer, answer, conduct
from core.studies.evidence import Evidence
from core.studies.findings import Findings, Row, _cells, _disturbed, _with_speed, findings
from core.studies.ladder import ladder
from core.studies.ledger import Ledger, folder_of, read
from core.studies.plan import Evaluation, Plan, Recipe
from core.studies.validate import Group
from core.types import Asked, Evaluate, Item, Metric, Request, from_json, to_json
from tests.studies.fake_cells import quiet

PLAN = Plan(
    name="small",
    title="A small study",
    model="smollm2-135m",
    baseline="plain",
    recipes=(
        Recipe(id="plain", label="Plain", backend="fake", base=True),
        Recipe(id="slow", label="Slow", backend="fake", options={"delay_s": 0.02}),
        Recipe(id="broken", label="Broken", backend="fake", steps=(("no_such_transform", {}),)),
        Recipe(id="crashing", label="Crashing", backend="fake", options={"crash": "SIGSEGV"}),
    ),
    evaluations=(Evaluation(eval="choice", label="Multiple choice", metric="acc", settings={"n": 6}, chance=0.25),),
    groups=(Group(name="ladder", ids=("plain", "slow"), cost="equal"),),
    prompt_tokens=4,
    new_tokens=4,
    least_rounds=1,
    rounds=1,
    repeats=1,
    threads=1,
)


SMALL = msgspec.structs.replace(PLAN, evaluations=(), recipes=PLAN.recipes[:2], groups=())


@pytest.fixture
def found() -> Findings:
    return findings(conduct(PLAN, 10, quiet))


def test_a_study_reports_what_worked_and_why_the_rest_did_not(found: Findings) -> None:
    rows = {row.id: row for row in found.rows}
    assert list(rows) == ["plain", "slow", "broken", "crashing"]
    assert rows["plain"].speedup is not None and rows["plain"].speedup.value == 1.0
    assert rows["slow"].speedup is not None and rows["slow"].speedup.value < 1  # every forward waits for 20 ms
    assert rows["plain"].memory_bytes and rows["plain"].bits_per_weight
    assert rows["plain"].cells[0].score is not None and rows["plain"].cells[0].score.n == 6
    assert rows["slow"].cells[0].comparison is not None
    assert rows["slow"].cells[0].comparison.lost == () and rows["slow"].cells[0].p == 1.0
    assert "no transform called 'no_such_transform'" in rows["broken"].reason
    assert "crashed" in rows["crashing"].reason or "ended" in rows["crashing"].reason
    assert rows["crashing"].quality is None and rows["crashing"].speedup is None
    assert {v.composite for v in found.verdicts} >= {"correct_per_second", "min_max_sum"}
    assert from_json(to_json(found), Findings) == found

    timed = [answer(Store(data_dir()).open(run_id).result()) for run_id in rows["slow"].runs]
    assert max(a.seconds for a in timed if a is not None) >= 4 * 0.02  # a prefill and three more forwards

    page, table = html(found).decode(), markdown(found)
    assert page.count("data-chart=") == 2 and "default-src 'none'" in page
    for row in found.rows:
        assert row.label in page and row.label in table
    assert "no transform called" in page and "no transform called" in table
    assert table.splitlines()[1] == "|" + "---|" * table.splitlines()[0].count(" | ") + "---|"


def test_disturbed_answers_do_not_count_beside_enough_clean_ones() -> None:
    plan = msgspec.structs.replace(SMALL, least_rounds=2, rounds=3)

    def evidence(recipe: Recipe, *rounds: tuple[float, bool]) -> Evidence:
        answers = {
            n: Answer(ttft_s=0.1, seconds=s, tok_per_s=1 / s, disturbed=bad) for n, (s, bad) in enumerate(rounds)
        }
        return Evidence(recipe=recipe, model="m", answers=answers)

    def rows(*rounds: tuple[float, bool]) -> tuple[Row, Row]:
        plain, slow = plan.recipes
        found = {"plain": evidence(plain, (1.0, False), (1.0, False), (1.0, False)), "slow": evidence(slow, *rounds)}
        assert bool(_disturbed(plan, found)) == any(bad for _, bad in rounds)
        return _with_speed(plan, found, found["plain"]), _with_speed(plan, found, found["slow"])

    _, enough = rows((2.0, False), (8.0, True), (2.0, False))
    assert enough.disturbed == 0 and enough.speedup is not None and enough.speedup.value == pytest.approx(0.5)
    assert enough.tok_per_s == pytest.approx(0.5)
    _, few = rows((2.0, False), (8.0, True), (8.0, True))
    assert few.disturbed == 2 and few.speedup is not None and few.speedup.value < 0.3
    _, none = rows((2.0, False), (2.0, False), (2.0, False))
    assert none.disturbed == 0


def test_a_table_marks_speeds_that_are_not_the_machines_own(found: Findings) -> None:
    rows = tuple(msgspec.structs.replace(r, disturbed=0) for r in found.rows)
    clean = msgspec.structs.replace(found, rows=rows, remarks=())
    assert "~" not in markdown(clean)
    base = [msgspec.structs.replace(r, disturbed=int(r.id == "plain")) for r in clean.rows]
    cells = {row.id: [c.text for c in line(clean, row).cells] for row in base}
    assert cells["plain"][4].startswith("~")
    table = markdown(msgspec.structs.replace(clean, rows=tuple(base)))
    slow = next(row for row in table.splitlines() if row.startswith("| Slow"))
    assert slow.split("|")[6].strip().startswith("~") and not slow.split("|")[5].strip().startswith("~")


def test_an_interrupted_study_goes_on_where_it_was() -> None:
    seen: list[str] = []

    def stop(words: str) -> None:
        seen.append(words)
        if len(seen) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        conduct(SMALL, 10, stop)
    before = read(folder_of(SMALL))
    assert before is not None and before.runs
    store = Store(data_dir())
    finished = {run_id for run_id in before.runs.values() if store.open(run_id).status() == "done"}
    assert finished
    ledger = conduct(SMALL, 10, quiet)
    assert finished <= set(ledger.state.runs.values())
    assert set(ledger.state.runs) == {"plain/detail", "plain/speed/0", "slow/detail", "slow/speed/0"}
    count = len(store.ids())
    spent = ledger.state.spent_s
    again = conduct(SMALL, 10, quiet)
    assert len(store.ids()) == count, "nothing is done twice"
    assert again.state.spent_s > spent > 0
    anew = conduct(msgspec.structs.replace(SMALL, recipes=SMALL.recipes[:1]), 10, quiet)
    assert not finished & set(anew.state.runs.values())  # another plan is another study
    assert len(list(folder_of(SMALL).glob("study-*.json"))) == 1


def test_a_run_of_another_process_is_waited_for() -> None:
    """The last run of a study that was killed is still going when the study is taken up again."""
    one = msgspec.structs.replace(SMALL, recipes=SMALL.recipes[:1])
    lock = FileLock(Store(data_dir()).root / LOCK, thread_local=False)
    lock.acquire()
    heard: list[str] = []

    def end(words: str) -> None:
        heard.append(words)
        if "waiting" in words:
            lock.release()

    ledger = conduct(one, 10, end)
    assert sum("waiting" in words for words in heard) == 1
    assert not ledger.state.failures and set(ledger.state.runs) == {"plain/detail", "plain/speed/0"}


def test_a_run_that_came_between_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process takes the machine after the study has waited for it, and before its own run begins."""
    lock = FileLock(data_dir() / LOCK)
    waits: list[str] = []

    def wait(runner: Runner, waiting: Callable[[], None]) -> None:
        waits.append("")
        if len(waits) == 1:
            lock.acquire()
        elif len(waits) == 2:
            lock.release()

    monkeypatch.setattr(Runner, "free", wait)
    plan = msgspec.structs.replace(SMALL, recipes=SMALL.recipes[:1])
    ledger = conduct(plan, 10, quiet)
    assert ledger.state.failures == {} and set(ledger.state.runs) == {"plain/detail", "plain/speed/0"}
    assert len(waits) == 3 and len(Store(data_dir()).ids()) == 3, "the refused run stays in the history"


def test_a_damaged_ledger_begins_anew(home: Path) -> None:
    folder = folder_of(SMALL)
    folder.mkdir(parents=True)
    (folder / "study.json").write_text('{"plan": 3')
    ledger = conduct(msgspec.structs.replace(SMALL, recipes=SMALL.recipes[:1]), 10, quiet)
    assert ledger.state.runs


def test_a_study_whose_parts_are_called_otherwise_goes_on_where_it_was(tmp_path: Path) -> None:
    ledger: Ledger[Plan] = Ledger(tmp_path, SMALL, 5, None, quiet)  # type: ignore[arg-type]
    ledger.state.runs["a/speed/0"] = "r1"
    ledger.save()
    renamed = msgspec.structs.replace(SMALL, title="Another", recipes=tuple(
        msgspec.structs.replace(r, label=f"{r.label}, renamed") for r in SMALL.recipes
    ))  # fmt: skip
    again: Ledger[Plan] = Ledger(tmp_path, renamed, 5, None, quiet)  # type: ignore[arg-type]
    assert again.state.runs == {"a/speed/0": "r1"} and again.state.plan == renamed
    other: Ledger[Plan] = Ledger(tmp_path, msgspec.structs.replace(SMALL, rounds=3), 5, None, quiet)  # type: ignore[arg-type]
    assert other.state.runs == {}


def test_the_ladder_covers_three_backends_with_at_least_twelve_variants() -> None:
    plan = ladder("smollm2-135m")
    ids = [r.id for r in plan.recipes]
    assert len(ids) == len(set(ids)) >= 12
    assert {r.backend for r in plan.recipes} == {"llama_cpp", "onnxruntime", "pytorch"}
    assert plan.baseline in ids and all(plan.base_of(r) is not None for r in plan.recipes)
    assert {i for g in plan.groups for i in g.ids} <= set(ids)
    assert sum(e.task for e in plan.evaluations) >= 2


def test_scores_of_all_variants_are_over_the_same_items() -> None:
    """The baseline is asked all and the others a part: its own column must not stand over more questions."""

    def answered(*right: float) -> Evidence:
        items = tuple(Item(t_s=0, id=str(i), cluster=str(i), values={"acc": r}) for i, r in enumerate(right))
        metric = Metric(name="acc", label="Accuracy", value="acc", kind="rate")
        asked = Asked(t_s=0, n_items=len(items), metrics=(metric,))
        result = summarize("r", Recording(Request(model="m", backend="fake", task=Evaluate(eval="choice")), []), "done")
        result = msgspec.structs.replace(result, items=items, asked=asked)
        return Evidence(
            recipe=Recipe(id="r", label="R", backend="fake"), model="m", results={"evaluation/choice": result}
        )

    evaluation = Evaluation(eval="choice", label="Choice", metric="acc")
    recipes = tuple(Recipe(id=name, label=name, backend="fake") for name in ("base", "part"))
    plan = Plan(name="p", title="P", model="m", recipes=recipes, evaluations=(evaluation,), baseline="base")
    cells = _cells(plan, {"base": answered(1, 0, 0, 0), "part": answered(1, 1)})
    base, part = cells["base"][0].score, cells["part"][0].score
    assert base is not None and part is not None
    assert (base.n, base.value) == (2, 0.5) and (part.n, part.value) == (2, 1.0)
