"""This machine's measured ceilings in a page: their state, measuring them, and the reference roofline of a run.

Measuring goes on in a thread that owns a child process, so it survives reruns, pages and reloads.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import msgspec
import streamlit as st

from core.analysis import predict_here
from core.analysis.bottlenecks import Ceiling
from core.analysis.device_time import ideal_peak
from core.analysis.roofline import Roof, ceiling_here, ceiling_of, roofs_here, roofs_of
from core.analysis.under_roof import working_set_bytes
from core.dtypes import canonical_dtype
from core.paths import data_dir
from core.runs.ceilings import ceilings_of, measure, ran_on
from core.runs.ceilings import kept as ceilings_kept
from core.runs.measuring import holder
from core.types import Result
from hardware import catalogue, ceilings
from hardware.ceilings import Ceilings
from hardware.detect import machine_id, usable_cores
from hardware.device import Device
from hardware.errors import ExplorerError
from pages.ui import text
from pages.ui.background import Background
from pages.ui.live import moving
from pages.ui.page import fault
from pages.ui.state import runner

THIS, ELSEWHERE = "This machine", "The machine that ran it"
_OLD_DAYS = 30
_SAME = 0.03  # roofs closer than this are one line


@dataclass
class Measuring(Background):
    """One measurement as it goes. probe: a few seconds, only to compare with what is kept."""

    threads: int
    probe: bool = False
    quick: bool = True
    share: float = 0.0
    result: Ceilings | None = None

    def start(self, root: Path) -> None:
        def progress(note: str, done: float, total: float) -> None:
            self.note, self.share = note or self.note, min(1.0, done / total) if total else 0.0

        def work() -> None:
            self.result = measure(root, self.threads, self.quick, progress, self.stop.is_set, probe=self.probe)

        self.begin(work, "The ceilings")


@st.cache_resource(show_spinner=False)
def jobs() -> dict[str, Measuring]:
    """The measurement that goes on or went last; one per process."""
    return {}


def kept(threads: int) -> Ceilings | None:
    """What was measured on this machine at this thread count."""
    return ceilings_kept(data_dir(), threads)


def kept_of(result: Result) -> Ceilings | None:
    """What was measured on the machine that made the run, at its thread count; it may have come with a bundle."""
    return ceilings_of(data_dir(), result)


def own_name(result: Result) -> str:
    """This machine, or another one whose run was imported."""
    return THIS if ran_on(result) == machine_id() else ELSEWHERE


def no_ceilings(result: Result, where: str = "on the page Roofline") -> str:
    """What to do where the ceilings of the machine that made a run are not here. where: they can be measured."""
    if own_name(result) == THIS:
        return f"Press Measure this machine {where}, or choose a data sheet as the reference roofline."
    return "Another machine made this run, and its ceilings did not come along: choose a data sheet or measure there."


def threads_of(result: Result) -> int:
    """At which this machine is to be measured for a run; as usual for one that another machine made."""
    return (result.threads if own_name(result) == THIS else None) or usable_cores()


def measure_panel(threads: int) -> None:
    """State of the ceilings, a button to measure them, and progress while it goes on. Call at a page's top level."""
    job = jobs().get("job")
    active = job is not None and job.active

    def panel() -> bool:
        if job is not None and job.active:
            with st.container(horizontal=True, vertical_alignment="center"):
                st.progress(job.share, text=f"**Measuring this machine** · {text.escape(job.note)}")
                st.button("Stop", icon=":material/stop_circle:", key="ceilings-stop", on_click=job.stop.set, width=110)
            return True
        if active:
            st.rerun()
        _state(threads, job)
        return False

    moving("ceilings", panel, "curves")


