"""Whole load tests against a server that answers as told: counts and structure, never speed.

Levels end by their number of requests, so that a slow machine takes longer and counts the same.
"""

from __future__ import annotations

import errno
import itertools
import json
import os
import threading
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner

from core.cli import cli
from core.loadtest.conduct import _Carrier, conduct
from core.loadtest.drive import Level
from core.loadtest.events import Answered, Began, Broken, Done, Ended, Event, Opened, Outcome, Told
from core.loadtest.lengths import Lengths, asks
from core.loadtest.load_store import LoadStore, LoadTest
from core.loadtest.objectives import Objectives
from core.loadtest.plan import Plan
from core.loadtest.report import Report
from core.loadtest.sending import target
from core.paths import data_dir
from core.runs.measuring import BusyError, holder, measuring
from hardware.errors import ExplorerError
from tests.support.scripted_server import Answer, ScriptedServer, Seen, chat, json_answer

LIMIT_S = 60.0
TOKENS = ["a", "b", "c", "d"]
SHORT: dict[str, Any] = {
    "levels": (2.0,),
    "prompt": Lengths(low=8),
    "answer": Lengths(low=4),
    "warmup_s": 0.0,
    "window_s": 300.0,
    "max_requests": 12,
    "grace_s": 30.0,
    "timeout_s": 30.0,
}
USAGE = {"prompt_tokens": 12, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 0}}


def answering(seen: Seen) -> Answer:
    """A model list, and four tokens 20 ms apart."""
    if seen.path == "/v1/models":
        return json_answer({"data": [{"id": "tiny"}, {"id": "other"}]})
    if seen.method == "GET":
        return json_answer({"detail": "Not Found"}, 404)
    return chat(TOKENS, first_s=0.02, gap_s=0.02, tokens_each=1, usage=USAGE)


def carried_out(server: ScriptedServer, **change: Any) -> tuple[LoadTest, Report]:
    plan = Plan(address=server.url, **{**SHORT, **change})
    test = LoadStore(data_dir()).create(plan, local=True)
    test.own()
    return test, conduct(data_dir(), test, target)


def posts(server: ScriptedServer) -> list[Seen]:
    return [s for s in server.seen if s.method == "POST"]


def test_closed_loop_from_plan_to_points(home: Path) -> None:
    with ScriptedServer(answering) as server:
        test, found = carried_out(server, levels=(1.0, 2.0), at_saturation="go on", objectives=Objectives(e2el=30_000))
        asked = posts(server)
    assert found.status == "done" and [m.point.load for m in found.points] == [1, 2]
    assert holder(data_dir()) is None, "the machine was given back"
    events = test.events()
    assert [type(e) for e in events if not isinstance(e, Answered)] == [
        Told,
        Told,
        *[Began, Opened, Ended, Told] * 2,
        Done,
    ]
    outcomes = [e.outcome for e in events if isinstance(e, Answered)]
    assert len(asked) == len(outcomes) + 1, "one more before the first level"
    second = [e.outcome for e in events if isinstance(e, Answered) and e.level == 1]
    at_once = max(sum(o.begun_s <= one.begun_s < o.ended_s for o in second) for one in second)
    assert at_once == 2, "as many as there are users"
    whole = [o for o in outcomes if not o.failure]
    prompts = [s.body["messages"][0]["content"] for s in asked if s.body]  # one that is stopped may not have come whole
    assert len(prompts) >= len(whole) and len(set(prompts)) == len(prompts), "no prompt comes twice"
    assert {(o.n_tokens, o.counted_by, o.single, o.prompt_tokens, len(o.gaps_s)) for o in whole} == {
        (4, "chunks", True, 12, 3)
    }
    assert {o.failure for o in outcomes} <= {"", "stopped"}
    for o in whole:
        assert o.sent_s is not None and o.first_s is not None and o.last_s is not None
        assert o.begun_s <= o.sent_s < o.first_s <= o.last_s <= o.ended_s, "one read may bring several chunks"
        assert o.e2e_s is not None and o.e2e_s >= 0.08, "the last token went out 80 ms after the request was read"
    point = found.points[1].point
    assert point.counted == point.good > 0 == point.bad and point.attainment is not None
    assert point.goodput == pytest.approx(point.requests_per_s) and point.answer_tokens == 4
    body = asked[0].body
    assert body["model"] == "tiny" and body["max_tokens"] == body["max_completion_tokens"] == 4
    assert body["stream"] and body["temperature"] == 0 and not body["cache_prompt"]


