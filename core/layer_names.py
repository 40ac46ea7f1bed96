"""One canonical name for a layer, whatever library runs it.

Knows how transformers names modules and how GGUF files and llama.cpp's graphs name tensors, and maps
both to names such as `blocks.7.attn.q_proj`. Knows nothing of sizes: those are in core.models.

A module that computes something itself, outside its child modules, is named after that part: an
attention module is its `attn.core`, a gated MLP its `mlp.act`, a Mamba mixer its `ssm.scan`. Measure
such a module without the time of its children. Stacked experts, which transformers runs as one module,
carry the name of the group `blocks.I.mlp.experts`, whose layers begin with that name and a dot.
"""

from __future__ import annotations

import re
from collections.abc import Container

from core.types import LayerKind

_BLOCK_NAME = re.compile(r"^blocks\.(\d+)(?:\.|$)")


def block_of(name: str) -> int | None:
    """Index of the block a canonical name belongs to; None for the layers around the blocks."""
    match = _BLOCK_NAME.match(name)
    return int(match.group(1)) if match else None


def within(name: str, group: str) -> bool:
    """Whether the canonical `name` is `group` itself or one of the layers in it."""
    return name == group or name.startswith(group + ".")


def kind_of(name: str) -> LayerKind:
    """The kind of the layer with this canonical name."""
    parts = name.removeprefix("encoder.").split(".")
    last = parts[-1]
    if last.endswith("norm"):
        return "norm"
    if last == "residual":
        return "other"
    if parts[0] == "embed":
        return "embedding"
    if parts[0] in ("lm_head", "pooler", "mlm", "final_proj"):
        return "head"
    if parts[0] != "blocks" or len(parts) < 3:
        return "other"
    if parts[2] == "mlp":
        return "router" if "router" in parts else "mlp"
    if parts[2] == "bottleneck":  # MobileBERT's projections into and out of a block
        return "attention" if last == "qk_proj" else "mlp"
    return {"attn": "attention", "cross": "attention", "ssm": "ssm"}.get(parts[2], "other")  # type: ignore[return-value]


# Where a library fuses or names a part otherwise than the network does, the part that holds it.
_ELSEWHERE = {
    "attn_post_norm": ("mlp_norm",),  # gpt-oss' files call the norm before the experts so
    "attn.q_proj": ("attn.qkv_proj",),
    "attn.k_proj": ("attn.qkv_proj", "attn.kv_b_proj"),
    "attn.v_proj": ("attn.qkv_proj", "attn.kv_b_proj"),
    "mlp.gate_proj": ("mlp.gate_up_proj", "mlp.shared_expert.gate_proj"),
    "mlp.up_proj": ("mlp.gate_up_proj", "mlp.shared_expert.up_proj"),
    "mlp.act": ("mlp.shared_expert.act", "mlp.experts.act"),
    "mlp.down_proj": ("mlp.combine", "mlp.experts.combine"),
    "mlp.residual": ("ssm.residual", "attn.residual"),
    "attn.residual": ("ssm.residual", "mlp.residual"),
    "ssm.residual": ("attn.residual", "mlp.residual"),
    "ssm.act": ("ssm.conv",),
    "ssm.gate": ("ssm.scan",),
    "ssm.scan": ("ssm.act",),  # of a short convolution
    "ssm.dt_proj": ("ssm.scan",),  # Mamba-2 has no projection, only the bias of the step
}


def fit(name: str, layers: Container[str]) -> str:
    """`name` as a network with these `layers` has it: itself, or the layer that the part belongs to there.

    `blocks.3.mlp.up_proj` is `blocks.3.mlp.gate_up_proj` where gate and up are one matrix. A name that
    fits nowhere is returned as it is.
    """
    match = _BLOCK_NAME.match(name)
    if name in layers or match is None:
        return name
    others = (f"{match.group()}{part}" for part in _ELSEWHERE.get(name[match.end() :], ()))
    return next((other for other in others if other in layers), name)


# ---------------------------------------------------------------- transformers

