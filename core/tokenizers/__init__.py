"""A model's tokenizer, the same ids in every backend.

`folder` says which file of a folder is read and what stands beside it; `library` reads it as transformers does, and
vocabularies of `tiktoken_file`, too; `word_rules` are the rules that cut a text into words. `from_gguf` makes a
folder's files of a GGUF's header, `to_gguf` a GGUF's header of a folder's files. `chat` wraps a dialogue with the
model's own chat template.
"""