def test_open_loop_sends_when_due_and_waits_for_the_answers(home: Path) -> None:
    with ScriptedServer(answering) as server:
        test, found = carried_out(server, mode="open", levels=(20.0,), window_s=1.0, max_requests=1000)
    (only,) = found.points
    due = [o for e in test.events() if isinstance(e, Answered) and (o := e.outcome).scheduled_s is not None]
    inside = [o for o in due if 0 <= (o.scheduled_s or 0) < 1]
    assert only.point.counted == len(inside) > 5 and not [o for o in inside if o.failure]
    assert all((o.delay_s or 0) >= 0 for o in due)
    assert only.point.ttft.n == only.point.ttft_sent.n == len(inside)
    assert only.point.ttft.mean is not None and only.point.ttft_sent.mean is not None
    assert only.point.ttft.mean >= only.point.ttft_sent.mean, "from the schedule, not from the sending"
    assert only.sent == 1.0 and only.point.goodput is None


def test_failures_are_kept_by_kind_and_are_bad(home: Path) -> None:
    def every_other(seen: Seen) -> Answer:
        return (
            answering(seen)
            if seen.method == "GET" or next(turn) % 2 == 0
            else json_answer({"error": {"message": "full"}}, 503)
        )

    turn = itertools.count()
    with ScriptedServer(every_other) as server:
        _, found = carried_out(server, levels=(1.0,), model="tiny", objectives=Objectives(ttft=30_000))
    point = found.points[0].point
    assert set(point.failures) == {"busy"} and point.bad == point.failures["busy"] > 0 < point.good
    assert point.counted == point.good + point.bad and "full" in point.reasons[0]
    assert point.e2e.n == point.good


def test_a_server_that_dies_ends_the_sweep_and_keeps_what_was_measured(home: Path) -> None:
    def dies(seen: Seen) -> Answer:
        return (
            answering(seen)
            if seen.method == "GET" or next(turn) < 13
            else json_answer({"error": {"message": "out of memory"}}, 500)
        )

    turn = itertools.count()
    with ScriptedServer(dies) as server, pytest.raises(ExplorerError, match="out of memory"):
        carried_out(server, levels=(1.0, 2.0, 3.0), model="tiny", at_saturation="go on")
    test = LoadStore(data_dir()).open(LoadStore(data_dir()).ids()[0])
    assert test.status() == "failed" and "Every request failed at 2 users" in test.report().error
    assert test.report().points[0].point.good > 0


def test_a_server_that_refuses_our_extra_fields_is_asked_without_them(home: Path) -> None:
    def strict(seen: Seen) -> Answer:
        if seen.method == "POST" and "ignore_eos" in seen.body:
            return json_answer({"error": {"message": "Unrecognized request argument supplied: ignore_eos"}}, 400)
        return answering(seen)

    with ScriptedServer(strict) as server:
        _, found = carried_out(server, levels=(1.0,), max_requests=4)
        assert sum("ignore_eos" in s.body for s in posts(server)) == 1
    assert found.status == "done" and any("beside the standard" in words for words in found.told)


def test_the_limit_of_requests_ends_a_level(home: Path) -> None:
    with ScriptedServer(answering) as server:
        _, found = carried_out(server, levels=(1.0,), max_requests=3)
        assert len(posts(server)) == 4
    assert found.status == "done" and found.n_requests == 3
    assert any("limit of 3 requests" in words for words in found.told)


def test_a_search_goes_on_until_it_knows(home: Path) -> None:
    with ScriptedServer(answering) as server:
        _, found = carried_out(server, levels=(1.0, 2.0), find=True, objectives=Objectives(ttft=30_000, share=0.05))
    assert found.found is not None and found.found.load == 2 and found.found.above is None
    assert [m.point.load for m in found.points] == [1, 2]


@pytest.mark.parametrize(
    ("answer", "word"),
    [
        (json_answer({"error": {"message": "no such model"}}, 404), "model"),
        (Answer([], 200, "text/html", chunked=False), "web page"),
    ],
)
def test_a_server_that_does_not_answer_ends_the_test_in_a_sentence(home: Path, answer: Answer, word: str) -> None:
    with ScriptedServer({"/v1/models": json_answer({"data": [{"id": "m"}]}), "/v1/chat/completions": answer}) as server:
        plan = Plan(address=server.url, **SHORT)
        test = LoadStore(data_dir()).create(plan, local=True)
        with pytest.raises(ExplorerError, match=word):
            conduct(data_dir(), test, target)
    assert test.status() == "failed" and word in test.report().error and test.report().points == ()
    assert isinstance(test.events()[-1], Broken)


