"""A folder's tokenizer as transformers reads it, for PyTorch and for the processes that convert models.

One reader, so that a folder and what is made of it read a text alike. transformers is imported inside.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from core.errors import ExplorerError
from core.tokenizer_folder import named_tokens, read_json

_PROBE = "A fox: 3.14, twice."


def library_tokenizer(folder: Path) -> Any:
    """transformers' tokenizer, which reads SentencePiece files, too. Raises ExplorerError.

    transformers builds some tokenizers anew, from the class that a folder names and the vocabulary of its
    tokenizer.json. Where that class is of another kind than the file, which many published folders have, the text
    comes back damaged; then the file is taken as it is.
    """
    import transformers

    options: dict[str, Any] = {"trust_remote_code": False, "local_files_only": True}
    try:
        found = transformers.AutoTokenizer.from_pretrained(str(folder), **options)
        if (folder / "tokenizer.json").is_file() and not _keeps(found):
            own = transformers.PreTrainedTokenizerFast.from_pretrained(str(folder), **options)
            return own if _keeps(own) else found
        return found
    except Exception as error:  # transformers and tokenizers raise their own
        cause = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ExplorerError(
            f"The tokenizer in {folder.name} cannot be read: {cause.split('. ')[0].rstrip('.')}.",
            "Put the model's tokenizer.json beside its weights.",
        ) from error


def _keeps(tokenizer: Any) -> bool:
    """Whether a plain text comes back from its ids."""
    ids = tokenizer.encode(_PROBE, add_special_tokens=False)
    text = str(tokenizer.decode(ids, clean_up_tokenization_spaces=False))
    return text.strip().casefold() == _PROBE.casefold()


def save(source: Path, target: Path) -> None:
    """Put the tokenizer of `source` into `target` as tokenizer.json, and its special tokens into tokenizer_config.json.

    Raises ExplorerError.
    """
    tokenizer = library_tokenizer(source)
    tokenizer.backend_tokenizer.save(str(target / "tokenizer.json"))
    settings = read_json(target / "tokenizer_config.json")
    settings = {key: value for key, value in settings.items() if key not in named_tokens(source, settings)}
    (target / "tokenizer_config.json").write_text(
        json.dumps(settings | special_tokens(tokenizer), indent=2, ensure_ascii=False), encoding="utf-8"
    )
    (target / "special_tokens_map.json").unlink(missing_ok=True)  # older folders say there what is now said above


def special_tokens(tokenizer: Any) -> dict[str, str]:
    """Name ("bos_token") -> text of the special tokens that chat templates are given."""
    tokens: Mapping[str, Any] = getattr(tokenizer, "special_tokens_map", None) or {}
    return {name: str(token) for name, token in tokens.items() if isinstance(token, str)}
