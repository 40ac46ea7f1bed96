"""The tiny llama as a GGUF file in F32, with its byte-level tokenizer."""

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tests.support.tiny import hf_folder

OUTSIDE = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
INSIDE = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
NORMAL, CONTROL, UNUSED = 1, 3, 5  # gguf.TokenType
TOLERANCE = 0.01  # the KV cache and flash attention work in fp16


def make(folder: Path) -> tuple[str, str]:
    path = folder / "tiny-llama.gguf"
    if not path.exists():
        write(hf_folder(folder), path)
    return str(path), "gguf"


def write(source: Path, path: Path) -> None:
    import gguf
    from safetensors.numpy import load_file

    config = json.loads((source / "config.json").read_text())
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_dimension_count(config["hidden_size"] // config["num_attention_heads"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_vocab_size(config["vocab_size"])
    add_tokenizer(writer, source, config["vocab_size"])
    for name, values in load_file(source / "model.safetensors").items():
        module = name.removesuffix(".weight")
        if module in OUTSIDE:
            writer.add_tensor(f"{OUTSIDE[module]}.weight", values)
            continue
        _, _, index, part = module.split(".", 3)
        n_heads = heads.get(part.rpartition(".")[2])
        writer.add_tensor(f"blk.{index}.{INSIDE[part]}.weight", _interleaved(values, n_heads) if n_heads else values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _interleaved(weight: NDArray[np.float32], n_heads: int) -> NDArray[np.float32]:
    """transformers rotates the halves of a head, llama.cpp's llama rotates neighbours."""
    halves = weight.reshape(n_heads, 2, -1, weight.shape[1])
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(weight.shape))


def add_tokenizer(writer, source: Path, size: int) -> None:  # type: ignore[no-untyped-def]
    tokenizer = json.loads((source / "tokenizer.json").read_text())
    tokens = [f"[unused{i}]" for i in range(size)]
    kinds = [UNUSED] * size
    for text, i in tokenizer["model"]["vocab"].items():
        tokens[i], kinds[i] = text, NORMAL
    for token in tokenizer["added_tokens"]:
        tokens[token["id"]], kinds[token["id"]] = token["content"], CONTROL
    settings = json.loads((source / "tokenizer_config.json").read_text())
    template = source / "chat_template.jinja"
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges([" ".join(pair) for pair in tokenizer["model"]["merges"]])
    writer.add_bos_token_id(tokens.index(settings["bos_token"]))
    writer.add_eos_token_id(tokens.index(settings["eos_token"]))
    writer.add_add_bos_token(False)
    if template.exists():
        writer.add_chat_template(template.read_text())