def test_a_model_that_the_server_would_answer_without_having_it_is_refused(home: Path) -> None:
    listed = json_answer({"data": [{"id": "/models/tiny.gguf"}]})
    props = json_answer({"build_info": "b1", "default_generation_settings": {"n_ctx": 64}})
    with ScriptedServer({"/props": props, "/v1/models": listed}) as server:
        with pytest.raises(ExplorerError, match="has no model 'nothing', and would answer with another one") as refused:
            target(Plan(address=server.url, model="nothing", **SHORT))
        assert refused.value.hint == "It lists: tiny."
        assert [target(Plan(address=server.url, model=m, **SHORT)).model for m in ("", "tiny")] == [
            "/models/tiny.gguf",
            "tiny",
        ]


def test_only_one_measurement_at_a_time(home: Path) -> None:
    plan = Plan(address="http://127.0.0.1:9", **SHORT)
    with measuring(data_dir(), "the run of somebody else"):
        with pytest.raises(BusyError):
            LoadStore(data_dir()).start(plan, local=True)
        outcome: list[str] = []

        def elsewhere() -> None:  # the lock is free within the thread that holds it
            try:
                conduct(data_dir(), LoadStore(data_dir()).create(plan, local=True), target)
            except BusyError as error:
                outcome.append(error.message)

        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join(LIMIT_S)
    assert outcome and "somebody else" in outcome[0]


def test_a_stop_drops_the_connections_and_keeps_what_was_measured(home: Path) -> None:
    """In a process of its own, as the app does it; the server holds back the answers of the second level."""
    hold = threading.Event()

    def respond(seen: Seen) -> Answer:
        if seen.method == "GET":
            return answering(seen)
        return Answer([], end="hang") if hold.is_set() else answering(seen)

    with ScriptedServer(respond) as server:
        loads = LoadStore(data_dir())
        plan = Plan(address=server.url, **{**SHORT, "max_requests": 5000})
        test = loads.start(plan, local=True)
        wait(lambda: sum(isinstance(e, Answered) for e in test.events()) >= 4)
        assert loads.going() is not None and test.status() == "running"
        with pytest.raises(ExplorerError, match="still going"):
            loads.delete(test.id)
        with pytest.raises(ExplorerError, match="going already"):
            loads.start(plan, local=True)
        hold.set()
        held = len(server.seen)
        wait(lambda: len(server.seen) >= held + 2)
        test.cancel()
        wait(lambda: test.status() == "cancelled")
        wait(lambda: sum(s.dropped.is_set() for s in server.seen) >= 2)
    found = test.report()
    ended = next(e for e in test.events() if isinstance(e, Ended))
    assert ended.why == "stopped" and found.n_requests >= 6
    assert sum(e.outcome.failure == "stopped" for e in test.events() if isinstance(e, Answered)) >= 2
    wait(lambda: loads.going() is None)
    loads.delete(test.id)
    assert loads.ids() == []


def wait(until: Any) -> None:
    end = time.monotonic() + LIMIT_S
    while not until():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.02)


def test_a_fault_of_the_client_is_a_failure_and_no_silence(home: Path) -> None:
    class Broke:
        def close(self) -> None: ...

        def perform(self, due_s: float | None, zero_s: float) -> Outcome:
            raise RuntimeError("oh")

    class Server:
        def call(self, ask: Any) -> Any:
            return Broke()

    events: list[Event] = []
    plan = Plan(address="http://127.0.0.1:9", **{**SHORT, "max_requests": 2})
    drawn = asks(plan.prompt, plan.answer, (), 0, "x")
    Level(plan, 0, 1.0, Server(), drawn, events.append, lambda: None, time.perf_counter).run()
    failed = [e.outcome for e in events if isinstance(e, Answered)]
    assert [o.failure for o in failed] == ["client", "client"] and "RuntimeError" in failed[0].reason


