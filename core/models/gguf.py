"""A GGUF file's header as a configuration, and its tensors as layers with types and exact bytes.

Knows llama.cpp's metadata keys (gguf-py/gguf/constants.py). The format itself is gguf_file's.
"""

from __future__ import annotations

import re
from typing import Any

from core.dtypes import canonical_dtype
from core.layer_names import canonical_gguf
from core.models.architectures import model_types
from core.models.gguf_file import GgufFile
from core.models.tensors import Tensor
from hardware.errors import ExplorerError

_MAX_BLOCKS = 10_000
_MOST_OF_A_NAME = 200  # characters of it that are shown

Shapes = dict[str, tuple[int, ...]]

# general.architecture -> model_type; those that are not listed have the same name in both
_MODEL_TYPES = {
    "gptneox": "gpt_neox",
    "phi2": "phi",
    "qwen2moe": "qwen2_moe",
    "qwen3moe": "qwen3_moe",
    "granitemoe": "granitemoe",
    "gemma3": "gemma3_text",
    "deepseek2": "deepseek_v2",
    "gpt-oss": "gpt_oss",
}

# what other programs call an architecture of llama.cpp's: Ollama, which runs such files itself
_OTHER_NAMES = {"gptoss": "gpt-oss"}

# metadata key after the architecture -> field of config.json
_FIELDS = {
    "block_count": "num_hidden_layers",
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "attention.sliding_window": "sliding_window",
    "expert_count": "num_experts",
    "expert_used_count": "num_experts_per_tok",
    "expert_feed_forward_length": "moe_intermediate_size",
    "expert_shared_feed_forward_length": "shared_expert_intermediate_size",
    "expert_shared_count": "n_shared_experts",
    "leading_dense_block_count": "first_k_dense_replace",
    "attention.q_lora_rank": "q_lora_rank",
    "attention.kv_lora_rank": "kv_lora_rank",
    "rope.dimension_count": "rope_dimension_count",
    "ssm.conv_kernel": "conv_kernel",
    "ssm.inner_size": "intermediate_size",
    "ssm.state_size": "state_size",
    "ssm.time_step_rank": "time_step_rank",
    "ssm.group_count": "n_groups",
}


# of these a file may have a value for each block
_PER_BLOCK = ("feed_forward_length", "attention.head_count", "attention.head_count_kv", "attention.sliding_window")

# what the functions below read besides
_ALSO = (
    "expert_group_count",
    "expert_group_used_count",
    "attention.key_length_mla",
    "attention.value_length",
    "attention.value_length_mla",
    "nextn_predict_layers",
)

# whose heads llama.cpp rotates as a whole, and ends itself where a file says otherwise (GGML_ASSERT in its graphs)
_ROTATES_WHOLE = frozenset(
    (
        "apertus", "arcee", "arctic", "baichuan", "chameleon", "codeshell", "cogvlm", "cohere2moe", "dbrx", "deci",
        "deepseek", "dots1", "dream", "ernie4_5", "ernie4_5-moe", "exaone", "exaone-moe", "exaone4", "falcon",
        "granite", "granite_swa", "granitemoe", "graniteswitch", "grok", "grovemoe", "hunyuan-dense", "hunyuan-moe",
        "hunyuan_vl", "hy_v3", "internlm2", "jais2", "llada", "llada-moe", "llama", "llama-embed", "llama4",
        "maincoder", "mellum", "minicpm", "mistral3", "olmo", "olmo2", "olmoe", "orion", "paddleocr",
        "pangu-embedded", "plamo", "pockettts", "qwen2", "qwen2moe", "qwen2vl", "qwen3", "qwen3moe", "qwen3tts",
        "qwen3vl", "qwen3vlmoe", "rnd1", "seed_oss", "smallthinker", "smollm3", "starcoder2", "talkie", "xverse",
    )
)  # fmt: skip
_NOT_RUN = "llama.cpp cannot run it: choose another conversion of the model."

_BLOCK = re.compile(r"^blk\.(\d+)\.")

# beginnings of names -> what the tensors are for; no text token touches them
_ASIDE = {"v.": "vision", "mm.a.": "audio", "mm.": "vision", "a.": "audio"}