_HF_BLOCK = re.compile(r"(?:^|\.)(?:layers|layer|h|blocks)\.(\d+)(?:\.(.+))?$")
_HF_T5_BLOCK = re.compile(r"(?:^|\.)(?:encoder|decoder)\.block\.(\d+)(?:\.(.+))?$")
_HF_EXPERT = re.compile(r"^(?:experts|switch_mlp)\.(?:\d+\.|mlp\.)?(\w+?)(?:_bias)?$")  # the latter as MLX names them
_HF_FFN = re.compile(r"^ffn\.(\d+)\.(.+)$")  # MobileBERT's stacked feed-forward networks

# Here `post_attention_layernorm` normalises the attention's output, before the residual sum.
_OUTPUT_NORMS = ("gemma2", "gemma3", "gemma3_text", "gemma3n", "gemma3n_text", "gemma4", "gemma4_text", "olmo2",
                 "olmo3", "exaone4")  # fmt: skip

_HF_OUTSIDE = {
    "embed_tokens": "embed",
    "wte": "embed",
    "embed_in": "embed",
    "tok_embeddings": "embed",  # Mistral's own names, here and below
    "word_embeddings": "embed",
    "backbone.embeddings": "embed",  # Mamba
    "model.embeddings": "embed",  # Nemotron-H
    "rwkv.embeddings": "embed",
    "embedding": "embed",
    "shared": "embed",  # of encoder and decoder
    "layernorm_embedding": "embed.norm",
    "wpe": "embed.position",
    "embed_positions": "embed.position",
    "position_embeddings": "embed.position",
    "token_type_embeddings": "embed.token_type",
    "encoder.relative_attention_bias": "embed.relative",  # MPNet
    "encoder.rel_embeddings": "embed.relative",  # DeBERTa
    "encoder.LayerNorm": "embed.relative_norm",
    "embedding_transformation": "embed.proj",
    "project_in": "embed.proj",
    "embeddings.LayerNorm": "embed.norm",
    "embeddings.norm": "embed.norm",  # ModernBERT
    "norm": "final_norm",
    "ln_f": "final_norm",
    "norm_f": "final_norm",
    "final_norm": "final_norm",
    "final_layernorm": "final_norm",
    "final_layer_norm": "final_norm",
    "embedding_norm": "final_norm",
    "project_out": "final_proj",
    "rotary_emb": "rope",
    "lm_head": "lm_head",
    "embed_out": "lm_head",
    "pooler.dense": "pooler",
    "transform.dense": "mlm.dense",
    "transform.transform_act_fn": "mlm.act",
    "transform.LayerNorm": "mlm.norm",
    "predictions.decoder": "lm_head",
    "predictions": "lm_head",
    "predictions.dense": "mlm.decoder",
    "embed_tokens_per_layer": "embed.per_layer",  # Gemma 3n
    "per_layer_model_projection": "embed.per_layer_proj",
    "per_layer_projection_norm": "embed.per_layer_norm",
    "altup_projections.0": "embed.altup.0",
    "altup_projections.1": "embed.altup.1",
    "altup_projections.2": "embed.altup.2",
    "altup_unembed_projections.0": "final_altup.0",
    "altup_unembed_projections.1": "final_altup.1",
    "altup_unembed_projections.2": "final_altup.2",
    "head.dense": "mlm.dense",  # ModernBERT
    "head.norm": "mlm.norm",
    "vocab_transform": "mlm.dense",
    "vocab_layer_norm": "mlm.norm",
    "vocab_projector": "lm_head",
    "lm_head.dense": "mlm.dense",
    "lm_head.layer_norm": "mlm.norm",
    "lm_head.decoder": "lm_head",
}

# told by the whole path: as the end of a longer one they are something else
_HF_WHOLE = {"embeddings": "embed", "activation": "mlm.act", "output": "lm_head",  # the last in Mistral's own files
             "decoder": "lm_head"}  # fmt: skip

