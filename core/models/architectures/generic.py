"""Any architecture from its leaves: the modules that own weights, whoever lists them, put in the order they run.

A leaf is one primitive under its canonical name. In a block the parts run in the order that all families share: norm,
attention or recurrence (both side by side where a block has both), sum, the same for an encoder's answer, norm,
feed-forward or experts, sum. What else a block has reads the stream and is added to it. Shapes decide what reads what.

Knows nothing of who lists the leaves (core.models.architectures.from_modules, from_tensors).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from core.layer_names import kind_of
from core.models.network import Network
from core.types import Attention, Conv, Elementwise, Embedding, Linear, Norm, Op, Rope, Scan

_OUTPUTS = ("o_proj", "out_proj", "down_proj", "linear_out", "output")
_BEHIND_CORE = ("norm", "o_norm", "out_norm", "sub_norm", "g_norm")
_MIXERS = ("attn", "ssm")
_NORMS = ("attn_norm", "ssm_norm", "attn_post_norm", "cross_norm", "mlp_norm", "mlp_post_norm")


@dataclass(frozen=True)
class Leaf:
    """A primitive and the parameters it owns. op None: loose numbers, which belong to the core of their part."""

    name: str
    op: Op | None
    n_params: int

    @property
    def last(self) -> str:
        return self.name.rpartition(".")[2]


@dataclass(frozen=True)
class Core:
    """The weightless middle of a part: attention, or a recurrence. rotated: elements per token that are rotated."""

    op: Op
    rotated: int = 0


SIDES = "how many of the past tokens are the answer's (in an encoder-decoder all are counted on both sides)"


def build(leaves: Sequence[Leaf], cores: Mapping[str, Core]) -> Network:
    """The network. cores: by the name of their part (`blocks.3.attn`)."""
    flow = _Flow()
    sides = ("encoder.", "") if any(leaf.name.startswith("encoder.") for leaf in leaves) else ("",)
    answer = ""
    for side in sides:
        own = [
            replace(leaf, name=leaf.name.removeprefix("encoder."))
            for leaf in leaves
            if leaf.name.startswith("encoder.") == bool(side)
        ]
        if not any(isinstance(leaf.op, Embedding) for leaf in own):  # both sides read one table
            shared = next(leaf for leaf in leaves if isinstance(leaf.op, Embedding))
            own.insert(0, replace(shared, name="embed", n_params=0))
        flow.side = side
        answer = _stack(flow, own, cores, answer)
    return flow.net


class _Flow:
    """A network with the width of every output, and those that nothing has read yet. side: before every name."""

    def __init__(self) -> None:
        self.net = Network()
        self.side = ""
        self.width: dict[str, int] = {}
        self.unread: dict[str, None] = {}

    def add(self, name: str, op: Op, *inputs: str, n_params: int | None = None, width: int | None = None) -> str:
        full = self.side + name
        found = self.net.add(full, op, *dict.fromkeys(inputs), n_params=n_params)
        for read in inputs:
            self.unread.pop(read, None)
        self.unread[found] = None
        self.width[found] = width if width is not None else _width(op, self.width.get(inputs[0], 0) if inputs else 0)
        return found


def _width(op: Op, before: int) -> int:
    match op:
        case Embedding(d=d):
            return d
        case Linear():
            return op.d_out
        case Norm(d=d, n_groups=n):
            return d * n
        case Conv(channels=channels):
            return channels
        case Scan(d_inner=d):
            return d
        case Attention(n_heads=n, v_dim=d):
            return n * d
        case Elementwise(d=d):
            return d
        case Rope():
            return before


def _stack(flow: _Flow, leaves: Sequence[Leaf], cores: Mapping[str, Core], answer: str) -> str:
    """Embeddings, blocks, final norm, head. answer: the encoder's last output. Returns the last output."""
    blocks: dict[int, list[Leaf]] = {}
    before: list[Leaf] = []
    after: list[Leaf] = []
    for leaf in leaves:
        if leaf.name.startswith("blocks."):
            blocks.setdefault(int(leaf.name.split(".")[1]), []).append(leaf)
        else:
            (before if kind_of(leaf.name) == "embedding" or leaf.name.startswith("embed.") else after).append(leaf)
    x = _embeddings(flow, before)
    beside = [name for name in flow.unread if name != x and name != answer]  # tables that every block reads
    for index in sorted(blocks):
        x = _block(flow, f"blocks.{index}", blocks[index], cores, x, answer, beside)
    after.sort(key=lambda leaf: (kind_of(leaf.name) == "head", leaf.name == "lm_head"))
    for leaf in after:
        source = x if leaf.op is None else _source(flow, leaf.op, x, [])
        tied = leaf.op.tied_to if isinstance(leaf.op, Linear) else None
        known = [tied] if tied in flow.width else []
        x = flow.add(leaf.name, leaf.op or Elementwise(d=leaf.n_params), source, *known, n_params=leaf.n_params)
    return x


