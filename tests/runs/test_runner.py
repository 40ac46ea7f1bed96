"""Whole runs on the fake backend, and faults provoked for real."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import msgspec
import psutil
import pytest

from core.runs.compare import differences
from core.runs.measuring import BusyError
from core.runs.runner import Runner
from core.types import GOING, Disturbance, Generate, LayerTimes, Loaded, Pass, Request, Sampling, Step
from hardware.errors import ExplorerError


def replaced(request: Request, **changes: object) -> Request:
    return msgspec.structs.replace(request, **changes)


def slow(request: Request, tokens: int = 2000) -> Request:
    """A run that lasts until it is stopped."""
    return replaced(request, options={"delay_s": 0.05}, task=Generate(prompt="Hello", max_new_tokens=tokens))


def wait_for_step(runner: Runner, run_id: str, phase: str = "prefill") -> None:
    run = runner.store.open(run_id)
    end = time.monotonic() + 120
    while not any(isinstance(e, Step) and e.phase == phase for e in run.events()):
        assert time.monotonic() < end, f"no step: {run.events()[-3:]}"
        time.sleep(0.02)


def worker_pid(runner: Runner) -> int:
    assert runner._owner is not None
    return runner._owner.pid


@pytest.mark.usefixtures("new_workers")
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="cores are given away by Linux only")
def test_a_run_without_threads_of_its_own_is_told_with_the_cores_that_it_may_use(
    runner: Runner, fake_request: Request
) -> None:
    """Not with all that the machine has: what it lost to others is counted against its threads."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        run = runner.wait(runner.start(replaced(fake_request, threads=None, profilers=())))
    finally:
        os.sched_setaffinity(0, allowed)
    setup = run.result().setup
    assert setup is not None and setup.threads == 1
    assert {event.n_threads for event in run.events() if isinstance(event, Disturbance)} == {1}


@pytest.mark.usefixtures("new_workers")
def test_a_whole_run(runner: Runner, fake_request: Request) -> None:
    run = runner.wait(runner.start(fake_request))
    events, result = run.events(), run.result()
    assert result.status == "done", (result.error, (run.path / "log.txt").read_text())
    assert result.n_new_tokens == 6 and len(result.text) == 6
    assert result.n_prompt_tokens == 5
    assert (
        result.ttft_s is not None and result.tpot_s is not None and result.tok_per_s == pytest.approx(1 / result.tpot_s)
    )
    assert result.peak_memory_bytes and result.peak_memory_bytes > 10e6
    assert [(p.kind, p.profiler) for p in events if isinstance(p, Pass)] == [
        ("warmup", None),
        ("timing", None),
        ("profile", "memory"),
        ("profile", "layers"),
    ]
    assert {layer.name for layer in result.layers if layer.seconds is not None} >= {
        "embed",
        "blocks.7.attn.q_proj",
        "lm_head",
    }
    assert {c.profiler for c in result.profiler_costs} == {"memory", "layers"}
    assert "mean nothing" in " ".join(result.warnings)
    assert not (run.path / "reserve").exists()


def test_timing_passes_carry_no_profiler(runner: Runner, fake_request: Request) -> None:
    run = runner.wait(runner.start(replaced(fake_request, repeats=3)))
    timing = {p.number for p in run.events() if isinstance(p, Pass) and p.kind == "timing"}
    told = run.result().disturbance
    assert len(timing) == 3 and told is not None and told.n_passes == 3
    assert not [e for e in run.events() if isinstance(e, LayerTimes) and e.pass_no in timing]


def test_the_worker_stays_warm_for_the_same_session(runner: Runner, fake_request: Request) -> None:
    runner.wait(runner.start(fake_request))
    pid = worker_pid(runner)
    second = runner.wait(runner.start(fake_request))
    assert worker_pid(runner) == pid and second.result().warm is True
    third = runner.wait(runner.start(replaced(fake_request, fresh_process=True)))
    assert worker_pid(runner) != pid and third.result().warm is False
    assert not psutil.pid_exists(pid)


def test_a_warm_up_that_was_asked_for_is_done_in_a_warm_session_too(runner: Runner, fake_request: Request) -> None:
    def kinds(**changes: object) -> list[str]:
        run = runner.wait(runner.start(replaced(fake_request, profilers=(), **changes)))
        return [p.kind for p in run.events() if isinstance(p, Pass)]

    assert kinds() == kinds(strategy="native") == kinds(task=Generate(prompt="Longer", max_new_tokens=4))
    assert kinds() == ["warmup", "timing"] and kinds(warmup=2) == ["warmup", "warmup", "timing"]
    assert kinds(warmup=0) == ["timing"]


def test_two_workers_may_stay_warm_and_no_more(runner: Runner, fake_request: Request) -> None:
    requests = [replaced(fake_request, threads=n) for n in (1, 2, 3)]
    pids = []
    for request in (requests[0], requests[1], requests[0]):
        runner.wait(runner.start(request, keep=2))
        pids.append(worker_pid(runner))
    assert pids[2] == pids[0] != pids[1] and psutil.pid_exists(pids[1])
    runner.wait(runner.start(requests[2], keep=2))
    assert not psutil.pid_exists(pids[1]) and psutil.pid_exists(pids[0])  # the one unused for longest is gone
    runner.wait(runner.start(requests[2]))
    assert not psutil.pid_exists(pids[0])


