"""Tiny models for the contract tests: one random llama, from which each backend makes its own file.

PyTorch writes it once per session, in a process of its own where it is not loaded; every test has a copy.

`tests/support/tiny/<backend>.py` has `make(folder) -> (path, format)`.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from tests.support import elsewhere
from tests.support.shared import once

MAX_CONTEXT = 96
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
MERGES = (("t", "h"), ("th", "e"), ("i", "n"), ("a", "n"), ("Ġ", "the"))
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def hf_folder(folder: Path) -> Path:
    """A llama of two blocks with random weights, fp32, in safetensors with its tokenizer, in `folder`.

    Widths are multiples of 32 so that every GGUF quantization fits; the head is not tied.
    """
    path = folder / "tiny-llama"
    if not path.exists():
        shutil.copytree(once("tiny-llama", lambda out: elsewhere.call("pytorch", write_llama, out)), path)
    return path


def write_llama(path: Path) -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = byte_level_tokenizer()
    torch.manual_seed(7)
    config = LlamaConfig(
        vocab_size=320,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=MAX_CONTEXT,
        tie_word_embeddings=False,
        # wide enough that the logits of neighbouring tokens are far apart
        initializer_range=0.3,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.eos_token_id,
    )
    LlamaForCausalLM(config).eval().save_pretrained(path)
    tokenizer.save_pretrained(path)


def heads_folder(folder: Path, n_heads: int = 3) -> Path:
    """The same llama with untrained Medusa heads: what they guess is noise, and no strategy may care."""
    path = folder / "tiny-llama-heads"
    if path.exists():
        return path
    shutil.copytree(hf_folder(folder), path)
    config = json.loads((path / "config.json").read_text())
    config["medusa_heads"] = {"accuracy": [[0.5, 0.2, 0.1, 0.05]] * n_heads}
    (path / "config.json").write_text(json.dumps(config))
    elsewhere.call("pytorch", write_heads, path / "medusa_heads.safetensors", n_heads, config["hidden_size"])
    return path


def write_heads(file: Path, n_heads: int, width: int) -> None:
    import torch
    from safetensors.torch import save_file

    weight = torch.randn(n_heads, width, width, generator=torch.Generator().manual_seed(3)) * 0.1
    save_file({"medusa_heads.weight": weight}, file)


def byte_level_tokenizer():  # type: ignore[no-untyped-def]
    """A byte-level BPE, GPT-2's kind: any text survives encode and decode."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    pieces = sorted(pre_tokenizers.ByteLevel.alphabet()) + ["".join(pair) for pair in MERGES]
    inner = Tokenizer(models.BPE(vocab={piece: i for i, piece in enumerate(pieces)}, merges=list(MERGES)))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token=SPECIAL[0], eos_token=SPECIAL[2], additional_special_tokens=list(SPECIAL)
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer
