"""A network from a file's tensors: for every architecture of llama.cpp without a family here, and for folders of an
architecture that transformers does not know either.

Knows the metadata by which llama.cpp and configurations tell heads, experts and states, and says in one sentence what
a file does not tell. Knows nothing of how parts are put together (core.models.architectures.generic).

Sources: gguf-py/gguf/constants.py; llama.cpp's llama_hparams::n_embd_r and n_embd_s (what a sequence keeps).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

from core.layer_names import canonical_gguf, canonical_hf
from core.models.architectures.generic import SIDES, Core, Leaf, build
from core.models.network import Network
from core.types import Attention, Conv, Embedding, Linear, Norm, Op, Scan
from hardware.errors import ExplorerError

_TABLES = ("embed", "embed.position", "embed.token_type", "embed.per_layer")
_LOOSE = (".scan", ".core", ".again")
_ONE_EXPERT = re.compile(r"\.experts\.\d+\.")
_AS_USUAL = "That blocks are put together as is usual is assumed."

# llama.cpp's key -> the fields of configurations that say the same
_CONFIG_KEYS = {
    "block_count": ("num_hidden_layers", "n_layer", "num_layers"),
    "embedding_length": ("hidden_size", "d_model", "n_embd"),
    "attention.head_count": ("num_attention_heads", "n_head", "num_heads"),
    "attention.head_count_kv": ("num_key_value_heads", "num_kv_heads", "multi_query_group_num"),
    "attention.key_length": ("head_dim",),
    "attention.kv_lora_rank": ("kv_lora_rank",),
    "attention.value_length_mla": ("v_head_dim",),
    "rope.dimension_count": ("qk_rope_head_dim",),
    "expert_used_count": ("num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_k", "top_k"),
    "ssm.inner_size": ("mamba_d_ssm", "d_inner", "mamba_intermediate_size"),
    "ssm.state_size": ("mamba_d_state", "ssm_state_size", "state_size", "d_state"),
}


def network(
    shapes: Mapping[str, tuple[int, ...]], config: Mapping[str, Any], values: Mapping[str, Any]
) -> tuple[Network, str]:
    """The network, and one sentence of what the file does not tell ("" where it tells all).

    shapes: of every tensor that a text token touches, slowest axis first. config, values: the metadata, by the names of
    config.json and by llama.cpp's own. Raises ExplorerError for a file without blocks.
    """
    kind = str(config.get("model_type", ""))
    named = {name: (canonical_gguf(name, kind) or name, shape) for name, shape in shapes.items()}
    return _network(_Reader(named, config, values))


def of_folder(shapes: Mapping[str, tuple[int, ...]], config: Mapping[str, Any]) -> tuple[Network, str]:
    """The same of the tensors of a Hugging Face folder, whose configuration names its numbers in one of many ways."""
    named: dict[str, tuple[str, tuple[int, ...]]] = {}
    for name, shape in shapes.items():
        layer = canonical_hf(name) or name
        match = _ONE_EXPERT.search(name)
        if match is None or len(shape) != 2:
            named[name] = (layer, shape)
            continue
        stack = f"{layer}.{'bias' if name.endswith('.bias') else 'weight'}"
        named[stack] = (layer, (named[stack][1][0] + 1 if stack in named else 1, *shape))
    values: dict[str, Any] = {}
    for key, names in _CONFIG_KEYS.items():
        found = next((config[n] for n in names if config.get(n) is not None), None)
        if found is not None:
            values[key] = found
    nope, rope = config.get("qk_nope_head_dim"), config.get("qk_rope_head_dim")
    if isinstance(nope, int) and isinstance(rope, int):
        values["attention.key_length_mla"] = nope + rope
    network, doubts = _network(_Reader(named, config, values))
    return network, f"{doubts} {_AS_USUAL}".strip()


def table(shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, int]:
    """(rows, width) of the table of tokens."""
    return next(((s[0], s[1]) for name, s in shapes.items() if canonical_hf(name) == "embed" and len(s) == 2), (1, 1))


def _network(reader: _Reader) -> tuple[Network, str]:
    leaves = reader.leaves()
    if not any(leaf.name.startswith("blocks.") for leaf in leaves) or not any(leaf.name == "embed" for leaf in leaves):
        raise ExplorerError(
            f"The architecture '{reader.architecture}' is not known here, and the file has no blocks of a "
            "language model that tell it.",
            "Choose a language model.",
        )
    return build(leaves, reader.cores(leaves)), reader.unknown()


def _before_feed_forward(leaves: Mapping[str, Leaf]) -> list[Leaf]:
    """llama.cpp has one name for a norm behind the attention and for one before the feed-forward network: it is the
    latter in a block that has neither another nor one behind its feed-forward network."""
    found = []
    for name, leaf in leaves.items():
        at = name.removesuffix("attn_post_norm")
        alone = not {f"{at}mlp_norm", f"{at}mlp_post_norm"} & leaves.keys()
        feeds = any(other.startswith(f"{at}mlp.") for other in leaves)
        moved = name.endswith(".attn_post_norm") and alone and feeds
        found.append(Leaf(f"{at}mlp_norm", leaf.op, leaf.n_params) if moved else leaf)
    return found


class _Reader:
    def __init__(
        self,
        shapes: Mapping[str, tuple[str, tuple[int, ...]]],
        config: Mapping[str, Any],
        values: Mapping[str, Any],
    ) -> None:
        """shapes: name of a tensor -> its layer and shape."""
        self._config, self._values = config, values
        self.architecture = config.get("model_type", "")
        self._doubts: dict[str, None] = {}
        self._tensors: dict[str, dict[str, tuple[int, ...]]] = {}  # layer -> what it stores
        for name, (layer, shape) in shapes.items():
            if layer == "rope":
                continue  # an argument of the rotation
            end = "bias" if name.endswith(".bias") else "weight"
            self._tensors.setdefault(layer, {}).setdefault(f"{end}{len(self._tensors.get(layer, {})) or ''}", shape)

    def unknown(self) -> str:
        return f"Not told by the file: {'; '.join(self._doubts)}." if self._doubts else ""

    def leaves(self) -> list[Leaf]:
        found = [self._leaf(name, stored) for name, stored in self._tensors.items()]
        scans = {leaf.name for leaf in found if leaf.name.endswith(".ssm.scan")}
        merged: dict[str, Leaf] = {}
        for leaf in found:
            at = leaf.name.rpartition(".")[0]
            step = leaf.op is None and leaf.last == "dt_proj" and f"{at}.scan" in scans  # the bias of the step alone
            into = f"{at}.scan" if step else leaf.name
            before = merged.get(into)
            merged[into] = Leaf(into, leaf.op, leaf.n_params + (before.n_params if before else 0))
        merged = {leaf.name: leaf for leaf in _before_feed_forward(merged)}
        merged |= {leaf.name: leaf for leaf in self._shifts(merged)}
        if "lm_head" not in merged and (table := merged.get("embed")) and isinstance(table.op, Embedding):
            op = Linear(d_in=table.op.d, d_out=table.op.rows, tied_to="embed")
            merged["lm_head"] = Leaf("lm_head", op, 0)
        return list(merged.values())

    def _shifts(self, leaves: Mapping[str, Leaf]) -> list[Leaf]:
        """RWKV mixes each token with the one before it, which it keeps for every place where it does so."""
        if not self._number("wkv.head_size"):
            return []
        channels = (self._number("token_shift_count") or 2) * self._number("embedding_length")
        blocks = dict.fromkeys(name.split(".")[1] for name in leaves if re.match(r"blocks\.\d+\.ssm\.", name))
        return [Leaf(f"blocks.{i}.ssm.shift", Conv(channels=channels, kernel=2, bias=False), 0) for i in blocks]

    def _leaf(self, name: str, stored: Mapping[str, tuple[int, ...]]) -> Leaf:
        own = sum(prod(shape) for shape in stored.values())
        weights = [shape for key, shape in stored.items() if key.startswith("weight")]
        bias = any(key.startswith("bias") for key in stored)
        shape = weights[0] if weights else ()
        op: Op | None = None
        if name in _TABLES and len(shape) == 2:
            op = Embedding(rows=shape[0], d=shape[1])
        elif ".conv" in name and len(shape) in (2, 3) and len(weights) == 1:
            op = Conv(channels=shape[0], kernel=shape[-1], bias=bias)
        elif name.endswith("norm") and shape:
            op = Norm(d=shape[-1], n_groups=prod(shape[:-1]), rms=not bias, bias=bias)
        elif not name.endswith(_LOOSE) and len(weights) == 1 and len(shape) == 2 and min(shape) > 1:
            op = Linear(d_in=shape[1], d_out=shape[0], bias=bias)
        elif ".experts." in name and len(shape) == 3:
            n = shape[0]
            op = Linear(d_in=shape[2], d_out=shape[1], bias=bias, n_experts=n, n_active=self._active(n))
        elif name.endswith(".router") and len(weights) >= 1 and len(shape) in (1, 2):
            op = Linear(d_in=shape[-1], d_out=shape[0] if len(shape) == 2 else 1, bias=bias)
        return Leaf(name, op, own)

    def _active(self, n_experts: int) -> int:
        value = self._values.get("expert_used_count")
        if isinstance(value, int) and 0 < value <= n_experts:
            return value
        self._doubts["how many experts a token uses (all are counted)"] = None
        return n_experts

    # ---------------------------------------------------------------- cores

    def cores(self, leaves: Sequence[Leaf]) -> dict[str, Core]:
        if any(leaf.name.startswith("encoder.") for leaf in leaves):
            self._doubts[SIDES] = None
        parts: dict[str, list[Leaf]] = {}
        for leaf in leaves:
            match = re.match(r"((?:encoder\.)?blocks\.\d+\.(?:attn|ssm|cross))\.", leaf.name)
            if match:
                parts.setdefault(match[1], []).append(leaf)
        found = {}
        for part, own in parts.items():
            core = self._recurrence(part, own) if part.endswith("ssm") else self._attention(part, own)
            if core is not None:
                found[part] = core
        return found

    def _recurrence(self, part: str, leaves: Sequence[Leaf]) -> Core | None:
        lasts = {leaf.last for leaf in leaves}
        n_params = sum(leaf.n_params for leaf in leaves if leaf.last == "scan")
        d_inner, d_state = self._number("ssm.inner_size"), self._number("ssm.state_size")
        if head := self._number("kda.head_dim"):
            d_inner, d_state = head * self._number("attention.head_count"), head
        elif head := self._number("wkv.head_size"):
            d_inner, d_state = self._number("embedding_length"), head
        elif "scan" not in lasts:
            return None  # a short convolution: its state is the convolution's
        if not d_inner or not d_state:
            self._doubts["the size of its recurrent state (none is counted)"] = None
            return None
        return Core(Scan(d_inner=d_inner, d_state=d_state, n_params=n_params))

    def _attention(self, part: str, leaves: Sequence[Leaf]) -> Core | None:
        ops = {leaf.last: leaf.op for leaf in leaves if isinstance(leaf.op, Linear)}
        block = int(re.findall(r"\d+", part)[0])
        sides = any(name.startswith("encoder.") for name in self._tensors)
        out = ops.get("o_proj")
        if out is None or len(ops) == 1:
            return None  # projections of a recurrence; one matrix in the place of an attention (DeciLM)
        heads, kv = (self._of_block(k, block) for k in ("attention.head_count", "attention.head_count_kv"))
        d_model = self._number("embedding_length")
        window = self._window(block)
        narrow = "_swa" if window else ""  # heads of such blocks may have a width of their own
        d_head = self._number(f"attention.key_length{narrow}") or self._number("attention.key_length")
        d_head = d_head or (d_model // heads if heads else 0)
        d_v = self._number(f"attention.value_length{narrow}") or self._number("attention.value_length")
        d_v = d_v or (d_model // heads if heads else d_head)
        index_width = self._number("attention.indexer.key_length") if self._has_indexer(block) else 0
        if index_width:
            self._doubts["which of the past tokens an indexer chooses (all are counted as read)"] = None
        causal = (
            not part.startswith("encoder.")
            if sides
            else self._values.get("attention.causal", self.architecture != "t5encoder") is not False
        )
        rope = self._number("rope.dimension_count") or d_head
        if rank := self._number("attention.kv_lora_rank"):
            latent = self._number("attention.key_length_mla")  # without it llama.cpp keeps keys and values of all heads
            key, value = latent or d_head, self._number("attention.value_length_mla") or d_v
            op = Attention(
                n_heads=heads, n_kv_heads=heads, qk_dim=key, v_dim=value, kv_width=rank + rope if latent else None,
                window=window, index_width=index_width,
            )  # fmt: skip
            return Core(op, (heads + 1) * rope) if heads and key and value else None
        k, v = ops.get("k_proj"), ops.get("v_proj")
        if k is not None and d_head and k.d_out % d_head == 0:
            kv = k.d_out // d_head
        if v is not None and kv and v.d_out % kv == 0:
            d_v = v.d_out // kv
        if d_v and out.d_in % d_v == 0:
            heads = out.d_in // d_v
        kv = kv or heads
        if not (heads and kv and d_head and d_v):
            self._doubts[f"the heads of {part}"] = None
            return None
        borrows = self._borrows(block)
        op = Attention(
            n_heads=heads, n_kv_heads=kv, qk_dim=d_head, v_dim=d_v, window=window, causal=causal, borrows=borrows,
            cross=part.endswith("cross"), index_width=index_width,
        )  # fmt: skip
        return Core(op, 0 if sides else min(rope, d_head) * (heads + kv))

    def _has_indexer(self, block: int) -> bool:
        return any(name.startswith(f"blocks.{block}.indexer.") for name in self._tensors)

    def _borrows(self, block: int) -> bool:
        n, shared = self._number("block_count"), self._number("attention.shared_kv_layers")
        return bool(shared) and block >= n - shared

    def _window(self, block: int) -> int | None:
        window, types = self._config.get("sliding_window"), self._config.get("layer_types")
        if not isinstance(window, int) or window <= 0:
            return None
        if isinstance(types, list):
            return window if block < len(types) and types[block] == "sliding_attention" else None
        self._doubts["which of its blocks see a window only (none is counted)"] = None
        return None

    def _number(self, key: str) -> int:
        value = self._values.get(key)
        if isinstance(value, list):
            value = max((v for v in value if isinstance(v, int)), default=0)
        return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 10_000_000 else 0

    def _of_block(self, key: str, block: int) -> int:
        value = self._values.get(key)
        if isinstance(value, list):
            value = value[block] if block < len(value) else 0
        return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 10_000_000 else 0