def test_greedy_native_and_autoregressive_agree(runner: Runner, fake_request: Request) -> None:
    ours = runner.wait(runner.start(fake_request)).result()
    theirs = runner.wait(runner.start(replaced(fake_request, strategy="native"))).result()
    assert ours.text == theirs.text and ours.n_forward == theirs.n_forward == 6


def test_seeded_sampling_repeats(runner: Runner, fake_request: Request) -> None:
    task = Generate(prompt="Hello", max_new_tokens=20, sampling=Sampling(temperature=5.0, top_k=10, top_p=0.9))
    texts = [runner.wait(runner.start(replaced(fake_request, task=task, seed=s))).result().text for s in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


def test_two_runs_at_once_are_refused(runner: Runner, fake_request: Request) -> None:
    run_id = runner.start(slow(fake_request))
    with pytest.raises(ExplorerError, match="going already"):
        runner.start(fake_request)
    runner.cancel(run_id)
    runner.wait(run_id)
    assert runner.wait(runner.start(fake_request)).status() == "done"


def test_a_second_process_is_refused_as_well(runner: Runner, fake_request: Request) -> None:
    first = runner.start(slow(fake_request))
    wait_for_step(runner, first)
    other = Runner(runner.store)
    with pytest.raises(BusyError, match=f"{first}.*smollm2-135m in Fake.*process {worker_pid(runner)}") as refused:
        other.start(fake_request)
    assert refused.value.hint and len(runner.store.ids()) == 1
    runner.cancel(first)
    assert runner.wait(first).status() == "cancelled"


def test_cancel_keeps_what_was_measured(runner: Runner, fake_request: Request) -> None:
    run_id = runner.start(replaced(slow(fake_request), warmup=0))
    wait_for_step(runner, run_id, "decode")
    runner.cancel(run_id)
    result = runner.wait(run_id).result()
    assert result.status == "cancelled" and result.n_new_tokens > 0 and result.text


def test_a_run_whose_folder_is_taken_away_stops_and_blocks_no_other(
    runner: Runner, fake_request: Request, tmp_path: Path
) -> None:
    run_id = runner.start(replaced(slow(fake_request), warmup=0))
    wait_for_step(runner, run_id, "decode")
    run = runner.store.open(run_id)
    path = run.path
    path.rename(tmp_path / "away")
    assert runner.active() is None
    with pytest.raises(ExplorerError, match="There is no run"):
        _ = run.request
    runner.free(lambda: None)
    assert runner.wait(runner.start(fake_request)).status() == "done"
    (tmp_path / "away").rename(path)
    assert runner.store.open(run_id).status() == "cancelled"


@pytest.mark.usefixtures("new_workers")
def test_cancel_ends_a_worker_that_does_not_listen(runner: Runner, fake_request: Request) -> None:
    run_id = runner.start(replaced(fake_request, options={"delay_s": 60.0}))
    run = runner.store.open(run_id)
    while not any(isinstance(e, Loaded) for e in run.events()):
        time.sleep(0.05)
    pid = worker_pid(runner)
    runner.cancel(run_id)
    assert runner.wait(run_id).status() == "cancelled"
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


@pytest.mark.usefixtures("new_workers")
@pytest.mark.parametrize(
    ("sig", "says"),
    [(signal.SIGKILL, "memory ran out"), (signal.SIGILL, "instruction"), (signal.SIGSEGV, "native code")],
)
def test_a_killed_worker_ends_its_run_and_not_the_app(
    runner: Runner, fake_request: Request, sig: signal.Signals, says: str
) -> None:
    run_id = runner.start(slow(fake_request))
    wait_for_step(runner, run_id)
    os.kill(worker_pid(runner), sig)
    result = runner.wait(run_id).result()
    assert result.status == "failed" and says in (result.error or "") and result.hint
    assert result.n_new_tokens > 0 or result.text or result.itl_s == ()
    assert runner.wait(runner.start(fake_request)).status() == "done"


def test_a_crash_while_loading_is_told(runner: Runner, fake_request: Request) -> None:
    result = runner.wait(runner.start(replaced(fake_request, options={"crash": "SIGABRT"}))).result()
    assert result.status == "failed" and "Fake ended itself" in (result.error or "")


def test_a_signal_with_advice_is_retried_once(
    runner: Runner, fake_request: Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    from core.backends.fake import plugin

    advice = {int(signal.SIGILL): ("It crashed.", "Trying without.", {"crash": ""})}
    monkeypatch.setattr(plugin, "signal_advice", advice)
    asked = replaced(fake_request, options={"crash": "SIGILL", "delay_s": 0.001})
    run = runner.wait(runner.start(asked))
    result = run.result()
    assert result.status == "done" and "It crashed. Trying without." in result.warnings
    assert run.request == asked, "what was asked stays"
    assert result.options == {"crash": "", "delay_s": 0.001}, "and what was used is known"
    plain = runner.wait(runner.start(replaced(fake_request, options={"delay_s": 0.001}))).result()
    assert {d.name: (d.a, d.b) for d in differences(asked, asked, result, plain)}["crash"] == ("–", "SIGILL")


@pytest.mark.usefixtures("new_workers")
def test_no_process_is_left_behind(runner: Runner, fake_request: Request) -> None:
    run_id = runner.start(slow(fake_request))
    wait_for_step(runner, run_id)
    pid = worker_pid(runner)
    runner.close()
    assert not psutil.pid_exists(pid)
    assert runner.store.open(run_id).status() in ("cancelled", "interrupted")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"model": "no-such-model"}, "no-such-model"),
        ({"backend": "abacus"}, "no backend called 'abacus'"),
        ({"strategy": "guess"}, "no strategy called 'guess'"),
        ({"profilers": ("aura",)}, "no profiler called 'aura'"),
        ({"task": Generate(prompt="  ")}, "prompt is empty"),
        ({"task": Generate(prompt="x", max_new_tokens=0)}, "max_new_tokens must be"),
        ({"batch": 0}, "batch must be"),
        ({"threads": -1}, "threads must be a whole number from 1 to 512, not -1"),
        ({"dtype": "fp7"}, "fp7"),
        ({"params": {"prefill_chunk": "many"}}, "prefill_chunk"),
        ({"task": Generate(prompt="x", sampling=Sampling(temperature=-1))}, "temperature"),
        ({"task": Generate(prompt="x", max_new_tokens=100_000)}, "100,000 new tokens exceed the context of"),
        ({"task": Generate(prompt_tokens=99_000)}, "99,000 prompt tokens and .* exceed the context of"),
    ],
)
def test_bad_requests_are_refused_before_anything_is_loaded(
    runner: Runner, fake_request: Request, changes: dict[str, object], says: str
) -> None:
    with pytest.raises(ExplorerError, match=says) as error:
        runner.start(replaced(fake_request, **changes))
    assert error.value.hint and runner.store.ids() == []


