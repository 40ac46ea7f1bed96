"""Small GGUF files of every family that is converted, and texts that tokenizers disagree on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from core.models import gguf_to_hf
from core.tokenizers import from_gguf
from tests.support.progress import silent

TEXTS = (
    "What is the capital of France?",
    "12345 + 678 = 13023.5",
    "def f(x):\n    return x**2\n\n\n# done  ",
    "Ünïcödé — “quotes” … 日本語 한국어 🙂👩‍👩‍👧",
    "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
    "don't I'll WE'VE 's",
    "   leading and trailing   ",
    "tab\tnewline\r\nmix",
    "<|endoftext|><|im_end|>x",
    "https://example.com/a?b=c&d=1",
    "",
    "a",
    "Ⅷ ½ ² ٣٤٥",
    "\x00\x01 control",
    "e\u0301 decomposed",
)


def tiny_gguf(path: Path, arch: str, quantized: bool = False, **extra: Any) -> Path:
    """A random model of a few thousand weights with a byte-level vocabulary of 256 + 3 + 2 tokens."""
    import gguf

    d, heads, kv, ffn = 64, 4, 2, 96
    head_dim = 16 if arch == "qwen2" else 32  # llama.cpp's qwen2 has no head width of its own
    blocks = 7 if arch == "gemma3" else 2
    rng = np.random.default_rng(1)
    alphabet = from_gguf.byte_alphabet()
    names = [n for n in extra.get("names", ()) if n != "<|end|>"]  # more tokens
    tokens = [*alphabet, "<|end|>", "<|user|>", "<|bos|>", "th", "the", *names]
    writer = gguf.GGUFWriter(path, arch)
    writer.add_context_length(128)
    writer.add_embedding_length(d)
    writer.add_block_count(blocks)
    per_block = blocks if extra.get("per_block") else 0  # a list of equal values, as newer writers have it
    writer.add_feed_forward_length([ffn] * per_block or ffn)
    writer.add_head_count([heads] * per_block or heads)
    writer.add_head_count_kv([kv] * per_block or kv)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_rope_dimension_count(head_dim)
    writer.add_rope_freq_base(1e6 if arch == "gemma3" else 10000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    if arch.startswith("gemma"):
        writer.add_sliding_window(8)
    if arch == "gemma2":
        writer.add_attn_logit_softcapping(50.0)
        writer.add_final_logit_softcapping(30.0)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types([1] * 256 + [3, 3, 3] + [1, 1] + [extra.get("kind", 3)] * len(names))
    writer.add_token_merges(["t h", "th e"])
    if not extra.get("endless"):
        writer.add_eos_token_id(256)
    writer.add_bos_token_id(258)
    writer.add_add_bos_token(False)
    writer.add_chat_template(extra.get("template", "{% for m in messages %}<|user|>{{ m['content'] }}{% endfor %}"))
    for key, value in extra.get("floats", {}).items():
        writer.add_float32(f"{arch}.{key}", value)
    for key, value in extra.get("strings", {}).items():
        writer.add_string(f"{arch}.{key}", value)
    for key, value in extra.get("ints", {}).items():
        writer.add_uint32(f"{arch}.{key}", value)

    def add(name: str, *shape: int) -> None:
        # norms near one, so that a lost "+ 1" or a swapped norm shows
        values = 1 + rng.normal(0, 0.3, shape) if len(shape) == 1 else rng.normal(0, 0.15, shape)
        values = values.astype(np.float32)
        if quantized and len(shape) == 2:
            kind = gguf.GGMLQuantizationType.Q4_1 if "ffn" in name else gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(name, gguf.quantize(values, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, values)

    add("token_embd.weight", len(tokens), d)
    add("output_norm.weight", d)
    if extra.get("untied"):
        add("output.weight", len(tokens), d)
    if "rope_freqs" in extra:
        writer.add_tensor("rope_freqs.weight", np.asarray(extra["rope_freqs"], dtype=np.float32))
    for i in range(blocks):
        b = f"blk.{i}"
        add(f"{b}.attn_norm.weight", d)
        add(f"{b}.attn_q.weight", heads * head_dim, d)
        add(f"{b}.attn_k.weight", kv * head_dim, d)
        add(f"{b}.attn_v.weight", kv * head_dim, d)
        add(f"{b}.attn_output.weight", d, heads * head_dim)
        if arch == "qwen2":
            add(f"{b}.attn_q.bias", heads * head_dim)
            add(f"{b}.attn_k.bias", kv * head_dim)
            add(f"{b}.attn_v.bias", kv * head_dim)
        if arch in ("qwen3", "gemma3"):
            add(f"{b}.attn_q_norm.weight", head_dim)
            add(f"{b}.attn_k_norm.weight", head_dim)
        if arch.startswith("gemma"):
            add(f"{b}.post_attention_norm.weight", d)
            add(f"{b}.post_ffw_norm.weight", d)
        add(f"{b}.ffn_norm.weight", d)
        add(f"{b}.ffn_gate.weight", ffn, d)
        add(f"{b}.ffn_up.weight", ffn, d)
        add(f"{b}.ffn_down.weight", d, ffn)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def llama3_divisors(factor: float, theta: float = 10000.0, n: int = 16, original: int = 8192) -> np.ndarray:
    """As llama.cpp's converter writes them (Llama 3.1, high_freq_factor 4, low_freq_factor 1)."""
    wavelength = 2 * np.pi * theta ** (np.arange(n) / n)
    smooth = (original / wavelength - 1) / 3
    middle = 1 / ((1 - smooth) / factor + smooth)
    return np.where(wavelength < original / 4, 1.0, np.where(wavelength > original, factor, middle))


CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama, untied head": ("llama", {"untied": True}),
    "llama 3 frequencies": (
        "llama",
        {"rope_freqs": llama3_divisors(8.0, original=64), "ints": {"rope.scaling.original_context_length": 64}},
    ),
    "llama, linear scaling": (
        "llama",
        {"strings": {"rope.scaling.type": "linear"}, "floats": {"rope.scaling.factor": 4.0}},
    ),
    "qwen2, yarn": (
        "qwen2",
        {
            "strings": {"rope.scaling.type": "yarn"},
            "floats": {"rope.scaling.factor": 4.0},
            "ints": {"rope.scaling.original_context_length": 32},
        },
    ),
    "qwen2": ("qwen2", {}),
    "qwen3": ("qwen3", {}),
    "gemma2": ("gemma2", {}),
    "gemma3": ("gemma3", {}),
}


def converted(path: Path, folder: Path) -> Path:
    """The Hugging Face folder made from a GGUF; loads PyTorch."""
    folder.mkdir()
    gguf_to_hf.convert(path, folder, silent)
    return folder
