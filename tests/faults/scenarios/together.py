"""Two of everything on one data folder."""

from __future__ import annotations

from core.types import Step
from tests.faults.scenario import staged
from tests.faults.stage import Stage, check
from tests.faults.subjects import LOAD, SWEEP, answering, state
from tests.support.scripted_server import ScriptedServer


def two_commands(stage: Stage) -> None:
    """Two runs, a sweep and a load test at once on one folder: one measures, the others wait or say who does."""
    first = stage.run("--max-new-tokens", "40", "--prompt", "Hi", "--option", "delay_s=0.1")
    stage.events(Step)
    stage.ends(stage.run("--max-new-tokens", "2", "--prompt", "Hi"), 2)
    check("is going on this machine" in stage.said(), stage.said()[-300:])
    with ScriptedServer(answering) as server:
        stage.ends(stage.core("load", server.url, *LOAD), 2)
    sweeping = stage.core(*SWEEP)
    stage.ends(first)
    stage.ends(sweeping)
    found = state(stage, "sweep")
    check(found is not None and not found.failures, f"{found and found.failures}")
    stage.left(*(found.runs.values() if found else ()))


def two_sweeps(stage: Stage) -> None:
    """The same sweep twice at the same moment: one is told of the other, no run is lost."""
    one, other = stage.core(*SWEEP), stage.core(*SWEEP)
    codes = sorted((one.wait(120), other.wait(120)))
    check(codes == [0, 2] or codes == [0, 0], f"exit statuses {codes}: {stage.said()[-300:]}")
    check(codes == [0, 0] or "carries out this study already" in stage.said(), stage.said()[-300:])
    found = state(stage, "sweep")
    check(found is not None and not found.failures and len(found.took_s) >= 4, f"{found}")
    stage.left(*(found.runs.values() if found else ()))


def deletes_meanwhile(stage: Stage) -> None:
    """One process frees everything it may while another one sweeps; what that one needs stays."""
    sweeping = stage.core(*SWEEP, "--option", "delay_s=0.2")
    stage.until(lambda: (found := state(stage, "sweep")) and found.runs, "a run")
    n = 0
    while sweeping.poll() is None:
        for kind in ("studies", "runs", "leftovers", "artifacts"):
            stage.ends(stage.core("storage", "--free", kind, "--yes"))
            if sweeping.poll() is None:
                check(state(stage, "sweep") is not None, "the study was freed under its process")
                n += 1
    stage.ends(sweeping)
    check(n > 3, "it was over before anything was freed")
    check("Another" not in stage.said(), stage.said()[-300:])
    stage.left()


ROWS = staged(
    "together",
    (two_commands, "a run, a load test and a sweep while another run goes", "who is measuring", "all of them"),
    (two_sweeps, "the same sweep twice at the same moment", "who carries it out", "each cell once"),
    (deletes_meanwhile, "everything is freed again and again during a sweep", "what stays, and why", "the study"),
)
