"""Plain labels of what a run is asked and a plugin is set to, and of what a making tells, for pages and reports alike.

A name that is not listed is shown as it is, without its underscores.
"""

from __future__ import annotations

_BREAKS = {n: 0x2400 + n for n in (*range(0x0A, 0x0E), *range(0x1C, 0x1F))} | dict.fromkeys(
    (0x85, 0x2028, 0x2029), 0x240A
)


def one_line(text: str) -> str:
    """The same on one line: a picture in the place of whatever ends a line."""
    return text.translate(_BREAKS)


_SETTINGS = {
    "Request.batch": "Batch",
    "Request.dtype": "Weights as",
    "Sampling.top_k": "Top k",
    "Dropping.n": "Blocks to leave out",
    "n": "Number of items (0 for all)",
    "allow_oversize": "Run anyway",
    "alpha": "Acceptance, share of the entropy",
    "api": "Form of the requests",
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
    "data": "Folder with the data",
    "d_ff": "MLP channels to keep",
    "decay": "Weight of a later guess",
    "delay_s": "Delay per step (s)",
    "download": "Fetch data from the network",
    "draft_length": "Tokens drafted at once",
    "dtype": "Number format",
    "early": "Accept early",
    "easy": "Easy questions",
    "epochs": "Times that every answer is seen",
    "epsilon": "Acceptance, least probability",
    "every": "Blocks between exits",
    "examples": "Questions to learn from",
    "exit_layer": "Blocks that draft",
    "fill": "First guesses",
    "first_exit": "Blocks before the first exit",
    "flash_attn": "Flash attention",
    "form": "Where the guesses come from",
    "fused": "Fused step",
    "group": "Weights per scale",
    "groups": "Key and value heads to drop",
    "head": "Quantize the output layer",
    "guessed_tokens": "Guesses learned from, per example",
    "heads": "Heads to train",
    "ignore_eos": "Ignore end of text",
    "include_path": "Folder of own tasks",
    "jacobi_steps": "Windows per decoding",
    "keep_first": "Keep only the first blocks",
    "keep_layers": "Blocks of the student",
    "kv_dtype": "KV cache as",
    "kv_heads": "Key and value heads to keep",
    "last_share": "Share of blocks run at the end",
    "learning_rate": "Learning rate, at its highest",
    "length": "Tokens per text",
    "limit": "Items at most",
    "loss": "What a guess learns",
    "max_new_tokens": "New tokens",
    "max_ngram": "Longest match (tokens)",
    "max_tokens": "Tokens per example at most",
    "min_ngram": "Shortest match (tokens)",
    "mlp": "Share of MLP channels to drop",
    "minutes": "Training time (min)",
    "n_ctx": "Context to reserve (tokens)",
    "n_gpu_layers": "Blocks on the GPU",
    "n_nodes": "Nodes of the tree",
    "ngram": "Length of a match (tokens)",
    "num_fewshot": "Examples in the prompt",
    "optimization": "Graph optimization",
    "over_tokens": "Tokens until the share is reached",
    "path": "File with the questions",
    "pattern": "Pattern of the zeros",
    "pool": "Size of the pool",
    "pool_from_prompt": "Begin with the prompt's words",
    "prefill_chunk": "Prompt tokens per chunk",
    "probe_minutes": "Minutes between two probes",
    "probe_questions": "Questions of a probe",
    "provider": "Execution provider",
    "queries": "Query heads to drop",
    "questions": "Questions that the model answers",
    "rank": "Rank of the heads",
    "read_s": "Longest wait for an answer (s)",
    "reference": "Reference model",
    "reference_backend": "Backend of the reference",
    "draft": "Draft model",
    "reply": "Reply at most (tokens)",
    "scope": "Where the share holds",
    "shots": "Examples in the prompt",
    "sparsity": "Share of weights set to zero",
    "spinning": "Threads spin while they wait",
    "stop_confidence": "Stop guessing below",
    "steps": "Training steps at most",
    "stride": "Tokens from window to window",
    "symmetric": "Symmetric around zero",
    "table": "Token embeddings as",
    "tasks": "Tasks, by name",
    "tau": "Temperature of the teacher",
    "text": "File with the text",
    "texts": "Texts that the teacher writes",
    "threshold": "Confidence to exit",
    "top_k": "Guesses per head",
    "trajectories": "Decodings per example",
    "tree": "Shape of the tree",
    "type": "Number format (GGUF recipe)",
    "use_extra_bufts": "Pack weights for this processor",
    "use_mmap": "Map the file into memory",
    "warmup": "Warm-up passes",
    "window": "Window (tokens)",
}
_CURVES = {"ar_loss": "Loss of the plain text", "training_s": "Training time (s)"}
_VALUES = {
    "acc": "Right (0 or 1)",
    "acc_norm": "Right, by length (0 or 1)",
    "agree": "Same most likely token",
    "bits": "Bits",
    "bleu": "BLEU",
    "bytes": "Bytes",
    "chrf": "chrF2",
    "complete": "All names right (0 or 1)",
    "contains": "Answer contained (0 or 1)",
    "dp2": "Squared change of probability",
    "em": "Exact match (0 or 1)",
    "f1": "F1 of the words",
    "kl": "KL divergence (nat)",
    "kl_max": "Largest KL divergence (nat)",
    "ln_ratio": "ln of the perplexities' ratio",
    "nll": "Surprise (nat)",
    "p_right": "Probability of the right choice",
    "recalled": "Recalled (0 or 1)",
    "right": "Names found",
}


def setting(owner: str, name: str) -> str:
    """A setting's label. owner: the name of its class, for a word that means something else there."""
    return _SETTINGS.get(f"{owner}.{name}") or _SETTINGS.get(name) or _plain(name)


def inside(label: str) -> str:
    """A label within a sentence: `window` of `Window (tokens)`, `KV cache as` of itself."""
    words = label.partition(" (")[0]
    return words if words[:2].isupper() else words[:1].lower() + words[1:]


def curve(name: str) -> str:
    """Of a value that a training or another making tells."""
    return _CURVES.get(name) or _plain(name)


def value(name: str) -> str:
    """Of what an evaluation notes about one item."""
    return _VALUES.get(name) or _plain(name)


def _plain(name: str) -> str:
    words = name.removesuffix("_s").replace("_", " ").capitalize()
    return f"{words} (s)" if name.endswith("_s") else words
