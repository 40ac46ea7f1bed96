"""Less memory than is needed."""

from __future__ import annotations

import contextlib
import os
import resource
import subprocess
from collections.abc import Callable
from pathlib import Path

from tests.faults.scenario import backends, staged
from tests.faults.stage import Stage, WrongError, check

GROUP = Path("/sys/fs/cgroup/memory")


def limited(stage: Stage, n_bytes: int) -> Callable[[], None]:
    """A limit for a process and its children: a control group where one may be made, else of its address space."""
    group = GROUP / f"roofscope-{stage.home.name}"
    try:
        group.mkdir()
        (group / "memory.limit_in_bytes").write_text(str(n_bytes))
        return lambda: (group / "cgroup.procs").write_text(str(os.getpid())) and None
    except OSError:
        return lambda: resource.setrlimit(resource.RLIMIT_AS, (n_bytes, n_bytes))


def short_of_memory(stage: Stage) -> None:
    """llama.cpp with less than the model needs: by the kernel's killer, or by a refused allocation."""
    asked = ("run", "--backend", "llama_cpp", "--prompt", "Hi", "--max-new-tokens", "4", "--threads", "1")
    group = GROUP / f"roofscope-{stage.home.name}"
    for n_bytes in (170_000_000, 220_000_000):
        going = stage.core(*asked, "--allow-oversize", "--profilers", "", before=limited(stage, n_bytes))
        try:
            code = going.wait(120)
        except subprocess.TimeoutExpired:
            raise WrongError("it goes on for ever") from None
        run = next(stage.store.runs(), None)
        if code > 0 and run is not None:
            failed = run.failure()
            check(failed is not None and failed.message.endswith("."), f"status {run.status()}: {stage.said()[-300:]}")
        check("Traceback" not in stage.said() or code < 0, f"a traceback: {stage.said()[-400:]}")
    stage.ends(stage.core(*asked, "--profilers", ""))
    stage.until(lambda: not stage.processes(), "the end of its processes", 20.0)
    with contextlib.suppress(OSError):
        group.rmdir()
    check(stage.newest().status() == "done", stage.newest().status())


ROWS = staged(
    "memory",
    (
        short_of_memory,
        "memory limits below what llama.cpp needs (control group, else address space)",
        "one sentence",
        "the next run",
    ),
    needs=backends("llama_cpp"),
)
