"""The catalogue of devices with its sources and doubts, this machine as measured, and devices of one's own."""

from __future__ import annotations

from typing import Any, get_args

import msgspec
import pandas as pd
import streamlit as st

from core.analysis.roofline import roofs_of
from core.charts.bandwidth import bandwidth_curve
from core.charts.labels import plain
from core.charts.roofline import roofline
from core.paths import data_dir
from hardware import catalogue
from hardware.detect import usable_cores
from hardware.device import DTYPES, Device, Kind, validate
from hardware.errors import ExplorerError
from hardware.files import UNREADABLE
from pages.ui import text
from pages.ui.ceilings import THIS, kept, measure_panel, this_machine
from pages.ui.figure import figure
from pages.ui.page import fault, page
from pages.ui.share import Form, download
from pages.ui.state import rows_key
from pages.ui.table import table

ABOUT = "What processors and accelerators can do, as their data sheets state it and as this machine was measured."
SHOWN = ("fp32", "fp16", "bf16", "fp8", "int8")
TERA, GIGA = 1e12, 1e9
KINDS = {"cpu": "CPU", "gpu": "GPU", "soc": "SoC", "tpu": "TPU"}
UNITS = "1 GB is 10⁹ bytes everywhere here. A data sheet counts memory in 2³⁰: its 24 GB are 25.8 GB."


def kind_label(name: str) -> str:
    return KINDS.get(name, name)


def rate_unit(dtype: str) -> str:
    return "TOP/s" if dtype.startswith("int") else "TFLOP/s"


def styled(devices: tuple[Device, ...]) -> Any:
    """Numbers that sort as numbers; a doubtful one is shown with a ~."""
    columns = {
        "Memory (GB)": ("mem_bytes", GIGA),
        "Bandwidth (GB/s)": ("mem_bandwidth_bytes_per_s", GIGA),
        **{f"{dtype} ({rate_unit(dtype)})": (f"peak_flop_per_s.{dtype}", TERA) for dtype in SHOWN},
        "TDP (W)": ("tdp_w", 1.0),
    }
    rows = [
        {
            "Device": d.name,
            "Kind": kind_label(d.kind),
            **{title: figure_of(d, field, scale) for title, (field, scale) in columns.items()},
            "Year": d.year,
            "Confidence": "measured" if d.provenance == "measured" else d.confidence or "own",
            "Doubtful": ", ".join(d.uncertain_fields).replace("peak_flop_per_s.", "").replace("_", " "),
        }
        for d in devices
    ]
    frame = pd.DataFrame(rows)
    style = frame.style.format(precision=4, na_rep=text.NONE, subset=[*columns, "Year"])
    for title, (field, _) in columns.items():
        certain = [i for i, d in enumerate(devices) if not d.is_uncertain(field)]
        doubtful = [i for i, d in enumerate(devices) if d.is_uncertain(field)]
        style = style.format(lambda v: text.NONE if pd.isna(v) else plain(v), subset=(certain, title))
        style = style.format(lambda v: text.NONE if pd.isna(v) else f"~ {plain(v)}", subset=(doubtful, title))
    return style.format(lambda v: text.NONE if pd.isna(v) else f"{v:.0f}", subset="Year")


def figure_of(device: Device, field: str, scale: float) -> float | None:
    head, _, dtype = field.partition(".")
    value = device.peak_flop_per_s.get(dtype) if dtype else getattr(device, head)
    return None if value is None else value / scale