def gguf_config(file: GgufFile) -> tuple[dict[str, Any], str]:
    """The metadata as config.json would say it, and the model's name on one line ("" where the file has none)."""
    architecture = _OTHER_NAMES.get(file.architecture, file.architecture)
    values = gguf_values(file)
    config: dict[str, Any] = {"model_type": _MODEL_TYPES.get(architecture, architecture)}
    config.update({name: values[key] for key, name in _FIELDS.items() if key in values})
    shapes = {t.name: t.shape for t in file.tensors}
    if "token_embd.weight" in shapes:
        config["vocab_size"] = rows = shapes["token_embd.weight"][0]
        if (tokens := file.metadata.get("tokenizer.ggml.tokens")) and len(tokens) != rows:
            raise _contradiction(file, f"{len(tokens):,} tokens", f"has a table of {rows:,}")
    _heads(config)
    _check_rotation(file, values)
    config["tie_word_embeddings"] = "output.weight" not in shapes
    config["attention_bias"] = "blk.0.attn_q.bias" in shapes or "blk.0.attn_qkv.bias" in shapes
    config["fused_qkv"] = "blk.0.attn_qkv.weight" in shapes  # of phi and bert, which transformers keeps apart
    config["mlp_bias"] = "blk.0.ffn_up.bias" in shapes
    _windows(config, values, architecture)
    _check_windows(file, config)
    refine = _REFINE.get(architecture)
    if refine:
        refine(config, shapes, values)
    return config, " ".join(str(file.metadata.get("general.name", "")).split())[:_MOST_OF_A_NAME]


def gguf_tensors(file: GgufFile) -> list[Tensor]:
    """Every tensor with its layer, type and exact bytes, and what it is for where no text token touches it."""
    values = gguf_values(file)
    first_extra = values.get("block_count") if values.get("nextn_predict_layers") else None
    return [
        Tensor(
            layer=canonical_gguf(t.name, file.architecture) or t.name,
            dtype=canonical_dtype(t.type_name),
            n_elements=t.n_elements,
            n_bytes=t.n_bytes,
            aside=_aside(t.name, first_extra),
        )
        for t in file.tensors
    ]


def _aside(name: str, first_extra: int | None) -> str:
    match = _BLOCK.match(name)
    if match:
        return "mtp" if first_extra and int(match[1]) >= first_extra else ""
    return next((what for start, what in _ASIDE.items() if name.startswith(start)), "")


def gguf_values(file: GgufFile) -> dict[str, Any]:
    """The architecture's own entries, without its name before them. Raises ExplorerError, one sentence per fault.

    A list of equal values is one value. Blocks that foretell several tokens (MTP), the last ones of the file, are
    not counted.
    """
    start = f"{file.architecture}."
    if not any(key.startswith(start) for key in file.metadata):
        raise ExplorerError(
            f"{file.paths[0].name} has no entries of its architecture, which it calls '{file.architecture[:40]}'.",
            "Choose another conversion of the model.",
        )
    values = {k.removeprefix(start): _one(v) for k, v in file.metadata.items() if k.startswith(start)}
    for key in (*_FIELDS, *_ALSO):
        if isinstance(values.get(key), list) and key not in _PER_BLOCK:
            raise _contradiction(file, f"'{start}{key}' as a list", "has one value for the whole model")
    n_blocks = values.get("block_count")
    if not isinstance(n_blocks, int):
        return values
    numbers = [int(match[1]) for t in file.tensors if (match := _BLOCK.match(t.name))]
    if numbers and n_blocks != 1 + max(numbers):
        raise _contradiction(file, f"{n_blocks:,} blocks", f"holds the tensors of {1 + max(numbers):,}")
    for key in (*_PER_BLOCK, _PATTERN):
        listed = values.get(key)
        if isinstance(listed, list) and len(listed) != n_blocks:
            raise _contradiction(
                file, f"'{start}{key}' of {len(listed):,} blocks", f"has {n_blocks:,} by its 'block_count'"
            )
    n_experts, n_used = values.get("expert_count", 0), values.get("expert_used_count", 0)
    if isinstance(n_used, int) and not min(n_experts, 1) <= n_used <= n_experts:
        raise _contradiction(file, f"that a token uses {n_used:,} experts", f"that there are {n_experts:,}")
    _check_groups(file, values)
    extra = values.get("nextn_predict_layers") or 0
    if extra and extra >= n_blocks:
        raise _contradiction(
            file, f"that {extra:,} of its blocks foretell further tokens", f"has {n_blocks:,} by its 'block_count'"
        )
    if extra:
        values["block_count"] = n_blocks - extra
        values.update(
            {k: v[:-extra] for k, v in values.items() if k in (*_PER_BLOCK, _PATTERN) and isinstance(v, list)}
        )
    return values


def _check_groups(file: GgufFile, values: dict[str, Any]) -> None:
    """Raises ExplorerError for experts that are not in as many equal groups as the file says."""
    n_experts, n, n_used = (values.get(f"expert_{key}", 0) for key in ("count", "group_count", "group_used_count"))
    if n and (n >= n_experts or n_experts % n):
        raise _contradiction(file, f"an 'expert_group_count' of {n:,}", f"has {n_experts:,} experts", _NOT_RUN)
    if n > 1 and not 0 < n_used < n:
        raise _contradiction(
            file, f"that a token chooses {n_used:,} of {n:,} groups of experts", "that is no choice", _NOT_RUN
        )