_HF_AROUND = {
    "input_layernorm": "attn_norm",
    "ln_1": "attn_norm",
    "self_attn_layer_norm": "attn_norm",
    "sa_layer_norm": "attn_norm",
    "layernorm1": "attn_norm",
    "layernorm2": "mlp_norm",
    "attention.output.LayerNorm": "attn_norm",
    "norm": "attn_norm",
    "norm_attn_norm.norm_1": "attn_norm",  # DBRX
    "norm_attn_norm.norm_2": "mlp_norm",
    "operator_norm": "attn_norm",
    "attention_norm": "attn_norm",
    "post_attention_layernorm": "mlp_norm",
    "pre_feedforward_layernorm": "mlp_norm",
    "pre_ff_layernorm": "mlp_norm",
    "ln_2": "mlp_norm",
    "final_layer_norm": "mlp_norm",
    "output_layer_norm": "mlp_norm",
    "output.LayerNorm": "mlp_norm",
    "ffn_norm": "mlp_norm",
    "pre_mlp_layernorm": "mlp_norm",
    "encoder_attn_layer_norm": "cross_norm",
    "mamba_decoder.input_layernorm": "ssm_norm",  # Zamba, whose shared block goes before
    "post_self_attn_layernorm": "attn_post_norm",
    "post_mlp_layernorm": "mlp_post_norm",
    "post_feedforward_layernorm": "mlp_post_norm",
    "bottleneck.input.dense": "bottleneck.in_proj",
    "bottleneck.input.LayerNorm": "bottleneck.in_norm",
    "bottleneck.attention.dense": "bottleneck.qk_proj",
    "bottleneck.attention.LayerNorm": "bottleneck.qk_norm",
    "output.bottleneck.dense": "bottleneck.out_proj",
    "output.bottleneck.LayerNorm": "bottleneck.out_norm",
}

_HF_ATTENTION = {
    "": "core",
    "sinks": "core",
    "q_proj": "q_proj",
    "query": "q_proj",
    "q_lin": "q_proj",
    "wq": "q_proj",
    "wk": "k_proj",
    "wv": "v_proj",
    "wo": "o_proj",
    "k_proj": "k_proj",
    "key": "k_proj",
    "k_lin": "k_proj",
    "v_proj": "v_proj",
    "value": "v_proj",
    "v_lin": "v_proj",
    "q": "q_proj",
    "k": "k_proj",
    "v": "v_proj",
    "o": "o_proj",
    "qkv_proj": "qkv_proj",
    "Wq": "q_proj",
    "Wk": "k_proj",
    "Wv": "v_proj",
    "Wqkv": "qkv_proj",
    "c_attn": "qkv_proj",
    "query_key_value": "qkv_proj",
    "q_a_proj": "q_a_proj",
    "q_a_layernorm": "q_a_norm",
    "q_b_proj": "q_proj",
    "kv_a_proj_with_mqa": "kv_a_proj",
    "kv_a_layernorm": "kv_a_norm",
    "kv_b_proj": "kv_b_proj",
    "q_norm": "q_norm",
    "q_layernorm": "q_norm",
    "k_norm": "k_norm",
    "k_layernorm": "k_norm",
    "o_proj": "o_proj",
    "out_proj": "o_proj",
    "out_lin": "o_proj",
    "c_proj": "o_proj",
    "dense": "o_proj",
    "output.dense": "o_proj",
}

_HF_MLP = {
    "": "act",
    "gate_proj": "gate_proj",
    "w1": "gate_proj",
    "up_proj": "up_proj",
    "w3": "up_proj",
    "v1": "up_proj",  # DBRX
    "c_fc": "up_proj",
    "fc1": "up_proj",
    "lin1": "up_proj",
    "dense_h_to_4h": "up_proj",
    "gate_up_proj": "gate_up_proj",
    "input_linear": "gate_up_proj",  # Granite
    "output_linear": "down_proj",
    "wi": "up_proj",  # T5
    "wi_0": "gate_proj",
    "wi_1": "up_proj",
    "wo": "down_proj",
    "act": "act",
    "act_fn": "act",
    "activation_fn": "act",
    "activation": "act",
    "down_proj": "down_proj",
    "w2": "down_proj",
    "c_proj": "down_proj",
    "fc2": "down_proj",
    "lin2": "down_proj",
    "dense_4h_to_h": "down_proj",
    "gate": "router",
    "router": "router",
    "router.layer": "router",
    "gate.wg": "router",  # Hunyuan
    "shared_expert_gate": "shared_expert.router",
}

