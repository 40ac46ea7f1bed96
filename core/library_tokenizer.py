"""A folder's tokenizer as transformers reads it, for PyTorch and for the processes that convert models.

One reader, so that a folder and what is made of it read a text alike. transformers is imported inside.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from core.errors import ExplorerError
from core.tokenizer_folder import (
    SENTENCEPIECE,
    TEKKEN,
    chat_templates,
    named_tokens,
    read_json,
    tokenizer_file,
)

_TEKKEN_TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
_PROBE = "A fox: 3.14, twice."


def library_tokenizer(folder: Path) -> Any:
    """transformers' tokenizer, which reads SentencePiece and tekken files, too. Raises ExplorerError.

    transformers builds some tokenizers anew, from the class that a folder names and the vocabulary of its
    tokenizer.json. Where that class is of another kind than the file, which many published folders have, the text
    comes back damaged; then the file is taken as it is.
    """
    import transformers

    options: dict[str, Any] = {"trust_remote_code": False, "local_files_only": True}
    file = tokenizer_file(folder)
    try:
        if file is not None and file.name == TEKKEN:
            return _tekken(file)
        found = transformers.AutoTokenizer.from_pretrained(str(folder), **options)
        if (folder / "tokenizer.json").is_file() and not _keeps(found):
            own = transformers.PreTrainedTokenizerFast.from_pretrained(str(folder), **options)
            return own if _keeps(own) else found
        return found
    except Exception as error:  # transformers and tokenizers raise their own
        cause = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        if file is not None and file.name in SENTENCEPIECE and "tiktoken" in cause:  # what transformers tries next
            cause = f"{file.name} is cut off or damaged"
        raise ExplorerError(
            f"The tokenizer in {folder.name} cannot be read: {cause.split('. ')[0].rstrip('.')}.",
            "Put the model's tokenizer.json beside its weights.",
        ) from error


def _tekken(file: Path) -> Any:
    """Of a tekken.json, with its <s> before a text: transformers leaves that away, and mistral-common puts it there."""
    from tokenizers import processors
    from transformers import PreTrainedTokenizerFast
    from transformers.integrations.mistral.tokenizer import MistralConverter

    found = MistralConverter(str(file)).converted()
    named = {name: text for name, text in _TEKKEN_TOKENS.items() if found.token_to_id(text) is not None}
    if bos := named.get("bos_token"):
        adds = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A $B", special_tokens=[(bos, found.token_to_id(bos))]
        )
        found.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), adds])
    templates = chat_templates(file.parent, read_json(file.with_name("tokenizer_config.json")))
    stored = templates["default"] if templates.keys() == {"default"} else templates or None
    return PreTrainedTokenizerFast(tokenizer_object=found, chat_template=stored, **named)


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