def _embeddings(flow: _Flow, leaves: Sequence[Leaf]) -> str:
    tables = [leaf for leaf in leaves if isinstance(leaf.op, Embedding)]
    names = [flow.add(leaf.name, leaf.op, n_params=leaf.n_params) for leaf in tables if leaf.op is not None]
    x = names[0]
    same = [name for name in names if flow.width[name] == flow.width[x]]
    if len(same) > 1:
        x = flow.add("embed.sum", _sum(flow.width[x], len(same)), *same)
    for leaf in leaves:
        if isinstance(leaf.op, Embedding):
            continue
        op = leaf.op or Elementwise(d=leaf.n_params)
        source = _source(flow, op, x, [])
        found = flow.add(leaf.name, op, source, n_params=leaf.n_params)
        if source == x and flow.width[found] == flow.width[x] and "altup" not in leaf.name:
            x = found
    return x


def _block(
    flow: _Flow, block: str, leaves: Sequence[Leaf], cores: Mapping[str, Core], x: str, answer: str, beside: list[str]
) -> str:
    parts: dict[str, list[Leaf]] = {}
    for leaf in leaves:
        part = leaf.name.split(".")[2]
        parts.setdefault(part if part in (*_MIXERS, *_NORMS, "cross", "mlp") else "", []).append(leaf)
    outside = set(flow.unread) - {x}
    stream, normed = x, x

    def norm(name: str, source: str) -> str:
        for leaf in parts.pop(name, []):
            source = flow.add(leaf.name, leaf.op or Elementwise(d=leaf.n_params), source, n_params=leaf.n_params)
        return source

    def unread() -> list[str]:
        return [name for name in flow.unread if name not in outside and name not in (stream, normed)]

    def join(name: str) -> str:
        d = flow.width[stream] if flow.width[stream] else 1
        found = [stream, *unread()]
        return flow.add(f"{block}.{name}.residual", _sum(d, len(dict.fromkeys(found))), *found)

    d_model = flow.width[x]
    here = f"{flow.side}{block}"
    if set(_MIXERS) <= parts.keys() and f"{here}.attn" not in cores and f"{here}.ssm" in cores:
        parts["ssm"] = [*parts.pop("attn"), *parts["ssm"]]  # projections of the recurrence, named as attention's
    present = [m for m in _MIXERS if m in parts]
    alone = "mlp" not in parts or bool({"mlp_norm", "mlp_post_norm", "cross"} & parts.keys())  # no parallel parts
    if present:
        normed = norm("attn_norm", stream)
        for mixer in present:
            source = norm("ssm_norm", stream) if mixer == "ssm" and "ssm_norm" in parts else normed
            out = _part(flow, f"{block}.{mixer}", parts[mixer], cores.get(f"{here}.{mixer}"), source, d_model)
        norm("attn_post_norm", out)
        if alone:
            stream = join(present[0])
            normed = stream
    else:
        normed = norm("attn_norm", stream)  # a block of a feed-forward alone
    if "cross" in parts:
        normed = norm("cross_norm", stream)
        core = cores.get(f"{flow.side}{block}.cross")
        _part(flow, f"{block}.cross", parts["cross"], core, normed, d_model, *([answer] if answer else []))
        stream = join("cross")
        normed = stream
    if "mlp" in parts:
        normed = norm("mlp_norm", normed)
        out = _feed_forward(flow, f"{block}.mlp", parts["mlp"], cores, normed, d_model)
        norm("mlp_post_norm", out)
    for name in _NORMS:  # of parts that the block does not have
        norm(name, stream)
    if extra := parts.get("", []):
        _part(flow, f"{block}.beside", extra, None, stream, d_model, *beside)
    left = unread()
    return join("mlp") if "mlp" in parts or extra or left else stream


