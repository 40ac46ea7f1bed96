"""Ctrl-C, and the app's Stop, where native code computes and cannot be interrupted."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import msgspec

from core.types import GOING, Generate, Pass, Phase, Request, Step, to_json
from tests.faults.scenario import backends, staged
from tests.faults.stage import Stage, check
from tests.faults.subjects import CONVERTS_S, state

SMALL = {
    "model_type": "llama", "hidden_size": 64, "intermediate_size": 192, "num_hidden_layers": 4,
    "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 256, "max_position_embeddings": 4096,
}  # fmt: skip
ANSWERED = 3000  # tokens, so that a stop comes before the end
PREPARED = {
    "while it is converted": "Starting the ONNX export",
    "while the export is compared": "Starting ONNX Runtime for the ONNX export",
    "while it is opened": "Loading model.onnx",
}
PASSES: dict[str, tuple[str, str | None]] = {
    "in a live pass": ("live", None),
    "while it is timed": ("timing", None),
    "while its memory is sampled": ("profile", "memory"),
    "while its layers are profiled": ("profile", "layers"),
}


def small(stage: Stage) -> str:
    """A model with random weights that has to be converted: its configuration."""
    file = stage.home / "small" / "config.json"
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(SMALL))
    return str(file)


def come_to(stage: Stage, phase: str, old: set[str]) -> str:
    """Waits until a run that is none of the old ones is there; its id."""
    (run_id,) = stage.until(lambda: set(stage.store.ids()) - old, "the run")
    run = stage.store.open(run_id)

    def there() -> bool:
        events = run.events()
        if phase in PREPARED:
            return any(isinstance(e, Phase) and PREPARED[phase] in e.note for e in events)
        last = next((e for e in reversed(events) if isinstance(e, Pass | Step)), None)
        if not isinstance(last, Step):  # its pass has not begun to answer
            return False
        of = next(e for e in reversed(events) if isinstance(e, Pass))
        return (of.kind, of.profiler) == PASSES[phase]

    stage.until(lambda: there() or run.status() not in GOING, phase, CONVERTS_S)
    return str(run_id)


def interrupt(going: subprocess.Popen[bytes]) -> None:
    """Ctrl-C in a terminal, which all of its foreground's processes hear."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(going.pid, signal.SIGINT)


def temporary(stage: Stage) -> list[str]:
    """What our own code has left in the folder for temporary files; libraries have names of theirs."""
    return sorted(path.name for name in ("tmp*", "roofscope-*") for path in stage.temporary.glob(name))


def onnx_interrupted(stage: Stage) -> None:
    """The next run goes on with what was made whole before. Where nothing can be interrupted, the user is impatient."""
    asked = ("run", "--model", small(stage), "--backend", "onnxruntime", "--prompt-tokens", "16", "--threads", "1")
    for phase in (*PREPARED, *list(PASSES)[1:]):
        old = set(stage.store.ids())
        going = stage.core(*asked, "--max-new-tokens", str(ANSWERED), "--retries", "0")
        run_id = come_to(stage, phase, old)
        interrupt(going)
        if phase in PREPARED:
            time.sleep(0.3)
            interrupt(going)
        stage.ends(going, 130)
        check(stage.store.open(run_id).status() == "cancelled", f"{phase}: {stage.store.open(run_id).status()}")
        stage.until(lambda: not stage.processes(), f"the end of its processes ({phase})", 20.0)
        check(not temporary(stage), f"{phase}: {temporary(stage)}")
    stage.ends(stage.core(*asked, "--max-new-tokens", "4"))
    stage.left(stage.newest().id)


STOPPING = """
import sys, time
from pathlib import Path
from core.runs.runner import Runner
from core.runs.store import Store
from core.types import Request, from_json
runner, stop = Runner(Store(Path(sys.argv[1]))), Path(sys.argv[2])
long, short = (from_json(text.encode(), Request) for text in sys.argv[3:])
run_id = runner.start(long)
while not stop.exists():
    time.sleep(0.01)
runner.cancel(run_id)
ends = [runner.wait(run_id).status(), runner.wait(runner.start(short)).status()]
print(ends)
runner.close()
sys.exit(ends != ["cancelled", "done"])
"""


