"""A llama-shaped preset as a GGUF file with quantized random weights, for llama.cpp has one model here otherwise.

The rows of a matrix repeat, which no kernel notices: time and memory are those of the architecture.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

import numpy as np

from core.models import catalogue
from core.tokenizers import from_gguf
from tests.support.tiny.llama_cpp import add_tokenizer

DISTINCT_ROWS = 64


def made(preset: str, quant: str, folder: Path) -> Path:
    """The file, written on first use. quant: Q4_0, Q8_0 or another type that the gguf package can write."""
    path = folder / f"{preset}-{quant}.gguf"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".part")
        _write(json.loads(Path(catalogue.find(preset).files["config"]).read_text()), quant, partial)
        os.replace(partial, path)
    return path


def _write(config: dict[str, object], quant: str, path: Path) -> None:
    import gguf

    assert config["model_type"] == "llama"
    n = {key: int(value) for key, value in config.items() if isinstance(value, int)}
    d, d_ff, vocab, heads = n["hidden_size"], n["intermediate_size"], n["vocab_size"], n["num_attention_heads"]
    d_head = n.get("head_dim", d // heads)
    d_kv = n.get("num_key_value_heads", heads) * d_head
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(n["max_position_embeddings"])
    writer.add_embedding_length(d)
    writer.add_block_count(n["num_hidden_layers"])
    writer.add_feed_forward_length(d_ff)
    writer.add_head_count(heads)
    writer.add_head_count_kv(d_kv // d_head)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(d_head)
    writer.add_vocab_size(vocab)
    with tempfile.TemporaryDirectory() as tokenizer:
        from_gguf.write_bytes(vocab, Path(tokenizer))
        settings = Path(tokenizer) / "tokenizer_config.json"
        ends = {"bos_token": "<s>", "eos_token": "</s>"}
        settings.write_text(json.dumps({**json.loads(settings.read_text()), **ends}))
        tokens = Path(tokenizer) / "tokenizer.json"
        content = json.loads(tokens.read_text())
        content["added_tokens"] = [{"id": vocab - 2, "content": "<s>"}, {"id": vocab - 1, "content": "</s>"}]
        content["model"]["merges"] = [["a", "b"]]  # llama.cpp wants one
        tokens.write_text(json.dumps(content))
        add_tokenizer(writer, Path(tokenizer), vocab)
    kind = gguf.GGMLQuantizationType[quant]
    rng = np.random.default_rng(0)
    known: dict[tuple[int, int], object] = {}

    def matrix(name: str, d_out: int, d_in: int) -> None:
        if (d_out, d_in) not in known:
            values = rng.normal(0, 0.02, (DISTINCT_ROWS, d_in)).astype(np.float32)
            rows = gguf.quants.quantize(values, kind)
            known[d_out, d_in] = np.resize(rows, (d_out, rows.shape[1]))
        writer.add_tensor(f"{name}.weight", known[d_out, d_in], raw_dtype=kind)

    def norm(name: str) -> None:
        writer.add_tensor(f"{name}.weight", np.ones(d, dtype=np.float32))

    matrix("token_embd", vocab, d)
    norm("output_norm")
    if not config.get("tie_word_embeddings"):
        matrix("output", vocab, d)
    for i in range(n["num_hidden_layers"]):
        norm(f"blk.{i}.attn_norm")
        norm(f"blk.{i}.ffn_norm")
        for name, d_out, d_in in (
            ("attn_q", heads * d_head, d),
            ("attn_k", d_kv, d),
            ("attn_v", d_kv, d),
            ("attn_output", d, heads * d_head),
            ("ffn_gate", d_ff, d),
            ("ffn_up", d_ff, d),
            ("ffn_down", d, d_ff),
        ):
            matrix(f"blk.{i}.{name}", d_out, d_in)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
