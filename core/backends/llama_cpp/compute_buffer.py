"""The compute buffer that llama.cpp reserves: its graph for the largest batch, laid out as ggml's allocator does it.

ggml knows every result of a graph before it runs one. It takes them in order: a result is written over an operand of
its size that nothing else reads, else into the smallest hole that holds it, else behind all others; what has been read
for the last time leaves a hole. So the buffer is larger than the largest set of results alive at once, by holes that
nothing fitted into, and both depend on the order of the nodes.

Knows that order for attention, feed-forward networks, experts and recurrences, from the layers of a ModelSpec, and of
single families only which of them compute every position to the end. Memory that operators take besides, while they
run, is not in the buffer.

Sources: ggml-alloc.c; llama-context.cpp (graph_reserve) and llama-graph.cpp of llama.cpp, and the places of the nodes
in graphs that it ran (ggml 0.25).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from core.layer_names import block_of
from core.types import (
    Attention,
    Conv,
    Elementwise,
    Embedding,
    Layer,
    Linear,
    ModelSpec,
    Norm,
    Record,
    Rope,
    Scan,
    output_width,
)

FLOAT, HALF, ID, PLACE = 4, 2, 4, 8  # bytes of a result's element, of a mask's, of a token's number, of a cache's row
ALIGNMENT = 32
TURN = 64  # rows of the matrix that rotates values; keys have the largest power of two in their heads' width
# which drop positions without wanted logits only before the head, and not behind the last block's attention
_WHOLE_TO_THE_END = frozenset(
    (
        "bailingmoe3", "cohere2moe", "gemma4", "gptoss", "hyv3", "nemotronh", "nemotronhmoe", "qwen35", "qwen35moe",
        "qwen3next", "step35",
    )
)  # fmt: skip


class Shape(Record):
    """What the graph is reserved for. n_tokens: of one forward, all sequences together. n_cells: places of a sequence
    in the cache. rotates: keys, values and queries are rotated before they are rounded for a quantized cache. floats:
    the cache is in fp32, of which flash attention reads a copy in fp16."""

    n_tokens: int
    n_outputs: int
    n_cells: int
    n_sequences: int = 1
    flash: bool = True
    rotates: bool = False
    floats: bool = False


def prunes_last_block(spec: ModelSpec) -> bool:
    """Whether only positions whose logits are wanted are computed behind the attention of the last block."""
    family = spec.architecture.replace("-", "").replace("_", "").removesuffix("text")
    return spec.causal and family not in _WHOLE_TO_THE_END


def compute_bytes(spec: ModelSpec, shape: Shape) -> int:
    """Bytes of the buffer."""
    return _laid_out(_Graph(spec, shape).nodes)


# ---------------------------------------------------------------- ggml's allocator


@dataclass(frozen=True)
class _Node:
    """A result. reads: results by number. over: those of them whose place it may take. given: an input."""

    n_bytes: int
    reads: tuple[int, ...]
    over: tuple[int, ...] = ()
    given: bool = False


class _Arena:
    """Holes between what is placed, in order of place; behind the last of them all is free."""

    def __init__(self) -> None:
        self._holes: list[tuple[int, int]] = []  # (start, size)
        self._end = 0
        self.highest = 0

    def take(self, size: int) -> int:
        fits = [(hole[1], -i) for i, hole in enumerate(self._holes) if hole[1] >= size]
        if not fits:
            start = self._end
            self._end += size
            self.highest = max(self.highest, self._end)
            return start
        i = -min(fits)[1]  # of equal holes the last one
        start, room = self._holes[i]
        self._holes[i : i + 1] = [(start + size, room - size)] if room > size else []
        return start

    def give(self, start: int, size: int) -> None:
        before = sum(hole[0] < start for hole in self._holes)
        self._holes.insert(before, (start, size))
        for i in (before, before - 1):  # with the hole behind it, then with the one before
            if 0 <= i < len(self._holes) - 1 and sum(self._holes[i]) == self._holes[i + 1][0]:
                self._holes[i : i + 2] = [(self._holes[i][0], self._holes[i][1] + self._holes[i + 1][1])]
        if self._holes and sum(self._holes[-1]) == self._end:
            self._end = self._holes.pop()[0]


def _laid_out(nodes: Sequence[_Node]) -> int:
    left = [0] * len(nodes)
    for node in nodes:
        for read in node.reads:
            left[read] += 1
    arena, places = _Arena(), dict[int, tuple[int, int]]()
    for i, node in enumerate(nodes):
        if node.given:
            places[i] = (arena.take(_aligned(node.n_bytes)), _aligned(node.n_bytes))
    for i, node in enumerate(nodes):
        size = _aligned(node.n_bytes)
        if size and not node.given:
            over = next((r for r in node.over if left[r] == 1 and places.get(r, (0, 0))[1] == size), None)
            places[i] = places.pop(over) if over is not None else (arena.take(size), size)
        for read in node.reads:
            left[read] -= 1
            if not left[read] and read in places:
                arena.give(*places.pop(read))
    return arena.highest


def _aligned(n_bytes: int) -> int:
    return -(-n_bytes // ALIGNMENT) * ALIGNMENT


# ---------------------------------------------------------------- llama.cpp's graph


class _Graph:
    """The nodes of a network, in the order in which llama.cpp adds them."""

    def __init__(self, spec: ModelSpec, shape: Shape) -> None:
        self.nodes: list[_Node] = []
        self._spec, self._shape = spec, shape
        self._made: dict[str, int] = {}  # layer -> its result
        self._width: dict[int, int] = {}  # result -> elements per token
        self._reshaped: set[int] = set()  # results that are read in another shape, whose place nothing takes
        self._selects_and_attends = any(isinstance(x.op, Attention) for x in spec.layers) and any(
            x.name.endswith("ssm.x_proj") for x in spec.layers
        )
        self._taken = {
            x.name.partition(".experts.")[0]: x.op.n_active
            for x in spec.layers
            if isinstance(x.op, Linear) and ".experts." in x.name
        }
        self._sorted: dict[str, int] = {}  # part with experts -> their order for each token
        self._normed: dict[int, int] = {}  # result of a norm -> what it normalises
        self._uncut: dict[int, int] = {}  # result from before the cut -> its rows that remain; -1: not taken yet
        self._inputs()
        self._layers()

    # ---------------------------------------------------------------- putting nodes

    def _put(self, n_bytes: int, *reads: int, over: Iterable[int] = ()) -> int:
        self.nodes.append(_Node(n_bytes, tuple(dict.fromkeys(reads)), tuple(over)))
        return len(self.nodes) - 1

    def _given(self, n_bytes: int) -> int:
        self.nodes.append(_Node(n_bytes, (), given=True))
        return len(self.nodes) - 1

    def _wide(self, width: int, *reads: int, over: Iterable[int] = ()) -> int:
        """A result of `width` elements for every token."""
        found = self._put(FLOAT * width * self._shape.n_tokens, *reads, over=over)
        self._width[found] = width
        return found

    def _inputs(self) -> None:
        shape, spec = self._shape, self._spec
        cores = [x.op for x in spec.layers if isinstance(x.op, Attention) and x.op.causal and not x.op.cross]
        n = shape.n_tokens
        self._tokens = self._given(ID * n)
        self._given(FLOAT * spec.d_model * n)  # embeddings may be handed in instead of tokens; never freed
        self._positions = self._given(ID * n)
        self._masks: dict[bool, int] = {}  # of blocks that see a window, and of others
        self._places: dict[bool, tuple[int, ...]] = {}
        self._turns: dict[bool, tuple[int, int]] = {}  # what rotates keys, and values
        if any(isinstance(x.op, Scan | Conv) for x in spec.layers):
            self._states = self._given(ID * shape.n_sequences)
        self._windowed = any(core.window is not None for core in cores)
        for local in dict.fromkeys(core.window is not None for core in cores):  # in the order of their first blocks
            keys, values = [self._given(PLACE * n)], max((x.n_kv_heads * x.v_dim for x in cores), default=0)
            if any(core.kv_width is None for core in cores):  # a latent is key and value in one
                keys.append(self._given(PLACE * n * (1 if shape.flash else values)))  # in columns without it
            self._places[local] = tuple(keys)
            if shape.rotates:
                rows = cores[0].qk_dim & -cores[0].qk_dim
                self._turns[local] = self._given(FLOAT * rows**2), self._given(FLOAT * TURN**2)
            self._masks[local] = self._given((HALF if shape.flash else FLOAT) * shape.n_cells * n)
        self._outputs = self._given(ID * n)

    # ---------------------------------------------------------------- layers

    def _layers(self) -> None:
        mixers: dict[int, list[Layer]] = {}
        for layer in self._spec.layers:
            if (block := _mixer(layer)) is not None:
                mixers.setdefault(block, []).append(layer)
        last = mixers.get(self._spec.n_blocks - 1, []) if prunes_last_block(self._spec) else []
        for layer in self._spec.layers:
            if layer.kind == "head" and not last:
                self._uncut = dict.fromkeys(self._made.values(), -1)
            block = _mixer(layer)
            own = mixers.get(block, []) if block is not None else []
            if any(isinstance(x.op, Attention | Scan) for x in own):
                if layer is own[0]:
                    self._mix(own)
            else:
                self._plain(layer)
            if last and layer is last[-1]:
                self._cut(layer)
        if not last:  # what all positions had at the end is handed out, so that nothing takes its place
            self._put(0, *(result for result, rows in self._uncut.items() if rows >= 0))

    def _mix(self, layers: Sequence[Layer]) -> None:
        """Attention, a recurrence, or both beside each other: then the attention's last projection comes late."""
        attends = any(isinstance(x.op, Attention) for x in layers)
        heads = [x for x in layers if attends and x.name.split(".")[2] == "attn"]
        rest = [x for x in layers if x not in heads]
        y = self._attention(heads) if heads else None
        if any(isinstance(x.op, Scan) for x in rest):
            z = self._recurrence(rest, again=bool(heads))
            for layer in rest:
                self._made.setdefault(layer.name, z)
        else:
            for layer in rest:
                self._plain(layer)
        if y is not None:
            self._behind(heads, y)

    def _cut(self, layer: Layer) -> None:
        """Behind the last block's attention only those tokens remain whose logits are wanted."""
        self._uncut = dict.fromkeys(self._made.values(), -1)
        self._made[layer.name] = self._picked(self._made[layer.name])

    def _picked(self, result: int) -> int:
        """The rows of the tokens that remain, of a result from before; taken once."""
        if self._uncut.get(result, 0) == -1:
            self._uncut[result] = self._wide(self._width.get(result, 0), result, self._outputs)
        return self._uncut.get(result, result)

    def _read(self, layer: Layer) -> list[int]:
        tied = layer.op.tied_to if isinstance(layer.op, Linear) else None
        found = [self._made[name] for name in layer.inputs if name != tied and name in self._made]
        return [self._picked(result) for result in found]

    def _plain(self, layer: Layer) -> None:
        op, reads = layer.op, self._read(layer)
        match op:
            case Embedding():
                made = self._wide(op.d, self._tokens)
            case Linear() if layer.kind == "head":
                rows = self._shape.n_outputs
                made = self._put(FLOAT * op.d_out * rows, *reads)
                self._width[made] = op.d_out
            case Linear() if layer.kind == "router" and op.d_out > 1:
                made = self._router(layer, reads)
            case Linear() if op.n_experts > 1:
                chosen = self._sorted.get(layer.name.partition(".experts.")[0])
                made = self._wide(op.n_active * op.d_out, *reads, *([chosen] if chosen is not None else []))
            case Linear():
                made = self._wide(op.d_out, *reads)
            case Norm():
                made = self._wide(op.d * op.n_groups, *reads, over=reads if op.rms else ())
                if reads:
                    self._normed[made] = reads[0]
            case Elementwise() if layer.name.endswith("experts.combine"):
                if len(reads) > 1:  # what each expert gives is weighted in its place, which lets go of the weights
                    reads = [self._wide(self._width[reads[0]], *reads, over=reads[:1])]
                made = self._wide(self._spec.d_model if op.n_inputs > 1 else op.d, *reads)
            case Elementwise():
                alike = op.n_inputs > 1 and layer.name.endswith(".act")  # a gate's product has a place of its own
                stream_last = layer.name.endswith("residual") and not self._stream_first(layer)
                over = [*reads[1:], *reads[:1]] if stream_last else reads
                over = [] if alike else [read for read in over if read not in self._reshaped]
                made = self._wide(op.d, *reads, over=over)
            case _:
                made = self._wide(output_width(op), *reads)
        self._made[layer.name] = made

    def _stream_first(self, layer: Layer) -> bool:
        """Whether a sum names the stream before what is added to it: in Jamba, and in Phi-3 behind its feed-forward
        network, which are told by a recurrence beside attention, and by fused projections."""
        at = layer.name.removesuffix("mlp.residual")
        fused = f"{at}mlp.gate_up_proj" in self._made and f"{at}attn.qkv_proj" in self._made
        return fused or self._selects_and_attends

    def _router(self, layer: Layer, reads: list[int]) -> int:
        """Logits, the order of the experts in it, and the weights of those that a token takes."""
        assert isinstance(layer.op, Linear)
        prefix = layer.name.rpartition(".router")[0]
        logits = self._wide(layer.op.d_out, *reads)
        order = self._wide(layer.op.d_out, logits)
        self._sorted[prefix] = order
        return self._wide(self._taken.get(prefix, 1), logits, order)

    # ---------------------------------------------------------------- attention

    def _attention(self, layers: Sequence[Layer]) -> int:
        core = next(x.op for x in layers if isinstance(x.op, Attention))
        named = {x.name.rpartition(".")[2]: x for x in layers}
        if core.kv_width is not None and "kv_a_proj" in named and {"q_proj", "q_b_proj"} & named.keys():
            return self._latent(core, named)
        return self._heads(core, named)

    def _behind(self, layers: Sequence[Layer], y: int) -> None:
        """What comes behind the attention's core: gate, norm, last projection."""
        at = next(i for i, x in enumerate(layers) if isinstance(x.op, Attention))
        for layer in layers[: at + 1]:
            self._made.setdefault(layer.name, y)
        for layer in layers[at + 1 :]:
            reads = self._read(layer) or [y]
            over = reads if isinstance(layer.op, Norm) and layer.op.rms else ()
            self._made[layer.name] = self._wide(output_width(layer.op), *reads, over=over)

    def _heads(self, core: Attention, named: dict[str, Layer]) -> int:
        widths = {
            "q": core.n_heads * core.qk_dim,
            "k": core.n_kv_heads * core.qk_dim,
            "v": core.n_kv_heads * core.v_dim,
        }
        whole = self._projected(named.get("qkv_proj"))
        found: dict[str, int] = {}
        for part in "q" if core.borrows else "qkv" if self._windowed else "qvk":
            x = self._projected(named.get(f"{part}_proj"))
            if x is None and whole is None and part != "q":
                continue  # a value that is its key, or the other way round
            alone = x is not None
            if x is None:
                x = whole if whole is not None else self._wide(widths["q"], *self._read(next(iter(named.values()))))
            norm = named.get(f"{part}_norm")
            in_heads = norm is None or not isinstance(norm.op, Norm) or norm.op.d < widths[part]
            if norm is not None:
                x = self._wide(widths[part], x, over=() if in_heads or not alone else (x,))
            if part != "v" and "rope" in named:  # over a norm's result, unless that has to be cut into heads
                x = self._wide(widths[part], x, self._positions, over=(x,) if norm is not None and in_heads else ())
            if self._shape.rotates:
                x = self._wide(widths[part], x, self._turns[core.window is not None][part == "v"])
            found[part] = x
        return self._scores(core, found)

    def _projected(self, layer: Layer | None) -> int | None:
        if layer is None:
            return None
        self._made[layer.name] = self._wide(output_width(layer.op), *self._read(layer))
        return self._made[layer.name]

    def _latent(self, core: Attention, named: dict[str, Layer]) -> int:
        """Queries are taken into the latent space, in which keys and values are one."""
        rotation = named["rope"].op if "rope" in named else None
        rope = rotation.d // (core.n_heads + 1) if isinstance(rotation, Rope) else 0
        rank = (core.kv_width or 0) - rope
        for name in ("q_a_proj", "q_a_norm", "q_proj", "q_b_proj"):
            layer = named.get(name)
            if layer is not None:
                reads = self._read(layer)
                over = reads if isinstance(layer.op, Norm) and layer.op.rms else ()
                self._made[layer.name] = self._wide(output_width(layer.op), *reads, over=over)
        q = self._made[next(named[n].name for n in ("q_b_proj", "q_proj") if n in named)]
        absorbed = self._wide(core.n_heads * rank, q)
        turned = self._wide(core.n_heads * rope, q, self._positions)
        q = self._wide(core.n_heads * (rank + rope), absorbed, turned)
        source = named["kv_a_proj"]
        both = self._wide(output_width(source.op), *self._read(source))
        latent = self._wide(rank, both)
        turned = self._wide(rope, both, self._positions)
        k = self._wide(rank + rope, latent, turned)
        y = self._scores(core, {"q": q, "k": k}, rank, rope)
        y = self._wide(core.n_heads * core.v_dim, y)
        return self._wide(core.n_heads * core.v_dim, y)

    def _scores(self, core: Attention, found: dict[str, int], rank: int = 0, rope: int = 0) -> int:
        """rank, rope: widths of a latent that is key and value in one, and of the positions behind it."""
        shape = self._shape
        local = core.window is not None
        places = self._places.get(local, ())
        stored = self._put(0, *(found[part] for part in "kv" if part in found), *places)
        mask = [self._masks[local]] if local in self._masks else []
        heads, k_dim, v_dim = (1, rank + rope, rank) if rank else (core.n_kv_heads, core.qk_dim, core.v_dim)
        cached = heads * shape.n_cells * shape.n_sequences
        d = core.n_heads * v_dim
        q = found["q"]
        if shape.flash:
            read = [stored]
            if shape.floats:
                read = [self._put(HALF * cached * width, stored) for width in (k_dim, v_dim)]
            y = self._wide(d, q, *read, *mask)
        else:
            values = stored
            if rank:  # a latent's values lie as its keys do, and are turned into columns
                values = self._put((FLOAT if shape.floats else HALF) * cached * v_dim, stored)
            n_bytes = FLOAT * core.n_heads * shape.n_cells * shape.n_tokens
            scores = self._put(n_bytes, q, stored)
            weights = self._put(n_bytes, scores, *mask, over=(scores,))
            y = self._wide(d, weights, values)
            y = y if rank else self._wide(d, y)
        return self._wide(d, y, self._turns[local][1]) if shape.rotates else y

    # ---------------------------------------------------------------- recurrences

    def _recurrence(self, layers: Sequence[Layer], again: bool) -> int:
        """Projections, a convolution over its own state and the new tokens, the recurrence, a gate, a projection.

        again: what it reads is normalised once more for it, since the attention beside it has read it before.
        """
        n, n_sequences = self._shape.n_tokens, self._shape.n_sequences
        scan = next(x.op for x in layers if isinstance(x.op, Scan))
        conv = next((x.op for x in layers if isinstance(x.op, Conv)), None)
        linears = [x for x in layers if isinstance(x.op, Linear)]
        outs = [x for x in linears if x.name.endswith("out_proj")]
        steps = [x for x in linears if x.name.endswith(("x_proj", "dt_proj"))]
        ins = [x for x in linears if x not in outs and x not in steps]
        channels = conv.channels if conv else scan.d_inner
        wide = max(ins, key=lambda x: output_width(x.op), default=None)
        reads = next((found for x in ins if (found := self._read(x))), [])
        if any(x.name.endswith("ssm.shift") for x in layers):
            return self._shifted(scan, layers, next((self._read(x) for x in layers if self._read(x)), []))
        if again:
            reads = [self._wide(self._width[r], self._normed[r]) if r in self._normed else r for r in reads]
        state = FLOAT * scan.d_inner * scan.d_state * n_sequences
        source = self._wide(output_width(wide.op) if wide else channels, *reads)
        u, old = source, self._states
        if conv is not None:
            kept = FLOAT * channels * (conv.kernel - 1) * n_sequences
            past = self._put(kept, self._states)
            joined = self._put(FLOAT * channels * n + kept, past, source)
            old = self._put(state, self._states) if len(ins) > 1 else old
            u = self._wide(channels, joined)
        if len(ins) > 1:
            y = self._delta(scan, channels, state, old, u, [x for x in ins if x is not wide], reads)
        else:
            selected = u
            for layer in steps:
                selected = self._wide(output_width(layer.op), selected)
            result = self._put(FLOAT * scan.d_inner * n + state, u, selected, source, self._states)
            z = self._wide(scan.d_inner, source)
            y = self._wide(scan.d_inner, u, over=(u,))
            y = self._wide(scan.d_inner, result, y, over=(y,))
            y = self._wide(scan.d_inner, z, y)
            if any(isinstance(x.op, Norm) and x.name.endswith("ssm.norm") for x in layers):
                y = self._wide(scan.d_inner, y)
        for layer in outs:
            y = self._wide(output_width(layer.op), y)
        if len(ins) > 1 or steps:
            self._reshaped.add(y)
        return y

    def _shifted(self, scan: Scan, layers: Sequence[Layer], x: Sequence[int]) -> int:
        """RWKV: each token is mixed with the one before it in several ways, kept until the last of them is read."""
        d, n = scan.d_inner, self._shape.n_tokens
        state = FLOAT * d * scan.d_state * self._shape.n_sequences
        ways = next((x.n_params // d for x in layers if x.name.endswith("lerp_fused")), 1)
        old = self._put(state, self._states)
        before = self._wide(d, *x)
        mixed = self._wide(max(ways, 1) * d, before, *x)
        receptance, decay, key, rate = (self._wide(d, mixed) for _ in range(4))
        scaled = self._wide(d, key)
        replaced = self._wide(d, rate, scaled)
        replaced = self._wide(d, replaced, key, scaled, over=(replaced,))
        value = self._wide(d, mixed)
        removed = self._wide(d, self._wide(d, key))
        negated = self._wide(d, removed)
        removed = self._wide(d, removed, rate, over=(removed,))
        reads = (receptance, decay, replaced, value, negated, removed, old)
        y = self._wide(d, self._put(FLOAT * d * n + state, *reads))
        y = self._wide(d, y)
        bonus = self._wide(d, value, self._wide(d, replaced, receptance))
        y = self._wide(d, y, bonus, over=(y,))
        y = self._wide(d, y, self._wide(d, mixed), over=(y,))
        y = self._wide(self._spec.d_model, y)
        self._reshaped |= {y, *self._normed.values()}
        return y

    def _delta(
        self, scan: Scan, channels: int, state: int, old: int, u: int, others: Sequence[Layer], x: Sequence[int]
    ) -> int:
        """A gated delta rule: queries and keys are normalised and repeated for the heads of the values."""
        half = max(channels - scan.d_inner, 0) // 2
        pair = [self._wide(scan.d_inner, self._wide(half, u)) for _ in range(2)]
        small = [self._wide(output_width(o.op), *x) for o in others if output_width(o.op) < scan.d_inner]
        result = self._put(FLOAT * scan.d_inner * self._shape.n_tokens + state, *pair, u, *small, old)
        y = self._wide(scan.d_inner, result)
        gate = self._wide(scan.d_inner, *x)
        gate = self._wide(scan.d_inner, gate)
        return self._wide(scan.d_inner, y, gate, over=(y,))


def _mixer(layer: Layer) -> int | None:
    """The block whose attention or recurrence the layer belongs to, sums left out."""
    block = block_of(layer.name)
    parts = layer.name.split(".")
    return block if len(parts) > 3 and parts[2] in ("attn", "ssm") and parts[-1] != "residual" else None