def _state(threads: int, job: Measuring | None) -> None:
    found = kept(threads)
    n = "1 thread" if threads == 1 else f"{threads} threads"
    with st.container(horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"):
        if found is None:
            st.markdown(f":material/speed: **This machine's ceilings are not measured yet** for {n}.", width="content")
        else:
            when = found.date[:16].replace("T", " ")
            st.markdown(_line(found), width="content", help=_about(found, when))
        with st.container(horizontal=True, width="content"):
            other = holder(data_dir())
            busy = other is not None or runner().active() is not None
            if found is not None:
                _start_button("Check", ":material/rule:", threads, True, busy, "A few seconds: has anything moved?")
            words = "Measure this machine" if found is None else "Measure again"
            about = "Matrix products per number format and reads over growing working sets, for about half a minute."
            _start_button(words, ":material/straighten:", threads, False, busy, about, primary=found is None)
    if busy:
        who = text.escape(f"{other.what[0].upper()}{other.what[1:]}" if other else "A run")
        st.caption(f"{who} is going: measuring now would spoil both, so stop it or wait for its end.")
    if found is not None:
        for words in _notices(found, job):
            st.warning(text.escape(words), icon=":material/update:")
    if job is not None and job.error is not None:
        fault(job.error)


def _about(found: Ceilings, when: str) -> str:
    """When, and which way of multiplying was the fastest in each number format."""
    ways = "\n".join(f"- {dtype}: {text.escape(best.kernel)}" for dtype, best in found.peaks.items())
    return f"This machine with {found.threads} threads, {when} UTC. The fastest products:\n\n{ways}"


def _line(found: Ceilings) -> str:
    read = text.bandwidth(found.dram_read_bytes_per_s)
    peaks = " · ".join(f"{dtype} **{text.compute(rate)}**" for dtype, rate in found.flop_per_s.items())
    return f"{text.provenance('measured')} {peaks} · read **{read}**"


def _notices(found: Ceilings, job: Measuring | None) -> list[str]:
    words = list(found.doubts)
    days = (time.time() - _epoch(found.date)) / 86400
    if days > _OLD_DAYS:
        words.append(f"These ceilings are {days:.0f} days old. Press Check to see whether they still hold.")
    if job is not None and job.probe and job.result is not None and job.threads == found.threads:
        moved = ceilings.drift(found, job.result)
        words += moved
        if moved:
            words.append("Measure again, or find out what else is running.")
        else:
            st.caption(":material/check: Checked: nothing moved by more than 5 %.")
    return words


def _epoch(date: str) -> float:
    try:
        import calendar

        return float(calendar.timegm(time.strptime(date[:19], "%Y-%m-%dT%H:%M:%S")))
    except ValueError:
        return time.time()


def _start_button(
    label: str, icon: str, threads: int, probe: bool, busy: bool, about: str, primary: bool = False
) -> None:
    kind = "primary" if primary else "secondary"
    if st.button(
        label, icon=icon, key=f"ceilings-{'check' if probe else 'start'}", disabled=busy, help=about, type=kind
    ):
        job = Measuring(threads=threads, probe=probe)
        jobs()["job"] = job
        job.start(data_dir())
        st.rerun()


class Reference(NamedTuple):
    """The reference roofline of a run: two ceilings, all roofs of the device for drawing, and its name."""

    device: Device
    ceiling: Ceiling
    roofs: tuple[Roof, ...]
    found: Ceilings | None = None
    dtype: str = "fp32"

    def near(self, n_bytes: float) -> Ceiling:
        """The ceiling for a small working set: a cache's where caches were measured, else the same."""
        found = self.found
        own = ceiling_here(found, self.dtype, n_bytes, _whose(found)) if found is not None else None
        return self.ceiling if own is None else own


def _whose(found: Ceilings) -> str:
    name = THIS if found.machine_id == machine_id() else ELSEWHERE
    return name[0].lower() + name[1:]


def choose_reference(result: Result, key: str) -> Reference | None:
    """Choose the reference roofline: this machine as measured, or a data sheet. None: not measured yet."""
    own = own_name(result)
    names = [own, *(d.name for d in catalogue.devices(data_dir() / "devices"))]
    chosen = st.selectbox(
        "Reference roofline",
        names,
        key=key,
        bind="query-params",
        width=260,  # a row with no room for it wraps: as wide as what is left, it may be cut
        help="It decides memory- or compute-bound: the measured ceilings of the machine that ran it, "
        "or the figures of a data sheet (stated).",
    )
    found = kept_of(result) if chosen == own else None
    device = this_machine(found, own) if chosen == own else catalogue.find(chosen, data_dir() / "devices")
    return None if device is None else reference_of(device, result, found)


def reference_of(device: Device, result: Result, found: Ceilings | None = None) -> Reference:
    """The roofs of a device for this run's number format; with measured ceilings also by working set."""
    dtype = arithmetic_dtype(device, result) if found is None else predict_here.arithmetic_dtype(_known(result), found)
    if found is not None:
        needed = max(working_set_bytes(result.layers, phase) for phase in ("prefill", "decode"))
        ceiling = ceiling_here(found, dtype, needed, _whose(found))
        assert ceiling is not None  # as_device gave this dtype and a bandwidth
        return Reference(
            device,
            ceiling,
            _with_working_set(roofs_here(found, dtype, needed, device.name), ceiling, needed),
            found,
            dtype,
        )
    stated = ceiling_of(device, dtype)
    assert stated is not None  # ideal_peak chose among the device's own
    return Reference(device, stated, roofs_of(device, dtype), dtype=dtype)


def _with_working_set(roofs: tuple[Roof, ...], ceiling: Ceiling, n_bytes: float) -> tuple[Roof, ...]:
    """The roofs with the one that counts among them: a line of its own where it lies between two levels."""
    main = next((r for r in roofs if r.kind == "memory" and r.main), None)
    if main is not None and abs(ceiling.bytes_per_s / main.value - 1) < _SAME:
        return roofs
    others = [msgspec.structs.replace(r, main=r.main and r.kind == "compute") for r in roofs]
    name = f"reading {text.size(n_bytes)}"
    return (*others, Roof(device=roofs[0].device, kind="memory", name=name, value=ceiling.bytes_per_s, main=True))


def arithmetic_dtype(device: Device, result: Result) -> str:
    """The fastest arithmetic that kernels for the run's weights could use here: the roof nothing can beat."""
    return ideal_peak(device, _known(result))[0]


def _known(result: Result) -> str:
    """The run's number format; fp32 for one that only its own library knows."""
    try:
        return canonical_dtype(result.dtype or "fp32")
    except ExplorerError:
        return "fp32"


def this_machine(found: Ceilings | None, name: str = THIS) -> Device | None:
    """Measured ceilings as a device; None without them."""
    return None if found is None or found.dram_read_bytes_per_s is None else found.as_device(name)