def onnx_stopped(stage: Stage) -> None:
    """As the app does it, whose next run follows at once."""
    long = Request(
        model=small(stage), backend="onnxruntime", threads=1, live=True, retries=0,
        task=Generate(prompt_tokens=16, max_new_tokens=ANSWERED), profilers=("memory", "layers"),
    )  # fmt: skip
    short = msgspec.structs.replace(long, task=Generate(prompt_tokens=4, max_new_tokens=4))
    for phase in (*PREPARED, *PASSES):
        old, stop = set(stage.store.ids()), stage.home / "stop"
        stop.unlink(missing_ok=True)
        if phase in list(PREPARED)[:2]:
            shutil.rmtree(stage.home / "cache" / "artifacts", ignore_errors=True)
        asked = (str(stage.data), str(stop), to_json(long).decode(), to_json(short).decode())
        app = stage.start(sys.executable, "-c", STOPPING, *asked)
        come_to(stage, phase, old)
        stop.touch()
        stage.until(lambda app=app: app.poll() is not None, f"the next run ({phase})", CONVERTS_S)
        stage.ends(app)
        check(not temporary(stage), f"{phase}: {temporary(stage)}")
    stage.left(stage.newest().id)


def onnx_killed(stage: Stage) -> None:
    """kill -9 of the worker while ONNX Runtime writes a profile of its layers."""
    asked = ("run", "--model", small(stage), "--backend", "onnxruntime", "--prompt-tokens", "16", "--threads", "1")
    stage.ends(stage.core(*asked, "--max-new-tokens", "4"))
    old = set(stage.store.ids())
    going = stage.core(*asked, "--max-new-tokens", str(ANSWERED), "--retries", "0")
    come_to(stage, "while its layers are profiled", old)
    stage.kill(stage.worker())
    stage.ends(going, 1)
    check(not temporary(stage), f"{temporary(stage)}")
    stage.ends(stage.core(*asked, "--max-new-tokens", "4"))
    stage.left(stage.newest().id)


CUT = (
    *("architectures", "cut", "--engine", "onnxruntime", "--speedup", "1", "--deepest", "2", "--step", "64"),
    *("--scored", "4", "--finished", "2", "--checks", "0", "--score-tokens", "64", "--texts", "2", "--rounds", "2"),
    *("--train", "minutes=0.1", "--train", "texts=20", "--train", "length=16", "--threads", "1"),
    *("--prompt-tokens", "8", "--new-tokens", "8"),
)
CUT_SAYS = ("whole/make/1", "ceilings with", "fitting prices", "masked 1 of", "/make/2", "judging", "round 1")


def cut_interrupted(stage: Stage) -> None:
    """Whatever the search is at, it goes on from there. The app's Stop is heard by the search alone."""
    asked = (*CUT, "--model", small(stage))
    for number, words in enumerate(CUT_SAYS):
        said = len(stage.said())
        going = stage.core(*asked)
        stage.until(
            lambda n=said, words=words, going=going: words in stage.said()[n:] or going.poll() is not None,
            words,
            CONVERTS_S,
        )
        time.sleep(0.3)  # into it
        interrupt(going) if number % 2 else going.send_signal(signal.SIGINT)
        stage.ends(going, 130)
        stage.until(lambda: not stage.processes(), f"the end of its processes ({words})", 20.0)
    going = stage.core(*asked)
    stage.until(lambda: going.poll() is not None, "the end of the search", CONVERTS_S)
    stage.ends(going)
    found = state(stage, "architectures")
    check(found is not None and not found.failures, f"failures: {found and found.failures}")
    assert found is not None
    check(len(set(found.runs.values())) == len(found.runs), "a run counts twice")
    stage.left(*found.runs.values())


ROWS = staged(
    "stopped",
    (
        onnx_interrupted,
        "Ctrl-C in each phase of a run in ONNX Runtime, its conversion's too",
        "stopped, exit status 130",
        "no process; the next run",
    ),
    (
        onnx_stopped,
        "the app's Stop in each phase of a run in ONNX Runtime, its live pass too",
        "stopped",
        "the next run of the same app",
    ),
    (
        cut_interrupted,
        "Ctrl-C or the app's Stop in each phase of `architectures cut`",
        "exit status 130; it goes on",
        "no process; each run once",
    ),
    (
        onnx_killed,
        "kill -9 of a worker while ONNX Runtime profiles its layers",
        "why, in a sentence",
        "no profile; the next run",
    ),
    needs=backends("onnxruntime", "pytorch"),
)