def draw_device(device: Device) -> None:
    """One device: its roofs, where the figures come from, and what is doubtful."""
    with st.container(border=True):
        left, right = st.columns([1.7, 1], gap="medium")
        with left:
            st.markdown(f"**{text.escape(device.name)}** {text.provenance(device.provenance)}")
            figure(
                roofline(roofs_of(device, next(iter(device.peak_flop_per_s))), (), height=380, pick=False), key="roofs"
            )
        with right:
            st.markdown("**Sources**")
            for source in device.sources:
                st.markdown(f"- {text.escape(source)}")
            if device.checked_against:
                st.caption(f"Checked against: {text.escape(device.checked_against)}")
            if device.doubts():
                st.warning(text.escape(device.doubts()), icon=":material/help:")
            if device.notes:
                st.caption(text.escape(device.notes))
            form = Form("Download as a file", f"{device.name.replace('/', '-')}.json", lambda: written(device))
            download(form, f"device-file-{device.name}")
            if device.name in catalogue.own(data_dir() / "devices"):
                draw_delete(device.name)


def written(found: Device | tuple[Device, ...]) -> bytes:
    return msgspec.json.format(msgspec.json.encode(found), indent=2)


def draw_delete(name: str) -> None:
    """A device of one's own can go again; what a shipped one of that name says then holds."""
    with st.popover("Delete", icon=":material/delete:", type="tertiary", key=f"device-delete-{name}"):
        st.caption("Its figures are removed from your own files. Runs and studies stay.")
        if st.button("Delete this device", type="primary", key=f"device-delete-yes-{name}"):
            try:
                catalogue.remove(name, data_dir() / "devices")
            except ExplorerError as error:
                fault(error)
                return
            st.toast(f"{text.escape(name)} is deleted.", icon=":material/delete:")
            st.rerun()


def draw_catalogue(devices: tuple[Device, ...]) -> Device | None:
    there = sorted({d.kind for d in devices})
    kinds = st.pills("Kind", there, selection_mode="multi", format_func=kind_label, key="device-kinds")
    shown = tuple(d for d in devices if not kinds or d.kind in kinds)
    event = table(
        styled(shown),
        height=430,
        key=rows_key("device-table", (d.name for d in shown)),
        on_select="rerun",
        selection_mode=["single-row", "single-cell"],
        column_config={
            "Device": st.column_config.TextColumn(pinned=True),
            "Doubtful": st.column_config.TextColumn(help="Worked out from other figures, or disputed; shown with a ~"),
            "Confidence": st.column_config.TextColumn(
                help="A: agrees with a source that was read. B: recalled and partly checked. C: worked out or disputed."
            ),
        },
        alt="All devices with memory, bandwidth, peak rates and which figures are doubtful",
    )
    st.caption(
        f"{text.provenance('stated')} Dense peaks. {UNITS} ~ marks a doubtful figure. "
        "Select a row for its sources and roofs.",
        help=text.provenance_help(),
    )
    download(Form("All as a file", "devices.json", lambda: written(devices)), "devices-file")
    rows = event.selection.rows or [row for row, _ in event.selection.cells]
    return shown[rows[0]] if rows else None


