"""What the latencies of a model behind a server imply of its inside: estimates, on the roofline of a named device."""

from __future__ import annotations

from collections.abc import Callable

import streamlit as st

from core.analysis.device_time import ideal_peak
from core.analysis.implied import Implied, Part, Span
from core.analysis.roofline import ceiling_of, roofs_of
from core.charts.roofline import roofline
from core.endpoints import store as endpoints
from core.endpoints.flavours import ServedModel
from core.endpoints.store import Endpoint
from core.models import catalogue
from core.models.served import UNKNOWN, dtype_of
from core.runs import over_lengths
from core.types import ModelSpec
from hardware.errors import ExplorerError
from pages.ui import text
from pages.ui.figure import figure
from pages.ui.links import link
from pages.ui.models import spec_of
from pages.ui.page import fault
from pages.ui.panes import table_height
from pages.ui.pickers import device_picker
from pages.ui.state import store
from pages.ui.table import table
from pages.ui.tile import tile

NOT_KNOWN = "Not known"


def draw_implied(endpoint: Endpoint, model: ServedModel) -> None:
    """Effective bandwidth, active bytes, points under the roofs, and the layers of a configuration."""
    name = endpoints.catalogue_id(endpoint, model)
    key = endpoints.name_of(name)
    if not st.toggle(
        "What its latencies imply",
        key=f"implied-{key}",
        help="Effective bandwidth, active bytes and the time of each layer, estimated from the runs of this model at "
        "several lengths.",
    ):
        return
    with st.container():
        found = over_lengths.timings(store(), name)
        left, right = st.columns(2)
        with left:
            default = endpoint.cloud.device if endpoint.cloud is not None else None
            device = device_picker(f"implied-device-{key}", "The device it runs on", default)
        known = {e.id: e for e in catalogue.entries() if e.family != "served"}
        chosen = right.selectbox(
            "Its configuration",
            [NOT_KNOWN, *known],
            format_func=lambda i: known[i].label if i in known else i,
            key=f"implied-model-{key}",
            help="A model of the catalogue that has the same layers and number format; you say so, the server does "
            "not. Your own config.json can be added on the Run page.",
        )
        try:
            spec = spec_of(known[chosen]) if chosen in known else None
            dtype = spec.dtype if spec is not None else dtype_of(model.quantization)
            dtype = "fp16" if dtype == UNKNOWN else dtype
            ceiling = ceiling_of(device, ideal_peak(device, dtype)[0])
            assert ceiling is not None  # ideal_peak chose among the device's own
            told = over_lengths.behind(found, ceiling, spec, model.size_bytes, model.n_params)
        except ExplorerError as error:
            fault(error, hindrance=True)
            _how(name)
            return
        _figures(told.implied, spec)
        main = ideal_peak(device, dtype)[0]
        if told.implied.points:
            figure(roofline(roofs_of(device, main), told.implied.points, height=420, pick=False), key=f"roofs-{key}")
        for words in told.implied.notes:
            st.caption(f":material/info: {text.escape(words)}")
        if spec is not None:
            _network(told.step, f"a step behind {told.at:,} tokens", key)
            _network(told.prompt, f"a prompt of {told.of:,} tokens", key)
        line = told.implied.itl or told.implied.ttft
        n = f"{line.n} answers of {line.lengths} lengths" if line is not None else ""
        st.caption(
            f"{text.provenance('estimated')} from {n}, one request at a time, network and queue included; ranges are "
            "95 % intervals in their widest combination. "
            f"{text.provenance('stated')} roofs of {text.escape(device.name)}.",
            help=text.provenance_help(),
        )


def _how(name: str) -> None:
    st.code(
        f'roofscope sweep --model "{name}" --backend endpoint --strategy native '
        "--axis prompt_tokens=64,256,1024 --rounds 3 --new-tokens 32",
        language="bash",
    )
    link("pages/plan/sweep.py", "Sweep", ":material/grid_on:")


def _figures(found: Implied, spec: ModelSpec | None) -> None:
    with st.grid(4, min_column_width=165):
        _metric("Effective bandwidth", found.bandwidth, text.bandwidth, found.basis)
        _metric("Active bytes of a step", found.active_bytes, text.size, "Weights that one token's step reads.")
        tile(
            "Active bytes, at most",
            text.size(found.most_bytes),
            "More the device cannot read in the time of a step without a context.",
        )
        tile(
            "Active parameters, at most",
            text.si(found.most_params),
            "More the device cannot compute in the time that a token of the prompt takes.",
        )
    if found.bandwidth is None and spec is None:
        st.caption("Name its configuration: how many bytes a token of the context adds tells what was read per second.")


def _metric(label: str, span: Span | None, show: Callable[[float | None], str], about: str) -> None:
    tile(
        label,
        text.NONE if span is None else f"~ {show(span.value)}",
        about,
        under=None if span is None or span.low == span.high else f"{show(span.low)} to {show(span.high)}",
    )


def _network(parts: tuple[Part, ...], what: str, key: str) -> None:
    """The layers of the configuration, as they would share what was measured."""
    if not parts:
        return
    st.markdown(f"**Its layers in {what}** {text.provenance('estimated')}")
    table(
        [
            {
                "Layer": part.name,
                "Layers": part.n_layers,
                "Share": part.share,
                "Time": text.seconds(part.seconds.value),
                "From": text.seconds(part.seconds.low),
                "To": text.seconds(part.seconds.high),
                "FLOP": text.si(part.flops, "FLOP"),
                "Bytes": text.size(part.bytes),
            }
            for part in parts
        ],
        key=f"network-{parts[0].phase}-{key}",
        height=table_height(len(parts), 320),
        alt=f"Layers of the configuration in {what}, their computed work and estimated times",
        column_config={
            "Layer": st.column_config.TextColumn(pinned=True, width=150),
            "Share": st.column_config.ProgressColumn(format="percent", min_value=0.0, max_value=1.0),
        },
    )
    st.caption(
        f"{text.provenance('computed')} work of the configuration, each layer as fast as the roofs allow, all scaled "
        "alike until they add up to what was measured."
    )
