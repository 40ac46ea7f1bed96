"""How tokenizers cut a text into words before they merge its bytes, by llama.cpp's names of the rules.

Of equal rules the commonest name is the rule; `tokenizer.ggml.pre` of a GGUF holds any of them.
"""

from __future__ import annotations

from typing import Any

HARD = (  # a text that no two rules cut alike
    "I'll don't WE'VE it's  a  lot\tof\n\n words\r\n 1234567 3.14159 a1b22c333 x=y+2; (foo)[bar]{baz} != <tag/> "
    "CamelCaseWord ALLCAPS mixedUP Ünïcödé naïve — “quotes” … 日本語テキスト 한국어 кириллица 🙂👩‍👩‍👧 e\u0301 "
    "٣٤٥ Ⅷ½² https://example.com/a?b=c&d=1 $9.99 50% #tag @user __init__ \\n 'tis   end   \n   "
)
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_TEKKEN = (  # as llama.cpp has it, which leaves combining marks out of words
    r"[^\r\n\p{L}\p{N}]?((?=\p{L})[^a-z])*((?=\p{L})[^A-Z])+|[^\r\n\p{L}\p{N}]?((?=\p{L})[^a-z])+((?=\p{L})[^A-Z])*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2 = _LLAMA3.replace("{1,3}", "")
_ENDINGS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
_GPT4O = (
    _TEKKEN.replace("[^A-Z])+|", f"[^A-Z])+{_ENDINGS}|")
    .replace("[^A-Z])*|", f"[^A-Z])*{_ENDINGS}|")
    .replace(r"\p{N}|", r"\p{N}{1,3}|")
)
_DEEPSEEK3 = (
    r"\p{N}{1,3}",
    "[一-龥\u3040-ゟ゠-ヿ]+",
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"""
    r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
)
# as llama.cpp has it, which keeps capitals and small letters together and leaves combining marks out of words
_KIMI = (
    r"\p{Han}+|[^\r\n\p{L}\p{N}]?[\p{L}&&[^\p{Han}]]+"
    + _ENDINGS
    + r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_CASED = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]"
_KIMI_ITSELF = _KIMI.replace(
    r"[^\r\n\p{L}\p{N}]?[\p{L}&&[^\p{Han}]]+" + _ENDINGS,
    "|".join(rf"[^\r\n\p{{L}}\p{{N}}]?{_CASED[0]}{a}{_CASED[1]}{b}{_ENDINGS}" for a, b in ("*+", "+*")),
)

# rule -> the regular expressions that cut a text, one after the other
_PRE: dict[str, tuple[str, ...]] = {
    "gpt-2": (_GPT2,),
    "smollm": (r"\p{N}", _GPT2),
    "starcoder": (r"\p{N}", _GPT2),
    "refact": (r"\p{N}", _GPT2),
    "olmo": (_GPT2,),
    "phi-2": (_GPT2,),
    "default": (r"[\p{P}\$\+<=>\^\~\|]+", _GPT2, r"\p{N}+", r"[0-9][0-9][0-9]"),
    "tekken": (_TEKKEN,),
    "llama-bpe": (_LLAMA3,),
    "dbrx": (_LLAMA3,),
    "glm4": (_LLAMA3,),
    "smaug-bpe": (_LLAMA3,),
    "qwen2": (_QWEN2,),
    "deepseek-r1-qwen": (_QWEN2,),
    "qwen35": (_QWEN2.replace(r"]?\p{L}+", r"]?[\p{L}\p{M}]+").replace(r"\s\p{L}\p{N}", r"\s\p{L}\p{M}\p{N}"),),
    "gpt-4o": (_GPT4O,),
    "deepseek-v3": _DEEPSEEK3,
    "deepseek-coder": (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", r"[[一-龥ࠀ-一가-\ud7ff]&&[^\s]]+", r"\p{N}"),
    "falcon": (r"[\p{P}\$\+<=>\^\~\|`]+", _GPT2, r"[0-9][0-9][0-9]"),
    "kimi-k2": (_KIMI,),
    "seed-coder": (_QWEN2.replace(r"[^\s\p{L}\p{N}]+[\r\n]*", r"[^\s\p{L}\p{N}\r\n]+"),),
}
# Other names of these rules (llama-vocab.cpp)
_SAME: dict[str, tuple[str, ...]] = {
    "gpt-2": ("mpt", "jais", "trillion", "granite-docling", "gigachat", "a.x-4.0", "mellum", "exaone4"),
    "smollm": ("command-r", "codeshell", "exaone", "minerva-7b", "mellum2"),
    "llama-bpe": ("llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2", "jina-v5-nano"),
    "dbrx": ("chatglm-bpe",),
    "glm4": ("glm5", "minicpm5"),
    "qwen2": (
        "stablelm2",
        "megrez",
        "hunyuan",
        "solar-open",
        "kormo",
        "grok-2",
        "bailingmoe",
        "bailingmoe2",
        "f2llmv2",
        "llada-moe",
        "ufakzeka",
    ),
    "gpt-4o": ("llama4", "kanana2", "minimax-m2"),
    "deepseek-v3": ("hunyuan-dense", "joyai-llm"),
}
_OF_ITS_MAKER = {"kimi-k2": (_KIMI_ITSELF,)}  # where llama.cpp cuts otherwise than the model's own tokenizer
_RULE = {name: name for name in _PRE} | {name: rule for rule, names in _SAME.items() for name in names}
_WHOLE_WORDS = {"llama-bpe", "glm4", "tekken"}  # a word that is a token stays whole, whatever the merges say


def known(name: str) -> bool:
    """Whether it is one of llama.cpp's names that can be converted."""
    return name in _RULE


def rule_of(name: str) -> str | None:
    """The commonest name of the same rule; None for one that is not known."""
    return _RULE.get(name)


def rules() -> tuple[str, ...]:
    """llama.cpp's names of the rules that cut a text into words (tokenizer.ggml.pre), the commonest of equals first."""
    return tuple(_PRE)


def rules_of_makers() -> tuple[str, ...]:
    """Those of them by which llama.cpp cuts some texts otherwise than the model's own tokenizer."""
    return tuple(_OF_ITS_MAKER)


def splitter(rule: str, of_its_maker: bool = False) -> Any:
    """The rule as a pre-tokenizer of the `tokenizers` library, bytes as their printable characters.

    of_its_maker: as the model's own tokenizer has it, where llama.cpp's differs.
    """
    from tokenizers import Regex, pre_tokenizers

    name = _RULE[rule]
    expressions = _OF_ITS_MAKER.get(name, _PRE[name]) if of_its_maker else _PRE[name]
    cuts = [pre_tokenizers.Split(Regex(r), behavior="isolated") for r in expressions]
    return pre_tokenizers.Sequence([*cuts, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def keeps_whole_words(rule: str) -> bool:
    """Whether a word that is a token stays whole, whatever the merges say."""
    return _RULE[rule] in _WHOLE_WORDS
