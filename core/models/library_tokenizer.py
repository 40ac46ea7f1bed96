"""A folder's tokenizer as transformers reads it, for the processes that convert models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from core.errors import ExplorerError


def library_tokenizer(folder: Path) -> Any:
    """The folder's tokenizer as transformers reads it, which also takes SentencePiece files: a `tokenizers.Tokenizer`.

    Raises ExplorerError.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(
            str(folder), trust_remote_code=False, local_files_only=True
        ).backend_tokenizer
    except Exception as error:  # transformers and tokenizers raise their own
        cause = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ExplorerError(
            f"The tokenizer in {folder.name} cannot be read: {cause.split('. ')[0].rstrip('.')}.",
            "Put the model's tokenizer.json beside its weights.",
        ) from error