def test_a_prompt_too_long_is_one_sentence(runner: Runner, fake_request: Request) -> None:
    request = replaced(fake_request, task=Generate(prompt="x" * 100_000, max_new_tokens=1))
    result = runner.wait(runner.start(request)).result()
    assert result.status == "failed" and "exceed the context of" in (result.error or "")
    failure = runner.store.open(result.run_id).failure()
    assert failure is not None and failure.user_error


def test_a_model_larger_than_memory_is_said_before_loading(
    runner: Runner, fake_request: Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    import core.runs.check as check

    monkeypatch.setattr(check, "available_bytes", lambda: 1_000_000)
    with pytest.raises(ExplorerError, match=r"GB of it for the weights.*are free"):
        runner.start(fake_request)
    assert runner.wait(runner.start(replaced(fake_request, allow_oversize=True))).status() == "done"


@pytest.mark.skipif(os.geteuid() != 0, reason="a small disk is mounted, which needs root")
def test_a_full_disk_ends_the_run_with_its_reason(fake_request: Request, tmp_path: Path) -> None:
    import subprocess

    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(disk)], check=False).returncode:
        pytest.skip("tmpfs cannot be mounted here")
    from core.runs.store import Store

    runner = Runner(Store(disk))
    try:
        request = replaced(slow(fake_request, 4000), options={"delay_s": 0.0001}, profilers=())
        run = runner.wait(runner.start(request))
        result = run.result()
        assert result.status == "failed" and "disk is full" in (result.error or "")
        assert any(isinstance(e, Step) for e in run.events())
    finally:
        runner.close()
        subprocess.run(["umount", "-l", str(disk)], check=False)


def test_a_dying_worker_leaves_no_moment_in_which_its_run_looks_abandoned(
    runner: Runner, fake_request: Request
) -> None:
    """A page that looked in that moment would stop looking, and never tell why the run ended."""
    for _ in range(5):
        run = runner.store.open(runner.start(replaced(fake_request, options={"crash": "SIGSEGV"})))
        seen = []
        while not seen or seen[-1] in GOING:
            seen.append(run.status())
        assert seen[-1] == "failed"


@pytest.mark.usefixtures("new_workers")
def test_a_workers_threads_wait_with_patience_unless_the_user_has_decided(
    runner: Runner, fake_request: Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    def given() -> str | None:
        runner.wait(runner.start(replaced(fake_request, fresh_process=True, profilers=())))
        return psutil.Process(worker_pid(runner)).environ().get("GOMP_SPINCOUNT")

    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    assert given() == "4000"
    monkeypatch.setenv("GOMP_SPINCOUNT", "77")
    assert given() == "77"
    monkeypatch.delenv("GOMP_SPINCOUNT")
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    assert given() is None
