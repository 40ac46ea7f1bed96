"""Why a lower precision does not pay: kernels that fall back, and weights that were left as they were.

Judges a run's measured layers against this machine's measured fp32 ceilings, and a model's stored weights
against the label they carry. Says nothing where the evidence is thin: an alarm that is wrong once is not
believed again. Knows no library and no file: it is told what ran.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from core.dtypes import BITS_PER_WEIGHT, is_quantized
from core.types import Embedding, Host, Layer, LayerResult, Linear, ModelSpec, Setup
from hardware.ceilings import Ceilings

# How many times the time of an ideal fp32 kernel the matrix layers of a lower precision may take. A good fp32
# kernel needs up to 1.5 times the ideal when it reads (decode), and a lower precision should need less than that.
# With many tokens the units that multiply count: fp32 on vectors of 8 or 16 numbers is the ideal, and sound kernels
# for 4-bit weights without matrix units were seen at 5 to 9 times of it; scalar ones take 30 to 150 times.
SLOWER = {"decode": 3.0, "prefill": 20.0}
# A layer this quick is mostly the cost of calling it, which precision does not change.
LEAST_S = 20e-6
# Fewer layers than these, or fewer of them measured, may be an accident of the profiler.
LEAST_LAYERS = 4
# Of the bytes that one decode step reads: below it, what was left alone costs less than two runs differ.
LEFT_SHARE = 0.20
# Measured over nominal bits per weight. Usual recipes keep head and embedding in 6 or 8 bits, which is up to 20 %
# in small models.
ABOVE_LABEL = 1.25
K_BLOCK = 256  # weights in a block of the k-quants; a row must be a whole number of them

_LABEL = re.compile(r"(?:^|[^a-z0-9])(i?q\d(?:_k|_\d|_xxs|_xs|_s|_nl)?|mxfp4|nvfp4)(?![a-z0-9])", re.I)
_WHY_BY_OPERATOR = {
    "MatMulNBits": "with accuracy_level 0 or 1 MatMulNBits unpacks the weights to fp32; 4 is the fast one",
    "MatMulInteger": "the 8-bit product has no kernel for this processor's 8-bit instructions",
    "DequantizeLinear": "the weights are unpacked to fp32 on every call",
}


def warnings(
    spec: ModelSpec,
    layers: Sequence[LayerResult] = (),
    ceilings: Ceilings | None = None,
    setup: Setup | None = None,
    host: Host | None = None,
) -> tuple[str, ...]:
    """One sentence for every lower precision that does not pay. setup, host: of the run.

    Speed is judged only with `ceilings` and layers whose seconds were measured. A machine that was busy when the
    run began (the host's load average) is allowed to be slower by as much as it was crowded.
    """
    return (
        *stored(spec, setup.file_type if setup else ""),
        *(slow(spec, layers, ceilings, setup, host) if ceilings is not None else ()),
    )


# ---------------------------------------------------------------- what the weights are


def stored(spec: ModelSpec, label: str = "") -> tuple[str, ...]:
    """Weights in a higher precision than the rest, and labels that promise less than is stored.

    label: what the file calls itself ("Q4_K - Medium").
    """
    matrices = _matrices(spec)
    main = _main_dtype(matrices)
    if main is None:
        return ()
    found = []
    if is_quantized(main) and (sentence := _left_alone(matrices, main)):
        found.append(sentence)
    match = _LABEL.search(label)
    promised = match.group(1).lower() if match else None
    if promised in BITS_PER_WEIGHT and (sentence := _other_than_label(matrices, main, promised, label)):
        found.append(sentence)
    return tuple(found)


def _left_alone(matrices: Sequence[tuple[Layer, Layer]], main: str) -> str | None:
    """A quantizer that skipped some matrices. matrices: (layer, the layer that owns its weights)."""
    read = sum(_decode_bytes(layer, owner) for layer, owner in matrices)
    left = [(layer, owner) for layer, owner in matrices if owner.weight_dtype and not is_quantized(owner.weight_dtype)]
    left = [(layer, owner) for layer, owner in left if layer.kind != "router"]  # which nobody quantizes
    share = sum(_decode_bytes(layer, owner) for layer, owner in left) / read if read else 0.0
    if share < LEFT_SHARE:
        return None
    names = [layer.name for layer, _ in left]
    dtypes = " and ".join(sorted({str(owner.weight_dtype) for _, owner in left}))
    who = f"The {names[0]} matrix was" if len(names) == 1 else f"{len(names)} matrices, {names[0]} among them, were"
    tied = [owner for layer, owner in left if layer is not owner]
    why = f": it shares the table of {tied[0].name}, which quantizers pass over" if tied and len(left) == 1 else ""
    return (
        f"{who} left in {dtypes} while the rest is {main}{why}; that is {share:.0%} of the weight "
        "bytes that a decode step reads."
    )


def _other_than_label(matrices: Sequence[tuple[Layer, Layer]], main: str, promised: str, label: str) -> str | None:
    """A file that holds more bits per weight than its label says."""
    owners = {owner.name: owner for _, owner in matrices}.values()
    n_params = sum(owner.n_params for owner in owners)
    bits = 8 * sum(owner.weight_bytes or 0 for owner in owners) / n_params
    nominal = BITS_PER_WEIGHT[promised]
    other = [o for o in owners if o.weight_dtype and not o.weight_dtype.endswith("_k") and o.weight_dtype != promised]
    odd = [o for o in other if _width(o) % K_BLOCK]
    share = sum(o.n_params for o in odd) / n_params
    if promised.endswith("_k") and not main.endswith("_k") and share > 0.5:
        width = _width(max(odd, key=lambda o: o.n_params))
        return (
            f"The file calls itself {label}, but is mostly {main.upper()}: rows of {width} weights do not divide by "
            f"{K_BLOCK}, so {share:.0%} of the weights fell back, and it holds {bits:.1f} bits per weight instead of "
            f"{nominal:.1f}."
        )
    if bits > ABOVE_LABEL * nominal:
        return (
            f"The file calls itself {label}, which is {nominal:.1f} bits per weight, but its matrices hold {bits:.1f}: "
            "part of them is stored in a higher precision."
        )
    return None


# ---------------------------------------------------------------- how fast they run


def slow(
    spec: ModelSpec,
    layers: Sequence[LayerResult],
    ceilings: Ceilings,
    setup: Setup | None = None,
    host: Host | None = None,
) -> tuple[str, ...]:
    """Matrix layers of a lower precision that take much longer than an ideal fp32 kernel would."""
    peak = ceilings.flop_per_s.get("fp32")
    matrices = {layer.name: (layer, owner) for layer, owner in _matrices(spec)}
    as_fp32 = 4.0 * sum(owner.n_params for _, owner in matrices.values())
    bandwidth = ceilings.bandwidth(as_fp32)
    if peak is None or bandwidth is None:
        return ()
    crowd = _crowd(host, ceilings.threads)
    groups: dict[tuple[str, str], list[tuple[LayerResult, float]]] = {}
    for row in layers:
        if row.name not in matrices or not row.seconds or not row.flops:
            continue
        layer, owner = matrices[row.name]
        if owner.weight_dtype in (None, "fp32", "fp64") or layer.kind == "router":
            continue
        # fp32 weights of the rows that this layer really reads (experts: those that were touched)
        n_bytes = 4.0 * owner.n_params * (row.weight_bytes / owner.weight_bytes if owner.weight_bytes else 1.0)
        ideal_s = max(row.flops / peak, n_bytes / bandwidth)
        if ideal_s >= LEAST_S:
            groups.setdefault((row.phase, str(owner.weight_dtype)), []).append((row, ideal_s))
    found = []
    for (phase, dtype), members in groups.items():
        seconds = sum(row.seconds or 0.0 for row, _ in members)
        ideal = sum(ideal_s for _, ideal_s in members)
        if len(members) >= LEAST_LAYERS and seconds > SLOWER[phase] * crowd * ideal:
            found.append(_too_slow(phase, dtype, [row for row, _ in members], seconds / ideal, setup))
    return tuple(found)


def _too_slow(phase: str, dtype: str, members: Sequence[LayerResult], times: float, setup: Setup | None) -> str:
    seconds = sum(row.seconds or 0.0 for row in members)
    if phase == "prefill":
        rate = f"{sum(row.flops or 0.0 for row in members) / seconds / 1e9:.3g} GFLOP/s"
    else:
        rate = f"{sum(row.weight_bytes for row in members) / seconds / 1e9:.3g} GB/s of weights"
    return (
        f"In {phase} the {len(members)} matrix layers in {dtype} reach {rate}, {times:.0f} times slower than fp32 "
        f"could be on this machine: {_why(dtype, members, setup)}."
    )


def _why(dtype: str, members: Sequence[LayerResult], setup: Setup | None) -> str:
    """The likeliest cause; a known one where the run says enough."""
    if dtype == "bf16" and setup is not None and dtype in setup.emulated:
        return "this processor has no bf16 instructions, so every product is emulated"
    if dtype == "fp16" and (setup is None or setup.device == "cpu"):
        return "hardly any processor multiplies in fp16, so every product is emulated"
    for row in members:
        if row.op in _WHY_BY_OPERATOR:
            return _WHY_BY_OPERATOR[row.op]
    return f"the library seems to have no fast kernel for {dtype} here, and runs a scalar or converting one"


def _crowd(host: Host | None, threads: int) -> float:
    """How many threads wanted each core when the run began, at least 1."""
    if host is None or host.load_average is None or not host.machine.physical_cores:
        return 1.0
    return max(1.0, (host.load_average[0] + threads) / host.machine.physical_cores)


# ---------------------------------------------------------------- the matrices of a model


def _matrices(spec: ModelSpec) -> list[tuple[Layer, Layer]]:
    """Every matrix layer with the layer that owns its weights; the two differ in a tied head."""
    by_name = {layer.name: layer for layer in spec.layers}
    pairs = [(x, by_name[x.op.tied_to] if x.op.tied_to else x) for x in spec.layers if isinstance(x.op, Linear)]
    return [(layer, owner) for layer, owner in pairs if owner.n_params and owner.weight_bytes]


def _main_dtype(matrices: Sequence[tuple[Layer, Layer]]) -> str | None:
    """The format of most of the weights inside the blocks; a head is often larger than all of them."""
    n_params: dict[str, int] = {}
    for layer, owner in matrices:
        if owner.weight_dtype and layer.kind != "head":
            n_params[owner.weight_dtype] = n_params.get(owner.weight_dtype, 0) + owner.n_params
    return max(n_params, key=lambda dtype: n_params[dtype]) if n_params else None


def _decode_bytes(layer: Layer, owner: Layer) -> float:
    """Weight bytes that one token reads."""
    assert isinstance(layer.op, Linear)
    return (owner.weight_bytes or 0) * layer.op.n_active / layer.op.n_experts


def _width(layer: Layer) -> int:
    """Weights in a row, which is what a block format divides."""
    if isinstance(layer.op, Embedding):
        return layer.op.d
    assert isinstance(layer.op, Linear)
    return layer.op.d_in
