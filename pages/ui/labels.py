"""Plain labels of plugins' settings and of what a making tells; the field's own words are in the help.

A name that is not listed is shown as it is, without its underscores.
"""

from __future__ import annotations

_SETTINGS = {
    "Dropping.n": "Blocks to leave out",
    "n": "Items (0: all)",
    "ar_weight": "Weight of the plain loss",
    "answers": "Answers to learn",
    "answer_tokens": "Answer at most (tokens)",
    "accuracy_level": "Precision of the products",
    "attention": "Attention kernel",
    "batch": "Sequences per step",
    "block_size": "Weights per scale",
    "bos": "Begin with the start token",
    "bottom": "Blocks always run",
    "candidates": "Candidates checked at once",
    "chat": "Chat template",
    "compile": "Compile the model",
    "context": "Context (tokens)",
    "crash": "Crash on purpose",
    "delay_s": "Delay per step (s)",
    "dtype": "Number format",
    "early": "Accept early",
    "easy": "Easy questions",
    "every": "Blocks between exits",
    "fill": "First guesses",
    "flash_attn": "Flash attention",
    "fused": "Fused step",
    "group": "Weights per scale",
    "groups": "Key and value heads to drop",
    "head": "Quantize the output layer",
    "heads": "Heads to train",
    "include_path": "Folder of own tasks",
    "keep_first": "Keep only the first blocks",
    "keep_layers": "Blocks of the student",
    "kv_dtype": "KV cache as",
    "length": "Tokens per text",
    "limit": "Items at most",
    "max_tokens": "Tokens per example at most",
    "mlp": "Share of MLP channels to drop",
    "minutes": "Training time (min)",
    "n_ctx": "Context to reserve (tokens)",
    "n_gpu_layers": "Blocks on the GPU",
    "n_nodes": "Nodes of the tree",
    "ngram": "Length of a match (tokens)",
    "num_fewshot": "Examples in the prompt",
    "optimization": "Graph optimization",
    "path": "File of items",
    "pool": "Size of the pool",
    "pool_from_prompt": "Begin with the prompt's words",
    "prefill_chunk": "Prompt tokens per chunk",
    "probe_minutes": "Minutes between two probes",
    "probe_questions": "Questions of a probe",
    "queries": "Query heads to drop",
    "rank": "Rank of the heads",
    "reference": "Reference model",
    "draft": "Draft model",
    "reply": "Reply at most (tokens)",
    "shots": "Examples in the prompt",
    "sparsity": "Share of weights set to zero",
    "spinning": "Threads spin while they wait",
    "stop_confidence": "Stop guessing below",
    "steps": "Training steps at most",
    "symmetric": "Symmetric around zero",
    "table": "Token table as",
    "tau": "Temperature of the teacher",
    "threshold": "Confidence to exit",
    "top_k": "Guesses per head",
    "type": "Recipe",
    "use_extra_bufts": "Pack weights for this processor",
    "use_mmap": "Map the file into memory",
    "window": "Window (tokens)",
}
_CURVES = {"ar_loss": "Loss of the plain text", "training_s": "Training time (s)"}


def setting(owner: str, name: str) -> str:
    """A setting's label. owner: the name of its class, for a word that means something else there."""
    return _SETTINGS.get(f"{owner}.{name}") or _SETTINGS.get(name) or _plain(name)


def curve(name: str) -> str:
    """Of a value that a training or another making tells."""
    return _CURVES.get(name) or _plain(name)


def _plain(name: str) -> str:
    words = name.removesuffix("_s").replace("_", " ").capitalize()
    return f"{words} (s)" if name.endswith("_s") else words