_HF_BERT_MLP = {
    "intermediate.dense": "up_proj",
    "intermediate.intermediate_act_fn": "act",
    "intermediate": "act",
    "output.dense": "down_proj",
    "output.LayerNorm": "norm",
}

_HF_SSM = {
    "": "scan",
    "in_proj": "in_proj",
    "conv1d": "conv",
    "conv": "conv",  # LFM2
    "conv_1d": "conv",
    "act": "act",
    "x_proj": "x_proj",
    "dt_proj": "dt_proj",
    "dt_layernorm": "dt_norm",
    "b_layernorm": "b_norm",
    "c_layernorm": "c_norm",
    "norm": "norm",
    "out_proj": "out_proj",
    "A_log": "scan",
    "D": "scan",
    "dt_bias": "scan",
}

_HF_ATTENTION_MODULES = ("self_attn", "attention.self", "attention", "attn", "self_attention", "SelfAttention",
                         "multi_head_attention")  # fmt: skip
_GRANITE_EXPERTS = ("input_linear", "output_linear")
_HF_CROSS_MODULES = ("encoder_attn", "EncDecAttention", "cross_attn", "crossattention")
_HF_MLP_MODULES = ("mlp", "feed_forward", "block_sparse_moe", "ffn", "DenseReluDense", "mlp_block")
_HF_SSM_MODULES = ("mixer", "mamba", "linear_attn", "conv", "temporal_block")
_HF_WRAPPERS = re.compile(
    r"^(?:norm_attn_norm\.(?=attn\.)|shared_transf(?:ormer)?\.|mamba_decoder\.(?!input_layernorm)|temporal_block\.(?=self_attn))"
)
_T5_PART = re.compile(r"^layer\.(\d)\.(.+)$")  # T5's blocks are lists of two or three parts
_ENCODER_DECODERS = ("t5", "mt5", "umt5", "longt5", "switch_transformers", "bart", "mbart", "pegasus", "pegasus_x",
                     "marian", "m2m_100", "blenderbot", "led", "plbart", "bigbird_pegasus", "blenderbot-small", "mvp",
                     "prophetnet", "nllb-moe", "whisper", "t5gemma", "t5gemma2")  # fmt: skip
_ENCODER = re.compile(r"(?:^|\.)encoder\.")


def canonical_hf(module_path: str, architecture: str = "") -> str | None:
    """Canonical name of a transformers module or parameter; None for one outside the blocks that is not known.

    One in a block that no table has keeps its own name behind the part that it is in (`blocks.3.ssm.in_proj_z`).

    module_path: as in `named_modules()` or `named_parameters()` (`model.layers.7.self_attn.q_proj`).
    architecture: the model_type, needed only where families use one path for two things
    (Gemma's `post_attention_layernorm`).
    """
    path = re.sub(r"(?:\.base_layer)?\.(weight|bias)$", "", module_path)
    if "vision" in path or "multi_modal" in path:
        return None
    side = "encoder." if architecture in _ENCODER_DECODERS and _ENCODER.search(path) else ""
    match = _HF_T5_BLOCK.search(path) or _HF_BLOCK.search(path)
    if match is None:
        outside = _hf_outside(path)
        return outside and side + outside
    inner = match.group(2) or ""
    rest = "mlp_norm" if side and inner == "layer.1.layer_norm" else _hf_block(inner, architecture)
    return None if rest is None else f"{side}blocks.{match.group(1)}.{rest}"


def named_hf(module_path: str, architecture: str = "") -> str:
    """The canonical name; for what no table has its own, without that of the model that all are in."""
    own = re.sub(r"^(?:model|transformer|language_model)\.|\.(?:weight|bias)$", "", module_path)
    return canonical_hf(module_path, architecture) or own


def _hf_outside(path: str) -> str | None:
    if path in _HF_WHOLE:
        return _HF_WHOLE[path]
    parts = path.split(".")
    return _HF_OUTSIDE.get(".".join(parts[-2:])) or _HF_OUTSIDE.get(parts[-1])