def _check_rotation(file: GgufFile, values: dict[str, Any]) -> None:
    """Raises ExplorerError for heads of which llama.cpp does not rotate so many numbers."""
    key = "rope.dimension_count"
    rotated, heads = values.get(key), values.get("attention.head_count")
    first = heads[0] if isinstance(heads, list) and heads else heads
    width = values.get("attention.key_length", values.get("embedding_length", 0) // (first or 1))
    if rotated is None or not first or not width:
        return
    whole = file.architecture in _ROTATES_WHOLE
    if rotated != width if whole else rotated > width or rotated % 2:
        how = f"which {file.architecture} rotates as a whole" if whole else "which rotate in pairs"
        says = f"that a head rotates {rotated:,} numbers ('{file.architecture}.{key}')"
        raise _contradiction(file, says, f"a head has {width:,}, {how}", _NOT_RUN)


def _check_windows(file: GgufFile, config: dict[str, Any]) -> None:
    """Raises ExplorerError for a window that none of a family's blocks sees: llama.cpp takes it that one does."""
    kinds = config.get("layer_types")
    if file.architecture in _WINDOWED and kinds and "sliding_attention" not in kinds:
        says = f"that blocks see a window of {config['sliding_window']:,} tokens"
        raise _contradiction(file, says, "that none of them does", _NOT_RUN)


def _contradiction(
    file: GgufFile, says: str, but: str, hint: str = "Download or copy the file again."
) -> ExplorerError:
    return ExplorerError(f"{file.paths[0].name} says {says}, but {but}.", hint)


def _one(value: Any) -> Any:
    """A list of equal values as that value; all else as it is."""
    return value[0] if isinstance(value, list) and value and all(v == value[0] for v in value) else value


def _heads(config: dict[str, Any]) -> None:
    """What llama.cpp takes for granted where a file is silent, whatever transformers does."""
    heads, width = config.get("num_attention_heads"), config.get("hidden_size")
    if heads:
        config.setdefault("num_key_value_heads", heads)
    if isinstance(heads, int) and heads and isinstance(width, int):
        config.setdefault("head_dim", width // heads)


_PATTERN = "attention.sliding_window_pattern"


# llama.cpp's own periods, for files with a window and no pattern: the last block of each sees all, or the first
_PERIODS = {
    **dict.fromkeys(("gemma2", "gpt-oss"), 2),
    **dict.fromkeys(("afmoe", "cohere2", "exaone-moe", "exaone4", "llama4", "mellum", "muse-glimmer", "olmo2"), 4),
    **{"gemma3n": 5, "gemma3": 6, "gemma-embedding": 6, "plamo3": 8},
}
_PERIODS_FROM_THE_FIRST = {"modern-bert": 3, "cohere2moe": 4, "laguna": 4, "smallthinker": 4}
# and those that list in every file which blocks see a window
_WINDOWED = frozenset(
    (*_PERIODS, *_PERIODS_FROM_THE_FIRST, "dots3note", "gemma4", "granite_swa", "maple", "mimo2", "spark2_5", "step35")
)
_WINDOWED_EXAONE_4 = 64  # blocks of the one EXAONE 4 that llama.cpp sees windows in
_SEEN = {"exaone4": 4096, "gemma2": 4096, "llama4": 8192}  # tokens that a block sees where no key says it


def _windows(config: dict[str, Any], values: dict[str, Any], architecture: str) -> None:
    """Which blocks see a window only: a list, a period of which the last block sees all, or a window per block."""
    window, pattern, n = config.get("sliding_window"), values.get(_PATTERN), config.get("num_hidden_layers")
    if window is None and (window := _SEEN.get(architecture)):
        config["sliding_window"] = window
    if architecture == "exaone4" and n != _WINDOWED_EXAONE_4:
        window = None  # whatever the file says
    if not isinstance(n, int) or not window or not 0 < n <= _MAX_BLOCKS:
        config.pop("sliding_window", None)
        return
    first = _PERIODS_FROM_THE_FIRST.get(architecture)
    if pattern is None:
        pattern = first or _PERIODS.get(architecture)
    if isinstance(window, list):
        local = [w > 0 for w in window]
        config["sliding_window"] = max(window)
    elif isinstance(pattern, list):
        local = [bool(p) for p in pattern]
    elif isinstance(pattern, bool):
        local = [pattern] * n
    elif isinstance(pattern, int) and pattern >= 0:
        last = 0 if first else pattern - 1
        local = [not pattern or i % pattern != last for i in range(n)]
    else:
        if config["model_type"] in model_types():  # llama.cpp lets all blocks of these see all
            config.pop("sliding_window")
        return
    config["layer_types"] = ["sliding_attention" if one else "full_attention" for one in local]


# ---------------------------------------------------------------- what the metadata leave to be inferred


def _llama(config: dict[str, Any], shapes: Shapes, values: dict[str, Any]) -> None:
    if config.get("num_experts"):
        config["model_type"] = "mixtral"
        config["num_local_experts"] = config["num_experts"]


def _granitemoe(config: dict[str, Any], shapes: Shapes, values: dict[str, Any]) -> None:
    config["num_local_experts"] = config.get("num_experts")


def _gpt_oss(config: dict[str, Any], shapes: Shapes, values: dict[str, Any]) -> None:
    config["num_local_experts"] = config.get("num_experts")
    config["intermediate_size"] = config.get("moe_intermediate_size", config.get("intermediate_size"))


def _starcoder2(config: dict[str, Any], shapes: Shapes, values: dict[str, Any]) -> None:
    config["use_bias"] = config["mlp_bias"]


def _gpt2(config: dict[str, Any], shapes: Shapes, values: dict[str, Any]) -> None:
    short = {
        "num_hidden_layers": "n_layer",
        "max_position_embeddings": "n_positions",
        "hidden_size": "n_embd",
        "intermediate_size": "n_inner",
        "num_attention_heads": "n_head",
    }
    config.update({short[key]: value for key, value in list(config.items()) if key in short})


def _partial_rotation(config: dict[str, Any], shapes: Shapes, values: dict[str, Any]) -> None:
    rotated, heads, width = (config.get(k) for k in ("rope_dimension_count", "num_attention_heads", "hidden_size"))
    if rotated and isinstance(heads, int) and width:
        config["partial_rotary_factor"] = rotated * heads / width


def _bert(config: dict[str, Any], shapes: Shapes, values: dict[str, Any]) -> None:
    config["architectures"] = ["BertEncoder"]
    config["type_vocab_size"] = shapes.get("token_types.weight", (0,))[0]
    if "position_embd.weight" in shapes:
        config["max_position_embeddings"] = shapes["position_embd.weight"][0]


def _deepseek2(config: dict[str, Any], shapes: Shapes, values: dict[str, Any]) -> None:
    rope = values.get("rope.dimension_count", 64)
    # files made for absorbed attention describe the latent in key_length and the heads in key_length_mla
    key = values.get("attention.key_length_mla", values.get("attention.key_length", 192))
    value = values.get("attention.value_length_mla", values.get("attention.value_length", 128))
    config.update(qk_rope_head_dim=rope, qk_nope_head_dim=key - rope, v_head_dim=value)
    config["keeps_heads"] = "attention.key_length_mla" not in values  # llama.cpp keeps keys and values of all heads
    config["n_routed_experts"] = config.get("num_experts")
    config.setdefault("q_lora_rank", None)
    config.pop("head_dim", None)


def _mamba(config: dict[str, Any], shapes: Shapes, values: dict[str, Any]) -> None:
    inner = values.get("ssm.inner_size", 0)
    config["expand"] = inner / (config.get("hidden_size") or 1)
    heads = config.get("time_step_rank")
    if config["model_type"] == "mamba2" and heads:
        config.update(num_heads=heads, head_dim=inner // heads)


def _olmo2(config: dict[str, Any], shapes: Shapes, values: dict[str, Any]) -> None:
    if config.get("sliding_window"):  # llama.cpp has one name for both
        config["model_type"] = "olmo3"


def _jamba(config: dict[str, Any], shapes: Shapes, values: dict[str, Any]) -> None:
    blocks = range(min(config.get("num_hidden_layers") or 0, _MAX_BLOCKS))
    config.update(
        intermediate_size=values.get("feed_forward_length"),
        layers_block_type=["mamba" if f"blk.{i}.ssm_in.weight" in shapes else "attention" for i in blocks],
        mlp_layer_types=["sparse" if f"blk.{i}.ffn_gate_inp.weight" in shapes else "dense" for i in blocks],
        num_experts=config.get("num_experts") or 1,
        mamba_expand=values.get("ssm.inner_size", 0) / (config.get("hidden_size") or 1),
        mamba_d_state=values.get("ssm.state_size"),
        mamba_d_conv=values.get("ssm.conv_kernel"),
        mamba_dt_rank=values.get("ssm.time_step_rank"),
        mamba_conv_bias=any(name.endswith("ssm_conv1d.bias") for name in shapes),
    )


_REFINE = {
    "llama": _llama,
    "granitemoe": _granitemoe,
    "gpt-oss": _gpt_oss,
    "starcoder2": _starcoder2,
    "gpt2": _gpt2,
    "gptneox": _partial_rotation,
    "phi2": _partial_rotation,
    "bert": _bert,
    "deepseek2": _deepseek2,
    "mamba": _mamba,
    "mamba2": _mamba,
    "olmo2": _olmo2,
    "jamba": _jamba,
}