def _part(flow: _Flow, prefix: str, leaves: Sequence[Leaf], core: Core | None, x: str, d_model: int, *also: str) -> str:
    """Projections in, what is computed from them, projections out. also: outputs from elsewhere that the core reads."""
    loose = [leaf for leaf in leaves if leaf.op is None and leaf.last in ("core", "scan", "act")]
    solid = [leaf for leaf in leaves if leaf not in loose]
    if any(isinstance(leaf.op, Conv) for leaf in solid):
        solid.sort(key=_turn)  # files list them by name, and modules as they are made
    linears = [leaf for leaf in solid if isinstance(leaf.op, Linear)]
    outs = [leaf for leaf in linears if leaf.last in _OUTPUTS]
    if not outs and len(linears) > 1 and isinstance(linears[-1].op, Linear) and linears[-1].op.d_out == d_model:
        outs = linears[-1:]
    behind = [leaf for leaf in solid if core and isinstance(leaf.op, Norm) and leaf.last in _BEHIND_CORE]
    known = set(flow.unread)
    made: list[str] = []
    named: dict[str, str] = {}

    def put(leaf: Leaf, source: str) -> str:
        op = leaf.op or Elementwise(d=leaf.n_params)
        if isinstance(op, Norm):
            width = flow.width[source]
            grouped = leaf in behind or leaf.last in ("q_norm", "k_norm")
            n_groups = width // op.d if grouped and op.d and width % op.d == 0 and width > op.d else op.n_groups
            op = Norm(d=op.d, n_groups=max(n_groups, 1), rms=op.rms, bias=op.bias)
        tied = op.tied_to if isinstance(op, Linear) else None
        found = flow.add(leaf.name, op, source, *([tied] if tied in flow.width else []), n_params=leaf.n_params)
        made.append(found)
        named[leaf.last] = found
        return found

    for leaf in solid:
        if leaf in outs or leaf in behind:
            continue
        base = leaf.last.removesuffix("_norm")
        partner = named.get(f"{base}_proj") if isinstance(leaf.op, Norm) else None
        put(leaf, partner or _source(flow, leaf.op or Elementwise(d=0), x, made))
    fresh = [name for name in flow.unread if name not in known] or [x]
    y = fresh[-1]
    if core and core.rotated:
        values = named.get("v_proj")
        y = flow.add(f"{prefix}.rope", Rope(d=core.rotated), *([n for n in fresh if n != values] or fresh))
        fresh = [y, *([values] if values else [])]
    n_loose = sum(leaf.n_params for leaf in loose)
    if core is not None:
        name = "core" if prefix.rpartition(".")[2] != "ssm" else "scan"
        n_params = n_loose if not isinstance(core.op, Scan) else core.op.n_params
        y = flow.add(f"{prefix}.{name}", core.op, *fresh, *also, n_params=n_params)
        gate = _gate_width(core.op, named, flow)
        if gate:
            y = flow.add(f"{prefix}.gate", Elementwise(d=gate, n_inputs=2, flops_per_element=2), y, fresh[0])
    elif outs or len(fresh) > 1 or n_loose or also:
        d = flow.width[fresh[0]]
        if outs and isinstance(outs[0].op, Linear):
            d = outs[0].op.d_in
        op = Elementwise(d=d, n_inputs=len(fresh) + len(also), flops_per_element=len(fresh))
        y = flow.add(f"{prefix}.act", op, *fresh, *also, n_params=n_loose)
    for leaf in [*behind, *outs]:
        y = put(leaf, y)
    return y


def _turn(leaf: Leaf) -> int:
    """When a leaf of a recurrence runs: projections, convolution, what selects, its norms, its step, all else."""
    if isinstance(leaf.op, Conv):
        return 1
    later = {"x_proj": 2, "dt_norm": 3, "b_norm": 3, "c_norm": 3, "dt_proj": 4}
    return later.get(leaf.last, 0 if isinstance(leaf.op, Linear) else 5)