def _hf_block(rest: str, architecture: str) -> str | None:
    if rest == "post_attention_layernorm" and architecture in _OUTPUT_NORMS:
        return "attn_post_norm"
    rest = _HF_WRAPPERS.sub("", rest)
    if part := _T5_PART.match(rest):
        return _hf_t5(int(part.group(1)), part.group(2))
    if rest in _HF_AROUND:
        return _HF_AROUND[rest]
    if match := _HF_FFN.match(rest):
        leaf = _HF_BERT_MLP.get(match.group(2))
        return f"mlp.{match.group(1)}.{leaf}" if leaf else None
    if rest in _HF_BERT_MLP:
        return f"mlp.{_HF_BERT_MLP[rest]}"
    if rest in ("fc1", "fc2", "activation_fn"):  # OPT has no MLP module
        return f"mlp.{_HF_MLP[rest]}"
    for modules, table, prefix in (
        (_HF_ATTENTION_MODULES, _HF_ATTENTION, "attn"),
        (_HF_CROSS_MODULES, _HF_ATTENTION, "cross"),
        (_HF_SSM_MODULES, _HF_SSM, "ssm"),
    ):
        for module in modules:
            if not within(rest, module):
                continue
            inner = rest[len(module) + 1 :]
            if leaf := table.get(inner):
                return f"{prefix}.{leaf}"
            return (_hf_mixer(inner) if module == "mixer" else None) or f"{prefix}.{inner}"
    for module in _HF_MLP_MODULES:
        if within(rest, module):
            inner = rest[len(module) + 1 :]
            return _hf_mlp(inner, moe=module == "block_sparse_moe") or f"mlp.{inner}"
    if within(rest, "shared_mlp"):  # Granite's, beside its experts or alone
        return f"mlp.shared_expert.{_HF_MLP.get(rest[len('shared_mlp') + 1 :], rest[len('shared_mlp') + 1 :])}"
    return rest or None


def _hf_mixer(inner: str) -> str | None:
    """Nemotron-H calls a block's part a mixer, whatever it is."""
    if inner.partition(".")[0] in ("q_proj", "k_proj", "v_proj", "o_proj"):
        return f"attn.{_HF_ATTENTION[inner]}" if inner in _HF_ATTENTION else None
    if inner.startswith(("fc1_latent", "fc2_latent")):
        return f"mlp.{inner}"
    return _hf_mlp(inner, moe=False) if inner not in ("act", "act_fn", "") else None


def _hf_t5(part: int, rest: str) -> str | None:
    head, _, inner = rest.partition(".")
    if head in ("SelfAttention", "EncDecAttention"):
        prefix = "attn" if head == "SelfAttention" else "cross"
        return f"{prefix}.{_HF_ATTENTION.get(inner, inner)}"
    if head == "DenseReluDense":
        return f"mlp.{_HF_MLP.get(inner, inner)}"
    if rest == "layer_norm":  # of the part: 0 attention, then the encoder's answer in a decoder, then the MLP
        return ("attn_norm", "cross_norm", "mlp_norm")[part] if part < 3 else None
    return _hf_mlp(inner, moe=False) if head == "mlp" else rest


def _hf_mlp(rest: str, moe: bool) -> str | None:
    if rest == "" and moe:
        return "mlp.router"
    if rest in _HF_MLP and not (moe and rest in _GRANITE_EXPERTS):
        return f"mlp.{_HF_MLP[rest]}"
    if rest == "experts":
        return "mlp.experts"
    if rest.startswith("act_fn."):  # Apertus, whose activation is trained
        return "mlp.act"
    if rest in ("gate.e_score_correction_bias", "router.gate", "expert_bias"):
        return "mlp.router"
    if moe and rest in _GRANITE_EXPERTS:  # as its files name them
        return f"mlp.experts.{_HF_MLP[rest]}"
    if match := _HF_EXPERT.match(rest):
        leaf = _HF_MLP.get(match.group(1))
        return f"mlp.experts.{leaf}" if leaf else None
    for module in ("shared_experts", "shared_expert", "shared_mlp"):
        if within(rest, module):
            leaf = _HF_MLP.get(rest[len(module) + 1 :])
            return f"mlp.shared_expert.{leaf}" if leaf else None
    return None


