"""A network from the modules that transformers builds for a configuration: for every family without a file here.

Knows the attributes by which the library's modules tell heads, windows, experts and states, and says in one sentence
what they do not tell. Knows nothing of how parts are put together (core.models.architectures.generic).

Sources: transformers' modeling files; Gu and Dao 2023, Dao and Gu 2024 (state of Mamba), Yang et al. 2024 (gated delta
rule: one matrix of keys by values per head), Qin et al. 2024 (lightning attention, the same without the delta).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

from msgspec.structs import replace

from core.layer_names import canonical_hf, named_hf
from core.models.architectures.generic import SIDES, Core, Leaf, build
from core.models.module_tree import Module, Tree
from core.models.network import Network
from core.types import Attention, Conv, Elementwise, Embedding, Linear, Norm, Scan
from hardware.errors import ExplorerError

_ASIDE = re.compile(
    r"(?:^|\.)(?:vision\w*|visual|audio\w*|video_tower|multi_modal\w*|(?:mm_)?projector|connector|aligner|perceiver\w*"
    r"|qformer|resampler\w*|image_\w+|embed_vision)(?:\.|$)"
)
_RECURRENT = re.compile(r"Mamba|Mixer|DeltaNet|DeltaAttention|Lightning|ShortConv|RecurrentBlock|Rglru|Rwkv|SSM|LSTM")
_ACTIVE = ("num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_k", "top_k_experts", "moe_top_k", "top_k")
_MIXES = re.compile(rf"Attention|{_RECURRENT.pattern}")
_BLOCK = re.compile(r"(?:encoder\.)?blocks\.\d+")
_OF_THE_CORE = ("A_log", "D", "dt_bias")
_ROTATES_WINDOWS_ALONE = ("cohere2", "cohere2_moe", "exaone4", "exaone_moe")


def network(tree: Tree) -> tuple[Network, str]:
    """The network, and one sentence of what the modules do not tell ("" where they tell all).

    Raises ExplorerError for a model without blocks.
    """
    reader = _Reader(tree)
    leaves = reader.leaves()
    if not {"embed", "blocks"} <= {leaf.name.split(".")[0] for leaf in leaves}:
        raise ExplorerError(
            f"transformers builds '{reader.architecture}' as a {tree.kind}, without a token table or blocks.",
            "Choose a language model.",
        )
    cores = reader.cores(leaves)
    if tree.config.get("num_layers_per_stack"):  # HRM, whose two stacks run in turn
        reader.doubt("how often a block runs for a token (once is counted)")
    if tree.config.get("is_encoder_decoder"):
        reader.doubt(SIDES)
    return build(leaves, cores), reader.unknown()


class _Reader:
    """A tree by its paths."""

    def __init__(self, tree: Tree) -> None:
        self.config = tree.config
        self.architecture = str(tree.config.get("model_type", ""))
        self.modules = [module for module in tree.modules if not _ASIDE.search(module.path)]
        self.fills_gaps, self.n_image = tree.fills_gaps, tree.n_image
        self.rotates = any("Rotary" in module.kind for module in tree.modules)
        self._layer_of: dict[str, str] = {}  # path of a parameter -> its layer
        self._owners: dict[str, list[Module]] = {}  # part -> its modules
        self._doubts: dict[str, None] = {}
        self._use_names()

    def doubt(self, what: str) -> None:
        self._doubts[what] = None

    def unknown(self) -> str:
        return f"Not told by its modules: {'; '.join(self._doubts)}." if self._doubts else ""

    def _use_names(self) -> None:
        """Which modules a part has: those named in it, and those around them."""
        for module in self.modules:
            name = self._name(module.path)
            match = re.match(r"((?:encoder\.)?blocks\.\d+)(?:\.(\w+))?", name)
            if match and match[2]:
                self._owners.setdefault(f"{match[1]}.{match[2]}", []).append(module)
            elif match:
                self._owners.setdefault(match[1], []).append(module)

    def _name(self, path: str) -> str:
        if canonical_hf(path, self.architecture) is None and re.search(
            r"\.(?:layers|layer|h|blocks|block)\.\d+$", f".{path}"
        ):
            index = path.rpartition(".")[2]
            return f"blocks.{index}"
        found = named_hf(path, self.architecture)
        return found if self.config.get("is_encoder_decoder") else found.removeprefix("encoder.")

    # ---------------------------------------------------------------- leaves

    def leaves(self) -> list[Leaf]:
        found: dict[str, Leaf] = {}
        for module in self.modules:
            for leaf in self._of(module):
                name, before = leaf.name, found.get(leaf.name)
                if before is not None and before.op is None and leaf.op is None:
                    found[name] = Leaf(name, None, before.n_params + leaf.n_params)
                    continue
                while name in found:
                    name = f"{name}.again"
                found[name] = Leaf(name, leaf.op, leaf.n_params)
        tables = [
            k for k, x in found.items() if isinstance(x.op, Embedding) and not k.startswith(("blocks.", "encoder."))
        ]
        if tables and "embed" not in found:
            found = {"embed" if k == tables[0] else k: x for k, x in found.items()}
            for k, x in found.items():
                if isinstance(x.op, Linear) and x.op.tied_to == tables[0]:
                    found[k] = Leaf(k, replace(x.op, tied_to="embed"), x.n_params)
        return [Leaf(name, leaf.op, leaf.n_params) for name, leaf in found.items()]

    def _of(self, module: Module) -> list[Leaf]:
        """The primitives of one module."""
        if not module.parameters:
            return []
        name = self._name(module.path)
        if _BLOCK.fullmatch(name):
            name = f"{name}.own"  # numbers of the block itself
        shapes = {key: tuple(shape) for key, shape in module.parameters.items()}
        for key in shapes:
            self._layer_of.setdefault(f"{module.path}.{key}", name)
        own = sum(prod(shape) for key, shape in shapes.items() if key not in module.tied)
        weight = shapes.get("weight", ())
        if "Expert" in module.kind or name.endswith(".experts"):
            return self._experts(module, name, shapes)
        bias = len(shapes.get("bias", ())) == 1
        tied = self._layer_of.get(module.tied.get("weight", ""), "")
        if len(weight) == 2:
            if "Embedding" in module.kind:
                rows, d = weight
                if tied == name:
                    return []  # the same table again
                return [Leaf(name, Embedding(rows=rows, d=d), own)]
            d_out, d_in = weight if module.kind != "Conv1D" else weight[::-1]
            return [Leaf(name, Linear(d_in=d_in, d_out=d_out, bias=bias, tied_to=tied or None), own)]
        if len(weight) == 3:
            channels, inner, kernel = weight
            if inner == 1:
                return [Leaf(name, Conv(channels=channels, kernel=kernel, bias=bias), own)]
            return [Leaf(name, Linear(d_in=inner * kernel, d_out=channels, bias=bias), own)]
        if len(weight) == 1 and ("norm" in module.kind.lower() or "norm" in name):
            rms = "LayerNorm" not in module.kind or module.kind.startswith(("T5", "MT5", "UMT5", "LongT5"))
            return [Leaf(name, Norm(d=weight[0], rms=rms, bias=bias), own)]
        return self._loose(name, shapes, own)

    def _loose(self, name: str, shapes: Mapping[str, tuple[int, ...]], own: int) -> list[Leaf]:
        """Numbers without a module of their own: a matrix is a product, all else goes to the core of its part."""
        found = []
        for key, shape in shapes.items():
            if len(shape) >= 2 and prod(shape) > 4 * sum(shape) and key not in _OF_THE_CORE:
                at = name.rpartition(".")[0]
                found.append(Leaf(f"{at}.{key}", Linear(d_in=shape[-1], d_out=prod(shape[:-1])), prod(shape)))
                own -= prod(shape)
        return [*found, Leaf(name, None, own)] if own or not found else found

    def _experts(self, module: Module, name: str, shapes: Mapping[str, tuple[int, ...]]) -> list[Leaf]:
        """Stacked matrices, (experts, out, in) or the two the other way round; gate and up side by side in one."""
        name = name.removesuffix(".mlp")
        name = name if name.endswith(".experts") else f"{name}.experts"
        matrices = {key: shape for key, shape in shapes.items() if len(shape) == 3}
        if not matrices and (n := int(module.numbers.get("moe_num_experts") or 0)):  # below one another, in DBRX
            matrices = {key: (n, shape[0] // n, shape[1]) for key, shape in shapes.items() if len(shape) == 2}
        if not matrices:
            return [Leaf(name, None, sum(prod(shape) for shape in shapes.values()))]
        down = next((key for key in matrices if key in ("down_proj", "w2", "wo", "output_linear")), None)
        widths = {n for key, shape in matrices.items() for n in shape[1:]}
        d = next((int(module.numbers[k] or 0) for k in ("hidden_dim", "hidden_size") if k in module.numbers), 0)
        d = d if d in widths else int(self.config.get("hidden_size") or 0)
        found = []
        for key, (n_experts, first, second) in matrices.items():
            n_active = self._active(module, n_experts)
            bias = f"{key}_bias" in shapes
            out, into = (
                (first, second) if (second == d) != (key == down) or d not in (first, second) else (second, first)
            )
            parts = (
                {"gate_proj": out // 2, "up_proj": out - out // 2}
                if key == "gate_up_proj"
                else {_EXPERT.get(key, key): out}
            )
            for part, width in parts.items():
                op = Linear(d_in=into, d_out=width, bias=bias, n_experts=n_experts, n_active=n_active)
                found.append(Leaf(f"{name}.{part}", op, n_experts * width * (into + bias)))
        return found

    def _active(self, experts: Module, n_experts: int) -> int:
        """Experts per token, from the router beside the experts, or from the configuration."""
        if "shared_expert" in experts.path:
            return n_experts
        around = experts.path.removesuffix(".mlp").rpartition(".")[0]
        near = [m for m in self.modules if m.path == around or m.path.startswith(f"{around}.")]
        for module in near:
            for key in _ACTIVE:
                value = module.numbers.get(key)
                if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= n_experts:
                    return value
        for key in _ACTIVE:
            value = self.config.get(key)
            if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= n_experts:
                return value
        self._doubts["how many experts a token uses (all are counted)"] = None
        return n_experts

    # ---------------------------------------------------------------- cores

    def cores(self, leaves: Sequence[Leaf]) -> dict[str, Core]:
        """The core of every part that mixes tokens."""
        parts: dict[str, list[Leaf]] = {}
        for leaf in leaves:
            match = re.match(r"((?:encoder\.)?blocks\.\d+\.(?:attn|ssm|cross))\.", leaf.name)
            if match:
                parts.setdefault(match[1], []).append(leaf)
        found = {part: core for part, own in parts.items() if (core := self._core(part, own)) is not None}
        self._doubt_blocks(found)
        return found

    def _doubt_blocks(self, cores: Mapping[str, Core]) -> None:
        """Say so of blocks that have a module that mixes tokens, by its name, and no core that was understood."""
        known = {".".join(part.split(".")[:-1]) for part in cores}
        for module in self.modules:
            block = _BLOCK.match(self._name(module.path))
            inner = block and not re.search("Norm|DecoderLayer|EncoderLayer|Block$", module.kind)
            if block and inner and block[0] not in known and _MIXES.search(module.kind):
                self.doubt(f"what {module.kind} keeps of the past (nothing is counted)")

    def _core(self, part: str, leaves: Sequence[Leaf]) -> Core | None:
        modules = self._owners.get(part, [])
        numbers: dict[str, Any] = {}
        for module in reversed(modules):
            numbers.update(module.numbers)  # those of the outermost count
        kinds = modules[0].kind if modules else ""
        loose = [leaf for leaf in leaves if leaf.op is None and leaf.last in ("core", "scan")]
        convolves = any(isinstance(leaf.op, Conv) for leaf in leaves)
        lasts = {leaf.last for leaf in leaves}
        attends = {"q_proj", "k_proj", "v_proj"} <= lasts and "Attention" in kinds  # whatever is convolved before
        if _RECURRENT.search(kinds) or (convolves and not attends) or (loose and part.endswith("ssm")):
            return self._recurrence(part, modules, numbers, kinds, leaves, sum(leaf.n_params for leaf in loose))
        picture = 0 if self.config.get("is_encoder_decoder") or not part.endswith("cross") else self.n_image
        if part.endswith("cross") and not self.config.get("is_encoder_decoder") and not picture:
            self.doubt("what its cross-attention reads (nothing is counted)")
            return None
        if {"k_proj", "qkv_proj", "kv_b_proj"} & lasts or part.endswith(("attn", "cross")):
            core = self._attention(part, numbers, leaves)
            if core is not None and isinstance(core.op, Attention) and (picture or self._indexer(modules)):
                core = Core(replace(core.op, source=picture, index_width=self._indexer(modules)), core.rotated)
            if core is not None and self._indexer(modules):
                self.doubt("which of the past tokens an indexer chooses (all are counted as read)")
            if picture:
                self.doubt(f"whether there is a picture (its {picture:,} places in the cache are counted)")
            numbered = [m for m in modules if re.fullmatch(rf"{re.escape(part)}\.\d+", self._name(m.path))]
            return core if core is None or len(numbered) < 2 else _several(core, len(numbered))
        self._doubts[f"what mixes tokens in {part} ({modules[0].kind if modules else part})"] = None
        return None

    def _indexer(self, modules: Sequence[Module]) -> int:
        """Elements per token that an indexer in a part keeps: one key."""
        found = next((module for module in modules if "Indexer" in module.kind), None)
        width = found.numbers.get("head_dim") if found else None
        return width if isinstance(width, int) else 0

    def _recurrence(
        self,
        part: str,
        modules: Sequence[Module],
        n: Mapping[str, Any],
        kinds: str,
        leaves: Sequence[Leaf],
        n_params: int,
    ) -> Core | None:
        def number(*keys: str) -> int:
            return next((int(n[key]) for key in keys if isinstance(n.get(key), int) and n[key] > 0), 0)

        shapes = {key: shape for module in modules for key, shape in module.parameters.items()}
        d_inner = d_state = 0
        if "ShortConv" in kinds:
            channels = next((leaf.op.channels for leaf in leaves if isinstance(leaf.op, Conv)), 0)
            return Core(Elementwise(d=channels, n_inputs=2, flops_per_element=2))  # its state is the convolution's
        if number("head_k_dim") and number("num_v_heads", "num_heads"):
            d_inner, d_state = (
                number("num_v_heads", "num_heads") * number("head_v_dim", "head_k_dim"),
                number("head_k_dim"),
            )
        elif re.search("Lightning|DeltaAttention", kinds) and number("head_dim"):
            d_inner, d_state = number("num_heads", "num_attention_heads") * number("head_dim"), number("head_dim")
        elif number("ssm_state_size", "state_size", "mamba_d_state", "d_state"):
            d_inner = number("intermediate_size", "d_inner", "mamba_d_ssm")
            d_state = number("ssm_state_size", "state_size", "mamba_d_state", "d_state")
        elif len(decay := shapes.get("A_log", [])) == 2:
            d_inner, d_state = decay
        elif number("lru_width"):
            d_inner, d_state = number("lru_width"), 1
        elif "Rwkv" in kinds and number("attention_hidden_size"):
            # numerator, denominator, maximum, and what the mixing of time and of channels keep of the token before
            d_inner, d_state = number("attention_hidden_size"), 5
        if not d_inner or not d_state:
            kind = modules[0].kind if modules else part
            self._doubts[f"the size of the state that {kind} keeps (none is counted)"] = None
            return None
        return Core(Scan(d_inner=d_inner, d_state=d_state, n_params=n_params))

    def _attention(self, part: str, n: Mapping[str, Any], leaves: Sequence[Leaf]) -> Core | None:
        ops = {leaf.last: leaf.op for leaf in leaves if isinstance(leaf.op, Linear)}

        def number(*keys: str) -> int:
            values = (n.get(key, self.config.get(key)) for key in keys)
            return next((v for v in values if isinstance(v, int) and not isinstance(v, bool) and v > 0), 0)

        heads = number("num_heads", "num_attention_heads", "n_heads", "n_head")
        block = int(re.findall(r"\d+", part)[0])
        window = self._window(n, part, block)
        cross = part.endswith("cross")
        causal = self._causal(n, part)
        if "kv_b_proj" in ops:
            rope, nope, d_v, rank = (
                number(k) for k in ("qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim", "kv_lora_rank")
            )
            if all((heads, nope, d_v, rank)):
                op = Attention(
                    n_heads=heads, n_kv_heads=heads, qk_dim=nope + rope, v_dim=d_v, window=window, causal=causal,
                    kv_width=rank + rope,
                )  # fmt: skip
                return Core(op, (heads + 1) * rope if self.rotates else 0)
        q, k, v, fused = (ops.get(name) for name in ("q_proj", "k_proj", "v_proj", "qkv_proj"))
        out = next((ops[name] for name in ("o_proj", "out_proj") if name in ops), None)
        d_head = number("head_dim", "key_value_proj_dim", "attention_head_size", "d_kv", "attention_head_dim")
        n_kv = number("num_key_value_heads", "num_kv_heads") or (heads // (number("num_key_value_groups") or 1))
        if not d_head and k is not None and n_kv:
            d_head = k.d_out // n_kv
        d_head = d_head or (out.d_in // heads if out is not None and heads else 0)
        if d_head and k is not None and k.d_out % d_head == 0:
            n_kv = k.d_out // d_head
        d_v = v.d_out // n_kv if v is not None and n_kv and v.d_out % n_kv == 0 else d_head
        if out is not None and d_v and out.d_in % d_v == 0:
            heads = out.d_in // d_v
        if fused is not None and d_head and heads:
            n_kv = max((fused.d_out // d_head - heads) // 2, 1)
        if not (heads and n_kv and d_head):
            self._doubts[f"the heads of {part}"] = None
            return None
        borrows = k is None and fused is None and q is not None
        if borrows and any(name.startswith("kv_") or name.endswith("kv_proj") for name in ops):
            return None  # keys and values in a form of their own
        op = Attention(
            n_heads=heads, n_kv_heads=n_kv, qk_dim=d_head, v_dim=d_v, window=window, causal=causal, borrows=borrows,
            cross=cross,
        )  # fmt: skip
        return Core(op, 0 if cross else self._rotated(n, window) * d_head * (heads + n_kv) // 1000)

    def _causal(self, n: Mapping[str, Any], part: str) -> bool:
        if self.config.get("is_encoder_decoder"):
            return not part.startswith("encoder.")
        known = n.get("is_causal")
        return bool(known) if known is not None else not self.fills_gaps

    def _rotated(self, n: Mapping[str, Any], window: int | None) -> int:
        """The rotated thousandths of each head."""
        if not self.rotates or n.get("use_rope", 1) in (0, False):
            return 0
        if self.architecture in _ROTATES_WINDOWS_ALONE and window is None:
            return 0
        rope = self.config.get("rope_parameters")
        nested = rope.get("partial_rotary_factor") if isinstance(rope, Mapping) else None
        share = self.config.get("partial_rotary_factor") or nested or 1.0
        return round(1000 * share) if isinstance(share, int | float) and 0 < share <= 1 else 1000

    def _window(self, n: Mapping[str, Any], part: str, block: int) -> int | None:
        if part.startswith("encoder.") or part.endswith("cross"):
            return None
        types, window = self.config.get("layer_types"), self.config.get("sliding_window")
        if isinstance(types, list) and block < len(types):
            if types[block] == "chunked_attention":
                self._doubts["where a chunk of its local attention begins (counted as a window of that length)"] = None
                window = self.config.get("attention_chunk_size")
            elif types[block] != "sliding_attention":
                return None
        elif "sliding_window" in n:
            window = n["sliding_window"]
        elif self.config.get("use_sliding_window") is False:
            return None
        return window if isinstance(window, int) and window > 0 else None


def _several(core: Core, n: int) -> Core:
    """The cores of `n` attentions one behind the other in a block, as one."""
    op = core.op
    if not isinstance(op, Attention):
        return core
    wide = replace(op, n_heads=n * op.n_heads, n_kv_heads=n * op.n_kv_heads, kv_width=op.kv_width and n * op.kv_width)
    return Core(wide, n * core.rotated)


_EXPERT = {"w1": "gate_proj", "w3": "up_proj", "v1": "up_proj", "w2": "down_proj", "wi": "up_proj", "wo": "down_proj",
           "input_linear": "up_proj", "output_linear": "down_proj"}  # fmt: skip