def test_a_disk_that_fills_up_ends_the_test_with_its_reason(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told, write = [0], _Carrier._tell

    def full(self: _Carrier, event: Event) -> None:
        """There is room for eight events, and for one more where the reserve was."""
        told[0] += 1
        if told[0] > 8 and self._reserve.exists():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(self, event)

    monkeypatch.setattr(_Carrier, "_tell", full)
    with ScriptedServer(answering) as server, pytest.raises(ExplorerError, match="disk is full"):
        carried_out(server)
    (test,) = (LoadStore(data_dir()).open(name) for name in LoadStore(data_dir()).ids())
    assert test.status() == "failed" and any(isinstance(e, Answered) for e in test.events())
    assert "disk is full" in str(test.events()[-1]) and not (test.path / "reserve").exists()


def test_a_clock_that_was_set_back_loses_no_answer(home: Path) -> None:
    with ScriptedServer(answering) as server:
        plan = Plan(address=server.url, **SHORT)
        test = LoadStore(data_dir()).create(plan, local=False)
        about = msgspec.structs.replace(test.about, created_s=time.time() + 3600)
        (test.path / "about.json").write_bytes(msgspec.json.encode(about))
        test.own()
        report = conduct(data_dir(), test, target)
    assert report.status == "done" and report.points[0].point.counted >= 8
    assert all(0 <= event.t_s < 60 for event in test.events())


# ---------------------------------------------------------------- folders


def test_damaged_folders_are_rows_or_sentences(home: Path) -> None:
    loads = LoadStore(data_dir())
    good = loads.create(Plan(address="http://127.0.0.1:9"), local=True)
    (good.path / "events.jsonl").write_bytes(b'{"type":"told","t_s":1.0,"words":"x"}\n\xff\n{"type":"beg')
    assert [type(e) for e in good.events()] == [Told] and good.status() == "interrupted"
    bad = loads.folder / "20200101-000000-aaaa"
    bad.mkdir()
    for text in (None, "{", '{"created_s": 1e300, "plan": {"address": "x"}}'):
        if text is not None:
            (bad / "about.json").write_text(text)
        assert [r["status"] for r in loads.rows()] == ["interrupted", "damaged"]
        with pytest.raises(ExplorerError, match="damaged"):
            loads.open(bad.name).report()
    for name in ("", "..", "../runs", "none", "a/b"):
        with pytest.raises(ExplorerError, match="no load test"):
            loads.open(name)
    (loads.folder / ".partial").mkdir()
    loads.delete(bad.name)
    assert loads.ids() == [good.id]


def test_a_key_is_named_and_never_written(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "sk-very-secret")
    with ScriptedServer(answering) as server:
        test, _ = carried_out(server, levels=(1.0,), key="MY_KEY", max_requests=2)
        assert {s.headers.get("Authorization") for s in server.seen} == {"Bearer sk-very-secret"}
    assert not [f for f in test.path.iterdir() if b"sk-very-secret" in f.read_bytes()]
    with pytest.raises(ExplorerError, match="NO_KEY is not set"):
        target(msgspec.structs.replace(test.about.plan, key="NO_KEY"))


# ---------------------------------------------------------------- the command


def command(*words: str) -> Any:
    return CliRunner().invoke(cli, list(words))


def test_the_command_prints_a_table_or_json(home: Path) -> None:
    short = ("--prompt-tokens", "8", "--answer-tokens", "4", "--warmup", "0", "--max-requests", "9", "--users", "1")
    with ScriptedServer(answering) as server:
        done = command("load", server.url, *short, "--goodput", "ttft:30000", "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["status"] == "done" and found["points"][0]["point"]["load"] == 1
    listed = json.loads(command("loads", "--json").stdout)
    assert [row["id"] for row in listed] == [found["id"]]
    table = command("loads", found["id"]).stdout
    assert "good/s" in table and "closed loop" in table and "ttft:30000" in table
    csv = command("loads", found["id"], "--format", "csv").stdout.splitlines()
    assert len(csv) == 2 and csv[0].startswith("load,mode,")
    requests = command("loads", found["id"], "--format", "requests").stdout.splitlines()
    assert len(requests) == found["n_requests"] + 1


def test_a_server_that_is_not_there_is_status_1(home: Path) -> None:
    done = command("load", "http://127.0.0.1:9", "--users", "1")
    assert done.exit_code == 1 and "No server listens" in done.stderr and not done.stdout
    assert [row["status"] for row in LoadStore(data_dir()).rows()] == ["failed"]


@pytest.mark.parametrize(
    "words",
    [
        ("--users", "1", "--rate", "1"),
        ("--users", "x"),
        ("--prompt-tokens", "x"),
        ("--goodput", "x"),
        ("--key-from", "NOT_THERE"),
        ("--dataset", "not-there.jsonl"),
        ("--find",),
    ],
)
def test_a_bad_request_is_a_sentence_and_status_2(home: Path, words: tuple[str, ...]) -> None:
    done = command("load", "http://127.0.0.1:9", *words)
    assert LoadStore(data_dir()).ids() == [], "nothing was begun"
    assert done.exit_code == 2 and len(done.stderr.splitlines()) >= 1 and "Traceback" not in done.stderr


def test_the_presets_are_listed_with_their_source() -> None:
    told = command("load", "--presets").stdout
    assert "mlperf-gpt-oss-120b-server" in told and "mlperf.conf" in told