# scales of activations and of the cache, which change no weight
OF_ACTIVATIONS = re.compile(
    r"(\.((input|output)_(scale|scale_ub|global_scale|zero_point)|activation_scale|[kvq]_scale|prob_output_scale)"
    r"|_proj_(input|activation)_scale)$"
)

_HF_STEMS = ("model", "model.language_model", "language_model.model", "transformer", "backbone")


def hf_paths(name: str, mlx: bool) -> tuple[str, ...]:
    """Paths that transformers gives to the module of this canonical name in one family or another, for patterns over
    module names: the way back from `canonical_hf`. mlx: those that MLX gives, whose experts have a name of their own.
    """
    match = _BLOCK_NAME.match(name)
    if match is None:
        leaves = [leaf for leaf, ours in {**_HF_OUTSIDE, **_HF_WHOLE}.items() if ours == name]
        stems = (*_HF_STEMS, "language_model")
        return tuple(dict.fromkeys(f"{stem}{leaf}" for leaf in leaves for stem in ("", *(f"{s}." for s in stems))))
    part, _, leaf = name[match.end() :].partition(".")
    return tuple(
        f"{stem}.layers.{match.group(1)}.{path}" for path in _hf_parts(part, leaf, mlx) for stem in _HF_STEMS
    ) or (name,)


def _hf_parts(part: str, leaf: str, mlx: bool) -> list[str]:
    modules, table = {
        "attn": ((*_HF_ATTENTION_MODULES, "mixer"), _HF_ATTENTION),  # a mixer is any of them in Nemotron-H
        "ssm": (_HF_SSM_MODULES, _HF_SSM),
        "mlp": ((*_HF_MLP_MODULES, "mixer"), _HF_MLP),
    }.get(part, ((), {}))
    group, _, last = leaf.rpartition(".")
    experts = ("experts.0.", "experts.", *(("switch_mlp.",) if mlx else ()))
    between = {"experts": experts, "shared_expert": ("shared_experts.", f"{group}.")}
    leaves = [theirs for theirs, ours in table.items() if theirs and ours == last] or [leaf]
    return [f"{module}.{inner}{leaf}" for module in modules for inner in between.get(group, ("",)) for leaf in leaves]


# ---------------------------------------------------------------- GGUF files and llama.cpp graphs

_GGUF_OUTSIDE = {
    "token_embd": "embed",
    "position_embd": "embed.position",
    "token_types": "embed.token_type",
    "token_embd_norm": "embed.norm",
    "output_norm": "final_norm",
    "output": "lm_head",
    "rope_freqs": "rope",
    "rope_factors_long": "rope",
    "rope_factors_short": "rope",
    "per_layer_token_embd": "embed.per_layer",
    "per_layer_model_proj": "embed.per_layer_proj",
    "per_layer_proj_norm": "embed.per_layer_norm",
    # graph nodes
    "embd": "embed",
    "inp_embd": "embed",
    "inp_scaled": "embed.scale",
    "inp_embd_scaled": "embed.scale",
    "pos_embd": "embed.position",
    "inp_norm": "embed.norm",
    "inpL": "embed.sum",
    "result_norm": "final_norm",
    "result_output": "lm_head",
    "result_output_no_bias": "lm_head",
}