def draw_form(chosen: Device | None) -> None:
    """Add a device, or change one: the same name replaces it. A fault goes with the next change of a field."""
    base = chosen if chosen is not None and chosen.provenance == "stated" else None
    key = base.name if base else "new"
    words = f"Edit {text.escape(base.name)}" if base else "Add a device"
    with st.expander(words, icon=":material/add_circle:"):
        one, two, three, four = st.columns([2, 1, 1, 1])
        name = one.text_input("Name", base.name if base else "", key=f"d-name-{key}")
        kinds = list(get_args(Kind))
        kind = two.selectbox(
            "Kind", kinds, index=kinds.index(base.kind) if base else 1, format_func=kind_label, key=f"d-kind-{key}"
        )
        memory = three.number_input(
            "Memory (GB)", min_value=0.0, value=base.mem_bytes / GIGA if base else None, help=UNITS, key=f"d-mem-{key}"
        )
        rate = four.number_input(
            "Bandwidth (GB/s)",
            min_value=0.0,
            value=base.mem_bandwidth_bytes_per_s / GIGA if base else None,
            key=f"d-rate-{key}",
        )
        st.caption(f"{UNITS} Dense peaks in tera-operations per second; leave open what is not known.")
        peaks = {}
        with st.grid(len(DTYPES), min_column_width=100):
            for dtype in DTYPES:
                known = base.peak_flop_per_s.get(dtype) if base else None
                peaks[dtype] = st.number_input(
                    dtype, min_value=0.0, value=known / TERA if known else None, key=f"d-{dtype}-{key}"
                )
        left, right = st.columns([1, 3])
        tdp = left.number_input("TDP (W)", min_value=0.0, value=base.tdp_w if base else None, key=f"d-tdp-{key}")
        source = right.text_input(
            "Source",
            "; ".join(base.sources) if base else "",
            placeholder="Name of the data sheet",
            key=f"d-source-{key}",
        )
        if st.button("Save", icon=":material/save:", type="primary", key=f"d-save-{key}"):
            save(
                Device(
                    name=name.strip(),
                    kind=kind,
                    mem_bytes=(memory or 0.0) * GIGA,
                    mem_bandwidth_bytes_per_s=(rate or 0.0) * GIGA,
                    peak_flop_per_s={dtype: v * TERA for dtype, v in peaks.items() if v},
                    tdp_w=tdp or None,
                    sources=tuple(part.strip() for part in source.split(";") if part.strip()),
                ),
                form=True,
            )


def save(*devices: Device, form: bool = False) -> None:
    """Check all of them, then keep all of them; a fault is one sentence and nothing is kept.

    form: they were typed here, in the form's units.
    """
    try:
        for device in devices:
            validate(device, "This device", form)
        for device in devices:
            catalogue.save(device, data_dir() / "devices")
    except ExplorerError as error:
        fault(error)
        return
    st.toast(f"Saved: {text.escape(', '.join(d.name for d in devices))}", icon=":material/check:")
    st.rerun()


def draw_upload() -> None:
    with st.expander("Import devices from a file", icon=":material/upload_file:"):
        file = st.file_uploader("A JSON file with one device or a list of them", type="json", key="device-file")
        st.caption(f"Files (JSON or CSV) in {text.code(str(data_dir() / 'devices'))} are read too.")
        if file is not None and st.button("Import", icon=":material/upload:", key="device-import"):
            try:
                found = msgspec.json.decode(file.getvalue(), type=Device | list[Device])
            except UNREADABLE as error:
                fault(
                    ExplorerError(
                        f"{file.name} does not describe a device: {error}.",
                        "Download a device of the table to see what a file looks like.",
                    )
                )
                return
            save(*(found if isinstance(found, list) else [found]))


def draw_here() -> Device | None:
    threads = usable_cores()
    found = kept(threads)
    if found is not None and found.reads:
        with st.expander("Its bandwidth over the working set", icon=":material/ssid_chart:"):
            reads = [(float(r.working_set_bytes), r.bytes_per_s) for r in found.reads]
            figure(bandwidth_curve(reads, found.knees), key="bandwidth")
            table(
                [
                    {
                        "Format": dtype,
                        "GFLOP/s": g.flop_per_s / 1e9,
                        "Shape": f"{g.m} × {g.k} × {g.n}",
                        "Kernel": g.kernel,
                    }
                    for dtype, g in found.peaks.items()
                ],
                column_config={"GFLOP/s": st.column_config.NumberColumn(format="%.1f")},
                alt="The best matrix product of each number format and the kernel that ran it",
            )
    return this_machine(found)


with page("Devices", ABOUT):
    with st.container(border=True):
        st.markdown(f"**{THIS}**")
        measure_panel(usable_cores())
        here = draw_here()
    for problem in catalogue.problems(data_dir() / "devices"):
        fault(problem)
    everything = (*((here,) if here else ()), *catalogue.devices(data_dir() / "devices"))
    picked = draw_catalogue(everything)
    if picked is not None:
        draw_device(picked)
    draw_form(picked)
    draw_upload()