def _gate_width(op: Op, named: Mapping[str, str], flow: _Flow) -> int:
    """Where queries come with a gate as wide as themselves, the attention's output is multiplied with it."""
    if isinstance(op, Attention) and "q_proj" in named and op.qk_dim == op.v_dim:
        return op.n_heads * op.v_dim if flow.width[named["q_proj"]] == 2 * op.n_heads * op.qk_dim else 0
    return 0


def _feed_forward(
    flow: _Flow, prefix: str, leaves: Sequence[Leaf], cores: Mapping[str, Core], x: str, d_model: int
) -> str:
    """A plain or gated network, or a router with its experts and those that all tokens share."""
    experts = [leaf for leaf in leaves if leaf.name.startswith(f"{prefix}.experts.")]
    shared = [leaf for leaf in leaves if leaf.name.startswith(f"{prefix}.shared_expert.")]
    routers = [leaf for leaf in leaves if leaf.name.startswith(f"{prefix}.router")]
    latent = [leaf for leaf in leaves if leaf.last.endswith("latent_proj")]
    plain = [leaf for leaf in leaves if not any(leaf in group for group in (experts, shared, routers, latent))]
    outs = []
    if experts:
        gate = x
        for leaf in routers:
            gate = flow.add(leaf.name, leaf.op or Elementwise(d=leaf.n_params), x, n_params=leaf.n_params)
        source = x
        for leaf in latent[:1]:
            source = flow.add(leaf.name, leaf.op or Elementwise(d=leaf.n_params), x, n_params=leaf.n_params)
        out = _experts(flow, prefix, experts, source, gate)
        for leaf in latent[1:]:
            out = flow.add(leaf.name, leaf.op or Elementwise(d=leaf.n_params), out, n_params=leaf.n_params)
        outs.append(out)
    else:
        plain = [*routers, *latent, *plain]
    if plain:
        outs.append(_part(flow, prefix, plain, None, x, d_model))
    if shared:
        gates = [leaf for leaf in shared if leaf.last == "router"]
        rest = [leaf for leaf in shared if leaf not in gates]
        out = _part(flow, f"{prefix}.shared_expert", rest, None, x, d_model)
        outs.append(out)
        for leaf in gates:
            outs.append(flow.add(leaf.name, leaf.op or Elementwise(d=1), x, n_params=leaf.n_params))
    if len(outs) == 1:
        return outs[0]
    return flow.add(f"{prefix}.combine", _sum(d_model, len(outs)), *outs)


def _experts(flow: _Flow, prefix: str, leaves: Sequence[Leaf], x: str, router: str) -> str:
    ups = [leaf for leaf in leaves if leaf.last != "down_proj"]
    downs = [leaf for leaf in leaves if leaf.last == "down_proj"]
    hidden = [flow.add(leaf.name, leaf.op, x, n_params=leaf.n_params) for leaf in ups if leaf.op is not None]
    first = next((leaf.op for leaf in ups if isinstance(leaf.op, Linear)), None)
    y, k = x, 1
    if hidden and first is not None:
        k = first.n_active
        op = Elementwise(d=k * first.d_out, n_inputs=len(hidden), flops_per_element=len(hidden))
        y = flow.add(f"{prefix}.experts.act", op, *hidden)
    for leaf in downs:
        if leaf.op is not None:
            y = flow.add(leaf.name, leaf.op, y, n_params=leaf.n_params)
    weighted = Elementwise(d=flow.width[y], n_inputs=k, flops_per_element=2 * k - 1)
    return flow.add(f"{prefix}.experts.combine", weighted, y, router)


def _source(flow: _Flow, op: Op, x: str, made: Sequence[str]) -> str:
    """What an operation of this width reads: the part's input where the width is its, else the last that fits."""
    want = op.d_in if isinstance(op, Linear) else op.d if isinstance(op, Norm) else 0
    if isinstance(op, Conv):
        want = op.channels
        if made and not any(flow.width[name] == want for name in made):
            return max(made, key=lambda name: flow.width[name])  # a part of the widest projection
    if want and flow.width[x] == want:
        return x
    fits = [name for name in made if flow.width[name] == want]
    return fits[-1] if fits else made[-1] if made and not isinstance(op, Linear) else x


def _sum(d: int, n: int) -> Elementwise:
    return Elementwise(d=d, n_inputs=n, flops_per_element=max(n - 1, 0))