_GGUF_BLOCK = {
    # tensors of a file
    "attn_norm": "attn_norm",
    "attn_o": "attn.o_proj",  # T5
    "cross_attn_q": "cross.q_proj",
    "cross_attn_k": "cross.k_proj",
    "cross_attn_v": "cross.v_proj",
    "cross_attn_o": "cross.o_proj",
    "cross_attn_norm": "cross_norm",
    "attn_sinks": "attn.core",
    "attn_q": "attn.q_proj",
    "attn_k": "attn.k_proj",
    "attn_v": "attn.v_proj",
    "attn_qkv": "attn.qkv_proj",
    "attn_q_norm": "attn.q_norm",
    "attn_k_norm": "attn.k_norm",
    "attn_q_a": "attn.q_a_proj",
    "attn_q_a_norm": "attn.q_a_norm",
    "attn_q_b": "attn.q_proj",
    "attn_kv_a_mqa": "attn.kv_a_proj",
    "attn_kv_a_norm": "attn.kv_a_norm",
    "attn_kv_b": "attn.kv_b_proj",
    "attn_k_b": "attn.kv_b_proj",
    "attn_v_b": "attn.kv_b_proj",
    "attn_output": "attn.o_proj",
    "attn_output_norm": "attn_norm",  # BERT: after the residual sum
    "layer_output_norm": "mlp_norm",
    "post_attention_norm": "attn_post_norm",
    "ffn_norm": "mlp_norm",
    "post_ffw_norm": "mlp_post_norm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "ffn_gate_inp": "mlp.router",
    "exp_probs_b": "mlp.router",
    "ffn_gate_exps": "mlp.experts.gate_proj",
    "ffn_up_exps": "mlp.experts.up_proj",
    "ffn_down_exps": "mlp.experts.down_proj",
    "ffn_gate_up_exps": "mlp.experts.gate_up_proj",
    "ffn_gate_inp_shexp": "mlp.shared_expert.router",
    "ffn_gate_shexp": "mlp.shared_expert.gate_proj",
    "ffn_up_shexp": "mlp.shared_expert.up_proj",
    "ffn_down_shexp": "mlp.shared_expert.down_proj",
    "ssm_in": "ssm.in_proj",
    "ssm_conv1d": "ssm.conv",
    "ssm_x": "ssm.x_proj",
    "ssm_dt": "ssm.dt_proj",
    "ssm_a": "ssm.scan",
    "ssm_d": "ssm.scan",
    "ssm_norm": "ssm.norm",
    "ssm_dt_norm": "ssm.dt_norm",
    "ssm_b_norm": "ssm.b_norm",
    "ssm_c_norm": "ssm.c_norm",
    "ssm_out": "ssm.out_proj",
    "shortconv.conv": "ssm.conv",
    "shortconv.in_proj": "ssm.in_proj",
    "shortconv.out_proj": "ssm.out_proj",
    # graph nodes (llama.cpp's build_* functions)
    "Qcur": "attn.q_proj",
    "Kcur": "attn.k_proj",
    "Vcur": "attn.v_proj",
    "wqkv": "attn.qkv_proj",
    "wqkv_b": "attn.qkv_proj",
    "bqkv": "attn.qkv_proj",
    "Qcur_norm": "attn.q_norm",
    "Qcur_normed": "attn.q_norm",
    "Kcur_norm": "attn.k_norm",
    "Kcur_normed": "attn.k_norm",
    "Qcur_rope": "attn.rope",
    "Kcur_rope": "attn.rope",
    "Qcur_scaled": "attn.q_proj",
    "kq": "attn.core",
    "kq_scaled": "attn.core",
    "kq_tanh": "attn.core",
    "kq_soft_max": "attn.core",
    "kq_soft_max_ext": "attn.core",
    "kqv": "attn.core",
    "kqv_merged": "attn.core",
    "kqv_merged_cont": "attn.core",
    "kqv_out": "attn.core",
    "fattn": "attn.core",
    "__fattn__": "attn.core",
    "attn_out": "attn.o_proj",
    "kqv_wo": "attn.o_proj",
    "q": "attn.q_proj",
    "q_pe": "attn.rope",
    "k_pe": "attn.rope",
    "kv_cmpr_pe": "attn.kv_a_proj",
    "kv_cmpr": "attn.kv_a_norm",
    "kv": "attn.kv_b_proj",
    "q_nope_absorbed": "attn.kv_b_proj",
    "sa_out": "attn.residual",
    "ffn_inp": "attn.residual",
    "attn_post_norm": "attn_post_norm",
    "ffn_post_norm": "mlp_post_norm",
    "ffn_out": "mlp.down_proj",
    "l_out": "mlp.residual",
    "ffn_moe_down": "mlp.experts.down_proj",
    "ffn_moe_gate": "mlp.experts.gate_proj",
    "ffn_moe_up": "mlp.experts.up_proj",
    "ffn_moe_gate_up": "mlp.experts.gate_proj",
    "ffn_moe_weighted": "mlp.experts.combine",
    "ffn_moe_out": "mlp.experts.combine",
    "ffn_moe_out_merged": "mlp.experts.combine",
    "ffn_final_moe_out": "mlp.experts.combine",
    "ffn_shexp": "mlp.shared_expert.down_proj",
    "shared_expert_gate": "mlp.shared_expert.router",
    "mamba_in_proj": "ssm.in_proj",
    "mamba_conv1d": "ssm.conv",
    "mamba_conv1d_silu": "ssm.act",
    "mamba_bcdt_proj": "ssm.x_proj",
    "mamba_dt_proj": "ssm.dt_proj",
    "mamba_ssm_scan": "ssm.scan",
    "mamba_y_add_d": "ssm.scan",
    "mamba2_y_add_d": "ssm.scan",
    "mamba_y_swiglu_z": "ssm.gate",
    "mamba_out_proj": "ssm.out_proj",
    "mamba_out": "ssm.out_proj",
}

_GGUF_ACTIVATION = re.compile(r"^ffn_(moe_)?(act|silu|gelu|relu|sqr\(relu\)|swiglu|geglu|reglu|gate_par|xielu)(_\w+)?$")
_GGUF_ROUTING = re.compile(r"^ffn_moe_(logits|probs|topk|group_topk|argsort|weights)")
_GGUF_TENSOR = re.compile(r"^blk\.(\d+)\.([\w.]+?)(?:\.(?:weight|bias))?$")
_GGUF_SIDE = re.compile(r"^(enc|dec)\.(.+)$")
_GGUF_PARTS = (("cross_attn_", "cross."), ("attn_", "attn."), ("ffn_", "mlp."), ("ssm_", "ssm."), ("time_mix_", "ssm."),
               ("channel_mix_", "mlp."))  # fmt: skip
_GGUF_CACHE = re.compile(r"^cache_([krvs])_l(\d+)")
_GGUF_NODE = re.compile(r"^(.+)-(\d+)$")


def _gguf_own(base: str) -> str:
    """A tensor that no table has keeps its own name behind the part that it is in."""
    found = next((part + base[len(start) :] for start, part in _GGUF_PARTS if base.startswith(start)), base)
    return found.replace("ssm.conv1d_", "ssm.conv_")


_NORM_OF_THE_TABLE = ("lfm2", "lfm2moe")  # families that call their last norm so


def canonical_gguf(name: str, architecture: str = "") -> str | None:
    """Canonical name of a GGUF tensor (`blk.7.attn_q.weight`) or a ggml graph node (`Qcur-7`).

    architecture: general.architecture, needed only where families use one name for two things.

    None for an unknown name, and for the two that say nothing by themselves: `norm-7` (the part of
    either norm before its weight) and `node_21`. Both belong to the node that they feed.
    """
    name = re.sub(r"( \([^)]*\))+$", "", name)  # "cache_k_l0 (view) (permuted)"
    if architecture == "t5encoder":  # which is all that there is
        name = name.removeprefix("enc.")
    if match := _GGUF_SIDE.match(name):  # of an encoder-decoder
        found = canonical_gguf(match[2])
        return f"encoder.{found}" if found and match[1] == "enc" else found
    if match := _GGUF_TENSOR.match(name):
        index, base = match.groups()
        return f"blocks.{index}.{_GGUF_BLOCK.get(base) or _gguf_own(base)}"
    if match := _GGUF_CACHE.match(name):
        index = match.group(2)
        return f"blocks.{index}." + ("attn.core" if match.group(1) in "kv" else "ssm.scan")
    if match := _GGUF_NODE.match(name):
        base, index = match.groups()
    else:
        outside = re.sub(r"\.(weight|bias)$", "", name)
        last = outside == "token_embd_norm" and architecture in _NORM_OF_THE_TABLE
        return "final_norm" if last else _GGUF_OUTSIDE.get(outside)
    if match := _GGUF_ACTIVATION.match(base):
        return f"blocks.{index}.mlp.experts.act" if match.group(1) else f"blocks.{index}.mlp.act"
    if _GGUF_ROUTING.match(base):
        return f"blocks.{index}.mlp.router"
    rest = _GGUF_BLOCK.get(base)
    return None if rest is None else f"blocks.{index}.{rest}"
